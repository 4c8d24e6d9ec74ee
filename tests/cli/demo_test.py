"""scripts/demo counts what the stores hold, and leaves neither a process nor a file, however it ends."""
import os
import pathlib
import re
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from demo_case import DemoCase, processes  # noqa: E402
from harness import BIN, ROOT, run, wait_for  # noqa: E402

DEMO = ROOT / "scripts" / "demo"


class Demo(DemoCase):
    script, arguments = "demo", ("--units", "50", "--every", "200ms")

    def assert_counts(self, process):
        """The figures of the end, by what stands before the bracket of each, and all of the output."""
        out, err = process.communicate(timeout=120)
        self.assertEqual((process.returncode, err), (0, ""), out)
        figures = self.figures(out)
        self.assertEqual((figures["lost"], figures["doubled"]), (0, 0))
        self.assertGreater(figures["events fetched"], 100)
        self.assertEqual(figures["archived"], figures["events fetched"])
        self.assertEqual(figures["stored"] + figures["dead-lettered"], figures["events fetched"])
        self.assertEqual(figures["units with a status"], 50)
        self.assertEqual(len(re.findall(r"^  bsu-\d{5}  20\S+Z  \w+ +-?\d+\.\d\d kW   health \d+\.\d %$", out, re.M)), 5)
        self.assertNotIn("\x1b", out)
        self.assert_nothing_is_left()
        return out

    def test_nothing_is_lost_and_nothing_doubled(self):
        out = self.assert_counts(self.start("--seconds", "4", env={"LC_ALL": "C"}))
        self.assertIn("kill -9: sql-write of data", out)
        self.assertTrue(out.isascii(), "LC_ALL=C")

    def test_nothing_is_lost_and_nothing_doubled_on_servers_of_which_one_is_killed(self):
        """What the user has for servers of his own has no part in it."""
        out = self.assert_counts(self.start("--servers", "--seconds", "6", env={
            "REDISCLI_AUTH": "x", "INFLUX_TOKEN": "x", "AWS_PROFILE": "x", "http_proxy": "http://127.0.0.1:1"}))
        self.assertIn("kill -9: influxd, influx-write of data", out)
        self.assertRegex(out, r"\n  influxd was down for \d s\n")
        self.assertRegex(out, r"redis-write redis://\S+ --options cache.opts'\n(?s:.*)influx-write http://\S+\?db=bsu ")

    def test_a_signal_ends_it_and_nothing_is_left(self):
        for number, moment, *more in [
                *((number, moment) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) for moment in ("bsu-sim", "sql-write")),
                (signal.SIGTERM, "influxd", "--servers"), (signal.SIGHUP, "memcached", "--servers"),
                (signal.SIGINT, "influx-write", "--servers")]:
            with self.subTest(number=number, moment=moment):
                process = self.start("--seconds", "60", *more)
                self.when(moment, process)
                process.send_signal(number)
                process.send_signal(number)  # once more does no harm
                self.assert_ended_by(process, number)

    def test_a_reader_that_goes_away_ends_it_and_nothing_is_left(self):
        for more in [], ["--servers"]:
            with self.subTest(more):
                process = self.start("--seconds", "60", *more)
                process.stdout.readline()
                process.stdout.close()
                stderr = process.stderr.read()
                process.stderr.close()
                self.assertEqual((process.wait(60), stderr), (1, "demo: [Errno 32] Broken pipe\n"))
                self.assert_nothing_is_left()

    def test_servers_that_are_kept_can_be_looked_into_until_an_interrupt(self):
        process = self.start("--servers", "--seconds", "4", "--keep")
        lines = iter(process.stdout.readline, "")
        folder = pathlib.Path(next(line for line in lines if line.startswith("kept: ")).split()[1])
        self.assertTrue(next(line for line in lines if line.strip()).startswith("The servers run until Ctrl-C:"))
        environment = dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}", no_proxy="127.0.0.1", AWS_CONFIG_FILE="/dev/null")
        for what in '"event"', "updated_at", "date=":
            command = next(lines)
            done = run(["bash", "-c", command], env=environment)
            self.assertEqual((done.exit, what in done.stdout), (0, True), (command, done))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (0, ""))
        self.assertTrue((folder / "fleet").is_dir())
        self.assertEqual(processes(self.folder), [])

    def test_a_stage_that_ends_too_early_is_told_and_nothing_is_left(self):
        process = self.start("--seconds", "60")
        pid = wait_for(lambda: self.stage("bsu-fetch") or process.poll(), what="bsu-fetch")
        wait_for(lambda: list(self.folder.glob("*/fleet/*.ndjson")), what="the first events")
        os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("demo: fetch ended with -9", err)
        self.assert_nothing_is_left()

    def test_a_demo_that_is_killed_leaves_no_process(self):
        for sink, *more in ["sql-write"], ["influx-write", "--servers"]:
            with self.subTest(sink):
                process = self.start("--seconds", "60", *more)
                wait_for(lambda: self.stage(sink), what=sink)
                process.kill()
                process.communicate(timeout=60)
                wait_for(lambda: not processes(self.folder), timeout=60, what="its processes to end")

    def test_some_at_once_do_not_meet(self):
        each = [self.start("--seconds", "3", *more) for more in ([], ["--servers"], ["--servers"])]
        for process in each:
            out, err = process.communicate(timeout=120)
            self.assertEqual((process.returncode, err), (0, ""), out)
        self.assert_nothing_is_left()

    def test_what_cannot_start_is_told_and_nothing_is_left(self):
        for arguments in ["--units", "0"], ["--every", "never"]:
            with self.subTest(arguments):
                process = self.start("--seconds", "60", *arguments)
                _, err = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 1)
                self.assertRegex(err, r"\Ademo: \w+ ended with \d+:\n")
                self.assert_nothing_is_left()

    def test_a_folder_that_is_no_good_for_servers_is_told_and_nothing_is_left(self):
        folder = self.folder / ("long" * 20)
        folder.mkdir()
        done = run([DEMO, BIN, "--servers"], env=dict(os.environ, TMPDIR=str(folder)))
        self.assertEqual((done.exit, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"\Ademo: \S+: too long a name .*TMPDIR=FOLDER make demo SERVERS=1\n\Z")
        self.assertEqual(list(folder.iterdir()), [])

    def test_make_asks_for_servers_only_where_they_are_wanted(self):
        for setting, wanted in ("", False), ("SERVERS=0", False), ("SERVERS=1", True):
            lines = run(["make", "-n", "demo", *setting.split()], cwd=ROOT).stdout
            self.assertEqual(bool(re.search("^scripts/setup build demo servers$", lines, re.M)), wanted, lines)
            self.assertEqual(bool(re.search("^scripts/demo .* --servers$", lines, re.M)), wanted, lines)


if __name__ == "__main__":
    unittest.main()

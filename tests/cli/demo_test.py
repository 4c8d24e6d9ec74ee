"""scripts/demo counts what the stores hold, and leaves neither a process nor a file, however it ends."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, ROOT, wait_for  # noqa: E402

DEMO = ROOT / "scripts" / "demo"


def processes(folder):
    """Those that have `folder` in their environment, as TMPDIR or otherwise."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if str(folder).encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes():
                found.append(int(pid))
        except OSError:
            continue
    return found


class Demo(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start(self, *arguments, **options):
        environment = dict(os.environ, TMPDIR=str(self.folder), **options.pop("env", {}))
        return subprocess.Popen([DEMO, BIN, "--units", "50", "--every", "200ms", *arguments], env=environment,
                                stdin=subprocess.DEVNULL, stdout=options.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
                                text=True, start_new_session=True, **options)

    def assert_nothing_is_left(self):
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(processes(self.folder), [])

    def stage(self, name):
        """The pid of a stage that runs."""
        for pid in processes(self.folder):
            try:
                if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return pid
            except OSError:
                continue
        return None

    def test_nothing_is_lost_and_nothing_doubled(self):
        process = self.start("--seconds", "4", env={"LC_ALL": "C"})
        out, err = process.communicate(timeout=120)
        self.assertEqual((process.returncode, err), (0, ""), out)
        figures = {label: int(value.replace(",", "")) for label, value in re.findall(r"^  (\w.*?)  +([\d,]+)$", out, re.M)}
        self.assertEqual((figures["lost"], figures["doubled"]), (0, 0))
        self.assertGreater(figures["events fetched (the exchange's journal)"], 100)
        self.assertEqual(figures["archived (the archive's objects)"], figures["events fetched (the exchange's journal)"])
        self.assertIn("kill -9: sql-write of data", out)
        self.assertTrue(out.isascii(), "LC_ALL=C")
        self.assertNotIn("\x1b", out)
        self.assert_nothing_is_left()

    def test_a_signal_ends_it_and_nothing_is_left(self):
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
            for moment in "bsu-sim", "sql-write":
                with self.subTest(number=number, moment=moment):
                    process = self.start("--seconds", "60")
                    wait_for(lambda: self.stage(moment) or process.poll() is not None, what=moment)
                    process.send_signal(number)
                    process.send_signal(number)  # once more does no harm
                    out, err = process.communicate(timeout=60)
                    self.assertEqual((process.returncode, err), (128 + number, ""), out)
                    self.assert_nothing_is_left()

    def test_a_reader_that_goes_away_ends_it_and_nothing_is_left(self):
        process = self.start("--seconds", "60")
        process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
        process.stderr.close()
        self.assertEqual((process.wait(60), stderr), (1, "demo: [Errno 32] Broken pipe\n"))
        self.assert_nothing_is_left()

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
        process = self.start("--seconds", "60")
        wait_for(lambda: self.stage("sql-write"), what="sql-write")
        process.kill()
        process.communicate(timeout=60)
        wait_for(lambda: not processes(self.folder), timeout=60, what="its processes to end")

    def test_two_at_once_do_not_meet(self):
        both = [self.start("--seconds", "3") for _ in range(2)]
        for process in both:
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


if __name__ == "__main__":
    unittest.main()

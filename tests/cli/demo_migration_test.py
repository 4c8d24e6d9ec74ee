"""scripts/demo-migration ends with both sides equal, and leaves neither a process nor a file, however it ends."""
import os
import pathlib
import re
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from demo_case import DemoCase, processes  # noqa: E402
from harness import BIN, ROOT, run, wait_for  # noqa: E402

DEMO = ROOT / "scripts" / "demo-migration"


class Migration(DemoCase):
    script, arguments = "demo-migration", ("--documents", "600", "--rate", "100", "--changes", "100")

    def test_both_sides_are_equal_after_kills_and_refusals(self):
        """What the user has for a database of his own has no part in it."""
        process = self.start(env={"LC_ALL": "C", "PGHOST": "x", "PGSERVICE": "x", "FIREBASE_DATABASE_EMULATOR_HOST": "x:1", "http_proxy": "http://127.0.0.1:1"})
        out, err = process.communicate(timeout=180)
        self.assertEqual((process.returncode, err), (0, ""), out)
        self.assertTrue(out.isascii(), "LC_ALL=C")
        self.assertNotIn("\x1b", out)
        figures = self.figures(out)
        self.assertEqual((figures["missing"], figures["extra"], figures["different"]), (0, 0, 0))
        self.assertGreater(figures["orders written, changed and deleted meanwhile"], 100)
        self.assertEqual(figures["orders in Firebase"], figures["rows of orders in Postgres"])
        self.assertEqual(figures["their lines in Firebase"], figures["rows of order_lines in Postgres"])
        self.assertGreater(figures["their lines in Firebase"], 600)
        for told in (r"the service is closed for 4 s: 503", r"kill -9: (crawl, )?listen, consume --as etl, the service, Postgres",
                     r"\d+  http-write: \S+ \S+ nothing is delivered to City", r"\d+  http-write: \S+ \S+ no such article: SKU-"):
            self.assertRegex(out, rf"\n +{told}")
        self.assertRegex(out, r"\n  PUT http://127\.0\.0\.1:\d+/orders/\S+ \{\"number\":0,")
        self.assert_nothing_is_left()

    def test_a_signal_ends_it_and_nothing_is_left(self):
        for number, moment in ((signal.SIGINT, "postgres"), (signal.SIGTERM, "rtdb-emulator"), (signal.SIGHUP, "listen"), (signal.SIGINT, "http-write")):
            with self.subTest(number=number, moment=moment):
                process = self.start()
                self.when(moment, process)
                process.send_signal(number)
                process.send_signal(number)  # once more does no harm
                self.assert_ended_by(process, number)

    def test_a_demo_that_is_killed_leaves_no_process(self):
        process = self.start()
        self.when("http-write", process)
        process.kill()
        process.communicate(timeout=60)
        wait_for(lambda: not processes(self.folder), timeout=60, what="its processes to end")

    def test_a_reader_that_goes_away_ends_it_and_nothing_is_left(self):
        process = self.start()
        process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
        process.stderr.close()
        self.assertEqual((process.wait(60), stderr), (1, "demo: [Errno 32] Broken pipe\n"))
        self.assert_nothing_is_left()

    def test_a_stage_that_ends_too_early_is_told_and_nothing_is_left(self):
        process = self.start()
        os.kill(self.when("listen", process), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("demo: listen ended with -9", err)
        self.assert_nothing_is_left()

    def test_servers_that_are_kept_can_be_looked_into_until_an_interrupt(self):
        process = self.start("--keep")
        lines = iter(process.stdout.readline, "")
        self.assertTrue(next(line for line in lines if line.startswith("kept: ")))
        self.assertTrue(next(line for line in lines if line.strip()).startswith("The servers run until Ctrl-C:"))
        environment = dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}", no_proxy="127.0.0.1")
        for what in '"lines"', '"customer"', "SKU-":
            command = next(lines)
            done = run(["bash", "-c", command], env=environment)
            self.assertEqual((done.exit, what in done.stdout), (0, True), (command, done))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (0, ""))
        self.assertEqual(processes(self.folder), [])

    def test_a_folder_that_is_no_good_is_told_and_nothing_is_left(self):
        folder = self.folder / ("long" * 20)
        folder.mkdir()
        done = run([DEMO, BIN], env=dict(os.environ, TMPDIR=str(folder)))
        self.assertEqual(done.exit, 1)
        self.assertRegex(done.stderr, r"\Ademo: \S+: too long a name .*TMPDIR=FOLDER make demo-migration\n\Z")
        self.assertEqual(list(folder.iterdir()), [])
        folder.rmdir()
        if os.geteuid() == 0:
            self.folder.chmod(0o700)
            done = run([DEMO, BIN], env=dict(os.environ, TMPDIR=str(self.folder)))
            self.assertEqual(done.exit, 1)
            self.assertRegex(done.stderr, r"\Ademo: \S+: the user postgres, .*TMPDIR=FOLDER make demo-migration\n\Z")
            self.assert_nothing_is_left()

    def test_make_builds_what_it_needs(self):
        lines = run(["make", "-n", "demo-migration"], cwd=ROOT).stdout
        self.assertTrue(re.search("^scripts/setup build migration$", lines, re.M), lines)
        self.assertTrue(re.search("--target tools rtdb-emulator orders-api$", lines, re.M), lines)


if __name__ == "__main__":
    unittest.main()

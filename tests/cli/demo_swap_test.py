"""scripts/demo-swap ends with the new database holding all that was published, and leaves neither a process nor a file."""
import os
import pathlib
import re
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import influx_server  # noqa: E402
import pg_server  # noqa: E402
from demo_case import DemoCase, processes  # noqa: E402
from harness import ROOT, run, wait_for  # noqa: E402

SMALL = ("--units", "120", "--every", "1s", "--past", "10m", "--watch", "1", "--room", "1", "--outage", "1", "--stale", "60")
COUNTED = ("gaps afterwards that {old} has not", "dead letters", "live queries that failed, or saw nothing new", "downtime", "lost", "doubled")


class Swap(DemoCase):
    script = "demo-swap"

    def swap(self, engines, old, new):
        """What the user has for databases of his own has no part in it."""
        process = self.start("--engines", engines, *SMALL, env={"LC_ALL": "C", "PGHOST": "x", "PGSERVICE": "x", "INFLUX_TOKEN": "x", "http_proxy": "http://127.0.0.1:1"})
        out, err = process.communicate(timeout=300)
        self.assertEqual((process.returncode, err), (0, ""), out)
        self.assertTrue(out.isascii(), "LC_ALL=C")
        self.assertNotIn("\x1b", out)
        figures = self.figures(out)
        self.assertEqual([figures[label.format(old=old)] for label in COUNTED], [0] * len(COUNTED))
        self.assertEqual(figures["readings older than the archive"], 1200)
        self.assertEqual(figures[f"readings in {new}"], figures["readings older than the archive"] + figures["readings of the archive"])
        self.assertGreater(figures["readings missing in them"], 0)
        self.assertGreater(figures["live queries"], 100)
        self.assertRegex(out, r"\n  reconcile: equal: \d+ keys on the left, ")
        self.assertEqual(len(re.findall(r"^  p95 of the live queries, .* +[\d.]+ ms$", out, re.M)), 4)
        self.assertRegex(out, r"\n  swap +\d+ +\d+ +\S+ +0 +[1-9]\d*  running, optional\n")
        self.assert_nothing_is_left()
        return out

    def test_a_sqlite_file_takes_the_place_of_another(self):
        self.assertIn("  kill -9: consume --as swap\n", self.swap("sqlite", "old.db", "new.db"))

    @unittest.skipUnless(influx_server.installed() and (pg_server.BIN / "initdb").exists(), "InfluxDB and Postgres are not installed")
    def test_postgres_takes_the_place_of_influxdb(self):
        self.assertIn("  kill -9: Postgres, consume --as swap\n", self.swap("influx-postgres", "InfluxDB", "Postgres"))

    def test_a_signal_ends_it_and_nothing_is_left(self):
        for number, moment in ((signal.SIGTERM, "s3-archive"), (signal.SIGINT, "throttle"), (signal.SIGHUP, "bsu-fetch")):
            with self.subTest(number=number, moment=moment):
                process = self.start("--engines", "sqlite", *SMALL)
                self.when(moment, process)
                process.send_signal(number)
                process.send_signal(number)  # once more does no harm
                self.assert_ended_by(process, number)

    def test_a_demo_that_is_killed_leaves_no_process(self):
        process = self.start("--engines", "sqlite", *SMALL)
        self.when("throttle", process)
        process.kill()
        process.communicate(timeout=60)
        wait_for(lambda: not processes(self.folder), timeout=60, what="its processes to end")

    def test_a_stage_that_ends_too_early_is_told_and_nothing_is_left(self):
        process = self.start("--engines", "sqlite", *SMALL)
        os.kill(self.when("bsu-fetch", process), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("demo: fetch ended with -9", err)
        self.assert_nothing_is_left()

    def test_make_installs_servers_only_where_they_are_wanted(self):
        lines = run(["make", "-n", "demo-swap"], cwd=ROOT).stdout
        self.assertRegex(lines, r"(?m)^scripts/setup build demo swap$")
        self.assertRegex(lines, r"(?m)^scripts/demo-swap build/release/bin *$")
        lines = run(["make", "-n", "demo-swap", "ENGINES=sqlite"], cwd=ROOT).stdout
        self.assertRegex(lines, r"(?m)^scripts/setup build demo *$")
        self.assertRegex(lines, r"(?m)^scripts/demo-swap build/release/bin --engines sqlite$")


if __name__ == "__main__":
    unittest.main()

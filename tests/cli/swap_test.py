"""The commands of swap.7, one after the other as somebody would who reads it: in the end both databases hold what was published. And
the lines of its crontab."""
import datetime
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import examples_test  # noqa: E402
from examples_test import HERE_DOCUMENT, README, of_manual  # noqa: E402
from harness import BIN, ROOT, Server, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer  # noqa: E402
from pg_server import Postgres  # noqa: E402

PAGE, CRONTAB = ROOT / "man" / "swap.7", ROOT / "scripts" / "cron" / "swap"
UNITS, PASSWORD = 20, "hunter2secret"
NEWS = {"s3-archive": r"s3-archive: past.state: complete\n", "influx-read": r"influx-read: older.state: complete\n", "reconcile": r"reconcile: equal: .*\n"}


class Swap(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.influx = self.enterContext(InfluxServer(auth=True))
        self.influx.ask(f"create user fleet with password '{PASSWORD}'")
        self.influx.create("bsu")
        self.influx.ask("grant all on bsu to fleet")
        self.pg = self.enterContext(Postgres())
        self.pg.sql("CREATE DATABASE fleet")
        self.url = self.pg.url.removesuffix("postgres") + "fleet"
        sim = self.enterContext(Server([tool("bsu-sim"), "--port", "0", "--units", str(UNITS), "--firmware", "attributes", "--devices", "{dir}/fleet.txt"]))
        for name, text in {**dict(HERE_DOCUMENT.findall(README)), "fleet.txt": (sim.dir / "fleet.txt").read_text(), "influx.password": PASSWORD}.items():
            (self.folder / name).write_text(text)
        self.environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(self.folder), "PGPASSWORD": self.pg.environment["PGPASSWORD"],
                            "INFLUX_USERNAME": "fleet", "INFLUX_PASSWORD": PASSWORD, "no_proxy": "127.0.0.1"}
        self.sim, self.serving = sim, {}

    def here(self, command):
        """With what is on this machine, and without the waits of a real fleet."""
        for other, ours in {"http://influx:8086": self.influx.url, "http://localhost:8086": self.influx.url, "postgresql://new/fleet": self.url,
                            "postgresql://fleet@localhost/fleet": self.url, "http://live/health": f"{self.sim.url}/bsus/bsu-00001",
                            "s3-archive put s3://bsu-archive/raw": "s3-archive put archive/ --max-age 200ms", "s3://bsu-archive/raw": "archive/",
                            "--recheck 60s": "--recheck 3s", "-every 10s": "-every 1s"}.items():
            command = command.replace(other, ours)
        return command

    def done(self, command):
        done = run(["bash", "-o", "pipefail", "-c", command], cwd=self.folder, env=self.environment)
        self.assertEqual(done.exit, 0, (command, done))
        return done

    def past(self, begin, end, *pipelines):
        """Of the fleet, as it flew before the page is read."""
        for pipeline in pipelines:
            self.done(f"bsu-sim --units {UNITS} --firmware attributes --cadence 1m --from {begin} --to {end} | {pipeline}")

    def serve(self, command):
        process = subprocess.Popen(["bash", "-c", "exec " + command], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.addCleanup(lambda: (process.poll() is None and os.killpg(process.pid, signal.SIGKILL), process.communicate()))
        words = shlex.split(command)
        name = words[words.index("--as") + 1] if "--as" in words else words[0]
        self.serving[name] = process
        if "--as" in words:
            wait_for(lambda: process.poll() is not None or self.cursor(name) is not None, what=command)
        self.assertIsNone(process.poll(), command)

    def listed(self):
        return run(["consume", "fleet/", "--list"], cwd=self.folder, env=self.environment).stdout

    def cursor(self, name):
        """Of a subscriber that runs."""
        found = re.search(rf"^{name} +(\d+) .*running", self.listed(), re.M)
        return int(found[1]) if found else None

    def stop(self, name):
        process = self.serving.pop(name)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        self.assertEqual((process.returncode, stderr), (143, ""), name)

    def live(self, more=40):
        """Until some more events have come into both databases and the archive."""
        begin = max(self.cursor(name) or 0 for name in ("backfill", "data", "swap"))
        wait_for(lambda: all((self.cursor(name) or 0) >= begin + more for name in ("backfill", "data", "swap")), timeout=60, what="the live readings")

    def test_the_page_leads_from_one_database_to_the_other(self):
        write = self.here("xml2json --options bsu.opts | influx-write http://influx:8086?db=bsu --options points.opts")
        self.past("2018-06-30T23:50:00Z", "2018-07-01T00:00:00Z", write)
        self.past("2018-07-01T00:00:00Z", "2018-07-01T00:10:00Z", write, self.here("s3-archive put s3://bsu-archive/raw"))
        self.done("publish fleet/ </dev/null")
        commands = of_manual(PAGE)
        self.assertEqual(len(commands), 16, commands)
        lost = 0
        for command in commands:
            with self.subTest(command=command):
                if examples_test.Examples.goes_on(command):
                    self.serve(self.here(command))
                    continue
                if command.startswith("sql-read"):  # the new database forgets what it had of some units: a backup was restored
                    self.live()
                    self.pg.sql("DELETE FROM reading WHERE subject < 'bsu-00006' AND time > '2018-07-02Z'", "fleet")
                    lost = self.rows("time > '2018-07-02Z' AND subject < 'bsu-00006'")
                    command = command.replace("--to -5m", "--to now")
                if "--remove" in command:
                    self.stop("data")
                done = self.done(self.here(command))
                if command.startswith("sql-read"):
                    self.assertGreater(self.rows("time > '2018-07-02Z' AND subject < 'bsu-00006'"), lost + 10)
                if not command.startswith("influx-read") or "older" in command:
                    self.assertEqual(done.stdout, "")
                self.assertRegex(done.stderr, rf"\A({NEWS.get(command.split()[0], '')})?\Z")
        self.assertNotIn("optional", self.listed())
        self.assertNotRegex(self.listed(), "(?m)^data ")
        for name in "bsu-fetch", "swap", "backfill":
            self.stop(name)
        self.done(self.here("consume fleet/ --as swap --until-empty -- 'xml2json --options bsu.opts | sql-write postgresql://new/fleet --options readings.opts'"))
        published = [json.loads(line) for segment in (self.folder / "fleet").glob("*.ndjson") for line in segment.read_text().splitlines()]
        self.assertEqual(self.rows("time > '2018-07-02Z'"), len(published))
        self.assertEqual(self.rows("time < '2018-07-02Z'"), 20 * UNITS)

    def rows(self, where):
        return int(self.pg.sql(f"SELECT count(*) FROM reading WHERE {where}", "fleet")[0][0])

    def test_the_options_that_the_page_shows_are_those_of_the_readme(self):
        shown = re.search(r"^create\n(?:\w.*\n)+", PAGE.read_text(), re.M)[0]
        self.assertEqual(shown, dict(HERE_DOCUMENT.findall(README))["readings.opts"])

    def crontab(self):
        return re.findall(r"^((?:\S+ ){5}cd /var/lib/fleet && (.*))$", CRONTAB.read_text(), re.M)

    def test_the_page_shows_the_lines_of_the_crontab(self):
        page = PAGE.read_text().splitlines()
        for line, _ in self.crontab()[:2]:
            self.assertIn(line, page)

    def test_the_lines_of_the_crontab_fill_yesterday_and_are_silent_when_all_is_there(self):
        fill, check, proof = (self.here(command) for _, command in self.crontab())
        self.assertNotIn("%", fill + check + proof)  # cron reads it as the end of the line
        days = f"--from {self.day(-1)}T00:00:00Z --to {self.day(0)}T00:00:00Z"
        past = f"bsu-sim --units {UNITS} --firmware attributes --cadence 5m {days}"
        json_of = "xml2json --options bsu.opts"
        self.done(f"{past} | s3-archive put archive/")
        self.done(f"{past} | {json_of} | influx-write '{self.influx.url}?db=bsu' --options points.opts")
        self.done(f"{past} | {json_of} | sql-write {self.url} --options readings.opts")
        whole = self.rows("true")
        for hole in "subject = 'bsu-00003'", "time > current_date - interval '6 hours'":
            self.pg.sql(f"SET TimeZone TO 'UTC'; DELETE FROM reading WHERE {hole}", "fleet")
            told = run(["/bin/sh", "-c", check], cwd=self.folder, env=self.environment)
            self.assertEqual((told.exit, told.stdout), (1, ""))
            self.assertRegex(told.stderr, r"\Afind-gaps: .*missing.*\n\Z")
            for line in fill, fill, check:
                done = run(["/bin/sh", "-c", line], cwd=self.folder, env=self.environment)
                self.assertEqual((done.exit, done.stdout, done.stderr), (0, "", ""), line)
            self.assertEqual(self.rows("true"), whole)
        self.assertRegex(self.done(proof).stderr, rf"\Areconcile: equal: {whole} keys on the left, ")

    @staticmethod
    def day(offset):
        return (datetime.datetime.now(datetime.timezone.utc).date() + datetime.timedelta(days=offset)).isoformat()


if __name__ == "__main__":
    unittest.main()

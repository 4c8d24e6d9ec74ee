"""The unit files and crontab lines of the fleet: what they say of signals and exit statuses is true, and systemd takes them."""
import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, ROOT, Server, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer  # noqa: E402
from pg_server import PASSWORD as PG_PASSWORD, Postgres  # noqa: E402
from redis_server import Redis  # noqa: E402
from s3_server import Swift  # noqa: E402

UNITS = sorted((ROOT / "scripts" / "systemd").glob("fleet-*.service"))
ALL = sorted((ROOT / "scripts" / "systemd").glob("*.service"))
CRONTAB = ROOT / "scripts" / "cron" / "fleet"
README = (ROOT / "README.md").read_text()
PASSWORD = "hunter2secret"
BUCKET = "bsu-archive"


def setting(unit, name):
    text = unit.read_text().replace("\\\n", " ")
    found = re.search(rf"^{name}=(.*)$", text, re.M)
    return found and found[1]


class Services(unittest.TestCase):
    """The servers want passwords."""
    @classmethod
    def setUpClass(cls):
        cls.influx = cls.enterClassContext(InfluxServer(auth=True))
        cls.influx.ask(f"create user fleet with password '{PASSWORD}'")
        cls.redis = cls.enterClassContext(Redis(port=True))
        cls.redis("CONFIG", "SET", "requirepass", PASSWORD)
        cls.redis("AUTH", PASSWORD)
        cls.pg = cls.enterClassContext(Postgres())
        cls.pg.sql("CREATE DATABASE fleet")
        cls.s3 = cls.enterClassContext(Swift())
        cls.s3.make_bucket(BUCKET)

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.influx.ask("drop database bsu")
        self.influx.create("bsu")
        self.influx.ask("grant write on bsu to fleet")
        self.redis("FLUSHALL")
        self.pg.sql("DROP TABLE IF EXISTS reading", "fleet")
        for key in self.s3.client.keys(BUCKET):
            self.s3.client.delete(BUCKET, key)
        for name, text in re.findall(r"^cat >(\S+) <<end\n(.*?)^end$", README, re.M | re.S):
            (self.folder / name).write_text(text)
        events = "".join(json.dumps({"specversion": "1.0", "id": str(n), "source": "s", "type": "t", "subject": f"u{n}",
                                     "recordedtime": "2018-07-01T00:00:00Z", "datacontenttype": "application/xml",
                                     "data": '<bsu time="2018-07-01T00:00:00Z"><status>idle</status><power unit="kW">1.5</power></bsu>'}) +
                         "\n" for n in range(50))
        self.assertEqual(run([tool("publish"), "fleet/"], events, cwd=self.folder).exit, 0)

    def here(self, line):
        """With the servers of this test."""
        return line.replace("redis://localhost", self.redis.tcp).replace("http://localhost:8086", self.influx.url) \
            .replace("postgresql://fleet@localhost/", self.pg.url.removesuffix("postgres"))

    def assert_stored(self, units):
        with self.subTest("what the stores hold"):
            keys = {key.removeprefix("bsu:") for key in self.redis("KEYS", "bsu:*")}
            points = {row["subject"] for row in self.influx.query("bsu", 'select "subject", "power" from "reading"')}
            archived = set()
            self.assertTrue(self.s3.catch_up())
            for key in self.s3.client.keys(BUCKET, "raw/"):
                text = subprocess.run(["zstd", "-dcq"], input=self.s3.client.get(BUCKET, key), stdout=subprocess.PIPE, check=True).stdout
                archived.update(json.loads(line)["subject"] for line in text.splitlines())
            for found in keys, points, archived:
                self.assertLessEqual(units, found)

    def command(self, unit):
        words = shlex.split(setting(unit, "ExecStart").replace("%%", "%").replace("$$", "$"))
        self.assertTrue(words[0].startswith("/usr/local/bin/"))
        return [tool(pathlib.Path(words[0]).name), *map(self.here, words[1:])]

    def environment(self, unit):
        """What systemd makes of the file that the unit names, with what it says should stand in there."""
        file = setting(unit, "EnvironmentFile") or ""
        variables = {"": {}, "-/etc/fleet/redis.env": {"REDISCLI_AUTH": PASSWORD},
                     "-/etc/fleet/postgres.env": {"PGPASSWORD": PG_PASSWORD},
                     "-/etc/fleet/influx.env": {"INFLUX_USERNAME": "fleet", "INFLUX_PASSWORD": PASSWORD},
                     "-/etc/fleet/s3.env": {"AWS_ACCESS_KEY_ID": self.s3.key, "AWS_SECRET_ACCESS_KEY": self.s3.secret,
                                            "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.s3.url}}[file]
        for name in variables:
            self.assertRegex(unit.read_text(), rf"(?m)^#.*\b{name}\b")
        return variables

    def serve(self, unit, command, **environment):
        """As systemd starts it: with SIGPIPE ignored and a PATH that has the tools."""
        if setting(unit, "StateDirectory"):
            environment["STATE_DIRECTORY"] = str(self.folder)
        return subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, restore_signals=False, start_new_session=True,
                                env={"PATH": f"{BIN}:/usr/bin:/bin", **environment})

    def listed(self):
        return run([tool("consume"), "fleet/", "--list"], cwd=self.folder).stdout

    def test_a_stopped_unit_drains_and_its_status_counts_as_success(self):
        with Server([tool("bsu-sim"), "--port", "0", "--units", "20", "--devices", "{dir}/fleet.txt"]) as sim:
            shutil.copy(sim.dir / "fleet.txt", self.folder)
            for unit in UNITS:
                with self.subTest(unit.name):
                    # Not to wait for a minute until an object is closed.
                    command = [*self.command(unit), *(["--max-age", "200ms"] if "s3-archive" in self.command(unit) else [])]
                    process = self.serve(unit, command, **self.environment(unit))
                    size = sum(f.stat().st_size for f in self.folder.glob("fleet/*.ndjson"))
                    try:
                        if "--as" in process.args:
                            name = process.args[process.args.index("--as") + 1]
                            wait_for(lambda: re.search(rf"^{name} +([5-9]\d|49|\d{{3,}}) .*running", self.listed(), re.M), what="the events")
                        else:
                            wait_for(lambda: sum(f.stat().st_size for f in self.folder.glob("fleet/*.ndjson")) > size, what="events")
                    finally:
                        process.send_signal(signal.SIGTERM)
                        _, stderr = process.communicate(timeout=60)
                    self.assertEqual((str(process.returncode), stderr), (setting(unit, "SuccessExitStatus"), ""))
                    self.assertEqual(setting(unit, "KillMode"), "mixed")
        self.assert_stored({f"u{n}" for n in range(50)})
        self.assertTrue((self.folder / "s3-archive").is_dir())
        self.assertLessEqual({f"u{n}" for n in range(50)}, {unit for unit, in self.pg.sql("SELECT subject FROM reading", "fleet")})

    def test_what_only_the_operator_can_mend_does_not_start_again(self):
        for unit in UNITS:
            with self.subTest(unit.name):  # there is no fleet.txt, and no such tool in the pipeline
                command = self.command(unit)
                if "--devices" not in command:
                    command = [*command[:command.index("--") + 1], "no-such-tool"]
                self.assert_does_not_start_again(unit, command)

    def test_a_unit_without_its_secrets_does_not_start_again(self):
        for unit in UNITS:
            if self.environment(unit):
                with self.subTest(unit.name):
                    message = self.assert_does_not_start_again(unit, self.command(unit), AWS_ENDPOINT_URL=self.s3.url)
                    self.assertRegex(message, "(?i)credentials|password|authent")

    def assert_does_not_start_again(self, unit, command, **environment):
        process = self.serve(unit, command, **environment)
        _, message = process.communicate(timeout=60)
        self.assertTrue(message)
        self.assertIn(str(process.returncode), setting(unit, "RestartPreventExitStatus").split(), message)
        return message

    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd-analyze here")
    def test_systemd_takes_the_units(self):
        for unit in ALL:
            with self.subTest(unit.name):
                copy = self.folder / unit.name
                copy.write_text(unit.read_text().replace("/usr/local/bin/", f"{BIN}/"))
                done = run(["systemd-analyze", "verify", "--man=no", str(copy)])
                complaints = [line for line in done.stderr.splitlines() if unit.name in line]
                self.assertEqual(complaints, [])

    def test_the_lines_of_the_crontab_are_silent_when_all_is_well(self):
        lines = re.findall(r"^(?:\S+ ){5}cd /var/lib/fleet && (.*)$", CRONTAB.read_text(), re.M)
        self.assertEqual(len(lines), 6)
        self.assertNotIn("%", "".join(lines))  # cron reads it as the end of the line
        for name, text in {"redis.password": PASSWORD, "influx.password": PASSWORD,
                           ".aws/credentials": f"[default]\naws_access_key_id = {self.s3.key}\naws_secret_access_key = {self.s3.secret}\n",
                           ".aws/config": f"[default]\nregion = us-east-1\nendpoint_url = {self.s3.url}\n"}.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text)
        environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(self.folder)}
        with Server([tool("bsu-sim"), "--port", "0", "--units", "20", "--firmware", "attributes", "--devices", "{dir}/fleet.txt"]) as sim:
            shutil.copy(sim.dir / "fleet.txt", self.folder)
            for line in [*lines, *lines]:
                done = run(["/bin/sh", "-c", self.here(line)], cwd=self.folder, env=environment)
                self.assertEqual((done.exit, done.stdout, done.stderr), (0, "", ""), line)
        self.assert_stored({f"u{n}" for n in range(50)} | {f"bsu-{n:05}" for n in range(1, 21)})


if __name__ == "__main__":
    unittest.main()

"""The unit files and crontab lines of scripts/: what they say of signals and exit statuses is true, and systemd takes them."""
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
from redis_server import Redis  # noqa: E402

UNITS = sorted((ROOT / "scripts" / "systemd").glob("*.service"))
CRONTAB = ROOT / "scripts" / "cron" / "fleet"


def setting(unit, name):
    text = unit.read_text().replace("\\\n", " ")
    return re.search(rf"^{name}=(.*)$", text, re.M)[1]


class Services(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.redis = self.enterContext(Redis(port=True))
        for name, text in {"bsu.opts": "time = /bsu/@time\ninfer\n", "readings.opts": "create\ntable = reading\nkey = subject,time\n",
                           "cache.opts": 'key = "bsu:{subject}"\n', "redis.password": "hunter2secret\n"}.items():
            (self.folder / name).write_text(text)
        events = "".join(json.dumps({"specversion": "1.0", "id": str(n), "source": "s", "type": "t", "subject": f"u{n}",
                                     "recordedtime": "2018-07-01T00:00:00Z", "datacontenttype": "application/xml",
                                     "data": '<bsu time="2018-07-01T00:00:00Z"/>'}) + "\n" for n in range(50))
        self.assertEqual(run([tool("publish"), "fleet/"], events, cwd=self.folder).exit, 0)

    def command(self, unit):
        words = shlex.split(setting(unit, "ExecStart").replace("%%", "%").replace("$$", "$"))
        self.assertTrue(words[0].startswith("/usr/local/bin/"))
        return [tool(pathlib.Path(words[0]).name), *(word.replace("redis://localhost", self.redis.tcp) for word in words[1:])]

    def serve(self, command):
        """As systemd starts it: with SIGPIPE ignored and a PATH that has the tools."""
        return subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, restore_signals=False, start_new_session=True,
                                env={"PATH": f"{BIN}:/usr/bin:/bin"})

    def listed(self):
        return run([tool("consume"), "fleet/", "--list"], cwd=self.folder).stdout

    def test_a_stopped_unit_drains_and_its_status_counts_as_success(self):
        with Server([tool("bsu-sim"), "--port", "0", "--units", "20", "--devices", "{dir}/fleet.txt"]) as sim:
            shutil.copy(sim.dir / "fleet.txt", self.folder)
            for unit in UNITS:
                with self.subTest(unit.name):
                    process = self.serve(self.command(unit))
                    size = sum(f.stat().st_size for f in self.folder.glob("fleet/*.ndjson"))
                    try:
                        if "--as" in process.args:
                            name = process.args[process.args.index("--as") + 1]
                            wait_for(lambda: re.search(rf"^{name} +([5-9]\d|49|\d{{3,}}) .*running$", self.listed(), re.M), what="the events")
                        else:
                            wait_for(lambda: sum(f.stat().st_size for f in self.folder.glob("fleet/*.ndjson")) > size, what="events")
                    finally:
                        process.send_signal(signal.SIGTERM)
                        _, stderr = process.communicate(timeout=60)
                    self.assertEqual((str(process.returncode), stderr), (setting(unit, "SuccessExitStatus"), ""))
                    self.assertEqual(setting(unit, "KillMode"), "mixed")
        self.assertEqual(len([key for key in self.redis("KEYS", "bsu:u*")]), 50)

    def test_what_only_the_operator_can_mend_does_not_start_again(self):
        for unit in UNITS:
            with self.subTest(unit.name):  # there is no fleet.txt, and no such tool in the pipeline
                command = self.command(unit)
                process = self.serve(command if "--devices" in command else [*command[:-1], "no-such-tool"])
                self.assertTrue(process.communicate(timeout=60)[1])
                self.assertIn(str(process.returncode), setting(unit, "RestartPreventExitStatus").split())

    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd-analyze here")
    def test_systemd_takes_the_units(self):
        for unit in UNITS:
            with self.subTest(unit.name):
                copy = self.folder / unit.name
                copy.write_text(unit.read_text().replace("/usr/local/bin/", f"{BIN}/"))
                done = run(["systemd-analyze", "verify", "--man=no", str(copy)])
                complaints = [line for line in done.stderr.splitlines() if unit.name in line]
                self.assertEqual(complaints, [])

    def test_the_lines_of_the_crontab_are_silent_when_all_is_well(self):
        lines = re.findall(r"^(?:\S+ ){5}cd /var/lib/fleet && (.*)$", CRONTAB.read_text(), re.M)
        self.assertEqual(len(lines), 4)
        self.redis("CONFIG", "SET", "requirepass", "hunter2secret")
        self.assertNotIn("%", "".join(lines))  # cron reads it as the end of the line
        check, backfill, verify, monitoring = [line.replace("redis://localhost", self.redis.tcp) for line in lines]
        environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(self.folder)}
        for line in backfill, check, verify, backfill, monitoring, monitoring, check:
            done = run(["/bin/sh", "-c", line], cwd=self.folder, env=environment)
            self.assertEqual((done.exit, done.stdout, done.stderr), (0, "", ""), line)
        self.redis("AUTH", "hunter2secret")
        self.assertEqual(len(self.redis("KEYS", "bsu:*")), 50)
        self.assertIn(" 50 ", run([tool("s3-archive"), "ls", "archive/"], cwd=self.folder).stdout.replace("\t", " ") + " ")


if __name__ == "__main__":
    unittest.main()

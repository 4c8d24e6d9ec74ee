"""A measurement is copied from a real influxd into SQLite while influxd, influx-read and sql-write are killed (SIGKILL) and started again:
in the end reconcile finds every point once and no difference, and nothing was said to be complete before.

FAULT_ROUNDS says how many seeded rounds, each with a measurement of its own; SEED where the seeds begin.
"""
import collections
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer  # noqa: E402
import processes  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "8"))
SEED = int(os.environ.get("SEED", "1"))
PATIENCE = 300  # s; for hangs, not for speed
BASE = 1_530_403_200 * 10**9
POINTS, TEXT = 12_000, "t" * 1500  # more than what influx-read holds, so that it is in the middle of an answer


class InfluxRead(unittest.TestCase):
    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="inflight-influx-"))
        self.folder = pathlib.Path(folder)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        processes.adopt_orphans()
        self.influx = self.enterContext(InfluxServer())
        self.influx.create("d")
        self.line = None
        self.addCleanup(self.end)
        self.killed, self.under_way = collections.Counter(), 0

    def fill(self, measurement, subjects):
        lines = (f"{measurement},subject=s{n % subjects} n={(-1) ** n * (2**63 - 1 - n)}i,v={n / 4},s=\"{TEXT}{n}\" {BASE + n // subjects * 10**9 + n // subjects % 997}\n"
                 for n in range(POINTS))
        urllib.request.urlopen(urllib.request.Request(f"{self.influx.url}/write?db=d", data="".join(lines).encode()), timeout=60).close()

    def start(self, measurement):
        sink = f"sql-write sqlite:copy.db --create --table {measurement} --key subject,time --batch-records 50"
        with open(self.folder / "stderr", "ab") as stderr:
            self.line = subprocess.Popen([tool("influx-read"), f"{self.influx.url}?db=d", "--measurement", measurement, "--state", f"{measurement}.state", "--settle", "2s",
                                          "--takeover", "5s", "--", sink], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stderr=stderr)

    def end(self):
        if self.line and self.line.poll() is None:
            self.line.kill()
        if self.line:
            self.line.wait()

    def stored(self, measurement):
        return int(run(["sqlite3", "-cmd", ".timeout 5000", "copy.db", f"SELECT count(*) FROM {measurement}"], cwd=self.folder).stdout or 0)

    def kill(self, what, measurement, chance):
        if what == "influxd":
            self.influx.kill()
            time.sleep(chance.random() * 0.5)
            self.influx.start()
            return True
        if what == "influx-read":
            self.end()
            self.start(measurement)
            return True
        sinks = [p for p in processes.descendants() if p.name == "sql-write"]
        return bool(sinks) and processes.kill(chance.choice(sinks))

    def round(self, number):
        chance = random.Random(SEED * 100_000 + number)
        measurement = f"m{number}"
        self.fill(measurement, chance.choice([1, 7, 500, POINTS]))
        self.start(measurement)
        for what in chance.choices(["influxd", "influx-read", "sql-write"], k=chance.randint(1, 4)):
            before = self.stored(measurement)
            wait_for(lambda seen=before: self.line.poll() is not None or self.stored(measurement) > seen, PATIENCE, "progress")
            time.sleep(chance.random() * 0.1)  # a random instant, not a proof
            if self.line.poll() is not None:
                break
            self.under_way += self.stored(measurement) < POINTS
            self.killed[what] += self.kill(what, measurement, chance)
        status = self.line.wait(PATIENCE)
        said = (self.folder / "stderr").read_text()
        self.assertEqual(status, 0, said[-2000:])
        self.assertEqual(said.count(f"{measurement}.state: complete"), 1, said[-2000:])
        done = run([tool("reconcile"), "--key", "subject,time", "--left", f"influx-read '{self.influx.url}?db=d' --measurement {measurement}",
                    "--right", f"sql-read sqlite:copy.db --table {measurement}"], env=self.environment, cwd=self.folder)
        self.assertEqual(done.exit, 0, (number, done))
        self.assertEqual(self.stored(measurement), POINTS)
        processes.reap_orphans({self.line.pid})

    def test_kill_9(self):
        for number in range(ROUNDS):
            with self.subTest(round=number, seed=SEED):
                self.round(number)
        self.assertGreater(self.under_way, 0)
        print(f"summary: {ROUNDS} rounds of {POINTS:,} points; killed: {dict(self.killed)}, {self.under_way} of them under way; "
              f"cut answers {(self.folder / 'stderr').read_text().count('waiting: ')}; differences 0", flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)

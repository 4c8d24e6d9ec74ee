"""A real influxd, influx-write and consume are killed (SIGKILL) and started again, over and over, while events come in: in the end InfluxDB
answers with each of them once, and the dead letters are those that it refuses.

FAULT_ROUNDS says how many seeded rounds, SEED where the seeds begin; with 300 rounds and more, outages last as long as they do in the field.
"""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "8"))
SEED = int(os.environ.get("SEED", "1"))
MANY = ROUNDS >= 300
OUTAGE, BACKLOG = (120, 60_000) if MANY else (2, 20_000)  # seconds, events
PATIENCE = 300  # s; for hangs, not for speed
LIMIT = 64 * 1024  # KiB
BASE = 1530403200 * 10**9


def is_bad(n):
    return n % 97 == 13


def event(n):
    """One that InfluxDB refuses has a text where all others have a number."""
    return {"specversion": "1.0", "id": f"e{n}", "source": "test", "type": "reading", "subject": f"s{n % 7}",
            "time": f"2018-07-01T00:00:{n // 10**9:02}.{n % 10**9:09}Z", "data": {"n": n, "v": "bad" if is_bad(n) else n / 4}}


class Influx(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="inflight-influx-"))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.influx = self.enterContext(InfluxServer())
        self.influx.create("bsu")
        self.consume = None
        self.addCleanup(lambda: self.consume and self.end(self.consume))
        self.published = 0

    # ---- the exchange

    def publish(self, count):
        events = "".join(json.dumps(event(n)) + "\n" for n in range(self.published, self.published + count))
        done = run([tool("publish"), "x/"], events, cwd=self.folder)
        self.assertEqual(done.exit, 0, done.stderr)
        self.published += count

    def start(self):
        line = f"influx-write {self.influx.url}?db=bsu --batch-records 40"
        with open(self.folder / "stderr", "ab") as stderr:
            self.consume = subprocess.Popen([tool("consume"), "x/", "--as", "data", "--settle", "2s", "--", line], cwd=self.folder, env=self.environment,
                                            stdin=subprocess.DEVNULL, stderr=stderr)

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
        process.wait()

    def processes(self, name):
        """Those of ours that run this tool in this folder."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe") == str((BIN / name).resolve()) and os.readlink(f"/proc/{pid}/cwd") == str(self.folder):
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def settled(self):
        state = self.folder / "x/subscribers/data/state.json"
        return state.exists() and json.loads(state.read_text())["cursor"] == self.published

    def letters(self):
        path = self.folder / "x/subscribers/data/dead.ndjson"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def assert_stored_once(self):
        rows = self.influx.query("bsu", 'select n, v from record group by subject')
        got = [(row["subject"], row["time"], row["n"], row["v"]) for row in rows]
        wanted = [(f"s{n % 7}", BASE + n, n, n / 4) for n in range(self.published) if not is_bad(n)]
        self.assertEqual(len(set(wanted) - set(got)), 0, "lost")
        self.assertEqual(len(got) - len(wanted), 0, "doubled")
        self.assertEqual(sorted(got), sorted(wanted))
        letters = self.letters()
        self.assertEqual(sorted(letter["event"]["id"] for letter in letters), sorted(f"e{n}" for n in range(self.published) if is_bad(n)))
        self.assertTrue(all("field type conflict" in letter["reason"] for letter in letters), letters)

    # ---- rounds

    def kill_influxd(self, chance):
        self.influx.kill()
        time.sleep(chance.random() * 1.2)
        self.influx.start()

    def kill_sink(self, _):
        for pid in self.processes("influx-write"):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass

    def kill_consume(self, _):
        self.end(self.consume)
        self.start()

    def test_kill_9(self):
        deeds = {"influxd": self.kill_influxd, "influx-write": self.kill_sink, "consume": self.kill_consume}
        done = dict.fromkeys(deeds, 0)
        self.publish(30)
        self.start()
        for number in range(ROUNDS):
            chance = random.Random(SEED * 100_000 + number)
            self.publish(chance.randint(50, 600))
            time.sleep(chance.random() * 0.4)  # a random instant, not a proof
            if self.consume.poll() is not None:
                self.fail(f"round {number}: consume ended: {(self.folder / 'stderr').read_text()[-2000:]}")
            for name in chance.sample(sorted(deeds), chance.choice([1, 1, 2, 3])):
                deeds[name](chance)
                done[name] += 1
        wait_for(self.settled, PATIENCE, "all events to be settled")
        self.assert_stored_once()
        print(f"summary: {ROUNDS} rounds, {self.published} events; killed: {done}; lost 0, doubled 0, {len(self.letters())} letters", flush=True)

    def test_an_outage_is_waited_out(self):
        self.publish(30)
        self.start()
        wait_for(self.settled, PATIENCE, "the first events")
        self.influx.kill()
        self.publish(BACKLOG)
        wait_for(lambda: "waiting: " in (self.folder / "stderr").read_text(), what="influx-write to say that it waits")
        time.sleep(OUTAGE)
        (sink,) = self.processes("influx-write")
        status = pathlib.Path(f"/proc/{sink}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        self.assertLess(peak, LIMIT)
        self.assertEqual(len(self.letters()), 1)
        self.influx.start()
        wait_for(lambda: self.influx.count("bsu") > 100, PATIENCE, "the first points after it")
        self.assertEqual(self.processes("influx-write"), [sink])  # it is the same one
        wait_for(self.settled, PATIENCE, "all events to be settled")
        self.assert_stored_once()
        print(f"summary: {OUTAGE} s of outage, {BACKLOG:,} events; influx-write {peak / 1024:.0f} MiB; lost 0, doubled 0", flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)

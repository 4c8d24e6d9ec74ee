"""The fleet's status in Redis: whatever is killed - redis-server, redis-write, consume - each key ends with its newest event, no
event is lost, and what was told to be settled is in a Redis that was killed.

FAULT_ROUNDS kills in all, in seeds of ten; SEED is the first one.
"""
import collections
import json
import os
import pathlib
import random
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool, wait_for  # noqa: E402
from redis_server import Redis  # noqa: E402

from processes import seeds  # noqa: E402
from subscriber import Line  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "10"))
PER_SEED = 10
EVENTS = 1500  # of a round
SUBJECTS = 60


class Job:
    def __init__(self, folder, redis, seed):
        self.folder, self.redis, self.chance = pathlib.Path(folder), redis, random.Random(seed)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.events, self.times = [], list(range(1_000_000))
        self.chance.shuffle(self.times)  # no two events have one time: which of them is the newest is certain
        self.lines = [Line(self, "latest", f"redis-write {redis.url} --key l:{{subject}} --field n=/n --field s=/s"),
                      Line(self, "every", f"redis-write {redis.url} --key e:{{id}} --newer-by recordedtime --on-delete ignore"
                                          " --batch-records 100")]
        self.killed, self.behind, self.checked = collections.Counter(), 0, 0

    def publish(self):
        batch = []
        for _ in range(EVENTS):
            n = len(self.events)
            event = {"specversion": "1.0", "id": f"{n}", "source": "test", "type": "t", "subject": f"s{self.chance.randrange(SUBJECTS)}",
                     "time": f"2018-07-01T00:00:00.{self.times.pop():09}Z", "recordedtime": "2018-07-01T00:00:00Z"}
            if self.chance.random() < 0.05:
                event["type"] = "t.deleted"
            else:
                event["data"] = {"n": n, "s": n % 3}
            self.events.append(event)
            batch.append(json.dumps(event))
        done = run([tool("publish"), "x/"], "\n".join(batch) + "\n", cwd=self.folder)
        assert (done.exit, done.stderr) == (0, ""), done

    def round(self):
        for line in self.lines:
            line.start()
        self.publish()
        time.sleep(self.chance.random() * 0.25)
        if any(line.cursor() < len(self.events) for line in self.lines):
            self.behind += 1
        what = self.chance.choice(["redis-server", "redis-server", "redis-write", "redis-write", "consume"])
        if what == "redis-server":
            self.redis.kill()
            settled = self.lines[1].cursor()
            time.sleep(self.chance.random() * 0.1)
            self.redis.start()
            self.killed[what] += 1
            stored = self.stored()
            lost = [e["id"] for e in self.events[:settled] if "data" in e and int(e["id"]) not in stored]
            assert not lost, f"settled before the server was killed, and gone: {lost[:10]} of {len(lost)}"
            self.checked += settled
        else:
            line = self.chance.choice(self.lines)
            self.killed[what] += bool(wait_for(lambda: line.kill(what) or (line.start(), False)[1], 30, f"a {what}"))

    def stored(self):
        return {int(key[2:]) for key in self.redis("KEYS", "e:*")}

    def compare(self, test):
        for line in self.lines:
            test.assertEqual(line.cursor(), len(self.events))
            test.assertFalse((self.folder / "x/subscribers" / line.name / "dead.ndjson").exists(), f"{line.name} has dead letters")
        test.assertEqual(self.stored(), {int(e["id"]) for e in self.events if "data" in e})
        newest = {}
        for e in self.events:
            if e["subject"] not in newest or e["time"] > newest[e["subject"]]["time"]:
                newest[e["subject"]] = e
        for subject, e in newest.items():
            if "data" in e:
                test.assertEqual(self.redis.fields(f"l:{subject}"), {name: str(value) for name, value in e["data"].items()}, subject)
                test.assertEqual(self.redis("HGET", f"l:{subject}", "updated_at"), e["time"])
                test.assertEqual(self.redis("EXISTS", f"l:{subject}:deleted"), 0)
            else:
                test.assertEqual((self.redis("EXISTS", f"l:{subject}"), self.redis("GET", f"l:{subject}:deleted")), (0, e["time"]))
        test.assertEqual({key for key in self.redis("KEYS", "l:*") if not key.endswith(":deleted")},
                         {f"l:{subject}" for subject, e in newest.items() if "data" in e})


class RedisFaults(unittest.TestCase):
    def one_seed(self, seed, rounds):
        with tempfile.TemporaryDirectory(prefix="inflight-redis-") as folder, Redis() as redis:
            job = Job(folder, redis, seed)
            try:
                for _ in range(rounds):
                    job.round()
                for line in job.lines:
                    line.drain()
                job.compare(self)
            except BaseException:
                print(f"\nSEED={seed}", file=sys.stderr)
                for name in "latest", "every":
                    print(f"---- {name}\n{(job.folder / f'{name}.err').read_text(errors='replace')[-2500:]}", file=sys.stderr)
                raise
            finally:
                for line in job.lines:
                    line.end()
            self.assertGreater(job.behind, 0, "nothing was under way when it was killed")
            kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
            print(f"summary: SEED={seed}: killed {kills}, {job.behind} of them with events under way; {len(job.events)} events, lost 0, "
                  f"{SUBJECTS} keys with their newest; {job.checked} settled positions looked up after a kill of the server", flush=True)
            return job.checked

    def test_nothing_is_lost_and_the_newest_stays_whatever_is_killed(self):
        checked = 0
        for seed, rounds in seeds(ROUNDS, PER_SEED):
            checked += self.one_seed(seed, rounds)
        if ROUNDS >= PER_SEED:
            self.assertGreater(checked, 0, "no settled event was looked up")


if __name__ == "__main__":
    unittest.main(verbosity=2)

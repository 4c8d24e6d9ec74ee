"""Documents into REST services: whatever is killed of consume and http-write, and however a service fails meanwhile, no version is
lost and no older one is last. One is called by PUT; one by POST, which keeps answers by idempotency key, has a second effect for
none, and refuses older versions.

FAULT_ROUNDS kills in all, in seeds of ten; SEED is the first one.
"""
import collections
import os
import pathlib
import random
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool, wait_for  # noqa: E402
from rest_server import RestServer, event, lines  # noqa: E402

from processes import seeds  # noqa: E402
from subscriber import Line  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "10"))
PER_SEED = 10
EVENTS = 400  # of a round
SUBJECTS = 40


class Service(RestServer):
    """Of a hundred requests two are refused, and of one the answer is lost though it had its effect."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        super().__init__(self.fail, delay=lambda: self.chance.random() * 0.004)
        self.newest, self.refused = collections.Counter(), collections.defaultdict(set)

    def fail(self, asked, _):
        lot = self.chance.random()
        if lot < 0.02:
            return 503
        if lot < 0.03:
            with self.lock:
                if asked.headers["Idempotency-Key"] not in self.keys:
                    self.serve(asked)
            return 200, "half", [("Content-Length", "100"), ("Connection", "close")]
        return None

    def serve(self, asked):
        if version := int(asked.headers["X-Version"] or 0):
            if version <= self.newest[asked.path]:
                self.refused[asked.path].add(asked.body)
                return (409,)
            self.newest[asked.path] = version
        return super().serve(asked)


class Job:
    def __init__(self, folder, seed):
        self.folder, self.chance = pathlib.Path(folder), random.Random(seed)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.services = {"put": Service(seed + 1), "post": Service(seed + 2)}
        self.events, self.behind, self.killed = [], 0, collections.Counter()
        write = "http-write {}/orders/{{subject}} --max-in-flight 8"
        self.lines = [Line(self, "put", write.format(self.services["put"].url)),
                      Line(self, "post", write.format(self.services["post"].url) + " --method POST --version-header X-Version --conflict ok")]

    def round(self):
        for line in self.lines:
            line.start()
        batch = []
        for _ in range(EVENTS):
            n = len(self.events)
            gone = self.chance.random() < 0.05
            batch.append(event(n, None if gone else n, subject=f"s{self.chance.randrange(SUBJECTS)}", type="t.deleted" if gone else "t"))
            self.events.append(batch[-1])
        done = run([tool("publish"), "x/"], lines(*batch), cwd=self.folder)
        assert (done.exit, done.stderr) == (0, ""), done
        time.sleep(self.chance.random() * 0.3)
        self.behind += any(line.cursor() < len(self.events) for line in self.lines)
        line, what = self.chance.choice(self.lines), self.chance.choice(["http-write", "http-write", "consume"])
        self.killed[what] += bool(wait_for(lambda: line.kill(what) or (line.start(), False)[1], 30, f"a {what}"))

    def compare(self, test):
        for line in self.lines:
            test.assertEqual(line.cursor(), len(self.events))
            test.assertFalse((self.folder / "x/subscribers" / line.name / "dead.ndjson").exists(), f"{line.name} has dead letters")
        for name, service in self.services.items():
            for subject in range(SUBJECTS):
                path = f"/orders/s{subject}"
                wanted = [None if "data" not in e else str(e["data"]).encode() for e in self.events if e["subject"] == f"s{subject}"]
                done = service.history[path]
                test.assertEqual(done[-1:], wanted[-1:], f"{name} {path}: what was done last")
                test.assertEqual(set(wanted) - set(done) - {body or None for body in service.refused[path]}, set(), f"{name} {path}: lost")
                if name == "post":
                    versions = [body for body in done if body]
                    test.assertEqual(len(versions), len(set(versions)), f"{path}: doubled")
                    test.assertEqual(versions, [body for body in wanted if body in set(versions)], f"{path}: out of order")


class HttpFaults(unittest.TestCase):
    def one_seed(self, seed, rounds):
        with tempfile.TemporaryDirectory(prefix="inflight-http-") as folder:
            job = Job(folder, seed)
            with job.services["put"], job.services["post"]:
                try:
                    for _ in range(rounds):
                        job.round()
                    for line in job.lines:
                        line.drain()
                    job.compare(self)
                except BaseException:
                    print(f"\nSEED={seed}", file=sys.stderr)
                    for line in job.lines:
                        print(f"---- {line.name}\n{line.said()}", file=sys.stderr)
                    raise
                finally:
                    for line in job.lines:
                        line.end()
            self.assertGreater(job.behind, 0, "nothing was under way when it was killed")
            kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
            print(f"summary: SEED={seed}: killed {kills}, {job.behind} of them with events under way; {len(job.events)} events in "
                  f"{sum(len(service.asked) for service in job.services.values())} requests, lost 0, doubled 0, no older version last", flush=True)

    def test_nothing_is_lost_or_doubled_and_the_newest_is_last_whatever_is_killed(self):
        for seed, rounds in seeds(ROUNDS, PER_SEED):
            self.one_seed(seed, rounds)


if __name__ == "__main__":
    unittest.main(verbosity=2)

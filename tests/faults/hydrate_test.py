"""Names of documents through the exchange, the documents fetched at the last moment and put into a service: whatever is killed of
consume, hydrate and http-write, and however both servers fail, in the end both hold the same, also where a document changed and
changed back, or is gone.

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


class Failing(RestServer):
    """Of a hundred requests two are refused, and the answer of one is cut after it had its effect."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        super().__init__(self.fail, delay=lambda: self.chance.random() * 0.004)

    def fail(self, asked, _):
        lot = self.chance.random()
        if lot < 0.03 and lot > 0.02:
            with self.lock:
                self.serve(asked)
            return 200, "half", [("Content-Length", "100"), ("Connection", "close")]
        return 503 if lot < 0.02 else None

    def serve(self, asked):
        if asked.method == "GET" and asked.path not in self.documents:
            return 200, "null"
        return super().serve(asked)


class Job:
    def __init__(self, folder, seed):
        self.folder, self.chance = pathlib.Path(folder), random.Random(seed)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.database, self.service = Failing(seed + 1), Failing(seed + 2)
        self.published, self.behind, self.killed = 0, 0, collections.Counter()
        self.line = Line(self, "etl", f"hydrate --max-in-flight 16 | http-write {self.service.url}/{{subject}} --max-in-flight 8")

    def change(self):
        """Some documents, and the names of those that have changed."""
        batch = []
        for _ in range(EVENTS):
            subject = f"s{self.chance.randrange(SUBJECTS)}"
            with self.database.lock:
                if self.chance.random() < 0.1:
                    self.database.documents.pop(f"/{subject}", None)
                else:  # of three values: they come back
                    self.database.documents[f"/{subject}"] = str(self.chance.randrange(3)).encode()
            batch.append(event(self.published, subject=subject, dataref=f"{self.database.url}/{subject}"))
            self.published += 1
        done = run([tool("publish"), "x/"], lines(*batch), cwd=self.folder)
        assert (done.exit, done.stderr) == (0, ""), done

    def round(self):
        self.line.start()
        self.change()
        time.sleep(self.chance.random() * 0.3)
        self.behind += self.line.cursor() < self.published
        what = self.chance.choice(["hydrate", "hydrate", "http-write", "consume"])
        self.killed[what] += bool(wait_for(lambda: self.line.kill(what) or (self.line.start(), False)[1], 30, f"a {what}"))

    def compare(self, test):
        test.assertEqual(self.line.cursor(), self.published)
        test.assertFalse((self.folder / "x/subscribers/etl/dead.ndjson").exists(), "dead letters")
        test.assertEqual(self.service.documents, self.database.documents)


class HydrateFaults(unittest.TestCase):
    def one_seed(self, seed, rounds):
        with tempfile.TemporaryDirectory(prefix="inflight-hydrate-") as folder:
            job = Job(folder, seed)
            with job.database, job.service:
                try:
                    for _ in range(rounds):
                        job.round()
                    job.line.drain()
                    job.compare(self)
                except BaseException:
                    print(f"\nSEED={seed}\n{(job.folder / 'etl.err').read_text(errors='replace')[-2500:]}", file=sys.stderr)
                    raise
                finally:
                    job.line.end()
            self.assertGreater(job.behind, 0, "nothing was under way when it was killed")
            kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
            print(f"summary: SEED={seed}: killed {kills}, {job.behind} of them with events under way; {job.published} events, "
                  f"{len(job.database.asked)} fetches, {len(job.service.asked)} calls, both sides hold the same", flush=True)

    def test_both_sides_hold_the_same_whatever_is_killed(self):
        for seed, rounds in seeds(ROUNDS, PER_SEED):
            self.one_seed(seed, rounds)


if __name__ == "__main__":
    unittest.main(verbosity=2)

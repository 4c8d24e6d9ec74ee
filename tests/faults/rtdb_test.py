"""The migration's first half: whatever is killed - crawl, listen, publish, the database - each key of the collection is published,
and each change or deletion at least once after it happened, while documents change, are deleted, made again, and change back.

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
from harness import BIN, wait_for  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402

from processes import seeds  # noqa: E402
from subscriber import Command  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "10"))
PER_SEED = 10
DOCUMENTS = 1500
CHANGES = 40  # of a round


class Source(Command):
    """crawl or listen. What they tell goes to an exchange each."""

    def __init__(self, job, name, *words):
        super().__init__(job, name, name, job.db.url + "/orders", "--state", f"{name}.state", "--takeover", "5s", *words, "--", f"publish {name}.x/")

    def told(self):
        """In the order of the exchange."""
        events = []
        for file in sorted((self.job.folder / f"{self.name}.x").glob("*.ndjson")):
            for line in file.read_bytes().split(b"\n")[:-1]:
                event = json.loads(line)
                events.append((event["subject"], event["type"].endswith("deleted")))
        return events


class Job:
    def __init__(self, folder, db, seed):
        self.folder, self.db, self.chance = pathlib.Path(folder), db, random.Random(seed)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.listen = Source(self, "listen", "--silence", "2s")
        self.crawl = Source(self, "crawl", "--after", "listen.state", "--rate", "250/s")
        self.killed = collections.Counter()
        self.changed = collections.Counter()  # by key, how often
        self.history = {}

    def begin(self):
        self.keys = list(self.db.get("orders", shallow="true"))
        self.documents = self.db.get("orders")
        if self.chance.random() < 0.5:  # in pages rather than all keys at once
            self.db.control(fault="too-big", kind="shallow")
        self.listen.start()
        wait_for(lambda: "baseline" in (self.folder / "listen.err").read_text(), what="the baseline")

    def change(self, key):
        """Before its event may be counted, a document is not changed again: each change is to be told."""
        now, what = self.documents.get(key), self.chance.random()
        path = ["orders", key]
        before = self.history.get(key)
        if now is None:
            self.documents[key] = {"made": "again", "n": self.chance.randrange(10**9)}
            self.db.put(path, self.documents[key])
        elif what < 0.25:
            del self.documents[key]
            self.db.delete(path)
        elif what < 0.5 and before is not None and before != now:  # A, B, A
            self.documents[key] = before
            self.db.put(path, before)
        elif what < 0.75:
            self.documents[key] = {**now, "status": f"s{self.chance.randrange(10**9)}"} if isinstance(now, dict) else {"n": 1}
            self.db.patch(path, {"status": self.documents[key]["status"]} if isinstance(now, dict) else {"n": 1})
        else:
            self.documents[key] = {"n": self.chance.randrange(10**9)}
            self.db.put(path, self.documents[key])
        self.history[key] = now
        self.changed[key] += 1

    def round(self):
        self.listen.start()
        self.crawl.start()
        told = len(self.listen.told())
        chosen = self.chance.sample(self.keys, CHANGES)
        kill_at = self.chance.randrange(CHANGES)
        what = self.chance.choice(["listen", "listen", "crawl", "publish", "publish", "rtdb-emulator", "stream"])
        for n, key in enumerate(chosen):
            self.change(key)
            if n == kill_at:
                self.kill(what)
                if self.chance.random() < 0.5:
                    time.sleep(self.chance.random() * 0.2)  # changes that nobody sees
                    self.listen.start()
        self.listen.start()
        self.settle(told, chosen)

    def kill(self, what):
        if what == "rtdb-emulator":
            self.db.kill()
            time.sleep(self.chance.random() * 0.1)
            self.db.start()
        elif what == "stream":
            self.db.control(streams=self.chance.choice(["cut", "auth_revoked", "silence"]))
        else:
            line = self.crawl if what == "crawl" else self.listen if what == "listen" else self.chance.choice([self.listen, self.crawl])

            def killed():
                nonlocal line, what
                if line is self.crawl and not line.running() and line.process.returncode == 0:  # it has told all
                    line, what = self.listen, "listen" if what == "crawl" else what
                if line.kill(what):
                    return True
                line.start()
                return False
            wait_for(killed, 30, f"a {what} to kill")
        self.killed[what] += 1

    def settle(self, told, chosen):
        """Each document's last state of this round is told, as what it is now."""
        wanted = {(key, key not in self.documents) for key in chosen}

        def seen():
            self.listen.start()
            events = self.listen.told()[told:]
            return wanted <= set(events)
        wait_for(seen, 120, f"{len(wanted)} changes")
        newest = dict(self.listen.told())
        wrong = [key for key in chosen if newest[key] != (key not in self.documents)]
        assert not wrong, f"an older state came last: {wrong[:5]}"

    def finish(self, test):
        def crawled():
            self.crawl.start()
            return self.crawl.process.wait(120) == 0
        wait_for(crawled, 120, "the crawl")
        crawled = [key for key, _ in self.crawl.told()]
        deleted = set(self.changed)  # it may have been gone when the keys were listed
        lost = set(self.keys) - set(crawled) - deleted
        test.assertEqual(lost, set(), "keys that no crawl has told")
        test.assertEqual(len(crawled), len(set(crawled)), "told twice")
        test.assertTrue(set(self.documents) <= set(crawled) | {key for key, _ in self.listen.told()})
        test.assertEqual(self.db.get("orders"), self.documents)


class RtdbFaults(unittest.TestCase):
    def one_seed(self, seed, rounds):
        with tempfile.TemporaryDirectory(prefix="inflight-rtdb-") as folder, \
                RtdbServer("--documents", str(DOCUMENTS), "--seed", str(seed), "--keep-alive", "200ms", "--data", "{dir}/log") as db:
            job = Job(folder, db, seed)
            try:
                job.begin()
                for _ in range(rounds):
                    job.round()
                job.finish(self)
            except BaseException:
                print(f"\nSEED={seed}", file=sys.stderr)
                for source in job.listen, job.crawl:
                    print(f"---- {source.name}\n{source.said()}", file=sys.stderr)
                raise
            finally:
                job.listen.end()
                job.crawl.end()
            kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
            print(f"summary: SEED={seed}: killed {kills}; {DOCUMENTS} keys crawled once each, {sum(job.changed.values())} changes of "
                  f"{len(job.changed)} documents, {len(job.listen.told())} told, lost 0", flush=True)

    def test_no_key_and_no_change_is_lost_whatever_is_killed(self):
        for seed, rounds in seeds(ROUNDS, PER_SEED):
            self.one_seed(seed, rounds)


if __name__ == "__main__":
    unittest.main(verbosity=2)

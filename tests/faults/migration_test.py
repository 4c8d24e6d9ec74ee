"""The whole migration: a Realtime Database into a REST service on PostgreSQL, by crawl, listen, publish, consume, hydrate, reshape and
http-write, any of which - and the service, its database, and the database that is migrated - is killed at random moments, while
documents change, are deleted, made again, and change back (A, B, A), the service fails and refuses by rule, and dlq-replay runs
beside it all. In the end both sides hold the same, and at no time has an older version been written over a newer one.

listen does not see that a document has changed and changed back while nobody listened. What an event of before fetched in between it
mends where it knows the exchange and the subscriber: then nothing may differ before any repair. In each fifth seed it knows neither, and
that stays until reconcile finds it, as the migration's last step: only such documents may differ then, and none after its repair.

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
from orders_server import OrdersServer  # noqa: E402
from pg_server import Postgres  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402

from processes import seeds  # noqa: E402
from subscriber import Command, Line  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "10"))
PER_SEED = 10
DOCUMENTS = 600
CHANGES = 40  # of a round
BLINDING = {"listen", "stream", "rtdb-emulator"}
KILLED = ["crawl", "listen", "publish", "consume", "hydrate", "reshape", "http-write", "orders-api", "postgres", "rtdb-emulator", "stream"]
REFUSED = {"refuse": [{"field": "/status", "value": "lost", "message": "lost is no status"}]}
PROGRAM = """{number, status, created, customer: .customer.name, total, note,
  lines: [.lines // [] | .[] | select(. != null)]} | with_entries(select(.value != null))"""
# What was written, in the order in which it was: a row for each put.
WRITTEN = """
CREATE TABLE written (at bigserial, key text, created bigint);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO written (key, created) VALUES (NEW.key, NEW.created); RETURN NEW; END $$;
CREATE TRIGGER note AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note();
"""


def converted(document):
    """What PROGRAM makes of it."""
    order = {name: document.get(name) for name in ("number", "status", "created", "total", "note")}
    order["customer"] = document.get("customer", {}).get("name")
    order["lines"] = list(document.get("lines", []))
    return {name: value for name, value in order.items() if value is not None}


class Job:
    def __init__(self, folder, db, pg, api, seed):
        self.folder, self.db, self.pg, self.api, self.chance = pathlib.Path(folder), db, pg, api, random.Random(seed)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        (self.folder / "order.jq").write_text(PROGRAM)
        source = db.url + "/orders"
        self.mends = seed % 5 != 0
        fetched = ["--exchange", "x/", "--as", "etl"] if self.mends else []
        self.listen = Command(self, "listen", "listen", source, "--state", "listen.state", "--takeover", "5s", "--silence", "2s", *fetched, "--", "publish x/")
        self.crawl = Command(self, "crawl", "crawl", source, "--state", "crawl.state", "--takeover", "5s", "--after", "listen.state",
                             "--rate", "100/s", "--", "publish x/")
        self.etl = Line(self, "etl", f"hydrate --under {source} --max-in-flight 8 | reshape -f order.jq | http-write {api.url}/orders/{{subject}}"
                                     " --max-in-flight 8 --version-header X-Version --conflict ok")
        self.lines = [self.listen, self.crawl, self.etl]
        self.killed, self.replayed, self.stamp = collections.Counter(), 0, 10**15
        self.rules, self.number, self.blind, self.repaired = {}, 0, set(), 0
        self.changed_in = {}  # the round of a key's last change

    def begin(self):
        self.documents = self.db.get("orders")
        self.keys = list(self.documents)
        self.versions = {key: [document] for key, document in self.documents.items()}  # of a key, in their order; None: deleted
        self.pg.sql(WRITTEN)
        self.listen.start()
        wait_for(lambda: "baseline" in self.listen.said(), what="the baseline")
        self.start()

    def start(self):
        for line in self.lines:
            if line is not self.crawl or line.process is None or line.process.poll() != 0:
                line.start()

    # ---- the live system

    def change(self, key):
        now, path, what = self.documents.get(key), ["orders", key], self.chance.random()
        before = [version for version in self.versions[key] if version not in (now, None)]
        self.stamp += 1
        if what < 0.2 and now is not None:
            new = None
            self.db.delete(path)
        elif what < 0.5 and before:  # A, B, A
            new = before[-1]
            self.db.put(path, new)
        elif what < 0.7 and now is not None:
            some = {"created": self.stamp, "status": self.status(), "note": f"ä {self.stamp}"}
            new = {**now, **some}
            self.db.patch(path, some)
        else:
            new = {"number": self.chance.randrange(1000), "status": self.status(), "created": self.stamp, "total": self.stamp % 1000 / 4,
                   "lines": [{"sku": f"S-{n}", "quantity": n + 1, "cents": self.stamp % 997} for n in range(self.chance.randrange(4))],
                   "customer": {"name": self.chance.choice(["Ada", "Jürgen", "佐藤"])}}
            if not new["lines"]:
                del new["lines"]  # as the database does
            self.db.put(path, new)
        if new is None:
            del self.documents[key]
        else:
            self.documents[key] = new
        self.versions[key].append(new)
        self.changed_in[key] = self.number

    def status(self):
        return self.chance.choice(["paid", "shipped", "new", "lost"])

    # ---- faults

    def rule(self, **rules):
        """Said again to a service that was started again."""
        self.rules = rules
        self.api.rules(**rules)

    def some_rules(self):
        failing = [{"status": 503, "for": "1s"}, {"status": 500, "every": 10, "count": 5}, {"close": "after", "count": 3}, {"close": "before", "count": 3}]
        self.rule(**REFUSED, fail=[self.chance.choice(failing)], latency=self.chance.choice(["1ms", "5ms", "40ms"]))

    def replay(self):
        """Beside all else."""
        if (self.folder / "x/subscribers/etl/dead.ndjson").exists():
            done = run([tool("dlq-replay"), "x/", "--as", "etl"], cwd=self.folder, env=self.environment)
            assert done.exit in (0, 75), done
            self.replayed += 1

    def kill(self, what):
        if what == "stream":
            self.db.control(streams=self.chance.choice(["cut", "auth_revoked", "silence"]))
        elif what in ("orders-api", "postgres", "rtdb-emulator"):
            server = {"orders-api": self.api, "postgres": self.pg, "rtdb-emulator": self.db}[what]
            server.kill()
            time.sleep(self.chance.random() * 0.3)
            server.start()
            if server is self.api:
                self.rule(**self.rules)
        else:
            def killed():
                self.start()
                ended = what == "crawl" and self.crawl.process.poll() == 0  # meanwhile: it is not started again
                return ended or any(line.kill(what) for line in self.chance.sample(self.lines, len(self.lines)))
            wait_for(killed, 120, f"a {what} to kill")  # a pipeline that has lost a stage ends when its sink is through
        self.killed[what] += 1
        if what in BLINDING:
            self.blind |= {self.number, self.number + 1}

    def round(self, number):
        self.number = number
        self.some_rules()
        self.start()
        few = self.chance.sample(self.keys, 12)  # the same ones again and again
        at, replay_at = self.chance.randrange(CHANGES), self.chance.randrange(CHANGES)
        what = KILLED[number % len(KILLED)] if self.chance.random() < 0.5 else self.chance.choice(KILLED)
        if what == "crawl" and self.crawl.process.poll() == 0:
            what = "consume"
        for n in range(CHANGES):
            self.change(self.chance.choice(few))
            time.sleep(self.chance.random() * 0.01)
            if n == replay_at:
                self.replay()
            if n == at:
                self.kill(what)
                if self.chance.random() < 0.5:
                    time.sleep(self.chance.random() * 0.2)
                self.start()
        time.sleep(self.chance.random() * 0.5)

    # ---- the end

    def finish(self):
        """What is told is told, and what is published is written; what was refused is, when the rule is gone."""
        self.rule(**REFUSED)
        lost = {"number": 1, "status": "lost", "created": self.stamp + 1}
        self.documents["~last"], self.versions["~last"] = lost, [lost]
        self.db.put(["orders", "~last"], lost)

        def refused():
            self.start()
            return self.letters_of("~last")
        wait_for(refused, 120, "a dead letter")
        self.replay()
        self.rule()

        def crawled():
            self.start()
            return self.crawl.process.poll() == 0
        wait_for(crawled, 120, "the crawl")
        last = {"number": 1, "status": "last", "created": self.stamp + 2}
        self.documents["~last"] = last
        self.versions["~last"].append(last)
        self.db.put(["orders", "~last"], last)  # listen tells it behind all others

        def written():
            self.start()
            return self.pg.sql("SELECT status FROM orders WHERE key = '~last'") == [["last"]]
        wait_for(written, 120, "the last change to be written")
        self.listen.stop()
        self.etl.drain()
        self.replay()
        self.etl.drain()
        self.change_back_unseen("~last")
        if self.mends:
            self.listen_once_more()

    def change_back_unseen(self, key):
        """Nobody listens, and an event that was still in the queue fetches what is there in between."""
        before, path = self.documents[key], ["orders", key]
        self.db.put(path, {**before, "status": "between"})
        late = run([tool("crawl"), self.db.url + "/orders", "--doc", key], cwd=self.folder)
        assert run([tool("publish"), "x/"], late.stdout, cwd=self.folder).exit == 0
        self.etl.drain()
        self.db.put(path, before)
        self.versions[key] += [{**before, "status": "between"}, before]
        self.changed_in[key] = self.number
        self.blind.add(self.number)

    def listen_once_more(self):
        """Until all that this connection tells is told: the second put is behind all that it began with."""
        for name in ("first", "second"):
            self.stamp += 10
            put = {"number": 1, "status": name, "created": self.stamp}
            self.documents["~fence"] = put
            self.versions.setdefault("~fence", []).append(put)
            self.db.put(["orders", "~fence"], put)

            def written(name=name):
                self.start()
                return self.pg.sql("SELECT status FROM orders WHERE key = '~fence'") == [[name]]
            wait_for(written, 120, f"the {name} fence to be written")
        self.listen.stop()
        self.etl.drain()

    def letters_of(self, key):
        dead = self.folder / "x/subscribers/etl/dead.ndjson"
        return dead.exists() and json.dumps(key).encode() in dead.read_bytes()

    def letters(self):
        done = run([tool("dlq-replay"), "x/", "--as", "etl", "--export"], cwd=self.folder)
        assert done.exit == 0, done
        return done.stdout.splitlines()

    def differ(self):
        wanted, found = {key: converted(document) for key, document in self.documents.items()}, self.api.orders()
        return sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))

    def reconcile(self, *more):
        """In full, from both sides. With --emit it exits 1 where they differ, as without."""
        left = f"crawl {self.db.url}/orders --with-data | reshape -f order.jq | jq -c '.data + {{key: .subject}}'"
        return run([tool("reconcile"), "--key", "key", "--left", left, "--right", f"curl -fsS {self.api.url}/orders", *more], cwd=self.folder,
                   env=self.environment)

    def unseen(self, key):
        """Whether it may have changed back while nobody listened."""
        return self.changed_in.get(key) in self.blind and self.versions[key][-1] in self.versions[key][:-1]

    def repair(self, test):
        """What reconcile finds goes through the same queue; what is extra, by its key."""
        differ = self.differ()
        test.assertIn("~last", differ)
        test.assertEqual([(key, self.versions[key][-6:]) for key in differ if not self.unseen(key)], [], "not in step, though listen has seen it")
        found = self.reconcile("--emit", "missing,different", "--dataref", self.db.url + "/orders/{subject}.json")
        test.assertEqual(found.exit, 1, found.stderr)
        extra = [word for key in differ if key not in self.documents for word in ("--doc", key)]
        gone = run([tool("crawl"), self.db.url + "/orders", *extra], cwd=self.folder) if extra else None
        events = found.stdout + (gone.stdout if gone else "")
        test.assertEqual(run([tool("publish"), "x/"], events, cwd=self.folder).exit, 0)
        self.etl.drain()
        self.repaired = len(differ)

    def compare(self, test):
        test.assertEqual(self.db.get("orders"), self.documents)
        test.assertEqual(self.letters(), [], "dead letters that a replay under no rule has left")
        if not self.mends:
            self.repair(test)
        test.assertEqual([(key, self.versions[key][-6:]) for key in self.differ()], [], "not in step")
        proof = self.reconcile()
        test.assertEqual(proof.exit, 0, proof.stderr)
        written = collections.defaultdict(list)
        for key, created in self.pg.sql("SELECT key, created FROM written ORDER BY at"):
            written[key].append(created)
        for key, stamps in written.items():
            versions, at = [version and str(version["created"]) for version in self.versions[key]], 0
            for stamp in stamps:
                later = [n for n in range(at, len(versions)) if versions[n] == stamp]
                test.assertTrue(later, f"{key}: an older version was written over a newer one: {stamps} of {versions}")
                at = later[0]
        self.writes = sum(map(len, written.values()))


class Migration(unittest.TestCase):
    def one_seed(self, seed, rounds):
        with tempfile.TemporaryDirectory(prefix="inflight-migration-") as folder, \
                RtdbServer("--documents", str(DOCUMENTS), "--seed", str(seed), "--keep-alive", "200ms", "--data", "{dir}/log") as db, \
                Postgres() as pg, OrdersServer(pg, "--connections", "5", "--version-header", "X-Version", "--retry-after", "0") as api:
            job = Job(folder, db, pg, api, seed)
            try:
                job.begin()
                for number in range(rounds):
                    job.round(number + seed)
                job.finish()
                job.compare(self)
            except BaseException:
                print(f"\nSEED={seed}", file=sys.stderr)
                for line in job.lines:
                    print(f"---- {line.name}\n{line.said()}", file=sys.stderr)
                raise
            finally:
                for line in job.lines:
                    line.end()
            kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
            changes = sum(len(versions) - 1 for versions in job.versions.values())
            print(f"summary: SEED={seed}: killed {kills}; {changes} changes of {DOCUMENTS} documents, {job.writes} writes, "
                  f"{job.replayed} replays, {'lost 0 before any repair' if job.mends else f'{job.repaired} changed back unseen and were reconciled, lost 0'}, none older over a newer one", flush=True)

    def test_both_sides_agree_whatever_is_killed(self):
        for seed, rounds in seeds(ROUNDS, PER_SEED):
            self.one_seed(seed, rounds)


if __name__ == "__main__":
    unittest.main(verbosity=2)

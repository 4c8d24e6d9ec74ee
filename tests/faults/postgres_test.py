"""Rows in PostgreSQL: whatever is killed - all of PostgreSQL, sql-write, consume - no event is lost, each key ends with its last
event, and what was told to be settled is in a server that was killed.

FAULT_ROUNDS kills in all, in seeds of ten, every second one behind PgBouncer; SEED is the first one.
"""
import collections
import contextlib
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
from pg_server import Bouncer, Postgres  # noqa: E402

from processes import seeds  # noqa: E402
from subscriber import Line  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "10"))
PER_SEED = 10
EVENTS = 1500  # of a round
SUBJECTS = 60


class Job:
    def __init__(self, folder, pg, url, seed):
        self.folder, self.pg, self.chance = pathlib.Path(folder), pg, random.Random(seed)
        self.environment = {**pg.environment, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.events = []
        pg.sql("CREATE TABLE latest(subject text PRIMARY KEY, n int NOT NULL, s int, time timestamptz);"
               "CREATE TABLE shared(LIKE latest INCLUDING ALL); CREATE TABLE every(id int PRIMARY KEY, n int)")
        # No version is compared: that the last event of a subject is the one that stays comes of the order alone.
        columns = "--column subject=subject --column n=/n --column s=/s --column time=time"
        several = f"sql-write '{url}' --table shared {columns} --max-in-flight $(cat connections)"  # another number after each kill
        self.lines = [Line(self, "latest", f"sql-write '{url}' --table latest {columns}"), Line(self, "shared", several),
                      Line(self, "every", f"sql-write '{url}' --table every --column id=id --column n=/n --on-delete ignore --batch-records 100")]
        self.killed, self.behind, self.checked = collections.Counter(), 0, 0

    def publish(self):
        batch = []
        for _ in range(EVENTS):
            n = len(self.events)
            event = {"specversion": "1.0", "id": f"{n}", "source": "test", "type": "t", "subject": f"s{self.chance.randrange(SUBJECTS)}",
                     "time": f"2018-07-01T00:00:00.{n % 1000000:06}Z", "recordedtime": "2018-07-01T00:00:00Z"}
            if self.chance.random() < 0.05:
                event["type"] = "t.deleted"
            else:
                event["data"] = {"n": n, **({"s": n % 3} if n % 2 else {})}
            self.events.append(event)
            batch.append(json.dumps(event))
        done = run([tool("publish"), "x/"], "\n".join(batch) + "\n", cwd=self.folder)
        assert (done.exit, done.stderr) == (0, ""), done

    def round(self):
        (self.folder / "connections").write_text(f"{self.chance.choice([1, 2, 4, 4])}")
        for line in self.lines:
            line.start()
        self.publish()
        time.sleep(self.chance.random() * 0.25)
        if any(line.cursor() < len(self.events) for line in self.lines):
            self.behind += 1
        what = self.chance.choice(["postgres", "postgres", "sql-write", "sql-write", "consume"])
        if what == "postgres":
            self.pg.kill()
            settled = self.lines[-1].cursor()
            time.sleep(self.chance.random() * 0.1)
            self.pg.start()
            self.killed[what] += 1
            stored = self.stored()
            lost = [e["id"] for e in self.events[:settled] if "data" in e and int(e["id"]) not in stored]
            assert not lost, f"settled before the server was killed, and gone: {lost[:10]} of {len(lost)}"
            self.checked += settled
        else:
            line = self.chance.choice(self.lines)
            self.killed[what] += bool(wait_for(lambda: line.kill(what) or (line.start(), False)[1], 30, f"a {what}"))

    def stored(self):
        return {int(n) for n, in self.pg.sql("SELECT n FROM every")}

    def compare(self, test):
        for line in self.lines:
            test.assertEqual(line.cursor(), len(self.events))
            test.assertFalse((self.folder / "x/subscribers" / line.name / "dead.ndjson").exists(), f"{line.name} has dead letters")
        test.assertEqual(self.stored(), {int(e["id"]) for e in self.events if "data" in e})
        last = {e["subject"]: e for e in self.events}
        expected = sorted([subject, str(e["data"]["n"]), str(e["data"]["s"]) if "s" in e["data"] else None] for subject, e in last.items() if "data" in e)
        for table in "latest", "shared":
            test.assertEqual(sorted(self.pg.sql(f"SELECT subject,n,s FROM {table}")), expected)


class PostgresFaults(unittest.TestCase):
    def one_seed(self, seed, rounds, bounced):
        with tempfile.TemporaryDirectory(prefix="inflight-pg-") as folder, Postgres() as pg, contextlib.ExitStack() as more:
            server = more.enter_context(Bouncer(pg)) if bounced else pg
            job = Job(folder, pg, server.url, seed)
            try:
                for _ in range(rounds):
                    job.round()
                for line in job.lines:
                    line.drain()
                job.compare(self)
            except BaseException:
                print(f"\nSEED={seed}", file=sys.stderr)
                for name in "latest", "shared", "every":
                    print(f"---- {name}\n{(job.folder / f'{name}.err').read_text(errors='replace')[-2500:]}", file=sys.stderr)
                raise
            finally:
                for line in job.lines:
                    line.end()
            self.assertGreater(job.behind, 0, "nothing was under way when it was killed")
            kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
            print(f"summary: SEED={seed}{' behind PgBouncer' if bounced else ''}: killed {kills}, {job.behind} of them with events under way; "
                  f"{len(job.events)} events, lost 0, doubled 0, {SUBJECTS} keys with their last; "
                  f"{job.checked} settled positions looked up after a kill of the server", flush=True)
            return job.checked

    def test_nothing_is_lost_and_the_last_stays_whatever_is_killed(self):
        checked = 0
        for seed, rounds in seeds(ROUNDS, PER_SEED):
            checked += self.one_seed(seed, rounds, seed % 2 == 1)
        if ROUNDS >= PER_SEED:
            self.assertGreater(checked, 0, "no settled event was looked up")


if __name__ == "__main__":
    unittest.main(verbosity=2)

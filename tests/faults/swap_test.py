"""The engine swap: a fleet that flies into InfluxDB gets Postgres as a second subscriber, the past from the archive, what is older than
that from InfluxDB, and what Postgres then loses from the archive again, by find-gaps; while any of bsu-fetch, publish, consume, s3-archive,
xml2json, throttle, influx-write, influx-read, sql-write and both databases is killed (SIGKILL) at random moments. In the end both hold
exactly what was published, reconcile says so, each event stands in the archive once, and find-gaps finds nothing that the archive holds.

FAULT_ROUNDS kills in all, in seeds of ten; SEED is the first one.
"""
import collections
import datetime
import json
import os
import pathlib
import random
import re
import shlex
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, Server, nanoseconds, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer, installed  # noqa: E402
from pg_server import Postgres  # noqa: E402

from processes import seeds  # noqa: E402
from subscriber import Command, Line  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "10"))
PER_SEED = 10
UNITS = 30
PAST, OLDER = 600, 300  # seconds: in the archive, and before that
SERVERS = ["influxd", "postgres"]
KILLED = ["bsu-fetch", "publish", "consume", "s3-archive", "xml2json", "throttle", "influx-write", "influx-read", "sql-write", *SERVERS]
COLUMNS = ["status=/bsu/status", "power=/bsu/power/#text:float", "uptime=/bsu/uptime/#text:int"]
OPTIONS = {
    "bsu.opts": ["time = /bsu/@time", "infer"],
    "points.opts": ["measurement = reading", *(f"field = {column}" for column in COLUMNS)],
    "rows.opts": ["table = reading", "key = subject,time", "column = subject=subject", "column = time=time",
                  *(f"column = {column}" for column in COLUMNS)],
}


def stamp(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def point(line):
    """Of an event: unit and time, and what the databases hold of it."""
    event = json.loads(line)
    text = event["data"]

    def of(pattern):
        return re.search(pattern, text).group(1)
    return ((event["subject"], nanoseconds(of(r' time="([^"]+)"'))),
            (of(r"<status>(\w+)<"), float(of(r"<power[^>]*>([^<]+)<")), int(of(r"<uptime[^>]*>([^<]+)<"))))


class Job:
    def __init__(self, folder, sim, influx, pg, seed):
        self.folder, self.influx, self.pg, self.chance = pathlib.Path(folder), influx, pg, random.Random(seed)
        for name, lines in OPTIONS.items():
            (self.folder / name).write_text("\n".join(lines) + "\n")
        self.environment = {**pg.environment, "PATH": f"{BIN}:{os.environ['PATH']}", "OLD": f"{influx.url}?db=bsu", "NEW": pg.url}
        self.began = int(time.time())
        self.devices = f"{sim.dir}/fleet.txt"
        write = "xml2json --options bsu.opts | sql-write $NEW --options rows.opts"
        self.live = Command(self, "live", "bsu-fetch", "--devices", self.devices, "--every", "1s", "--", "publish x/")
        self.archive = Line(self, "archive", "s3-archive put archive/ --max-age 300ms --max-records 2000")
        self.old = Line(self, "old", "xml2json --options bsu.opts | influx-write $OLD --options points.opts")
        self.new = Line(self, "new", write, "--from", "latest", "--optional")
        self.older = Command(self, "older", "influx-read", f"{influx.url}?db=bsu", "--measurement", "reading", "--to", stamp(self.began - PAST), "--state",
                             "older.state", "--takeover", "5s", "--settle", "2s", "--", "throttle --rate 2000/s | sql-write $NEW --table reading --key subject,time --batch-records 50")
        self.back = None
        self.fill = Command(self, "fill", "s3-archive", "get", "archive/", "--ranges", "ranges", "--slack", "2s", "--state", "fill.state",
                            "--takeover", "5s", "--settle", "2s", "--", write)
        self.throttled = f"throttle --rate 3000/s | {write} --batch-records 100"
        self.flying, self.once, self.killed, self.lost = [self.live, self.archive, self.old], [], collections.Counter(), 0

    def shell(self, line, check=True):
        done = run(["bash", "-o", "pipefail", "-c", line], cwd=self.folder, env=self.environment, timeout=120)
        assert done.exit == 0 or not check, (line, done)
        return done

    def past(self, begin, end):
        return f"bsu-sim --units {UNITS} --firmware attributes --cadence 1s --from {stamp(begin)} --to {stamp(end)}"

    def begin(self):
        self.influx.create("bsu")
        self.pg.sql("CREATE TABLE reading (subject text, time timestamptz, status text, power float8, uptime int8, PRIMARY KEY (subject, time))")
        self.shell(f"{self.past(self.began - PAST - OLDER, self.began - PAST)} | tee older.ndjson | xml2json --options bsu.opts | influx-write $OLD --options points.opts")
        self.shell(f"{self.past(self.began - PAST, self.began)} | publish x/")
        self.start()

    def start(self):
        for line in self.flying:
            line.start()
        for line in self.once:
            if line.process is None or not line.running() and line.process.returncode != 0:
                # 75 is for later; what else it ends with is a defect, a kill excepted.
                assert line.process is None or line.process.returncode in (75, -9), (line.name, line.process.returncode, line.said())
                line.start()

    # ---- the swap, step by step

    def add_new(self):
        """Older points come from the old database meanwhile."""
        self.flying.append(self.new)
        self.once.append(self.older)

    def backfill(self):
        """Of the archive when it has all that the new subscriber does not see."""
        wait_for(self.is_archived, 120, "the archive")
        self.back = Command(self, "back", "s3-archive", "get", "archive/", "--to", stamp(time.time()), "--state", "back.state", "--takeover", "5s",
                            "--settle", "2s", "--", self.throttled)
        self.once.append(self.back)

    def is_archived(self):
        self.start()
        if not hasattr(self, "first"):
            self.first = self.new.cursor() if (self.folder / "x/subscribers/new/state.json").exists() else None
        return self.first is not None and self.archive.cursor() >= self.first

    def done(self, line):
        self.start()
        return line.process is not None and line.process.poll() == 0

    def lose(self):
        """Rows are lost, of some units or of all; the archive has them again."""
        wait_for(lambda: self.done(self.back), 120, "the backfill")
        begin = self.began - self.chance.randrange(60, PAST)
        end = min(begin + self.chance.randrange(20, 120), self.began)
        units = self.chance.choice(["", " AND subject LIKE '%7'"])
        self.lost += len(self.pg.sql(f"DELETE FROM reading WHERE time >= '{stamp(begin)}' AND time < '{stamp(end)}'{units} RETURNING 1"))

        def known():
            self.start()
            return self.shell("sql-read $NEW --table reading --columns subject,time | " + self.find_gaps() + " > ranges", check=False).exit == 0
        wait_for(known, 120, "the gaps")
        self.once.append(self.fill)

    def find_gaps(self):
        return f"find-gaps --every 1s --subjects {shlex.quote(self.devices)} --from {stamp(self.began - PAST)} --to {stamp(self.began)}"

    # ---- faults

    def kill(self):
        """Something that is there, half of the times the one that was killed least."""
        fewest = sorted(KILLED, key=lambda name: (self.killed[name], self.chance.random()))
        for what in fewest if self.chance.random() < 0.5 else self.chance.sample(KILLED, len(KILLED)):
            if what in SERVERS:
                server = {"influxd": self.influx, "postgres": self.pg}[what]
                server.kill()
                time.sleep(self.chance.random() * 0.3)
                server.start()
            else:
                lines = self.flying + self.once
                if not any(line.kill(what) for line in self.chance.sample(lines, len(lines))):
                    continue
            self.killed[what] += 1
            return

    def round(self, number):
        step = {2: self.add_new, 3: self.backfill, 6: self.lose}.get(number)
        if step:
            step()
        self.start()
        time.sleep(self.chance.random() * 0.7)
        self.kill()
        if self.chance.random() < 0.5:
            time.sleep(self.chance.random() * 0.3)
        self.start()

    # ---- the end

    def finish(self):
        for line in self.once:
            wait_for(lambda line=line: self.done(line), 120, line.name)
        self.live.stop()
        for line in (self.archive, self.old, self.new):
            line.drain()

    def compare(self, test):
        events = [line for path in sorted((self.folder / "x").glob("*.ndjson")) for line in path.read_text().splitlines()]
        older = (self.folder / "older.ndjson").read_text().splitlines()
        wanted = dict(map(point, events + older))
        in_influx = [((row["subject"], row["time"]), (row["status"], row["power"], row["uptime"])) for row in self.influx.query("bsu", "select * from reading")]
        rows = self.pg.sql("SELECT subject, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), status, power, uptime FROM reading")
        in_postgres = [((subject, nanoseconds(at)), (status, float(power), int(uptime))) for subject, at, status, power, uptime in rows]
        for name, found in ("InfluxDB", in_influx), ("Postgres", in_postgres):
            test.assertEqual(len(found), len(dict(found)), f"doubled in {name}")
            test.assertEqual(sorted(wanted.keys() - dict(found).keys())[:3], [], f"lost in {name}")
            test.assertEqual(dict(found), wanted, name)
        archived = self.shell("zstdcat $(find archive -name '*.ndjson.zst' -not -path '*/.*')").stdout.splitlines()
        test.assertEqual(collections.Counter(archived), collections.Counter(events), "the archive")
        test.assertEqual(self.shell("s3-archive verify archive/").stderr, "")
        proof = self.shell("reconcile --key subject,time --left 'influx-read $OLD --measurement reading' --right 'sql-read $NEW --table reading'", check=False)
        test.assertEqual(proof.exit, 0, proof.stderr)
        holes = self.shell("sql-read $NEW --table reading --columns subject,time | " + self.find_gaps()).stdout
        could = self.shell("s3-archive get archive/ | xml2json --options bsu.opts | " + self.find_gaps()).stdout
        test.assertEqual(holes, could)
        self.points, self.events = len(wanted), len(events)


@unittest.skipUnless(installed(), "influxdb is not installed")
class Swap(unittest.TestCase):
    def one_seed(self, seed, rounds):
        fleet = Server([tool("bsu-sim"), "--units", str(UNITS), "--port", "{port}", "--devices", "{dir}/fleet.txt", "--firmware", "attributes"])
        with tempfile.TemporaryDirectory(prefix="inflight-swap-") as folder, fleet as sim, InfluxServer() as influx, Postgres() as pg:
            job = Job(folder, sim, influx, pg, seed)
            try:
                job.begin()
                for number in range(rounds):
                    job.round(number)
                for step in (job.add_new, job.backfill, job.lose)[sum(rounds > at for at in (2, 3, 6)):]:
                    step()
                job.finish()
                job.compare(self)
            except BaseException:
                print(f"\nSEED={seed}", file=sys.stderr)
                for line in job.flying + job.once:
                    print(f"---- {line.name}\n{line.said()}", file=sys.stderr)
                raise
            finally:
                for line in {job.new, *job.flying, job.older, job.fill, *job.once}:
                    line.end()
            kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
            print(f"summary: SEED={seed}: killed {kills}; {job.events} events, {job.points} points in each database; "
                  f"{job.lost} lost on purpose and filled; lost 0, doubled 0", flush=True)

    def test_both_engines_hold_what_was_published_whatever_is_killed(self):
        for seed, rounds in seeds(ROUNDS, PER_SEED):
            self.one_seed(seed, rounds)


if __name__ == "__main__":
    unittest.main(verbosity=2)

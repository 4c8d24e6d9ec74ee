"""Job 1 on the embedded defaults while kill -9 meets any of its processes: nothing lost, nothing doubled (job1.py)."""
import collections
import os
import sqlite3
import time
import unittest

from job1 import CONVERT, Job, Seeds, nanoseconds, newest, same

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "20"))
STATUS = ("--column subject=subject --column time=time --column id=id --column power=/bsu/power/#text:float"
          " --column status=/bsu/status")

# A foreign stage that passes its input on, but swallows an event in a few hundred, once, without a word, so that it
# comes again behind newer ones; that takes its time to end; and that says whether anything of another run is alive when
# it begins.
ALONE = r"""
import os, signal, sys, time, zlib
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
def field(pid, name):
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file: return file.read()
    except OSError: return b""
def run_of(pid):
    entries = dict(e.partition(b"=")[::2] for e in field(pid, "environ").split(b"\0"))
    if any(entries.get(name) != os.environb[name] for name in (b"FAULT_JOB", b"FAULT_LINE")): return None
    return entries.get(b"RECEIPTS_FD", b"").rpartition(b":")[2] or None
def say(what):
    out = os.open("alone.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(out, f"{what} {os.getpid()}\n".encode())
    os.close(out)
mine = run_of("self")
others = [pid for pid in os.listdir("/proc") if pid.isdigit() and run_of(pid) not in (None, mine)]
say("start" if not others else f"overlap with {others} by")
try:
    with open("alone.log") as log: swallowed = {line.split()[1] for line in log if line.startswith("swallow")}
except OSError: swallowed = set()
def keep(line):
    mark = zlib.crc32(line[line.index(b",") + 1:])
    if mark % 401 != int(sys.argv[1]) % 401 or str(mark) in swallowed: return True
    swallowed.add(str(mark))
    say(f"swallow {mark} by")
    return False
rest = b""
while block := os.read(0, 65536):
    *lines, rest = (rest + block).split(b"\n")
    block = b"".join(line + b"\n" for line in lines if keep(line))
    while block: block = block[os.write(1, block):]
os.write(1, rest)
time.sleep(os.urandom(1)[0] / 1000)
say("end")
"""


def rows(folder, file, sql, *values):
    if not (folder / file).exists():
        return []
    base = sqlite3.connect(folder / file, timeout=60)
    try:
        base.row_factory = sqlite3.Row
        return base.execute(sql, values).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise
    finally:
        base.close()


class EmbeddedJob(Job):
    LINES = {
        "fetch": ["bsu-fetch", "--devices", "fleet.txt", "--every", "1s", "--", "publish", "fleet/"],
        "backfill": ["consume", "fleet/", "--as", "backfill", "--", "s3-archive", "put", "archive/", "--max-records", "700",
                     "--max-age", "400ms"],
        "monitoring": ["consume", "fleet/", "--as", "monitoring", "--",
                       f"{CONVERT} | sql-write sqlite:status.db --create --table status --key subject"
                       f" --on-conflict newer:time {STATUS}"],
        "data": ["consume", "fleet/", "--as", "data", "--",
                 f"{CONVERT} | sql-write sqlite:fleet.db --table reading --key subject,time"],
        # Whatever comes last stands: right only where no older event of a unit follows a newer one.
        "latest": ["consume", "fleet/", "--as", "latest", "--settle", "1s", "--",
                   f"python3 -ISB alone.py SEED | {CONVERT} | sql-write sqlite:latest.db --create --table status"
                   f" --key subject {STATUS}"],
    }

    def prepare(self):
        (self.dir / "alone.py").write_text(ALONE)

    def objects(self, seen):
        for path in (self.dir / "archive").glob("date=*/hour=*/[!.]*.zst"):
            if path not in seen:
                yield path, path.read_bytes()

    def not_stored(self, name, positions):
        if name == "backfill":
            return self.not_archived(positions)
        if name == "data":
            there = {(r["subject"], nanoseconds(r["time"])) for r in self.select_keys(positions)}
            return {p for p in positions if (self.expected[p].subject, self.expected[p].time) not in there}
        if name == "monitoring":
            times = {r["subject"]: nanoseconds(r["time"]) for r in rows(self.dir, "status.db", "SELECT subject, time FROM status")}
            return self.older(positions, times)
        return set()  # an older event may stand there while it is delivered again; the end tells

    def select_keys(self, positions):
        found, times = [], collections.defaultdict(list)
        for p in positions:
            if self.expected[p].time is not None:
                times[self.expected[p].subject].append(self.expected[p].time)
        for subject, wanted in times.items():
            first, last = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 10**9 + more))
                           for at, more in ((min(wanted), -1), (max(wanted), 2)))
            found += rows(self.dir, "fleet.db", "SELECT subject, time FROM reading WHERE subject=? AND time BETWEEN ? AND ?",
                          subject, first, last)
        return found

    def compare_stores(self, test, good):
        self.compare_readings(test, good)
        self.compare_status(test, "status.db", newest(good))
        self.compare_status(test, "latest.db", {e.subject: e for e in good})
        log = (self.dir / "alone.log").read_text().splitlines()
        test.assertEqual([entry for entry in log if entry.startswith("overlap")], [])
        self.swallowed = sum(entry.startswith("swallow") for entry in log)
        test.swallowed += self.swallowed

    def compare_readings(self, test, good):
        found = {}
        for row in rows(self.dir, "fleet.db", "SELECT * FROM reading"):
            key = row["subject"], nanoseconds(row["time"])
            test.assertNotIn(key, found, "two rows of one reading")
            found[key] = row
        wanted = {(e.subject, e.time): e for e in good}
        test.assertEqual(wanted.keys() - found.keys(), set(), "not in the table")
        test.assertEqual(found.keys() - wanted.keys(), set(), "in the table, but not in the journal")
        for key, e in wanted.items():
            stored = {name: value for name, value in dict(found[key]).items() if value is not None and name != "time"}
            test.assertEqual(stored.keys(), e.columns.keys(), key)
            wrong = {n: (v, e.columns[n]) for n, v in stored.items() if not same(v, e.columns[n])}
            test.assertEqual(wrong, {}, key)

    def compare_status(self, test, file, wanted):
        found = {row["subject"]: row for row in rows(self.dir, file, "SELECT * FROM status")}
        test.assertEqual(found.keys(), wanted.keys(), file)
        for subject, e in wanted.items():
            row = found[subject]
            test.assertEqual((row["id"], nanoseconds(row["time"])), (e.id, e.time),
                             f"{file}: {subject} is not the newest")
            test.assertEqual((row["status"], row["power"]), (e.columns["status"], float(e.columns["power"])), file)

    def more(self):
        return f"{self.swallowed} only at the second time"


class Job1(Seeds, unittest.TestCase):
    job, rounds, rounds_per_seed = EmbeddedJob, ROUNDS, 10 if ROUNDS <= 40 else 50
    swallowed = 0

    def test_the_fleet_loses_and_doubles_nothing_whatever_is_killed(self):
        self.all_seeds()
        self.assertGreater(self.swallowed, 0, "nothing was swallowed")


if __name__ == "__main__":
    unittest.main(verbosity=2)

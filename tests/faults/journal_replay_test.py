"""Dead letters under kill -9: in each seeded round letters are replayed, through the subscriber's queue or by dlq-replay's own
pipeline, and a process - dlq-replay, consume, a stage, the sink, their shell - is killed at a random instant. Half-way the cause
of most letters is mended; new events of the same keys come all the while.

After every round each event is stored, or has one open letter, or neither only while it waits for its turn; in the end nothing
waits, and the last write of each key is its newest version.

FAULT_ROUNDS says how many rounds; FAULT_SEED when what is killed.
"""
import json
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "8"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
KEYS = 12

# Rejects the events whose numbers stand in the file `bad`, as a tool of ours would; passes the others on.
STAGE = r"""
import json, os, sys
channel = int(os.environ["RECEIPTS_FD"].split(":")[0])
for line in sys.stdin:
    event = json.loads(line)
    with open("bad") as file:
        bad = event["id"] in file.read().split()
    if not bad:
        sys.stdout.write(line)
        sys.stdout.flush()
    else:
        os.write(channel, (json.dumps({"delivery": event["delivery"], "status": "rejected", "by": "stage", "reason": "bad"}) + "\n").encode())
"""

# One transaction an event, in their order. What is written is remembered.
TABLES = """
create table newest (subject text primary key, n integer);
create table written (n integer primary key);
create trigger inserted after insert on newest
begin insert into written select new.n where not exists (select 1 from written where n = new.n); end;
create trigger updated after update on newest
begin insert into written select new.n where not exists (select 1 from written where n = new.n); end;
"""
PIPELINE = (f"{sys.executable} -ISB stage.py | sql-write sqlite:out.db --table newest --key subject --column subject=subject"
            " --column n=/n --batch-records 1 --linger 5ms")


class Replays(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-replays-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.chance = random.Random(SEED)
        self.count = 0
        (self.folder / "stage.py").write_text(STAGE)
        with sqlite3.connect(self.folder / "out.db") as db:
            db.execute("pragma journal_mode = wal")
            db.executescript(TABLES)
        db.close()

    def query(self, text):
        db = sqlite3.connect(self.folder / "out.db", timeout=30)
        try:
            return db.execute(text).fetchall()
        finally:
            db.close()

    def bad(self, numbers):
        (self.folder / "bad.new").write_text(" ".join(map(str, sorted(numbers))))
        os.replace(self.folder / "bad.new", self.folder / "bad")

    def publish(self, count):
        text = ""
        for n in range(self.count, self.count + count):
            text += json.dumps({"specversion": "1.0", "id": str(n), "source": "test", "type": "t",
                                "subject": f"k{self.chance.randrange(KEYS) if n >= KEYS else n}", "data": {"n": n}}) + "\n"
        self.count += count
        self.assertEqual(run([tool("publish"), "x/"], text, cwd=self.folder), (0, "", ""))

    def start(self, *command):
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True)

    def consume(self):
        return self.start(tool("consume"), "x/", "--as", "data", "--until-empty", "--", PIPELINE)

    def replay(self, *words):
        return self.start(tool("dlq-replay"), "x/", "--as", "data", "--max-attempts", "1000000", *words)

    def finish(self, process):
        self.assertEqual(process.wait(120), 0)

    def of_session(self, session):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                    if int(file.read().rsplit(")", 1)[1].split()[3]) == session:
                        found.append(int(pid))
            except (FileNotFoundError, ProcessLookupError):
                pass
        return sorted(found)

    def kill_something(self, process):
        """The tool itself, or one of what it started; then it goes on for a while, and is killed as well."""
        time.sleep(self.chance.uniform(0, 0.6))
        victim = self.chance.choice(self.of_session(process.pid) or [process.pid])
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # it had just come to its end
            process.wait(120)
            return None
        if victim != process.pid and self.chance.random() < 0.5:
            try:
                process.wait(self.chance.uniform(0, 1))
            except subprocess.TimeoutExpired:
                pass
        process.kill()
        process.wait()
        return "tool" if victim == process.pid else "stage"

    def letters(self):
        """number of the event -> open?; each attempt stands once, the attempts in their order."""
        path = self.folder / "x/subscribers/data/dead.ndjson"
        attempts, opened = {}, {}
        for line in path.read_text().split("\n")[:-1]:
            letter = json.loads(line)
            if "position" in letter:
                self.assertEqual(letter["attempt"], attempts.get(letter["position"], 0) + 1, "an attempt stands twice, or was lost")
                self.assertEqual(letter["event"]["id"], str(letter["position"]))
                attempts[letter["position"]] = letter["attempt"]
                opened[letter["position"]] = True
            else:
                self.assertTrue(opened[letter["closed"]], "a letter was closed twice")
                opened[letter["closed"]] = False
        return opened

    def check(self, bad):
        letters = self.letters()
        written = {row[0] for row in self.query("select n from written")}
        for n, is_open in letters.items():
            self.assertTrue(is_open or n in written, f"the letter of {n} is closed, but {n} was never stored")
        # What never works has never been stored, and what had a letter once has one still.
        self.assertEqual(written & bad, set())
        self.assertEqual({n for n in bad if n in letters}, {n for n in bad if letters.get(n)})
        state = json.loads((self.folder / "x/subscribers/data/state.json").read_text())
        for n in range(state["cursor"]):
            self.assertTrue(n in written or letters.get(n), f"the cursor {state['cursor']} has passed {n}, which is nowhere")
        return letters, written

    def test_letters_survive_kill_9_of_anything(self):
        self.publish(60)
        always = set(self.chance.sample(range(60), 4))
        until_mended = set(self.chance.sample(range(60), 24))
        self.bad(always | until_mended)
        self.finish(self.consume())
        self.assertEqual(set(self.letters()), always | until_mended)
        killed = {"tool": 0, "stage": 0}
        for round_number in range(ROUNDS):
            with self.subTest(round=round_number, seed=SEED):
                if round_number == ROUNDS // 2:
                    self.bad(always)
                self.publish(3)
                if self.chance.random() < 0.5:
                    process = self.replay("--", PIPELINE)
                else:
                    asked = self.replay(*self.chance.choice(([], ["--limit", "5"])))
                    if self.chance.random() < 0.3:
                        time.sleep(self.chance.uniform(0, 0.03))
                        asked.kill()
                    asked.wait()
                    process = self.consume()
                what = self.kill_something(process)
                if what:
                    killed[what] += 1
                self.check(always)
        # Once more, and in peace.
        self.finish(self.consume())
        self.finish(self.replay())
        self.finish(self.consume())
        letters, written = self.check(always)
        self.assertEqual({n for n, is_open in letters.items() if is_open}, always)
        self.assertEqual(written, set(range(self.count)) - always)
        newest = {}
        for line in sorted((self.folder / "x").glob("0*.ndjson")):
            for event in map(json.loads, line.read_text().splitlines()):
                if event["data"]["n"] not in always:
                    newest[event["subject"]] = event["data"]["n"]
        self.assertEqual(dict(self.query("select subject, n from newest")), newest)
        self.assertEqual(run([tool("consume"), "x/", "--check", f"behind=0,dead={len(always)}"], cwd=self.folder), (0, "", ""))
        print(f"summary: {ROUNDS} rounds of replays, {killed['tool']} tools and {killed['stage']} stages killed,"
              f" {self.count} events, {len(letters)} events had letters")


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""dlq-replay on a journal: looking at letters, and delivering them again while consume runs, later, or by itself."""
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool, wait_for  # noqa: E402

# A stage that rejects what the file `bad` names (ID REASON a line), as a tool of ours would; everything else it passes on.
STAGE = r"""
import json, os, sys, time
fd, _, _, token = os.environ["RECEIPTS_FD"].split(":")
here = os.path.dirname(sys.argv[0])
for line in sys.stdin:
    event = json.loads(line)
    with open(here + "/bad") as file:
        bad = dict(entry.rstrip("\n").split(" ", 1) for entry in file)
    reason = bad.get(event["id"], bad.get("*"))
    if reason is None:
        with open(here + "/order", "a") as order:
            order.write(event["id"] + "\n")
        sys.stdout.write(line)
        sys.stdout.flush()
    else:
        os.write(int(fd), (json.dumps({"delivery": event["delivery"], "status": "rejected", "by": "stage", "reason": reason}) + "\n").encode())
"""


def event(number, key=None, **attributes):
    return {"specversion": "1.0", "id": str(number), "source": "test", "type": "t", "subject": key or f"s{number}", "data": {"n": number},
            **attributes}


def ndjson(records):
    return "".join(json.dumps(r) + "\n" for r in records)


class ReplayTest(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="inflight-replay-"))
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.exchange = str(self.dir / "ex")
        self.folder = pathlib.Path(self.exchange) / "subscribers" / "data"
        self.bad({})
        (self.dir / "stage.py").write_text(STAGE)
        self.database = str(self.dir / "out.db")
        self.env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.sink = f"sql-write sqlite:{self.database} --table t --key subject --column subject=subject --column n=/n --linger 20ms"
        self.pipeline = f"python3 {self.dir}/stage.py | {self.sink}"
        with sqlite3.connect(self.database) as db:
            db.execute("create table t (subject text primary key, n integer)")
        db.close()

    def bad(self, reasons):
        (self.dir / "bad.new").write_text("".join(f"{i} {reason}\n" for i, reason in reasons.items()))
        os.replace(self.dir / "bad.new", self.dir / "bad")

    def publish(self, events):
        result = run([tool("publish"), self.exchange], ndjson(events))
        self.assertEqual(result.exit, 0, result.stderr)

    def consume(self, *options, expect=0):
        result = run([tool("consume"), self.exchange, "--as", "data", "--until-empty", *options, "--", self.pipeline], env=self.env)
        self.assertEqual(result.exit, expect, result.stderr)
        return result

    def replay(self, *options, expect=0, stdin="", name="data"):
        result = run([tool("dlq-replay"), self.exchange, "--as", name, *options], stdin, env=self.env)
        self.assertEqual(result.exit, expect, result.stderr)
        return result

    def start(self, *command):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.env)

        def end():
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
        self.addCleanup(end)
        return process

    def letters(self, *options):
        return {letter["event"]["id"]: letter for letter in map(json.loads, self.replay("--export", *options).stdout.splitlines())}

    def rows(self):
        with sqlite3.connect(self.database, timeout=20) as db:
            rows = dict(db.execute("select subject, n from t"))
        db.close()
        return rows

    def check(self, words):
        return run([tool("consume"), self.exchange, "--check", words]).exit == 0

    def assert_each_attempt_stands_once(self):
        seen = set()
        for line in (self.folder / "dead.ndjson").read_text().splitlines():
            letter = json.loads(line)
            if "position" in letter:
                self.assertNotIn((letter["position"], letter["attempt"]), seen)
                seen.add((letter["position"], letter["attempt"]))


class LookTest(ReplayTest):
    def setUp(self):
        super().setUp()
        self.publish([event(i) for i in range(20)])
        self.bad({1: "no column 'a'", 2: "no column 'b'", 3: "timeout after 30 ms", 4: "timeout after 45 ms", 5: "malformed (line 3)",
                  6: "say \"x\"", 7: "say \"y z\""})
        self.consume()

    def test_summary_groups_by_stage_and_reason(self):
        lines = self.replay("--summary").stdout.splitlines()
        counts = {line.split("  ")[-1]: int(line.split()[0]) for line in lines[::2]}
        self.assertEqual(counts, {"stage: no column …": 2, "stage: timeout after … ms": 2, "stage: malformed (line …)": 1, "stage: say …": 2})
        self.assertTrue(all("e.g. position" in line for line in lines[1::2]))

    def test_a_selection_is_shown_and_nothing_moves(self):
        before = (self.folder / "dead.ndjson").read_bytes()
        for options, ids in ((["--reason", "no column"], "12"), (["--reason", "^timeout after (30|31) ms$"], "3"), (["--subject", "s5"], "5"),
                             (["--limit", "3"], "123"), (["--reason", "say", "--limit", "1"], "6"), (["--from", "2099-01-01"], ""),
                             (["--from", "-1h"], "1234567"), (["--to", "-1h"], ""), (["--from", "-1h", "--to", "2100-01-01"], "1234567")):
            for mode in ("--dry-run", "--export"):
                shown = [json.loads(line)["event"]["id"] for line in self.replay(mode, *options).stdout.splitlines()]
                self.assertEqual(shown, list(ids), options)
        self.replay("--reason", "(", "--dry-run", expect=2)
        self.replay("--from", "never", "--dry-run", expect=2)
        self.assertEqual((self.folder / "dead.ndjson").read_bytes(), before)
        self.assertFalse((self.folder / "replay.ndjson").exists())

    def test_letters_hold_the_whole_story(self):
        letter = self.letters()["5"]
        self.assertEqual((letter["position"], letter["attempt"], letter["by"], letter["reason"]), (5, 1, "stage", "malformed (line 3)"))
        self.assertEqual(letter["event"], event(5))

    def test_a_subscriber_that_is_not_there(self):
        self.replay("--summary", expect=2, name="nobody")


class QueueTest(ReplayTest):
    def test_through_a_consume_that_is_started_later(self):
        self.publish([event(i) for i in range(10)])
        self.bad({2: "r", 9: "r", 5: "other"})
        self.consume()
        self.assertEqual(set(self.letters()), {"2", "5", "9"})
        self.bad({})
        self.replay("--reason", "^r$")
        self.assertEqual(set(self.letters()), {"2", "5", "9"})  # only a settled one leaves
        self.consume()
        self.assertEqual(set(self.letters()), {"5"})
        self.assertEqual(sorted(self.rows().values()), [0, 1, 2, 3, 4, 6, 7, 8, 9])
        self.consume()
        self.assertEqual((self.folder / "replay.ndjson").read_bytes(), b"")

    def test_through_a_consume_that_runs(self):
        self.publish([event(i) for i in range(10)])
        self.bad({2: "r", 9: "r"})
        self.start(tool("consume"), self.exchange, "--as", "data", "--", self.pipeline)
        wait_for(lambda: (self.folder / "state.json").exists() and len(self.letters()) == 2, what="the letters")
        wait_for(lambda: len(self.rows()) == 8, what="the rows")
        self.bad({})
        self.replay()
        wait_for(lambda: len(self.rows()) == 10, what="the replay")
        self.publish([event(10)])  # a sink receipts its newest record when another one has come
        wait_for(lambda: len(self.rows()) == 11 and self.check("dead=0"), what="new events")

    def test_consume_without_a_pipeline_prints_them_again(self):
        self.publish([event(i) for i in range(6)])
        self.bad({2: "r", 4: "r"})
        self.consume()
        self.replay()
        printed = run([tool("consume"), self.exchange, "--as", "data", "--until-empty"])
        self.assertEqual([json.loads(line)["id"] for line in printed.stdout.splitlines()], ["2", "4"])
        self.assertEqual(self.letters(), {})

    def test_what_fails_again_is_a_new_attempt_and_no_loop(self):
        self.publish([event(i) for i in range(5)])
        self.bad({3: "first"})
        self.consume()
        self.bad({3: "second"})
        for _ in range(2):  # asking twice is asking once
            self.replay()
        self.consume()
        letter = self.letters()["3"]
        self.assertEqual((letter["attempt"], letter["reason"]), (2, "second"))
        self.assertTrue(self.check("dead=1"))
        self.assertFalse(self.check("dead=0"))
        self.consume()
        self.assertEqual(self.letters()["3"]["attempt"], 2)
        stays = self.replay("--max-attempts", "2")
        self.assertIn("1 letters stay", stays.stderr)
        self.assertEqual(self.replay("--max-attempts", "2", "--dry-run").stdout, "")
        self.consume()
        self.assertEqual(self.letters()["3"]["attempt"], 2)
        self.bad({})
        self.replay()
        self.consume()
        self.assertEqual(self.letters(), {})
        self.assertEqual(len(self.rows()), 5)
        self.assert_each_attempt_stands_once()

    def test_a_limit_is_not_used_up_by_letters_that_stay(self):
        self.publish([event(i) for i in range(4)])
        self.bad({i: "r" for i in range(4)})
        self.consume()
        self.replay("--limit", "2")
        self.consume()  # 0 and 1 have failed twice now
        chosen = self.replay("--limit", "1", "--max-attempts", "2", "--dry-run").stdout.splitlines()
        self.assertEqual([json.loads(line)["event"]["id"] for line in chosen], ["2"])

    def test_newer_events_of_the_key_follow_again(self):
        self.publish([event(i, key=f"k{i % 3}") for i in range(12)])
        self.bad({1: "r", 4: "r", 5: "r"})
        self.consume()
        self.bad({})
        self.replay()
        self.consume()
        self.assertEqual(self.rows(), {"k0": 9, "k1": 10, "k2": 11})
        self.assertEqual(self.letters(), {})

    def test_a_follower_whose_letter_was_closed_follows_again_and_may_fail_again(self):
        # 1 and 4 are of one key. 4 is replayed first; later 1 is, and 4 must follow it, although its letter is closed.
        self.publish([event(i, key=f"k{i % 3}") for i in range(6)])
        self.bad({1: "older", 4: "newer"})
        self.consume()
        self.bad({1: "older"})
        self.replay("--reason", "newer")
        self.consume()
        self.assertEqual(self.rows()["k1"], 4)
        self.bad({4: "newer again"})
        self.replay()
        self.consume()
        letters = self.letters()
        self.assertEqual({i: (letter["attempt"], letter["reason"]) for i, letter in letters.items()}, {"4": (2, "newer again")})
        self.bad({})
        self.replay()
        self.consume()
        self.assertEqual(self.rows(), {"k0": 3, "k1": 4, "k2": 5})
        self.assertEqual(self.letters(), {})

    def test_a_torn_request_takes_no_other_with_it(self):
        self.publish([event(i) for i in range(5)])
        self.bad({1: "r", 3: "r"})
        self.consume()
        (self.folder / "replay.ndjson").write_text('{"replay":1,"att')
        self.bad({})
        self.replay()
        self.consume()
        self.assertEqual(self.letters(), {})
        self.assertEqual(len(self.rows()), 5)

    def test_letters_whose_event_is_gone_from_the_journal(self):
        run([tool("publish"), self.exchange, "--set", "keep=0", "--set", "segment=16KiB"])
        for begin in range(0, 300, 50):
            self.publish([event(i, key=f"k{i % 20}", filler="x" * 300) for i in range(begin, begin + 50)])
        self.bad({3: "r", 23: "r", 60: "r"})
        self.consume()
        self.publish([event(300, key="k3")])
        first = json.loads(run([tool("consume"), self.exchange, "--as", "probe", "--limit", "1"]).stdout)
        self.assertGreater(int(first["id"]), 60)
        self.bad({})
        # What was newer of their keys may be gone as well: nothing moves unless that is said to be right.
        for options in [], ["--dry-run"], ["--", self.pipeline]:
            stays = self.replay(*options)
            self.assertEqual(stays.stdout, "")
            self.assertIn("3 letters stay: newer events of their keys may be gone (--stale-ok)", stays.stderr)
        self.consume()
        self.assertEqual(set(self.letters()), {"3", "23", "60"})
        self.assertEqual(len(self.replay("--stale-ok", "--dry-run").stdout.splitlines()), 3)
        self.replay("--stale-ok")
        listed = run([tool("consume"), self.exchange, "--list"]).stdout
        self.assertEqual([line.split()[5] for line in listed.splitlines()], ["LOST", "0", "0"], listed)
        self.consume()
        self.assertEqual(self.letters(), {})
        self.assertEqual(self.rows(), {f"k{k}": 280 + k if k != 3 else 300 for k in range(20)})

    def test_a_letter_that_became_stale_since_it_was_asked_for_stays(self):
        run([tool("publish"), self.exchange, "--set", "keep=0", "--set", "segment=1KiB"])
        self.publish([event(0), event(1, dataref="file:///x", data=None)])
        self.bad({0: "r", 1: "r"})
        self.consume()
        self.bad({})
        self.replay()  # asked for while the events are there
        self.publish([event(i, filler="x" * 2000) for i in range(2, 4)])
        self.publish([event(4)])
        asked = (self.folder / "replay.ndjson").read_text()
        (self.folder / "replay.ndjson").write_text("")
        self.consume()
        self.publish([event(5)])
        self.assertFalse((pathlib.Path(self.exchange) / "00000000000000000000.ndjson").exists())
        (self.folder / "replay.ndjson").write_text(asked)
        self.assertIn("2 letters stay", self.consume().stderr)  # an event with data, though null, is no id alone
        self.assertEqual(set(self.letters()), {"0", "1"})

    def test_an_event_of_an_id_alone_is_never_stale(self):
        run([tool("publish"), self.exchange, "--set", "keep=0", "--set", "segment=1KiB"])
        id_only = {"specversion": "1.0", "id": "0", "source": "test", "type": "t", "subject": "s", "dataref": "file:///x"}
        self.publish([id_only])
        self.bad({0: "r"})
        self.consume()
        self.publish([event(i, filler="x" * 2000) for i in range(1, 3)])
        self.publish([event(3)])
        self.consume()
        self.publish([event(4)])
        self.assertFalse((pathlib.Path(self.exchange) / "00000000000000000000.ndjson").exists())
        self.bad({})
        self.assertEqual(len(self.replay("--dry-run").stdout.splitlines()), 1)
        self.replay()
        printed = run([tool("consume"), self.exchange, "--as", "data", "--until-empty"])
        self.assertEqual([json.loads(line)["id"] for line in printed.stdout.splitlines()], ["0", "4"])


class OwnPipelineTest(ReplayTest):
    def test_only_the_selected_go_through_it(self):
        self.publish([event(i) for i in range(10)])
        self.bad({2: "r", 5: "other", 9: "r"})
        self.consume()
        self.replay("--reason", "other")  # for consume, later
        self.bad({})
        self.replay("--reason", "^r$", "--", self.pipeline)
        self.assertEqual(set(self.letters()), {"5"})
        self.publish([event(10)])
        self.assertEqual(len(self.rows()), 9)  # nothing new went through it
        self.consume()
        self.assertEqual(len(self.rows()), 11)

    def test_the_newest_events_alone(self):
        self.publish([event(i) for i in range(4)])
        self.bad({"*": "all"})
        self.consume()
        self.assertEqual(len(self.letters()), 4)
        self.bad({})
        self.replay("--limit", "3", "--", self.pipeline)
        self.assertEqual(set(self.letters()), {"3"})
        self.replay("--", self.pipeline)
        self.assertEqual(self.letters(), {})
        self.assertEqual(sorted(self.rows().values()), [0, 1, 2, 3])

    def test_a_failure_is_a_new_attempt(self):
        self.publish([event(i) for i in range(3)])
        self.bad({1: "first"})
        self.consume()
        self.bad({1: "second"})
        self.replay("--", self.pipeline)
        self.assertEqual((self.letters()["1"]["attempt"], self.letters()["1"]["reason"]), (2, "second"))
        self.assert_each_attempt_stands_once()

    def test_it_is_refused_while_consume_runs(self):
        self.publish([event(i) for i in range(3)])
        self.bad({1: "r"})
        running = self.start(tool("consume"), self.exchange, "--as", "data", "--", self.pipeline)
        wait_for(lambda: (self.folder / "state.json").exists() and self.letters(), what="the letter")
        result = self.replay("--", self.pipeline, expect=75)
        self.assertIn(str(running.pid), result.stderr)
        self.assertEqual(set(self.letters()), {"1"})


class KillTest(ReplayTest):
    def test_kill_9_of_either_loses_and_doubles_no_letter(self):
        self.publish([event(i, key=f"k{i % 40}") for i in range(400)])
        self.bad({i: f"reason {i % 5}" for i in range(0, 400, 3)})
        self.consume()
        wanted = {str(i) for i in range(0, 400, 3)}
        self.assertEqual(set(self.letters()), wanted)
        still_bad = {i: "still" for i in range(0, 400, 30)}
        self.bad(still_bad)
        for round_number, wait in enumerate((0.05, 0.1, 0.2, 0.3, 0.45, 0.15)):
            own = round_number % 2 == 0
            if not own:
                self.replay()
            command = [tool("dlq-replay"), self.exchange, "--as", "data", "--", self.pipeline] if own else \
                [tool("consume"), self.exchange, "--as", "data", "--until-empty", "--", self.pipeline]
            process = self.start(*command)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            process.wait()
            letters = self.letters()
            self.assertLessEqual({str(i) for i in still_bad}, set(letters))
            self.assertLessEqual(set(letters), wanted)
        self.replay("--max-attempts", "100")
        self.consume()
        self.assertEqual(set(self.letters()), {str(i) for i in still_bad})
        self.assert_each_attempt_stands_once()
        newest = {}
        for i in range(400):
            if i not in still_bad:
                newest[f"k{i % 40}"] = i
        self.assertEqual(self.rows(), newest)
        self.assertTrue(self.check("behind=0"))


class ExportTest(ReplayTest):
    def test_exported_letters_come_back_once(self):
        self.publish([event(i) for i in range(6)])
        self.bad({1: "r", 4: "r"})
        self.consume()
        exported = self.replay("--export").stdout
        (self.dir / "letters").write_text(exported)
        self.assertIn("0 of 2 letters are new", self.replay("--import", str(self.dir / "letters")).stderr)
        self.assertEqual(len(self.letters()), 2)
        # Another subscriber that has seen these positions takes them in, and replays them.
        other = run([tool("consume"), self.exchange, "--as", "other", "--until-empty"])
        self.assertEqual(other.exit, 0, other.stderr)
        self.assertIn("2 of 2", self.replay("--import", "-", stdin=exported, name="other").stderr)
        self.assertEqual(self.replay("--export", name="other").stdout, exported)
        self.replay(name="other")
        printed = run([tool("consume"), self.exchange, "--as", "other", "--until-empty"])
        self.assertEqual([json.loads(line)["id"] for line in printed.stdout.splitlines()], ["1", "4"])
        self.assertIn("0 of 2", self.replay("--import", "-", stdin=exported, name="other").stderr)

    def test_letters_that_are_not_of_this_exchange_are_refused(self):
        self.publish([event(i) for i in range(4)])
        self.consume()
        letter = {"position": 1, "attempt": 1, "time": "2020-01-01T00:00:00Z", "by": "x", "reason": "r", "event": event(1)}
        for change, text in (({"event": event(2)}, "another event"), ({"position": 17}, "has not come to position 17"), ({"position": None}, "position")):
            result = self.replay("--import", "-", stdin=ndjson([letter | change]), expect=2)
            self.assertIn("line 1", result.stderr)
            self.assertIn(text, result.stderr)
        self.replay("--import", "-", stdin="no letter\n", expect=2)
        self.replay("--import", str(self.dir / "nowhere"), expect=2)
        self.assertEqual(self.letters(), {})
        self.replay("--import", "-", stdin=ndjson([letter]))
        self.assertEqual(set(self.letters()), {"1"})


if __name__ == "__main__":
    unittest.main()

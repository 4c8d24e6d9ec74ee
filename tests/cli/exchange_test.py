"""publish and consume on a journal: what stands in the exchange, who gets it, and what keeps or loses room."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import run, tool, wait_for  # noqa: E402


def event(number, **attributes):
    return {"specversion": "1.0", "id": str(number), "source": "test", "type": "t", "subject": f"s{number % 7}", "data": {"n": number},
            **attributes}


def ndjson(records):
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


class ExchangeTest(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="inflight-exchange-"))
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.exchange = str(self.dir / "ex")

    def publish(self, records, *options, expect=0):
        result = run([tool("publish"), self.exchange, *options], ndjson(records))
        self.assertEqual(result.exit, expect, result.stderr)
        return result

    def set(self, *words, expect=0):
        return self.publish([], *(w for word in words for w in ("--set", word)), expect=expect)

    def consume(self, *options, expect=0, timeout=60):
        result = run([tool("consume"), self.exchange, *options], timeout=timeout)
        self.assertEqual(result.exit, expect, result.stderr)
        return result

    def events(self, name, *options, expect=0):
        result = self.consume("--as", name, "--until-empty", *options, expect=expect)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def numbers(self, name, *options):
        return [e["data"]["n"] for e in self.events(name, *options)]

    def row(self, name):
        """What --list says of a subscriber."""
        lines = self.consume("--list").stdout.splitlines()
        for line in lines[1:]:
            words = line.split(None, 6)
            if words[0] == name:
                return dict(zip(lines[0].split(), words))
        self.fail(f"{name} is not in {lines}")

    def segments(self):
        return sorted(p.name for p in pathlib.Path(self.exchange).rglob("*") if p.name.endswith((".ndjson", ".ndjson.zst"))
                      and "subscribers" not in p.parts)

    def popen(self, *command, **options):
        process = subprocess.Popen(command, stdin=options.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   **options)

        def end():
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        self.addCleanup(end)
        return process


class PublishTest(ExchangeTest):
    def test_events_are_kept_as_they_are(self):
        lines = [json.dumps(event(i)) for i in range(5)] + ['{"specversion":"1.0" , "id":"x","source":"s","type":"t","data":{"v":1.50e3}}']
        self.publish(lines)
        self.assertEqual(self.consume("--as", "a", "--until-empty").stdout.splitlines(), lines)

    def test_bare_records_become_events_that_hold_all_of_them(self):
        self.publish(['{"a":1.0,"delivery":"to the door"}', '{"b":2}', '{"b":2}'])
        events = self.events("a")
        self.assertEqual([e["data"] for e in events], [{"a": 1.0, "delivery": "to the door"}, {"b": 2}, {"b": 2}])
        self.assertEqual(len({e["id"] for e in events}), 3)
        for e in events:
            self.assertEqual(e["specversion"], "1.0")
            self.assertTrue(e["recordedtime"].endswith("Z"))

    def test_data_named_delivery_stays_in_an_event(self):
        made = event(1, data={"delivery": "k7:1", "n": 1})
        self.publish([made])
        self.assertEqual(self.events("a"), [made])

    def test_broken_json_inside_a_record_is_rejected_and_the_rest_is_kept(self):
        bad = ['{"specversion":"1.0","id":"b1","source":"s","type":"t","data":{"a":}}', '{"data":[1,2', '{"x":{"y":tru}}', '{"x":12x}',
               '{"x":{"y":"\\q"}}', '{"x":"\\u12"}', '{"\\q":1}', 'no json', '[1]']
        letters = self.dir / "letters"
        good = {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "data": {"n": "\\ \" \u00e4 \n /"}}
        self.publish([event(1), *bad, good, event(2)], "--dead-letters", str(letters), expect=1)
        self.assertEqual(self.numbers("a"), [1, good["data"]["n"], 2])
        self.assertEqual(sorted(json.loads(line)["line"] for line in letters.read_text().splitlines()), list(range(2, 2 + len(bad))))

    def test_equal_events_are_kept_once_also_by_another_publisher(self):
        self.publish([event(1), event(2), event(1)])
        self.publish([event(2), event(3)])
        self.assertEqual(self.numbers("a"), [1, 2, 3])

    def test_several_publishers_at_once(self):
        processes = []
        for p in range(4):
            process = self.popen(tool("publish"), self.exchange, "--batch-records", "50", stdin=subprocess.PIPE)
            processes.append((p, process))

        def feed(p, process):
            with process.stdin as pipe:
                for i in range(2000):
                    pipe.write((json.dumps(event(p * 2000 + i)) + "\n").encode())
        threads = [threading.Thread(target=feed, args=entry) for entry in processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _, process in processes:
            self.assertEqual(process.wait(60), 0, process.stderr.read())
        numbers = self.numbers("a")
        self.assertEqual(sorted(numbers), list(range(8000)))
        for p in range(4):
            own = [n for n in numbers if n // 2000 == p]
            self.assertEqual(own, sorted(own))

    def test_below_a_source_that_is_killed_each_record_is_stored_once(self):
        # consume is the source; its stage makes bare records of its events, with `delivery`.
        upstream = str(self.dir / "upstream")
        run([tool("publish"), upstream], ndjson(event(i) for i in range(3000)))
        stage = "jq -c --unbuffered '{n: .data.n, delivery}' | " + f"{tool('publish')} {self.exchange} --batch-records 100"
        line = [tool("consume"), upstream, "--as", "copy", "--until-empty", "--", stage]
        for wait in (0.15, 0.25, 0.4):
            process = self.popen(*line, start_new_session=True)
            time.sleep(wait)
            process.kill()
            process.wait()
        result = run(line)
        self.assertEqual(result.exit, 0, result.stderr)
        self.assertEqual(sorted(self.numbers("a")), list(range(3000)))

    def test_set_changes_the_settings_and_names_wrong_words(self):
        self.set("keep=36h", "max-disk=1GiB", "segment=1MiB")
        about = (pathlib.Path(self.exchange) / "exchange.json").read_text()
        self.assertIn(str(1 << 30), about)
        self.assertIn(str(1 << 20), about)
        for word in ("keep=soon", "max-disk=big", "segment=-1", "segment=0", "colour=red", "keep", "max-disk=1MiB=2"):
            result = self.set(word, expect=2)
            self.assertIn(word.split("=")[0], result.stderr)
        self.assertEqual((pathlib.Path(self.exchange) / "exchange.json").read_text(), about)

    def test_a_wrong_word_makes_no_exchange(self):
        self.set("keep=soon", expect=2)
        self.assertFalse(os.path.exists(self.exchange))

    def test_a_segment_leaves_room_in_the_budget(self):
        self.set("max-disk=1MiB")
        self.assertIn(str(1 << 18), (pathlib.Path(self.exchange) / "exchange.json").read_text())
        self.assertIn("segment", self.set("segment=1MiB", expect=2).stderr)

    def test_brokers_are_told_honestly(self):
        for name in ("amqp://me:hush@broker/x", "pubsub://project/topic"):
            for command in ([tool("publish"), name], [tool("consume"), name, "--as", "a"], [tool("dlq-replay"), name, "--as", "a"]):
                result = run(command, cwd=self.dir)
                self.assertEqual(result.exit, 2)
                self.assertIn("journals only", result.stderr)
        self.assertEqual(os.listdir(self.dir), [])

    def test_a_folder_that_is_no_exchange_is_left_alone(self):
        os.mkdir(self.exchange)
        (pathlib.Path(self.exchange) / "mine").write_text("x")
        self.publish([event(1)], expect=2)
        self.consume("--as", "a", expect=2)
        self.assertEqual(os.listdir(self.exchange), ["mine"])


class RetentionTest(ExchangeTest):
    BATCH = 200

    def fill(self, first, count):
        """Batches of their own, so that segments are sealed."""
        for begin in range(first, first + count, self.BATCH):
            self.publish([event(i, filler="x" * 500) for i in range(begin, begin + self.BATCH)])

    def test_segments_go_when_all_subscribers_have_settled_them_and_keep_has_passed(self):
        self.set("keep=0", "segment=64KiB")
        self.fill(0, 1000)
        self.consume("--as", "slow", "--register")
        full = self.segments()
        self.assertGreater(len(full), 3)
        self.assertEqual(self.numbers("fast"), list(range(1000)))
        self.publish([])  # whoever touches the exchange cleans up
        self.assertEqual(self.segments(), full)
        self.numbers("slow", "--limit", "500")
        self.publish([])
        left = self.segments()
        self.assertTrue(0 < len(left) < len(full))
        self.assertEqual(self.numbers("slow"), list(range(500, 1000)))
        self.publish([])
        self.assertLess(len(self.segments()), len(left))

    def test_keep_holds_what_is_settled(self):
        self.set("keep=1h", "segment=64KiB")
        self.fill(0, 600)
        full = self.segments()
        self.numbers("a")
        self.publish([])
        self.assertEqual(self.segments(), full)
        self.assertEqual(self.numbers("b"), list(range(600)))

    def test_nothing_is_removed_where_nobody_subscribes(self):
        self.set("keep=0", "segment=64KiB")
        self.fill(0, 600)
        full = self.segments()
        self.publish([])
        self.assertEqual(self.segments(), full)
        self.assertEqual(self.numbers("a"), list(range(600)))

    def test_a_full_exchange_makes_publish_wait_for_the_one_that_lags_and_drops_nothing(self):
        self.set("keep=7d", "max-disk=512KiB")
        self.consume("--as", "quick", "--register")
        self.consume("--as", "laggard", "--register")
        lines = ndjson(event(i, filler="x" * 500) for i in range(3000)).encode()
        (self.dir / "input").write_bytes(lines)
        with open(self.dir / "input", "rb") as source:
            publisher = self.popen(tool("publish"), self.exchange, "--batch-records", "50", stdin=source)
        os.set_blocking(publisher.stderr.fileno(), False)
        said = b""

        def told(text):
            nonlocal said
            said += publisher.stderr.read() or b""
            return text in said
        wait_for(lambda: told(b"full"), what="publish to wait")
        self.assertIsNone(publisher.poll())
        self.assertIn(b"laggard", said)
        quick = self.numbers("quick")
        self.assertLess(len(quick), 3000)
        quick = len(quick)
        time.sleep(1.5)
        self.assertIsNone(publisher.poll())
        self.assertEqual(self.numbers("quick"), [])  # nothing moves while the other one lags

        got, quick_got = [], list(range(quick))

        def drained():
            got.extend(self.numbers("laggard"))
            quick_got.extend(self.numbers("quick"))
            return publisher.poll() is not None
        wait_for(drained, 60, "publish to go on")
        self.assertEqual(publisher.returncode, 0, said)
        drained()
        self.assertEqual(got, list(range(3000)))
        self.assertEqual(quick_got, list(range(3000)))

    def test_from_80_percent_on_the_laggard_is_named(self):
        self.set("max-disk=1MiB")
        self.consume("--as", "sleepy", "--register")
        quiet = self.publish([event(i, filler="x" * 500) for i in range(1000)])
        self.assertEqual(quiet.stderr, "")
        self.publish([event(i, filler="x" * 500) for i in range(1000, 1500)])
        warned = self.publish([event(9000)])
        self.assertIn("sleepy lags by 15", warned.stderr)
        self.assertEqual(len(warned.stderr.splitlines()), 1)
        self.assertIn("sleepy", self.consume("--as", "other", "--from", "latest", "--until-empty").stderr)

    def test_what_all_have_settled_is_removed_before_anybody_is_named(self):
        self.set("keep=7d", "max-disk=256KiB")
        self.consume("--as", "main", "--register")
        for begin in range(0, 2000, 50):
            done = self.publish([event(i, filler="x" * 500) for i in range(begin, begin + 50)])
            self.assertEqual((done.stderr, self.consume("--as", "main", "--until-empty").stderr), ("", ""), begin)

    def test_an_optional_subscriber_is_parked_and_its_hole_is_told(self):
        self.set("keep=7d", "max-disk=256KiB")
        self.consume("--as", "trial", "--optional", "--register")
        self.consume("--as", "main", "--register")
        self.assertEqual(self.numbers("main"), [])
        for begin in range(0, 2000, 100):
            self.publish([event(i, filler="x" * 500) for i in range(begin, begin + 100)], "--give-up", "5s")
            self.numbers("main")
        lost = int(self.row("trial")["LOST"])
        self.assertGreater(lost, 1000)
        self.assertEqual(int(self.row("main")["LOST"]), 0)
        result = self.consume("--as", "trial", "--until-empty")
        self.assertEqual([json.loads(line)["data"]["n"] for line in result.stdout.splitlines()], list(range(lost, 2000)))
        self.assertIn(f"trial loses events 0 to {lost - 1}", result.stderr)
        holes = [json.loads(line) for line in (pathlib.Path(self.exchange) / "subscribers/trial/holes.ndjson").read_text().splitlines()]
        self.assertEqual([(h["first"], h["end"]) for h in holes], [(0, lost)])
        row = self.row("trial")
        self.assertEqual((int(row["LOST"]), int(row["BEHIND"])), (lost, 0))
        self.assertIn(f"trial has lost {lost} events", self.consume("--check", "lost=0", expect=1).stderr)
        self.consume("--check", f"lost={lost}")
        self.assertIn("optional", row["STATE"])

    def test_an_optional_subscriber_becomes_one_that_the_exchange_waits_for_and_back(self):
        self.set("keep=7d", "max-disk=256KiB")
        self.consume("--as", "trial", "--optional", "--register")
        self.consume("--as", "main", "--register")

        def publish(begin, end):
            """The exit statuses; main reads all of it."""
            ended = set()
            for first in range(begin, end, 100):
                done = run([tool("publish"), self.exchange, "--give-up", "1s"], ndjson([event(i, filler="x" * 500) for i in range(first, first + 100)]))
                ended.add(done.exit)
                self.numbers("main")
            return ended

        self.assertEqual(publish(0, 1000), {0})
        early = self.consume("--as", "trial", "--register", expect=2)
        self.assertRegex(early.stderr, "events were removed that trial has not read")
        self.consume("--as", "trial", "--until-empty")
        lost = int(self.row("trial")["LOST"])
        self.consume("--as", "trial", "--register")
        self.assertNotIn("optional", self.row("trial")["STATE"])
        self.assertEqual(publish(1000, 1600), {0, 75})
        self.assertEqual(int(self.row("trial")["LOST"]), lost)
        self.consume("--as", "trial", "--optional", "--register")
        self.assertIn("optional", self.row("trial")["STATE"])
        self.assertEqual(publish(1600, 1700), {0})
        self.assertGreater(int(self.row("trial")["LOST"]), lost)

    def test_a_parked_subscriber_goes_on_through_a_pipeline(self):
        self.set("keep=7d", "max-disk=256KiB")
        self.consume("--as", "trial", "--optional", "--register")
        for begin in range(0, 1000, 100):
            self.publish([event(i, filler="x" * 500) for i in range(begin, begin + 100)], "--give-up", "5s")
        copy = str(self.dir / "copy")
        result = run([tool("consume"), self.exchange, "--as", "trial", "--until-empty", "--", f"{tool('publish')} {copy}"])
        self.assertEqual(result.exit, 0, result.stderr)
        lost = int(self.row("trial")["LOST"])
        self.assertTrue(100 < lost < 900, lost)  # no more than the room that is needed
        self.exchange = copy
        self.assertEqual(self.numbers("a"), list(range(lost, 1000)))


class SubscriberTest(ExchangeTest):
    def test_from_places_a_new_cursor_only(self):
        self.publish([event(i) for i in range(5)])
        self.assertEqual(self.numbers("early"), [0, 1, 2, 3, 4])
        self.assertEqual(self.numbers("late", "--from", "latest"), [])
        self.assertEqual(self.numbers("third", "--from", "3"), [3, 4])
        time.sleep(1.1)
        between = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        time.sleep(1.1)
        self.publish([event(i) for i in range(5, 8)])
        self.assertEqual(self.numbers("timed", "--from", between), [5, 6, 7])
        for name in ("early", "late", "third"):
            self.assertEqual(self.numbers(name, "--from", "earliest"), [5, 6, 7])
        for bad in ("99", "never", "12:99"):
            self.consume("--as", "bad", "--from", bad, "--until-empty", expect=2)
        self.assertNotIn("bad", self.consume("--list").stdout)

    def test_register_only_makes_it(self):
        self.publish([event(1)])
        self.assertEqual(self.consume("--as", "a", "--register").stdout, "")
        self.publish([event(2)])
        self.consume("--as", "a", "--register", "--from", "latest")
        self.assertEqual(self.row("a")["BEHIND"], "2")
        self.assertEqual(self.numbers("a"), [1, 2])

    def test_remove_ends_it_with_its_letters(self):
        self.publish([event(i) for i in range(3)])
        run([tool("consume"), self.exchange, "--as", "a", "--until-empty", "--", "xml2json | publish " + str(self.dir / "out")],
            env={**os.environ, "PATH": os.path.dirname(tool("consume")) + ":" + os.environ["PATH"]})
        self.consume("--as", "a", "--remove")
        self.assertEqual(os.listdir(pathlib.Path(self.exchange) / "subscribers"), [])
        self.consume("--as", "a", "--remove", expect=2)
        self.assertEqual(self.numbers("a"), [0, 1, 2])
        self.assertEqual(self.row("a")["DEAD"], "0")

    def test_letters_without_a_state_are_neither_deleted_nor_taken_for_ours(self):
        self.publish([event(i) for i in range(3)])
        folder = pathlib.Path(self.exchange) / "subscribers" / "a"
        folder.mkdir(parents=True)
        letter = '{"position":1,"attempt":1,"time":"2020-01-01T00:00:00Z","by":"x","reason":"old","event":{}}\n'
        (folder / "dead.ndjson").write_text(letter)
        self.assertIn("dead.ndjson", self.consume("--as", "a", "--until-empty", expect=2).stderr)
        self.assertEqual((folder / "dead.ndjson").read_text(), letter)

    def test_a_removal_that_was_cut_short_is_finished_by_the_next(self):
        self.publish([event(i) for i in range(3)])
        self.assertEqual(self.numbers("a"), [0, 1, 2])
        (pathlib.Path(self.exchange) / "subscribers" / "a" / "subscriber.json").unlink()
        self.consume("--as", "a", "--remove", expect=0)
        self.assertEqual(self.numbers("a"), [0, 1, 2])

    def test_a_second_one_of_the_name_is_refused_and_named(self):
        self.publish([event(1)])
        first = self.popen(tool("consume"), self.exchange, "--as", "a")
        wait_for(lambda: first.stdout.readline(), what="the first event")
        for options in (["--until-empty"], ["--remove"]):
            result = self.consume("--as", "a", *options, expect=75)
            self.assertIn(str(first.pid), result.stderr)
            self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertIn("running", self.row("a")["STATE"])
        first.send_signal(signal.SIGTERM)
        self.assertEqual(first.wait(20), 143)
        self.assertIn("stopped", self.row("a")["STATE"])
        self.assertEqual(self.numbers("a"), [])

    def test_names_that_are_paths_are_refused(self):
        self.publish([event(1)])
        self.consume("--as", "good", "--register")
        outside = self.dir / "outside"
        shutil.copytree(pathlib.Path(self.exchange) / "subscribers" / "good", outside)
        for name in ("../../outside", "../x", "..", ".hidden", "a/b", "", "a b", "ä", "x" * 300):
            for more in ([], ["--register"], ["--remove"], ["--check", "lag=1s"]):
                if not name and more[:1] == ["--check"]:
                    continue
                self.consume("--as", name, *more, expect=2)
            self.assertEqual(run([tool("dlq-replay"), self.exchange, "--as", name]).exit, 2)
        self.assertTrue((outside / "state.json").exists())
        self.assertEqual(os.listdir(pathlib.Path(self.exchange) / "subscribers"), ["good"])

    def test_check_is_silent_or_says_one_line(self):
        self.publish([event(i) for i in range(20)])
        self.consume("--as", "done", "--until-empty")
        self.consume("--as", "behind", "--register")
        time.sleep(1.1)
        quiet = self.consume("--check", "lag=1h,dead=0,behind=20")
        self.assertEqual((quiet.stdout, quiet.stderr), ("", ""))
        quiet = self.consume("--check", "lag=0,dead=0,behind=0", "--as", "done")
        self.assertEqual((quiet.stdout, quiet.stderr), ("", ""))
        for word, text in (("behind=19", "is 20 events behind"), ("lag=500ms", "lags by"), ("dead=0,lag=0,behind=3", "behind")):
            loud = self.consume("--check", word, expect=1)
            self.assertEqual((loud.stdout, len(loud.stderr.splitlines())), ("", 1))
            self.assertIn(text, loud.stderr)
            self.assertNotIn("done", loud.stderr)
        run([tool("consume"), self.exchange, "--as", "dying", "--until-empty", "--", f"{tool('xml2json')} | {tool('publish')} {self.dir}/out"])
        loud = self.consume("--check", "dead=0", expect=1)
        self.assertIn("dying has 20 dead letters", loud.stderr)
        self.assertEqual(self.consume("--check", "dead=20").stderr, "")
        # An empty one too, as of a variable that is not set: it must not be taken for a consume that settles.
        for bad in ("lag", "lag=soon", "dead=-1", "colour=1", "", "lag=1s,"):
            for name in [], ["--as", "behind"]:
                self.consume("--check", bad, *name, expect=2)
                self.consume(f"--check={bad}", *name, expect=2)
        self.consume("--check", "dead=20", "--", "cat", expect=2)
        self.consume("--list", "--", "cat", expect=2)
        self.consume("--check", "behind=20", "--check", "dead=20", "--as", "behind")
        self.assertIn("is 20 events", self.consume("--check", "behind=0", "--check", "dead=20", "--as", "behind", expect=1).stderr)
        self.consume("--check", "lag=1s", "--as", "nobody", expect=2)

    def test_without_a_pipeline_it_prints_and_goes_on_where_it_stopped(self):
        self.publish([event(i) for i in range(10)])
        self.assertEqual(self.numbers("a", "--limit", "4"), [0, 1, 2, 3])
        self.assertEqual(self.numbers("a", "--limit", "4"), [4, 5, 6, 7])
        self.assertEqual(self.numbers("a"), [8, 9])
        self.publish([event(10)])
        self.assertEqual(self.numbers("a"), [10])

    def test_it_follows_and_ends_at_its_limit(self):
        self.publish([event(0)])
        follower = self.popen(tool("consume"), self.exchange, "--as", "a", "--limit", "3")
        self.assertEqual(json.loads(follower.stdout.readline())["id"], "0")
        self.publish([event(1)])
        self.assertEqual(json.loads(follower.stdout.readline())["id"], "1")
        self.publish([event(2), event(3)])
        self.assertEqual([json.loads(line)["id"] for line in follower.stdout], ["2"])
        self.assertEqual(follower.wait(20), 0)
        self.assertEqual(self.numbers("a"), [3])

    def test_limit_counts_events_of_a_pipeline(self):
        self.publish([event(i) for i in range(10)])
        copy = str(self.dir / "copy")
        for _ in range(2):
            result = run([tool("consume"), self.exchange, "--as", "a", "--limit", "3", "--", f"{tool('publish')} {copy}"])
            self.assertEqual(result.exit, 0, result.stderr)
        self.assertEqual(self.numbers("a"), [6, 7, 8, 9])
        self.exchange = copy
        self.assertEqual(self.numbers("b"), [0, 1, 2, 3, 4, 5])

    def test_damage_ends_the_reading_unless_it_is_passed_over_and_recorded(self):
        for begin in (0, 10, 20):
            self.publish([event(i) for i in range(begin, begin + 10)])
        (segment,) = [p for p in pathlib.Path(self.exchange).rglob("*.ndjson") if "subscribers" not in p.parts]
        data = segment.read_bytes()
        at = data.index(b'{"n": 14}')
        segment.write_bytes(data[:at] + b"#" + data[at + 1:])
        stopped = self.consume("--as", "a", "--until-empty", expect=70)
        self.assertEqual([json.loads(line)["data"]["n"] for line in stopped.stdout.splitlines()], list(range(10)))
        self.assertIn("10", stopped.stderr)
        self.assertEqual(self.numbers("a", "--skip-damage"), list(range(20, 30)))
        self.assertEqual(self.row("a")["LOST"], "10")
        self.assertEqual(self.numbers("a"), [])

    def test_list_shows_what_there_is(self):
        self.publish([event(i) for i in range(6)])
        self.consume("--as", "b", "--register")
        self.numbers("a")
        lines = self.consume("--list").stdout.splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["SUBSCRIBER", "a", "b"])
        a, b = self.row("a"), self.row("b")
        self.assertEqual((a["CURSOR"], a["BEHIND"], a["LAG"]), ("6", "0", "0s"))
        self.assertEqual((b["CURSOR"], b["BEHIND"]), ("0", "6"))
        self.assertTrue(re.fullmatch(r"(\d+[a-z]+)+", b["LAG"]), b)

    def test_a_damaged_state_of_one_subscriber_stops_nobody_else(self):
        self.set("keep=0", "segment=1KiB")
        self.consume("--as", "hurt", "--register")
        state = pathlib.Path(self.exchange) / "subscribers/hurt/state.json"
        state.write_text('{"curs')
        for i in range(4):
            told = self.publish([event(i, filler="x" * 1000)])
            self.assertRegex(told.stderr, "^publish: [^\n]*hurt/state.json: damaged, no state of a source\n$")
            self.assertEqual(self.numbers("well"), [i])
        self.assertEqual(len(self.segments()), 4)  # what it may still want stays
        self.assertEqual((self.row("well")["BEHIND"], self.row("hurt")["BEHIND"]), ("0", "4"))
        self.assertIn("damaged", self.row("hurt")["STATE"])
        self.assertIn("hurt is 4 events behind", self.consume("--check", "behind=0", expect=1).stderr)
        self.consume("--as", "hurt", "--until-empty", expect=70)
        self.assertEqual(state.read_text(), '{"curs')
        self.consume("--as", "hurt", "--remove")
        self.assertEqual(self.publish([event(4)]).stderr, "")
        self.assertLess(len(self.segments()), 4)

    def test_listing_never_keeps_a_subscriber_from_starting(self):
        self.publish([event(1)])
        self.consume("--as", "a", "--register")
        stop = threading.Event()

        def watch():
            while not stop.is_set():
                run([tool("consume"), self.exchange, "--list"])
        watchers = [threading.Thread(target=watch) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        try:
            for _ in range(20):
                self.numbers("a")
        finally:
            stop.set()
            for watcher in watchers:
                watcher.join()


if __name__ == "__main__":
    unittest.main()

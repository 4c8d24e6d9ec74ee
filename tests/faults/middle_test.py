"""Lost in the middle is not lost: whatever a stage between an exchange and a store does, each event is stored, dropped on
purpose, or one dead letter with its reason. What holds is read from the stores, never from counters.

FAULT_ROUNDS says how many seeded rounds where chance decides.
"""
import collections
import concurrent.futures
import itertools
import json
import os
import pathlib
import random
import shutil
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool, wait_for  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "6"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
MANY = ROUNDS >= 300
STAGES = f"{sys.executable} -ISB {pathlib.Path(__file__).resolve().parent / 'stages.py'}"


def event(n, **more):
    return {"specversion": "1.0", "id": f"e{n}", "source": "test", "type": "reading", "subject": f"s{n % 7}",
            "time": "2018-07-01T00:00:00Z", "recordedtime": "2018-07-01T00:00:01Z", "data": {"n": n}, **more}


def xml_event(n, text=None, **more):
    text = text if text is not None else f'<unit id="u{n}"><n>{n}</n></unit>'
    return event(n, datacontenttype="application/xml", data=text, **more)


class Middle(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-middle-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def path(self, name):
        return str(self.folder / name)

    def publish(self, events):
        done = run([tool("publish"), "x/"], stdin="".join(json.dumps(e) + "\n" for e in events), cwd=self.folder)
        self.assertEqual(done.exit, 0, done.stderr)

    def consume(self, pipeline, *options, name="data", exit=0, follow=False, **more):
        command = [tool("consume"), "x/", "--as", name, *([] if follow else ["--until-empty"]), *options, "--",
                   *([pipeline] if isinstance(pipeline, str) else pipeline)]
        done = run(command, cwd=self.folder, env=self.environment, timeout=120, **more)
        if exit is not None:
            self.assertEqual(done.exit, exit, done.stderr)
        return done

    def start(self, pipeline, *options, name="data", **more):
        """A consume that follows; ended with the test."""
        consume = subprocess.Popen([tool("consume"), "x/", "--as", name, *options, "--", pipeline], cwd=self.folder,
                                   env=self.environment, stderr=subprocess.PIPE, text=True, start_new_session=True, **more)

        def end():
            if consume.poll() is None:
                consume.kill()
            consume.wait()
            consume.stderr.close()
        self.addCleanup(end)
        return consume

    def stored(self, database="data.db", column="id"):
        if not os.path.exists(self.path(database)):
            return []
        with sqlite3.connect(self.path(database), timeout=30) as db:
            try:
                return sorted(row[0] for row in db.execute(f"select {column} from record"))
            except sqlite3.OperationalError:
                return []

    def letters(self, name="data"):
        """event id -> letter; each stands once."""
        path = self.folder / "x/subscribers" / name / "dead.ndjson"
        if not path.exists():
            return {}
        letters = [json.loads(line) for line in path.read_text().splitlines()]
        positions = [letter["position"] for letter in letters]
        self.assertEqual(len(set(positions)), len(positions), "a dead letter stands twice")
        for letter in letters:
            self.assertTrue(letter["by"] and letter["reason"], letter)
        return {letter["event"]["id"]: letter for letter in letters}

    def cursor(self, name="data"):
        state = self.folder / "x/subscribers" / name / "state.json"
        return json.loads(state.read_text())["cursor"] if state.exists() else 0

    def listed(self, name="data"):
        done = run([tool("consume"), "x/", "--list"], cwd=self.folder)
        self.assertEqual(done.exit, 0, done.stderr)
        return next((line for line in done.stdout.splitlines() if line.startswith(name + " ")), "")

    def settled(self, ids, dead=(), database="data.db", name="data"):
        """All of `ids` are rows, except those in `dead`, which are letters; nothing else is anywhere."""
        self.assertEqual(sorted(self.letters(name)), sorted(dead))
        self.assertEqual(self.stored(database), sorted(set(ids) - set(dead)))
        self.assertEqual(self.cursor(name), len(set(ids)))


def ids(count, suffixes=("",)):
    return [f"e{n}{suffix}" for n in range(count) for suffix in suffixes]


PIECES = ("/1", "/2", "/3")


class Killed(Middle):
    def test_a_filter_killed_before_a_sink_that_then_sees_end_of_file(self):
        self.publish(xml_event(n) for n in range(600))
        self.consume(f"xml2json | {STAGES} kill_after_lines xml2json 100 m | sql-write sqlite:data.db")
        self.assertTrue(os.path.exists(self.path("m")))
        self.settled(ids(600))

    def test_a_filter_killed_where_the_shell_does_not_say_so(self):
        self.publish(xml_event(n) for n in range(120))
        self.consume(["sh", "-c", f"xml2json | {STAGES} kill_after_lines xml2json 100 m | sql-write sqlite:data.db"])
        self.settled(ids(120))

    def test_a_filter_killed_in_the_middle_of_a_line(self):
        events = [xml_event(n, f"<unit><n>{n}</n><t>{'x' * 100_000}</t></unit>") for n in range(20)]
        self.publish(events)
        self.consume(f"xml2json | {STAGES} kill_after_bytes xml2json 550000 m | sql-write sqlite:data.db")
        self.settled(ids(20))

    def test_a_stage_killed_in_the_middle_of_a_line_before_our_filter_and_before_our_sink(self):
        self.publish(xml_event(n) for n in range(200))
        self.consume(f"{STAGES} die_in_line 50 m1 | xml2json | {STAGES} die_in_line 30 m2 | sql-write sqlite:data.db")
        self.settled(ids(200))

    def test_a_stage_killed_in_the_middle_of_a_line_that_jq_reads(self):
        # jq exits 2, as it does when it is called wrongly; but this pipeline has worked.
        self.publish(event(n) for n in range(200))
        self.consume(f"{STAGES} die_in_line 50 m1 | jq -c . | sql-write sqlite:data.db", "--window", "40")
        self.settled(ids(200))

    def test_a_splitter_of_ours_killed_after_the_first_of_three_pieces(self):
        events = [xml_event(n, f"<f><u><n>{n}</n></u><u><n>1</n></u><u><n>2</n></u></f>") for n in range(60)]
        self.publish(events)
        self.consume(f"xml2json --each /f/u | {STAGES} kill_after_lines xml2json 22 m | sql-write sqlite:data.db")
        self.assertEqual(self.stored(), sorted(ids(60, PIECES)))
        self.assertEqual(self.letters(), {})
        self.assertEqual(self.cursor(), 60)

    def test_a_foreign_splitter_killed_after_the_first_of_three_pieces(self):
        self.publish(event(n) for n in range(30))
        self.consume(f"{STAGES} split m | sql-write sqlite:data.db")
        self.assertEqual(self.stored(), sorted(ids(30, PIECES)))
        self.assertEqual(self.letters(), {})

    def test_the_sink_killed_between_pieces(self):
        self.publish(xml_event(n, f"<f><u><n>{n}</n></u><u><n>1</n></u><u><n>2</n></u></f>") for n in range(30))
        self.consume(f"xml2json --each /f/u | {STAGES} kill_sink_between_pieces sql-write e7/1 data.db m"
                     " | sql-write sqlite:data.db")
        self.assertEqual(self.stored(), sorted(ids(30, PIECES)))
        self.assertEqual(self.letters(), {})

    def test_the_shell_killed(self):
        self.publish(event(n) for n in range(100))
        self.consume(f"{STAGES} kill_after_lines bash 20 m | sql-write sqlite:data.db")
        self.settled(ids(100))

    def test_a_piece_that_is_bad_makes_a_letter_of_its_event(self):
        with sqlite3.connect(self.path("data.db")) as db:
            db.execute("create table record(source, id, n int check (n <> 13), primary key(source, id))")
        self.publish(xml_event(n, f"<f><u><n>{n}</n></u><u><n>1</n></u><u><n>{13 if n == 4 else 2}</n></u></f>") for n in range(10))
        self.consume("xml2json --each /f/u --infer | sql-write sqlite:data.db --key source,id --column n=/u/n --column id=id --column source=source")
        letters = self.letters()
        self.assertEqual(list(letters), ["e4"])
        self.assertEqual(letters["e4"]["by"], "sql-write")
        self.assertEqual(self.stored(), sorted(set(ids(10, PIECES)) - {"e4/3"}))


class Swallowed(Middle):
    def test_jq_failing_on_one_event_in_a_hundred(self):
        self.publish(event(n) for n in range(300))
        self.consume('jq -c "if .data.n % 100 == 50 then error(\\"bad\\") else . end" | sql-write sqlite:data.db')
        self.settled(ids(300), ["e50", "e150", "e250"])
        self.assertTrue(all("bad" in letter["reason"] for letter in self.letters().values()), self.letters())

    def test_jq_failing_on_its_last_event(self):
        self.publish(event(n) for n in range(40))
        self.consume('jq -c "if .data.n % 20 == 19 then error(\\"bad\\") else . end" | sql-write sqlite:data.db')
        self.settled(ids(40), ["e19", "e39"])

    def test_what_is_swallowed_while_another_event_brings_the_pipeline_down(self):
        self.publish(event(n) for n in range(60))
        swallow = 'jq --unbuffered -c "select(.data.n != 21 and .data.n != 23 and .data.n != 40)"'
        self.consume(f"{STAGES} abort_on 22 55 | {swallow} | sql-write sqlite:data.db")
        self.settled(ids(60), ["e21", "e22", "e23", "e40", "e55"])
        letters = self.letters()
        self.assertIn("vanished", letters["e21"]["reason"])
        self.assertIn("SIGABRT", letters["e22"]["reason"])

    def test_jq_dropping_half_on_purpose(self):
        self.publish(event(n) for n in range(500))
        self.consume('jq -c "select(.data.n % 2 == 0)" | sql-write sqlite:data.db', "--ack", "exit")
        self.assertEqual(self.stored(), sorted(f"e{n}" for n in range(0, 500, 2)))
        self.assertEqual(self.letters(), {})
        self.assertEqual(self.cursor(), 500)

    def test_a_stage_killed_where_a_clean_end_settles(self):
        # More than a pipe holds, so that jq is still at it.
        self.publish(event(n, data={"n": n, "t": "x" * 2000}) for n in range(300))
        self.consume(f'jq -c "select(.data.n % 2 == 0)" | {STAGES} kill_after_lines jq 60 m | sql-write sqlite:data.db', "--ack", "exit")
        self.assertEqual(self.stored(), sorted(f"e{n}" for n in range(0, 300, 2)))
        self.assertEqual(self.letters(), {})

    def test_a_foreign_sink_that_sends_no_receipts(self):
        self.publish(event(n) for n in range(20))
        done = self.consume("cat > out.ndjson", exit=2)
        self.assertIn("--ack exit", done.stderr)
        self.assertEqual(self.cursor(), 0)
        self.consume("cat > out.ndjson", "--ack", "exit")
        self.assertEqual([json.loads(line)["id"] for line in (self.folder / "out.ndjson").read_text().splitlines()], ids(20))

    def test_a_document_without_any_record_is_dropped_on_purpose(self):
        self.publish([xml_event(0, "<f><u><n>0</n></u></f>"), xml_event(1, "<f/>"), xml_event(2, "<f><u><n>2</n></u></f>")])
        self.consume("xml2json --each /f/u | sql-write sqlite:data.db")
        self.assertEqual(self.letters(), {})
        self.assertEqual(self.cursor(), 3)

    def test_deliveries_that_are_dropped(self):
        self.publish(event(n) for n in range(10))
        done = self.consume("jq -c .data | sql-write sqlite:data.db", exit=2)
        self.assertIn("drops .delivery", done.stderr)
        self.assertEqual((self.stored(), self.letters(), self.cursor()), ([], {}, 0))

    def test_data_with_a_field_of_this_name(self):
        events = [event(n, data={"n": n, "delivery": "k123456789:0-99999"}) for n in range(50)]
        self.publish(events)
        self.consume(f"{STAGES} kill_after_lines jq 20 m | jq -c . | sql-write sqlite:data.db")
        self.settled(ids(50))

    def test_events_that_have_the_attribute_already(self):
        # As where an exchange is fed by a pipeline of another one: it settles nothing there or here.
        self.publish([event(n, delivery="k123456789:0-99999") for n in range(50)])
        self.consume("sql-write sqlite:data.db")
        self.settled(ids(50))

    def test_a_stage_that_reorders(self):
        self.publish(event(n) for n in range(300))
        self.consume(f"{STAGES} reorder 40 | sql-write sqlite:data.db", "--window", "100")
        self.settled(ids(300))


class Sinks(Middle):
    def test_two_sinks_are_refused_until_they_are_told(self):
        self.publish(event(n) for n in range(200))
        line = "tee >(sql-write sqlite:a.db) | sql-write sqlite:data.db"
        done = self.consume(line, exit=2)
        self.assertIn("--sinks", done.stderr)
        self.assertEqual(self.letters(), {})
        self.consume(line, "--sinks", "2")
        self.settled(ids(200))
        self.assertEqual(self.stored("a.db"), sorted(ids(200)))

    def test_what_was_settled_before_a_second_sink_was_seen_is_taken_back(self):
        self.publish(event(n) for n in range(3000))
        line = ("tee >(sleep 0.5; exec sql-write sqlite:second.db --create --key source,id)"
                " | sql-write sqlite:data.db --create --key source,id --batch-records 50")
        self.consume(line, exit=2)
        self.consume(line, "--sinks", "2")
        self.assertEqual(self.stored(), sorted(ids(3000)))
        self.assertEqual(self.stored("second.db"), sorted(ids(3000)))

    def test_one_of_two_sinks_killed(self):
        self.publish(event(n) for n in range(400))
        self.consume(f"tee >({STAGES} kill_after_lines tee 100 m | sql-write sqlite:a.db) | sql-write sqlite:data.db", "--sinks", "2")
        self.settled(ids(400))
        self.assertEqual(self.stored("a.db"), sorted(ids(400)))

    def test_one_of_two_sinks_losing_what_it_got(self):
        self.publish(event(n) for n in range(120))
        self.consume(f"tee >({STAGES} kill_after_lines none 70 m | sql-write sqlite:a.db) | sql-write sqlite:data.db", "--sinks", "2")
        self.settled(ids(120))
        self.assertEqual(self.stored("a.db"), sorted(ids(120)))


class Misbehaving(Middle):
    def test_a_stage_that_closes_descriptors(self):
        self.publish(event(n) for n in range(20))
        done = self.consume(f"{STAGES} without_descriptors sql-write sqlite:data.db", exit=2)
        self.assertIn("closes descriptors", done.stderr)
        self.assertEqual((self.stored(), self.letters(), self.cursor()), ([], {}, 0))
        # A filter needs the channel for what it rejects, so it says the same; a foreign one needs nothing.
        self.consume(f"{STAGES} without_descriptors cat | sql-write sqlite:data.db")
        self.settled(ids(20))

    def test_a_stage_that_closes_every_descriptor_by_hand(self):
        self.publish(event(n) for n in range(20))
        done = self.consume("for fd in 3 4 5 6 7 8 9 1{0..9} 2{0..9} 3{0..9}; do eval \"exec $fd>&-\"; done; sql-write sqlite:data.db", exit=2)
        self.assertIn("closes descriptors", done.stderr)
        self.assertEqual(self.cursor(), 0)

    def test_a_stage_that_hangs_once(self):
        self.publish(event(n) for n in range(40))
        self.consume(f"{STAGES} hang m 20 | sql-write sqlite:data.db", "--stall", "1s")
        self.settled(ids(40))

    def test_a_stage_that_hangs_at_one_event(self):
        self.publish(event(n) for n in range(12))
        self.consume(f"{STAGES} hang - 5 | sql-write sqlite:data.db", "--stall", "2s", "--max-deliveries", "2")
        self.settled(ids(12), ["e5"])
        self.assertIn("no receipt", self.letters()["e5"]["reason"])

    def test_a_mistyped_program(self):
        self.publish(event(n) for n in range(20))
        for line, what in (("xml2jso | sql-write sqlite:data.db", "127"), ("jq . | sql-wriet sqlite:data.db", "127"),
                           ("/etc/passwd | sql-write sqlite:data.db", "126")):
            done = self.consume(line, exit=2)
            self.assertIn(what, done.stderr)
        done = self.consume(["no-such-program", "x"], exit=2)
        self.assertIn("no-such-program", done.stderr)
        self.assertEqual((self.stored(), self.letters(), self.cursor()), ([], {}, 0))

    def test_a_mistyped_option(self):
        self.publish(event(n) for n in range(20))
        self.consume("jq -c . | sql-write sqlite:data.db --no-such-option", exit=2)
        self.consume("sql-write sqlite:data.db --no-such-option", exit=2)
        self.assertEqual((self.letters(), self.cursor()), ({}, 0))

    def test_a_program_with_a_syntax_error(self):
        self.publish(event(n) for n in range(20))
        order = self.folder / "order.jq"
        order.write_text("{ this is wrong")
        consume = self.start("jq -c -f order.jq | sql-write sqlite:data.db")
        wait_for(lambda: "pipeline failed" in self.listed(), what="--list to say why")
        self.assertIn("exit 3", self.listed())
        # It is tried with other events as well, and each time it fails.
        wait_for(lambda: json.loads((self.folder / "x/subscribers/data/state.json").read_text()).get("attempts"), what="a lone delivery")
        self.assertEqual((self.letters(), self.cursor()), ({}, 0))
        consume.terminate()
        self.assertEqual(consume.wait(30), 143)
        self.assertIn("exit 3", self.listed())
        order.write_text(".")
        self.consume("jq -c -f order.jq | sql-write sqlite:data.db")
        self.settled(ids(20))
        self.assertNotIn("failed", self.listed())

    def test_a_stage_that_needs_29_ms_for_each_event(self):
        self.publish(event(n) for n in range(60))
        self.consume(f"{STAGES} slow 29 | sql-write sqlite:data.db", "--stall", "1s", "--settle", "1s", "--window", "20")
        self.settled(ids(60))

    def test_a_window_smaller_than_what_a_stage_buffers(self):
        self.publish(event(n) for n in range(30))
        self.consume(f"{STAGES} buffer_all | sql-write sqlite:data.db", "--window", "10", follow=False)
        self.settled(ids(30))

    def test_a_buffering_stage_settles_while_its_source_follows(self):
        self.publish(event(n) for n in range(25))
        self.start(f"{STAGES} buffer_all | sql-write sqlite:data.db", "--window", "10", "--settle", "1s")
        wait_for(lambda: self.cursor() == 25, what="the cursor at the end")
        self.settled(ids(25))

    def test_ignored_signals_are_not_inherited(self):
        # As systemd starts its services. `yes` ends by SIGPIPE or for ever writes into the void.
        self.publish(event(n) for n in range(20))
        line = "grep '^Sig\\(Ign\\|Blk\\)' /proc/self/status > signals; { yes || true; } | head -1 > /dev/null; sql-write sqlite:data.db"

        def ignore():
            for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        self.consume(line, preexec_fn=ignore)
        self.settled(ids(20))
        masks = [int(text.split()[1], 16) for text in (self.folder / "signals").read_text().splitlines()]
        self.assertEqual([mask & 0x7fffffff for mask in masks], [0, 0])

    def test_exit_75_anywhere_is_waited_out(self):
        self.publish(event(n) for n in range(30))
        stage = f"{STAGES} exit_with 75"
        # First of three, then the sink's side of a pipeline whose shell shows another status.
        self.start(f"{stage} m1 10 | jq --unbuffered -c . | {{ {stage} m2 20; }} | sql-write sqlite:data.db")
        wait_for(lambda: len(self.stored()) == 30, what="all rows")
        self.assertEqual(self.letters(), {})

    def test_exit_75_is_told_where_nobody_waits(self):
        self.publish(event(n) for n in range(30))
        self.consume(f"{STAGES} exit_with 75 - 10 | sql-write sqlite:data.db", exit=75)
        self.assertIn("exit 75", self.listed())
        self.assertEqual(self.letters(), {})
        self.consume("sql-write sqlite:data.db")
        self.settled(ids(30))

    def test_a_stage_that_stops_reading(self):
        self.publish(event(n) for n in range(30))
        self.consume("head -5 | sql-write sqlite:data.db")
        self.settled(ids(30))

    def test_a_daemon_that_a_stage_leaves_behind_is_ended(self):
        self.publish(event(n) for n in range(20))
        done = self.consume(f"{STAGES} leave_daemon | sql-write sqlite:data.db", "--takeover", "1s")
        self.settled(ids(20))
        self.assertRegex(done.stderr, r"processes outlive their pipeline: \S+ \(\d+\); ending them")
        pid = int((self.folder / "daemon").read_text())
        stat = pathlib.Path(f"/proc/{pid}/stat")
        self.assertIn(stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else "gone", ("Z", "gone"))

    def test_a_sink_that_works_for_nothing_while_a_filter_rejects_some(self):
        """What a filter rejects does not show that the sink works: none is a letter for the sink's sake."""
        self.publish(xml_event(n, "<unit>" if n % 3 == 2 else None) for n in range(30))
        consume = self.start("xml2json | python3 -ISc 'for _ in open(0): raise SystemExit(1)'", "--max-deliveries", "2",
                             "--settle", "200ms")
        wait_for(lambda: "the pipeline failed" in self.listed() and len(self.letters()) == 10)
        time.sleep(3)
        self.assertIsNone(consume.poll())
        self.assertEqual({letter["by"] for letter in self.letters().values()}, {"xml2json"})

    def test_a_mistyped_sink_behind_a_filter_that_rejects_some(self):
        self.publish(xml_event(n, "<unit>" if n % 3 == 2 else None) for n in range(30))
        done = self.consume("xml2json | sql-wirte sqlite:data.db", exit=2)
        self.assertIn("called wrongly (exit 127)", done.stderr)

    def test_a_pipeline_that_fails_for_every_event_of_a_small_exchange(self):
        self.publish(event(n) for n in range(20))
        consume = self.start("cat >/dev/null; exit 3")
        time.sleep(3)
        self.assertIsNone(consume.poll(), "it waits")
        self.assertEqual(self.letters(), {})
        consume.terminate()
        self.assertEqual(consume.wait(timeout=60), 143)
        self.consume("sql-write sqlite:data.db")
        self.settled(ids(20))

    def test_bad_events_at_the_end_of_the_exchange(self):
        """Nothing new comes that could show that the pipeline works: what is stored already does."""
        for bad in ([299], [298, 299], [0], [0, 299], [100, 200, 299]):
            with self.subTest(bad=bad):
                self.folder.joinpath("data.db").unlink(missing_ok=True)
                shutil.rmtree(self.path("x"), ignore_errors=True)
                self.publish(event(n, subject=f"own{n}") for n in range(300))
                self.consume(f"{STAGES} abort_on {' '.join(map(str, bad))} | sql-write sqlite:data.db")
                self.settled(ids(300), [f"e{n}" for n in bad])

    def test_jq_failing_on_the_only_events_that_are_left(self):
        self.publish(event(n, subject=f"own{n}") for n in range(300))
        self.consume("jq -c --unbuffered 'if .data.n % 100 == 50 then error(\"no\") else . end' | sql-write sqlite:data.db")
        self.settled(ids(300), ["e50", "e150", "e250"])

    def test_an_event_that_takes_consume_down(self):
        self.publish(event(n) for n in range(40))
        for starts in range(60):
            done = self.consume(f"{STAGES} kill_consume 17 | sql-write sqlite:data.db", "--max-deliveries", "2", exit=None)
            if done.exit == 0:
                break
            self.assertEqual(done.exit, -signal.SIGKILL)
        self.settled(ids(40), ["e17"])
        self.assertIn("processes that deliver it are killed", self.letters()["e17"]["reason"])
        self.assertLess(starts, 40)

    def test_ten_letters_in_a_row_pause(self):
        self.publish(event(n) for n in range(30))
        line = "sed -uE '/\"n\": ([5-9]|1[0-7])[}]/Q3' | sql-write sqlite:data.db"
        done = self.consume(line, "--max-deliveries", "1", exit=75)
        self.assertIn("10 events in a row", done.stderr)
        self.assertIn("paused", self.listed())
        self.assertEqual(sorted(self.letters()), sorted(f"e{n}" for n in range(5, 15)))
        # Mended and started again, the rest is as it should be.
        self.consume("sql-write sqlite:data.db")
        self.settled(ids(30), [f"e{n}" for n in range(5, 15)])


class Processes(Middle):
    def test_a_second_consume_is_refused_and_named(self):
        self.publish(event(n) for n in range(10))
        first = self.start("sql-write sqlite:data.db")
        wait_for(lambda: len(self.stored()) == 10, what="the first to be at work")
        done = self.consume("sql-write sqlite:data.db", exit=75)
        self.assertIn(str(first.pid), done.stderr)
        first.terminate()
        self.assertEqual(first.wait(30), 143)
        self.consume("sql-write sqlite:data.db")
        self.settled(ids(10))

    def test_a_second_signal_ends_it_at_once_whichever_came_first(self):
        self.publish(event(n) for n in range(10))
        for number, (first, second) in enumerate(itertools.product((signal.SIGINT, signal.SIGTERM), repeat=2)):
            with self.subTest(first=first, second=second):
                consume = self.start(f"{STAGES} hang m{number} 5 | sql-write sqlite:data.db", "--takeover", "1h", name=f"data{number}")
                try:
                    wait_for(lambda m=f"m{number}": os.path.exists(self.path(m)), what="the stage to hang")
                    consume.send_signal(first)
                    status = pathlib.Path(f"/proc/{consume.pid}/status")  # the same one twice would be taken for one
                    wait_for(lambda s=status: "ShdPnd:\t0000000000000000" in s.read_text(), what="the first to arrive")
                    consume.send_signal(second)
                    self.assertIn(consume.wait(30), (-first, -second))
                finally:
                    # The stage that hangs does not see that its source is gone.
                    lock = (self.folder / f"x/subscribers/data{number}/run.lock").read_text()
                    os.killpg(int(lock.split()[0]), signal.SIGKILL)

    def test_what_stages_leave_in_groups_of_their_own_is_collected(self):
        count = 200
        self.publish(event(n) for n in range(count))
        consume = self.start("while read -r line; do (setsid true &); done", "--ack", "exit")
        wait_for(lambda: self.cursor() == count, what="the events to be settled")

        def dead_children():
            found = 0
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                        state, parent = stat.read().rpartition(")")[2].split()[:2]
                except (OSError, ProcessLookupError):
                    continue
                found += state == "Z" and int(parent) == consume.pid
            return found
        # What ended last may wait for the next run.
        self.assertLess(dead_children(), count // 4)

    def assert_runs_follow_each_other(self, log):
        runs = [run for run, _ in collections.OrderedDict.fromkeys((r, 0) for r in log)]
        changes = [r for i, r in enumerate(log) if i == 0 or log[i - 1] != r]
        self.assertEqual(changes, runs, "two runs wrote side by side")
        return runs

    def test_the_orphans_of_a_killed_consume_are_waited_for(self):
        for jobs in (("1", "1"), ("2", "1")):
            with self.subTest(jobs=jobs):
                self.publish(event(n) for n in range(30))
                name = "data" + jobs[0]
                line = f"{STAGES} write_through log{jobs[0]} 0.02 | sql-write sqlite:{name}.db"
                first = self.start(line, "--jobs", jobs[0], name=name)
                log = self.folder / f"log{jobs[0]}"
                wait_for(lambda: log.exists() and len(set(log.read_text().splitlines())) == int(jobs[0]), what="the first to be at work")
                first.kill()
                first.wait()
                before = set(log.read_text().splitlines())
                self.consume(line, "--jobs", jobs[1], name=name)
                written = [run in before for run in log.read_text().splitlines()]
                self.assertEqual(written, sorted(written, reverse=True), "a run began before the orphans had ended")
                self.assertIn(False, written)
                self.assertEqual(self.stored(name + ".db"), sorted(ids(30)))

    def test_orphans_that_do_not_end_are_ended(self):
        self.publish(event(n) for n in range(10))
        # It hides from the lock by closing descriptors, and is deaf to SIGTERM: its group gives it away.
        stage = f"bash -c \"trap '' TERM; exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; for i in {{10..60}}; do eval exec \\$i'>&-'; done; exec {STAGES} hang m 5\""
        first = self.start(f"{stage} | sql-write sqlite:data.db", "--takeover", "300ms")
        wait_for(lambda: os.path.exists(self.path("m")), what="the stage to hang")
        first.kill()
        first.wait()
        done = self.consume("sql-write sqlite:data.db", "--takeover", "300ms")
        self.assertIn("still at work", done.stderr)
        self.settled(ids(10))

    def test_a_stop_waits_for_no_sink_that_waits_for_its_destination(self):
        self.publish(event(n) for n in range(10))
        consume = self.start(f"{STAGES} wait_for_ever m", "--takeover", "300ms")
        wait_for(lambda: os.path.exists(self.path("m")), what="the sink to wait")
        consume.terminate()
        self.assertEqual(consume.wait(60), 143)
        self.consume("sql-write sqlite:data.db")
        self.settled(ids(10))

    def test_runs_never_overlap_whoever_is_killed(self):
        count = 40
        self.publish(event(n) for n in range(count))
        chance = random.Random(SEED)
        line = f"{STAGES} write_through log 0.002 | sql-write sqlite:data.db"
        for _ in range(max(4, ROUNDS // 4)):
            consume = self.start(line, "--until-empty")
            log = self.folder / "log"
            before = len(log.read_text()) if log.exists() else 0
            wait_for(lambda: consume.poll() is not None or (log.exists() and len(log.read_text()) > before), what="a run")
            time.sleep(chance.random() * 0.1)  # a random instant, not a proof
            consume.kill()
            consume.wait()
        self.consume(line)
        self.assert_runs_follow_each_other((self.folder / "log").read_text().splitlines())
        self.settled(ids(count))

    def test_a_letter_stands_once_after_kill_9_between_it_and_the_cursor(self):
        self.publish(event(n) for n in range(10))
        self.consume(f"{STAGES} abort_on 3 | sql-write sqlite:data.db", "--max-deliveries", "1")
        # What a crash leaves that came between the letter and the cursor, with a torn letter behind.
        folder = self.folder / "x/subscribers/data"
        state = json.loads((folder / "state.json").read_text())
        state.update(cursor=2, settled="", clean=False)
        (folder / "state.json").write_text(json.dumps(state))
        with open(folder / "dead.ndjson", "a", encoding="utf-8") as letters:
            letters.write('{"position":4,"attempt":1,"ti')
        os.remove(self.path("data.db"))
        self.consume(f"{STAGES} abort_on 3 | sql-write sqlite:data.db", "--max-deliveries", "1")
        self.assertEqual(list(self.letters()), ["e3"])
        self.assertEqual(self.stored(), sorted(f"e{n}" for n in (2, 4, 5, 6, 7, 8, 9)))

    def test_kill_9_around_letters(self):
        """consume is killed at random while letters are written; each stands once in the end."""
        count = 60
        with sqlite3.connect(self.path("data.db")) as db:
            db.execute("create table record(source, id, n int check (n % 5 <> 0), primary key(source, id))")
        self.publish(event(n) for n in range(count))
        chance = random.Random(SEED)
        line = f"{STAGES} slow 1 | sql-write sqlite:data.db --batch-records 3"
        for _ in range(max(4, ROUNDS // 4)):
            consume = self.start(line, "--until-empty")
            time.sleep(0.05 + chance.random() * 0.15)
            consume.kill()
            consume.wait()
            self.letters()
        self.consume(line)
        self.settled(ids(count), [f"e{n}" for n in range(0, count, 5)])

    def test_two_copies_keep_the_order_within_a_key(self):
        count, keys = (2000 if MANY else 600), 9
        self.publish(event(n, subject=f"s{n % keys}") for n in range(count))
        record = ("import json,os,sys\nout=os.open('log',os.O_WRONLY|os.O_CREAT|os.O_APPEND)\nfor l in sys.stdin:\n"
                  " e=json.loads(l); os.write(out,f\"{e['subject']} {e['data']['n']}\\n\".encode()); print(l,end='')")
        self.consume(f"{sys.executable} -c {shlex.quote(record)} | sql-write sqlite:data.db", "--jobs", "2")
        self.settled(ids(count))
        seen = collections.defaultdict(list)
        for line in (self.folder / "log").read_text().splitlines():
            key, n = line.split()
            seen[key].append(int(n))
        self.assertEqual(len(seen), keys)
        for key, numbers in seen.items():
            self.assertEqual(numbers, sorted(numbers), key)

    def test_two_copies_with_a_bad_event_lose_nothing(self):
        self.publish(event(n) for n in range(200))
        self.consume(f"{STAGES} abort_on 20 21 150 | sql-write sqlite:data.db", "--jobs", "2", "--window", "50", "--max-deliveries", "2")
        self.settled(ids(200), ["e20", "e21", "e150"])


class WithoutState(Middle):
    def test_a_clock_that_was_set_back_gives_no_event_the_position_of_an_old_letter(self):
        done = run([tool("s3-archive"), "put", "archive/"], stdin="".join(json.dumps(xml_event(n, "<unit>")) + "\n" for n in range(3)), cwd=self.folder)
        self.assertEqual(done.exit, 0, done.stderr)
        of_then = 9_000_000_000_000_000  # microseconds: a run of the year 2255
        letters = self.folder / "letters.ndjson"
        letters.write_text(json.dumps({"position": of_then, "attempt": 1, "time": "2255-03-14T16:00:00Z", "by": "xml2json", "reason": "bad",
                                       "event": event(0)}, separators=(",", ":")) + "\n")
        done = run([tool("s3-archive"), "get", "archive/", "--dead-letters", "letters.ndjson", "--", "xml2json | sql-write sqlite:data.db --create"],
                   cwd=self.folder, env=self.environment)
        self.assertEqual(done.exit, 0, done.stderr)
        positions = [json.loads(line)["position"] for line in letters.read_text().splitlines()]
        self.assertEqual(positions, list(range(of_then, of_then + 4)))


class Order(Middle):
    def round(self, seed):
        chance = random.Random(seed)
        folder = self.folder / f"round{seed}"
        folder.mkdir()
        count, keys = chance.choice((30, 80)), chance.choice((2, 5, 13))
        newest = collections.Counter()
        events = []
        for n in range(count):
            key = f"k{chance.randrange(keys)}"
            newest[key] += 1
            events.append(event(n, subject=key, data={"n": n, "version": newest[key]}))
        done = run([tool("publish"), "x/"], stdin="".join(json.dumps(e) + "\n" for e in events), cwd=folder)
        self.assertEqual(done.exit, 0, done.stderr)
        command = [tool("consume"), "x/", "--as", "data", "--until-empty", "--window", str(chance.choice((8, 1000))),
                   "--jobs", str(chance.choice((1, 1, 2))), "--", f"{STAGES} sink {folder}/log {seed}"]
        for attempt in range(200):
            with open(folder / "stderr", "ab") as errors:
                consume = subprocess.Popen(command, cwd=folder, env=self.environment, stderr=errors, start_new_session=True)
            try:
                if attempt < 4 and chance.random() < 0.4:
                    try:
                        consume.wait(0.1 + chance.random() * 0.5)
                    except subprocess.TimeoutExpired:
                        consume.kill()
                exit = consume.wait(100)
            finally:
                consume.kill()
            if exit == 0:
                break
            self.assertIn(exit, (75, -9), (seed, (folder / "stderr").read_text()[-2000:]))
        self.assertEqual(exit, 0, (seed, (folder / "stderr").read_text()[-2000:]))
        dead = collections.defaultdict(set)
        positions = []
        path = folder / "x/subscribers/data/dead.ndjson"
        for line in path.read_text().splitlines() if path.exists() else []:
            letter = json.loads(line)
            positions.append(letter["position"])
            dead[letter["event"]["subject"]].add(letter["event"]["data"]["version"])
        self.assertEqual(len(positions), len(set(positions)), (seed, "a letter stands twice"))
        last, written, runs = {}, collections.defaultdict(set), []
        for line in (folder / "log").read_text().splitlines():
            token, key, version = line.split()
            last[key] = int(version)
            written[key].add(int(version))
            runs.append(token)
        for key, versions in newest.items():
            missing = set(range(1, versions + 1)) - written[key] - dead[key]
            self.assertEqual(missing, set(), (seed, key, "lost"))
            newer = set(range(last.get(key, 0) + 1, versions + 1))
            self.assertLessEqual(newer, dead[key], (seed, key, "an older version came last"))
        if command[command.index("--jobs") + 1] == "1":
            changes = [r for i, r in enumerate(runs) if i == 0 or runs[i - 1] != r]
            self.assertEqual(len(changes), len(set(changes)), (seed, "two runs wrote side by side"))

    def test_the_last_write_of_each_key_is_its_newest_version(self):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(self.round, SEED * 100_000 + i) for i in range(ROUNDS)]:
                done.result()


class Memory:
    """The largest resident size of our processes that work in a folder."""

    def __init__(self, folder):
        self.folder, self.peak, self.ended = str(folder), {}, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self.peak

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        while not self.ended.wait(0.01):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.readlink(f"/proc/{pid}/cwd") != self.folder:
                        continue
                    program = pathlib.Path(os.readlink(f"/proc/{pid}/exe"))
                    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
                        peak = next((int(line.split()[1]) for line in status if line.startswith("VmHWM")), 0)
                except (OSError, ProcessLookupError):
                    continue
                if program.parent == BIN.resolve():
                    self.peak[program.name] = max(self.peak.get(program.name, 0), peak)


class Poison(Middle):
    LIMIT = 64 * 1024  # KiB

    def run_all(self, events, database, name):
        with sqlite3.connect(self.path(database)) as db:
            db.execute("create table record(source, id, n int check (n >= 0), t, primary key(source, id))")
        line = (f"{STAGES} abort_on -7 | xml2json --infer | {STAGES} poisoned 1000000000"
                f" | sql-write sqlite:{database} --key source,id --column n=/unit/n --column id=id --column source=source")
        began = time.monotonic()
        with open(self.path(name + ".in"), "w", encoding="utf-8") as file:
            file.writelines(e if isinstance(e, str) else json.dumps(e) + "\n" for e in events)
        with Memory(self.folder) as peak:
            with open(self.path(name + ".in"), "rb") as file:
                published = subprocess.run([tool("publish"), f"{name}/", "--dead-letters", f"{name}.rejected"], cwd=self.folder,
                                           stdin=file, capture_output=True, check=False)
            done = run([tool("consume"), f"{name}/", "--as", "data", "--until-empty", "--", line], cwd=self.folder,
                       env=self.environment, timeout=500)
        self.assertEqual(done.exit, 0, done.stderr)
        for program in ("publish", "consume"):
            self.assertGreater(peak.get(program, 0), 0, peak)
        for program, size in peak.items():
            self.assertLess(size, self.LIMIT, f"{program} had {size} KiB")
        return published, time.monotonic() - began, peak

    def test_the_largest_records_and_their_letters(self):
        text = "<u>" + "y" * ((16 << 20) - 700) + "</u>"
        with open(self.path("in"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(xml_event(n, text if n in (50, 51, 90) else None)) + "\n" for n in range(120))
        with Memory(self.folder) as peak, open(self.path("in"), "rb") as file:
            published = subprocess.run([tool("publish"), "x/"], cwd=self.folder, stdin=file, capture_output=True, check=False)
            done = run([tool("consume"), "x/", "--as", "d", "--until-empty", "--",
                        "sql-write sqlite:d.db --create --key id --column id=id --max-record 1MiB"],
                       cwd=self.folder, env=self.environment, timeout=100)
        self.assertEqual((published.returncode, done.exit), (0, 0), (published.stderr, done.stderr))
        with open(self.path("x/subscribers/d/dead.ndjson"), encoding="utf-8") as letters:
            self.assertEqual([json.loads(line)["event"]["data"] == text for line in letters], [True] * 3)
        for program in ("publish", "consume"):
            self.assertGreater(peak.get(program, 0), 16 * 1024, peak)
            self.assertLess(peak[program], self.LIMIT, peak)

    def test_poison_among_many(self):
        self.poison_among_many([])

    def test_poison_and_events_that_a_foreign_stage_garbles_among_many(self):
        self.poison_among_many([(xml_event(0, f"<unit><n>{1_000_000_000 + i}</n></unit>", id=f"garbage{i}"), "pipeline")
                                for i in range(4)])

    def poison_among_many(self, garbage):
        count = 100_000 if MANY else 5_000
        padding = "<p>" + "x" * 200 + "</p>"
        good = [xml_event(n, f"<unit><n>{n}</n>{padding}</unit>") for n in range(count)]
        clean, clean_time, _ = self.run_all(good, "clean.db", "clean")
        self.assertEqual(clean.returncode, 0, clean.stderr)
        bomb = '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">' + "".join(
            f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)) + "]><unit><n>&j;</n></unit>"
        poison = [
            (xml_event(0, "<unit><n>1</unit>", id="malformed"), "xml2json"),
            (xml_event(0, bomb, id="bomb"), "xml2json"),
            (event(0, data={"n": -7}, id="abort"), "pipeline"),
            (xml_event(0, "<unit><n>\0</n></unit>", id="nul"), "xml2json"),
            ({k: v for k, v in {**xml_event(0, id="utf8"), "data_base64": "PHVuaXQ+PG4+//48L24+PC91bml0Pg=="}.items() if k != "data"}, "xml2json"),
            (xml_event(0, f"<unit><n>-1</n>{padding}</unit>", id="constraint"), "sql-write"),
        ] + garbage
        # What is no record at all is refused at the door, with its line.
        raw = ["\n", json.dumps(event(0, id="long", data={"t": "x" * (20 << 20)})) + "\n", '{"a":"\\ud800"}x\n', "{\"nul\":\"\0\"}\n"]
        events = list(good)
        chance = random.Random(SEED)
        for one in [e for e, _ in poison] + raw:
            events.insert(chance.randrange(len(events)), one)
        published, poisoned_time, peak = self.run_all(events, "data.db", "x")
        self.assertEqual(published.returncode, 1, published.stderr)
        refused = [json.loads(line) for line in (self.folder / "x.rejected").read_text().splitlines()]
        self.assertEqual(len(refused), len(raw))
        self.assertTrue(all(letter["by"] == "publish" and letter["reason"] for letter in refused))
        letters = self.letters()
        self.assertEqual({name: letter["by"] for name, letter in letters.items()}, {e["id"]: by for e, by in poison})
        self.assertEqual(self.stored(), sorted(ids(count)))
        print(f"summary: {len(poison) + len(raw)} bad ones among {count} events: {poisoned_time / clean_time:.2f} times as long as without "
              f"({poisoned_time:.2f} s, {clean_time:.2f} s); peak KiB {peak}", file=sys.stderr)


if __name__ == "__main__":
    unittest.main()

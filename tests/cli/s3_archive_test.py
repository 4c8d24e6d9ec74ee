"""s3-archive from outside: as a person uses it, and as a sink below a source that is told by receipts and kills it."""
import base64
import collections
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from archive_source import Source, event  # noqa: E402
from harness import run, tool, wait_for  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "50"))
S3 = tool("s3-archive")


def objects(archive):
    """What is visible, as anybody lists it: path -> lines, decoded by zstd(1)."""
    found = {}
    for path in sorted(pathlib.Path(archive).glob("date=*/hour=*/*")):
        if path.name.startswith("."):
            continue
        done = run(["zstd", "-dcq", str(path)])
        assert done.exit == 0, f"{path}: {done.stderr}"
        found[path.relative_to(archive).as_posix()] = done.stdout.splitlines()
    return found


def lines(archive):
    """Every line of every object that is visible, counted; each object must be whole."""
    paths = [str(p) for p in pathlib.Path(archive).glob("date=*/hour=*/*") if not p.name.startswith(".")]
    if not paths:
        return collections.Counter()
    done = run(["zstd", "-dcq", *paths])
    assert done.exit == 0, done.stderr
    return collections.Counter(done.stdout.splitlines())


class Folder(unittest.TestCase):
    def setUp(self):
        # In memory where there is such a place: what is killed is a process, not the machine.
        self.folder = tempfile.mkdtemp(prefix="inflight-test-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.archive = self.folder + "/archive"

    def put(self, text, *options, exit=0):
        done = run([S3, "put", self.archive, *options], stdin=text)
        self.assertEqual(done.exit, exit, done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr


class PlainPipe(Folder):
    def test_what_was_put_comes_back_byte_for_byte_in_order_of_time(self):
        rng = random.Random(1)
        some = [event(n, rng.randrange(86400), text="ä\\u0001 " * (n % 3)) for n in range(3000)]
        self.assertEqual(self.put("\n".join(some)), "")  # the last line without newline
        self.assertEqual(lines(self.archive), collections.Counter(some))
        done = run([S3, "get", self.archive])
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertEqual(done.stdout.splitlines(), sorted(some, key=lambda line: (json.loads(line)["recordedtime"], self.place(line))))
        for path, content in objects(self.archive).items():
            hour = path.split("/")[1].removeprefix("hour=")
            self.assertTrue(all(json.loads(line)["recordedtime"][11:13] == hour for line in content), path)

    def place(self, line):
        if not hasattr(self, "places"):
            self.places = {text: (path, i) for path, content in objects(self.archive).items() for i, text in enumerate(content)}
        return self.places[line]

    def test_the_same_input_put_again_makes_the_same_objects(self):
        text = "".join(event(n, n * 3) + "\n" for n in range(5000))
        self.put(text, "--max-records", "700")
        before = {path: (pathlib.Path(self.archive) / path).read_bytes() for path in objects(self.archive)}
        self.put(text, "--max-records", "700")
        self.assertEqual({path: (pathlib.Path(self.archive) / path).read_bytes() for path in objects(self.archive)}, before)
        self.assertGreater(len(before), 7)

    def test_equal_bare_records_are_all_kept(self):
        self.put('{"time":"2018-07-01T00:00:00Z"}\n' * 1000, "--max-records", "100")
        self.assertEqual(len(objects(self.archive)), 10)
        self.assertEqual(len(run([S3, "get", self.archive]).stdout.splitlines()), 1000)

    def test_get_leaves_out_an_event_that_two_runs_have_put(self):
        text = "".join(event(n, n) + "\n" for n in range(1000))
        self.put(text, "--max-records", "300")
        self.put(text, "--max-records", "400")
        self.assertEqual(sum(lines(self.archive).values()), 2000)
        self.assertEqual(run([S3, "get", self.archive]).stdout, text)

    def test_get_by_time_subject_and_limit(self):
        some = [event(n, n * 10, "bsu-%d" % (n % 4)) for n in range(2000)]
        self.put("\n".join(some) + "\n", "--max-records", "333")
        done = run([S3, "get", self.archive, "--from", "2018-07-01T00:30:00Z", "--to", "2018-07-01T02:15:00Z", "--subject", "bsu-1",
                    "--subject", "bsu-3"])
        expected = [line for n, line in enumerate(some) if 180 <= n < 810 and n % 4 in (1, 3)]
        self.assertEqual((done.exit, done.stdout.splitlines()), (0, expected))
        self.assertEqual(run([S3, "get", self.archive, "--limit", "7"]).stdout.splitlines(), some[:7])
        self.assertEqual(run([S3, "get", self.archive, "--from", "2019-01-01"]).stdout, "")

    # ---- ranges

    def test_ranges_are_read_from_a_file_or_standard_input_and_widened(self):
        """As find-gaps writes them: of each subject what its ranges hold, each event once however they overlap."""
        some = [event(n, n * 10, "bsu-%d" % (n % 4)) for n in range(2000)]
        self.put("\n".join(some) + "\n", "--max-records", "333")

        def between(unit, begin, end):  # seconds since midnight
            return {n for n in range(2000) if n % 4 == unit and begin <= n * 10 < end}

        def at(seconds):
            return f"2018-07-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"

        ranges = [(1, 600, 1200), (1, 1000, 1500), (1, 1100, 1110), (3, 7000, 7010), (3, 19000, 19000), (2, 0, 0)]
        text = "".join(json.dumps({"subject": f"bsu-{u}", "from": at(a), "to": at(b), "missing": 3}) + "\n" for u, a, b in ranges)
        pathlib.Path(self.folder, "ranges").write_text(text)
        for options, slack in ((), 300), (("--slack", "0s"), 0), (("--slack", "1h"), 3600):
            expected = set().union(*(between(u, a - slack, b + slack) for u, a, b in ranges))
            done = run([S3, "get", self.archive, "--ranges", self.folder + "/ranges", *options])
            self.assertEqual((done.exit, done.stdout.splitlines()), (0, [some[n] for n in sorted(expected)]))
            piped = run([S3, "get", self.archive, "--ranges", "-", *options], stdin=text)
            self.assertEqual((piped.exit, piped.stdout), (0, done.stdout))
        done = run([S3, "get", self.archive, "--ranges", "-", "--subject", "bsu-3", "--from", at(7000), "--to", at(7200)], stdin=text)
        self.assertEqual(done.stdout.splitlines(), [some[n] for n in sorted(between(3, 7000, 7200))])

    def test_slack_is_of_ranges(self):
        done = run([S3, "get", self.folder, "--slack", "1h"])
        self.assertEqual((done.exit, done.stdout, done.stderr), (2, "", "s3-archive: get takes --slack with --ranges only\n"))

    def test_no_ranges_are_nothing_to_do(self):
        self.put(event(1, 1) + "\n")
        self.assertEqual(run([S3, "get", self.archive, "--ranges", "-"], stdin=""), (0, "", ""))

    def test_ranges_that_are_none_are_told_by_line_and_nothing_is_read(self):
        self.put(event(1, 1) + "\n")
        good = '{"subject":"bsu-1","from":"2018-07-01T00:00:00Z","to":"2018-07-01T01:00:00Z"}\n'
        for bad, words in (('{"subject":"bsu-1","from":"2018-07-01T02:00:00Z","to":"2018-07-01T01:00:00Z"}',
                            "from 2018-07-01T02:00:00Z is after to 2018-07-01T01:00:00Z"),
                           ('{"from":"2018-07-01T02:00:00Z","to":"2018-07-01T03:00:00Z"}', "no subject"),
                           ('{"subject":"bsu-1","from":"2018-07-01T02:00:00Z"}', "to: '' is no time"),
                           ('{"subject":"bsu-1","from":"soon","to":"2018-07-01T03:00:00Z"}', "from: 'soon' is no time"),
                           ('{"subject":"bsu-1","from":"2018-07-01T00:00', "line 2"), ("bsu-1,2018", "line 2")):
            done = run([S3, "get", self.archive, "--ranges", "-"], stdin=good + bad)
            self.assertEqual((done.exit, done.stdout, len(done.stderr.splitlines())), (2, "", 1), bad)
            self.assertIn("standard input: line 2", done.stderr)
            self.assertIn(words, done.stderr)
        done = run([S3, "get", self.archive, "--ranges", self.folder + "/none"])
        self.assertEqual((done.exit, done.stdout, len(done.stderr.splitlines())), (2, "", 1))

    def test_what_is_not_there_is_told_and_is_no_failure(self):
        self.put("".join(event(n, n, "bsu-%d" % n) + "\n" for n in range(3)))
        where = f"s3-archive: {self.archive}: no records"
        unit = ["--subject", "bsu-99"]
        for options, said in ((["--from", "2019-01-01"], f"{where} from 2019-01-01T00:00:00Z"), (unit, f"{where} of bsu-99"),
                              ([*unit, "--from", "2018-07-01", "--to", "2018-07-01"], f"{where} of bsu-99 from 2018-07-01T00:00:00Z to 2018-07-01T00:00:00Z")):
            self.assertEqual(run([S3, "get", self.archive, *options]), (0, "", said + "\n"))
        done = run([S3, "get", self.archive, *unit, "--subject", "bsu-1"])
        self.assertEqual((done.exit, len(done.stdout.splitlines()), done.stderr), (0, 1, f"{where} of 1 of 2 subjects, such as bsu-99\n"))
        gap = '{"subject":"bsu-99","from":"2018-07-01T00:00:00Z","to":"2018-07-01T01:00:00Z"}\n'
        self.assertEqual(run([S3, "get", self.archive, "--ranges", "-"], stdin=gap), (0, "", f"{where} in these ranges\n"))

    def test_from_after_to_is_a_mistake(self):
        self.put(event(1, 1) + "\n")
        for command in "get", "ls", "verify":
            done = run([S3, command, self.archive, "--from", "2018-07-02", "--to", "2018-07-01"])
            self.assertEqual((done.exit, done.stdout, len(done.stderr.splitlines())), (2, "", 1))
            self.assertIn("--from 2018-07-02T00:00:00Z is after --to 2018-07-01T00:00:00Z", done.stderr)

    def test_ls_counts_what_is_there(self):
        self.put("".join(event(n, n * 60) + "\n" for n in range(100)))
        done = run([S3, "ls", self.archive, "--json"])
        listed = [json.loads(line) for line in done.stdout.splitlines()]
        content = objects(self.archive)
        self.assertEqual([(o["key"], o["records"]) for o in listed], [(k, len(v)) for k, v in content.items()])
        self.assertEqual([o["bytes"] for o in listed], [os.path.getsize(self.archive + "/" + k) for k in content])
        self.assertEqual((listed[0]["first"], listed[0]["last"]), ("2018-07-01T00:00:00Z", "2018-07-01T00:59:00Z"))
        self.assertIn("100", run([S3, "ls", self.archive]).stdout.splitlines()[-1])
        self.assertEqual(len(run([S3, "ls", self.archive, "--from", "2018-07-01T01:00:00Z"]).stdout.splitlines()), 2)

    def test_a_flipped_byte_is_found_by_verify_and_by_get(self):
        self.put("".join(event(n, n * 60) + "\n" for n in range(100)))
        self.assertEqual(run([S3, "verify", self.archive]), (0, "", ""))
        first = sorted(objects(self.archive))[0]
        path = pathlib.Path(self.archive) / first
        whole = path.read_bytes()
        for at in random.Random(2).sample(range(len(whole)), 40):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
            done = run([S3, "verify", self.archive])
            self.assertEqual((done.exit, len(done.stderr.splitlines())), (1, 1), at)
            self.assertIn(first, done.stderr)
            done = run([S3, "get", self.archive])
            self.assertEqual((done.exit, done.stdout), (70, ""), at)
            self.assertIn(first, done.stderr)
        path.write_bytes(whole)
        (path.parent / "other.ndjson.zst").write_bytes(b"not ours")
        done = run([S3, "verify", self.archive])
        self.assertEqual(done.exit, 1)
        self.assertIn("other.ndjson.zst", done.stderr)

    def test_mistakes_are_told_in_one_line_and_nothing_is_made(self):
        file = self.folder + "/file"
        pathlib.Path(file).write_text("")
        for words, status in [(["get", self.archive], 2), (["ls", self.archive], 2), (["verify", self.archive], 2),
                              (["put", file], 2), (["fetch", self.archive], 2), (["put", self.archive, "--from", "today"], 2),
                              (["get", self.archive, "--max-records", "5"], 2), (["ls", self.archive, "--subject", "x"], 2),
                              (["verify", self.archive, "--json"], 2), (["put", self.archive, "--level", "99"], 2),
                              (["put", self.archive, "--max-records", "0"], 2), (["put", self.archive, "--max-bytes", "2GiB"], 2)]:
            done = run([S3, *words], stdin='{"a":1}\n')
            self.assertEqual((done.exit, done.stdout, len(done.stderr.splitlines())), (status, "", 1), (words, done.stderr))
            self.assertFalse(os.path.exists(self.archive), words)

    def test_dry_run_shows_and_writes_nothing(self):
        done = run([S3, "put", self.archive, "--dry-run"], stdin=event(1, 3600) + "\n")
        self.assertEqual((done.exit, done.stdout), (0, "date=2018-07-01/hour=01/ " + event(1, 3600) + "\n"))
        self.assertEqual(lines(self.archive), {})

    def test_a_bad_record_is_rejected_and_the_rest_is_stored(self):
        stderr = self.put(event(1, 1) + "\nnot json\n" + event(2, 2) + "\n", exit=1)
        self.assertIn("line 2", stderr)
        self.assertEqual(lines(self.archive), collections.Counter([event(1, 1), event(2, 2)]))

    def test_sigterm_stores_what_was_read(self):
        process = subprocess.Popen([S3, "put", self.archive, "--linger", "10ms"], stdin=subprocess.PIPE)
        process.stdin.write((event(1, 1) + "\n").encode())
        process.stdin.flush()
        wait_for(lambda: list(pathlib.Path(self.archive).glob(".spool/*/*.open")), what="the record to be taken")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(30), 143)
        process.stdin.close()
        self.assertEqual(lines(self.archive), collections.Counter([event(1, 1)]))


class Memory(Folder):
    """What the manual says of get, and about as much of put: lines, their subjects and what an index has of them."""

    def peak(self, *command, stdin=None):
        # By a process of its own: what is measured begins with the size of who starts it.
        measure = "import os, sys; p = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); _, s, u = os.wait4(p, 0); " \
                  "print(os.waitstatus_to_exitcode(s), u.ru_maxrss >> 10, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", measure, S3, *command], stdin=stdin, check=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE)
        self.assertRegex(done.stderr, rb"^0 \d+\n$")
        return int(done.stderr.split()[1])

    def test_put_of_subjects_that_are_most_of_their_records(self):
        """Some that wait, and some whose lines are so long that they do not."""
        noise = base64.b64encode(random.Random(1).randbytes(1 << 20)).decode()
        for size, count in (10_000, 4_000), (1_300_000, 60):
            with self.subTest(size), tempfile.TemporaryFile() as text:
                for n in range(count):
                    text.write(b'{"subject":"%d %s","recordedtime":"2018-07-01T00:00:00Z"}\n' % (n, noise[:size].encode()))
                text.seek(0)
                self.assertLess(self.peak("put", self.archive, "--max-bytes", "1GiB", stdin=text), 72)

    def test_get_of_a_fleets_ranges(self):
        """Each object of the hour has each unit."""
        units, objects = 12_000, 30
        with tempfile.TemporaryFile() as text:
            for n in range(objects):
                text.write(b"".join(b'{"subject":"bsu-of-the-fleet-%06d","recordedtime":"2018-07-01T00:%02d:00Z"}\n' % (u, n) for u in range(units)))
            text.seek(0)
            subprocess.run([S3, "put", self.archive, "--max-records", str(units)], stdin=text, check=True)
        ranges = pathlib.Path(self.folder, "ranges")
        ranges.write_text("".join('{"subject":"bsu-of-the-fleet-%06d","from":"2018-07-01T00:00:00Z","to":"2018-07-01T01:00:00Z"}\n' % u
                                  for u in range(units)))
        self.assertLess(self.peak("get", self.archive, "--ranges", str(ranges)), 56)


class GetIntoAPipeline(Folder):
    @staticmethod
    def kill_again_and_again(command, seed):
        rng = random.Random(seed)
        for _ in range(6):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(rng.uniform(0.005, 0.12))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def test_get_with_a_state_goes_on_after_kills_and_stores_each_event_once(self):
        lines = [event(n, n % 3600, f"u{n % 7}") for n in range(20000)]
        put = run([S3, "put", str(self.archive)], stdin="\n".join(lines) + "\n")
        self.assertEqual((put.exit, put.stderr), (0, ""))
        writer = f"{tool('sql-write')} sqlite:{self.folder}/got.db --table t --key id --create --column id=id --column n=/n:int"
        command = [S3, "get", str(self.archive), "--state", f"{self.folder}/state", "--", f"{writer} --batch-records 100"]
        self.kill_again_and_again(command, seed=7)
        # Objects that come meanwhile are not of the range that the state pins.
        later = run([S3, "put", str(self.archive)], stdin=event(99999, 1) + "\n")
        self.assertEqual(later.exit, 0)
        done = run(command)
        self.assertEqual(done.exit, 0, done.stderr)
        self.assertIn("complete", done.stderr)
        rows = sqlite3.connect(f"{self.folder}/got.db").execute("select n from t order by n").fetchall()
        self.assertEqual([n for n, in rows], list(range(20000)))

    def test_a_state_made_for_other_subjects_is_refused(self):
        put = run([S3, "put", str(self.archive)], stdin=event(1, 1) + "\n")
        self.assertEqual(put.exit, 0)
        line = [S3, "get", str(self.archive), "--state", f"{self.folder}/state"]
        self.assertEqual(run([*line, "--", "cat >&2; exit 2"]).exit, 2)
        for other in (["--subject", "b"], ["--ranges", "-"]):
            refused = run([*line, *other, "--", "cat"], stdin="")
            self.assertEqual(refused.exit, 2)
            self.assertIn("other subjects", refused.stderr)

    def test_ranges_with_a_state_go_on_after_kills_and_store_each_event_once(self):
        lines = [event(n, n % 3600, f"u{n % 7}") for n in range(20000)]
        self.put("\n".join(lines) + "\n", "--max-records", "3000")
        ranges = "".join(f'{{"subject":"u{u}","from":"2018-07-01T00:{u * 5:02}:00Z","to":"2018-07-01T00:{u * 5 + 20}:00Z"}}\n' for u in range(5))
        path = pathlib.Path(self.folder, "ranges")
        path.write_text(ranges)
        writer = f"{tool('sql-write')} sqlite:{self.folder}/got.db --table t --key id --create --column id=id --column n=/n:int"
        command = [S3, "get", self.archive, "--ranges", str(path), "--slack", "1m", "--state", f"{self.folder}/state", "--",
                   f"{writer} --batch-records 100"]
        self.kill_again_and_again(command, seed=11)
        done = run(command)
        self.assertEqual(done.exit, 0, done.stderr)
        self.assertIn("complete", done.stderr)
        rows = sqlite3.connect(f"{self.folder}/got.db").execute("select n from t order by n").fetchall()
        wanted = [n for n in range(20000) if n % 7 < 5 and (n % 7 * 5 - 1) * 60 <= n % 3600 < (n % 7 * 5 + 21) * 60]
        self.assertEqual([n for n, in rows], wanted)
        path.write_text(ranges + ranges.splitlines()[0].replace('"u0"', '"u6"') + "\n")
        refused = run(command)
        self.assertEqual(refused.exit, 2)
        self.assertIn("was made for other subjects or ranges", refused.stderr)


    def begun(self):
        """Three hours put, 60 of 120 events settled; the line that goes on."""
        events = [event(n, 3600 * (n // 40) + n) for n in range(120)]
        for hour in range(3):  # an object each
            put = run([S3, "put", str(self.archive)], stdin="\n".join(events[hour * 40:hour * 40 + 40]) + "\n")
            self.assertEqual(put.exit, 0)
        writer = f"{tool('sql-write')} sqlite:{self.folder}/got.db --table t --key id --create --column id=id --column n=/n:int"
        line = [S3, "get", str(self.archive), "--state", f"{self.folder}/state"]
        first = run([*line, "--limit", "60", "--", writer])
        self.assertEqual(first.exit, 0, first.stderr)
        self.assertNotIn("complete", first.stderr)
        self.assertEqual(self.stored(), 60)
        return line, writer

    def stored(self):
        return sqlite3.connect(f"{self.folder}/got.db").execute("select count(*) from t").fetchone()[0]

    def test_a_limit_is_not_the_end(self):
        line, writer = self.begun()
        self.assertEqual(run([*line, "--limit", "10", "--", writer]).exit, 0)
        self.assertEqual(self.stored(), 70)
        done = run([*line, "--", writer])
        self.assertEqual((done.exit, self.stored()), (0, 120))
        self.assertIn("complete", done.stderr)

    def test_other_times_with_the_same_state_are_told(self):
        line, writer = self.begun()
        done = run([*line, "--to", "2018-07-01T01:00:00Z", "--", writer])
        self.assertEqual((done.exit, self.stored()), (0, 120))
        self.assertIn("goes on from (open) to (open), as it was begun", done.stderr)

    def test_an_object_that_is_gone_ends_what_has_begun(self):
        """Positions count what all objects hold: without one, events of the others would be taken for settled."""
        line, writer = self.begun()
        first = sorted(pathlib.Path(self.archive).glob("date=*/hour=00/*"))[0]
        aside = first.rename(pathlib.Path(self.folder) / "aside")
        refused = run([*line, "--", writer])
        self.assertEqual((refused.exit, self.stored()), (2, 60))
        self.assertIn(f"{first.name} is gone (1 of 3 objects are)", refused.stderr)
        aside.rename(first)
        self.assertEqual(run([*line, "--", writer]).exit, 0)
        self.assertEqual(self.stored(), 120)

    def test_a_damaged_list_of_objects_is_told(self):
        line, writer = self.begun()
        pin = next(p for p in pathlib.Path(self.folder).iterdir() if p.suffix == ".objects" and '"objects"' in p.read_text(errors="replace"))
        for text in ('{"objects":5,"subjects":[]}', '{"objects":[]}', "{", ""):
            pin.write_text(text)
            refused = run([*line, "--", writer])
            self.assertEqual(refused.exit, 70, refused.stderr)
            self.assertIn(f"{pin}: damaged", refused.stderr)


class BelowASource(Folder):
    def test_every_event_is_in_exactly_one_object_whatever_is_killed(self):
        stored_twice_asked = 0
        for seed in range(ROUNDS):
            with self.subTest(seed=seed):
                rng = random.Random(seed)
                archive = f"{self.folder}/{seed}"
                base = rng.randrange(10**6)
                # Mostly in order around the turn of an hour, some late.
                events = {base + n: event(n, 3500 + n // 10 if rng.random() < 0.95 else rng.randrange(86400), pad="x" * rng.randrange(300))
                          for n in range(rng.randrange(200, 2000))}
                source = Source(archive, events)

                def options():
                    return ["--max-records", str(rng.choice([30, 100, 400, 40000])), "--max-age", rng.choice(["2ms", "20ms", "60s"]),
                            "--batch-records", str(rng.choice([1, 7, 100, 5000])), "--linger", rng.choice(["1ms", "10ms"])]

                for _ in range(rng.randrange(1, 6)):
                    before = len(source.settled)
                    status = source.run(rng, options(), kill=True, forget=rng.random() < 0.3)
                    self.assertIn(status, (-signal.SIGKILL, 0), source.stderr)
                    self.assertGreaterEqual(len(source.settled), before)
                    there = lines(archive)  # whatever is visible is whole: zstd reads it
                    self.assertEqual(run([S3, "verify", archive]), (0, "", "")) if os.path.exists(archive) else None
                    self.assertEqual([line for line, count in there.items() if count > 1], [])
                    self.assertEqual([p for p in source.settled if there[events[p]] != 1], [])
                    # What is in an object though nobody heard of it: the case that the ledger is for.
                    stored_twice_asked += sum(there[line] for p, line in events.items() if p not in source.settled)
                self.assertEqual(source.run(rng, options()), 0, source.stderr)
                self.assertEqual(source.settled, set(events))
                self.assertEqual(lines(archive), collections.Counter(events.values()))
                self.assertEqual(run([S3, "verify", archive]), (0, "", ""))
                self.assertEqual(list(pathlib.Path(archive).glob(".spool/*/*.open")), [])
                self.assertEqual(sorted(run([S3, "get", archive]).stdout.splitlines()), sorted(events.values()))
                shutil.rmtree(archive)
        self.assertGreater(stored_twice_asked, 0)

    def test_what_is_delivered_again_after_all_was_stored_changes_nothing(self):
        source = Source(self.archive, {n: event(n, n) for n in range(1000)})
        rng = random.Random(3)
        self.assertEqual(source.run(rng, ["--max-records", "100"]), 0, source.stderr)
        before = objects(self.archive)
        self.assertIn("date=2018-07-01/hour=00/0b7e%2Fbackfill-0-99.ndjson.zst", before)
        source.settled.clear()
        self.assertEqual(source.run(rng, ["--max-records", "77"]), 0, source.stderr)
        self.assertEqual(source.settled, set(source.events))
        self.assertEqual(objects(self.archive), before)

    def test_what_is_open_is_told_as_held(self):
        source = Source(self.archive, {n: event(n, n) for n in range(50)})
        self.assertEqual(source.run(random.Random(4)), 0)
        self.assertEqual(source.held, set(range(50)))
        self.assertEqual(source.settled, set(range(50)))

    def test_a_spool_of_its_own_also_on_another_file_system(self):
        spool = tempfile.mkdtemp(prefix="inflight-test-", dir="/var/tmp")
        self.addCleanup(shutil.rmtree, spool, ignore_errors=True)
        source = Source(self.archive, {n: event(n, n * 20) for n in range(1000)})
        rng = random.Random(5)
        for _ in range(5):
            source.run(rng, ["--spool", spool, "--max-records", "50"], kill=True)
        self.assertEqual(source.run(rng, ["--spool", spool]), 0, source.stderr)
        self.assertEqual(lines(self.archive), collections.Counter(source.events.values()))
        self.assertEqual(sorted(os.listdir(spool)), ["ledger", "lock"])
        self.assertFalse(os.path.exists(self.archive + "/.spool"))

    def test_two_exchanges_under_one_prefix_are_told_and_nothing_is_left_out(self):
        """Two subscribers of one exchange are not."""
        one, other = "0b7e4a60-1111-4222-8333-444444444444", "9c7e4a60-1111-4222-8333-444444444444"
        for count, name in enumerate([f"{one}.backfill", f"{one}.again", f"{other}.backfill"]):
            source = Source(self.archive, {n: event(100 * count + n, n) for n in range(20)}, name)
            self.assertEqual(source.run(random.Random(1)), 0)
            done = run([S3, "get", self.archive])
            self.assertEqual((done.exit, len(done.stdout.splitlines())), (0, 20 * count + 20))
            said = f"s3-archive: {self.archive}/: holds events of more than one exchange, {one} and {other}: those of all are written\n"
            self.assertEqual(done.stderr, said if count == 2 else "")

    def test_a_second_run_of_the_same_subscriber_is_refused_naming_the_first(self):
        spool = self.folder + "/spool"
        first = subprocess.Popen([S3, "put", self.archive, "--spool", spool], stdin=subprocess.PIPE)
        wait_for(lambda: os.path.exists(spool + "/ledger"), what="the first to hold its spool")
        done = run([S3, "put", self.archive, "--spool", spool], stdin=event(1, 1))
        self.assertEqual(done.exit, 75)
        self.assertIn(f"({first.pid})", done.stderr)
        first.stdin.close()
        self.assertEqual(first.wait(30), 0)
        self.assertEqual(lines(self.archive), {})

    def test_a_full_disk_is_waited_for_and_nothing_is_lost(self):
        rng = random.Random(6)
        events = {n: event(n, n // 10, noise=rng.randbytes(400).hex()) for n in range(6000)}
        source = Source(self.archive, events)
        if self.mount():
            status = source.run(rng, ["--max-records", "500", "--give-up", "1s"])
            self.assertEqual(status, 75, source.stderr)
            self.assertIn("No space left", source.stderr)
            run(["mount", "-o", "remount,size=64m", self.archive])
        else:  # no right to mount: a limit on the size of any file has the same place in the code, another error
            status = source.run(rng, [], preexec=self.limit_files)
            self.assertEqual(status, 70, source.stderr)
        there = lines(self.archive)
        self.assertEqual([line for line, count in there.items() if count > 1], [])
        self.assertEqual([p for p in source.settled if there[events[p]] != 1], [])
        self.assertLess(len(source.settled), len(events))
        self.assertEqual(source.run(rng, ["--max-records", "700"]), 0, source.stderr)
        self.assertEqual(source.settled, set(events))
        self.assertEqual(lines(self.archive), collections.Counter(events.values()))

    def mount(self):
        os.mkdir(self.archive)
        if run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", self.archive]).exit != 0:
            return False
        self.addCleanup(run, ["umount", "-l", self.archive])
        return True

    @staticmethod
    def limit_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


if __name__ == "__main__":
    unittest.main()

"""What operators and disks do wrong: one line, the right exit status, nothing lost and nothing changed."""
import base64
import contextlib
import hashlib
import json
import os
import pathlib
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import run, tool, wait_for  # noqa: E402

SEGMENT = "00000000000000000000"


def event(n, data="x"):
    return json.dumps({"specversion": "1.0", "id": f"e{n}", "source": "test", "type": "t", "subject": f"u{n}",
                       "recordedtime": f"2018-07-01T00:00:00.{n:09}Z", "datacontenttype": "application/xml",
                       "data": data})


def events(first, end, data="x"):
    return "".join(event(n, data) + "\n" for n in range(first, end))


def numbers(text):
    return [int(json.loads(line)["id"][1:]) for line in text.splitlines()]


class BadInput(unittest.TestCase):
    def setUp(self):
        self.box = tempfile.mkdtemp(prefix="inflight-test-")
        self.addCleanup(shutil.rmtree, self.box, True)
        self.exchange = f"{self.box}/exchange"

    def path(self, name, content=None):
        if content is not None:
            pathlib.Path(f"{self.box}/{name}").write_text(content)
        return f"{self.box}/{name}"

    def sums(self):
        """Every file below the box, by its content."""
        files = [path for path in pathlib.Path(self.box).rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def refused(self, status, reason, name, *words, stdin="", **options):
        """It ends with this status and one line that gives the reason, and no file has changed."""
        before = self.sums()
        result = run([tool(name), *words], stdin, **options)
        self.assertEqual(result.exit, status, result.stderr)
        self.assertRegex(result.stderr, rf"^{name}: [^\n]*{reason}[^\n]*\n$")
        self.assertEqual((result.stdout, self.sums()), ("", before))

    def publish(self, first, end, data="x"):
        done = run([tool("publish"), self.exchange], events(first, end, data))
        self.assertEqual((done.exit, done.stderr), (0, ""))

    def consume(self, *words):
        return run([tool("consume"), self.exchange, "--as", "s", "--until-empty", *words])

    # ---- the fleet

    def test_a_missing_devices_file(self):
        self.refused(2, f"{self.box}/none: No such file", "bsu-fetch", "--devices", f"{self.box}/none", "--once")

    def test_a_malformed_device_line_is_told_with_its_number_and_text(self):
        good = "# the fleet\nu1 http://127.0.0.1:1/\n\n"
        for bad in "u2", "u2 ftp://host/x", "http://host/only-an-address", '{"id":"u2"}', '{"id":"u2","url":17}':
            with self.subTest(bad=bad):
                path = self.path("fleet.txt", good + bad + "\nu3 http://127.0.0.1:1/\n")
                text = bad.replace("{", r"\{").replace("}", r"\}")
                self.refused(2, f"line 4 .*: {text}", "bsu-fetch", "--devices", path, "--once")

    def test_a_fleet_of_no_units(self):
        self.refused(2, "names no unit", "bsu-fetch", "--devices", self.path("fleet.txt", "# none\n"), "--once")

    def test_an_unreachable_host_is_named_with_its_cause(self):
        for url, why in ("http://127.0.0.1:1/x", "Connection refused"), ("http://no-such-host.invalid/", "resolve"):
            path = self.path("fleet.txt", f"u1 {url}\n")
            self.refused(75, f"u1: {url}: .*{why}", "bsu-fetch", "--devices", path, "--once")

    # ---- places

    def test_a_file_in_the_place_of_a_folder(self):
        file = self.path("file", "something of mine\n")
        bad = event(1) + "\nbroken\n"
        for name, *words in (("publish", f"{file}/x"), ("publish", file), ("publish", f"{file}/x", "--set", "keep=1h"),
                             ("s3-archive", "put", f"{file}/x"), ("s3-archive", "put", file),
                             ("s3-archive", "put", f"{self.box}/archive", "--spool", f"{file}/x"),
                             ("s3-archive", "get", file), ("s3-archive", "ls", f"{file}/x"),
                             ("sql-write", f"sqlite:{file}/x.db", "--table", "t"), ("sql-write", f"sqlite:{file}"),
                             ("consume", file, "--as", "s"), ("consume", f"{file}/x", "--as", "s"),
                             ("dlq-replay", file, "--as", "s"), ("xml2json", "--dead-letters", f"{file}/x"),
                             ("bsu-fetch", "--devices", self.path("fleet.txt", "u1 http://127.0.0.1:1/\n"), "--once",
                              "--dead-letters", f"{file}/x", "--", "cat")):
            with self.subTest(name, words=words):
                self.refused(2, "file", name, *words, stdin=bad)

    def test_a_place_that_takes_no_files(self):  # root may write where permissions forbid it, but not here
        for name, *words in (("publish", "/proc/x"), ("s3-archive", "put", "/proc/x"),
                             ("sql-write", "sqlite:/proc/x.db"), ("xml2json", "--dead-letters", "/proc/x")):
            with self.subTest(name):
                self.refused(2, "/proc/x", name, *words, stdin="broken\n" + event(1) + "\n")

    def test_an_exchange_that_is_not_there_is_not_made_by_reading(self):
        for words in ["--as", "s"], ["--list"], ["--check", "dead=0"]:
            self.refused(2, "No such file", "consume", self.exchange, *words)
        self.refused(2, "No such file", "dlq-replay", self.exchange, "--as", "s", "--summary")

    # ---- exchanges

    def on_exchange(self, status, reason):
        for name, *words in (("publish", self.exchange), ("publish", self.exchange, "--set", "keep=1h"),
                             ("consume", self.exchange, "--as", "s", "--until-empty"),
                             ("consume", self.exchange, "--as", "new", "--register"),
                             ("consume", self.exchange, "--list"),
                             ("consume", self.exchange, "--as", "s", "--remove"),
                             ("dlq-replay", self.exchange, "--as", "s", "--summary")):
            with self.subTest(name, words=words):
                self.refused(status, reason, name, *words, stdin=events(10, 12))

    def test_an_exchange_of_a_newer_format(self):
        self.publish(1, 5)
        self.assertEqual(self.consume().exit, 0)
        about = pathlib.Path(f"{self.exchange}/exchange.json")
        about.write_text(json.dumps({**json.loads(about.read_text()), "version": 2}))
        self.on_exchange(2, "format version 2 is newer than this program's 1")

    def test_a_folder_that_is_something_else(self):
        os.mkdir(self.exchange)
        self.path("exchange/holiday.jpg", "a picture")
        self.on_exchange(2, "is not an exchange")
        self.path("exchange/exchange.json", '{"stocks": []}')
        self.on_exchange(2, "is not an exchange")

    def test_a_second_consume_of_the_same_name_names_the_first(self):
        self.publish(1, 5)
        self.assertEqual(self.consume().exit, 0)
        first = subprocess.Popen([tool("consume"), self.exchange, "--as", "s"], stdin=subprocess.DEVNULL)
        try:
            wait_for(lambda: "running" in run([tool("consume"), self.exchange, "--list"]).stdout, what="the first")
            for words in [], ["--", "cat"], ["--remove"]:
                result = run([tool("consume"), self.exchange, "--as", "s", *words])
                self.assertEqual((result.exit, result.stdout), (75, ""))
                self.assertRegex(result.stderr, rf"^consume: .*: s is already run by consume \({first.pid}\)\n$")
        finally:
            first.terminate()
            self.assertEqual(first.wait(60), 143)
        self.assertIn("s ", run([tool("consume"), self.exchange, "--list"]).stdout)
        self.assertEqual(self.consume(), (0, "", ""))  # the cursor is where it was

    def test_damage_is_told_by_position_and_every_other_event_is_there(self):
        for first in 0, 3, 6:
            self.publish(first, first + 3)  # a batch
        whole = self.path("whole")
        shutil.copytree(self.exchange, whole)
        size = os.path.getsize(f"{whole}/{SEGMENT}.ndjson") // 3
        for batch in range(3):
            for name, at, why in (("index", 12288 + 64 * batch + 17, f"no readable record at byte {12288 + 64 * batch}"),
                                  ("ndjson", size * batch + size // 2, "checksum")):
                with self.subTest(batch=batch, file=name):
                    shutil.rmtree(self.exchange)
                    shutil.copytree(whole, self.exchange)
                    path = pathlib.Path(f"{self.exchange}/{SEGMENT}.{name}")
                    damaged = bytearray(path.read_bytes())
                    damaged[at] ^= 4
                    path.write_bytes(damaged)
                    for _ in range(2):  # and again: nothing heals by trying
                        result = self.consume()
                        self.assertEqual(result.exit, 70)
                        lost = f"damaged at byte {size * batch}, positions {3 * batch}-{3 * batch + 2}: .*{why}"
                        self.assertRegex(result.stderr, rf"^consume: [^\n]*{lost}[^\n]*\n$")
                    self.assertEqual(path.read_bytes(), damaged)
                    run([tool("consume"), self.exchange, "--as", "s", "--remove"])
                    result = self.consume("--skip-damage")
                    self.assertEqual(numbers(result.stdout), [n for n in range(9) if n // 3 != batch])
                    self.assertEqual(len(result.stderr.splitlines()), 1)


    def test_a_lost_index_is_named_and_its_events_are_saved_as_journal_5_says(self):
        self.publish(0, 9)
        self.assertEqual(self.consume().exit, 0)
        self.publish(9, 12)
        index = pathlib.Path(f"{self.exchange}/{SEGMENT}.index")
        index.write_bytes(b"x" * index.stat().st_size)
        for name, *words in ("publish", self.exchange), ("consume", self.exchange, "--as", "s", "--until-empty"):
            self.refused(70, f"{SEGMENT}.index: the header is unreadable", name, *words, stdin=events(20, 21))
        index.unlink()
        for name, *words in ("publish", self.exchange), ("consume", self.exchange, "--as", "s", "--until-empty"):
            self.refused(70, f"{SEGMENT}.ndjson: has lost its index", name, *words, stdin=events(20, 21))
        with open(f"{self.exchange}/{SEGMENT}.ndjson", "a") as data:
            data.write(event(12)[:50])
        page = (pathlib.Path(__file__).resolve().parents[2] / "man/journal.5").read_text()
        commands = page.split(".Sh REPAIR BY HAND")[1].split(".Bd -literal -offset indent\n")[1].split(".Ed")[0]
        self.assertEqual(len(commands.splitlines()), 2)
        os.rename(self.exchange, f"{self.box}/fleet")
        done = run(["sh", "-c", commands], cwd=self.box, env={**os.environ, "PATH": f"{os.path.dirname(tool('publish'))}:{os.environ['PATH']}"})
        self.assertEqual(done, (1, "", ""))
        self.assertEqual(len(pathlib.Path(f"{self.box}/fleet.torn.ndjson").read_text().splitlines()), 1)
        self.exchange = f"{self.box}/fleet"
        self.assertEqual(numbers(self.consume().stdout), list(range(12)))


class FullDisk(unittest.TestCase):
    """On a disk of some MiB. Where nobody may mount one, a limit on the size of any file stands for it."""

    def setUp(self):
        self.box = tempfile.mkdtemp(prefix="inflight-test-")
        self.addCleanup(shutil.rmtree, self.box, True)
        self.disk = f"{self.box}/disk"
        os.mkdir(self.disk)
        self.mounted = run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", self.disk]).exit == 0
        if self.mounted:
            self.addCleanup(run, ["umount", "-l", self.disk])
        self.exchange = f"{self.disk}/exchange"

    def grow(self):
        if self.mounted:
            self.assertEqual(run(["mount", "-o", "remount,size=128m", self.disk]).exit, 0)

    def limit(self, name):
        if not self.mounted:
            size = (8 << 20) if name == "publish" else (512 << 10)  # an archive's objects and spool are small
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def assert_told(self, name, result):
        self.assertIn(result.exit, [75] if self.mounted else [70, 75], result.stderr)
        self.assertTrue(result.stderr)
        for line in result.stderr.splitlines():
            self.assertRegex(line, rf"^{name}: .*(No space left|disk is full|File too large|disk I/O error)")

    def test_a_sink_says_so_and_loses_nothing(self):
        text = "".join(event(n, base64.b64encode(os.urandom(3000)).decode()) + "\n" for n in range(5000))  # 20 MiB

        def rows():
            with contextlib.closing(sqlite3.connect(f"{self.disk}/x.db")) as database:
                if not database.execute("select 1 from sqlite_master where name = 'record'").fetchall():
                    return []
                return [int(row[0][1:]) for row in database.execute("select id from record")]

        for name, words, read in (
                ("publish", [self.exchange], lambda: numbers(
                    run([tool("consume"), self.exchange, "--as", f"s{os.urandom(4).hex()}", "--until-empty"]).stdout)),
                ("s3-archive", ["put", f"{self.disk}/archive", "--max-bytes", "1MiB"],
                 lambda: numbers(run([tool("s3-archive"), "get", f"{self.disk}/archive"]).stdout)),
                ("sql-write", [f"sqlite:{self.disk}/x.db", "--table", "record", "--key", "id", "--column", "id=id",
                               "--column", "body=data"], rows)):
            with self.subTest(name):
                result = run([tool(name), *words, "--give-up", "1s"], text, restore_signals=False,
                             preexec_fn=lambda: self.limit(name))
                self.assert_told(name, result)
                self.grow()
                stored = read()
                self.assertEqual(len(stored), len(set(stored)))
                self.assertEqual(run([tool(name), *words], text), (0, "", ""))
                self.assertEqual(sorted(read()), list(range(5000)))
                for left in os.listdir(self.disk):
                    path = f"{self.disk}/{left}"
                    shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
                if self.mounted:
                    self.assertEqual(run(["mount", "-o", "remount,size=12m", self.disk]).exit, 0)

    def fill(self):
        """Somebody else takes every block that is free; removing the file gives them back."""
        with contextlib.suppress(OSError), open(f"{self.disk}/filler", "wb", buffering=0) as filler:
            while filler.write(b"x" * 4096) == 4096:
                pass
        with contextlib.suppress(OSError), open(f"{self.disk}/filler", "ab", buffering=0) as filler:
            while filler.write(b"x"):
                pass

    def consume(self):
        return run([tool("consume"), self.exchange, "--as", "s", "--until-empty", "--",
                    f"{tool('xml2json')} | {tool('sql-write')} sqlite:{self.box}/x.db --table t"])

    def dead(self):
        return numbers("".join(json.dumps(json.loads(line)["event"]) + "\n" for line in run(
            [tool("dlq-replay"), self.exchange, "--as", "s", "--export"]).stdout.splitlines()))

    def test_cursors_and_dead_letters_have_a_reserve(self):
        if not self.mounted:
            return self.assertGreater(self.reserve_after_publish(), 0)  # what uses it is tested in unit/ledger_test
        self.assertEqual(self.reserve_after_publish(), 4 << 20)
        self.fill()
        self.assertEqual((self.consume().exit, self.dead()), (0, list(range(4000))))
        self.assertEqual(run([tool("consume"), self.exchange, "--check", "dead=4000,behind=0"]).exit, 0)
        self.assertLess(os.path.getsize(f"{self.exchange}/reserve"), 4 << 20)
        # What is left of it is not for events.
        done = run([tool("publish"), self.exchange, "--give-up", "300ms"], events(4000, 4010))
        self.assert_told("publish", done)
        os.remove(f"{self.disk}/filler")
        self.assertEqual(run([tool("publish"), self.exchange], events(4000, 4010)), (0, "", ""))
        self.assertEqual(os.path.getsize(f"{self.exchange}/reserve"), 4 << 20)
        self.assertEqual(self.consume().exit, 0)
        self.assertEqual(self.dead(), list(range(4010)))

    def reserve_after_publish(self):
        done = run([tool("publish"), self.exchange], events(0, 4000, "<broken" + "x" * 100))
        self.assertEqual(done, (0, "", ""))
        return os.path.getsize(f"{self.exchange}/reserve")

    def test_letters_beyond_the_reserve_wait_for_room(self):
        if not self.mounted:
            return self.assertGreater(self.reserve_after_publish(), 0)
        text = "".join(event(n, "<" + os.urandom(1000).hex()) + "\n" for n in range(2300))  # 5 MiB
        self.assertEqual(run([tool("publish"), self.exchange], text), (0, "", ""))
        self.fill()
        result = self.consume()
        self.assertEqual(result.exit, 75)
        self.assertRegex(result.stderr, "^consume: [^\n]*No space left on device\n$")
        some = self.dead()
        self.assertEqual(some, list(range(len(some))))
        self.assertGreater(len(some), 0)
        os.remove(f"{self.disk}/filler")
        self.assertEqual(self.consume().exit, 0)
        self.assertEqual(self.dead(), list(range(2300)))


if __name__ == "__main__":
    unittest.main()

"""What every tool keeps, whatever it does: one suite over the list that CMake makes (tools.txt).

TOOLS says of each tool how it is called in its simplest useful way. A tool that is not there fails the suite.
"""
import contextlib
import fcntl
import glob
import json
import os
import pathlib
import re
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, Result, Server, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer  # noqa: E402
from pg_server import Postgres  # noqa: E402
from redis_server import Redis  # noqa: E402
from rest_server import RestServer  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402

SECRET = "hunter2secret"
TOKEN = "tok1"


def event(n, **changes):
    attributes = {"specversion": "1.0", "id": f"e{n}", "source": "conformance", "type": "t", "subject": f"u{n}",
                  "recordedtime": f"2018-07-01T00:00:00.{n:09}Z", "datacontenttype": "application/xml",
                  "data": f"<bsu id='{n}'/>"}
    attributes.update(changes)
    return json.dumps(attributes)


def lines(*records):
    return "".join(r + "\n" for r in records)


def events(count):
    return lines(*(event(n) for n in range(1, count + 1)))


def ids_of(text):
    return [json.loads(line)["id"] for line in text.splitlines()]


def ids(count):
    return [f"e{n}" for n in range(1, count + 1)]


def in_order(names):
    return sorted(names, key=lambda name: int(name[1:]))


class Kind:
    """One way to call a tool. `words` and `options` make its command line, for a folder `box` that prepare() filled."""
    reads = False  # takes records from standard input
    endless = False  # goes on until it is stopped, and need not write anything
    report = None  # a line that is asked for and no sign of trouble, as a regular expression
    printed = 0  # the exit status of printing()
    judges = True  # and rejects what is none; others leave that to the next stage
    options = ()

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return " ".join([self.name, *self.flat()])

    def prepare(self, box):
        pass

    def prepare_empty(self, box):
        self.prepare(box)

    def words(self, box):
        return []

    def flat(self):
        return [word for name, value in self.options for word in (f"--{name}", value) if word is not None]

    def command(self, box, *more):
        return [tool(self.name), *self.words(box), *self.flat(), *more]

    def printing(self, box):
        """A command line that writes records to standard output."""
        return self.command(box)

    def idling(self, box):
        """One that goes on until it is stopped, with its input open."""
        return self.command(box)

    def stored(self, box, stdout):
        """The ids of what the destination holds."""
        return in_order(ids_of(stdout))

    def after_a_bad_line(self):
        """Its exit status, where standard input has one."""
        return 1 if self.reads and self.judges else 0

    def with_secrets(self, box):
        """Command lines that fail, with SECRET where people put theirs."""
        url = f"https://user:{SECRET}@host/x?token={SECRET}"
        return [self.command(box, "--no-such-option", url), self.command(box, "--metrics", url, "--jobs", url)]


class Filter(Kind):
    reads = True

    def __init__(self, name, *options):
        super().__init__(name)
        self.options = options

    def with_secrets(self, box):
        url = f"https://user:{SECRET}@host/x?token={SECRET}"
        return super().with_secrets(box) + [[tool("xml2json"), url], [tool("xml2json"), f"https://{SECRET}@host/x"]]


class Reshape(Filter):
    def words(self, box):
        return ["."]


class Unlimited(Filter):
    judges = False


class Throttle(Unlimited):
    def words(self, box):
        return ["--state", f"{box}/state"]


class Sink(Kind):
    reads = True

    def printing(self, box):
        return self.command(box, "--dry-run")


class Publish(Sink):
    def words(self, box):
        return [f"{box}/exchange"]

    def stored(self, box, stdout):
        files = sorted(glob.glob(f"{box}/exchange/*.ndjson"))
        return in_order(ids_of("".join(pathlib.Path(f).read_text() for f in files)))

    def with_secrets(self, box):
        return super().with_secrets(box) + [[tool(self.name), f"amqp://user:{SECRET}@host/"]]


class InfluxWrite(Sink):
    """To a server on loopback, a database for each folder."""
    influx = None
    options = (("timestamp", "recordedtime"), ("field", "id=id"))

    @staticmethod
    def database(box):
        return os.path.basename(box)

    def prepare(self, box):
        self.influx.create(self.database(box))

    def words(self, box):
        self.prepare(box)  # some tests use a folder that they have made themselves
        return [f"{self.influx.url}?db={self.database(box)}"]

    def stored(self, box, stdout):
        return in_order(row["id"] for row in self.influx.query(self.database(box), "select id from record"))

    def with_secrets(self, box):
        pathlib.Path(f"{box}/token").write_text(f"{SECRET}\nx\n")
        return super().with_secrets(box) + [[tool(self.name), f"http://user:{SECRET}@127.0.0.1:1?db=x"],
                                            [tool(self.name), f"http://127.0.0.1:1?db=x&u=user&p={SECRET}"],
                                            [tool(self.name), f"http://127.0.0.1:1?db=x&token={SECRET}"],
                                            [tool(self.name), "http://127.0.0.1:1?db=x", "--token-file", f"{box}/token"]]


class SqlWrite(Sink):
    options = (("table", "reading"), ("key", "id"), ("column", "id=id"), ("column", "subject=subject"))

    def words(self, box):
        return [f"sqlite:{box}/x.db"]

    def stored(self, box, stdout):
        if not os.path.exists(f"{box}/x.db"):
            return []
        with contextlib.closing(sqlite3.connect(f"{box}/x.db")) as database:
            if not database.execute("select 1 from sqlite_master where name = 'reading'").fetchall():
                return []
            return in_order(row[0] for row in database.execute("select id from reading"))

    def with_secrets(self, box):
        return super().with_secrets(box) + [[tool(self.name), f"postgresql://user:{SECRET}@host/db?password={SECRET}"],
                                            [tool(self.name), f"mysql://user:{SECRET}@host/db", "--table", "t"]]


class PostgresWrite(SqlWrite):
    """Each folder is a schema of its own in one server."""
    pg = None

    @staticmethod
    def schema(box):
        return re.sub(r"\W", "_", os.path.basename(str(box)))

    def words(self, box):
        schema = self.schema(box)
        self.pg.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE IF NOT EXISTS {schema}.reading(id text PRIMARY KEY, subject text)")
        return [f"{self.pg.socket_url}&options=-csearch_path%3D{schema}"]

    def stored(self, box, stdout):
        return in_order(row[0] for row in self.pg.sql(f"SELECT id FROM {self.schema(box)}.reading"))


class SqlRead(Kind):
    options = (("table", "reading"),)
    idling = None  # it ends by itself

    def prepare(self, box, count=3000):
        with contextlib.closing(sqlite3.connect(f"{box}/x.db")) as database:
            database.execute("CREATE TABLE reading(n INTEGER PRIMARY KEY, id TEXT)")
            database.executemany("INSERT INTO reading VALUES(?,?)", [(n, f"e{n}") for n in range(1, count + 1)])
            database.commit()

    def prepare_empty(self, box):
        self.prepare(box, 0)

    def words(self, box):
        return [f"sqlite:{box}/x.db"]

    def with_secrets(self, box):
        return super().with_secrets(box) + [[tool(self.name), f"postgresql://user:{SECRET}@host/db?password={SECRET}", "--table", "t"],
                                            [tool(self.name), f"mysql://user:{SECRET}@host/db", "--table", "t"]]


class InfluxRead(Kind):
    """From the server of InfluxWrite, a database for each folder."""
    options = (("measurement", "reading"), ("from", "2018-07-01"))
    idling = None  # it ends by itself

    def prepare(self, box, count=3000):
        self.report = None if count else r"influx-read: .*: no points\n"
        InfluxWrite.influx.create(InfluxWrite.database(box))
        lines = 'reading id="early" 1\n' + "".join(f'reading id="e{n}" {1530403200 + n}000000000\n' for n in range(1, count + 1))
        urllib.request.urlopen(urllib.request.Request(f"{InfluxWrite.influx.url}/write?db={InfluxWrite.database(box)}", data=lines.encode()), timeout=60).close()

    def prepare_empty(self, box):
        self.prepare(box, 0)

    def words(self, box):
        return [f"{InfluxWrite.influx.url}?db={InfluxWrite.database(box)}"]

    def with_secrets(self, box):
        pathlib.Path(f"{box}/token").write_text(f"{SECRET}\nx\n")
        return super().with_secrets(box) + [[tool(self.name), url, "--measurement", "m", "--give-up", "1ms", *more]
                                            for url, *more in ([f"http://user:{SECRET}@127.0.0.1:1?db=x"], [f"http://127.0.0.1:1?db=x&u=user&p={SECRET}"],
                                                               ["http://127.0.0.1:1?db=x", "--token-file", f"{box}/token"])]


class RedisWrite(Sink):
    """Each folder is a key of its own in one server."""
    server = None
    options = (("newer-by", "recordedtime"), ("field", "id=id"), ("field", "subject=subject"))

    def words(self, box):
        return [self.server.url, "--key", f"{box}:{{id}}"]

    def stored(self, box, stdout):
        return in_order(key.rpartition(":")[2] for key in self.server("KEYS", f"{box}:*"))

    def with_secrets(self, box):
        pathlib.Path(f"{box}/password").write_text(f"{SECRET}\n")
        return super().with_secrets(box) + [[tool(self.name), f"redis://user:{SECRET}@127.0.0.1:1", "--key", "k"],
                                            [tool(self.name), f"rediss://user:{SECRET}@127.0.0.1:1", "--key", "k"],
                                            [tool(self.name), f"unix:{box}/none", "--key", "k", "--give-up", "1ms",
                                             "--password-file", f"{box}/password"],
                                            [*self.command(box), "--password-file", f"{box}/password"]]


class HttpWrite(Sink):
    """Each folder is a collection of its own in one service."""
    server = None
    options = (("body", "id"),)

    def words(self, box):
        return [f"{self.server.url}{box}/{{id}}"]

    def stored(self, box, stdout):
        return in_order(path.rpartition("/")[2] for path in self.server.documents if path.startswith(f"{box}/"))

    def with_secrets(self, box):
        pathlib.Path(f"{box}/header").write_text(f"Authorization: Bearer {SECRET}\n")
        pathlib.Path(f"{box}/bad-header").write_text(f"Authorization Bearer {SECRET}\n")
        return super().with_secrets(box) + [[tool(self.name), f"http://user:{SECRET}@127.0.0.1:1/{{id}}"],
                                            [tool(self.name), f"http://127.0.0.1:1/{{id}}?token={SECRET}"],
                                            [*self.command(box), "--no-such", "--header-file", f"{box}/header"],
                                            [*self.command(box), "--header-file", f"{box}/bad-header"]]


class ArchivePut(Sink):
    options = (("max-age", "50ms"),)

    def words(self, box):
        return ["put", f"{box}/archive"]

    def stored(self, box, stdout):
        if not os.path.isdir(f"{box}/archive"):
            return []
        return in_order(ids_of(run([tool("s3-archive"), "get", f"{box}/archive"]).stdout))

    def with_secrets(self, box):
        return super().with_secrets(box) + [[tool(self.name), "put", f"s3://user:{SECRET}@bucket/x?secret={SECRET}"]]


class ArchiveGet(Kind):
    def prepare(self, box, count=600):
        done = run([tool("s3-archive"), "put", f"{box}/archive"],
                   "".join(event(n, data="x" * 500) + "\n" for n in range(1, count + 1)))
        assert done.exit == 0, done

    def prepare_empty(self, box):
        self.prepare(box, 0)

    def words(self, box):
        return ["get", f"{box}/archive"]

    idling = None  # it ends by itself


class BsuFetch(Kind):
    """Of a fleet that answers on loopback."""
    fleet = None
    options = (("once", None),)

    def prepare(self, box):
        shutil.copy(self.fleet.dir / "fleet.txt", f"{box}/fleet.txt")

    def words(self, box):
        return ["--devices", f"{box}/fleet.txt"]

    def idling(self, box):
        return [tool(self.name), *self.words(box), "--every", "1s"]

    def stored(self, box, stdout):
        return [json.loads(line)["id"] for line in stdout.splitlines()]

    def with_secrets(self, box):
        pathlib.Path(f"{box}/secret.txt").write_text(
            f"u1 http://user:{SECRET}@127.0.0.1:1/x?token={SECRET}\nu2 http://{SECRET}@127.0.0.1:1/y\n")
        pathlib.Path(f"{box}/wrong.txt").write_text(f"u1 htp://user:{SECRET}@127.0.0.1:1/x?token={SECRET}\n")
        pathlib.Path(f"{box}/header").write_text(f"Authorization: Bearer {SECRET}\n")
        pathlib.Path(f"{box}/bad-header").write_text(f"Authorization Bearer {SECRET}\n")
        return super().with_secrets(box) + [
            [tool(self.name), "--url", f"http://user:{SECRET}@host/{{id}}", "--ids", f"{box}/fleet.txt", "--once"],
            [tool(self.name), "--url", f"http://host/{{id}}?token={SECRET}", "--ids", f"{box}/fleet.txt", "--once"],
            [tool(self.name), "--devices", f"{box}/secret.txt", "--once", "--emit-failures"],
            [tool(self.name), "--devices", f"{box}/wrong.txt", "--once", "--emit-failures"],
            [tool(self.name), "--devices", f"{box}/secret.txt", "--once", "--header-file", f"{box}/header"],
            [tool(self.name), "--devices", f"{box}/secret.txt", "--once", "--header-file", f"{box}/bad-header"]]


class Rtdb(Kind):
    """Of a database on loopback, with 600 documents."""
    server = None

    def words(self, box):
        return [f"{self.server.url}/{self.collection}"]

    collection = "orders"

    def prepare(self, box):
        self.collection = "orders"

    def prepare_empty(self, box):
        self.collection = "none"

    def stored(self, box, stdout):
        return [json.loads(line)["id"] for line in stdout.splitlines()]

    def with_secrets(self, box):
        pathlib.Path(f"{box}/token").write_text(f"{SECRET}\n")
        pathlib.Path(f"{box}/account").write_text(json.dumps({"type": "service_account", "client_email": "a", "private_key": SECRET}))
        return super().with_secrets(box) + [[tool(self.name), f"https://user:{SECRET}@host.firebaseio.com/x"],
                                            [tool(self.name), f"https://host.firebaseio.com/x?auth={SECRET}"],
                                            [tool(self.name), f"{self.server.url}/x#", "--token-file", f"{box}/token"],
                                            [tool(self.name), f"{self.server.url}/x", "--doc" if self.name == "crawl" else "--silence", "/",
                                             "--token-file", f"{box}/token"],
                                            [tool(self.name), f"{self.server.url}/x", "--credentials", f"{box}/account"]]


class Crawl(Rtdb):
    report = r"crawl: (orders: 600 keys, first|none: no keys).*\n"
    idling = None  # it ends by itself


class CrawlData(Crawl):
    options = (("with-data", None),)


class Listen(Rtdb):
    """It writes nothing until something changes: cli/listen_test has what it writes."""
    report = "listen: orders: the baseline is durable.*\n"
    endless = True


class Consume(Kind):
    options = (("as", "s"), ("until-empty", None))

    def prepare(self, box, count=3000):
        assert run([tool("publish"), f"{box}/exchange"], events(count)).exit == 0

    def prepare_empty(self, box):
        self.prepare(box, 0)

    def words(self, box):
        return [f"{box}/exchange"]

    def idling(self, box):
        return [tool(self.name), f"{box}/exchange", "--as", "s"]

    def with_secrets(self, box):
        return super().with_secrets(box) + [[tool(self.name), f"amqp://user:{SECRET}@host/", "--as", "s"],
                                            [tool(self.name), f"/nowhere/https://user:{SECRET}@host", "--as", "s"]]


class DlqReplay(Kind):
    """Letters of events that xml2json rejects."""
    options = (("as", "s"), ("export", None))

    def prepare(self, box, count=1000):
        bad = lines(*(event(n, data="<broken") for n in range(1, count + 1)))
        assert run([tool("publish"), f"{box}/exchange"], bad).exit == 0
        done = run([tool("consume"), f"{box}/exchange", "--as", "s", "--until-empty", "--",
                    f"{tool('xml2json')} | {tool('sql-write')} sqlite:{box}/x.db --table t"])
        assert done.exit == 0, done

    def prepare_empty(self, box):
        self.prepare(box, 0)

    def words(self, box):
        return [f"{box}/exchange"]

    def stored(self, box, stdout):
        return in_order(json.loads(line)["event"]["id"] for line in stdout.splitlines())

    idling = None

    def with_secrets(self, box):
        return super().with_secrets(box) + [[tool(self.name), f"amqp://user:{SECRET}@host/", "--as", "s"],
                                            [tool(self.name), f"/nowhere/https://user:{SECRET}@host", "--as", "s"]]


class Reconcile(Kind):
    """Two equal sides; only what differs is written, and then the exit status is 1."""
    options = (("key", "id"), ("quiet", None), ("allow-empty", None))
    printed = 1
    idling = None  # it ends by itself

    def prepare(self, box, count=3000):
        for name in "left", "right":
            pathlib.Path(f"{box}/{name}").write_text(events(count))

    def prepare_empty(self, box):
        self.prepare(box, 0)

    def words(self, box):
        return ["--left", f"cat {box}/left", "--right", f"cat {box}/right", "--report", f"{box}/report"]

    def printing(self, box):
        return self.command(box, "--right", "true", "--emit", "missing")

    def stored(self, box, stdout):
        return list(range(json.loads(pathlib.Path(f"{box}/report.json").read_text())["equal"]))

    def with_secrets(self, box):
        url = f"https://user:{SECRET}@host/x?token={SECRET}"
        return super().with_secrets(box) + [self.command(box, "--left", f"false # {url}"), self.command(box, "--exchange", url, "--as", "s")]


class FindGaps(Kind):
    """Of units that are absent from the window: what is read lies before it."""
    options = (("every", "10s"), ("from", "2018-07-02"), ("to", "2018-07-03"), ("time", "recordedtime"))
    idling = None  # it writes at the end

    def __init__(self, name, *more):
        super().__init__(name)
        self.options = (*self.options, *more)

    def prepare(self, box):
        pathlib.Path(f"{box}/units").write_text("".join(f"u{n}\n" for n in range(1, 3001)))

    def prepare_empty(self, box):
        pass

    def words(self, box):
        return ["--subjects", f"{box}/units"] if os.path.exists(f"{box}/units") else []

    def after_a_bad_line(self):
        return 1

    def stored(self, box, stdout):
        return [json.loads(line)["subject"] for line in stdout.splitlines()]


TOOLS = {
    "bsu-fetch": [BsuFetch("bsu-fetch")],
    "consume": [Consume("consume")],
    "crawl": [Crawl("crawl"), CrawlData("crawl")],
    "dlq-replay": [DlqReplay("dlq-replay")],
    "find-gaps": [FindGaps("find-gaps"), FindGaps("find-gaps", ("sorted", None))],
    "http-write": [HttpWrite("http-write")],
    "hydrate": [Filter("hydrate")],
    "influx-read": [InfluxRead("influx-read")],
    "influx-write": [InfluxWrite("influx-write")],
    "listen": [Listen("listen")],
    "publish": [Publish("publish")],
    "reconcile": [Reconcile("reconcile")],
    "redis-write": [RedisWrite("redis-write")],
    "reshape": [Reshape("reshape"), Reshape("reshape", ("jobs", "2"), ("envelope", None))],
    "s3-archive": [ArchivePut("s3-archive"), ArchiveGet("s3-archive")],
    "sql-read": [SqlRead("sql-read")],
    "sql-write": [SqlWrite("sql-write"), PostgresWrite("sql-write")],
    "throttle": [Unlimited("throttle"), Throttle("throttle", ("rate", "1000000/s")), Throttle("throttle", ("min-interval", "1us"))],
    "xml2json": [Filter("xml2json"), Filter("xml2json", ("jobs", "2"))],
}
WITH_PIPELINE = {  # how a source is given a pipeline, here one that waits for its end of input and then for a file
    "bsu-fetch": lambda box: [tool("bsu-fetch"), "--devices", f"{box}/fleet.txt", "--every", "1s", "--ack", "exit",
                              "--dead-letters", f"{box}/dead.ndjson"],
    "consume": lambda box: [tool("consume"), f"{box}/exchange", "--as", "s", "--ack", "exit"],
    "crawl": lambda box: [tool("crawl"), f"{Rtdb.server.url}/orders", "--ack", "exit", "--dead-letters", f"{box}/dead.ndjson"],
    "dlq-replay": lambda box: [tool("dlq-replay"), f"{box}/exchange", "--as", "s", "--ack", "exit"],
    "influx-read": lambda box: [*InfluxRead("influx-read").command(box), "--ack", "exit", "--dead-letters", f"{box}/dead.ndjson"],
    "listen": lambda box: [tool("listen"), f"{Rtdb.server.url}/orders", "--ack", "exit", "--dead-letters", f"{box}/dead.ndjson"],
    "s3-archive": lambda box: [tool("s3-archive"), "get", f"{box}/archive", "--ack", "exit",
                               "--dead-letters", f"{box}/dead.ndjson"],
    "sql-read": lambda box: [tool("sql-read"), f"sqlite:{box}/x.db", "--table", "reading", "--ack", "exit",
                             "--dead-letters", f"{box}/dead.ndjson"],
}
LISTED = (BIN.parent / "tools.txt").read_text().split()


class Channel:
    """A receipts channel as a source hands it out."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        about = os.fstat(self.writer)
        self.env = dict(os.environ, RECEIPTS_FD=f"{self.writer}:{about.st_dev}:{about.st_ino}:{TOKEN}",
                        RECEIPTS_SOURCE="test")
        self._text = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close_reader()
        os.close(self.writer)

    def close_reader(self):
        if self.reader is not None:
            os.close(self.reader)
        self.reader = None

    def read(self):
        """What has been said so far."""
        while select.select([self.reader], [], [], 0)[0]:
            self._text += os.read(self.reader, 65536)
        return [json.loads(line) for line in self._text.decode().splitlines()]

    def positions(self, *statuses):
        """The positions that lines of these statuses name."""
        found = set()
        for line in self.read():
            if line.get("status") in statuses:
                for part in line["delivery"].split(":")[1].split(","):
                    first, _, last = part.partition("-")
                    found.update(range(int(first.split("/")[0]), int((last or first).split("/")[0]) + 1))
        return found


def delivered(n, **changes):
    return f'{{"delivery":"{TOKEN}:{n}",' + event(n, **changes)[1:]


def drained(fd):
    """Whether a pipe is empty: its reader has taken all."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0] == 0


class Conformance(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sim = cls.enterClassContext(Server([tool("bsu-sim"), "--port", "0", "--units", "200", "--devices", "{dir}/fleet.txt"]))
        BsuFetch.fleet = cls.sim
        PostgresWrite.pg = cls.enterClassContext(Postgres())
        InfluxWrite.influx = cls.enterClassContext(InfluxServer())
        redis = cls.enterClassContext(Redis())
        RedisWrite.server = redis
        Rtdb.server = RtdbServer("--documents", "600")
        Rtdb.server.__enter__()
        cls.addClassCleanup(Rtdb.server.__exit__)
        HttpWrite.server = cls.enterClassContext(RestServer())

    @contextlib.contextmanager
    def box(self):
        with tempfile.TemporaryDirectory(prefix="inflight-test-") as folder:
            yield folder

    @staticmethod
    def kinds(reads=None, endless=False, judges=None):
        """Those that end by themselves, or all."""
        return [kind for kinds in TOOLS.values() for kind in kinds
                if reads in (None, kind.reads) and judges in (None, kind.judges) and (endless or not kind.endless)]

    @contextlib.contextmanager
    def ready(self, kind, prepare="prepare"):
        """A subtest for one way to call a tool, with a folder made ready for it."""
        with self.subTest(str(kind)), self.box() as box:
            if prepare:
                getattr(kind, prepare)(box)
            yield box

    def assert_messages(self, kind, stderr, count=None):
        """One line each, `tool: what: why`."""
        self.assertTrue(stderr == "" or stderr.endswith("\n"), stderr)
        for line in stderr.splitlines():
            self.assertRegex(line, rf"^{re.escape(kind.name)}: \S.*: \S.*$")
        if count is not None:
            self.assertEqual(len(stderr.splitlines()), count, stderr)

    def assert_fails(self, kind, result, status):
        self.assertEqual(result.exit, status, result.stderr)
        self.assert_messages(kind, result.stderr, 1)

    def assert_silent(self, result, status=0, kind=Kind):
        """But for its report, where it has one."""
        stderr = re.sub(rf"\A{kind.report}", "", result.stderr, count=1) if kind.report else result.stderr
        self.assertEqual((result.exit, stderr), (status, ""))

    def test_the_table_has_every_tool_and_no_other(self):
        self.assertEqual(sorted(TOOLS), sorted(LISTED))
        for name in LISTED:
            self.assertEqual("-- PIPELINE" in run([tool(name), "--help"]).stdout, name in WITH_PIPELINE, name)

    def test_success_is_silent(self):
        for kind in self.kinds():
            with self.ready(kind) as box:
                result = run(kind.command(box), events(3) if kind.reads else "")
                self.assert_silent(result, kind=kind)
                if kind.reads:
                    self.assertEqual(kind.stored(box, result.stdout), ids(3))
                else:
                    self.assertGreater(len(kind.stored(box, result.stdout)), 100)

    def test_empty_input_is_nothing_to_do(self):
        for kind in self.kinds():
            if kind.name == "bsu-fetch":
                continue  # a fleet of no units is a mistake: cli/bad_input_test
            with self.ready(kind, prepare="prepare_empty") as box:
                result = run(kind.command(box))
                self.assert_silent(result, kind=kind)
                self.assertEqual((result.stdout, kind.stored(box, result.stdout)), ("", []))

    def test_a_last_line_without_newline_counts_in_a_plain_pipe(self):
        for kind in self.kinds(reads=True):
            with self.ready(kind) as box:
                result = run(kind.command(box), events(3)[:-1])
                self.assert_silent(result)
                self.assertEqual(kind.stored(box, result.stdout), ids(3))

    # What no tool can make a record of: it is rejected with its line number, and the lines around it are stored.
    BAD_LINES = {
        "very long": (event(2, data="x" * 20000).encode(), "20.*--max-record"),
        "bad UTF-8": (event(2, data="@@").encode().replace(b"@@", b"\xff\xfe"), "UTF-8"),
        "NUL": (event(2, data="@@").encode().replace(b"@@", b"a\0b"), ""),
        "empty": (b"", ""),
        "array": (b"[1,2]", ""),
        "number": (b"17", ""),
        "text": (b"hello", ""),
        "half": (event(2).encode()[:-20], ""),
        "two records": (event(2).encode() + event(2).encode(), ""),
    }

    def test_a_bad_line_is_rejected_and_the_others_are_stored(self):
        for kind in self.kinds(reads=True, judges=True):
            with self.ready(kind) as box:
                for name, (bad, reason) in self.BAD_LINES.items():
                    with self.subTest(bad=name), self.box() as inner:
                        text = event(1).encode() + b"\n" + bad + b"\n" + event(3).encode() + b"\n"
                        command = kind.command(inner, "--max-record", "10KiB")
                        result = run(command, text)
                        self.assert_fails(kind, result, 1)
                        self.assertRegex(result.stderr, f"^{kind.name}: line 2: .*{reason}")
                        self.assertEqual(kind.stored(inner, result.stdout), ["e1", "e3"])
                    with self.subTest(bad=name, dead_letters=True), self.box() as inner:
                        dead = pathlib.Path(f"{inner}/dead")
                        result = run(kind.command(inner, "--max-record", "10KiB", "--dead-letters", str(dead)), text)
                        self.assertEqual(result.exit, 1)
                        self.assertEqual(kind.stored(inner, result.stdout), ["e1", "e3"])
                        (letter,) = [json.loads(line) for line in dead.read_bytes().splitlines()]
                        self.assertEqual((letter["line"], letter["by"]), (2, kind.name))
                        self.assertTrue(letter["reason"])

    def test_a_line_over_the_default_limit_is_rejected(self):
        long = event(2, data="x" * (17 << 20))
        for kind in self.kinds(reads=True, judges=True):
            with self.ready(kind) as box:
                result = run(kind.command(box), lines(event(1), long, event(3)))
                self.assert_fails(kind, result, 1)
                self.assertLess(len(result.stderr), 300)
                self.assertEqual(kind.stored(box, result.stdout), ["e1", "e3"])

    def test_a_full_disk_behind_standard_output_is_a_failure(self):
        for kind in self.kinds():
            with self.ready(kind) as box:
                for command in kind.printing(box), [tool(kind.name), "--help"], [tool(kind.name), "--version"]:
                    with self.subTest(command=command[1:]), open("/dev/full", "wb") as full:
                        done = subprocess.run(command, input=events(3).encode(), stdout=full, stderr=subprocess.PIPE,
                                              timeout=60, check=False)
                        self.assertEqual(done.returncode, 70)
                        self.assertEqual(done.stderr.decode(),
                                         f"{kind.name}: standard output: No space left on device\n")

    def test_a_closed_standard_output_is_a_failure_where_something_is_written(self):
        for kind in self.kinds():
            with self.ready(kind) as box:
                result = run(["bash", "-c", '"$@" >&-', "bash", *kind.printing(box)], events(3))
                self.assert_fails(kind, result, 70)
                self.assertIn("standard output", result.stderr)

    def test_closed_standard_streams_do_no_harm(self):
        for kind in self.kinds(reads=True):
            with self.ready(kind) as box:
                result = run(["bash", "-c", '"$@" 2>&-', "bash", *kind.command(box)], events(3))
                self.assert_silent(result)
                self.assertEqual(kind.stored(box, result.stdout), ids(3))
                with self.box() as other:
                    result = run(["bash", "-c", '"$@" <&-', "bash", *kind.command(other)])
                    self.assert_fails(kind, result, 70)  # not read is not empty
                    self.assertIn("standard input", result.stderr)

    def test_a_reader_that_closes_early_is_no_failure(self):
        text = events(3000).encode()
        for kind in self.kinds():
            with self.ready(kind) as box:
                for command, status in (kind.printing(box), kind.printed), ([tool(kind.name), "--help"], 0):
                    with self.subTest(command=command[1:]):
                        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                   stderr=subprocess.PIPE)
                        process.stdout.close()
                        with contextlib.suppress(BrokenPipeError):
                            process.stdin.write(text)
                        with contextlib.suppress(BrokenPipeError):
                            process.stdin.close()
                        stderr = process.stderr.read().decode()
                        process.stderr.close()
                        self.assertEqual((process.wait(60), stderr), (status, ""))

    def stop(self, kind, box, number):
        """Signals a tool that has read 5,000 records and waits for more; the exit status, standard error and output."""
        with open(f"{box}/stdout", "wb") as out:
            process = subprocess.Popen(kind.idling(box), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE)
        if kind.reads:
            process.stdin.write(events(5000).encode())
            process.stdin.flush()
            wait_for(lambda: drained(process.stdin.fileno()), what="the input to be read")
        else:
            wait_for(lambda: os.path.getsize(f"{box}/stdout") > 0, what="the first record")
        process.send_signal(number)
        status = process.wait(60)
        process.stdin.close()
        stderr = process.stderr.read().decode()
        process.stderr.close()
        return status, stderr, pathlib.Path(f"{box}/stdout").read_text()

    def test_a_stop_signal_drains_what_was_read(self):
        for number, status in (signal.SIGTERM, 143), (signal.SIGINT, 130):
            for kind in self.kinds():
                with self.ready(kind) as box:
                    if kind.idling is None:
                        continue
                    exit_status, stderr, stdout = self.stop(kind, box, number)
                    self.assertEqual((exit_status, stderr), (status, ""))
                    self.assertEqual(stdout[-1:] or "\n", "\n")  # no half line
                    if kind.reads:
                        self.assertEqual(kind.stored(box, stdout), ids(5000))

    def test_a_stop_signal_lets_the_pipeline_of_a_source_end(self):
        for number, status in (signal.SIGTERM, 143), (signal.SIGINT, 130):
            for name, command in WITH_PIPELINE.items():
                with self.subTest(name, signal=number), self.box() as box:
                    TOOLS[name][-1].prepare(box)
                    pipeline = f"touch {box}/started; cat > {box}/got; until [ -e {box}/go ]; do sleep 0.02; done"
                    process = subprocess.Popen([*command(box), "--", pipeline], stdin=subprocess.DEVNULL,
                                               stderr=subprocess.PIPE)
                    wait_for(lambda: os.path.exists(f"{box}/started"), what="the pipeline")
                    process.send_signal(number)
                    pathlib.Path(f"{box}/go").touch()
                    stderr = process.communicate(timeout=60)[1].decode()
                    self.assert_silent(Result(process.returncode, "", stderr), status, TOOLS[name][-1])

    def test_whole_lines_are_flushed_as_soon_as_input_idles(self):
        for kind in self.kinds(reads=True):
            with self.ready(kind) as box:
                process = subprocess.Popen(kind.printing(box), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for n in 1, 2:
                    process.stdin.write((event(n) + "\n").encode() + event(n + 1)[:20].encode() * (n == 2))
                    process.stdin.flush()
                    self.assertTrue(select.select([process.stdout], [], [], 30)[0], "no answer while the input is open")
                    answer = os.read(process.stdout.fileno(), 65536).decode()
                    self.assertIn(f'"e{n}"', answer)
                    self.assertTrue(answer.endswith("\n"))
                process.kill()
                process.communicate()

    def test_sinks_store_as_soon_as_input_idles(self):
        for kind in self.kinds(reads=True):
            with self.ready(kind) as box:
                if not isinstance(kind, Sink):
                    continue
                process = subprocess.Popen(kind.command(box), stdin=subprocess.PIPE)
                process.stdin.write((event(1) + "\n").encode())
                process.stdin.flush()
                wait_for(lambda: kind.stored(box, "") == ["e1"], what="the record to be stored while the input is open")
                process.stdin.close()
                self.assertEqual(process.wait(60), 0)

    def test_sources_write_as_soon_as_they_idle(self):
        for kind in self.kinds(reads=False):
            with self.ready(kind) as box:
                if kind.idling is None:
                    continue
                process = subprocess.Popen(kind.idling(box), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                self.assertTrue(select.select([process.stdout], [], [], 30)[0])
                self.assertIsNone(process.poll())
                process.terminate()
                process.communicate(timeout=60)

    # ---- under a source

    def test_receipts_or_passed_on_deliveries_name_every_record(self):
        for kind in self.kinds(reads=True):
            with self.ready(kind) as box:
                with Channel() as channel:
                    text = lines(delivered(1), delivered(2), delivered(3))
                    result = run(kind.command(box), text, env=channel.env, pass_fds=[channel.writer])
                    self.assert_silent(result)
                    if isinstance(kind, Sink):
                        self.assertEqual(channel.positions("stored", "last"), {1, 2, 3})
                        self.assertEqual([line["sink"] for line in channel.read() if "sink" in line], [kind.name])
                    else:
                        self.assertEqual([json.loads(line)["delivery"] for line in result.stdout.splitlines()],
                                         [f"{TOKEN}:{n}" for n in (1, 2, 3)])

    def test_a_bad_record_under_a_source_is_told_on_the_channel_and_the_exit_status_is_0(self):
        for kind in self.kinds(reads=True, judges=True):
            with self.ready(kind) as box:
                with Channel() as channel:
                    text = lines(delivered(1), delivered(2, data="x" * 20000), delivered(3)[:-9], delivered(4))
                    result = run(kind.command(box, "--max-record", "10KiB"), text, env=channel.env,
                                 pass_fds=[channel.writer])
                    self.assert_silent(result)
                    self.assertEqual(channel.positions("rejected"), {2, 3})
                    self.assertEqual(kind.stored(box, result.stdout), ["e1", "e4"])

    def test_a_half_line_under_a_source_is_neither_processed_nor_rejected(self):
        for kind in self.kinds(reads=True):
            with self.ready(kind) as box:
                with Channel() as channel:
                    text = lines(delivered(1), delivered(2)) + delivered(3)[:-1]
                    result = run(kind.command(box), text, env=channel.env, pass_fds=[channel.writer])
                    self.assert_fails(kind, result, 70)
                    self.assertIn("line 3", result.stderr)
                    self.assertNotIn(3, channel.positions("stored", "last", "rejected", "dropped", "held"))
                    self.assertEqual(kind.stored(box, result.stdout), ["e1", "e2"])
                    self.assertIn({"exit": 70, "by": kind.name}, channel.read())

    def test_even_a_half_line_that_is_a_whole_record_is_not_processed_under_a_source(self):
        for kind in self.kinds(reads=True):
            with self.ready(kind) as box:
                with Channel() as channel:
                    result = run(kind.command(box), delivered(1), env=channel.env, pass_fds=[channel.writer])
                    self.assert_fails(kind, result, 70)
                    self.assertEqual(kind.stored(box, result.stdout), [])

    def test_a_record_without_delivery_under_a_source_is_a_usage_error(self):
        for kind in self.kinds(reads=True, judges=True):
            with self.ready(kind) as box:
                for stranger in event(2), event(2, delivery="tok2:2"), event(2, delivery=17), '{"a":1}':
                    with self.subTest(stranger=stranger), Channel() as channel, self.box() as inner:
                        result = run(kind.command(inner), lines(delivered(1), stranger), env=channel.env,
                                     pass_fds=[channel.writer])
                        self.assert_fails(kind, result, 2)
                        self.assertIn("delivery", result.stderr)
                        self.assertEqual(channel.positions("rejected", "dropped"), set())
                        self.assertNotIn("e2", kind.stored(inner, result.stdout))

    def test_a_channel_that_nobody_reads_stops_the_sink(self):
        for kind in self.kinds(reads=True):
            with self.ready(kind) as box:
                if not isinstance(kind, Sink):
                    continue
                with Channel() as channel:
                    process = subprocess.Popen(kind.command(box), stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                                               env=channel.env, pass_fds=[channel.writer])
                    wait_for(lambda: any("sink" in line for line in channel.read()), what="the sink to be there")
                    channel.close_reader()
                    process.stdin.write(lines(delivered(1), delivered(2)).encode())
                    process.stdin.flush()
                    status = process.wait(60)  # with its input open
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.write(lines(delivered(3)).encode())
                        process.stdin.close()
                    stderr = process.stderr.read().decode()
                    process.stderr.close()
                    self.assertEqual(status, 75)
                    self.assert_messages(kind, stderr, 1)
                    self.assertTrue(set(kind.stored(box, "")) <= {"e1", "e2"})
                with Channel() as channel, self.box() as other:
                    channel.close_reader()
                    result = run(kind.command(other), events(3), env=channel.env, pass_fds=[channel.writer])
                    self.assert_fails(kind, result, 75)
                    self.assertEqual(kind.stored(other, ""), [])

    def test_a_reader_that_closes_early_is_no_receipt(self):
        text = lines(*(delivered(n) for n in range(1, 3001))).encode()
        for kind in self.kinds(reads=True):
            if isinstance(kind, Sink):
                continue
            with self.ready(kind) as box, Channel() as channel:
                process = subprocess.Popen(kind.command(box), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, env=channel.env, pass_fds=[channel.writer])
                process.stdout.close()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(text)
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                stderr = process.stderr.read().decode()
                process.stderr.close()
                self.assertEqual((process.wait(60), stderr), (0, ""))
                self.assertEqual(channel.positions("stored", "last", "dropped", "rejected"), set())

    def test_what_a_reader_of_consume_did_not_take_is_not_settled(self):
        (kind,) = TOOLS["consume"]
        for taken in 0, 1:
            with self.ready(kind) as box:
                process = subprocess.Popen(kind.command(box), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                for _ in range(taken):
                    process.stdout.readline()
                process.stdout.close()
                self.assertEqual(process.wait(60), 0)
                rest = run(kind.command(box))
                self.assertEqual(rest.exit, 0, rest.stderr)
                # What fits into the pipe at once cannot be told from what was read.
                self.assertEqual(kind.stored(box, rest.stdout)[-2000:], ids(3000)[-2000:])

    def test_a_rejection_that_nobody_hears_is_a_failure(self):
        for kind in self.kinds(reads=True, judges=True):
            with self.ready(kind) as box:
                with Channel() as channel:
                    channel.close_reader()
                    result = run(kind.command(box), lines(delivered(1)[:-9], delivered(2)), env=channel.env,
                                 pass_fds=[channel.writer])
                    self.assert_fails(kind, result, 75)

    def test_a_wrong_receipts_descriptor_is_told_before_anything_is_opened(self):
        for kind in self.kinds(endless=True):
            with self.ready(kind, prepare=None) as box:
                with open("/dev/null", "wb") as other:
                    fd = other.fileno()
                    for text in f"{fd}:1:2:{TOKEN}", f"987:1:2:{TOKEN}", f"{fd}", "x:y:z:t", "-1:1:1:t":
                        with self.subTest(RECEIPTS_FD=text):
                            result = run(kind.command(box), events(3), env=dict(os.environ, RECEIPTS_FD=text),
                                         pass_fds=[other.fileno()])
                            self.assert_fails(kind, result, 2)
                            self.assertEqual((result.stdout, os.listdir(box)), ("", []))

    # ---- messages, options, counters

    def test_an_unknown_option_is_a_usage_error_in_one_line(self):
        for kind in self.kinds(endless=True):
            with self.ready(kind, prepare=None) as box:
                for wrong in ["--no-such-option"], ["--no-such-option=3"], ["--metrics"], ["--log-format", "xml"]:
                    with self.subTest(wrong=wrong):
                        result = run(kind.command(box, *wrong), events(3))
                        self.assert_fails(kind, result, 2)
                        self.assertEqual((result.stdout, os.listdir(box)), ("", []))

    def test_options_may_stand_in_a_file(self):
        for kind in self.kinds():
            with self.ready(kind) as box:
                content = "# an example\n\nof-another-tool = 17\n"
                content += "".join(f"{name} = {value or 'true'}\n" for name, value in kind.options)
                pathlib.Path(f"{box}/opts").write_text(content)
                result = run([tool(kind.name), *kind.words(box), "--options", f"{box}/opts"], events(3))
                self.assert_silent(result, kind=kind)
                if kind.reads:
                    self.assertEqual(kind.stored(box, result.stdout), ids(3))
                else:
                    self.assertGreater(len(kind.stored(box, result.stdout)), 100)

    def test_a_wrong_options_file_is_a_usage_error_in_one_line(self):
        for kind in self.kinds(endless=True):
            with self.ready(kind, prepare=None) as box:
                for content in "[section]\n", "metrics\nlog-format = xml\n", None:
                    with self.subTest(content=content), self.box() as inner:
                        if content is not None:
                            pathlib.Path(f"{inner}/opts").write_text(content)
                        result = run(kind.command(box, "--options", f"{inner}/opts"), events(3))
                        self.assert_fails(kind, result, 2)
                        self.assertEqual((result.stdout, os.listdir(box)), ("", []))

    def test_messages_are_json_lines_where_that_is_asked_for(self):
        for kind in self.kinds(endless=True):
            with self.ready(kind, prepare=None) as box:
                failing = [kind.command(box, "--no-such-option")]
                failing += [kind.command(box)] if kind.reads and kind.judges else []
                for command in failing:
                    for option in ["--log-format", "json"], ["--log-format=json"]:
                        result = run(command + option, "hello\n[]\n")
                        self.assertIn(result.exit, (1, 2))
                        self.assertTrue(result.stderr)
                        for line in result.stderr.splitlines():
                            message = json.loads(line)
                            self.assertEqual(list(message), ["time", "level", "tool", "message"])
                            self.assertEqual((message["tool"], message["level"]), (kind.name, "error"))

    def test_metrics_are_prometheus_text_in_the_end(self):
        sample = re.compile(r'([a-z_]+)\{tool="([a-z0-9-]+)",name="metrics"\} (-?[0-9.e+-]+|NaN|[+-]Inf)')
        for kind in self.kinds():
            with self.ready(kind) as box:
                text = lines(event(1), "hello", event(3))
                result = run(kind.command(box, "--metrics", f"{box}/metrics"), text)
                self.assertEqual(result.exit, kind.after_a_bad_line())
                content = pathlib.Path(f"{box}/metrics").read_text()
                self.assertTrue(content.endswith("\n"))
                values, types = {}, {}
                for line in content.splitlines():
                    if line.startswith("# TYPE "):
                        _, _, name, kind_of_metric = line.split(" ")
                        self.assertIn(kind_of_metric, ("counter", "gauge"))
                        types[name] = kind_of_metric
                    elif line.startswith("# HELP "):
                        self.assertRegex(line, r"^# HELP [a-z_]+ \S.*$")
                    else:
                        name, of_tool, value = sample.fullmatch(line).groups()
                        self.assertIn(name, types)
                        self.assertNotIn(name, values)
                        self.assertEqual(of_tool, kind.name)
                        self.assertEqual(types[name] == "counter", name.endswith("_total"))
                        values[name] = float(value)
                self.assertEqual(set(values), set(types))
                if kind.reads:
                    counts = [values[f"inflight_{name}_total"] for name in ("records", "settled", "rejected")]
                    self.assertEqual(counts, [3, 2, 1] if kind.judges else [3, 3, 0])
                self.assertEqual([name for name in os.listdir(box) if name.startswith("metrics")], ["metrics"])

    def test_a_metrics_file_that_cannot_be_written_is_told_once(self):
        for kind in self.kinds():
            with self.ready(kind) as box:
                result = run(kind.command(box, "--metrics", f"{box}/nowhere/metrics"), events(3))
                self.assertEqual(result.exit, 0)
                self.assert_messages(kind, result.stderr, 2 if kind.report else 1)

    def test_no_secret_is_in_any_message(self):
        for kind in self.kinds(endless=True):
            with self.ready(kind) as box:
                for command in kind.with_secrets(box):
                    for more in [], ["--log-format", "json"]:
                        with self.subTest(command=command[1:], more=more):
                            result = run([command[0], *more, *command[1:]], events(1))
                            self.assertNotIn(SECRET, result.stderr + result.stdout)
                            self.assertTrue(result.stderr, "it says nothing at all")

    def test_no_secret_of_a_file_is_on_a_command_line(self):
        with self.box() as box:
            pathlib.Path(f"{box}/header").write_text(f"Authorization: Bearer {SECRET}\n")
            shutil.copy(self.sim.dir / "fleet.txt", f"{box}/fleet.txt")
            process = subprocess.Popen(
                [tool("bsu-fetch"), "--devices", f"{box}/fleet.txt", "--every", "1s", "--header-file", f"{box}/header",
                 "--metrics", f"{box}/metrics", "--dead-letters", f"{box}/dead", "--", tool("publish"),
                 f"{box}/exchange"],
                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait_for(lambda: glob.glob(f"{box}/exchange/*.ndjson"), what="the first events")
            family = [process.pid]
            for pid in family:
                for task in glob.glob(f"/proc/{pid}/task/*/children"):
                    with contextlib.suppress(OSError):
                        family += [int(child) for child in pathlib.Path(task).read_text().split()]
            self.assertGreaterEqual(len(family), 2)
            for pid in family:
                for name in "cmdline", "environ", "comm":
                    self.assertNotIn(SECRET.encode(), pathlib.Path(f"/proc/{pid}/{name}").read_bytes())
            process.terminate()
            stderr = process.communicate(timeout=60)[1].decode()
            self.assertEqual((process.returncode, SECRET in stderr), (143, False))
            for file in pathlib.Path(box).rglob("*"):
                if file.is_file() and file.name != "header":
                    self.assertNotIn(SECRET.encode(), file.read_bytes(), file)


if __name__ == "__main__":
    unittest.main()

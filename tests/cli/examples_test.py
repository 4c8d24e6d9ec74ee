"""Every example of the README, of the manuals and of --help works as it is written, in a folder with what it speaks of."""
import contextlib
import gzip
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.request
from urllib.parse import unquote

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, ROOT, Server, free_port, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer  # noqa: E402
from pg_server import Postgres  # noqa: E402
from redis_server import Redis  # noqa: E402
from rest_server import RestServer, lines  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402
from s3_server import Swift  # noqa: E402

TOOLS = (BIN.parent / "tools.txt").read_text().split()
# Servers and folders that are not of this machine, and what stands here for them.
REPLACED = {"https://api/bsus/{id}/history?from={since}&to={until}": "{sim}/bsus/{id}/history?since={since}&until={until}",
            "--recheck 60s": "--recheck 1s",  # of sides that live on
            "/mnt/other/": "other/",
            "http://live/health": "{sim}/bsus/bsu-00001",
            "http://influx:8086": "{influx}",
            "https://shop.firebaseio.com": "{rtdb}",
            "https://api/orders": "{rest}/orders",
            "127.0.0.1:8080": "127.0.0.1:{port}",
            "s3://claims/orders --under file:///var/lib/claims < ids.ndjson": "s3://bsu-archive/orders --under file://{claims} < claims.ndjson",
            "redis://cache": "{redis}", "redis-cli -h cache": "redis-cli -s {redis_path}",
            "postgresql://old/": "{pg}old_", "postgresql://new/": "{pg}new_",
            "/var/lib/prometheus/node-exporter/": "./",
            "s3-archive put archive/": "s3-archive put archive/ --max-age 200ms",  # not to wait for a minute
            "s3-archive put s3://bsu-archive/raw": "s3-archive put s3://bsu-archive/raw --max-age 200ms"}


def commands(lines):
    """The command lines among these: a backslash or an open quote goes on, and a comment at the end goes."""
    command = ""
    for line in lines:
        command += line + "\n"
        with contextlib.suppress(ValueError):
            words = shlex.split(command.rstrip("\\\n"), comments=True)
            if not line.endswith("\\"):
                if words:
                    yield re.sub(r"  +# .*\n$", "\n", command).strip()
                command = ""
    assert not command, f"half a command: {command}"


def of_manual(path):
    """What is set off in EXAMPLES, and in a page of a whole job anywhere."""
    page = run(["mandoc", "-T", "ascii", "-O", "width=200", str(path)])
    text = re.sub(r".\x08", "", page.stdout)
    whole = path.name in ("inflight.7", "swap.7")
    if not whole:
        text = re.search(r"^EXAMPLES\n(.*?)(?=^\S)", text, re.M | re.S)[1]
    programs = [*TOOLS, "jq", "zcat", "zstdcat", "sqlite3", "redis-cli"]
    lines = [line[5:] for line in text.splitlines()]
    kept, going_on = [], False
    for line in lines:
        begins = line.split()[:1] and line.split()[0] in programs and (line.startswith("      ") or whole)
        begins = begins and not re.match(r" *\S+\(1\)", line)
        if begins or going_on:
            kept.append(line.strip())
            so_far = "\n".join(kept)
            going_on = line.endswith("\\") or so_far.count("'") % 2 == 1 or so_far.replace('\\"', "").count('"') % 2 == 1
    return list(commands(kept))


def of_help(name):
    text = re.search(r"^Examples:\n(.*?)\n\n", run([tool(name), "--help"]).stdout, re.M | re.S)[1]
    return list(commands(line.strip() for line in text.splitlines()))


README = (ROOT / "README.md").read_text()
HERE_DOCUMENT = re.compile(r"^cat >(\S+) <<end\n(.*?)^end$", re.M | re.S)


def of_readme():
    for block in re.findall(r"^```sh\n(.*?)^```", HERE_DOCUMENT.sub("", README), re.M | re.S):
        yield from (c for c in commands(block.splitlines()) if c.split()[0] in TOOLS)


def event(n, **changes):
    return json.dumps({"specversion": "1.0", "id": f"e{n}", "source": "old", "type": "bsu.reading", "subject": f"bsu-{n:05}",
                       "recordedtime": f"2018-07-01T13:00:{n % 60:02}Z", "datacontenttype": "application/xml",
                       "data": f'<bsu time="2018-07-01T12:59:{n % 60:02}Z"><status>fault</status><power>{n}.5</power></bsu>',
                       **changes}) + "\n"


class Examples(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sim = cls.enterClassContext(Server([tool("bsu-sim"), "--port", "0", "--units", "20", "--firmware", "attributes", "--devices", "{dir}/fleet.txt"]))
        cls.influx = cls.enterClassContext(InfluxServer())
        cls.influx.create("bsu")
        run(["curl", "-sf", f"{cls.influx.url}/write?db=bsu", "--data-binary", "reading,subject=bsu-1 power=1.5 1530403200000000000"])
        cls.redis = cls.enterClassContext(Redis())
        pg = cls.enterClassContext(Postgres())
        cls.pg = pg.url.removesuffix("postgres")
        for name in "old_fleet", "new_fleet":
            pg.sql(f"CREATE DATABASE {name}")
            pg.sql("CREATE TABLE reading(subject text, time timestamptz, power float8, PRIMARY KEY(subject,time));"
                   "INSERT INTO reading VALUES('bsu-1','2018-07-01T00:00:00Z',1.5)", name)
        cls.rest = cls.enterClassContext(RestServer(cls.list_orders))
        cls.rest.documents["/orders/o1"] = '{"id":"o1"}'
        cls.rtdb = cls.enterClassContext(RtdbServer("--documents", "20"))
        cls.change_for_ever()
        folder = tempfile.TemporaryDirectory(prefix="inflight-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        s3 = cls.enterClassContext(Swift())
        s3.make_bucket("bsu-archive")
        cls.environment = dict(s3.environment(), PGPASSWORD=pg.environment["PGPASSWORD"], PATH=f"{BIN}:{cls.folder}:{os.environ['PATH']}")
        cls.world = cls.folder / "world"
        cls.world.mkdir()
        (cls.world / "other").mkdir()
        cls.port = free_port()
        claims = cls.folder / "claims"
        claims.mkdir()
        (claims / "o1").write_text('{"id":"o1"}')
        cls.claims = str(claims)
        shutil.copy(cls.sim.dir / "fleet.txt", cls.world)
        for name, text in {**dict(HERE_DOCUMENT.findall(README)), "units.txt": "bsu-00001\n", "token.txt": "Authorization: Bearer x\n",
                           "power.jq": ".bsu | {power: (.power | tonumber)}\n", "readings.ndjson": '{"unit":"u1","power":41.5}\n',
                           "series.ndjson": '{"subject":"u1","time":"2018-07-01T00:00:00Z"}\n{"subject":"u1","time":"2018-07-01T00:05:00Z"}\n',
                           "orders.ndjson": '{"key":"o1","items":[{"sku":"a","count":1},{"sku":"b","count":2}]}\n',
                           "orders.json": '[{"id":"o1"},{"id":"o2"}]\n', "token": "Authorization: Bearer x\n",
                           "ids.ndjson": event(1, subject="o1", dataref=f"{cls.rest.url}/orders/o1", data=None).replace(', "data": null', ""),
                           "claims.ndjson": event(1, subject="o1", dataref=f"file://{claims}/o1", data=None).replace(', "data": null', ""),
                           "events.ndjson": event(50),
                           "fleet-2018.xml": "<f:fleet xmlns:f='x'><f:bsu><f:power>1</f:power></f:bsu></f:fleet>"}.items():
            (cls.world / name).write_text(text)
        with gzip.open(cls.world / "old.ndjson.gz", "wt") as old:
            old.writelines(event(n) for n in range(30, 40))
        events = [event(n) for n in range(20)] + [event(17, id="b17", subject="bsu-17")]
        bad = [event(n, data="<bsu>\n&nbsp;</bsu>") for n in range(20, 23)]
        cls.prepare("s3-archive put archive/", "".join(events))
        cls.prepare("publish fleet/", "".join(events + bad))
        cls.prepare("publish orders/", "".join(event(n, subject=f"o{n}", datacontenttype="application/json", data={"id": f"o{n}"}) for n in range(24)))
        cls.prepare("consume fleet/ --as data --until-empty -- 'xml2json | sql-write sqlite:data.db'")
        cls.prepare("xml2json | sql-write sqlite:fleet.db", "".join(events))

    @classmethod
    def change_for_ever(cls):
        """So that a listen hears something."""
        ended = threading.Event()

        def change():
            n = 0
            while not ended.wait(0.05):
                n += 1
                cls.rtdb.put("orders/changing", {"number": n})
        thread = threading.Thread(target=change)
        thread.start()
        cls.addClassCleanup(lambda: (ended.set(), thread.join()))

    @staticmethod
    def list_orders(asked, rest):
        """The service's answer to GET /orders: each order a line."""
        if (asked.method, asked.path) != ("GET", "/orders"):
            return None
        orders = {unquote(path.removeprefix("/orders/")): json.loads(body) for path, body in rest.documents.items() if path.startswith("/orders/")}
        return 200, lines(*({"key": key, **order} for key, order in orders.items() if isinstance(order, dict)))

    @classmethod
    def prepare(cls, command, stdin=""):
        done = run(["bash", "-o", "pipefail", "-c", command], stdin, cwd=cls.world, env=cls.environment)
        assert done.exit == 0, (command, done)

    def try_all(self, found):
        """One after the other in one folder, as somebody would who reads the page."""
        box = self.folder / "box"
        shutil.copytree(self.world, box)
        try:
            for command in found:
                with self.subTest(command=command):
                    for other, ours in REPLACED.items():
                        command = command.replace(other, ours.replace("{sim}", self.sim.url).replace("{influx}", self.influx.url).replace("{rtdb}", self.rtdb.url)
                                                  .replace("{redis}", self.redis.url).replace("{redis_path}", self.redis.path).replace("{pg}", self.pg)
                                                  .replace("{rest}", self.rest.url).replace("{claims}", self.claims)
                                                  .replace("{port}", str(self.port)))
                    self.try_going_on(command, box) if self.goes_on(command) else self.try_out(command, box)
        finally:
            shutil.rmtree(box)

    def assert_messages(self, command, stderr):
        """Silence, but for what is news, and for what the malformed events bring a plain pipe to say."""
        news = r"s3-archive: (july|past).state: complete|s3-archive: \S+: no records (in these ranges|of .*)|sql-read: reading.state: complete"
        news += r"|influx-read: (points|older).state: complete|influx-read: \S+: no points|dlq-replay: \d letters go through .*"
        news += r"|crawl: orders: \d+ keys, .*|crawl: (orders.crawl|jobs.\d+): complete|crawl: \S+: is served at .*|listen: orders: the baseline is durable.*"
        news += r"|reconcile: equal: .*|find-gaps: fleet.txt: \d records are of units that are not in it, .*"
        if "--ack exit" in command:
            news += "|xml2json: line .*|consume: .*"
        self.assertRegex(stderr, rf"\A(({news})\n)*\Z")

    def try_out(self, command, box):
        done = run(["bash", "-o", "pipefail", "-c", command], cwd=box, env=self.environment)
        if "--check" in command and "orders/" not in command:
            self.assertEqual((done.exit, done.stdout), (1, ""))
            self.assertRegex(done.stderr, r"\A(consume: .*dead|find-gaps: .*missing).*\n\Z")
        elif command.startswith("reconcile ") and "/orders" in command:  # the two sides are of different examples
            self.assertEqual((done.exit, done.stdout), (1, ""), done.stderr)
            self.assertRegex(done.stderr, r"\nreconcile: different: \d+ keys on the left, .*\n\Z")
        elif command.startswith("reconcile ") and "influx-read" in command:  # swap_test.py has two that are equal
            self.assertIn(done.exit, (0, 1), done.stderr)
            self.assertRegex(done.stderr, r"(\A|\n)reconcile: (equal|different): \d+ keys on the left, .*\n\Z")
        else:
            self.assertEqual(done.exit, 0, done.stderr)
            self.assert_messages(command, done.stderr)

    @staticmethod
    def goes_on(command):
        first = shlex.split(command)
        ending = {"--until-empty", "--list", "--check", "--register", "--remove"}
        return (first[0] == "consume" and not ending & set(first)) or (first[0] == "bsu-fetch" and "--every" in first) \
            or (first[0] == "listen" and "--limit" not in first) or (first[0] == "crawl" and "--serve" in first)

    def try_going_on(self, command, box):
        words = shlex.split(command)
        name = words[words.index("--as") + 1] if words[0] == "consume" else None
        process = subprocess.Popen(["bash", "-c", "exec " + command], cwd=box, env=self.environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def at_work():
            self.assertIsNone(process.poll())
            if name:
                listed = run(["consume", words[1], "--list"], cwd=box, env=self.environment).stdout
                found = re.search(rf"^{name} +(\d+) .*running", listed, re.M)
                return found and int(found[1]) >= 20
            if "--serve" in words:
                self.trigger()
            return published() > size

        def published():
            return sum(f.stat().st_size for folder in ("fleet", "orders") for f in box.glob(f"{folder}/*.ndjson"))

        size = published()
        try:
            wait_for(at_work, what=f"the events of: {command}")
        finally:
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 143, stderr)
        self.assert_messages(command, stderr)

    def trigger(self):
        """A job for a crawl that waits for some."""
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}/crawl/orders", method="POST"), timeout=10).close()

    def test_of_the_readme(self):
        found = list(of_readme())
        self.assertGreater(len(found), 10)
        self.try_all(found)

    def test_of_help(self):
        for name in TOOLS:
            self.try_all(of_help(name))

    def test_of_the_manuals(self):
        pages = [ROOT / "man" / f"{name}.1" for name in TOOLS] + [ROOT / "man" / name for name in ("inflight.7", "exchange.7", "metrics.7")]
        for page in pages:
            found = of_manual(page)
            self.assertGreaterEqual(len(found), 1 if page.name == "metrics.7" else 2, page)
            self.try_all(found)


if __name__ == "__main__":
    unittest.main()

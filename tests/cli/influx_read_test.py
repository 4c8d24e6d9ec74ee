"""influx-read, from a real InfluxDB: every point once, in order, digits and all; what an answer that is not whole does not do; and what is
not lost when it is killed."""
import base64
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, HttpServer, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer  # noqa: E402

BASE = 1_530_403_200 * 10**9  # 2018-07-01T00:00:00Z
DAY = 86_400 * 10**9


class Stub(HttpServer):
    """Answers each query of InfluxQL with what it is told to."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.asked = list(answers), []

    def handle(self, request):
        query = urllib.parse.parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())["q"][0]
        if query.startswith("SHOW"):
            rows = [["v", "integer"]] if "FIELD" in query else [["s"]]
            status, body = 200, document([{"name": "m", "columns": ["a", "b"][:len(rows[0])], "values": rows}])
        else:
            self.asked.append(query)
            status, body = self.answers.pop(0)
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body.encode())


def document(series, **more):
    return json.dumps({"results": [{"statement_id": 0, "series": series, **more}]}) + "\n"


def points(*rows, **more):
    return document([{"name": "m", "columns": ["time", "v", "s"], "values": rows}], **more)


class InfluxRead(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.influx = cls.enterClassContext(InfluxServer())

    def setUp(self):
        self.influx.ask("drop database d")
        self.influx.create("d")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

    @property
    def url(self):
        return f"{self.influx.url}?db=d"

    def write(self, lines):
        urllib.request.urlopen(urllib.request.Request(f"{self.influx.url}/write?db=d", data=lines.encode()), timeout=60).close()

    def fill(self, count, subjects=7):
        for first in range(0, count, 50_000):
            self.write("".join(f"m,s=u{n % subjects} v={n}i {BASE + n // subjects * 10**9}\n" for n in range(first, min(count, first + 50_000))))

    def tool(self, name, *words, stdin="", exit=0, **more):
        result = run([tool(name), *words], stdin=stdin, env={**self.environment, **more}, cwd=self.folder)
        self.assertEqual(result.exit, exit, result)
        return result

    def read(self, *words, stderr="", url=None):
        result = self.tool("influx-read", url or self.url, *words)
        self.assertEqual(result.stderr, stderr)
        return result.stdout

    def refused(self, message, *words, url=None, exit=2, **more):
        result = self.tool("influx-read", url or self.url, *words, exit=exit, **more)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertIn(message, result.stderr)
        return result

    def test_every_value_comes_back_as_it_is(self):
        self.write('m,host=b,r=x f=12,i=9223372036854775807i,s="a<b\\"c\\\\é\nnew" 1530403200123456789\nm,host=a f=1.5 1530403200123456789\n'
                   'm,host=a i=-9223372036854775808i,b=true 1530403201000000000\nm f=1e21 1530403202000000000\nm,we\\ ird\\,"k=v\\ "" f=-0.1,"a\\ b"=false 1530403203000000000\n'
                   'm,f=tag f=9007199254740993 1530403204000000000\nm,host=A i=0i 1530403204000000000\n')
        self.assertEqual(self.read("--measurement", "m"),
                         '{"time":"2018-07-01T00:00:00.123456789Z","host":"a","f":1.5}\n'
                         '{"time":"2018-07-01T00:00:00.123456789Z","host":"b","r":"x","f":12.0,"i":9223372036854775807,"s":"a<b\\"c\\\\é\\nnew"}\n'
                         '{"time":"2018-07-01T00:00:01Z","host":"a","b":true,"i":-9223372036854775808}\n'
                         '{"time":"2018-07-01T00:00:02Z","f":1e+21}\n'
                         '{"time":"2018-07-01T00:00:03Z","we ird,\\"k":"v \\"\\"","\\"a b\\"":false,"f":-0.1}\n'
                         '{"time":"2018-07-01T00:00:04Z","f_1":"tag","f":9007199254740992.0}\n'
                         '{"time":"2018-07-01T00:00:04Z","host":"A","i":0}\n')

    def test_what_is_chosen(self):
        self.write("".join(f"m,s=u{n % 3},r={'ab'[n % 2]} v={n},w={n}i {BASE + n * DAY}\n" for n in range(6)) + f"m,s=u9 w=7i {BASE + 7 * DAY}\n")
        self.assertEqual(self.read("--measurement", "m", "--columns", "v,time,s", "--from", "2018-07-03", "--to", "2018-07-05"),
                         '{"v":2.0,"time":"2018-07-03T00:00:00Z","s":"u2"}\n{"v":3.0,"time":"2018-07-04T00:00:00Z","s":"u0"}\n')
        # A point is one though it has none of the columns that were asked for.
        self.assertEqual(self.read("--measurement", "m", "--columns", "s,v", "--from", "2018-07-06"), '{"s":"u2","v":5.0}\n{"s":"u9"}\n')
        self.assertEqual(self.read("--measurement", "m", "--columns", "w", "--tag", "s=u0", "--tag", "r=b"), '{"w":3}\n')
        self.assertEqual(self.read("--measurement", "m", "--columns", "w", "--tag", "r="), '{"w":7}\n')
        self.assertEqual(self.read("--measurement", "m", "--columns", "w", "--limit", "2"), '{"w":0}\n{"w":1}\n')
        self.assertEqual(self.read("--query", "SELECT sum(w) FROM m GROUP BY s"),
                         "".join(f'{{"time":"1970-01-01T00:00:00Z","sum":{n},"s":"{s}"}}\n' for s, n in [("u0", 3), ("u1", 5), ("u2", 7), ("u9", 7)]))
        self.assertEqual(self.read("--query", "SELECT last(v) AS \"drop into; x\" FROM m WHERE s='u1';"), '{"time":"2018-07-05T00:00:00Z","drop into; x":4}\n')

    def test_a_range_without_points_is_told_and_no_failure(self):
        self.fill(1)
        self.assertEqual(self.read("--measurement", "m", "--from", "2018-07-02", stderr=f"influx-read: {self.url}: no points\n"), "")
        self.assertEqual(self.read("--measurement", "m", "--from", "2018-07-02", "--to", "2018-07-02",
                                   stderr="influx-read: the range is empty: 2018-07-02T00:00:00Z to 2018-07-02T00:00:00Z\n"), "")

    def test_mistakes_end_with_2_and_say_what_is_wrong(self):
        self.fill(1)
        for words, message in [((), "give either --measurement or --query"), (("--measurement", "m", "--query", "x"), "give either"),
                               (("--measurement", "none"), "no such measurement: none"), (("--measurement", "m", "--columns", "x"), "m has no tag or field x"),
                               (("--measurement", "m", "--from", "2018-07-02", "--to", "2018-07-01"), "is after --to"), (("--measurement", "m", "--tag", "x"), "not name=value"),
                               (("--query", "SELECT v FROM m", "--columns", "v"), "--query says itself"), (("--query", "SELECT FROM m"), "error parsing query"),
                               (("--query", "DROP MEASUREMENT m"), "not a SELECT"), (("--query", "SELECT v FROM m; DROP MEASUREMENT m"), "one SELECT at a time"),
                               (("--query", "select v\ninto x from m"), "an INTO"), (("--query", "SELECT v FROM m", "--state", "s", "--", "cat"), "--state belongs to")]:
            with self.subTest(words=words):
                self.refused(message, *words)
        self.refused("database not found: none", "--measurement", "m", url=f"{self.influx.url}?db=none")
        self.refused("retention policy not found: none", "--measurement", "m", url=f"{self.influx.url}?db=d&rp=none")
        self.refused("InfluxQL is asked for with ?db=NAME", "--measurement", "m", url=f"{self.influx.url}?bucket=d")
        self.refused("no ?db=NAME", "--measurement", "m", url=self.influx.url)
        self.assertEqual(self.read("--measurement", "m", url=f"{self.influx.url}/query?db=d&rp=autogen").count("\n"), 1)

    def test_give_up_ends_with_75(self):
        result = self.tool("influx-read", "http://127.0.0.1:1?db=d", "--measurement", "m", "--give-up", "1ms", exit=75)
        self.assertIn("gave up: ", result.stderr.splitlines()[-1])

    def test_a_field_of_two_types_is_refused_rather_than_half_told(self):
        self.write(f"m v=1 {BASE}\n")
        self.write(f'm v="text" {BASE + 30 * DAY}\n')
        self.refused("field v is float in some shards and string in others", "--measurement", "m")

    def test_credentials(self):
        with InfluxServer(auth=True) as influx:
            influx.create("d")
            influx.ask('create user "other" with password \'x\'')
            urllib.request.urlopen(urllib.request.Request(f"{influx.url}/write?db=d", data=f"m v=1i {BASE}\n".encode(), headers={
                "Authorization": "Basic " + base64.b64encode(f"{influx.user}:{influx.password}".encode()).decode()}), timeout=60).close()
            url, words = f"{influx.url}?db=d", ("--measurement", "m")
            (self.folder / "password").write_text(influx.password + "\n")
            right = {"INFLUX_USERNAME": influx.user, "INFLUX_PASSWORD": influx.password}
            self.assertEqual(self.tool("influx-read", url, *words, **right).stdout, '{"time":"2018-07-01T00:00:00Z","v":1}\n')
            self.tool("influx-read", url, *words, "--user", influx.user, "--password-file", "password")
            self.refused("status 401", *words, url=url)
            self.refused("status 401: authorization failed", *words, url=url, **{**right, "INFLUX_PASSWORD": "wrong"})
            self.refused("not authorized", *words, url=url, INFLUX_USERNAME="other", INFLUX_PASSWORD="x")
            self.refused("no secret in a URL", *words, url=f"{url}&u=x&p=y")

    def test_memory_does_not_grow_with_the_points(self):
        self.fill(300_000)
        peaks = []
        for to in BASE + 10**9, BASE + 10**15:
            with open(self.folder / "out", "w") as out:
                process = subprocess.Popen([tool("influx-read"), self.url, "--measurement", "m", "--to", f"@{to // 10**9}"], stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(process.returncode, 0)
            peaks.append(usage.ru_maxrss)
        self.assertEqual((self.folder / "out").read_text().count("\n"), 300_000)
        self.assertLess(peaks[1], peaks[0] + 8 * 1024)

    def test_what_influx_write_has_stored_is_the_same_in_sqlite(self):
        records = [{"subject": f"u{n % 3}", "time": f"2018-07-01T00:00:{n // 3:02}.{n:09}Z", "n": (-1) ** n * (2**63 - 1 - n // 2) - n % 2, "v": n / 8, "text": f"é\n\"{n}",
                    "good": n % 2 == 0} for n in range(150)]
        self.assertEqual({r["n"] for r in records} & {2**63 - 1, -2**63}, {2**63 - 1, -2**63})
        fields = [w for name in ("n:int", "v", "text", "good") for w in ("--field", f"{name.split(':')[0]}=/{name}")]
        self.tool("influx-write", self.url, "--measurement", "m", *fields, stdin="".join(json.dumps(r) + "\n" for r in records))
        left = f"influx-read '{self.url}' --measurement m"
        done = run(["bash", "-o", "pipefail", "-c", f"{left} | sql-write sqlite:x.db --create --table m --key subject,time"], env=self.environment, cwd=self.folder)
        self.assertEqual(done.exit, 0, done)
        booleans = "reshape '.good |= (if . == 1 then true elif . == 0 then false else . end)'"
        right = "sql-read sqlite:x.db --table m"
        same = self.tool("reconcile", "--key", "subject,time", "--left", left, "--right", right, "--field", "/n,/v,/text")
        self.assertIn("equal", same.stderr)
        self.assertIn("150", same.stderr)
        self.tool("reconcile", "--key", "subject,time", "--field", "/good", "--left", left, "--right", f"{right} --columns subject,time,good | {booleans}")
        # That the comparison sees an integer that differs by one.
        self.tool("reconcile", "--key", "subject,time", "--field", "/n", "--left", left, "--right", f"{right} | sed s/9223372036854775807/9223372036854775806/", exit=1)

    # ---- answers that are not whole

    def test_a_server_that_restarts_in_the_middle_is_waited_for_and_no_point_is_lost_or_doubled(self):
        self.fill(200_000)
        process = subprocess.Popen([tool("influx-read"), self.url, "--measurement", "m"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        rows = [process.stdout.readline()]  # the pipe fills, and the server waits
        self.influx.kill()
        self.influx.start()
        rows += process.stdout.readlines()
        self.assertEqual(process.wait(60), 0)
        self.assertIn("waiting: ", process.stderr.read())
        process.stdout.close()
        process.stderr.close()
        self.assertEqual([json.loads(row)["v"] for row in rows], list(range(200_000)))

    def test_an_answer_is_whole_only_where_it_says_so(self):
        begun = points([1000, 2, "b"], [1000, 1, "a"], [2000, 3, "a"], partial=True)
        rest = points([2000, 3, "a"], [2000, 4, "b"], [3000, 5, "a"])
        for name, cut in {"more was to come": begun, "half a document": begun + rest[:-30], "nothing": "", "interrupted": begun + document([], error="query interrupted"),
                          "timeout": begun + '{"error":"timeout reached"}\n'}.items():
            for status in 200, 503:
                with self.subTest(name, status=status), Stub((status, cut), (200, rest)) as server:
                    result = self.tool("influx-read", f"{server.url}?db=d", "--measurement", "m")
                    self.assertEqual([json.loads(line)["v"] for line in result.stdout.splitlines()], ([1, 2] if begun in cut and status == 200 else []) + [3, 4, 5])
                    self.assertRegex(result.stderr, r"\Ainflux-read: waiting: .*\n\Z")
                    self.assertIn(" WHERE time>=1000" if begun in cut and status == 200 else "FROM \"m\"", server.asked[1])
        with Stub((200, begun), (200, points([1000, 1, "a"], [1000, 2, "b"], [1000, 7, "c"], [2000, 3, "a"]))) as server:  # one came late
            result = self.tool("influx-read", f"{server.url}?db=d", "--measurement", "m")
            self.assertEqual([json.loads(line)["v"] for line in result.stdout.splitlines()], [1, 2, 7, 3])
        with Stub((200, begun)) as server:
            result = self.tool("influx-read", f"{server.url}?db=d", "--query", "SELECT v FROM m", exit=70)
            self.assertIn("cut off behind row 3, and nothing tells where to go on", result.stderr.splitlines()[-1])

    def test_what_is_no_answer_of_influxdb_is_refused(self):
        for body in "hello\n", points([1000, 1]), points([2000, 1, "a"], [1000, 1, "a"]), points(["x", 1, "a"]), points([1000, [1], "a"]):
            with self.subTest(body), Stub((200, body)) as server:
                self.assertEqual(self.tool("influx-read", f"{server.url}?db=d", "--measurement", "m", exit=2).stderr.count("\n"), 1)
        with Stub((200, document([], error="unsupported operation"))) as server:
            self.refused("unsupported operation", "--measurement", "m", url=f"{server.url}?db=d")

    # ---- with a pipeline

    def count(self):
        done = run(["sqlite3", "copy.db", "SELECT count(*) FROM m"], cwd=self.folder)
        return int(done.stdout or 0)

    def test_kill_9_and_the_same_line_again_loses_nothing_and_doubles_nothing(self):
        """In the middle of many points of one time, and with points that have gone meanwhile."""
        seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
        chance = random.Random(seed)
        self.fill(20_000, subjects=700)
        command = [tool("influx-read"), self.url, "--measurement", "m", "--state", "s", "--takeover", "5s", "--",
                   "sql-write sqlite:copy.db --create --table m --key s,time --on-conflict ignore --batch-records 50"]
        under_way = 0
        for killed in range(5):
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, start_new_session=True)
            before = self.count()
            wait_for(lambda: process.poll() is not None or self.count() > before, what="progress")
            time.sleep(chance.random() * 0.05)
            process.kill() if killed == 0 or chance.random() < 0.7 else process.terminate()
            process.wait()
            under_way += self.count() < 20_000
        self.assertGreater(under_way, 0, f"SEED={seed}")
        done = run(command, env=self.environment, cwd=self.folder)
        self.assertEqual(done.exit, 0, done)
        self.assertIn("s: complete", done.stderr)
        self.assertEqual(self.count(), 20_000, f"SEED={seed}")
        self.tool("reconcile", "--key", "s,time", "--left", f"influx-read '{self.url}' --measurement m", "--right", "sql-read sqlite:copy.db --table m")

    def test_a_state_goes_on_behind_its_last_point(self):
        self.fill(5000, subjects=700)
        copy = ("--measurement", "m", "--state", "s")
        sink = ("--", "sql-write sqlite:copy.db --create --table m --key s,time")
        self.tool("influx-read", self.url, *copy, "--limit", "2000", *sink)
        self.assertEqual(self.count(), 2000)
        self.influx.ask(f"delete from m where time < {BASE + 2 * 10**9}", "d")
        self.write(f"m,s=late v=1i {BASE}\n")
        self.tool("influx-read", self.url, *copy, *sink)
        self.assertEqual(self.count(), 5000)
        self.assertIn("complete already", self.tool("influx-read", self.url, *copy, *sink).stderr)
        other = run([tool("influx-read"), self.url, *copy, "--from", "2018-07-01", *sink], env=self.environment, cwd=self.folder)
        self.assertNotEqual(other.exit, 0, other)  # a state is of one line


if __name__ == "__main__":
    unittest.main()

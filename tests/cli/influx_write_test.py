"""influx-write against a real InfluxDB 1.6, and against what InfluxDB 2 and 3 answer as documented: whatever is answered, nothing is
lost and nothing rejected that is not at fault itself. Lines are in influx_lines_test.py, kill -9 in faults/influx_test.py."""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import certificate, free_port, run, tool, wait_for  # noqa: E402
from influx_server import InfluxServer  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "servers"))
from influx_stub import InfluxStub  # noqa: E402


def record(n, **more):
    return {"subject": f"u{n % 7}", "time": f"2018-07-01T00:00:00.{n:09}Z", "n": n, **more}


def event(n, **more):
    return {"specversion": "1.0", "id": f"e{n}", "source": "test", "type": "reading", "subject": f"u{n % 7}",
            "time": f"2018-07-01T00:00:00.{n:09}Z", "data": {"n": n, **more}}


def to_lines(records):
    return "".join(json.dumps(r) + "\n" for r in records)


CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("INFLUX")}
BASE = 1530403200 * 10**9


class Case(unittest.TestCase):
    def setUp(self):
        self.box = pathlib.Path(tempfile.mkdtemp(prefix="inflight-test-"))
        self.addCleanup(shutil.rmtree, self.box, True)

    def file(self, name, text):
        (self.box / name).write_text(text)
        return str(self.box / name)

    def write(self, url, records, *options, exit=0, env=None, **more):
        text = records if isinstance(records, str) else to_lines(records)
        done = run([tool("influx-write"), url, "--linger", "2s", *options], text, env={**CLEAN, **(env or {})}, **more)
        self.assertEqual(done.exit, exit, done.stderr)
        if exit == 0 and more.pop("silent", True):
            self.assertEqual(done.stderr, "")
        return done

    def refused(self, status, reason, *words, stdin=None, env=None):
        """One line with the reason, and this status."""
        done = run([tool("influx-write"), *words], to_lines([record(1)]) if stdin is None else stdin, env={**CLEAN, **(env or {})})
        self.assertEqual(done.exit, status, done.stderr)
        self.assertRegex(done.stderr, rf"\Ainflux-write: [^\n]*{reason}[^\n]*\n\Z")
        self.assertEqual(done.stdout, "")

    def start(self, url, *options, env=None, stdin=subprocess.PIPE):
        with open(self.box / "stderr", "wb") as stderr:
            process = subprocess.Popen([tool("influx-write"), url, *options], stdin=stdin, stderr=stderr, env={**CLEAN, **(env or {})})

        def end():
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin and not process.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        self.addCleanup(end)
        return process

    def stderr(self):
        return (self.box / "stderr").read_text()


def numbers(stub):
    return sorted(int(fields["n"]) for fields in stub.points.values() if "n" in fields)


class Real(Case):
    """InfluxDB 1.6."""
    @classmethod
    def setUpClass(cls):
        cls.influx = cls.enterClassContext(InfluxServer())

    def setUp(self):
        super().setUp()
        self.database = self.id().rpartition(".")[2][:60]
        self.influx.create(self.database)
        self.url = f"{self.influx.url}?db={self.database}"

    def stored(self):
        return sorted(row["n"] for row in self.influx.query(self.database, "select n from record"))

    def test_records_are_points(self):
        self.write(self.url, (record(n) for n in range(12_000)))
        self.assertEqual(self.stored(), list(range(12_000)))

    def test_written_twice_is_written_once(self):
        for _ in range(2):
            self.write(self.url, (record(n) for n in range(100)))
        self.assertEqual(self.stored(), list(range(100)))

    def test_points_that_conflict_with_the_schema_are_found_and_the_others_stored(self):
        bad = {0, 17, 18, 19, 700, 1999}
        dead = self.box / "dead"
        done = self.write(self.url, (record(n, v="x" if n in bad else 1.5) for n in range(1, 2000)), exit=1)
        self.assertEqual(len(done.stderr.splitlines()), 5, done.stderr)
        self.assertIn('influx-write: line 17: field type conflict: input field "v" on measurement "record" is type string, already exists as type float\n',
                      done.stderr)
        self.assertEqual(self.stored(), sorted(set(range(1, 2000)) - bad))
        self.write(self.url, (record(n, v="x" if n in bad else 1.5) for n in range(1, 2000)), "--dead-letters", str(dead), exit=1)
        self.assertEqual([json.loads(line)["line"] for line in dead.read_text().splitlines()], [17, 18, 19, 700, 1999])

    def test_a_field_map_that_conflicts_with_every_record_is_the_command(self):
        self.write(self.url, [record(1)], "--field", "n=/n:int")
        self.refused(2, "none of the first 20 points is taken: field type conflict", self.url, stdin=to_lines(record(n) for n in range(20, 40)))
        self.assertEqual(self.stored(), [1])

    def test_a_field_map_that_fits_no_record_is_the_command(self):
        self.refused(2, "none of the first records is a point: no field", self.url, "--field", "n=/typo", stdin=to_lines(record(n) for n in range(20)))
        self.refused(1, "line 1: no field", self.url, "--field", "n=/typo")

    def test_records_without_a_field_are_rejected_alone(self):
        done = self.write(self.url, (record(n) if n % 3 else {**record(n), "n": None} for n in range(30)), exit=1)
        self.assertEqual(len(done.stderr.splitlines()), 10)
        self.assertEqual(self.stored(), [n for n in range(30) if n % 3])

    def test_points_beyond_retention_are_rejected_alone(self):
        self.influx.ask(f'create retention policy "short" on "{self.database}" duration 1h replication 1 default')
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        done = self.write(self.url, [record(1), {**record(2), "time": now}, record(3)], exit=1)
        self.assertEqual(len(done.stderr.splitlines()), 2)
        self.assertIn("line 1: points beyond retention policy", done.stderr)
        self.assertEqual(self.stored(), [2])

    def test_another_retention_policy(self):
        self.influx.ask(f'create retention policy "other" on "{self.database}" duration inf replication 1')
        self.write(self.url + "&rp=other", [record(1)])
        self.assertEqual(self.influx.query(self.database, 'select n from "other".record'), [{"time": BASE + 1, "n": 1}])
        self.refused(2, "retention policy not found", self.url + "&rp=typo")

    def test_a_mistyped_database_is_told_at_once_even_without_records(self):
        process = self.start(self.influx.url + "?db=typo")
        self.assertEqual(process.wait(60), 2)
        self.assertRegex(self.stderr(), r'\Ainflux-write: http://\S+: status 404: database not found: "typo"\n\Z')

    def test_a_limit_of_the_database_is_waited_out_and_rejects_nothing(self):
        with InfluxServer(index="inmem", more_data="max-series-per-database = 3") as influx:
            influx.create("x")
            process = self.start(influx.url + "?db=x")
            process.stdin.write(to_lines([{**record(0), "subject": "s0"}]).encode())
            process.stdin.flush()
            wait_for(lambda: influx.count("x") == 1, what="the first record")
            process.stdin.write(to_lines({**record(n), "subject": f"s{n % 5}"} for n in range(1, 100)).encode())
            process.stdin.close()
            wait_for(lambda: "waiting: " in self.stderr(), what="it to say that it waits")
            self.assertIn("max-series-per-database limit exceeded", self.stderr())
            influx.stop()
            influx.more_data = ""
            influx.start()
            self.assertEqual(process.wait(60), 0)
            self.assertEqual(influx.count("x"), 100)

    def test_a_database_that_goes_away_is_waited_for(self):
        process = self.start(self.url)
        process.stdin.write(to_lines([record(1)]).encode())
        process.stdin.flush()
        wait_for(lambda: self.stored() == [1], what="the first record")
        self.influx.ask(f'drop database "{self.database}"')
        process.stdin.write(to_lines([record(2)]).encode())
        process.stdin.flush()
        wait_for(lambda: "waiting: " in self.stderr(), what="it to say that it waits")
        self.assertIn("database not found", self.stderr())
        self.influx.create(self.database)
        process.stdin.close()
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(self.stored(), [2])

    def test_an_event_that_was_deleted(self):
        deletion = {key: value for key, value in event(1).items() if key != "data"} | {"type": "reading.deleted"}
        self.refused(1, "line 1: a deletion", self.url, stdin=to_lines([deletion]))
        self.write(self.url, [deletion], "--on-delete", "ignore")
        self.refused(2, "--on-delete", self.url, "--on-delete", "apply")

    def test_smaller_requests_where_they_are_too_large(self):
        with InfluxServer(max_body=20_000) as influx:
            influx.create("x")
            self.write(influx.url + "?db=x", (record(n, text="y" * 90) for n in range(3000)))
            self.assertEqual(influx.count("x"), 3000)
            # One that is too large alone is rejected once another one was taken; before, it is the server's limit that is wrong.
            done = self.write(influx.url + "?db=x", [record(1), record(2, text="y" * 30_000), record(3)], exit=1)
            self.assertRegex(done.stderr, r"\Ainflux-write: line 2: a point of 3\d{4} bytes is too large for this server\n\Z")
            self.refused(2, "status 413", influx.url + "?db=x", stdin=to_lines([record(2, text="y" * 30_000)]))
            self.assertEqual(influx.count("x"), 3000)

    def test_users_and_passwords(self):
        with InfluxServer(auth=True) as influx:
            influx.create("x")
            influx.ask("create user reader with password 'r'")
            influx.ask('grant read on "x" to reader')
            url = influx.url + "?db=x"
            admin = {"INFLUX_USERNAME": influx.user, "INFLUX_PASSWORD": influx.password}
            self.write(url, [record(1)], env=admin)
            self.write(url, [record(2)], "--user", influx.user, "--password-file", self.file("password", influx.password + "\n"))
            self.assertEqual(influx.count("x"), 2)
            self.refused(2, "status 40[13]", url)
            self.refused(2, "status 401", url, env={**admin, "INFLUX_PASSWORD": "wrong"})
            self.refused(2, "status 403", url, env={"INFLUX_USERNAME": "reader", "INFLUX_PASSWORD": "r"})
            self.refused(2, "user admin: no password", url, env={"INFLUX_USERNAME": "admin"})
            self.refused(2, "No such file", url, "--user", "admin", "--password-file", str(self.box / "none"))
            self.refused(2, "empty", url, "--user", "admin", "--password-file", self.file("empty", "\n"))
            self.refused(2, "no --user", url, "--password-file", str(self.box / "password"))
            self.assertEqual(influx.count("x"), 2)

    def test_a_secret_on_the_command_line_is_refused_and_not_shown(self):
        for url in ("http://admin:hunter2@127.0.0.1:8086?db=x", self.url + "&u=admin&p=hunter2", self.url + "&token=hunter2"):
            done = run([tool("influx-write"), url], "", env=CLEAN)
            self.assertEqual(done.exit, 2)
            self.assertNotIn("hunter2", done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1)


class Answers(Case):
    """InfluxDB 2 and 3, and whatever else answers."""

    def urls(self, two, three):
        return ((two, two.url + "?org=o&bucket=b"), (three, three.url + "/api/v3/write_lp?db=b"))

    @contextlib.contextmanager
    def both(self):
        with InfluxStub(2) as two, InfluxStub(3) as three:
            yield self.urls(two, three)

    def test_records_are_points(self):
        with self.both() as stubs:
            for stub, url in stubs:
                self.write(url, (record(n, u=2**64 - 1) for n in range(12_000)), "--field", "n=n", "--field", "u=u:uint")
                self.assertEqual(numbers(stub), list(range(12_000)))
                self.assertEqual(stub.points[("record", (("subject", "u1"),), BASE + 1)], {"n": 1, "u": 2**64 - 1})

    def test_the_bad_points_of_a_batch_are_found_and_the_others_stored(self):
        bad = {17, 18, 19, 700, 1999}
        with self.both() as stubs:
            for stub, url in stubs:
                done = self.write(url, (record(n, v="x" if n in bad else 1.5) for n in range(1, 3000)), "--linger", "1m", exit=1)
                self.assertEqual(numbers(stub), sorted(set(range(1, 3000)) - bad))
                lines = done.stderr.splitlines()
                self.assertEqual([int(line.split()[2][:-1]) for line in lines], sorted(bad), lines)
                self.assertRegex(lines[0], "field type conflict: .*type string.*float" if stub.version == 2 else "expected .*float, got .*string")
            self.assertLess(len(stubs[0][0].requests), 2 * 13 * len(bad))
            self.assertEqual(stubs[1][0].requests, [2999, 5])  # the list, and whether it is true

    def test_more_bad_points_than_a_list_has(self):
        with InfluxStub(3, shuffle=lambda refused, _: refused[:100]) as stub:
            done = self.write(stub.url + "/api/v3/write_lp?db=b", (record(n, v=1.5 if n % 5 else "x") for n in range(1, 1000)), exit=1)
            self.assertEqual(len(done.stderr.splitlines()), 199)
            self.assertEqual(numbers(stub), [n for n in range(1, 1000) if n % 5])

    def test_a_list_that_is_wrong_is_not_believed(self):
        def shifted(refused, count):
            return [{**item, "line_number": item["line_number"] % count + 1} for item in refused]

        def unnumbered(refused, _):
            return [{key: value for key, value in item.items() if key != "line_number"} for item in refused]

        def too_far(refused, count):
            return [{**item, "line_number": item["line_number"] + count} for item in refused]
        for lie in shifted, unnumbered, too_far:
            with self.subTest(lie=lie.__name__), InfluxStub(3, shuffle=lie) as stub:
                stub.types[("record", "v")] = "float"
                records = [record(n, v="x" if n == 30 else 1.5) for n in range(1, 200)]
                process = self.start(stub.url + "/api/v3/write_lp?db=b", "--dead-letters", str(self.box / lie.__name__))
                process.stdin.write(to_lines(records).encode())
                process.stdin.close()
                self.assertEqual(process.wait(60), 1, self.stderr())
                self.assertEqual([json.loads(line)["line"] for line in (self.box / lie.__name__).read_text().splitlines()], [30])
                self.assertEqual(numbers(stub), [n for n in range(1, 200) if n != 30])

    def test_versions_of_a_point_in_one_batch_are_written_one_after_the_other_to_3(self):
        with self.both() as stubs:
            for stub, url in stubs:
                self.write(url, [record(1, v=1), record(2, v=1), {**record(1), "n": 1, "v": 2}, record(3, v=3)])
                self.assertEqual(stub.points[("record", (("subject", "u1"),), BASE + 1)], {"n": 1, "v": 2})
            self.assertEqual([stub.requests for stub, _ in stubs], [[4], [2, 2]])

    def test_temporary_answers_are_waited_out(self):
        busy = [("status", 503, {"Retry-After": "1"}, "busy"), ("status", 429, {"Retry-After": "0"}, {"code": "too many requests", "message": "limit reached"}),
                ("status", 500, {}, {"code": "internal error", "message": "timeout"}), ("status", 502, {}, "<html>"), ("cut",), ("cut after",),
                ("status", 504, {}, ""), ("status", 408, {}, "")]
        with self.both() as stubs:
            for stub, url in stubs:
                stub.faults = [fault for each in busy for fault in (each, None)]  # each alone, so that the pauses stay short
                done = run([tool("influx-write"), url, "--batch-records", "300"], to_lines(record(n) for n in range(3000)), env=CLEAN)
                self.assertEqual(done.exit, 0, done.stderr)
                self.assertEqual(stub.faults, [])
                self.assertRegex(done.stderr, r"\Ainflux-write: waiting: http://\S+: status 503: busy\n(influx-write: waiting: [^\n]*\n)*\Z")
                self.assertEqual(numbers(stub), list(range(3000)))

    def test_the_operators_answers_are_waited_out_once_something_was_accepted(self):
        for status, words in (401, {"code": "unauthorized", "message": "unauthorized access"}), (403, "forbidden"), (404, {"message": "bucket not found"}), \
                (400, "<html>something else</html>"), (400, {"message": "no idea"}), (422, {"error": "would exceed number of columns"}), (405, ""), (301, ""), \
                (200, "<html>welcome</html>"):
            with self.subTest(status=status, words=words), InfluxStub(2) as stub:
                process = self.start(stub.url + "?bucket=b", "--batch-records", "10")
                process.stdin.write(to_lines(record(n) for n in range(10)).encode())
                process.stdin.flush()
                wait_for(lambda: numbers(stub) == list(range(10)), what="the first batch")
                stub.always = ("status", status, {}, words)
                process.stdin.write(to_lines(record(n) for n in range(10, 20)).encode())
                process.stdin.flush()
                wait_for(lambda: f"waiting: {stub.url}?bucket=b: status {status}" in self.stderr(), what="it to say that it waits")
                self.assertIsNone(process.poll())
                stub.always = None
                process.stdin.close()
                self.assertEqual(process.wait(60), 0, self.stderr())
                self.assertEqual(numbers(stub), list(range(20)))

    def test_before_anything_was_accepted_they_are_a_mistake_in_the_command(self):
        for status, words, reason in ((401, {"message": "unauthorized access"}, "status 401: unauthorized access"), (403, "no", "status 403: no"),
                                      (404, {"message": 'bucket "b" not found'}, 'status 404: bucket "b" not found'), (400, "<html>", "status 400: <html>"),
                                      (301, "", "status 301"), (200, "<html>hello</html>", "no answer of InfluxDB"),
                                      (400, {"message": "org is required"}, "org is required"), (413, "", "status 413")):
            for path in "?bucket=b", "/api/v3/write_lp?db=b", "?db=b":
                with self.subTest(status=status, words=words, path=path), InfluxStub(2) as stub:
                    stub.always = ("status", status, {}, words)
                    self.refused(2, reason, stub.url + path, stdin=to_lines(record(n) for n in range(30)))

    def test_a_record_without_a_field_does_not_make_them_something_to_wait_for(self):
        with InfluxStub(2) as stub:
            stub.always = ("status", 401, {}, {"message": "unauthorized access"})
            done = self.write(stub.url + "?bucket=b", [{"time": "2018-07-01T00:00:00Z"}, record(1)], exit=2)
            self.assertRegex(done.stderr, r"\Ainflux-write: line 1: no field[^\n]*\ninflux-write: http:[^\n]*unauthorized access\n\Z")

    def test_a_refusal_that_nothing_explains_is_the_points_own_only_while_others_are_taken(self):
        for version in 2, 3:
            with self.picky(version) as (stub, url):
                done = self.write(url, (record(n) for n in range(100)), exit=1)
                self.assertEqual(done.stderr, "influx-write: line 34: I do not like it\n")
                self.assertEqual(numbers(stub), [n for n in range(100) if n != 33])

    @contextlib.contextmanager
    def picky(self, version):
        """Refuses the line with n=33 without a reason as long as `picky.armed`."""
        with InfluxStub(version) as stub:
            write, stub.armed = stub.write, True
            stub.write = lambda handler, body: (400, {"message": "I do not like it"}) if stub.armed and b"n=33 " in body else write(handler, body)
            yield stub, stub.url + ("?bucket=b" if version == 2 else "/api/v3/write_lp?db=b")

    def test_a_line_that_a_longer_one_has_replaced_is_not_written_again(self):
        """Not even to see whether the server takes any point at all: until another one is stored, nothing tells that."""
        old, new = record(1, v=1), {**record(1), "v": 2, "text": "x" * 70_000}
        for version in 2, 3:
            for batch in "1", "100":
                with self.subTest(version=version, batch=batch), self.picky(version) as (stub, url):
                    process = self.start(url, "--batch-records", batch)
                    process.stdin.write(to_lines([old, new, record(33)]).encode())
                    process.stdin.close()
                    wait_for(lambda: "waiting: " in self.stderr() or process.poll() is not None, what="influx-write to wait")
                    self.assertEqual(stub.points[("record", (("subject", "u1"),), BASE + 1)], {"n": 1, "v": 2, "text": new["text"]})
                    stub.armed = False
                    self.assertEqual(process.wait(60), 0, self.stderr())
                    self.assertEqual(numbers(stub), [1, 33])

    def test_what_a_partial_write_has_stored_tells_that_points_are_taken(self):
        """And an older line of the same point is not what is tried again."""
        first, second = [record(1, v=1)], [{**record(1), "v": 2}, record(2, v="no number")]
        with self.picky(3) as (stub, url):
            process = self.start(url, "--batch-records", "2", "--linger", "50ms")
            for records, stored in (first, {"n": 1, "v": 1}), (second, {"n": 1, "v": 2}), ([record(33)], None):
                process.stdin.write(to_lines(records).encode())
                process.stdin.flush()
                if stored:
                    wait_for(lambda: stub.points.get(("record", (("subject", "u1"),), BASE + 1)) == stored, what="the points")
            process.stdin.close()
            self.assertEqual(process.wait(60), 1, self.stderr())
            self.assertRegex(self.stderr(), r"\Ainflux-write: line 3: [^\n]*\ninflux-write: line 4: I do not like it\n\Z")
            self.assertEqual(stub.points[("record", (("subject", "u1"),), BASE + 1)], {"n": 1, "v": 2})

    def test_a_server_that_comes_and_goes_makes_no_point_guilty(self):
        """One of two behind a balancer answers rubbish: in turn, the points are taken and refused."""
        with InfluxStub(2) as stub:
            stub.faults = [None] + [fault for _ in range(40) for fault in (("status", 400, {}, "<html>"), None)]
            process = self.start(stub.url + "?bucket=b", "--batch-records", "1", "--give-up", "1m")
            process.stdin.write(to_lines(record(n) for n in range(40)).encode())
            process.stdin.close()
            self.assertEqual(process.wait(120), 0, self.stderr())
            self.assertEqual(numbers(stub), list(range(40)))

    def test_tokens(self):
        with InfluxStub(2, token="s3cret") as two, InfluxStub(3, token="s3cret") as three:
            for stub, url in self.urls(two, three):
                self.write(url, [record(1)], env={"INFLUX_TOKEN": "s3cret"})
                self.write(url, [record(2)], "--token-file", self.file("token", "s3cret\n"), env={"INFLUX_TOKEN": "wrong"})
                self.assertEqual(numbers(stub), [1, 2])
                self.refused(2, "status 401: unauthorized access", url)
                self.refused(2, "status 401", url, env={"INFLUX_TOKEN": "wrong"})
            self.write(three.url + "/api/v3/write_lp?db=b", [record(3)], env={"INFLUX_TOKEN": "other", "INFLUXDB3_AUTH_TOKEN": "s3cret"})

    def test_a_token_that_a_server_repeats_is_not_shown(self):
        with InfluxStub(2) as stub:
            stub.always = ("status", 401, {}, {"message": "token s3cret-token is unknown"})
            done = run([tool("influx-write"), stub.url + "?bucket=b"], to_lines([record(1)]), env={**CLEAN, "INFLUX_TOKEN": "s3cret-token"})
            self.assertEqual((done.exit, "s3cret" in done.stderr), (2, False), done.stderr)

    def test_a_server_that_never_answers(self):
        released = threading.Event()
        with InfluxStub(2) as stub:
            stub.faults = [("hang", released)]
            done = run([tool("influx-write"), stub.url + "?bucket=b", "--timeout", "300ms"], to_lines(record(n) for n in range(100)), env=CLEAN)
            released.set()
            self.assertEqual(done.exit, 0)
            self.assertIn("no answer within 300ms", done.stderr)
            self.assertEqual(numbers(stub), list(range(100)))

    def test_tls(self):
        crt, key = certificate(self.box)
        with InfluxStub(2).with_tls(crt, key) as stub:
            self.write(stub.url + "?bucket=b", [record(1)], env={"CURL_CA_BUNDLE": crt})
            self.assertEqual(numbers(stub), [1])
            self.refused(2, "certificate", stub.url + "?bucket=b")
            done = run([tool("influx-write"), f"http://127.0.0.1:{stub.port}?bucket=b", "--give-up", "1s"], to_lines([record(1)]), env=CLEAN)
            self.assertEqual(done.exit, 75)
        with InfluxStub(2) as stub:
            self.refused(2, "wrong version number", stub.url.replace("http", "https") + "?bucket=b")

    def test_something_that_speaks_no_http(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def greet():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        connection.sendall(b"220 mail.example.org ESMTP\r\n")
                        connection.recv(65536)
                        connection.close()
            threading.Thread(target=greet, daemon=True).start()
            self.refused(2, "127.0.0.1", f"http://127.0.0.1:{listener.getsockname()[1]}?bucket=b")

    def test_nobody_there(self):
        for place in f"127.0.0.1:{free_port()}", "no-such-host.invalid:8086":
            for path in "?db=x", "?bucket=x", "/api/v3/write_lp?db=x":
                done = run([tool("influx-write"), f"http://{place}{path}", "--give-up", "1ms"], to_lines([record(1)]), env=CLEAN)
                self.assertEqual(done.exit, 75, done.stderr)
                self.assertRegex(done.stderr, r"\Ainflux-write: waiting: http[^\n]*\ninflux-write: gave up: http[^\n]*\n\Z")

    def test_a_stop_signal_does_not_wait_for_an_answer_that_never_comes(self):
        released = threading.Event()
        with InfluxStub(2) as stub:
            stub.always = ("hang", released)
            process = self.start(stub.url + "?bucket=b")
            process.stdin.write(to_lines([record(1)]).encode())
            process.stdin.flush()
            wait_for(lambda: stub.always is not None and threading.active_count() > 2, what="the request")
            time.sleep(0.2)
            process.terminate()
            self.assertEqual(process.wait(25), 143)
            self.assertIn("not all is stored", self.stderr())
            released.set()

    def test_wrong_urls_and_options(self):
        for url, reason in (("127.0.0.1:8086?db=x", "not http://"), ("htp://h?db=x", "not http://"), ("ftp://h?db=x", "not http://"), ("http://?db=x", "not http://"),
                            ("http://h", "no .db=NAME"), ("http://h?db=", "db= names nothing"), ("http://h?db=x&db=y", "db= stands twice"), ("http://h?dbb=x", "not written to with dbb="),
                            ("http://h?org=o", "org="), ("http://h/api/v2/write?org=o", "no .bucket=NAME"), ("http://h/api/v3/write_lp?bucket=b", "bucket="),
                            ("http://h?db=x&precision=s", "--precision"), ("http://h?db=x#y", "#"), ("http://h?db=x&q=drop", "q="), ("http://h /?db=x", "not http://"), ("", "no URL")):
            self.refused(2, reason, url)
        for words, reason in ((["--field", "n=/n:uint"], "unsigned"), (["--field", "n"], "name=PATH"), (["--field", "=n"], "name=PATH"), (["--field", "n="], "empty path"),
                              (["--field", "time=/n"], "keeps for itself"), (["--tag", "time=/n"], "keeps for itself"), (["--tag", "_field=/n"], "keeps for itself"),
                              (["--tag", "a\\=/n"], "cannot be written"), (["--tag", "a=/n", "--tag", "a=/m"], "two tags or fields"), (["--tag", "a=/n", "--field", "a=/m"], "two tags or fields"),
                              (["--field", "subject=/m"], "two tags or fields"), (["--measurement", ""], "measurement"), (["--measurement", "#a"], "measurement"), (["--measurement", "/a~b"], "~"),
                              (["--timestamp", ""], "timestamp"), (["--precision", "h"], "precision"), (["--timeout", "0s"], "timeout"), (["--compress", "zstd"], "compress")):
            self.refused(2, reason, "http://127.0.0.1:1?db=x", *words)

    def test_an_endpoint_behind_a_proxy(self):
        with InfluxStub(3) as stub:
            self.write(stub.url + "/api/v3/write_lp/?db=b", [record(1)])
            self.refused(2, "status 404", stub.url + "/influx/api/v3/write_lp?db=b")


if __name__ == "__main__":
    unittest.main()

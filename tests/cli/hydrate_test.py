"""hydrate against a server in the test, an S3 and files: the newest documents, in the order of the input; and nothing that was not allowed."""
import contextlib
import json
import os
import pathlib
import random
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from google_tokens import Tokens  # noqa: E402
from harness import BIN, certificate, free_port, nanoseconds, run, tool, wait_for  # noqa: E402
from rest_server import RestServer, event, lines  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402
from s3_server import ALL  # noqa: E402


class Hydrate(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-hydrate-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def server(self, rule=None, **options):
        server = RestServer(rule, **options).__enter__()
        self.addCleanup(server.__exit__)
        return server

    @staticmethod
    def id_only(server, n, subject=None, **more):
        subject = subject or f"s{n}"
        return event(n, subject=subject, dataref=f"{server.url}/{subject}", **more)

    def hydrate(self, records, *more, exit_code=0, **options):
        done = run([tool("hydrate"), *more], lines(*records) if isinstance(records, list) else records, **options)
        self.assertEqual(done.exit, exit_code, done.stderr)
        self.stderr = done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


class Documents(Hydrate):
    def test_what_the_reference_points_to_becomes_the_data_as_it_is_written(self):
        server = self.server()
        server.documents["/s1"] = b'{"n": 1.50,\n "t":"\\n"}\r\n'
        done = run([tool("hydrate")], lines(self.id_only(server, 1, data=None, own=[1])))
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertIn('"data":{"n": 1.50,  "t":"\\n"}', done.stdout)
        made = json.loads(done.stdout)
        self.assertEqual((made["id"], made["own"], made["dataref"], made["datacontenttype"]),
                         ("e1", [1], f"{server.url}/s1", "application/json"))

    def test_when_it_was_asked_for_stands_in_the_event_also_if_it_is_gone(self):
        asked = []
        server = self.server(lambda *_: asked.append(time.time_ns()) or (503 if len(asked) == 1 else None))
        server.documents.update({"/s1": b"1", "/s2": b"null"})
        before = time.time_ns()
        made = self.hydrate([self.id_only(server, n, fetchedtime="2018-07-01T00:00:00Z") for n in (1, 2)], "--max-in-flight", "1")
        self.assertEqual((len(asked), made[0]["data"], made[1]["type"]), (3, 1, "t.deleted"))
        times = [nanoseconds(e["fetchedtime"]) for e in made]
        # The first is refused, the second asked for meanwhile; what counts is the request that was answered.
        self.assertTrue(before < asked[0] < times[0] < asked[2] and before < times[1] < asked[1], (before, times, asked))

    def test_what_has_data_or_no_reference_passes_and_nobody_is_asked(self):
        server = self.server()
        records = [event(1, {"n": 1}), event(2), {"bare": 1}, self.id_only(server, 3, data={"n": 3}),
                   self.id_only(server, 4, type="t.deleted"), self.id_only(server, 5, data_base64="AA==")]
        self.assertEqual(self.hydrate(records), records)
        self.assertEqual((server.asked, self.stderr), ([], ""))

    def test_the_order_is_that_of_the_input_with_many_under_way(self):
        chance = random.Random(1)
        server = self.server(delay=lambda: chance.random() * 0.01)
        server.documents |= {f"/s{n}": str(n).encode() for n in range(1000)}
        records = [self.id_only(server, n) if n % 7 else event(n, n) for n in range(1000)]
        made = self.hydrate(records, "--max-in-flight", "64")
        self.assertEqual([(e["id"], e["data"]) for e in made], [(f"e{n}", n) for n in range(1000)])
        self.assertLessEqual(server.most, 64)
        self.assertGreater(server.most, 1)

    def test_null_is_a_deletion_and_404_only_if_asked_for(self):
        server = self.server()
        server.documents |= {"/s1": b" null\n", "/s3": b"{}"}
        made = self.hydrate([self.id_only(server, 1, type="google.firebase.database.ref.v1.written", datacontenttype="application/json")])
        self.assertEqual((made[0]["type"], "data" in made[0], "datacontenttype" in made[0]), ("google.firebase.database.ref.v1.deleted", False, False))
        made = self.hydrate([self.id_only(server, 1), self.id_only(server, 2), self.id_only(server, 3)], "--missing", "delete")
        self.assertEqual([(e["type"], e.get("data")) for e in made], [("t.deleted", None), ("t.deleted", None), ("t", {})])
        made = self.hydrate([self.id_only(server, 1), self.id_only(server, 2), self.id_only(server, 3)], exit_code=1)
        self.assertEqual([e["id"] for e in made], ["e1", "e3"])
        self.assertEqual(self.stderr, "hydrate: line 2: status 404\n")

    def test_text_and_bytes_are_kept_as_such(self):
        bodies = {"/s1": ("<a>\n</a>", "application/xml"), "/s2": (b"\xff\0", "image/png"), "/s3": ("{", "application/json"), "/s4": ("", "text/plain")}
        server = self.server(lambda asked, _: (200, bodies[asked.path][0], [("Content-Type", bodies[asked.path][1])]))
        made = self.hydrate([self.id_only(server, n) for n in range(1, 5)], exit_code=1)
        self.assertEqual([(e.get("data"), e.get("data_base64"), e["datacontenttype"]) for e in made],
                         [("<a>\n</a>", None, "application/xml"), (None, "/wA=", "image/png")])
        self.assertIn("line 3: status 200: the answer is not JSON", self.stderr)
        self.assertIn("line 4: status 200: the answer is empty", self.stderr)

    def test_a_document_that_is_too_large_is_rejected(self):
        server = self.server()
        server.documents |= {"/s1": b'"' + b"x" * 20_000_000 + b'"', "/s2": b"2"}
        made = self.hydrate([self.id_only(server, 1), self.id_only(server, 2)], exit_code=1)
        self.assertEqual([e["data"] for e in made], [2])
        self.assertIn("line 1: ", self.stderr)
        self.assertIn("larger than 16777216 bytes", self.stderr)


    def test_what_fails_with_a_long_answer_is_no_document_that_is_too_large(self):
        server = self.server(lambda asked, server: (503, "x" * 5000) if len(server.asked) < 3 else None)
        server.documents["/s1"] = b"1"
        self.assertEqual([e["data"] for e in self.hydrate([self.id_only(server, 1)], "--max-record", "1000")], [1])
        server = self.server(lambda asked, server: (401, "x" * 5000))
        self.assertEqual(self.hydrate([self.id_only(server, 1)], "--max-record", "1000", exit_code=2), [])

    def test_an_answer_that_is_never_encoded_as_it_says_is_rejected_if_others_are_fetched(self):
        server = self.server(lambda asked, _: (200, "{}", [("Content-Encoding", "gzip")]) if asked.path == "/s5" else None, delay=lambda: 0.003)
        server.documents |= {f"/s{n}": b"1" for n in range(2000)}
        made = self.hydrate([self.id_only(server, n) for n in range(2000)], "--max-in-flight", "2", exit_code=1)
        self.assertEqual([e["id"] for e in made], [f"e{n}" for n in range(2000) if n != 5])
        self.assertIn("line 6: ", self.stderr)
        self.assertIn("encod", self.stderr)

    def test_a_404_that_is_cut_says_nothing(self):
        cut = (404, "half", [("Content-Length", "100"), ("Connection", "close")])
        server = self.server(lambda asked, server: cut if len(server.asked) == 1 else None)
        server.documents["/s1"] = b"1"
        self.assertEqual([e.get("data") for e in self.hydrate([self.id_only(server, 1)], "--missing", "delete")], [1])

    def test_a_reference_that_is_no_url_is_the_events_own_fault(self):
        server = self.server()
        server.documents |= {"/s1": b"1", "/s2": b"2"}
        for bad in "http://127.0.0.1:99999/x", "http://[x/", "http://h:port/", "http:///x", "http://h/a b", "http://h/\0", "x":
            with self.subTest(bad):
                made = self.hydrate([event(0, dataref=bad), self.id_only(server, 1), event(2, dataref=bad), self.id_only(server, 2)],
                                    "--give-up", "5s", exit_code=1)
                self.assertEqual([e["data"] for e in made], [1, 2])


class Files(Hydrate):
    def setUp(self):
        super().setUp()
        self.root = self.dir / "claims"
        (self.root / "deep").mkdir(parents=True)
        self.under = ["--under", f"file://{self.root}"]

    def refer(self, n, name, **more):
        return event(n, dataref=f"file://{self.root}/{name}", **more)

    def test_what_is_there_becomes_the_data(self):
        names = {"a.json": b'{"n":1}', "b c%.json": b"[2]", "deep/d.xml": b"<a/>", "e.bin": b"\xff", "gone": b"null"}
        for name, body in names.items():
            (self.root / name).write_bytes(body)
        records = [self.refer(1, "a.json"), self.refer(2, "b%20c%25.json"), self.refer(3, "deep/d.xml", datacontenttype="application/xml"),
                   self.refer(4, "e.bin", datacontenttype="image/png"), self.refer(5, "gone"),
                   event(6, dataref=f"file:{self.root}/a.json"), event(7, dataref=f"file://localhost{self.root}/a.json")]
        made = self.hydrate(records, *self.under)
        self.assertEqual([e.get("data", e.get("data_base64")) for e in made], [{"n": 1}, [2], "<a/>", "/w==", None, {"n": 1}, {"n": 1}])
        self.assertEqual([e.get("datacontenttype") for e in made[:4]], ["application/json"] * 2 + ["application/xml", "image/png"])
        self.assertEqual(made[4]["type"], "t.deleted")

    def test_nothing_is_read_that_was_not_allowed(self):
        (self.dir / "secret").write_text('"secret"')
        (self.dir / "claims2").mkdir()
        (self.dir / "claims2/s").write_text('"secret"')
        (self.root / "in").write_text("1")
        (self.root / "link").symlink_to("../secret")
        (self.root / "out").symlink_to("/")
        (self.root / "inside").symlink_to(self.root / "in")
        inside = [self.refer(0, "in"), self.refer(1, "inside"), self.refer(2, "deep/../in")]
        bad = [self.refer(n, name) for n, name in enumerate(
            ("../secret", "%2e%2e/secret", "link", f"out{self.dir}/secret", "deep/../../secret", "out/none", "../claims2/s", "../none", "../none/../secret"), 3)]
        bad += [event(90, dataref=f"file://{self.dir}/secret"), event(91, dataref=f"file:{self.dir}/claims2/s"), event(92, dataref=f"file://{self.dir}/none")]
        made = self.hydrate(inside + bad, *self.under, "--missing", "delete", exit_code=1)
        self.assertEqual([e.get("data") for e in made], [1, 1, 1])
        self.assertEqual(self.stderr.count("not under any --under"), len(bad), self.stderr)
        self.assertNotIn("data", json.dumps(self.hydrate(inside, exit_code=1)))
        self.assertEqual(self.hydrate(inside, "--under", "http://localhost/", exit_code=1), [])

    def test_a_reference_that_is_no_file_is_the_events_own_fault(self):
        (self.root / "in").write_text("1")
        (self.root / "empty").write_text("")
        (self.root / "large").write_text("1" * 3000)
        os.mkfifo(self.root / "fifo")
        names = "deep", "empty", "large", "fifo", "a%00b", "in?x", "x" * 300, "in#", "in/x"
        bad = [self.refer(n, name) for n, name in enumerate(names, 10)] + [event(30, dataref=f"file://elsewhere{self.root}/in"), event(31, dataref="file:in")]
        records = [each for one in bad for each in (self.refer(1, "in", subject=f"good{one['id']}"), one)]
        made = self.hydrate(records, *self.under, "--max-record", "2000", exit_code=1)
        self.assertEqual([e["data"] for e in made], [1] * len(bad))
        self.assertEqual(len(self.stderr.splitlines()), len(bad), self.stderr)

    def test_a_file_that_is_missing_is_as_a_404(self):
        (self.root / "in").write_text("1")
        records = [self.refer(1, "in", subject="a"), self.refer(2, "none", subject="b"), self.refer(3, "in", subject="c")]
        self.assertEqual([e["id"] for e in self.hydrate(records, *self.under, exit_code=1)], ["e1", "e3"])
        self.assertEqual(self.stderr, f"hydrate: line 2: {self.root}/none: No such file or directory\n")
        self.assertEqual([e["type"] for e in self.hydrate(records, *self.under, "--missing", "delete")], ["t", "t.deleted", "t"])
        self.assertEqual(self.hydrate([self.refer(n, f"none{n}", subject=f"s{n}") for n in range(9)], *self.under, exit_code=2), [])

    def test_a_folder_that_has_gone_is_no_news_of_its_files(self):
        with subprocess.Popen([tool("hydrate"), *self.under, "--missing", "delete", "--give-up", "1s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            (self.root / "in").write_text("1")
            process.stdin.write(lines(self.refer(1, "in")))
            process.stdin.flush()
            self.assertIn('"data":1', process.stdout.readline())
            self.root.rename(self.dir / "away")
            out, err = process.communicate(lines(self.refer(2, "in")))
        self.assertEqual((process.returncode, out), (75, ""))
        self.assertIn("a folder of --under is gone", err)

    def test_a_folder_that_was_never_there_is_the_operators(self):
        self.hydrate([], "--under", f"file://{self.dir}/none", exit_code=2)
        self.assertEqual(self.stderr, f"hydrate: --under: {self.dir}/none: No such file or directory\n")
        for under in f"file://{self.root}/../x", "file:relative", "file://host/x", "/x", "s3:x", "ftp://x/":
            self.hydrate([], "--under", under, exit_code=2)


class Objects:
    """On each S3 server whose packages are here."""
    kind = None

    @classmethod
    def setUpClass(cls):
        if cls.kind.missing():
            raise unittest.SkipTest(f"{cls.kind.name} is not installed: {cls.kind.missing()}")
        cls.s3 = cls.enterClassContext(cls.kind())
        for bucket in "claims", "other":
            cls.s3.make_bucket(bucket)
        for key, body in {"in/a.json": b'{"n":1}', "in/b c+%ä.json": b"[2]", "in/x.xml": b"<a/>", "in/null": b"null", "inner/a": b'"secret"',
                          "in/large": b"1" * 3000}.items():
            cls.s3.client.put("claims", key, body)
        cls.s3.client.put("other", "in/a.json", b'{"other":1}')

    def fetch(self, names, *more, under="s3://claims/in", exit_code=0, env=None):
        records = [event(n, subject=f"s{n}", dataref=name if ":" in name else f"s3://claims/{name}", datacontenttype="application/xml") for n, name in enumerate(names)]
        return self.hydrate(records, *(["--under", under] if under else []), *more, exit_code=exit_code, env=env or self.s3.environment())

    def test_what_is_there_becomes_the_data(self):
        made = self.fetch(["in/a.json", "in/b%20c+%25%C3%A4.json", "in/x.xml", "in/null"])
        self.assertEqual([e.get("data") for e in made], [{"n": 1}, [2], "<a/>", None])
        self.assertEqual((made[3]["type"], self.stderr), ("t.deleted", ""))
        made = self.fetch(["in/a.json", "s3://other/in/a.json"] * 20, "--under", "s3://other", "--max-in-flight", "8")
        self.assertEqual([e["data"] for e in made], [{"n": 1}, {"other": 1}] * 20)

    def test_nothing_is_read_that_was_not_allowed(self):
        bad = ["inner/a", "s3://other/in/a.json", "in/../inner/a", "in/%2e%2e/inner/a", "in/a?versionId=1", "", "s3:///in/a.json", "in/" + "x" * 1030]
        made = self.fetch(["in/a.json", *bad], exit_code=1)
        self.assertEqual([e["data"] for e in made], [{"n": 1}])
        self.assertEqual(self.fetch(["in/a.json"], under="", exit_code=1), [])
        self.assertIn("not under any --under", self.stderr)

    def test_an_object_that_is_missing_is_as_a_404(self):
        self.assertEqual([e["id"] for e in self.fetch(["in/a.json", "in/none", "in/x.xml"], exit_code=1)], ["e0", "e2"])
        self.assertRegex(self.stderr, "^hydrate: line 2: s3://claims/in/none: .*404 NoSuchKey.*\n$")
        made = self.fetch(["in/a.json", "in/none"], "--missing", "delete")
        self.assertEqual([e["type"] for e in made], ["t", "t.deleted"])
        self.assertEqual(self.fetch([f"in/none{n}" for n in range(9)], exit_code=2), [])

    def test_what_is_wrong_with_the_bucket_or_the_keys_is_the_operators(self):
        self.assertEqual(self.fetch(["s3://none-such/in/a"] * 3, "--missing", "delete", under="s3://none-such", exit_code=2), [])
        self.assertIn("NoSuchBucket", self.stderr)
        self.assertEqual(self.fetch(["in/a.json"], exit_code=2, env=self.s3.environment(AWS_SECRET_ACCESS_KEY="wr0ng-secret")), [])
        self.assertNotIn("wr0ng", self.stderr)
        env = {k: v for k, v in self.s3.environment().items() if k not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        self.assertEqual(self.fetch(["in/a.json"], exit_code=2, env=env), [])
        self.assertIn("no AWS credentials", self.stderr)

    def test_an_object_that_is_too_large_is_rejected(self):
        made = self.fetch(["in/large", "in/a.json"], "--max-record", "2000", exit_code=1)
        self.assertEqual([e["data"] for e in made], [{"n": 1}])
        self.assertEqual(self.stderr, "hydrate: line 1: the object is larger than 2000 bytes\n")

    def test_a_server_that_is_not_there_is_waited_for(self):
        self.fetch(["in/a.json"], "--give-up", "1s", exit_code=75, env=self.s3.environment(f"http://127.0.0.1:{free_port()}"))
        self.assertRegex(self.stderr, r"^hydrate: waiting: .*Connection refused\nhydrate: gave up: ")


for server_kind in ALL:
    globals()[f"ObjectsOf{server_kind.__name__}"] = type(f"ObjectsOf{server_kind.__name__}", (Objects, Hydrate), {"kind": server_kind})


class Rates(Hydrate):
    def test_the_database_counts_no_more_in_any_second_than_the_rate(self):
        """Whatever the time that it takes to answer; that it is reached is for the benchmark to say."""
        with RtdbServer("--documents", "250") as db:
            ids = run([tool("crawl"), db.url + "/orders"]).stdout
            for delay in None, "3ms", "150ms":
                if delay:
                    db.control(fault="slow", duration=delay)
                db.control(reset="stats")
                made = self.hydrate(ids, "--rate", "100/s", "--max-in-flight", "64")
                stats = db.stats()
                self.assertEqual((len(made), stats["documents"]), (250, 250))
                self.assertLessEqual(stats["busiest_second"]["requests"], 100)
                db.control(fault="none")


class LatestWins(Hydrate):
    def test_events_of_a_subject_join_a_fetch_that_is_not_yet_sent(self):
        released = threading.Event()
        server = self.server(lambda asked, _: released.wait(20) and None if asked.path == "/a" else None)
        server.documents |= {"/a": b'"a"', "/b": b'"b"', "/c": b'"c"'}
        order = ["a", "b", "a", "c", "b", "a", "c"]
        records = [self.id_only(server, n, subject) for n, subject in enumerate(order)]
        with subprocess.Popen([tool("hydrate"), "--max-in-flight", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            process.stdin.write(lines(records[0]))
            process.stdin.flush()
            wait_for(lambda: server.asked)
            process.stdin.write(lines(*records[1:]))
            process.stdin.close()
            released.set()
            made = [json.loads(line) for line in process.stdout]
        self.assertEqual([(e["id"], e["data"]) for e in made], [("e0", "a"), ("e4", "b"), ("e5", "a"), ("e6", "c")])
        self.assertEqual(sorted(a.path for a in server.asked), ["/a", "/a", "/b", "/c"])
        self.assertEqual(server.side_by_side, 0)

    def test_all_positions_are_named(self):
        server = self.server(delay=lambda: 0.002)
        server.documents |= {f"/s{n}": str(n).encode() for n in range(5)}
        assert run([tool("publish"), f"{self.dir}/x"], lines(*(self.id_only(server, n, f"s{n % 5}") for n in range(500)))).exit == 0
        done = run([tool("consume"), f"{self.dir}/x", "--as", "a", "--until-empty", "--",
                    f"{BIN}/hydrate | tee {self.dir}/out | {BIN}/sql-write sqlite:{self.dir}/x.db --table t --create --key subject --column subject=subject "
                    "--column n=data"])
        self.assertEqual((done.exit, done.stderr), (0, ""))
        state = json.loads((self.dir / "x/subscribers/a/state.json").read_text())
        self.assertEqual(state["cursor"], 500)
        made = [json.loads(line) for line in (self.dir / "out").read_text().splitlines()]
        self.assertLess(len(made), 500)
        positions = [int(p) for e in made for part in e["delivery"].split(":")[1].split(",") for p in part.split("-")]
        self.assertEqual(sorted(positions), list(range(500)))
        self.assertFalse((self.dir / "x/subscribers/a/dead.ndjson").exists())

    def test_with_the_service_that_changes_the_newest_document_leaves_last(self):
        count = iter(range(1, 1_000_000))
        server = self.server(lambda asked, _: (200, str(next(count))), delay=lambda: 0.001)
        made = self.hydrate([self.id_only(server, n, f"s{n % 3}") for n in range(300)])
        for subject in "s0", "s1", "s2":
            versions = [e["data"] for e in made if e["subject"] == subject]
            self.assertEqual(versions, sorted(versions))
        self.assertEqual([e["id"] for e in made][-3:], ["e297", "e298", "e299"])


class Answers(Hydrate):
    def test_what_fails_for_a_while_is_asked_for_again(self):
        failing = random.Random(1)

        def rule(asked, _):
            lot = failing.random()
            return 503 if lot < 0.1 else (200, "half", [("Content-Length", "100"), ("Connection", "close")]) if lot < 0.2 else None
        server = self.server(rule)
        server.documents |= {f"/s{n}": str(n).encode() for n in range(200)}
        made = self.hydrate([self.id_only(server, n) for n in range(200)])
        self.assertEqual([e["data"] for e in made], list(range(200)))

    def test_permission_is_the_operators(self):
        server = self.server(lambda asked, _: (401, "who"))
        self.assertEqual(self.hydrate([self.id_only(server, 1)], exit_code=2), [])
        self.assertEqual(self.stderr, "hydrate: status 401: who\n")
        server = self.server(lambda asked, _: 404)
        self.assertEqual(self.hydrate([self.id_only(server, n) for n in range(9)], exit_code=2), [])

    def test_nobody_there_is_waited_for(self):
        self.hydrate([event(1, dataref=f"http://127.0.0.1:{free_port()}/1")], "--give-up", "1s", exit_code=75)
        self.assertRegex(self.stderr, r"^hydrate: waiting: .*Connection refused\nhydrate: gave up: ")

    def test_secrets_go_only_where_the_operator_says(self):
        server, other = self.server(), self.server()
        server.documents |= {"/db/s1": b"1", "/db2/s1": b"1"}
        other.documents |= {"/db/s1": b"1"}
        (self.dir / "token").write_text("t0ken\n")
        (self.dir / "header").write_text("X-Key: k3y\n")
        secrets = ["--token-file", f"{self.dir}/token", "--header-file", f"{self.dir}/header"]
        urls = [f"{server.url}/db/s1", f"{server.url}/db2/s1", f"{other.url}/db/s1", f"{server.url}/db/../db2/s1",
                f"{server.url}/db/..?x", f"{server.url}/db/%2E./db2/s1", "file:///etc/passwd"]
        made = self.hydrate([event(n, dataref=url) for n, url in enumerate(urls)], "--under", f"{server.url}/db", *secrets, exit_code=1)
        self.assertEqual([e["id"] for e in made], ["e0"])
        self.assertEqual((server.asked[0].headers["Authorization"], server.asked[0].headers["X-Key"]), ("Bearer t0ken", "k3y"))
        self.assertEqual((len(server.asked), other.asked), (1, []))
        for one in secrets[:2], secrets[2:]:
            self.hydrate([], *one, exit_code=2)

    def test_a_token_that_was_renewed_in_its_file_is_taken(self):
        token = self.dir / "token"
        token.write_text("old\n")

        def rule(asked, server):
            if asked.headers["Authorization"] == "Bearer new":
                return None
            token.write_text("new\n")
            return 401
        server = self.server(rule)
        server.documents["/s1"] = b"1"
        self.assertEqual(self.hydrate([self.id_only(server, 1)], "--under", server.url, "--token-file", str(token))[0]["data"], 1)

    def test_a_token_that_stays_refused_is_the_operators(self):
        (self.dir / "token").write_text("old\n")
        server = self.server(lambda asked, _: 401)
        self.hydrate([self.id_only(server, 1)], "--under", server.url, "--token-file", f"{self.dir}/token", exit_code=2)
        for text, what in (("", "is no token"), ("two words", "is no token")):
            (self.dir / "token").write_text(text)
            self.hydrate([], "--under", server.url, "--token-file", f"{self.dir}/token", exit_code=2)
            self.assertIn(what, self.stderr)
        self.hydrate([], "--under", server.url, "--token-file", f"{self.dir}/none", exit_code=2)
        self.assertRegex(self.stderr, "^hydrate: .*/none: No such file or directory\n$")

    def test_the_rate_is_kept(self):
        server = self.server()
        server.documents |= {f"/s{n}": b"1" for n in range(100)}
        begun = time.monotonic()
        self.hydrate([self.id_only(server, n) for n in range(100)], "--rate", "100/s")
        self.assertGreater(time.monotonic() - begun, 0.95)  # a bound that a slow machine cannot miss


class GoogleProxy:
    """A proxy that ends TLS itself, as the host that is asked for, and hands over what comes."""

    def __init__(self, folder, host, port):
        self.host, self.port, self.tunnels = host, port, []
        crt, key = certificate(folder, f"DNS:{host}")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(crt, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.env = {"https_proxy": f"http://127.0.0.1:{self.listener.getsockname()[1]}", "CURL_CA_BUNDLE": crt}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=self.listener.accept()[:1], daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1)
            self.tunnels.append(head.split()[1].decode())
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with self.context.wrap_socket(client, server_side=True) as inside, socket.create_connection(("127.0.0.1", self.port)) as behind:
                answers = threading.Thread(target=self.pump, args=(behind, inside), daemon=True)
                answers.start()
                self.pump(inside, behind)
                answers.join()

    @staticmethod
    def pump(source, to):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


class Google(Hydrate):
    def setUp(self):
        super().setUp()
        self.db = RtdbServer("--documents", "5", "--seed", "3")
        self.db.__enter__()
        self.addCleanup(self.db.__exit__)
        self.tokens = Tokens(self.dir)
        self.tokens.__enter__()
        self.addCleanup(self.tokens.__exit__)
        self.account = self.dir / "account.json"
        self.account.write_text(json.dumps(self.tokens.account))
        self.keys = sorted(self.db.get("orders"))
        self.db.control(accept="secret-token-1")
        self.env = {k: v for k, v in os.environ.items() if k not in ("GOOGLE_APPLICATION_CREDENTIALS", "FIREBASE_DATABASE_EMULATOR_HOST")}

    def fetch(self, *more, url=None, exit_code=0, **env):
        url = url or self.db.url
        records = [event(n, subject=key, dataref=f"{url}/orders/{key}.json") for n, key in enumerate(self.keys)]
        return self.hydrate(records, *(["--under", f"{url}/orders", *more] if more else []), exit_code=exit_code, env=self.env | env)

    def test_a_service_account_signs_for_its_token(self):
        documents = [self.db.get(["orders", key], auth="secret-token-1") for key in self.keys]
        self.assertEqual([e["data"] for e in self.fetch("--credentials", str(self.account))], documents)
        self.assertEqual((self.tokens.given, self.stderr), (1, ""))
        self.db.control(accept="secret-token-3")  # the second is not known to the database: one more is asked for
        self.assertEqual([e["data"] for e in self.fetch("--credentials", str(self.account))], documents)
        self.assertEqual(self.tokens.given, 3)

    def test_credentials_that_are_of_no_use_are_told_in_one_line(self):
        cases = (("", "status 401"),  # of another project
                 ("Account disabled", "status 400: Account disabled"))
        self.tokens.given = 50  # the database knows none of those that follow
        for refuse, what in cases:
            self.tokens.refuse = refuse
            self.fetch("--credentials", str(self.account), exit_code=2)
            self.assertRegex(self.stderr, f"^hydrate: .*{what}.*\n$")
        self.fetch("--credentials", f"{self.dir}/none", exit_code=2)
        self.assertRegex(self.stderr, "^hydrate: .*none: No such file or directory\n$")
        self.assertNotIn("secret", self.stderr)
        self.tokens.__exit__()
        self.fetch("--credentials", str(self.account), "--give-up", "1s", exit_code=75)

    def test_a_token_is_renewed_before_its_end(self):
        self.tokens.lives = 30  # less than the margin
        for n in range(2, 9):
            self.db.control(accept=f"secret-token-{n}")
        with subprocess.Popen([tool("hydrate"), "--under", self.db.url, "--credentials", self.account], env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as process:
            while self.tokens.given < 3:
                process.stdin.write(lines(event(1, dataref=f"{self.db.url}/orders/{self.keys[0]}.json")))
                process.stdin.flush()
                self.assertIn('"data":', process.stdout.readline())
                time.sleep(0.05)
            process.stdin.close()
        self.assertEqual(process.returncode, 0)

    def test_what_the_environment_names_is_for_googles_hosts_and_no_others(self):
        proxy = GoogleProxy(self.dir, "shop.firebaseio.com", self.db.port)
        self.addCleanup(proxy.listener.close)
        env = proxy.env | {"GOOGLE_APPLICATION_CREDENTIALS": str(self.account)}
        made = self.fetch("--max-in-flight", "2", url="https://shop.firebaseio.com", **env)
        self.assertEqual(len([e["data"] for e in made]), 5)
        self.assertEqual((set(proxy.tunnels), self.tokens.given), ({"shop.firebaseio.com:443"}, 1))
        self.fetch("--max-in-flight", "2", exit_code=2, **env)  # of another host, which refuses who has no token
        self.fetch(url="https://shop.firebaseio.com", exit_code=2, **env)  # without --under
        self.assertIn("status 401", self.stderr)
        self.assertEqual(self.tokens.given, 1)
        self.fetch("--max-in-flight", "2", url="https://shop.firebaseio.com", exit_code=2, **(env | {"GOOGLE_APPLICATION_CREDENTIALS": "/none"}))
        self.assertEqual(self.stderr, "hydrate: /none: No such file or directory\n")

    def test_an_emulator_hears_its_owner(self):
        self.db.control(accept="owner")
        self.assertEqual(len(self.fetch(FIREBASE_DATABASE_EMULATOR_HOST=f"127.0.0.1:{self.db.port}")), 5)


if __name__ == "__main__":
    unittest.main()

"""hydrate against a server in the test: the newest documents, in the order of the input."""
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, free_port, run, tool, wait_for  # noqa: E402
from rest_server import RestServer, event, lines  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402


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

    def hydrate(self, records, *more, exit_code=0):
        done = run([tool("hydrate"), *more], lines(*records) if isinstance(records, list) else records)
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

    def test_the_rate_is_kept(self):
        server = self.server()
        server.documents |= {f"/s{n}": b"1" for n in range(100)}
        begun = time.monotonic()
        self.hydrate([self.id_only(server, n) for n in range(100)], "--rate", "100/s")
        self.assertGreater(time.monotonic() - begun, 0.95)  # a bound that a slow machine cannot miss


if __name__ == "__main__":
    unittest.main()

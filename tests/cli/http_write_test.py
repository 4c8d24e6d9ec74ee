"""http-write against a service in the test, which records what it is asked and fails by rule."""
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import free_port, run, tool, wait_for  # noqa: E402
from rest_server import RestServer, event, lines  # noqa: E402


def write(server, records, *more, path="/orders/{subject}", **options):
    return run([tool("http-write"), server.url + path, *more], lines(*records), **options)


class HttpWrite(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-http-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def server(self, rule=None, **options):
        server = RestServer(rule, **options).__enter__()
        self.addCleanup(server.__exit__)
        return server

    def silent(self, done, exit_code=0):
        self.assertEqual((done.exit, done.stdout, done.stderr), (exit_code, "", ""))

    def rejections(self, done):
        """Of a run that rejects, by line."""
        self.assertEqual((done.exit, done.stdout), (1, ""), done.stderr)
        return done.stderr


class Requests(HttpWrite):
    def test_a_record_is_a_put_of_its_data_as_it_is_written(self):
        server = self.server()
        self.silent(run([tool("http-write"), f"{server.url}/orders/{{subject}}"],
                        '{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"a b","data":{"n": 1.50, "x":[ ]}}\n'))
        asked = server.asked[0]
        self.assertEqual((asked.method, asked.path, asked.body), ("PUT", "/orders/a%20b", b'{"n": 1.50, "x":[ ]}'))
        self.assertEqual(asked.headers["Content-Type"], "application/json")
        self.assertIsNone(asked.headers["Idempotency-Key"])  # a PUT is idempotent, and an older one may have come between

    def test_method_body_and_headers_are_chosen(self):
        server = self.server()
        (self.dir / "headers").write_text("Authorization: Bearer t0p\nX-Tenant: 7\n")
        for method in "POST", "PATCH":
            self.silent(write(server, [event(1, {"order": {"n": 1}})], "--method", method, "--body", "/order", "--header-file",
                              f"{self.dir}/headers", path="/orders"))
            asked = server.asked[-1]
            self.assertEqual((asked.method, asked.path, asked.body), (method, "/orders", b'{"n": 1}'))
            self.assertRegex(asked.headers["Idempotency-Key"], "^[0-9a-f]{32}$")
            self.assertEqual((asked.headers["Authorization"], asked.headers["X-Tenant"]), ("Bearer t0p", "7"))

    def test_a_bare_record_is_its_own_body_and_has_no_key(self):
        server = self.server()
        self.silent(write(server, [{"id": 7, "n": 1}], "--method", "POST", path="/orders/{/id}"))
        self.assertEqual((server.asked[0].path, json.loads(server.asked[0].body)), ("/orders/7", {"id": 7, "n": 1}))
        self.assertIsNone(server.asked[0].headers["Idempotency-Key"])

    def test_text_and_bytes_are_sent_as_what_they_are(self):
        server = self.server()
        self.silent(write(server, [event(1, "<a>\n</a>", datacontenttype="application/xml"),
                                   event(2, datacontenttype="image/png", data_base64="AP8K"), event(3, "text")]))
        self.assertEqual([(a.body, a.headers["Content-Type"]) for a in sorted(server.asked, key=lambda a: a.path)],
                         [(b"<a>\n</a>", "application/xml"), (b"\0\xff\n", "image/png"), (b'"text"', "application/json")])

    def test_the_same_event_has_the_same_key_a_newer_body_another_one(self):
        server = self.server()
        records = [event(1, {"n": 1}), event(2, {"n": 1})]
        for method in "POST", "PATCH":
            self.silent(write(server, records, "--method", method))
            self.silent(write(server, [*records, event(1, {"n": 2}), event(1, {"n": 1}, source="other"), event(1, {"n": 1}, time="x")],
                              "--method", method))
        keys = collections.Counter(a.headers["Idempotency-Key"] for a in server.asked)
        self.assertEqual(sorted(keys.values()), [1, 1, 1, 1, 2, 2, 3, 3])
        self.assertEqual(len(server.history["/orders/s1"]), 6)

    def test_keys_of_any_kind_arrive_as_they_are_and_what_would_be_another_path_is_rejected(self):
        server = self.server()
        names = ["a b", "100%", "a+b", "a/b", "\U0001f600", "x" * 768, "?q#f", "..a"]
        self.silent(write(server, [event(n, {}, subject=name) for n, name in enumerate(names)]))
        self.assertEqual(sorted(a.path for a in server.asked),
                         sorted(["/orders/a%20b", "/orders/100%25", "/orders/a%2Bb", "/orders/a%2Fb", "/orders/%F0%9F%98%80",
                                 "/orders/" + "x" * 768, "/orders/%3Fq%23f", "/orders/..a"]))
        server.asked.clear()
        for name in "", ".", "..":
            done = write(server, [event(1, {}, subject=name), event(2, subject=name, type="t.deleted")])
            self.assertRegex(self.rejections(done), r"line 1: URL: .*\n.*line 2: URL: ")
        self.assertEqual(server.asked, [])

    def test_a_deletion_is_a_delete_and_what_is_not_there_is_deleted(self):
        server = self.server()
        server.documents["/orders/s1"] = b"{}"
        self.silent(write(server, [event(1, type="t.deleted"), event(2, type="t.deleted")]))
        self.assertEqual([(a.method, a.body, a.headers["Content-Type"]) for a in server.asked], [("DELETE", b"", None)] * 2)
        self.assertEqual(server.documents, {})
        gone = self.server(lambda asked, _: 410)
        self.silent(write(gone, [event(1, type="t.deleted")]))
        self.silent(write(gone, [event(1, type="t.deleted")], "--on-delete", "ignore"))
        self.assertEqual(len(gone.asked), 1)
        self.assertIn("a deletion", self.rejections(write(gone, [event(1, type="t.deleted")], "--on-delete", "reject")))

    def test_an_event_without_data_is_rejected(self):
        server = self.server()
        done = write(server, [event(1, dataref="http://x/1"), event(2, {})])
        self.assertIn("line 1: an event without data (hydrate fetches", self.rejections(done))
        self.assertEqual([a.path for a in server.asked], ["/orders/s2"])

    def test_what_was_fetched_later_is_the_newer_version_whenever_it_was_recorded(self):
        server = self.server()
        late, early = ({"fetchedtime": f"2018-07-01T00:00:0{n}Z"} for n in (3, 2))
        self.silent(write(server, [event(1, {}, **late), event(2, {}, **early), event(3, type="t.deleted", **late),
                                   event(4, {}, recordedtime="2018-07-01T00:00:01Z")], "--version-header", "X-Version", "--max-in-flight", "1"))
        self.assertEqual([int(a.headers["X-Version"]) - 1530403200000000 for a in server.asked], [3000000, 2000000, 3000000, 1000000])

    def test_the_version_is_the_recorded_time_in_microseconds_or_what_is_named(self):
        server = self.server()
        self.silent(write(server, [event(1, {"v": 41, "at": "1970-01-01T00:00:01Z"})], "--version-header", "X-Version"))
        self.silent(write(server, [event(1, type="t.deleted")], "--version-header", "X-Version", "--version-from", "/v"))
        self.silent(write(server, [event(1, {"v": 41})], "--version-header", "X-Version", "--version-from", "/v"))
        self.silent(write(server, [event(1, {"v": "1970-01-01T00:00:01Z"})], "--version-header", "X-Version", "--version-from", "/v"))
        self.assertEqual([a.headers["X-Version"] for a in server.asked], ["1530403200000001", "1530403200000001", "41", "1000000"])
        self.assertIn("--version-from", self.rejections(write(server, [{"n": 1}], "--version-header", "V", path="/x")))

    def test_dry_run_shows_method_url_and_body_and_asks_nobody(self):
        done = run([tool("http-write"), "https://api.invalid/orders/{subject}", "--dry-run", "--body", "/n"],
                   lines(event(1, {"n": {"x": 1}}), event(2, type="t.deleted"), event(3, {})))
        self.assertEqual((done.exit, done.stdout.splitlines()), (1, ['PUT https://api.invalid/orders/s1 {"x": 1}',
                                                                     "DELETE https://api.invalid/orders/s2"]))
        self.assertEqual(done.stderr, "http-write: line 3: it has no /n (--body)\n")

    def test_wrong_calls_are_told_at_once(self):
        for url, *more in (["ftp://x/"], ["x"], ["http://u:p@x/"], ["http://{subject}/"], ["http://x/{"], ["http://x/?token=abc"],
                           ["http://x/", "--version-header", "a b"], ["http://x/", "--body", "/~"], ["http://x/", "--max-in-flight", "0"],
                           ["http://x/", "--header-file", "/nowhere"]):
            with self.subTest(url):
                done = run([tool("http-write"), url, *more], "")
                self.assertEqual((done.exit, done.stdout, done.stderr.count("\n")), (2, "", 1), done.stderr)
                self.assertNotIn("abc", done.stderr)


class Answers(HttpWrite):
    def test_what_a_service_refuses_is_rejected_with_its_words_and_the_rest_is_stored(self):
        server = self.server(lambda asked, _: (422, "n is no\nnumber" + "\u00e9" * 200) if b"bad" in asked.body else None)
        dead = self.dir / "dead.ndjson"
        done = write(server, [event(n, {"n": "bad" if n % 10 == 3 else n}) for n in range(50)], "--dead-letters", str(dead))
        self.rejections(done)
        self.assertEqual(len(server.documents), 45)
        letters = [json.loads(line) for line in dead.read_text().splitlines()]
        self.assertEqual({letter["event"]["id"] for letter in letters}, {f"e{n}" for n in range(3, 50, 10)})
        # 200 bytes, and no half of a letter
        self.assertEqual({letter["reason"] for letter in letters}, {"status 422: n is no number" + "\u00e9" * 93})

    def test_a_conflict_is_what_the_operator_says_it_is(self):
        for status in 409, 412:
            server = self.server(lambda asked, _, status=status: (status, "older") if b"old" in asked.body else None)
            records = [event(1, {"n": 1}), event(2, {"n": "old"})]
            self.assertIn(f"line 2: status {status}: older", self.rejections(write(server, records)))
            self.silent(write(server, records, "--conflict", "ok"))

    def test_permission_is_the_operators_before_the_first_record_and_waited_for_after_it(self):
        for status in 401, 403:
            server = self.server(lambda asked, _, status=status: (status, "who are you"))
            done = write(server, [event(1, {}), event(2, {})])
            self.assertEqual((done.exit, done.stdout), (2, ""))
            self.assertEqual(done.stderr, f"http-write: status {status}: who are you\n")
            self.assertEqual(len(server.asked), 1)
        late = self.server(lambda asked, server: 401 if 3 <= len(server.asked) < 6 else None)
        done = write(late, [event(n, {}) for n in range(10)], "--max-in-flight", "1")
        self.assertEqual((done.exit, done.stderr), (0, "http-write: waiting: status 401\n"))
        self.assertEqual((len(late.documents), len(late.asked)), (10, 13))

    def test_what_is_not_there_for_any_record_is_the_operators(self):
        server = self.server(lambda asked, _: (404, "no such route"))
        done = write(server, [event(n, {}) for n in range(20)])
        self.assertEqual((done.exit, done.stderr), (2, "http-write: status 404: no such route\n"))

    def test_what_is_not_there_for_one_record_is_its_own_fault(self):
        for missing in 0, 7, 19:
            server = self.server(lambda asked, _, missing=missing: 404 if asked.path.endswith(f"/s{missing}") else None)
            done = write(server, [event(n, {}) for n in range(20)])
            self.assertEqual(self.rejections(done), f"http-write: line {missing + 1}: status 404\n")
            self.assertEqual(len(server.documents), 19)
        alone = self.server(lambda asked, _: 404)
        self.assertEqual(self.rejections(write(alone, [event(1, {})])), "http-write: line 1: status 404\n")

    def test_after_the_first_record_a_404_on_everything_is_waited_for(self):
        server = self.server(lambda asked, server: 404 if 10 <= len(server.asked) < 60 else None)
        self.assertEqual(write(server, [event(n, {}) for n in range(40)]).exit, 0)
        self.assertEqual(len(server.documents), 40)

    def test_a_service_that_asks_to_wait_is_not_asked_before_that(self):
        for status in 429, 503:
            at = []

            def rule(asked, server, status=status, at=at):
                at.append(time.monotonic())
                return (status, "", [("Retry-After", "1")]) if len(at) == 3 else None
            server = self.server(rule)
            done = write(server, [event(n, {}) for n in range(20)], "--max-in-flight", "1")
            self.assertEqual((done.exit, done.stderr), (0, f"http-write: waiting: status {status}\n"))
            self.assertGreaterEqual(at[3] - at[2], 1)
            self.assertEqual((len(server.documents), len(at)), (20, 21))

    def test_it_says_once_why_it_waits_however_often_it_has_to(self):
        server = self.server(lambda asked, server: (503, f"busy {len(server.asked) // 24}") if len(server.asked) % 4 == 0 else None)
        done = write(server, [event(n, {}) for n in range(30)], "--max-in-flight", "1")
        self.assertEqual((done.exit, done.stderr), (0, "http-write: waiting: status 503: busy 0\nhttp-write: waiting: status 503: busy 1\n"))
        self.assertEqual(len(server.documents), 30)

    def test_a_long_outage_after_a_short_one_of_the_same_cause_is_told(self):
        ends = []

        def rule(_, server):
            if len(server.asked) == 4:
                ends.append(time.monotonic() + 3)
            return (503, "busy") if len(server.asked) == 2 or (ends and time.monotonic() < ends[0]) else None
        server = self.server(rule)
        done = run(["faketime", "-f", "+0 x20", tool("http-write"), server.url + "/orders/{subject}", "--max-in-flight", "1"],
                   lines(*(event(n, {}) for n in range(6))))  # a minute of outage
        self.assertEqual((done.exit, done.stderr), (0, 2 * "http-write: waiting: status 503: busy\n"))
        self.assertEqual(len(server.documents), 6)

    def test_a_record_that_breaks_the_service_is_found_out_and_only_it(self):
        server = self.server(lambda asked, _: (500, "oops") if b"bad" in asked.body else None, delay=lambda: 0.003)
        records = [event(n, {"n": "bad" if n == 5 else n}, subject=f"s{n}") for n in range(8000)]
        self.assertIn("http-write: line 6: status 500: oops\n", self.rejections(write(server, records)))
        self.assertEqual(len(server.documents), 7999)
        self.assertEqual(sum(b"bad" in a.body for a in server.asked), 5)

    def test_a_service_that_is_broken_for_all_rejects_nobody(self):
        server = self.server(lambda asked, _: 500)
        done = write(server, [event(n, {}) for n in range(20)], "--give-up", "2s")
        self.assertEqual((done.exit, done.stderr), (75, "http-write: waiting: status 500\nhttp-write: gave up: status 500\n"))

    def test_nobody_there_is_waited_for(self):
        done = run([tool("http-write"), f"http://127.0.0.1:{free_port()}/{{subject}}", "--give-up", "1s"], lines(event(1, {})))
        self.assertEqual(done.exit, 75)
        self.assertRegex(done.stderr, r"^http-write: waiting: http://127.0.0.1:\d+/s1: Connection refused\nhttp-write: gave up: ")

    def test_a_redirection_is_not_followed(self):
        other = self.server()
        for status in 301, 302, 307, 308:
            server = self.server(lambda asked, _, status=status: (status, "", [("Location", f"{other.url}/x?token=abc")]))
            done = write(server, [event(1, {})])
            self.assertEqual((done.exit, other.asked), (2, []))
            self.assertEqual(done.stderr, f"http-write: status {status}: redirected to {other.url}/x?token=*** (name that one, if it is the service)\n")

    def test_html_is_no_answer_of_a_service(self):
        server = self.server(lambda asked, _: (200, "<html>log in</html>", [("Content-Type", "text/html; charset=utf-8")]))
        done = write(server, [event(1, {})])
        self.assertEqual(done.exit, 2)
        self.assertIn("HTML", done.stderr)
        self.silent(write(server, [event(1, {})], "--allow-html"))

    def test_an_answer_that_is_cut_says_nothing_and_the_request_comes_again_with_its_key(self):
        def rule(asked, server):
            if len(server.asked) > 1:
                return None
            server.serve(asked)
            return 200, "half", [("Content-Length", "100"), ("Connection", "close")]
        server = self.server(rule)
        done = write(server, [event(1, {"n": 1})], "--method", "POST")
        self.assertEqual(done.exit, 0, done.stderr)
        self.assertEqual(len({a.headers["Idempotency-Key"] for a in server.asked}), 1)
        self.assertEqual((len(server.asked), server.history["/orders/s1"]), (2, [b'{"n": 1}']))

    def test_a_request_that_takes_too_long_comes_again(self):
        server = self.server(delay=lambda: 0)
        server.delay = lambda: 3 if len(server.asked) == 1 else 0
        done = write(server, [event(1, {}), event(2, {})], "--timeout", "500ms", "--max-in-flight", "1")
        self.assertEqual(done.exit, 0, done.stderr)
        self.assertIn("no answer within 500ms", done.stderr)
        self.assertEqual(set(server.documents), {"/orders/s1", "/orders/s2"})


class Stopped(HttpWrite):
    def test_what_was_asked_to_wait_for_long_does_not_hold_up_the_end_though_others_were_stored_since(self):
        for stop in True, False:
            refused = threading.Event()

            def rule(asked, server, refused=refused):
                if asked.path != "/orders/s20":
                    return None
                stored = len(server.documents)
                wait_for(lambda: len(server.documents) > stored)  # so that it is not the service that fails
                refused.set()
                return 503, "", [("Retry-After", "3600")]
            server = self.server(rule, delay=lambda: 0.01)
            with subprocess.Popen([tool("http-write"), f"{server.url}/orders/{{subject}}", "--give-up", "1h" if stop else "3s"],
                                  stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                try:
                    process.stdin.write(lines(*(event(n, {}) for n in range(60))))
                    process.stdin.flush()
                    wait_for(lambda server=server, refused=refused: refused.is_set() and len(server.documents) == 59)
                    process.stdin.write(lines(event(60, {})))
                    process.stdin.flush()
                    wait_for(lambda server=server: len(server.documents) == 60)
                    if stop:
                        process.terminate()
                    self.assertEqual(process.wait(30), 143 if stop else 75)
                finally:
                    process.kill()


class Told(HttpWrite):
    def test_a_position_is_told_stored_when_all_of_its_records_are_in_whatever_order(self):
        """Records next to each other with one position came of one event, by a foreign filter that splits."""
        def rule(asked, server):
            first = [a.path for a in server.asked].count("/orders/s1") == 1
            return 503 if asked.path == "/orders/s1" and first else None
        server = self.server(rule)
        reader, writer = os.pipe()
        about = os.fstat(writer)
        text = "".join(f'{{"delivery":"k7:{position}",' + lines(event(n, {}))[1:] for n, position in enumerate([1, 2, 2, 3, 4, 4]))
        done = run([tool("http-write"), f"{server.url}/orders/{{subject}}"], text, pass_fds=[writer],
                   env=dict(os.environ, RECEIPTS_FD=f"{writer}:{about.st_dev}:{about.st_ino}:k7", RECEIPTS_SOURCE="test"))
        os.close(writer)
        with open(reader, encoding="utf-8") as channel:
            said = [json.loads(line) for line in channel]
        self.assertEqual(done.exit, 0, done.stderr)
        stored = [line["delivery"] for line in said if line.get("status") == "stored"]
        self.assertEqual(sorted(p for one in stored for p in one.removeprefix("k7:").split(",")), ["1", "2", "3"])
        self.assertEqual([line["delivery"] for line in said if line.get("status") == "last"], ["k7:4"])
        self.assertIn("k7:2", ",".join(line["delivery"] for line in said if line.get("status") == "held"))


class Load(HttpWrite):
    def test_never_a_ninth_request_at_once_and_one_at_a_time_of_a_key_in_order(self):
        chance = random.Random(1)
        failing = lambda asked, _: 503 if chance.random() < 0.01 else None  # noqa: E731
        server = self.server(failing, delay=lambda: chance.random() * 0.01)
        records = [event(n, n, subject=f"s{chance.randrange(40)}") for n in range(2000)]
        done = write(server, records, "--max-in-flight", "8")
        self.assertEqual(done.exit, 0, done.stderr)
        self.assertLessEqual(server.most, 8)
        self.assertGreater(server.most, 1)
        self.assertEqual(server.side_by_side, 0)
        for subject in {r["subject"] for r in records}:
            self.assertEqual([int(body) for body in server.history[f"/orders/{subject}"]], [r["data"] for r in records if r["subject"] == subject])

    def test_a_record_that_waits_does_not_hold_up_others(self):
        done = threading.Event()

        def rule(asked, server):
            if asked.path == "/orders/s0":
                return None if done.is_set() else 503
            if len(server.documents) == 2000:
                done.set()
            return None
        server = self.server(rule)
        self.assertEqual(write(server, [event(n, {}) for n in range(2500)]).exit, 0)
        self.assertEqual(len(server.documents), 2500)

    def test_a_partition_key_keeps_the_order_over_several_places(self):
        server = self.server(delay=lambda: 0.001)
        records = [event(n, n, partitionkey="one" if n % 2 else "two") for n in range(200)]
        self.silent(write(server, records))
        for odd in 0, 1:
            bodies = [int(a.body) for a in server.asked if int(a.body) % 2 == odd]
            self.assertEqual(bodies, sorted(bodies))

    def test_what_has_no_key_keeps_its_order_at_one_place_unless_each_makes_a_new_thing(self):
        chance = random.Random(1)
        for method in "PUT", "PATCH", "POST":
            server = self.server(delay=lambda: chance.random() * 0.004)
            self.silent(write(server, [{"n": n} for n in range(300)], "--method", method, path="/config"))
            self.assertEqual(len(server.history["/config"]), 300)
            if method == "POST":
                self.assertGreater(server.most, 1)
            else:
                self.assertEqual([json.loads(body)["n"] for body in server.history["/config"]], list(range(300)))
                self.assertEqual(server.side_by_side, 0)


if __name__ == "__main__":
    unittest.main()

"""crawl --serve: jobs over HTTP into one pipeline; who may ask, what is answered, what comes first, and what a kill leaves."""
import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, free_port, run, tool, wait_for  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402

ODD = ["a b%+", "\U0001f600", "é" * 384, "%2F", "+"]


class Base(unittest.TestCase):
    options = ("--documents", "300", "--seed", "3")

    def setUp(self):
        self.db = RtdbServer(*self.options)
        self.db.__enter__()
        self.addCleanup(self.db.__exit__)
        folder = tempfile.TemporaryDirectory(prefix="inflight-serve-")
        self.addCleanup(folder.cleanup)
        self.box = pathlib.Path(folder.name)
        self.env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "FIREBASE_DATABASE_EMULATOR_HOST"):
            self.env.pop(name, None)
        self.port, self.process = free_port(), None
        self.addCleanup(self.end)

    def command(self, *words, address=None, pipeline="publish x/"):
        return [tool("crawl"), self.db.url, "--serve", address or f"127.0.0.1:{self.port}", "--state", "s", "--takeover", "2s", *words,
                "--", pipeline]

    def start(self, *words, **options):
        with open(self.box / "err", "ab") as err:
            self.process = subprocess.Popen(self.command(*words, **options), cwd=self.box, env=self.env, stderr=err, stdin=subprocess.DEVNULL)

        def listens():
            self.assertIsNone(self.process.poll(), self.errors())
            with contextlib.suppress(ConnectionError):
                return self.ask("GET", "/status")
            return None
        wait_for(listens, what="the server")

    def end(self, how=signal.SIGTERM):
        if self.process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        self.process.wait(60)
        code, self.process = self.process.returncode, None
        return code

    def errors(self):
        return (self.box / "err").read_text()

    def ask(self, method, target, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, target, headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def post(self, *parts, wanted=202):
        status, body = self.ask("POST", "/crawl/" + "/".join(urllib.parse.quote(part, safe="") for part in parts))
        self.assertEqual(status, wanted, body)
        return body

    def status(self):
        return self.ask("GET", "/status")[1]

    def idle(self):
        def nothing_left():
            status = self.status()
            return status["running"] is None and status["waiting"] == 0
        wait_for(nothing_left, 60, what=f"the jobs: {self.errors()}")

    def events(self):
        return [json.loads(line) for f in sorted(self.box.glob("x/*.ndjson")) for line in f.read_text().splitlines()]

    def keys(self, collection="orders"):
        return [e["subject"] for e in self.events() if e["source"] == f"{self.db.url}/{collection}"]

    def all_keys(self, collection="orders"):
        return list(self.db.get(collection, shallow="true"))


class Jobs(Base):
    def test_a_collection_and_documents_into_one_pipeline(self):
        self.db.put("odd", {key: {"is": key} for key in ODD})
        self.start()
        self.assertEqual(self.post("orders"), {"id": 1, "collection": "orders"})
        for key in [*ODD, "nobody"]:
            self.assertEqual(self.post("odd", key)["key"], key)
        self.idle()
        self.assertEqual(self.keys(), self.all_keys())
        self.assertEqual(sorted(self.keys("odd")), sorted([*ODD, "nobody"]))
        for event in self.events():
            deleted = event["subject"] == "nobody"
            self.assertEqual(event["type"], f"google.firebase.database.ref.v1.{'deleted' if deleted else 'written'}")
            self.assertEqual(self.db.raw("GET", event["dataref"][len(self.db.url):])[0], 200)
        self.assertEqual(self.status(), {"running": None, "waiting": 0, "next": [], "done": 2 + len(ODD)})
        self.post("orders")  # once it is done it may be crawled anew
        self.idle()
        self.assertEqual(self.keys(), 2 * self.all_keys())
        self.assertEqual(self.end(), 143)
        self.assertEqual([f.name for f in self.box.glob("s.*") if f.name != "s.serve.lock"], [])

    def test_a_collection_that_is_under_way_is_not_begun_twice(self):
        self.start("--rate", "100/s")
        first = self.post("orders")
        again = self.post("orders", wanted=409)
        self.assertEqual(again["id"], first["id"])
        self.assertIn("not done yet", again["error"])
        self.idle()
        self.assertEqual(self.keys(), self.all_keys())

    def test_documents_do_not_wait_for_a_long_crawl(self):
        self.db.put("odd", {key: 1 for key in ODD})
        self.start("--rate", "50/s")
        self.post("orders")
        wait_for(lambda: len(self.keys()) > 3, what="events")
        for key in ODD:
            self.post("odd", key)
        self.idle()
        order = [event["source"].rsplit("/", 1)[1] for event in self.events()]
        self.assertLess(max(n for n, name in enumerate(order) if name == "odd"), len(order) - 50)
        self.assertEqual(self.keys(), self.all_keys())  # it went on where it was

    def test_equal_documents_that_wait_are_one_job(self):
        self.start(pipeline="sleep 0.3; publish x/")
        ids = [self.post("orders", "a")["id"] for _ in range(20)]
        self.idle()
        self.assertLess(len(set(ids)), 20)
        self.assertEqual(len(self.keys()), len(set(ids)))

    def test_a_job_that_fails_is_kept_and_told(self):
        self.db.put("scalar", 5)
        self.start()
        self.db.control(fault="error", status=403, kind="shallow")
        self.post("orders")
        self.post("scalar")
        wait_for(lambda: [job for job in self.status()["next"] if job.get("failures")], what="the failure")
        wait_for(lambda: "status 403" in json.dumps(self.status()), what="its reason")
        self.db.control(fault="none")
        wait_for(lambda: self.status()["done"] == 1, 60, what="the crawl")
        self.assertEqual(self.keys(), self.all_keys())
        wait_for(lambda: "is a scalar, not a collection" in json.dumps(self.status()), 90, what="the scalar's reason")

    def test_a_job_that_can_never_succeed_is_taken_back(self):
        self.db.put("scalar", 5)
        self.start("--rate", "20/s")
        self.post("scalar")
        wait_for(lambda: "is a scalar" in json.dumps(self.status()), what="the scalar's reason")
        wait_for(lambda: self.ask("DELETE", "/crawl/scalar") == (200, {"id": 1, "collection": "scalar"}), what="a pause between two tries")
        self.assertEqual(self.ask("DELETE", "/crawl/scalar")[0], 404)
        self.post("orders")
        wait_for(lambda: len(self.keys()) > 3, what="events")
        self.assertEqual(self.ask("DELETE", "/crawl/orders"), (409, {"error": "this job is under way"}))
        self.post("other")
        self.assertEqual(self.ask("DELETE", "/crawl/orders/a")[0], 404)
        self.end()
        self.start("--rate", "20/s")
        self.assertEqual(self.ask("DELETE", "/crawl/other"), (200, {"id": 3, "collection": "other"}))
        self.end()
        self.start()
        self.idle()
        self.assertEqual(self.keys(), self.all_keys())
        self.end()
        self.assertEqual([f.name for f in self.box.glob("s.*") if f.name != "s.serve.lock"], [])

    def test_a_pipeline_that_is_wrong_ends_it_and_keeps_the_job(self):
        self.start(pipeline="no-such-program-here")
        self.post("orders")
        self.assertEqual(self.process.wait(60), 2 if self.process.returncode == 2 else 127)
        self.process = None
        self.start()
        self.idle()
        self.assertEqual(self.keys(), self.all_keys())


class Asking(Base):
    def test_what_is_no_job_is_told(self):
        self.start()
        for method, target, status, what in (
                ("GET", "/crawl/orders", 405, "POST"), ("POST", "/status", 405, "GET"), ("POST", "/", 404, "/crawl/COLLECTION"),
                ("POST", "/crawl/", 400, "is empty"), ("POST", "/crawl/orders/", 400, "is empty"), ("POST", "/crawl/a/b/c", 400, "has a / in it"),
                ("POST", "/crawl/a%2Fb", 400, "has a / in it"), ("POST", "/crawl/a%", 400, "percent"), ("POST", "/crawl/a%zz", 400, "percent"),
                ("POST", "/crawl/a%ff", 400, "UTF-8"), ("POST", "/crawl/a$", 400, "has a $ in it"), ("POST", "/crawl/a%00", 400, "control"),
                ("POST", "/crawl/o/" + "x" * 769, 400, "768 bytes"), ("PUT", "/crawl/orders", 405, "POST"),
                ("DELETE", "/crawl/orders", 404, "no such job"), ("GET", "/status/x", 404, "")):
            with self.subTest(target=target, method=method):
                got, body = self.ask(method, target)
                self.assertEqual(got, status, body)
                self.assertIn(what, body["error"])
        self.assertEqual(self.status(), {"running": None, "waiting": 0, "next": [], "done": 0})

    def test_a_bearer_token(self):
        (self.box / "t").write_text("hunter2\n")
        with self.assertRaises(AssertionError):  # without one it says no more than that
            self.start("--serve-token-file", "t", pipeline="publish x/")
            self.post("orders")
        for given in (None, "hunter2", "Bearer hunter", "Bearer hunter22", "Bearer ", "Basic hunter2"):
            status, body = self.ask("POST", "/crawl/orders", **({"Authorization": given} if given else {}))
            self.assertEqual((status, body), (401, {"error": "a bearer token is needed"}))
        self.assertEqual(self.ask("POST", "/crawl/orders/a", Authorization="Bearer hunter2")[0], 202)
        (self.box / "t").write_text("hunter3\n")  # it may be exchanged
        self.assertEqual(self.ask("GET", "/status", Authorization="Bearer hunter2")[0], 401)
        self.assertEqual(self.ask("GET", "/status", Authorization="Bearer hunter3")[0], 200)
        (self.box / "t").unlink()
        self.assertEqual(self.ask("GET", "/status", Authorization="Bearer hunter3")[0], 503)
        self.assertNotIn("hunter", self.errors())

    def refused(self, command, what, exit=2):
        done = run(command, cwd=self.box, env=self.env)
        self.assertEqual((done.exit, done.stdout), (exit, ""), done)
        self.assertRegex(done.stderr, rf"\Acrawl: [^\n]*{what}[^\n]*\n\Z")

    def test_options_that_are_wrong(self):
        for address in "0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "127.example.org:80":
            self.refused(self.command(address=address), "others than this machine need a --serve-token-file")
        for address in "8080", ":8080", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000":
            self.refused(self.command(address=address), "HOST:PORT")
        for words in (["--doc", "a"], ["--start-after", "a"], ["--limit", "3"], ["--after", "x"], ["--dead-letters", "x"]):
            self.refused(self.command(*words), "a job is a whole collection or a document")
        self.refused(self.command("--with-data"), "--with-data and --state")
        self.refused([tool("crawl"), self.db.url, "--serve", "127.0.0.1:1"], "needs --state and -- PIPELINE")
        self.refused([tool("crawl"), self.db.url, "--serve-token-file", "t"], "goes with --serve")
        self.refused(self.command("--serve-token-file", "none"), "none: No such file")
        (self.box / "t").write_text("two words")
        self.refused(self.command("--serve-token-file", "t"), "is no token")

    def test_an_address_that_is_in_use_and_jobs_that_another_has(self):
        self.start()
        self.refused(self.command(address="127.0.0.1:0"), "another server of these jobs", exit=75)
        with tempfile.TemporaryDirectory() as other:
            command = [word if word != "s" else f"{other}/s" for word in self.command()]
            self.refused(command, "cannot be listened to", exit=75)
        self.end()
        command = self.command()
        command[1] = self.db.url + "/below"
        self.refused(command, "has jobs of")


class Killed(Base):
    def test_what_was_accepted_is_done_by_the_next_one(self):
        self.start("--rate", "200/s")
        self.post("orders")
        self.post("orders", "a b")
        wait_for(lambda: len(self.keys()) > 30, what="events")
        self.end(signal.SIGKILL)
        self.start()
        self.idle()
        keys = self.keys()
        self.assertEqual([key for key in keys if key != "a b"], self.all_keys())
        self.assertEqual(keys.count("a b"), 1)


if __name__ == "__main__":
    unittest.main()

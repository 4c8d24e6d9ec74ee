"""listen against the emulator: each changed or deleted id at least once, whatever happens to the stream, the token, the state;
and none that has not changed."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, run, tool, wait_for  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402

WRITTEN, DELETED = "google.firebase.database.ref.v1.written", "google.firebase.database.ref.v1.deleted"


class Base(unittest.TestCase):
    options = ("--documents", "300", "--seed", "3", "--keep-alive", "100ms")

    def setUp(self):
        self.db = RtdbServer(*self.options)
        self.db.__enter__()
        self.addCleanup(self.db.__exit__)
        folder = tempfile.TemporaryDirectory(prefix="inflight-listen-")
        self.addCleanup(folder.cleanup)
        self.box = pathlib.Path(folder.name)
        self.env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "FIREBASE_DATABASE_EMULATOR_HOST"):
            self.env.pop(name, None)
        self.process = None
        self.addCleanup(self.end)

    def command(self, *words, pipeline="publish x/"):
        return [tool("listen"), self.db.url + "/orders", "--state", "s", "--silence", "2s", *words, "--", pipeline]

    def start(self, *words, ready=True, **options):
        begun = self.db.stats()["streams"]["begun"]
        with open(self.box / "err", "ab") as err:
            self.process = subprocess.Popen(self.command(*words, **options), cwd=self.box, env=self.env, stderr=err, stdin=subprocess.DEVNULL)
        if ready:
            wait_for(lambda: self.db.stats()["streams"]["begun"] > begun and self.has_baseline(), what="the baseline")

    def has_baseline(self):
        return run([tool("crawl"), self.db.url + "/orders", "--after", "s", "--doc", "x"], cwd=self.box, env=self.env).exit == 0

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

    def events(self):
        return [json.loads(line) for f in sorted(self.box.glob("x/*.ndjson")) for line in f.read_text().splitlines()]

    def told(self):
        return [(e.get("subject"), e["type"]) for e in self.events()]

    def wait_told(self, *wanted):
        wait_for(lambda: set(wanted) <= set(self.told()), what=f"{wanted}, of {self.told()}, {self.errors()}")

    def marker(self, name="zz-marker"):
        """A change behind all others: once it is told, so are they."""
        self.db.put(["orders", name], {"marker": True})
        self.wait_told((name, WRITTEN))

    def keys(self):
        return list(self.db.get("orders", shallow="true"))


class Changes(Base):
    def test_each_kind_of_change_is_an_event_of_its_document(self):
        keys = self.keys()
        self.start()
        self.db.put(["orders", keys[0]], {"new": 1})
        self.db.put(["orders", keys[1], "customer", "name"], "Bob")
        self.db.patch(["orders", keys[2]], {"status": "gone"})
        self.db.patch("orders", {keys[3] + "/status": "x", keys[4]: None, keys[5]: {"whole": 1}})
        self.db.delete(["orders", keys[6]])
        self.db.put(["orders", "a b%+😀"], 5)
        posted = self.db.json("POST", "orders", {"posted": 1})["name"]
        self.marker()
        self.assertEqual(self.told(), [(keys[0], WRITTEN), (keys[1], WRITTEN), (keys[2], WRITTEN), (keys[3], WRITTEN), (keys[4], DELETED),
                                       (keys[5], WRITTEN), (keys[6], DELETED), ("a b%+😀", WRITTEN), (posted, WRITTEN),
                                       ("zz-marker", WRITTEN)])
        for event in self.events():
            self.assertNotIn("data", event)
            self.assertEqual((event["specversion"], event["source"]), ("1.0", self.db.url + "/orders"))
            self.assertEqual(self.db.raw("GET", event["dataref"][len(self.db.url):])[0], 200)
        self.assertEqual(len({e["id"] for e in self.events()}), 10)
        self.assertEqual(self.end(), 143)
        self.assertRegex(self.errors(), r"\Alisten: orders: the baseline is durable, of 300 documents: [^\n]*\n\Z")

    def test_what_is_there_at_first_is_no_change(self):
        self.start()
        self.marker()
        self.assertEqual(self.told(), [("zz-marker", WRITTEN)])

    def test_the_whole_collection_replaced_or_deleted(self):
        keys = self.keys()
        before = self.db.get("orders")
        self.start()
        self.db.put("orders", {keys[0]: before[keys[0]], keys[1]: 7, "n": 1})
        self.marker()
        self.assertEqual(set(self.told()), {(keys[1], WRITTEN), ("n", WRITTEN), ("zz-marker", WRITTEN), *((k, DELETED) for k in keys[2:])})
        self.db.delete("orders")
        self.wait_told((keys[0], DELETED), (keys[1], DELETED), ("n", DELETED), ("zz-marker", DELETED))

    def test_an_array_is_a_collection_too(self):
        self.db.put("orders", ["a", "b"])
        self.start()
        self.db.put("orders", ["a", "c", "d"])
        self.wait_told(("1", WRITTEN), ("2", WRITTEN))
        self.assertNotIn("0", {key for key, _ in self.told()})

    def test_a_pipeline_without_a_state_tells_what_changes_from_now_on(self):
        self.process = subprocess.Popen([tool("listen"), self.db.url + "/orders", "--limit", "3", "--", "publish x/"], cwd=self.box,
                                        env=self.env, stderr=subprocess.PIPE, text=True)
        self.assertIn("baseline", self.process.stderr.readline())
        for n in range(3):
            self.db.put(f"orders/n{n}", n)
        self.assertEqual(self.process.wait(60), 0)
        self.process.stderr.close()
        self.assertEqual(self.told(), [(f"n{n}", WRITTEN) for n in range(3)])

    def test_a_plain_pipe_tells_what_changes_from_now_on(self):
        process = subprocess.Popen([tool("listen"), self.db.url + "/orders", "--limit", "2"], env=self.env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.assertIn("baseline", process.stderr.readline())
        self.db.put("orders/a", 1)
        self.assertEqual(json.loads(process.stdout.readline())["subject"], "a")
        self.db.delete("orders/a")
        self.assertEqual(json.loads(process.stdout.readline())["type"], DELETED)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0)


class Lost(Base):
    """The stream ends in every way there is, while documents change; each time the unchanged ones stay untold."""

    def lose(self, how, *, restart=False):
        keys = self.keys()
        self.start()
        self.marker("first")
        how()
        self.db.put(["orders", keys[0]], {"changed": 1})
        self.db.delete(["orders", keys[1]])
        if restart:
            self.start()
        self.marker("second")
        self.wait_told((keys[0], WRITTEN), (keys[1], DELETED))
        self.assertEqual(len(self.told()), 4, self.told())
        return self.errors()

    def test_a_cut_connection(self):
        self.assertIn("connecting again", self.lose(lambda: self.db.control(streams="cut")))

    def test_silence(self):
        self.assertIn("nothing came for 2s; connecting again", self.lose(lambda: self.db.control(streams="silence")))

    def test_auth_revoked_is_nothing_to_tell(self):
        self.assertNotIn("again", self.lose(lambda: self.db.control(streams="auth_revoked")))

    def test_cancel(self):
        self.assertIn("cancel", self.lose(lambda: self.db.control(streams="cancel")))

    def test_a_redirect_at_the_next_connection(self):
        def redirected():
            self.db.control(fault="redirect", kind="stream", count=1)
            self.db.control(streams="cut")
        self.lose(redirected)

    def test_failures_at_the_next_connections(self):
        def failing():
            for fault in ({"fault": "error", "status": 503}, {"fault": "html"}, {"fault": "cut"}):
                self.db.control(kind="stream", count=1, **fault)
            self.db.control(streams="cut")
        self.lose(failing)

    def test_a_restart(self):
        self.lose(lambda: self.assertEqual(self.end(), 143), restart=True)

    def test_a_kill(self):
        self.lose(lambda: self.end(signal.SIGKILL), restart=True)

    def test_a_database_that_is_down_for_a_while(self):
        self.db.__exit__()
        self.db = self.enterContext(RtdbServer(*self.options, "--data", "{dir}/log"))
        self.start()
        self.db.kill()
        wait_for(lambda: "connecting again" in self.errors(), what="the loss")
        self.db.start()
        self.db.put("orders/a", 1)
        self.wait_told(("a", WRITTEN))
        self.assertEqual(len(self.told()), 1)


class Tokens(Base):
    def test_a_token_that_expires_is_read_anew(self):
        self.db.control(accept="one")
        (self.box / "token").write_text("one")
        with open(self.box / "err", "ab") as err:
            self.process = subprocess.Popen(self.command("--token-file", "token"), cwd=self.box, env=self.env, stderr=err)
        wait_for(lambda: "baseline" in self.errors(), what="the baseline")
        self.db.control(accept="two")
        (self.box / "token").write_text("two")
        self.db.control(expire="one")
        self.db.put("orders/a", 1, auth="two")
        self.wait_told(("a", WRITTEN))
        self.assertEqual(len(self.told()), 1)

    def test_one_that_is_refused_from_the_start_is_the_operators(self):
        self.db.control(accept="one")
        done = run(self.command(), cwd=self.box, env=self.env)
        self.assertEqual(done.exit, 2, done)
        self.assertRegex(done.stderr, r"\Alisten: [^\n]*status 401: Permission denied\n\Z")


class Bad(Base):
    """What an operator or a collection may have wrong."""
    options = ("--keep-alive", "100ms")

    def test_an_exchange_and_a_subscriber_belong_together(self):
        self.refused("--exchange and --as belong together", "--exchange", "x/")
        self.refused("--exchange and --as belong together", "--as", "etl")
        self.refused("--exchange: .*this build serves journals only", "--exchange", "amqp://broker/x", "--as", "etl")
        self.refused("--as: .*is no subscriber's name", "--exchange", "x/", "--as", "../etl")

    def refused(self, what, *words, url=None):
        command = [tool("listen"), url or self.db.url + "/orders", "--state", "s", *words, "--", "publish x/"]
        done = run(command, cwd=self.box, env=self.env)
        self.assertEqual((done.exit, done.stdout), (2, ""), done)
        self.assertRegex(done.stderr, rf"\Alisten: [^\n]*{what}[^\n]*\n\Z")

    def test_a_wrong_url(self):
        for url, what in (("orders", "is no URL of a database"), (self.db.url + "/a$b", "has a \\$ in it"),
                          (self.db.url + "/orders?auth=hunter2", "no arguments but ns"), ("http://x.firebaseio.com/o", "only https")):
            self.refused(what, url=url)

    def test_what_is_no_database(self):
        self.db.control(fault="error", status=404)
        self.refused("status 404")

    def test_a_token_file_that_is_missing_or_whose_token_is_expired_or_of_another_project(self):
        self.db.control(accept="good")
        self.refused("none: No such file", "--token-file", "none")
        for text, what in (("", "is no token"), ("other", "status 401: Unauthorized"), ("good", "status 401: Auth token is expired")):
            (self.box / "token").write_text(text)
            if text == "good":
                self.db.control(expire="good")
            self.refused(what, "--token-file", "token")

    def test_an_empty_collection_that_gets_documents(self):
        self.start()
        self.assertIn("of 0 documents", self.errors())
        self.marker()
        self.assertEqual(self.told(), [("zz-marker", WRITTEN)])

    def test_a_scalar_is_told_and_waited_for(self):
        self.db.put("orders", "open")
        self.start()
        wait_for(lambda: "is a scalar, not a collection" in self.errors(), what="the message")
        self.marker()
        self.assertEqual(self.told(), [("zz-marker", WRITTEN)])

    def test_odd_keys_also_after_a_restart(self):
        keys = ["a b%+", "%2F", "+", "é" * 384, "x" * 768, "\U0001f600", "7", "07"]
        self.start()
        for key in keys:
            self.db.put(["orders", key], {"is": key})
        self.marker()
        self.end(signal.SIGKILL)
        for key in keys:
            self.db.delete(["orders", key])
        self.start("--takeover", "1s")
        self.marker("second")
        self.wait_told(*((key, DELETED) for key in keys))
        self.assertEqual(self.told()[:8], [(key, WRITTEN) for key in keys])

    def test_a_document_of_20_mb(self):
        self.db.put("orders/big", {"text": "x" * 20_000_000})
        self.start()
        self.db.put("orders/big", {"text": "x" * 19_999_999 + "y"})
        self.marker()
        self.assertEqual(self.told(), [("big", WRITTEN), ("zz-marker", WRITTEN)])
        self.db.control(streams="cut")
        self.marker("second")
        self.assertEqual(len(self.told()), 3)


class State(Base):
    def test_there_and_back_again_is_told_though_it_was_not_seen(self):
        """A document that went A, B, A: B was pending when all was killed."""
        key = self.keys()[0]
        a = self.db.get(["orders", key])
        self.start(pipeline="touch there; sleep 1000")
        self.db.put(["orders", key], {"b": 1})
        wait_for(lambda: self.pending() == 1, what="the pending change")
        self.end(signal.SIGKILL)
        self.db.put(["orders", key], a)
        self.start("--takeover", "1s")
        self.marker()
        self.assertGreaterEqual(self.told().count((key, WRITTEN)), 1)

    def pending(self):
        done = run(["sqlite3", str(self.box / "s.docs"), "select count(*) from pending"])
        return int(done.stdout or 0)

    def test_a_change_of_what_is_pending_is_told_after_it(self):
        """The event of a killed run may be taken for a double: the change behind it has one of its own."""
        key = self.keys()[0]
        self.start(pipeline="sleep 1000")
        self.db.put(["orders", key], {"b": 1})
        wait_for(lambda: self.pending() == 1, what="the pending change")
        self.end(signal.SIGKILL)
        self.db.put(["orders", key], {"b": 2})
        self.start("--takeover", "1s")
        self.marker()
        self.assertEqual(self.told().count((key, WRITTEN)), 2)

    def test_what_is_settled_is_forgotten(self):
        self.start()
        for n in range(20):
            self.db.put(f"orders/n{n}", n)
        self.marker()
        wait_for(lambda: self.pending() <= 1, what="the receipts")  # the newest one's comes with the next event

    def test_a_state_that_is_lost_asks_for_a_new_crawl(self):
        self.start()
        self.end()
        for file in self.box.glob("s.docs*"):
            file.unlink()
        done = run(self.command(), cwd=self.box, env=self.env)
        self.assertEqual(done.exit, 2, done)
        self.assertRegex(done.stderr, r"\Alisten: s.docs: is gone; what has changed meanwhile is not known: [^\n]*crawl anew\n\Z")

    def test_a_state_that_is_damaged_asks_for_a_new_crawl(self):
        self.start()
        self.end()
        (self.box / "s.docs").write_bytes(b"nonsense" * 1000)
        done = run(self.command(), cwd=self.box, env=self.env)
        self.assertEqual(done.exit, 70, done)
        self.assertRegex(done.stderr, r"\Alisten: s.docs: [^\n]*crawl anew\n\Z")

    def test_another_collection_has_another_state(self):
        self.start()
        self.end()
        done = run([*self.command()[:1], self.db.url + "/users", *self.command()[2:]], cwd=self.box, env=self.env)
        self.assertEqual(done.exit, 2, done)

    def test_crawl_waits_for_the_baseline(self):
        crawl = [tool("crawl"), self.db.url + "/orders", "--after", "s", "--limit", "1"]
        done = run(crawl, cwd=self.box, env=self.env)
        self.assertEqual((done.exit, done.stdout), (75, ""))
        self.assertIn("has no baseline yet", done.stderr)
        self.start()
        self.assertEqual(run(crawl, cwd=self.box, env=self.env).exit, 0)
        self.assertEqual(run([*crawl[:1], self.db.url + "/users", *crawl[2:]], cwd=self.box, env=self.env).exit, 2)


class Unseen(Base):
    """A document goes there and back again while nobody listens, and is fetched in between."""
    exchange = ("--exchange", "x/", "--as", "etl")

    def consume(self):
        pipeline = f"hydrate --under {self.db.url}/orders | reshape 'if .bad then error(\"bad\") else . end' | publish y/"
        done = run([tool("consume"), "x/", "--as", "etl", "--until-empty", "--settle", "1s", "--", pipeline], cwd=self.box, env=self.env)
        self.assertEqual(done.exit, 0, done)

    def publish(self, events):
        self.assertEqual(run([tool("publish"), "x/"], events, cwd=self.box, env=self.env).exit, 0)

    def queue(self, key):
        """An event of the document, as a crawl makes one."""
        self.publish(run([tool("crawl"), self.db.url + "/orders", "--doc", key], cwd=self.box, env=self.env).stdout)

    def fetched(self, key):
        """What it was each time."""
        events = [json.loads(line) for f in sorted(self.box.glob("y/*.ndjson")) for line in f.read_text().splitlines()]
        return [event.get("data") for event in events if event["subject"] == key]

    def seen_until(self):
        return run(["sqlite3", str(self.box / "s.docs"), "select value from about where name = cast('seen until etl' as blob)"]).stdout.strip()

    def listen(self, *words):
        self.start("--takeover", "1s", "--silence", "500ms", *words)

    def seen(self, settled):
        """The stream was whole when these positions were settled already."""
        wait_for(lambda: self.seen_until().split()[2:] == [settled], what=f"the mark, of {self.seen_until()}, {self.errors()}")

    def begin(self, *words):
        self.listen(*words)
        self.marker("first")
        self.consume()
        if words:
            self.seen("0")
        self.told_before = len(self.told())

    def there_and_back(self, key, fetch=None):
        before = self.db.get(["orders", key])
        self.db.put(["orders", key], {"between": True})
        if fetch is None:
            self.queue(key)
        else:
            fetch()
        self.consume()
        self.assertEqual(self.fetched(key)[-1], {"between": True})
        self.db.put(["orders", key], before)
        return before

    def told_again(self, *wanted):
        """Besides what there_and_back() has put there."""
        self.marker("second")
        self.assertEqual([key for key, _ in self.told()[self.told_before:]], [*wanted, "second"], self.errors())

    def test_without_the_option_it_stays(self):
        key = self.keys()[0]
        self.begin()
        self.end(signal.SIGKILL)
        self.there_and_back(key)
        self.listen()
        self.told_again(key)
        self.consume()
        self.assertEqual(self.fetched(key)[-1], {"between": True})

    def test_it_is_told_again_after_a_kill_and_nothing_else_is(self):
        key = self.keys()[0]
        self.begin(*self.exchange)
        self.end(signal.SIGKILL)
        a = self.there_and_back(key)
        self.listen(*self.exchange)
        self.told_again(key, key)
        self.assertIn("1 event may have been fetched while nobody listened", self.errors())
        self.consume()
        self.assertEqual(self.fetched(key)[-1], a)
        self.seen("0-3")
        self.end(signal.SIGKILL)
        self.listen(*self.exchange)
        self.marker("third")
        self.assertEqual(len(self.told()), self.told_before + 4, "told a third time")

    def test_after_a_stream_that_was_silent(self):
        key = self.keys()[0]
        self.begin(*self.exchange)
        self.end()
        self.listen(*self.exchange, "--silence", "4s")
        begun = self.db.stats()["streams"]["begun"]
        self.db.control(streams="silence")
        a = self.there_and_back(key)
        wait_for(lambda: self.db.stats()["streams"]["begun"] > begun, what="the next stream")
        self.told_again(key, key)
        self.consume()
        self.assertEqual(self.fetched(key)[-1], a)

    def test_a_deletion_that_was_made_again(self):
        key = self.keys()[0]
        a = self.db.get(["orders", key])
        self.begin(*self.exchange)
        self.end(signal.SIGKILL)
        self.queue(key)
        self.db.delete(["orders", key])
        self.consume()
        self.assertEqual(self.fetched(key)[-1], None)
        self.db.put(["orders", key], a)
        self.listen(*self.exchange)
        self.told_again(key, key)
        self.consume()
        self.assertEqual(self.fetched(key)[-1], a)

    def test_a_letter_that_is_replayed_meanwhile(self):
        key = self.keys()[0]
        self.begin(*self.exchange)
        self.db.put(["orders", key], {"bad": True})
        self.wait_told((key, WRITTEN))
        self.consume()
        self.assertEqual(self.fetched(key), [])
        a = {"good": True}
        self.db.put(["orders", key], a)
        wait_for(lambda: self.told().count((key, WRITTEN)) == 2, what="the change")
        self.consume()
        self.seen("0-2")
        self.end(signal.SIGKILL)
        self.told_before = len(self.told())

        def replay():
            self.assertEqual(run([tool("dlq-replay"), "x/", "--as", "etl"], cwd=self.box, env=self.env).exit, 0)
        self.there_and_back(key, replay)
        self.listen(*self.exchange)
        self.told_again(key)
        self.consume()
        self.assertEqual(self.fetched(key)[-1], a)

    def test_what_nobody_can_have_fetched_is_not_told(self):
        self.begin(*self.exchange)
        self.end(signal.SIGKILL)
        source = self.db.url + "/orders"
        self.publish("".join(json.dumps({"specversion": "1.0", "id": f"{n}", "source": source, "type": WRITTEN, "subject": f"n{n}",
                                         "dataref": f"{source}/n{n}.json"}) + "\n" for n in range(3000)))
        self.told_before = len(self.told())
        self.listen(*self.exchange)
        self.marker("second")
        again = [key for key, _ in self.told()[self.told_before:]]
        self.assertEqual(again[:3], ["n0", "n1", "n2"])
        self.assertLess(len(again), 1100)

    def test_events_of_something_else_are_not_told(self):
        self.begin(*self.exchange)
        self.end(signal.SIGKILL)
        self.publish("".join(json.dumps(event) + "\n" for event in (
            {"specversion": "1.0", "id": "1", "source": "other", "type": "t", "subject": "a", "dataref": self.db.url + "/users/a.json"},
            {"specversion": "1.0", "id": "2", "source": "other", "type": "t", "subject": "b", "dataref": self.db.url + "/orders/b.json"},
            {"specversion": "1.0", "id": "3", "source": "other", "type": "t", "data": 1})))
        self.consume()
        self.told_before = len(self.told())
        self.listen(*self.exchange)
        self.told_again("b")

    def test_a_subscriber_that_comes_later(self):
        """At the first mark there was neither it nor the exchange."""
        key = self.keys()[0]
        self.listen(*self.exchange)
        self.end(signal.SIGKILL)
        self.told_before = 1  # what there_and_back() has put there
        a = self.there_and_back(key)
        self.listen(*self.exchange)
        self.told_again(key)
        self.consume()
        self.assertEqual(self.fetched(key)[-1], a)


class Many(Base):
    options = ("--documents", "20000", "--keep-alive", "1s")

    def test_a_reconnect_to_20000_unchanged_documents_tells_none(self):
        self.start()
        for streams in range(2, 4):
            self.db.control(streams="cut")
            wait_for(lambda: self.db.stats()["streams"]["begun"] >= streams, what="the next stream")
            self.db.put(f"orders/marker{streams}", 1)
            self.wait_told((f"marker{streams}", WRITTEN))
        self.assertEqual(len(self.told()), 2)

    def test_nor_do_one_after_silence_auth_revoked_a_restart_and_a_kill(self):
        self.start()
        begun = 1
        for how in ("silence", "auth_revoked", signal.SIGTERM, signal.SIGKILL):
            if isinstance(how, str):
                self.db.control(streams=how)
            else:
                self.end(how)
                self.start("--takeover", "1s")
            begun += 1
            wait_for(lambda: self.db.stats()["streams"]["begun"] >= begun, what="the next stream")  # noqa: B023
            self.marker(f"after {how}")
        self.assertEqual(len(self.told()), 4, self.told())

    def test_a_collection_that_is_too_large_for_one_stream_is_told(self):
        self.db.control(max_response=100_000)
        done = run(self.command(), cwd=self.box, env=self.env)
        self.assertEqual(done.exit, 2, done)
        self.assertRegex(done.stderr, r"\Alisten: [^\n]*exceeds the maximum size[^\n]*\n\Z")


if __name__ == "__main__":
    unittest.main()

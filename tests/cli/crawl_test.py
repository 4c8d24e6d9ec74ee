"""crawl against the emulator: every key once and in order, whatever the answers' size, keys and faults; credentials; state."""
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from google_tokens import Tokens  # noqa: E402
from harness import BIN, run, tool, wait_for  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402

# In order: integers by number, shorter ones first; all others by their UTF-16 code units.
ODD = ["-2147483648", "-1", "-01", "0", "7", "07", "007", "10", "2147483647", " ", "%", "%20", "+", "-2147483649", "2147483648", "A",
       "a b", "a+b", "a%2Fb", "é", "漢" * 256, "\U0001f600", "\ue000", "\uff5e"]
ODD = sorted(ODD[:9], key=ODD.index) + sorted(ODD[9:], key=lambda k: k.encode("utf-16-be"))


class Base(unittest.TestCase):
    options = ("--documents", "300", "--seed", "3")

    def setUp(self):
        self.db = RtdbServer(*self.options)
        self.db.__enter__()
        self.addCleanup(self.db.__exit__)
        folder = tempfile.TemporaryDirectory(prefix="inflight-crawl-")
        self.addCleanup(folder.cleanup)
        self.box = pathlib.Path(folder.name)
        self.env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "FIREBASE_DATABASE_EMULATOR_HOST"):
            self.env.pop(name, None)

    def crawl(self, *words, path="/orders", exit=0, **options):
        done = run([tool("crawl"), self.db.url + path, *words], cwd=self.box, env=self.env, **options)
        self.assertEqual(done.exit, exit, done)
        return done

    def keys(self, done):
        return [json.loads(line)["subject"] for line in done.stdout.splitlines()]

    def all_keys(self):
        return list(self.db.get("orders", shallow="true"))

    def refused(self, exit, what, *words, path="/orders", url=None, **options):
        done = run([tool("crawl"), url or self.db.url + path, *words], cwd=self.box, env=self.env, **options)
        self.assertEqual((done.exit, done.stdout), (exit, ""), done)
        self.assertRegex(done.stderr, rf"\Acrawl: [^\n]*{what}[^\n]*\n\Z")


class Keys(Base):
    def test_every_key_once_in_order_with_where_its_document_is(self):
        done = self.crawl()
        keys = self.all_keys()
        self.assertEqual(self.keys(done), keys)
        self.assertEqual(done.stderr, f"crawl: orders: 300 keys, first {json.dumps(keys[0], ensure_ascii=False)}, "
                                      f"last {json.dumps(keys[-1], ensure_ascii=False)}\n")
        for line in done.stdout.splitlines():
            event = json.loads(line)
            self.assertEqual((event["specversion"], event["type"]), ("1.0", "google.firebase.database.ref.v1.written"))
            self.assertEqual(event["source"], self.db.url + "/orders")
            self.assertNotIn("data", event)
            self.assertEqual(event["dataref"], f"{self.db.url}/orders/{urllib.parse.quote(event['subject'], safe='~')}.json")
            self.assertEqual(self.db.raw("GET", event["dataref"][len(self.db.url):])[0], 200)
        self.assertEqual(self.db.stats()["by_kind"]["shallow"], 2)

    def test_odd_keys_in_the_order_of_the_database_either_way(self):
        self.db.put("odd", {key: {"is": key} for key in random.Random(1).sample(ODD, len(ODD))})
        self.assertEqual(self.keys(self.crawl(path="/odd")), ODD)
        self.db.control(fault="too-big", kind="shallow")
        for more in ((), ("--rate", "1000/s"), ("--with-data",)):
            self.assertEqual(self.keys(self.crawl(*more, path="/odd")), ODD)
        for line in self.crawl("--with-data", path="/odd").stdout.splitlines():
            event = json.loads(line)
            self.assertEqual(event["data"], {"is": event["subject"]})

    def test_a_range_of_keys(self):
        keys = self.all_keys()
        for more in ((), ("--with-data",)):
            self.assertEqual(self.keys(self.crawl("--start-after", keys[10], *more)), keys[11:])
            self.assertEqual(self.keys(self.crawl("--end-at", keys[10], *more)), keys[:11])
            self.assertEqual(self.keys(self.crawl("--start-after", keys[99], "--end-at", keys[120], *more)), keys[100:121])
            self.assertEqual(self.keys(self.crawl("--start-after", keys[-1], *more)), [])

    def test_limit_reads_no_more_than_it_needs(self):
        self.assertEqual(self.keys(self.crawl("--limit", "7")), self.all_keys()[:7])
        self.assertLessEqual(self.db.stats()["documents"], 8)

    def test_documents_by_name_and_deletions(self):
        key = self.all_keys()[49]
        self.assertIn("%", key)
        done = self.crawl("--doc", key, "--doc", "no body")
        here, gone = map(json.loads, done.stdout.splitlines())
        self.assertEqual((here["subject"], here["type"]), (key, "google.firebase.database.ref.v1.written"))
        self.assertEqual((gone["subject"], gone["type"]), ("no body", "google.firebase.database.ref.v1.deleted"))
        self.assertEqual(json.loads(self.crawl("--doc", key, "--with-data").stdout)["data"], self.db.get(["orders", key]))

    def test_with_data_gives_each_document(self):
        events = [json.loads(line) for line in self.crawl("--with-data").stdout.splitlines()]
        self.assertEqual({e["subject"]: e["data"] for e in events}, self.db.get("orders"))

    def test_keys_0_1_2_come_as_an_array_and_are_keys(self):
        self.db.put("list", [{"n": 0}, {"n": 1}, None, {"n": 3}])
        for more in ((), ("--with-data",)):
            self.assertEqual(self.keys(self.crawl(*more, path="/list")), ["0", "1", "3"])

    def test_a_collection_whose_answers_are_too_big_is_read_in_pages(self):
        self.db.control(max_response=4000)
        keys = sorted(set(self.all_keys_paged()))
        done = run([tool("crawl"), self.db.url + "/orders"], env=self.env)
        self.assertEqual(done.exit, 0, done)
        self.assertEqual(self.keys(done), keys)
        self.assertEqual(len(keys), 300)
        self.assertIn("reading pages instead", done.stderr)

    def all_keys_paged(self):
        self.db.control(max_response=100_000_000)
        keys = self.all_keys()
        self.db.control(max_response=4000)
        return keys

    def test_a_document_beyond_max_record_stays_behind_its_dataref(self):
        self.db.put("big", {"a": {"n": 1}, "b": "x" * 5_000_000, "c": {"n": 3}})
        done = self.crawl("--with-data", "--max-record", "1MiB", path="/big")
        self.assertEqual(["data" in json.loads(line) for line in done.stdout.splitlines()], [True, False, True])
        self.assertIn("larger than --max-record", done.stderr)

    def test_the_rate_holds_as_the_database_counts(self):
        self.db.control(reset="stats")
        self.assertEqual(len(self.keys(self.crawl("--with-data", "--rate", "200/s", "--limit", "150"))), 150)
        stats = self.db.stats()
        self.assertLessEqual(stats["busiest_second"]["documents"], 250)  # 200 and the page that a second cuts
        begun = time.monotonic()
        self.assertEqual(len(self.keys(self.crawl("--rate", "200/s"))), 300)
        self.assertGreaterEqual(time.monotonic() - begun, 299 / 200)  # it is never faster; how much slower is not asked


class Odd(Base):
    options = ()

    def test_an_empty_collection_has_no_keys(self):
        for more in ((), ("--with-data",), ("--limit", "3")):
            self.assertEqual(self.crawl(*more)[1:], ("", "crawl: orders: no keys\n"))

    def test_a_scalar_is_no_collection(self):
        self.db.put("orders", "open")
        self.refused(2, "is a scalar, not a collection")

    def test_wrong_urls(self):
        for url, what in (("orders", "is no URL of a database"), (self.db.url + "/a$b", "has a \\$ in it"),
                          (self.db.url + "/orders?auth=hunter2", "no arguments but ns"), ("http://x.firebaseio.com/o", "only https"),
                          ("https://u:hunter2@x.firebaseio.com/o", "a user has no place")):
            self.refused(2, what, url=url)
            self.assertNotIn("hunter2", run([tool("crawl"), url], env=self.env).stderr)

    def test_what_is_no_database_is_told(self):
        self.db.control(fault="html")
        self.refused(2, "no JSON")
        self.db.control(fault="none")
        self.db.control(fault="error", status=404)
        self.refused(2, "status 404")

    def test_short_failures_are_tried_again(self):
        self.db.put("orders", {"a": 1, "b": 2})
        for fault in ({"fault": "error", "status": 503}, {"fault": "cut"}, {"fault": "close"}, {"fault": "redirect"}):
            self.db.control(count=1, **fault)
            done = self.crawl()
            self.assertEqual(self.keys(done), ["a", "b"], fault)

    def test_the_emulator_of_the_environment_is_asked_as_its_owner(self):
        self.db.control(accept="owner")
        self.db.put("orders", {"a": 1}, auth="owner")
        self.env["FIREBASE_DATABASE_EMULATOR_HOST"] = f"127.0.0.1:{self.db.port}"
        done = run([tool("crawl"), "https://shop.firebaseio.com/orders"], env=self.env)
        self.assertEqual(done.exit, 0, done)
        event = json.loads(done.stdout)
        self.assertEqual(event["dataref"], f"http://127.0.0.1:{self.db.port}/orders/a.json?ns=shop")
        self.assertEqual(event["source"], "//firebasedatabase.googleapis.com/projects/_/locations/us-central1/instances/shop/refs/orders")

    def test_options_that_contradict_each_other(self):
        for words in (("--state", "s"), ("--doc", "a", "--end-at", "b"), ("--rate", "1MiB/s"), ("--doc", "a/b"), ("--start-after", "x" * 769)):
            self.refused(2, "", *words)


class Credentials(Base):
    def setUp(self):
        super().setUp()
        self.db.control(accept="good")

    def test_a_token_file(self):
        (self.box / "token").write_text("good\n")
        self.assertEqual(len(self.keys(self.crawl("--token-file", "token"))), 300)
        for text, what in (("bad\n", "status 401: Unauthorized"), ("", "is no token"), ("two words\n", "is no token")):
            (self.box / "token").write_text(text)
            self.refused(2, what, "--token-file", "token")
        self.refused(2, "none: No such file", "--token-file", "none")
        self.refused(2, "status 401: Permission denied")
        self.db.control(expire="good")
        (self.box / "token").write_text("good\n")
        self.refused(2, "status 401: Auth token is expired", "--token-file", "token")

    def test_a_service_account_signs_for_its_token(self):
        with Tokens(self.box) as tokens:
            (self.box / "account.json").write_text(json.dumps(tokens.account))
            self.db.control(accept="secret-token-1")
            self.assertEqual(len(self.keys(self.crawl("--credentials", "account.json"))), 300)
            self.db.control(accept="secret-token-3")  # the second is not known to the database: one more is asked for
            self.env["GOOGLE_APPLICATION_CREDENTIALS"] = str(self.box / "account.json")
            self.assertEqual(len(self.keys(self.crawl())), 300)
            self.assertEqual(tokens.given, 3)
            self.refused(2, "status 401")  # of another project
            tokens.refuse = "Account disabled"
            self.refused(2, "status 400: Account disabled")

    def test_files_that_are_no_service_account(self):
        for text, what in (("{", "is no JSON object"), ('{"type":"authorized_user"}', "of type \"authorized_user\""),
                           ('{"type":"service_account"}', "lacks client_email"),
                           ('{"type":"service_account","client_email":"a","private_key":"hunter2"}', "no private key of RSA")):
            (self.box / "account.json").write_text(text)
            self.refused(2, what, "--credentials", "account.json")
        self.refused(2, "No such file", "--credentials", "none.json")


class State(Base):
    def state(self, *words, pipeline="publish x/", exit=0):
        done = run([tool("crawl"), self.db.url + "/orders", "--state", "s", *words, "--", pipeline], cwd=self.box, env=self.env)
        self.assertEqual(done.exit, exit, done)
        return done

    def published(self):
        return [json.loads(line)["subject"] for f in sorted(self.box.glob("x/*.ndjson")) for line in f.read_text().splitlines()]

    def test_what_is_settled_is_not_written_again_and_what_is_complete_says_so(self):
        self.state("--limit", "100")
        self.state("--limit", "50")
        done = self.state()
        self.assertEqual(self.published(), self.all_keys())
        self.assertIn("orders: 300 keys, first", done.stderr)
        self.assertIn("complete already", self.state().stderr)

    def test_positions_stay_though_the_collection_changes(self):
        keys = self.all_keys()
        for way in "all keys at once", "page by page":
            with self.subTest(way):
                if way == "page by page":
                    self.state("--limit", "100")
                else:
                    self.killed_after(100)
                self.db.put("orders/!first", 1)
                self.db.delete(["orders", keys[20]])
                self.state()
                published = self.published()
                self.assertEqual([k for k in keys if k not in published], [])
                self.assertEqual(len(published), len(set(published)))
                self.db.put(["orders", keys[20]], {"n": 1})
                self.db.delete("orders/!first")
                for file in [*self.box.glob("s*"), *self.box.glob("x/*")]:
                    file.unlink()

    def killed_after(self, count):
        """SIGKILL once so many have been published."""
        process = subprocess.Popen([tool("crawl"), self.db.url + "/orders", "--state", "s", "--rate", "200/s", "--", "publish x/"],
                                   cwd=self.box, env=self.env, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(self.published()) >= count, what="events")
        process.kill()
        process.wait()

    def test_a_pipeline_without_a_state(self):
        done = run([tool("crawl"), self.db.url + "/orders", "--", "publish x/"], cwd=self.box, env=self.env)
        self.assertEqual((done.exit, self.published()), (0, self.all_keys()), done)

    def test_a_list_that_is_gone_is_told(self):
        self.state("--limit", "100")
        (self.box / "s.keys").unlink()
        self.assertIn("s.keys: is gone: remove s to crawl anew", self.state(exit=2).stderr)

    def test_a_crawl_that_failed_is_not_complete(self):
        self.db.control(fault="error", status=403)
        self.assertEqual(self.published(), [])
        self.state(exit=2)
        self.db.control(fault="none")
        self.state()
        self.assertEqual(self.published(), self.all_keys())

    def test_another_collection_or_range_has_another_state(self):
        self.state("--limit", "100")
        self.assertIn("lists", self.state("--start-after", "a", exit=2).stderr)


class Million(Base):
    options = ("--documents", "1000000", "--flat")

    def test_a_million_keys_once_each_in_order_within_64_mib(self):
        with open(self.box / "keys", "wb") as out:
            process = subprocess.Popen([tool("crawl"), self.db.url + "/orders"], stdout=out, stderr=subprocess.DEVNULL, env=self.env)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        self.assertLess(usage.ru_maxrss / 1024, 64)
        count = 0
        with open(self.box / "keys", encoding="utf-8") as lines:
            for count, line in enumerate(lines, 1):
                if f'"subject":"k{count - 1:07}"' not in line:
                    self.fail(f"line {count}: {line}")
        self.assertEqual(count, 1_000_000)


if __name__ == "__main__":
    unittest.main()

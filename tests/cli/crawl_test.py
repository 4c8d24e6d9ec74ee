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

    def test_a_document_beyond_max_record_stays_behind_its_dataref(self):
        self.db.put("big", {"a": {"n": 1}, "b": "x" * 5_000_000, "c": {"n": 3}})
        done = self.crawl("--with-data", "--max-record", "1MiB", path="/big")
        self.assertEqual(["data" in json.loads(line) for line in done.stdout.splitlines()], [True, False, True])
        self.assertIn("larger than --max-record", done.stderr)

    def test_a_document_of_20_mb(self):
        self.db.put("big", {"a": {"n": 1}, "b": {"text": "x" * 20_000_000}, "c": {"n": 3}})
        self.assertEqual(self.keys(self.crawl(path="/big")), ["a", "b", "c"])
        for more in ((), ("--doc", "b")):
            done = self.crawl("--with-data", *more, path="/big")
            self.assertNotIn("data", {e["subject"]: e for e in map(json.loads, done.stdout.splitlines())}["b"])
            self.assertRegex(done.stderr, r"\Acrawl: [^\n]*/big/b.json: larger than --max-record, and so without its data\n")
        done = self.crawl("--with-data", "--max-record", "32MiB", path="/big")
        self.assertEqual(self.keys(done), ["a", "b", "c"])
        self.assertEqual(len(json.loads(done.stdout.splitlines()[1])["data"]["text"]), 20_000_000)

    def test_the_rate_holds_as_the_database_counts(self):
        for fault in ({"fault": "none"}, {"fault": "slow", "count": 1, "duration": "300ms"}, {"fault": "slow", "duration": "20ms"}):
            self.db.control(reset="stats")
            self.db.control(**fault)
            self.assertEqual(len(self.keys(self.crawl("--with-data", "--rate", "100/s", "--limit", "150"))), 150)
            stats = self.db.stats()
            self.assertGreaterEqual(stats["documents"], 150)
            self.assertLessEqual(stats["busiest_second"]["documents"], 100)
        self.db.control(fault="none")
        begun = time.monotonic()
        self.assertEqual(len(self.keys(self.crawl("--rate", "200/s"))), 300)
        self.assertGreaterEqual(time.monotonic() - begun, 299 / 200)  # it is never faster; how much slower is not asked


class TooBig(Base):
    """The database gives no more than so much at once: not all keys, not a page, not a document, or no open range."""
    LIMIT = 4000

    def setUp(self):
        super().setUp()
        self.had = self.all_keys()
        self.db.control(max_response=self.LIMIT)

    def collection(self, documents, limit):
        self.db.control(max_response=256_000_000)
        self.db.put("c", documents)
        keys = list(self.db.get("c", shallow="true"))
        self.db.control(max_response=limit)
        return keys

    def test_the_keys_are_read_in_pages(self):
        done = self.crawl()
        self.assertEqual(self.keys(done), self.had)
        self.assertRegex(done.stderr, r"\Acrawl: [^\n]*reading pages instead\ncrawl: orders: 300 keys, [^\n]*\n\Z")

    def test_keys_with_much_in_common_or_in_need_of_escaping(self):
        for name, keys in (("common", ["p" * 700 + f"{n:x}" for n in range(200)]), ("odd", ODD),
                           ("768 bytes", [("é" * 383 + f"{n:02}") for n in range(60)]),
                           ("numbers", [str(n * n - 500) for n in range(200)])):
            with self.subTest(name):
                documents = {key: {"is": key} for key in keys}
                ordered = self.collection(documents, 2500)
                self.assertEqual(sorted(ordered), sorted(keys))
                for more in ((), ("--with-data",)):
                    if not more:
                        self.db.control(fault="too-big", kind="shallow", count=1)
                    done = self.crawl(*more, path="/c")
                    self.assertEqual(self.keys(done), ordered)
                for line in done.stdout.splitlines():
                    event = json.loads(line)
                    self.assertEqual(event["data"], documents[event["subject"]])

    def test_a_document_that_is_never_given_has_its_event(self):
        """Wherever it stands; what names it costs no more than some questions."""
        large = "x" * 2 * self.LIMIT
        keys = ["-L1", "-L10", "7", "07", "8", "a b%+", "a b%+\U0001f600", "common/".replace("/", "-") * 90, "z"]
        for chosen in ([0], [2], [3], [5, 6], [7], [8], [0, 1, 2, 3, 4, 5, 6, 7, 8]):
            too_large = {keys[n] for n in chosen}
            with self.subTest(too_large):
                documents = {key: {"n": large if key in too_large else key} for key in keys}
                documents.update({f"m{n}": {"n": "y" * 300} for n in range(20)})
                ordered = self.collection(documents, self.LIMIT)
                self.db.control(fault="too-big", kind="shallow", count=1)
                done = self.crawl(path="/c")
                self.assertEqual(self.keys(done), ordered)
                done = self.crawl("--with-data", path="/c")
                self.assertEqual(self.keys(done), ordered)
                for line in done.stdout.splitlines():
                    event = json.loads(line)
                    self.assertEqual(event.get("data"), None if event["subject"] in too_large else documents[event["subject"]])
                told = [line for line in done.stderr.splitlines() if "larger than what the database gives at once" in line]
                named = {urllib.parse.unquote(line.split("/c/")[1].split(".json")[0]) for line in told}
                self.assertEqual((named, len(told)), (too_large, len(too_large)), done.stderr)

    def test_where_all_keys_are_given_no_document_is_asked_for(self):
        self.collection({f"k{n}": {"n": "x" * 9000} for n in range(300)}, 8500)
        self.db.control(reset="stats")
        self.assertEqual(len(self.keys(self.crawl(path="/c"))), 300)
        self.assertEqual(self.db.stats()["by_kind"], {**dict.fromkeys(self.db.stats()["by_kind"], 0), "shallow": 1})

    def test_one_document_by_name(self):
        self.collection({"a": {"n": "x" * 9000, "m": 1}}, 10)
        self.assertEqual(self.keys(self.crawl("--doc", "a", path="/c")), ["a"])
        done = self.crawl("--doc", "a", "--with-data", path="/c")
        self.assertNotIn("data", json.loads(done.stdout))
        self.assertRegex(done.stderr, "c/a.json: larger than what the database gives at once, and so without its data\n")

    def test_a_range_is_kept(self):
        self.db.put("orders/" + urllib.parse.quote(self.had[100]), {"n": "x" * 2 * self.LIMIT})
        self.assertEqual(self.keys(self.crawl("--start-after", self.had[98], "--end-at", self.had[101])), self.had[99:102])
        self.assertEqual(self.keys(self.crawl("--start-after", self.had[98], "--end-at", self.had[100])), self.had[99:101])
        self.assertEqual(self.keys(self.crawl("--start-after", self.had[98], "--end-at", self.had[99])), self.had[99:100])

    def test_killed_in_the_middle_and_started_again(self):
        for n in range(50, 300, 50):
            self.db.put(["orders", self.had[n]], {"n": "x" * 2 * self.LIMIT})
        command = [tool("crawl"), self.db.url + "/orders", "--state", "s", "--takeover", "1s"]
        for count in (30, 49, 51, 160):
            with subprocess.Popen([*command, "--rate", "400/s", "--", "publish x/"], cwd=self.box, env=self.env,
                                  stderr=subprocess.DEVNULL) as process:
                wait_for(lambda: len(self.published()) >= count, what="events")
                process.kill()
        done = run([*command, "--", "publish x/"], cwd=self.box, env=self.env)
        self.assertEqual((done.exit, self.published()), (0, self.had), done)

    def published(self):
        return [json.loads(line)["subject"] for f in sorted(self.box.glob("x/*.ndjson")) for line in f.read_text().splitlines()]


class TooMany(Base):
    """Of very much behind a key the database gives not even one document, but for a narrower range."""
    options = ("--documents", "300", "--seed", "3", "--max-range", "20000")

    def test_it_is_read_part_by_part(self):
        keys = self.all_keys()
        self.db.control(fault="too-big", kind="shallow")
        self.assertEqual(self.db.request("GET", "orders", orderBy='"$key"', limitToFirst="2")[0], 400)
        self.assertEqual(self.keys(self.crawl()), keys)
        self.assertEqual(self.keys(self.crawl("--start-after", keys[9], "--end-at", keys[-9], "--with-data")), keys[10:-8])

    def test_where_nothing_is_given_it_is_told(self):
        self.db.control(fault="too-big")
        done = self.crawl(exit=2)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, r"reading pages instead\ncrawl: [^\n]*nor does it give any part of it\n\Z")


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
    # By a small process: what a process was started by counts as its own peak, and this one has held documents of 20 MB.
    MEASURE = "import os, sys; p = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); _, s, u = os.wait4(p, 0); " \
              "print(os.waitstatus_to_exitcode(s), u.ru_maxrss >> 10, file=sys.stderr)"

    def test_a_million_keys_once_each_in_order_within_64_mib(self):
        with open(self.box / "keys", "wb") as out:
            done = subprocess.run([sys.executable, "-c", self.MEASURE, tool("crawl"), self.db.url + "/orders"], stdout=out,
                                  stderr=subprocess.PIPE, text=True, env=self.env, check=True)
        code, peak = map(int, done.stderr.splitlines()[-1].split())
        self.assertEqual(code, 0, done.stderr)
        self.assertLess(peak, 64)
        count = 0
        with open(self.box / "keys", encoding="utf-8") as lines:
            for count, line in enumerate(lines, 1):
                if f'"subject":"k{count - 1:07}"' not in line:
                    self.fail(f"line {count}: {line}")
        self.assertEqual(count, 1_000_000)

    def test_killed_and_started_again_with_its_state_it_misses_none_of_a_million(self):
        command = [tool("crawl"), self.db.url + "/orders", "--state", "s", "--takeover", "10s", "--", "publish x/"]
        size = lambda: sum(f.stat().st_size for f in self.box.glob("x/*.ndjson"))  # noqa: E731
        for least in (1, 50_000_000, 150_000_000):
            with subprocess.Popen(command, cwd=self.box, env=self.env, stderr=subprocess.DEVNULL) as process:
                wait_for(lambda: size() >= least, 120, what=f"{least} bytes")
                process.kill()
        done = run(command, cwd=self.box, env=self.env, timeout=120)
        self.assertEqual(done.exit, 0, done)
        self.assertIn("orders: 1000000 keys, first", done.stderr)
        count = 0
        for file in sorted(self.box.glob("x/*.ndjson")):
            with open(file, encoding="utf-8") as lines:
                for line in lines:
                    if f'"subject":"k{count:07}"' not in line:
                        self.fail(f"event {count}: {line}")
                    count += 1
        self.assertEqual(count, 1_000_000)


if __name__ == "__main__":
    unittest.main()

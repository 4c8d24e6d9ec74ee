"""redis-write: what stands in a real Redis afterwards, and what is said where that cannot be reached, written or trusted.

FAULT_ROUNDS of 300 and more: a million updates instead of a tenth of that.
"""
import contextlib
import json
import os
import pathlib
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import free_port, run, tool, wait_for  # noqa: E402
from redis_server import Redis, RedisError  # noqa: E402

WRITE = tool("redis-write")
SECRET = "hunter2secret"
UPDATES = 1_000_000 if int(os.environ.get("FAULT_ROUNDS", "0")) >= 300 else 100_000


def event(subject, time, data=None, **attributes):
    made = {"specversion": "1.0", "id": f"{subject}/{time}", "source": "test", "type": "bsu.reading", "subject": subject}
    if time is not None:
        made["time"] = at(time)
    if data is not None:
        made["data"] = data
    return {**made, **attributes}


def at(time):
    """A number is a second of the hour."""
    return time if isinstance(time, str) else f"2018-07-01T00:{time // 60:02}:{time % 60:02}Z"


def stored(time):
    return at(time)[:19] + ".000000000Z"


def deletion(subject, time):
    return event(subject, time, type="bsu.deleted")


def ndjson(*records):
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


class Case(unittest.TestCase):
    port = False

    def setUp(self):
        self.redis = self.enterContext(Redis(port=self.port))

    def write(self, *records, options=(), url=None, expect=0, stderr="", **more):
        done = run([WRITE, url or self.redis.url, "--key", "u:{subject}", *options], ndjson(*records), **more)
        self.assertEqual(done.exit, expect, done.stderr)
        self.assertEqual(done.stdout, "")
        (self.assertEqual if stderr == "" else self.assertRegex)(done.stderr, stderr)
        self.assertLessEqual(len(done.stderr.splitlines()), 2, done.stderr)
        return done

    @contextlib.contextmanager
    def running(self, *options, url=None):
        """A redis-write with its input open; yields a function that gives it records."""
        process = subprocess.Popen([WRITE, url or self.redis.url, "--key", "u:{subject}", *options], stdin=subprocess.PIPE,
                                   stderr=subprocess.PIPE)

        def put(*records):
            process.stdin.write(ndjson(*records).encode())
            process.stdin.flush()
        put.process = process
        try:
            yield put
            process.stdin.close()
            self.assertEqual(process.wait(60), 0)
            put.said = process.stderr.read().decode()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in process.stdin, process.stderr:
                with contextlib.suppress(OSError):
                    pipe.close()

    def until(self, subject, **fields):
        wait_for(lambda: self.redis.fields(f"u:{subject}") == fields, what=f"{subject} to be {fields}")

    def told(self, put, regex):
        """The next line of a running redis-write's standard error."""
        self.assertTrue(select.select([put.process.stderr], [], [], 60)[0], "it says nothing")
        line = put.process.stderr.readline().decode()
        self.assertRegex(line, regex)


class Hashes(Case):
    def test_the_fields_of_the_newest_record_and_their_times(self):
        self.write(event("a", 1, {"power": "1.50", "status": "ok", "on": True, "n": 12345678901234567890, "list": [1, {"x": 2}]}),
                   options=[w for n in ("power", "status", "on", "n", "list") for w in ("--field", f"{n}=/{n}")])
        self.assertEqual(self.redis.fields("u:a"), {"power": "1.50", "status": "ok", "on": "true", "n": "12345678901234567890",
                                                    "list": '[1, {"x": 2}]'})
        self.write(event("a", 2, {"power": "1.50", "status": "low", "on": True}),
                   options=["--field", "power=/power", "--field", "status=/status", "--field", "on=/on"])
        whole = self.redis.hash("u:a")
        self.assertEqual((whole["updated_at"], whole["changed_at:power"], whole["changed_at:status"]), (stored(2), stored(1), stored(2)))
        self.assertEqual(self.redis("TTL", "u:a"), -1)

    def test_without_field_the_hash_is_what_the_newest_record_says(self):
        self.redis("HSET", "u:a", "mine", "stays")
        self.write(event("a", 1, {"bsu": {"@id": "7", "power": {"@unit": "W", "#text": "1.5"}, "cell": [{"v": 3}], "time": "x"}}))
        self.assertEqual(self.redis.fields("u:a"), {"mine": "stays", "bsu_id": "7", "power_unit": "W", "power": "1.5", "cell_0_v": "3",
                                                    "bsu_time": "x"})
        self.write(event("a", 2, {"bsu": {"power": "1.5", "new": None, "one": 1, "two": 2, "three": 3, "four": 4}}))
        self.assertEqual(self.redis.fields("u:a"), {"mine": "stays", "power": "1.5", "one": "1", "two": "2", "three": "3", "four": "4"})
        self.assertEqual({n for n in self.redis.hash("u:a") if n.startswith("changed_at:")},
                         {f"changed_at:{n}" for n in ("power", "one", "two", "three", "four")})

    def test_a_field_that_the_newest_record_lacks_is_gone(self):
        fields = ["--field", "p=/p", "--field", "q=/q"]
        self.write(event("a", 1, {"p": 1, "q": 2}), event("b", 1, {"p": 1, "q": 2}), options=fields)
        self.write(event("a", 2, {"p": 1}), event("b", 2, {"p": None, "q": None}), options=fields)
        self.assertEqual(self.redis.fields("u:a"), {"p": "1"})
        self.assertEqual(self.redis.hash("u:b"), {"updated_at": stored(2)})

    def test_what_is_older_is_passed_over_and_of_equal_times_the_later_record_stays(self):
        self.write(event("a", 5, {"v": 1}), event("a", 4, {"v": 2}), event("a", 5, {"v": 3}))
        self.assertEqual(self.redis.hash("u:a"), {"updated_at": stored(5), "v": "3", "changed_at:v": stored(5)})

    def test_times_are_compared_to_the_nanosecond_whatever_their_zone_and_digits(self):
        times = ["2018-07-01T02:00:00.000000001+02:00", "2018-07-01T00:00:00Z", "2018-06-30T23:59:59.999999999Z",
                 "1999-12-31T23:59:59Z", "2018-07-01T00:00:00.00000000Z", "1701-01-01T00:00:00Z"]
        for order in range(6):
            shuffled = times[order:] + times[:order]
            self.write(*(event(f"s{order}", time, {"v": time}) for time in shuffled))
            self.assertEqual(self.redis.fields(f"u:s{order}"), {"v": times[0]})
            self.assertEqual(self.redis("HGET", f"u:s{order}", "updated_at"), "2018-07-01T00:00:00.000000001Z")

    def test_updates_in_random_order_end_with_the_newest_of_each_key(self):
        units, chance = 5000, random.Random(7)
        order = list(range(UPDATES))
        chance.shuffle(order)
        with tempfile.NamedTemporaryFile("w", suffix=".ndjson") as file:
            for n in order:  # nanoseconds, which a double does not tell apart
                file.write(f'{{"specversion":"1.0","id":"{n}","source":"t","type":"t","subject":"{n % units}",'
                           f'"time":"2018-07-01T00:00:00.{n:09}Z","data":{{"n":{n},"half":{n // 2}}}}}\n')
            file.flush()
            with open(file.name, encoding="utf-8") as records:
                done = subprocess.run([WRITE, self.redis.url, "--key", "u:{subject}"], stdin=records, capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(self.redis("DBSIZE"), units)
        newest = UPDATES - units
        for unit in range(units):
            whole = self.redis.hash(f"u:{unit}")
            self.assertEqual((whole["n"], whole["half"]), (str(newest + unit), str((newest + unit) // 2)))
            self.assertEqual(whole["updated_at"], f"2018-07-01T00:00:00.{newest + unit:09}Z")

    def test_a_record_of_many_fields_and_one_whose_names_meet(self):
        many = {f"f{n}": n for n in range(20000)}
        self.write(event("a", 1, many))
        self.assertEqual(self.redis.fields("u:a"), {name: str(value) for name, value in many.items()})
        self.write(event("a", 2, {"f1": 7}), options=["--publish", "c"])
        self.assertEqual(self.redis.fields("u:a"), {"f1": "7"})
        self.write(event("b", 1, {"x": {"a": {"b": 1}, "a_b": 2}}))
        self.assertEqual(self.redis.fields("u:b"), {"a_b": "2"})

    def test_any_text_is_stored_to_the_byte(self):
        text = "".join(map(chr, [0, 10, 13, 34, 92, 0x7f, 0xe9, 0x20ac, 0x1f600])) + "$5\r\n*1\r\n"
        self.write(event("a b/ü", 1, {"t": text}))
        self.assertEqual(self.redis.fields("u:a%20b%2F%C3%BC"), {"t": text})
        done = run([WRITE, self.redis.url, "--key", "k {+subject}"], ndjson(event("x:y", 2, {"t": "z"})))
        self.assertEqual((done.exit, self.redis.fields("k x:y")), (0, {"t": "z"}))

    def test_bare_records_and_another_time(self):
        self.write({"subject": "a", "seen": at(2), "v": 1}, {"subject": "a", "seen": at(1), "v": 2}, options=["--newer-by", "seen"])
        self.assertEqual(self.redis.fields("u:a"), {"subject": "a", "seen": at(2), "v": "1"})
        self.write(event("b", 9, {"at": at(2), "v": 1}), event("b", 1, {"at": at(3), "v": 2}), options=["--newer-by", "/at"])
        self.assertEqual(self.redis.fields("u:b")["v"], "2")

    def test_what_is_no_update_is_rejected_by_its_reason(self):
        future = "2199-01-01T00:00:00Z"
        for record, reason in [(event("a", None, {"v": 1}), "no time.*--newer-by"), (event("a", "yesterday", {"v": 1}), "yesterday.*RFC 3339"),
                               ({**event("a", 1, {"v": 1}), "time": 17}, "17.*RFC 3339"), (event("a", future, {"v": 1}), "2199.*--max-future"),
                               (event("a", 1), "no field"), (event("a", 1, {"updated_at": 1}), "updated_at.*--field"),
                               (event("a", 1, {"changed_at:x": 1}), "changed_at:x.*--field"), ({**event("a", 1, {"v": 1}), "subject": None}, "--key"),
                               (json.dumps(event("a", 1, {"v": "@"})).replace("@", "\\u12"), "")]:
            with self.subTest(reason=reason):
                self.write(event("good", 1, {"v": 1}), record, event("good", 2, {"v": 2}), expect=1, stderr=f"line 2: .*{reason}")
                self.assertEqual(self.redis("KEYS", "*"), ["u:good"])
                self.redis("FLUSHALL")
        self.write(event("a", 1, {"v": 1}), options=["--field", "w=/w"], expect=1, stderr="--field")
        self.write(event("a", future, {"v": 1}), options=["--max-future", "0s"])
        self.assertEqual(self.redis.fields("u:a"), {"v": "1"})

    def test_a_key_that_holds_something_else_rejects_its_records_alone(self):
        self.redis("SET", "u:text", "x")
        self.redis("HSET", "u:other", "updated_at", "1530403200")
        records = [event(s, 1, {"v": 1}) for s in ("a", "text", "b", "other", "c")]
        with tempfile.TemporaryDirectory() as folder:
            dead = pathlib.Path(folder) / "dead"
            self.write(*records, options=["--dead-letters", str(dead)], expect=1, stderr="")
            letters = [json.loads(line) for line in dead.read_text().splitlines()]
        self.assertEqual([letter["event"]["subject"] for letter in letters], ["text", "other"])
        self.assertRegex(letters[0]["reason"], f"^{self.redis.url}: WRONGTYPE")
        self.assertRegex(letters[1]["reason"], "updated_at of u:other")
        self.assertEqual((self.redis("GET", "u:text"), self.redis("HGET", "u:other", "updated_at")), ("x", "1530403200"))
        self.assertEqual([self.redis.fields(f"u:{s}") for s in "abc"], [{"v": "1"}] * 3)

    def test_dry_run_shows_and_asks_nobody(self):
        done = run([WRITE, "redis://127.0.0.1:1", "--key", "u:{subject}", "--field", "v=/v", "--field", "w=/w", "--dry-run"],
                   ndjson(event("a", 1, {"v": 1.50, "w": "x\ny"}), deletion("b", 2)))
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertEqual([json.loads(line) for line in done.stdout.splitlines()],
                         [{"key": "u:a", "updated_at": stored(1), "fields": {"v": "1.5", "w": "x\ny"}},
                          {"key": "u:b", "updated_at": stored(2), "delete": True}])


class Deletions(Case):
    def test_a_deletion_is_a_version_like_any_other(self):
        self.write(event("a", 1, {"v": 1}), deletion("a", 3))
        self.assertEqual((self.redis("EXISTS", "u:a"), self.redis("GET", "u:a:deleted")), (0, stored(3)))
        self.write(event("a", 2, {"v": 2}), deletion("a", 1))
        self.assertEqual((self.redis("EXISTS", "u:a"), self.redis("GET", "u:a:deleted")), (0, stored(3)))
        self.write(event("a", 4, {"v": 4}))
        self.assertEqual((self.redis.fields("u:a"), self.redis("EXISTS", "u:a:deleted")), ({"v": "4"}, 0))
        self.write(deletion("a", 3))
        self.assertEqual(self.redis.fields("u:a"), {"v": "4"})
        self.write(deletion("a", 4), event("a", 4, {"v": 5}))
        self.assertEqual(self.redis.fields("u:a"), {"v": "5"})

    def test_in_any_order_the_newest_decides(self):
        records = [event("s", 1, {"v": 1}), deletion("s", 2), event("s", 3, {"v": 3}), deletion("s", 4), event("s", 5, {"v": 5})]
        for newest in 5, 4:
            for round in range(20):
                some = records[:newest]
                random.Random(round).shuffle(some)
                self.redis("FLUSHALL")
                self.write(*some)
                self.assertEqual(self.redis.fields("u:s"), {"v": "5"} if newest == 5 else {}, some)

    def test_how_long_its_time_is_known_is_an_option(self):
        self.write(deletion("a", 2), options=["--remember-deleted", "1h"])
        self.assertTrue(3_500_000 < self.redis("PTTL", "u:a:deleted") <= 3_600_000)
        self.write(deletion("b", 2))
        self.assertEqual(self.redis("PTTL", "u:b:deleted"), -1)
        self.write(event("c", 1, {"v": 1}), deletion("c", 2), options=["--on-delete", "ignore"])
        self.assertEqual(self.redis.fields("u:c"), {"v": "1"})
        self.write(deletion("d", 2), options=["--newer-by", "/at"])  # without data the event's own time decides
        self.assertEqual(self.redis("GET", "u:d:deleted"), stored(2))
        self.write(deletion("e", None), expect=1, stderr="no time")


class Changes(Case):
    def subscribe(self, *channels):
        client = self.redis.client()
        self.addCleanup(client.close)
        client.send("PSUBSCRIBE", *channels)
        for _ in channels:
            client.reply()

        def until_end():
            self.redis("PUBLISH", "end", "")
            told = []
            while (message := client.reply())[2] != "end":
                told.append((message[2], json.loads(message[3])))
            return told
        return until_end

    def test_each_change_is_told_once_and_nothing_else_is(self):
        told = self.subscribe("fleet*", "end")
        records = [event("a", 1, {"p": "1", "q": "x"}), event("a", 2, {"p": "1", "q": "x"}), event("a", 1, {"p": "9", "q": "9"}),
                   event("a", 3, {"p": "2", "q": "x"}), event("b", 1, {"p": 'é"\n', "q": "x"}), event("a", 4, {"p": "2"}),
                   deletion("a", 5), deletion("a", 6), event("a", 5, {"p": "3"})]
        fields = ["--field", "p=/p", "--field", "q=/q"]
        for _ in range(2):  # the second time it is all known
            self.write(*records, options=[*fields, "--publish", "fleet"])
        self.write(event("b", 1, {"p": 'é"\n', "q": "x"}), event("b", 2, {"p": "1", "q": "x"}), options=[*fields, "--publish", "fleet:{subject}"])

        def change(key, time, **changed):
            return {"key": key, "updated_at": stored(time), "changed": changed}
        self.assertEqual(told(), [("fleet", change("u:a", 1, p="1", q="x")), ("fleet", change("u:a", 3, p="2")),
                                  ("fleet", change("u:b", 1, p='é"\n', q="x")), ("fleet", change("u:a", 4, q=None)),
                                  ("fleet", {"key": "u:a", "updated_at": stored(5), "deleted": True}),
                                  ("fleet:b", change("u:b", 2, p="1"))])

    def test_the_changes_that_are_told_lead_to_what_is_stored(self):
        told = self.subscribe("c", "end")
        chance = random.Random(3)
        records = []
        for n in range(3000):
            subject, time = f"s{chance.randrange(20)}", chance.randrange(3000)
            records.append(deletion(subject, time) if chance.random() < 0.1 else
                           event(subject, time, {name: chance.randrange(3) for name in "pqr" if chance.random() < 0.8} | {"always": 1}))
        self.write(*records, options=["--publish", "c"])
        mirror = {}
        for _, change in told():
            if change.get("deleted"):
                del mirror[change["key"]]
                continue
            fields = mirror.setdefault(change["key"], {})
            for name, value in change["changed"].items():
                self.assertNotEqual(fields.get(name), value, "no change")
                fields[name] = value
                if value is None:
                    del fields[name]
        keys = [key for key in self.redis("KEYS", "*") if not key.endswith(":deleted")]
        self.assertEqual(mirror, {key: self.redis.fields(key) for key in keys})

    def test_a_key_that_nobody_renews_is_gone(self):
        self.write(event("a", 1, {"v": 1}), options=["--expire", "1h"])
        self.assertTrue(3_500_000 < self.redis("PTTL", "u:a") <= 3_600_000)
        self.write(event("a", 2, {"v": 1}), options=["--expire", "2h"])
        self.assertTrue(7_100_000 < self.redis("PTTL", "u:a") <= 7_200_000)
        self.write(event("a", 1, {"v": 1}), options=["--expire", "9h"])  # is older, renews nothing
        self.assertTrue(7_000_000 < self.redis("PTTL", "u:a") <= 7_200_000)


class Servers(Case):
    port = True

    def test_tcp_databases_and_names(self):
        self.write(event("a", 1, {"v": 1}), url=self.redis.tcp + "/3")
        self.write(event("b", 1, {"v": 1}), url=self.redis.url + "?db=3")
        self.write(event("c", 1, {"v": 1}), url=f"redis://localhost:{self.redis.port}/")
        self.assertEqual(self.redis("KEYS", "*"), ["u:c"])
        self.redis("SELECT", 3)
        self.assertEqual(sorted(self.redis("KEYS", "*")), ["u:a", "u:b"])
        self.write(event("a", 1, {"v": 1}), url=self.redis.tcp + "/99", expect=2, stderr=f"^redis-write: {self.redis.tcp}/99: .*DB index")

    def test_a_destination_that_is_none_is_told_before_anything_is_read(self):
        for url, reason in [("http://host", "redis://"), ("cache", "redis://"), ("redis://", "no host"), ("redis://h:x", "port"),
                            ("redis://h:70000", "port"), ("redis://h/x", "database"), ("redis://h/1/2", "database"), ("redis://h?db=1", "HOST/DB"),
                            ("rediss://h", "TLS"), ("unix:", "path"), ("unix:/x?y=1", "db=N"), ("unix:/" + "x" * 200, "longer"),
                            (f"redis://:{SECRET}@h", "command line"), (f"redis://u:{SECRET}@h:x", "port"), ("redis://%zz@h", "%XX")]:
            with self.subTest(url):
                done = self.write(url=url, expect=2, stderr=reason)
                self.assertNotIn(SECRET, done.stderr)
        environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
        done = run([WRITE, "--key", "x"], env=environment)
        self.assertEqual(done.exit, 2)
        self.assertIn("REDIS_URL", done.stderr)
        for wrong in ["--field", "x"], ["--field", "=x"], ["--field", "updated_at=x"], ["--field", "changed_at:x=x"], ["--key", ""], \
                ["--field", "a=x", "--field", "a=y"], ["--newer-by", "/~"], ["--publish", "{a"], ["--timeout", "0s"]:
            with self.subTest(wrong=wrong):
                self.assertEqual(run([WRITE, self.redis.url, *(["--key", "u"] if wrong[0] != "--key" else []), *wrong]).exit, 2)

    def test_a_password_comes_from_the_environment_or_a_file(self):
        self.redis("CONFIG", "SET", "requirepass", SECRET)
        self.redis("ACL", "SETUSER", "writer", "on", f">{SECRET}2", "~u:*", "&*", "+@all")
        self.redis("ACL", "SETUSER", "poor", "on", f">{SECRET}2", "~u:*", "+@all", "-@scripting")
        place = f"^redis-write: {self.redis.tcp}: "
        plain = {k: v for k, v in os.environ.items() if not k.startswith("REDIS")}
        name = self.redis.tcp.removeprefix("redis://")
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "password"
            file.write_text(SECRET + "\nmore\n")
            good = [({"REDISCLI_AUTH": SECRET}, self.redis.tcp, []), ({}, self.redis.tcp, ["--password-file", str(file)]),
                    ({"REDISCLI_AUTH": "wrong"}, self.redis.url, ["--password-file", str(file)]),
                    ({"REDIS_URL": f"redis://:{SECRET}@{name}"}, None, []), ({"REDIS_URL": f"redis://writer:{SECRET}%32@{name}"}, None, []),
                    ({"REDISCLI_AUTH": SECRET + "2"}, f"redis://writer@{name}", [])]
            for n, (environment, url, options) in enumerate(good):
                with self.subTest(n):
                    done = run([WRITE, *([url] if url else []), "--key", "u:{subject}", *options], ndjson(event(f"p{n}", 1, {"v": n})),
                               env=plain | environment)
                    self.assertEqual((done.exit, done.stderr), (0, ""))
                    self.redis("AUTH", SECRET)
                    self.assertEqual(self.redis.fields(f"u:p{n}"), {"v": str(n)})
            file.write_text("\n")
            for environment, url, options, reason in [({}, self.redis.tcp, [], place + "NOAUTH.*--password-file"),
                                                      ({"REDISCLI_AUTH": SECRET + "x"}, self.redis.tcp, [], place + "WRONGPASS"),
                                                      ({"REDISCLI_AUTH": SECRET + "2"}, f"redis://poor@{name}", [], place + "NOPERM"),
                                                      ({"REDISCLI_AUTH": SECRET}, f"redis://nobody@{name}", [], place + "WRONGPASS"),
                                                      ({}, self.redis.tcp, ["--password-file", str(file)], "empty"),
                                                      ({}, self.redis.tcp, ["--password-file", folder + "/none"], "none: No such file")]:
                done = self.write(event("x", 1, {"v": 1}), url=url, options=options, expect=2, stderr=reason, env=plain | environment)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
                self.assertNotIn(SECRET, done.stderr)
        self.redis("CONFIG", "SET", "requirepass", "")
        self.write(event("x", 1, {"v": 1}), env=plain | {"REDISCLI_AUTH": SECRET}, expect=2, stderr="AUTH.*without any password")
        self.assertEqual(self.redis("EXISTS", "u:x"), 0)

    def test_a_replica_is_refused_at_the_start_and_waited_for_later(self):
        self.redis("REPLICAOF", "127.0.0.1", "1")
        self.write(event("a", 1, {"v": 1}), expect=2, stderr=f"^redis-write: {self.redis.url}: a replica, which is read-only: .*\n$")
        self.redis("REPLICAOF", "NO", "ONE")
        with self.running() as put:
            put(event("a", 1, {"v": 1}))
            self.until("a", v="1")
            self.redis("REPLICAOF", "127.0.0.1", "1")
            put(event("a", 2, {"v": 2}))
            self.told(put, f"waiting: {self.redis.url}: READONLY")
            self.redis("REPLICAOF", "NO", "ONE")
            self.until("a", v="2")

    def test_a_redis_out_of_memory_is_waited_for(self):
        with self.running() as put:
            self.redis("CONFIG", "SET", "maxmemory", "1")
            put(event("a", 1, {"v": 1}), deletion("b", 2), event("c", 1, {"v": 1}))
            self.told(put, f"waiting: {self.redis.url}: OOM")
            self.redis("CONFIG", "SET", "maxmemory", "0")
            self.until("c", v="1")
            self.until("a", v="1")
        self.assertEqual(self.redis("GET", "u:b:deleted"), stored(2))
        self.redis("CONFIG", "SET", "maxmemory", "1")
        self.write(event("d", 1, {"v": 1}), options=["--give-up", "200ms"], expect=75, stderr="gave up: .*OOM")

    def test_what_is_stored_in_part_when_memory_runs_out_is_whole_in_the_end(self):
        with self.running() as put:
            put(event("first", 1, {"v": 1}))
            self.until("first", v="1")
            self.redis("CONFIG", "SET", "maxmemory", self.redis_memory() + 300_000)
            put(*(event(f"s{n}", 1, {"v": "x" * 1000}) for n in range(1000)))
            self.told(put, "waiting: .*OOM")
            self.redis("CONFIG", "SET", "maxmemory", "0")
        self.assertEqual(self.redis("DBSIZE"), 1001)

    def redis_memory(self):
        return int(self.redis("INFO", "memory").split("used_memory:")[1].split("\r")[0])

    def test_a_redis_that_loads_is_waited_for(self):
        self.write(*(event(f"s{n}", 1, {"v": 1}) for n in range(20000)))
        self.redis.kill()
        self.redis.start("--key-load-delay", "1000", ready=self.loading)
        with self.running() as put:
            put(event("a", 1, {"v": 1}))
            self.told(put, f"waiting: {self.redis.url}: (LOADING|loading)")
            client = self.redis.client()
            self.addCleanup(client.close)
            client("CONFIG", "SET", "key-load-delay", "0")
        self.redis.start()
        self.assertEqual(self.redis("DBSIZE"), 20001)

    def loading(self):
        with contextlib.suppress(OSError):
            client = self.redis.client()
            try:
                client("PING")
            except RedisError as error:
                return "LOADING" in str(error)
            finally:
                client.close()
        return False

    def test_a_redis_that_is_not_there_is_waited_for(self):
        self.redis.kill()
        for url in self.redis.url, self.redis.tcp, "redis://no-such-host.invalid":
            self.write(event("a", 1, {"v": 1}), url=url, options=["--give-up", "300ms"], expect=75, stderr=f"gave up: {url}")
        with self.running() as put:
            put(event("a", 1, {"v": 1}))
            self.told(put, "waiting: ")
            self.redis.start()
            self.until("a", v="1")

    def test_a_redis_that_is_killed_and_comes_again_in_the_middle(self):
        with self.running("--batch-records", "100") as put:
            for n in range(20):
                put(*(event(f"s{m}", n, {"v": n}) for m in range(500)))
                if n % 5 == 2:
                    self.redis.kill()
                    self.redis.start()
        self.assertEqual([self.redis.fields(f"u:s{m}") for m in range(500)], [{"v": "19"}] * 500)

    def test_a_redis_that_does_not_answer_is_left_and_asked_again(self):
        with self.running("--timeout", "200ms") as put:
            put(event("a", 1, {"v": 1}))
            self.until("a", v="1")
            self.redis.signal(signal.SIGSTOP)
            try:
                put(event("a", 2, {"v": 2}))
                self.told(put, "waiting: .*no answer for 200ms")
            finally:
                self.redis.signal(signal.SIGCONT)
            self.until("a", v="2")

    def test_a_server_that_forgets_its_scripts(self):
        with self.running("--batch-records", "50") as put:
            for n in range(5):
                put(*(event(f"s{m}", n, {"v": n}) for m in range(100)), deletion("d", n), event("d", n, {"v": n}))
                self.until("d", v=str(n))
                self.redis("SCRIPT", "FLUSH")
        self.assertEqual(put.said, "")
        self.assertEqual([self.redis.fields(f"u:s{m}") for m in range(100)], [{"v": "4"}] * 100)

    def test_too_many_clients_are_waited_for(self):
        self.redis("CONFIG", "SET", "maxclients", "1")
        self.write(event("a", 1, {"v": 1}), options=["--give-up", "200ms"], expect=75, stderr="gave up: .*max number of clients")

    def test_what_is_not_a_redis(self):
        def answer(with_what):
            listener = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listener.close)

            def serve():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        with connection:
                            connection.recv(1000)
                            connection.sendall(with_what)
            threading.Thread(target=serve, daemon=True).start()
            return f"redis://127.0.0.1:{listener.getsockname()[1]}"
        url = answer(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        done = self.write(event("a", 1, {"v": 1}), url=url, expect=2, stderr=f"^redis-write: {url}: not a Redis: ")
        self.assertEqual(len(done.stderr.splitlines()), 1)
        url = answer(b"-ERR unknown command 'SELECT'\r\n")
        self.write(event("a", 1, {"v": 1}), url=url, expect=2, stderr=f"^redis-write: {url}: ERR unknown command")
        self.write(event("a", 1, {"v": 1}), url=answer(b""), options=["--give-up", "200ms"], expect=75, stderr="closed the connection")

    def test_a_value_over_the_limits_of_the_server_is_rejected_alone(self):
        self.redis("CONFIG", "SET", "proto-max-bulk-len", "1mb")
        records = [event(s, 1, {"v": "x" * (2 << 20) if s == "big" else 1}) for s in ("a", "b", "big", "c", "d")]
        self.write(*records, expect=1, stderr="\\Aredis-write: line 3: .*Protocol error.*\n\\Z")
        self.assertEqual(sorted(self.redis("KEYS", "*")), ["u:a", "u:b", "u:c", "u:d"])

    def test_a_redis_that_may_forget_is_told_once(self):
        with Redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", appendonly=False) as forgetful:
            done = self.write(event("a", 1, {"v": 1}), url=forgetful.url, stderr="appendonly is off")
            self.assertRegex(done.stderr, r"\Aredis-write: unix:\S+: appendonly is off: .*\nredis-write: unix:\S+: its maxmemory-policy .*\n\Z")
        self.write(event("a", 1, {"v": 1}))


if __name__ == "__main__":
    unittest.main()

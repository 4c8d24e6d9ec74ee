"""orders-api: what it takes and refuses, versions, the limit of its connections, rules, counters, and what is there after kills."""
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import signal
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import run, tool, wait_for
from orders_server import OrdersServer, order
from pg_server import Postgres

FULL = {"number": 17, "status": "paid", "created": 1500000000123, "customer": "O'Neil \"Bob\"", "email": "b@example.com", "city": "Zoë ✓😀",
        "zip": "01234", "total": 12.5, "gift": False, "note": "two\nlines", "lines": [{"sku": "A", "quantity": 2, "cents": 0}]}


class Base(unittest.TestCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.pg = Postgres()
        cls.addClassCleanup(cls.pg.__exit__)
        cls.pg.__enter__()

    def setUp(self):
        self.api = OrdersServer(self.pg, *self.options)
        self.addCleanup(self.api.__exit__)
        self.api.__enter__()
        self.pg.sql("TRUNCATE orders, order_lines, order_versions")


class Orders(Base):
    def test_an_order_is_a_row_and_child_rows_and_is_read_as_it_was_put(self):
        self.assertEqual([self.api.put("k", FULL), self.api.get("k")], [201, FULL])
        self.assertEqual(self.pg.sql("SELECT number, zip, total, gift FROM orders"), [["17", "01234", "12.5", "f"]])
        self.assertEqual(self.pg.sql("SELECT * FROM order_lines"), [["k", "1", "A", "2", "0"]])

    def test_a_put_replaces_the_whole_order_and_its_lines(self):
        self.api.put("k", order(1, lines=5, note="x"))
        self.assertEqual(self.api.put("k", order(2, lines=2)), 204)
        self.assertEqual(self.api.get("k"), order(2, lines=2))
        self.api.put("k", order(3, lines=0))
        self.assertEqual(self.api.orders(), {"k": order(3, lines=0)})

    def test_what_is_deleted_is_gone_with_its_lines(self):
        self.api.put("k", order(1, lines=3))
        self.assertEqual([self.api.delete("k"), self.api.delete("k"), self.api.get("k")], [204, 404, None])
        self.assertEqual(self.pg.sql("SELECT * FROM order_lines"), [])

    def test_keys_of_all_kinds_are_kept_apart_and_listed_by_their_bytes(self):
        keys = ["a b", "a%b", "a%20b", "a+b", "a/b", "..", "é", "😀", "Z", "a", "ﬀ", "x" * 768, "?q", "#f"]
        for number, key in enumerate(keys):
            self.assertEqual(self.api.put(key, order(number)), 201, key)
        found = self.api.orders()
        self.assertEqual(list(found), sorted(keys, key=lambda key: key.encode()))
        self.assertEqual(found, {key: order(number) for number, key in enumerate(keys)})
        for path in "/orders/a%00b", "/orders/a%", "/orders/a%2", "/orders/%zz":
            self.assertEqual(self.api.request("PUT", path, order(1))[0], 400, path)
        self.assertEqual(self.api.request("PUT", "/orders/%ff", order(1))[0], 422)
        for path in "/orders/", "/ordersx", "/":
            self.assertEqual(self.api.request("PUT", path, order(1))[0], 404, path)

    def test_what_is_no_order_is_refused_with_the_reason(self):
        for change, reason in [
                ({"number": 1.5}, "number is not a whole number"), ({"number": 2**63}, "number is not a whole number"),
                ({"number": None}, "number is not a whole number"), ({"status": ""}, "status is not a text"),
                ({"status": ...}, "status is missing"), ({"lines": ...}, "lines is missing"), ({"lines": {}}, "lines is not an array"),
                ({"lines": [1]}, "a line is not an object"), ({"lines": [{"sku": "A", "quantity": 0, "cents": 1}]}, "of a line, quantity"),
                ({"lines": [{"sku": "A", "quantity": 1}]}, "of a line, cents is missing"), ({"total": "1"}, "total is not a number"),
                ({"gift": 1}, "gift is not true or false"), ({"note": None}, "note is not a text"),
                ({"color": "red"}, '"color" is nothing that an order has'), ({"note": "a\0b"}, "\\u0000")]:
            document = {name: value for name, value in {**FULL, **change}.items() if value is not ...}
            status, _, text = self.api.request("PUT", "/orders/k", document)
            self.assertEqual((status, reason in text), (422, True), text)
        self.assertEqual(self.api.request("PUT", "/orders/k", "{")[0], 400)
        self.assertEqual(self.api.request("PUT", "/orders/k", "[]")[0], 422)
        self.assertEqual(self.api.request("PUT", "/orders/k", {**FULL, "note": "x" * (1 << 20)})[0], 413)
        self.assertEqual(self.api.request("POST", "/orders/k", FULL)[0], 405)
        self.assertEqual(self.api.orders(), {})

    def test_numbers_are_kept_to_the_last_digit(self):
        body = json.dumps(FULL).replace("12.5", "12345678901234567.890").replace("17", str(2**63 - 1))
        self.api.request("PUT", "/orders/k", body)
        text = self.api.request("GET", "/orders")[2]
        self.assertIn("12345678901234567.890", text)
        self.assertIn(str(2**63 - 1), text)

    def test_writers_of_one_key_at_once_leave_one_whole_order(self):
        with concurrent.futures.ThreadPoolExecutor(4) as several:
            for _ in several.map(lambda n: self.api.put("k", order(n, lines=n % 7)), range(200)):
                pass
        found = self.api.get("k")
        self.assertEqual(found, order(found["number"], lines=found["number"] % 7))


class Versions(Base):
    options = ("--version-header", "X-Version")

    def put(self, number, version):
        return self.api.put("k", order(number), X_Version=version)

    def test_an_older_version_is_refused_an_equal_one_is_not(self):
        self.assertEqual([self.put(1, 10), self.put(2, 9), self.put(3, 10)], [201, 409, 204])
        self.assertEqual(self.api.delete("k", X_Version=9), 409)
        self.assertEqual(self.api.get("k"), order(3))
        self.assertEqual(self.api.stats()["stale"], 2)

    def test_a_deletion_leaves_its_version_also_where_nothing_was(self):
        self.assertEqual([self.api.delete("k", X_Version=10), self.put(1, 9), self.api.get("k")], [404, 409, None])
        self.assertEqual([self.put(1, 11), self.api.delete("k", X_Version=12), self.put(2, 11), self.api.get("k")], [201, 204, 409, None])
        self.assertEqual(self.put(2, 12), 201)

    def test_a_write_without_a_version_is_always_taken_and_leaves_the_version_as_it_is(self):
        self.put(1, 10)
        self.assertEqual([self.api.put("k", order(2)), self.put(3, 9), self.put(4, 10)], [204, 409, 204])
        for version in "", "-1", "1.5", "9" * 19:
            self.assertEqual(self.put(1, version), 400, version)

    def test_of_many_versions_at_once_the_highest_stays(self):
        versions = [n * 7919 % 211 for n in range(1, 211)]
        with concurrent.futures.ThreadPoolExecutor(5) as several:
            statuses = list(several.map(lambda version: self.put(version, version), versions))
        self.assertLessEqual(set(statuses), {201, 204, 409})
        self.assertEqual(self.api.get("k"), order(210))

    def test_the_versions_of_http_write_are_those_of_its_events(self):
        def written(number, second, deleted=False):
            event = {"specversion": "1.0", "id": "1", "source": "s", "type": "a.deleted" if deleted else "a.written", "subject": "k",
                     "recordedtime": f"2018-07-01T00:00:{second:02}Z", **({} if deleted else {"data": order(number)})}
            done = run([tool("http-write"), self.api.url + "/orders/{subject}", "--version-header", "X-Version", "--conflict", "ok"],
                       stdin=json.dumps(event) + "\n")
            self.assertEqual((done.exit, done.stderr), (0, ""))
            return self.api.get("k")
        self.assertEqual([written(1, 10), written(2, 9), written(3, 11), written(0, 10, deleted=True)], [order(1), order(1), order(3), order(3)])
        self.assertEqual([written(0, 12, deleted=True), written(4, 11), written(5, 13)], [None, None, order(5)])


class Precondition(Base):
    options = ("--version-header", "If-Newer", "--conflict", "412")

    def test_the_status_of_an_older_version_is_the_one_asked_for(self):
        self.assertEqual([self.api.put("k", order(1), If_Newer=2), self.api.put("k", order(1), If_Newer=1)], [201, 412])


class Limits(Base):
    options = ("--connections", "2", "--retry-after", "3")

    def held(self, stack):
        """Takes all connections until the block ends: a lock makes their writes wait."""
        lock = self.pg.session()
        stack.callback(lock.wait)
        stack.callback(lock.communicate, "ROLLBACK;\n")
        lock.stdin.write("BEGIN; LOCK order_versions; SELECT 'locked';\n")
        lock.stdin.flush()
        self.assertEqual(lock.stdout.readline(), "locked\n")

    def test_beyond_its_connections_it_answers_503_at_once(self):
        writers = [threading.Thread(target=self.api.put, args=(str(n), order(n))) for n in range(2)]
        with contextlib.ExitStack() as stack:
            self.held(stack)
            for writer in writers:
                writer.start()
            wait_for(lambda: self.api.stats()["connections"]["now"] == 2, what="both connections to be taken")
            for method, path in ("PUT", "/orders/x"), ("GET", "/orders/x"), ("GET", "/orders"):
                status, headers, _ = self.api.request(method, path, order(1))
                self.assertEqual((status, headers["Retry-After"]), (503, "3"))
        for writer in writers:
            writer.join()
        stats = self.api.stats()
        self.assertEqual((stats["no_connection"], stats["connections"], stats["at_once"]["now"]), (3, {"now": 0, "most": 2}, 0))
        self.assertEqual(sorted(self.api.orders()), ["0", "1"])
        self.assertEqual(self.pg.sql("SELECT count(*) <= 2 FROM pg_stat_activity WHERE application_name = 'orders-api'"), [["t"]])

    def test_a_list_that_nobody_reads_to_its_end_gives_its_connection_back(self):
        self.api.put("k", order(1))
        self.pg.sql("INSERT INTO orders (key, number, status, note) SELECT n, n, 'paid', repeat('x', 1000) FROM generate_series(1, 20000) n")
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", self.api.port)
            connection.request("GET", "/orders")
            connection.getresponse().read(1000)
            connection.close()
            wait_for(lambda: self.api.stats()["connections"]["now"] == 0, what="the connection")
        self.assertEqual(len(self.api.orders()), 20001)

    def test_a_list_that_the_database_breaks_off_is_no_whole_answer(self):
        self.pg.sql("INSERT INTO orders (key, number, status, note) SELECT n, n, 'paid', repeat('x', 1000) FROM generate_series(1, 20000) n")
        connection = http.client.HTTPConnection("127.0.0.1", self.api.port)
        connection.request("GET", "/orders")
        answer = connection.getresponse()
        answer.read(1000)
        self.pg.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'orders-api'")
        with self.assertRaises(http.client.IncompleteRead):
            answer.read()
        connection.close()

    def test_requests_are_counted_by_kind_and_how_many_were_at_once(self):
        self.api.rules(latency="1ms")
        with concurrent.futures.ThreadPoolExecutor(2) as several:
            list(several.map(lambda n: self.api.put(str(n), order(n)), range(40)))
        self.api.put("k", {})
        stats = self.api.stats()
        self.assertEqual((stats["requests"], stats["by_method"], stats["refused"]), (41, {"PUT": 41}, 1))
        self.assertEqual(stats["by_status"], {"201": 40, "422": 1})
        self.assertLessEqual(stats["at_once"]["most"], 2)
        self.assertEqual(stats["at_once"]["most_of_a_key"], 1)
        self.api.reset_stats()
        self.assertEqual(self.api.stats()["requests"], 0)


class Rules(Base):
    def test_documents_are_refused_by_what_stands_in_a_field(self):
        self.api.rules(refuse=[{"field": "/status", "value": "lost", "message": "lost is no status"},
                               {"field": "/lines/*/sku", "value": "SKU-2-1", "status": 400}, {"field": "/gift"}])
        status, _, text = self.api.request("PUT", "/orders/k", order(1, "lost"))
        self.assertEqual((status, text), (422, "lost is no status\n"))
        self.assertEqual([self.api.put("k", order(2, lines=2)), self.api.put("k", order(1, gift=False)), self.api.put("k", order(1))], [400, 422, 201])
        self.api.rules()
        self.assertEqual(self.api.put("k", order(1, "lost")), 204)

    def test_it_fails_so_often_so_long_each_nth_time_and_by_method(self):
        self.api.rules(fail=[{"status": 500, "count": 2}, {"method": "DELETE", "retry_after": "7"}])
        self.assertEqual([self.api.put("k", order(1)) for _ in range(3)], [500, 500, 201])
        status, headers, _ = self.api.request("DELETE", "/orders/k")
        self.assertEqual((status, headers["Retry-After"]), (503, "7"))
        self.api.rules(fail=[{"every": 3, "status": 500}])
        self.assertEqual([self.api.put("k", order(1)) for _ in range(6)], [204, 204, 500, 204, 204, 500])
        self.api.rules(fail=[{"for": "50ms"}])
        wait_for(lambda: self.api.put("k", order(1)) == 204, what="the end of the failure")

    def test_it_closes_before_the_commit_or_after_it(self):
        for moment, there in ("before", None), ("after", order(1)):
            self.api.rules(fail=[{"close": moment, "count": 1}])
            with self.assertRaises(http.client.RemoteDisconnected):
                self.api.put("k", order(1))
            self.assertEqual(self.api.get("k"), there)
        self.assertEqual(self.api.stats()["by_status"]["none"], 2)
        self.assertEqual(self.api.stats()["at_once"]["now"], 0)

    def test_rules_that_are_no_good_are_refused_and_those_before_stay(self):
        self.api.rules(refuse=[{"field": "/gift"}])
        for wrong in ('{"fail":[{"status":200}]}', '{"fail":[{"close":"maybe"}]}', '{"refuse":[{}]}', '{"latency":"soon"}', '{"typo":1}', "[]", "{",
                      '{"fail":[{"every":0}]}', '{"refuse":[{"field":"gift"}]}', '{"fail":[{"for":3}]}'):
            self.assertEqual(self.api.request("PUT", "/_rules", wrong)[0], 400, wrong)
        self.assertEqual(json.loads(self.api.request("GET", "/_rules")[2]), {"refuse": [{"field": "/gift"}]})
        self.assertEqual(self.api.request("DELETE", "/_rules")[0], 204)
        self.assertEqual(self.api.request("GET", "/_rules")[2], "{}\n")


class Kills(Base):
    options = ("--connections", "4", "--version-header", "X-Version")

    def test_what_was_answered_with_2xx_is_there_after_kills_of_it_and_of_postgres(self):
        stored, ended = {}, threading.Event()

        def write(writer):
            number = 0
            while not ended.is_set():
                number += 1
                key = f"{writer}-{number % 10}"
                try:
                    if self.api.put(key, order(number), X_Version=number) in (201, 204):
                        stored[key] = number
                except (OSError, http.client.HTTPException):
                    pass
        writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
        for writer in writers:
            writer.start()
        try:
            for victim in (self.api, self.pg) * 3:
                before = dict(stored)
                wait_for(lambda: len(stored) == 30 and all(stored[key] > before.get(key, 0) for key in list(stored)), what="a write of each key")
                victim.kill(signal.SIGKILL)
                victim.start()
        finally:
            ended.set()
            for writer in writers:
                writer.join()
        found = wait_for(lambda: self.api.request("GET", "/orders")[0] == 200 and self.api.orders(), what="the database")
        for key, number in stored.items():
            self.assertEqual(found[key], order(found[key]["number"]))
            self.assertGreaterEqual(found[key]["number"], number)

    def test_without_the_database_it_answers_503_and_starts_nevertheless(self):
        self.pg.stop()
        status, headers, _ = self.api.request("PUT", "/orders/k", order(1))
        self.assertEqual((status, headers["Retry-After"]), (503, "1"))
        self.api.kill()
        self.api.start()
        self.assertEqual(self.api.request("GET", "/orders")[0], 503)
        self.assertEqual(self.api.stats()["unavailable"], 1)
        self.pg.start()
        self.pg.sql("DROP TABLE order_lines, orders, order_versions")
        self.assertEqual([self.api.put("k", order(1)), self.api.get("k")], [201, order(1)])

    def test_what_is_wrong_with_the_command_is_told(self):
        for arguments, why in [(["nonsense"], "nonsense"), (["postgresql://u:secret@h/d"], "a password does not belong"), (["--connections", "0"], "at least one"),
                               (["--conflict", "400"], "409 or 412"), ([self.pg.url.replace("/postgres", "/nowhere")], "nowhere")]:
            done = run([tool("orders-api"), *arguments], env=self.pg.environment)
            self.assertEqual((done.exit, why in done.stderr, "secret" in done.stderr), (2, True, False), done)


if __name__ == "__main__":
    unittest.main()

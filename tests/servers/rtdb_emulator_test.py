"""rtdb-emulator: the REST API as the vendor documents it, faults, streams, counters, and what is there after a kill."""
import http.client
import json
import pathlib
import sys
import unittest
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import run, tool, wait_for
from rtdb_server import RtdbServer

TREE = {"jack": {"name": {"first": "Jack", "last": "Sparrow"}, "age": 40}, "jill": {"age": 7.5, "ok": True}}


class Base(unittest.TestCase):
    options = ()

    def setUp(self):
        self.db = self.enterContext(RtdbServer(*self.options)) if hasattr(self, "enterContext") else None
        if self.db is None:
            self.db = RtdbServer(*self.options)
            self.db.__enter__()
            self.addCleanup(self.db.__exit__)

    def get(self, path, **arguments):
        return self.db.get(path, **arguments)


class Documents(Base):
    def test_what_was_put_is_read_at_every_depth(self):
        self.db.put("users", TREE)
        self.assertEqual(self.get("users"), TREE)
        self.assertEqual(self.get("users/jack/name/first"), "Jack")
        self.assertIsNone(self.get("users/nobody"))
        self.assertEqual(self.db.request("GET", "users/jack/age")[2], b"40\n")

    def test_patch_changes_the_named_members_also_by_paths(self):
        self.db.put("users", TREE)
        self.db.patch("users", {"jack/name/last": "Jones", "jill": None, "joe": 1})
        self.assertEqual(self.get("users"), {"jack": {"name": {"first": "Jack", "last": "Jones"}, "age": 40}, "joe": 1})

    def test_post_names_its_children_so_that_they_stand_in_order(self):
        names = [self.db.json("POST", "list", {"n": n})["name"] for n in range(70)]
        self.assertEqual(sorted(names), names)
        self.assertEqual([v["n"] for _, v in sorted(self.get("list").items())], list(range(70)))
        self.assertTrue(all(len(n) == 20 for n in names))

    def test_delete_takes_emptied_parents_away(self):
        self.db.put("a/b/c", 1)
        self.assertEqual(self.db.request("DELETE", "a/b/c")[::2], (200, b"null\n"))
        self.assertIsNone(self.get("a"))

    def test_a_value_below_a_scalar_replaces_it_and_nothing_below_it_does_not(self):
        self.db.put("a", 5)
        self.db.put("a/b", None)
        self.assertEqual(self.get("a"), 5)
        self.db.put("a/b", 6)
        self.assertEqual(self.get("a"), {"b": 6})

    def test_keys_that_need_escaping_come_back(self):
        for key in ("a b", "100%", "a+b", "😀", "ü&=?;", "é" * 384, "%2F"):
            self.db.put(["odd", key], {"is": key})
            self.assertEqual(self.get(["odd", key]), {"is": key})
        self.assertEqual(len(self.get("odd")), 7)

    def test_wrong_keys_depths_and_bodies_are_refused(self):
        for body in (b'{"a.b":1}', b'{"":1}', b'{"a":', b'{"' + b"x" * 769 + b'":1}', b"{'a':1}"):
            status, _, text = self.db.request("PUT", "x", body=body)
            self.assertEqual(status, 400, body)
            self.assertIn("error", json.loads(text))
        deep = "1"
        for _ in range(40):
            deep = '{"a":%s}' % deep
        self.assertEqual(self.db.request("PUT", "x", body=deep.encode())[0], 400)
        self.assertEqual(self.db.request("GET", "a$b")[0], 400)
        self.assertEqual(self.db.raw("GET", "/x")[0], 404)

    def test_most_keys_from_0_on_are_an_array(self):
        self.db.put("list", ["a", "b", None, "d"])
        self.assertEqual(self.get("list"), ["a", "b", None, "d"])
        self.assertEqual(self.get("list", shallow="true"), {"0": "a", "1": "b", "3": "d"})
        self.db.put("sparse", {"0": "a", "9": "b"})
        self.assertEqual(self.get("sparse"), {"0": "a", "9": "b"})

    def test_shallow_shows_keys_and_refuses_queries(self):
        self.db.put("users", TREE)
        self.assertEqual(self.get("users", shallow="true"), {"jack": True, "jill": True})
        self.assertEqual(self.get("users/jack", shallow="true"), {"name": True, "age": 40})
        self.assertEqual(self.get("users/jack/age", shallow="true"), 40)
        self.assertEqual(self.db.request("GET", "users", shallow="true", orderBy='"$key"')[0], 400)

    def test_print_silent_and_pretty(self):
        status, _, body = self.db.request("PUT", "a", print="silent", body=b'{"b":1}')
        self.assertEqual((status, body), (204, b""))
        self.assertEqual(self.db.request("GET", "a", print="silent")[0], 204)
        self.assertEqual(self.db.request("GET", "a", print="pretty")[2], b'{\n  "b" : 1\n}\n')

    def test_conditional_writes_need_the_etag_of_what_is_there(self):
        tag = self.db.request("GET", "n", headers={"X-Firebase-ETag": "true"})[1]["ETag"]
        self.assertEqual(tag, "null_etag")
        self.assertEqual(self.db.request("PUT", "n", body=b"1", headers={"if-match": tag})[0], 200)
        status, headers, body = self.db.request("PUT", "n", body=b"2", headers={"if-match": tag})
        self.assertEqual((status, body), (412, b"1\n"))
        self.assertEqual(self.db.request("DELETE", "n", headers={"if-match": headers["ETag"]})[0], 200)
        self.assertNotIn("ETag", self.db.request("GET", "n")[1])

    def test_server_time(self):
        self.db.put("t", {"at": {".sv": "timestamp"}})
        self.assertGreater(self.get("t/at"), 1_500_000_000_000)

    def test_queries_that_contradict_themselves_are_refused(self):
        self.db.put("users", TREE)
        for bad in ({"startAt": '"a"'}, {"orderBy": "age"}, {"orderBy": '"$key"', "startAt": "1"},
                    {"orderBy": '"age"', "limitToFirst": "0"}, {"orderBy": '"age"', "limitToFirst": "1", "limitToLast": "1"},
                    {"orderBy": '"age"', "equalTo": "1", "startAt": "1"}):
            self.assertEqual(self.db.request("GET", "users", **bad)[0], 400, bad)

    def test_an_answer_beyond_the_limit_is_too_big(self):
        self.db.put("big", {f"k{i}": "x" * 100 for i in range(100)})
        self.db.control(max_response=5000)
        status, _, body = self.db.request("GET", "big")
        self.assertEqual(status, 400)
        self.assertIn("exceeds the maximum size", json.loads(body)["error"])
        self.assertEqual(len(self.get("big", orderBy='"$key"', limitToFirst="10")), 10)


class Filled(Base):
    options = ("--documents", "200", "--seed", "7")

    def test_the_same_documents_by_seed_and_others_by_another(self):
        orders = self.get("orders")
        self.assertEqual(len(orders), 200)
        self.assertTrue(all(o["lines"] and o["customer"]["address"]["zip"] for o in orders.values()))
        self.assertTrue(any("%" in k for k in orders) and any("😀" in k for k in orders))
        with RtdbServer("--documents", "200", "--seed", "7") as again, RtdbServer("--documents", "200", "--seed", "8") as other:
            self.assertEqual(again.get("orders"), orders)
            self.assertNotEqual(other.get("orders"), orders)
        for key, order in list(orders.items())[:50]:  # a document that is written again is the same
            before = self.db.request("GET", ["orders", key])[2]
            self.db.put(["orders", key], order)
            self.assertEqual(self.db.request("GET", ["orders", key])[2], before)

    def test_it_counts_requests_documents_and_the_busiest_second(self):
        self.get("orders", shallow="true")
        self.get("orders", orderBy='"$key"', limitToFirst="30")
        self.get(["orders", next(iter(self.get("orders", shallow="true")))])
        stats = self.db.stats()
        self.assertEqual(stats["requests"], 4)
        self.assertEqual({k: v for k, v in stats["by_kind"].items() if v}, {"get": 1, "shallow": 2, "query": 1})
        self.assertEqual(stats["documents"], 31)
        self.assertEqual(stats["in_flight"]["peak"], 1)
        self.assertGreaterEqual(stats["busiest_second"]["documents"], 1)
        self.db.control(reset="stats")
        self.assertEqual(self.db.stats()["requests"], 0)


class Faults(Base):
    options = ("--documents", "10", "--keep-alive", "100ms")

    def test_each_is_what_it_says_as_often_as_it_says(self):
        self.db.control(fault="error", status=503, count=1, kind="get")
        self.get("orders", shallow="true")  # of another kind
        self.assertEqual(self.db.request("GET", "orders")[0], 503)
        self.assertEqual(self.db.request("GET", "orders")[0], 200)
        self.db.control(fault="too-big", count=1)
        self.assertEqual(self.db.request("GET", "orders")[0], 400)
        self.db.control(fault="html", count=1)
        self.assertIn(b"<html>", self.db.request("GET", "orders")[2])
        self.db.control(fault="cut", count=1)
        with self.assertRaises(http.client.IncompleteRead):
            self.db.request("GET", "orders")
        self.db.control(fault="close", count=1)
        with self.assertRaises((http.client.RemoteDisconnected, ConnectionResetError)):
            self.db.request("GET", "orders")
        self.assertEqual(self.db.request("GET", "orders")[0], 200)

    def test_a_redirect_leads_to_the_same_place(self):
        self.db.control(fault="redirect", count=1)
        status, headers, _ = self.db.request("GET", ["orders", "a b%"], shallow="true")
        self.assertEqual(status, 307)
        self.assertEqual(urllib.parse.urlsplit(headers["Location"]).hostname, "localhost")
        self.assertEqual(self.db.raw("GET", headers["Location"].split(str(self.db.port), 1)[1])[0], 200)

    def test_tokens_are_asked_for_where_there_are_some(self):
        self.db.control(accept="secret")
        self.assertEqual(self.db.request("GET", "orders")[0], 401)
        self.assertEqual(self.db.request("GET", "orders", auth="secret")[0], 200)
        self.assertEqual(self.db.request("GET", "orders", access_token="secret")[0], 200)
        bearer = {"Authorization": "Bearer secret"}
        self.assertEqual(self.db.request("GET", "orders", headers=bearer)[0], 200)
        self.db.control(expire="secret")
        self.assertIn(b"expired", self.db.request("GET", "orders", headers=bearer)[2])


class Streams(Base):
    options = ("--keep-alive", "100ms")

    def test_a_snapshot_and_then_each_change_as_it_is_seen_from_there(self):
        self.db.put("a/b", {"c": 1, "d": 2})
        with self.db.stream("a/b") as stream:
            self.assertEqual(stream.next(), ("put", {"path": "/", "data": {"c": 1, "d": 2}}))
            self.db.put("a/b/c", 3)
            self.assertEqual(stream.next(), ("put", {"path": "/c", "data": 3}))
            self.db.patch("a/b", {"d": None, "e/f": 4})
            self.assertEqual(stream.next(), ("patch", {"path": "/", "data": {"d": None, "e/f": 4}}))
            self.db.put("elsewhere", 1)
            self.db.patch("a", {"b/c": 5, "x": 1})  # from above
            self.assertEqual(stream.next(), ("put", {"path": "/c", "data": 5}))
            self.db.put("a", {"b": 7})
            self.assertEqual(stream.next(), ("put", {"path": "/", "data": 7}))
            self.db.request("DELETE", "a")
            self.assertEqual(stream.next(), ("put", {"path": "/", "data": None}))

    def test_keep_alive_comes_until_it_is_silenced(self):
        with self.db.stream("a") as stream:
            stream.next()
            self.assertEqual(stream.next(keep_alive=True), ("keep-alive", None))

    def test_cancel_and_auth_revoked_end_it(self):
        for what in ("cancel", "auth_revoked"):
            with self.db.stream("a") as stream:
                stream.next()
                self.db.control(streams=what)
                self.assertEqual(stream.next()[0], what)
                self.assertIsNone(stream.next())

    def test_an_expired_token_ends_its_streams_only(self):
        self.db.control(accept="one")
        self.db.control(accept="two")
        with self.db.stream("a", auth="one") as one, self.db.stream("a", auth="two") as two:
            one.next(), two.next()
            self.db.control(expire="one")
            self.assertEqual(one.next()[0], "auth_revoked")
            self.db.put("a", 1, auth="two")
            self.assertEqual(two.next()[0], "put")

    def test_a_client_that_is_gone_is_noticed(self):
        with self.db.stream("a") as stream:
            stream.next()
            self.assertEqual(self.db.stats()["streams"]["open"], 1)
        wait_for(lambda: self.db.stats()["streams"]["open"] == 0, what="the stream's end")


class Killed(unittest.TestCase):
    def test_what_was_answered_is_there_again(self):
        with RtdbServer("--documents", "20", "--data", "{dir}/log") as db:
            keys = list(db.get("orders", shallow="true"))
            db.put(["orders", keys[0]], {"new": True})
            db.patch("orders", {keys[1]: None, keys[2] + "/note": "x"})
            before = db.get("orders")
            with open(db.dir / "log", "ab") as log:
                db.kill()
                log.write(b'{"path":"/ord')
            db.start()
            self.assertEqual(db.get("orders"), before)
            db.put("orders/z", 1)
            db.kill()
            db.start()
            self.assertEqual(db.get("orders/z"), 1)

    def test_wrong_options_end_with_2(self):
        self.assertEqual(run([tool("rtdb-emulator"), "--no-such"]).exit, 2)
        self.assertEqual(run([tool("rtdb-emulator"), "--keep-alive", "soon"]).exit, 2)


if __name__ == "__main__":
    unittest.main()

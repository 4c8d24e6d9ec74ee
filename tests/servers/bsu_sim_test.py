"""bsu-sim itself: other tests trust what it says, so here it is checked with python's own client and XML parser."""
import base64
import gzip
import http.client
import json
import re
import socket
import subprocess
import unittest
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET

from harness import Server, run, tool, wait_for

AT = "2026-03-01T12:00:00Z"


def sim(*options):
    return Server([tool("bsu-sim"), "--port", "0", *options])


def get(server, path, headers=None, timeout=30):
    """(status, headers, body) of any answer."""
    request = urllib.request.Request(server.url + path, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers, answer.read()


def stats(server, unit=None):
    return json.loads(get(server, f"/stats/{unit}" if unit else "/stats")[2])


def control(server, **arguments):
    query = urllib.parse.urlencode(arguments)
    request = urllib.request.Request(f"{server.url}/control?{query}", data=b"", method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())["changed"]


def ids(server):
    return get(server, "/bsus")[2].decode().split()


def time_of(document):
    """The time of measurement wherever a firmware puts it."""
    root = ET.fromstring(document)
    for value in (root.get("time"), root.findtext("time"), *(d.get("t") for d in root.findall("d"))):
        if value:
            return value
    raise AssertionError(f"no time in {document!r}")


class Documents(unittest.TestCase):
    def documents(self, firmware):
        with sim("--units", "60", "--firmware", firmware, "--at", AT) as s:
            found = [get(s, f"/bsus/{unit}") for unit in ids(s)]
        self.assertEqual({status for status, _, _ in found}, {200})
        self.assertEqual({headers["Content-Type"] for _, headers, _ in found}, {"application/xml"})
        bodies = [body for _, _, body in found]
        for body in bodies:
            self.assertGreater(len(body), 600)
            self.assertLess(len(body), 900)
        return bodies

    def check_plain(self, root):
        self.assertEqual(root.tag, "bsu")
        self.assertRegex(root.get("id"), r"^bsu-\d{5}$")
        self.assertEqual(root.get("time")[:19], AT[:19])
        for name, low, high in (("power", -100, 100), ("energy", 0, 1e8), ("voltage", 600, 850), ("temperature", 0, 60),
                                ("soc", 0, 100), ("frequency", 49, 51)):
            self.assertTrue(low <= float(root.findtext(name)) <= high, name)
        self.assertAlmostEqual(float(root.findtext("power")) * 1000,
                               float(root.findtext("voltage")) * float(root.findtext("current")), delta=20)
        self.assertIn(root.findtext("status"), ("idle", "charging", "discharging", "fault"))

    def test_the_plain_firmware_writes_attributes_and_four_modules(self):
        bodies = self.documents("attributes")
        for body in bodies:
            root = ET.fromstring(body)
            self.check_plain(root)
            self.assertEqual([m.get("n") for m in root.findall("module")], ["1", "2", "3", "4"])
        self.assertGreater(len({ET.fromstring(body).findtext("soc") for body in bodies}), 20, "units differ")

    def test_one_firmware_has_a_single_module(self):
        for body in self.documents("single"):
            root = ET.fromstring(body)
            self.check_plain(root)
            self.assertEqual(len(root.findall("module")), 1)
            self.assertEqual(root.findtext("comment"), "inverter <ok> & grid <ok>")

    def test_one_firmware_writes_elements_where_others_have_attributes(self):
        for body in self.documents("elements"):
            root = ET.fromstring(body)
            self.assertEqual((root.tag, root.attrib), ("bsu", {}))
            self.assertEqual(root.findtext("time")[:19], "2026-03-01T14:00:00")
            self.assertTrue(root.findtext("time").endswith("+02:00"))
            self.assertEqual(len(root.findall("modules/module/voltage")), 4)

    def test_one_firmware_writes_latin_1(self):
        sites = set()
        for body in self.documents("latin1"):
            self.assertIn(b'encoding="ISO-8859-1"', body)
            root = ET.fromstring(body)
            self.check_plain(root)
            sites.add(root.findtext("site"))
        self.assertIn("Mühlhöfe 3", sites)

    def test_one_firmware_uses_namespaces(self):
        for body in self.documents("namespaces"):
            root = ET.fromstring(body)
            self.assertEqual(root.tag, "{urn:example:bsu:4}bsu")
            self.assertIsNotNone(root.findtext("{urn:example:meter}power"))
            self.assertIsNotNone(root.find("{urn:example:bsu:4}module").get("{urn:example:meter}voltage"))

    def test_sunspec_units_speak_data_exchange(self):
        for body in self.documents("sunspec"):
            root = ET.fromstring(body)
            self.assertEqual((root.tag, root.get("v")), ("SunSpecData", "1"))
            self.assertEqual([m.get("id") for m in root.findall("d/m")], ["1", "103", "802"])
            self.assertTrue(0 <= float(root.findtext("d/m[@id='802']/p[@id='SoC']")) <= 100)

    def test_a_default_fleet_mixes_all_firmware_and_some_units_have_alarms(self):
        with sim("--units", "400", "--at", AT) as s:
            kinds = [json.loads(line)["firmware"] for line in get(s, "/stats/all")[2].splitlines()]
            bodies = [get(s, f"/bsus/{unit}")[2] for unit in ids(s)]
        self.assertEqual(set(kinds), {"attributes", "single", "elements", "latin1", "namespaces", "sunspec"})
        self.assertEqual(kinds.count("sunspec"), 40)
        for body in bodies:
            ET.fromstring(body)
        alarms = [body for body in bodies if b"alarm code=" in body]
        self.assertTrue(0 < len(alarms) < 40, len(alarms))


class Determinism(unittest.TestCase):
    def fleet(self, *options):
        with sim("--units", "50", "--at", AT, *options) as s:
            return [get(s, f"/bsus/{unit}")[2] for unit in ids(s)]

    def test_the_same_seed_gives_the_same_fleet_and_another_seed_another(self):
        first = self.fleet("--seed", "7")
        self.assertEqual(first, self.fleet("--seed", "7"))
        self.assertNotEqual(first, self.fleet("--seed", "8"))

    def test_the_same_units_fail_by_seed_and_each_share_is_exact(self):
        def faults(seed):
            with sim("--units", "100", "--seed", seed, "--black-hole", "0.2", "--error", "10%", "--cut", "0.05") as s:
                return {u["id"]: u["fault"] for u in map(json.loads, get(s, "/stats/all")[2].splitlines())}
        first = faults("7")
        self.assertEqual(first, faults("7"))
        self.assertNotEqual(first, faults("8"))
        count = list(first.values()).count
        self.assertEqual([count(f) for f in ("black-hole", "error", "cut", "none")], [20, 10, 5, 65])

    def test_each_answer_of_a_unit_is_newer_than_the_last(self):
        with sim("--units", "1", "--at", AT, "--firmware", "attributes") as s:
            times = [time_of(get(s, "/bsus/bsu-00001")[2]) for _ in range(5)]
        self.assertEqual(times, [f"2026-03-01T12:00:00.{i:03}Z" for i in range(5)])


class Conditional(unittest.TestCase):
    def test_an_unchanged_value_is_a_304_by_etag_and_by_date(self):
        with sim("--units", "2", "--at", AT, "--change-every", "10s") as s:
            status, headers, body = get(s, "/bsus/bsu-00001")
            self.assertEqual((status, body), (200, get(s, "/bsus/bsu-00001")[2]))
            etag, modified = headers["ETag"], headers["Last-Modified"]
            self.assertEqual(modified, "Sun, 01 Mar 2026 12:00:00 GMT")
            self.assertEqual(get(s, "/bsus/bsu-00001", {"If-None-Match": etag})[::2], (304, b""))
            self.assertEqual(get(s, "/bsus/bsu-00001", {"If-None-Match": f'"other", W/{etag}'})[0], 304)
            self.assertEqual(get(s, "/bsus/bsu-00002", {"If-None-Match": etag})[0], 200)
            self.assertEqual(get(s, "/bsus/bsu-00001", {"If-Modified-Since": modified})[0], 304)
            self.assertEqual(get(s, "/bsus/bsu-00001", {"If-Modified-Since": "Sun, 01 Mar 2026 11:59:59 GMT"})[0], 200)
            # RFC 9110: the date does not count where an ETag was given.
            both = {"If-None-Match": '"other"', "If-Modified-Since": modified}
            self.assertEqual(get(s, "/bsus/bsu-00001", both)[0], 200)
            self.assertEqual(stats(s, "bsu-00001")["outcomes"]["not_modified"], 3)

    def test_by_default_each_answer_is_new(self):
        with sim("--units", "1") as s:
            etag = get(s, "/bsus/bsu-00001")[1]["ETag"]
            status, headers, _ = get(s, "/bsus/bsu-00001", {"If-None-Match": etag})
            self.assertEqual(status, 200)
            self.assertNotEqual(headers["ETag"], etag)

    def test_gzip_is_for_those_who_accept_it(self):
        with sim("--units", "1", "--at", AT, "--change-every", "10s", "--gzip") as s:
            _, headers, plain = get(s, "/bsus/bsu-00001")
            self.assertIsNone(headers["Content-Encoding"])
            _, headers, packed = get(s, "/bsus/bsu-00001", {"Accept-Encoding": "deflate, gzip"})
            self.assertEqual(headers["Content-Encoding"], "gzip")
            self.assertLess(len(packed), len(plain))
            self.assertEqual(gzip.decompress(packed), plain)

    def test_a_connection_is_kept_for_many_requests(self):
        with sim("--units", "10") as s:
            client = http.client.HTTPConnection("127.0.0.1", s.port, timeout=30)
            for unit in ids(s) * 10:
                client.request("GET", f"/bsus/{unit}")
                ET.fromstring(client.getresponse().read())
            client.request("GET", "/stats")
            seen = json.loads(client.getresponse().read())
            client.close()
        self.assertEqual(seen["polls"], 100)
        self.assertEqual(seen["connections"]["accepted"], 2, "one for the ids, one for all the rest")


class History(unittest.TestCase):
    RANGE = "since=2026-03-01T10:00:00Z&until=2026-03-01T11:00:00Z"

    def test_a_range_holds_its_readings_at_the_cadence_and_the_end_is_open(self):
        with sim("--units", "3", "--at", AT, "--cadence", "10s") as s:
            status, _, body = get(s, f"/bsus/bsu-00003/history?{self.RANGE}")
            again = get(s, f"/bsus/bsu-00003/history?{self.RANGE}")[2]
            offset = get(s, "/bsus/bsu-00003/history?since=2026-03-01T12:00:00%2B02:00&until=2026-03-01T11:00:00Z")[2]
            empty = get(s, "/bsus/bsu-00003/history?since=2026-03-01T10:00:01Z&until=2026-03-01T10:00:02Z")[2]
            future = get(s, "/bsus/bsu-00003/history?since=2026-03-01T11:59:30Z&until=2027-01-01T00:00:00Z")[2]
        root = ET.fromstring(body)
        times = [reading.get("time") for reading in root.findall("reading")]
        self.assertEqual((status, root.get("unit"), len(times)), (200, "bsu-00003", 360))
        self.assertEqual((times[0], times[-1]), ("2026-03-01T10:00:00.000Z", "2026-03-01T10:59:50.000Z"))
        self.assertEqual(times, sorted(set(times)))
        energy = [float(reading.findtext("energy")) for reading in root.findall("reading")]
        self.assertEqual(energy, sorted(energy), "what was moved never becomes less")
        self.assertEqual(body, again)
        self.assertEqual([r.get("time") for r in ET.fromstring(offset)], times)
        self.assertEqual(len(ET.fromstring(empty)), 0)
        last = ET.fromstring(future)[-1].get("time")
        self.assertEqual(last, "2026-03-01T12:00:00.000Z", "nothing is known of the future")

    def test_a_polled_value_and_the_history_of_that_time_agree(self):
        with sim("--units", "1", "--at", AT, "--change-every", "10s", "--firmware", "attributes") as s:
            now = ET.fromstring(get(s, "/bsus/bsu-00001")[2])
            query = "since=2026-03-01T12:00:00Z&until=2026-03-01T12:00:01Z"
            past = ET.fromstring(get(s, f"/bsus/bsu-00001/history?{query}")[2])
        self.assertEqual(past[0].get("time"), now.get("time"))
        for name in ("power", "energy", "voltage", "current", "temperature", "soc", "status"):
            self.assertEqual(past[0].findtext(name), now.findtext(name))

    def test_a_long_range_is_streamed_whole(self):
        with sim("--units", "1", "--at", AT, "--cadence", "1s") as s:
            body = get(s, "/bsus/bsu-00001/history?since=2026-02-28T12:00:00Z&until=2026-03-01T12:00:00Z")[2]
        self.assertEqual(len(ET.fromstring(body).findall("reading")), 86400)

    def test_a_bad_range_is_refused(self):
        with sim("--units", "1") as s:
            for query in ("", "?since=2026-03-01T10:00:00Z", "?since=yesterday&until=today",
                          "?since=2026-02-30T10:00:00Z&until=2026-03-01T10:00:00Z",
                          "?since=2026-03-02T10:00:00Z&until=2026-03-01T10:00:00Z"):
                self.assertEqual(get(s, f"/bsus/bsu-00001/history{query}")[0], 400, query)


class Past(unittest.TestCase):
    """What is written instead of being served."""

    def past(self, *options):
        result = run([tool("bsu-sim"), "--units", "6", *options])
        self.assertEqual((result.exit, result.stderr), (0, ""))
        return [json.loads(line) for line in result.stdout.splitlines()]

    def test_each_unit_is_polled_once_a_cadence_and_the_order_is_that_of_time(self):
        events = self.past("--firmware", "attributes", "--cadence", "1m", "--from", AT, "--to", "2026-03-01T12:03:00Z")
        self.assertEqual([event["subject"] for event in events], [f"bsu-{n:05}" for n in range(1, 7)] * 3)
        times = [time_of(event["data"]) for event in events]
        self.assertEqual(times, [f"2026-03-01T12:{minute:02}:{second:02}.000Z" for minute in range(3) for second in range(0, 60, 10)])
        self.assertEqual(len({event["id"] for event in events}), 18)
        self.assertEqual(events[1]["id"], f"bsu-00002/{events[1]['recordedtime']}")
        self.assertEqual((events[1]["type"], events[1]["recordedtime"]), ("bsu.reading", "2026-03-01T12:00:10.005Z"))

    def test_a_reading_of_the_past_is_the_one_that_is_served_at_that_time(self):
        for firmware in "attributes", "latin1":
            past = self.past("--firmware", firmware, "--from", AT, "--to", "2026-03-01T12:00:01Z")
            with sim("--units", "6", "--firmware", firmware, "--at", AT) as s:
                served = get(s, "/bsus/bsu-00001")[2]
            event = past[0]
            self.assertEqual(event["data"].encode() if "data" in event else base64.b64decode(event["data_base64"]), served)

    def test_the_same_options_write_the_same_past(self):
        options = ("--from", AT, "--to", "2026-03-01T12:00:30Z")
        self.assertEqual(self.past(*options), self.past(*options))
        self.assertNotEqual(self.past(*options), self.past(*options, "--seed", "2"))

    def test_an_output_that_is_full_is_told(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([tool("bsu-sim"), "--units", "1", "--from", AT, "--to", "2026-03-01T12:00:30Z"], stdout=full, stderr=subprocess.PIPE)
        self.assertEqual((done.returncode, done.stderr), (1, b"bsu-sim: standard output: No space left on device\n"))


class Faults(unittest.TestCase):
    def test_malformed_documents_are_refused_by_a_parser_in_six_ways(self):
        with sim("--units", "1", "--malformed", "1") as s:
            messages = set()
            for _ in range(12):
                with self.assertRaises(ET.ParseError) as refused:
                    ET.fromstring(get(s, "/bsus/bsu-00001")[2])
                messages.add(re.sub(r":.*", "", str(refused.exception)))
            self.assertGreaterEqual(len(messages), 3, messages)
            self.assertEqual(stats(s)["outcomes"]["malformed"], 12)

    def test_a_reshaping_unit_sends_good_xml_of_many_shapes(self):
        with sim("--units", "1", "--reshape", "1") as s:
            roots = [ET.fromstring(get(s, "/bsus/bsu-00001")[2]).tag for _ in range(14)]
        self.assertEqual(set(roots), {"bsu", "{urn:example:bsu:4}bsu", "SunSpecData", "{urn:example:bsu:5}device"})

    def test_errors_are_500_and_503_in_turn_and_only_the_second_says_when_to_come_again(self):
        with sim("--units", "1", "--error", "1") as s:
            answers = [get(s, "/bsus/bsu-00001")[:2] for _ in range(4)]
            control(s, unit="bsu-00001", fault="error", status=429)
            limited = get(s, "/bsus/bsu-00001")[0]
        self.assertEqual([(status, headers["Retry-After"]) for status, headers in answers],
                         [(500, None), (503, "1"), (500, None), (503, "1")])
        self.assertEqual(limited, 429)

    def test_a_cut_connection_ends_in_the_middle_of_the_body(self):
        with sim("--units", "1", "--cut", "1") as s:
            for path in ("/bsus/bsu-00001", f"/bsus/bsu-00001/history?{History.RANGE}"):
                with self.assertRaises(http.client.IncompleteRead) as cut:
                    get(s, path)
                self.assertGreater(len(cut.exception.partial), 100)

    def test_a_black_hole_never_answers_and_gives_the_connection_back_when_the_client_leaves(self):
        with sim("--units", "2", "--change-every", "10s") as s:
            control(s, unit="bsu-00002", fault="black-hole")
            client = socket.create_connection(("127.0.0.1", s.port))
            client.sendall(b"GET /bsus/bsu-00002 HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: stats(s)["held"]["now"] == 1, what="the request to be held")
            self.assertEqual(get(s, "/bsus/bsu-00001")[0], 200, "others are answered meanwhile")
            client.setblocking(False)
            with self.assertRaises(BlockingIOError):
                client.recv(1)
            client.close()
            wait_for(lambda: stats(s)["held"]["now"] == 0, what="the request to be given up")
            wait_for(lambda: stats(s)["connections"]["open"] <= 1, what="the connection to be closed")
            self.assertEqual(stats(s, "bsu-00002")["outcomes"]["black_hole"], 1)

    def test_a_slow_unit_answers_in_the_end_and_holds_up_nobody(self):
        with sim("--units", "2") as s:
            control(s, unit="bsu-00002", fault="slow", duration="300ms")
            client = http.client.HTTPConnection("127.0.0.1", s.port, timeout=30)
            client.request("GET", "/bsus/bsu-00002")
            wait_for(lambda: stats(s)["held"]["peak"] == 1, what="the request to be held")
            self.assertEqual(get(s, "/bsus/bsu-00001")[0], 200)
            answer = client.getresponse()
            ET.fromstring(answer.read())
            client.close()
            self.assertEqual((answer.status, stats(s, "bsu-00002")["outcomes"]["slow"]), (200, 1))

    def test_many_requests_are_held_at_once_and_the_server_still_ends_cleanly(self):
        with sim("--units", "300", "--black-hole", "1") as s:
            clients = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(300)]
            for number, client in enumerate(clients, 1):
                client.sendall(b"GET /bsus/bsu-%05d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
            wait_for(lambda: stats(s)["held"]["now"] == 300, what="300 requests to be held")
            self.assertEqual(s.stop(), 0)
            self.assertEqual(s.stderr(), "")
            for client in clients:
                client.close()

    def test_faults_are_switched_on_and_off_while_it_runs(self):
        with sim("--units", "20") as s:
            self.assertEqual(control(s, unit="bsu-00017,bsu-00003", fault="malformed"), 2)
            with self.assertRaises(ET.ParseError):
                ET.fromstring(get(s, "/bsus/bsu-00017")[2])
            ET.fromstring(get(s, "/bsus/bsu-00016")[2])
            self.assertEqual(stats(s)["faults"]["malformed"], 2)
            self.assertEqual(control(s, unit="all", fault="none"), 20)
            ET.fromstring(get(s, "/bsus/bsu-00017")[2])
            self.assertEqual(control(s, share="25%", fault="error"), 5)
            self.assertEqual(stats(s)["faults"]["error"], 5)
            for bad in ({"unit": "bsu-00021", "fault": "error"}, {"unit": "bsu-00001", "fault": "flood"}, {},
                        {"fault": "error"}, {"unit": "all", "fault": "slow", "duration": "soon"}):
                with self.assertRaises(urllib.error.HTTPError) as refused:
                    control(s, **bad)
                self.assertEqual(refused.exception.code, 400, bad)
                refused.exception.close()


class Accounts(unittest.TestCase):
    def test_every_poll_of_every_unit_is_counted(self):
        with sim("--units", "3") as s:
            for _ in range(10):
                get(s, "/bsus/bsu-00001")
            get(s, "/bsus/bsu-00002")
            get(s, "/bsus/bsu-00004")
            get(s, "/bsus/bsu-1")
            one, two, three = (stats(s, f"bsu-0000{i}") for i in (1, 2, 3))
            fleet = stats(s)
            control(s, reset="stats")
            after = stats(s)
        self.assertEqual([u["polls"] for u in (one, two, three)], [10, 1, 0])
        self.assertEqual([len(u["last_polls"]) for u in (one, two, three)], [8, 1, 0])
        self.assertEqual(one["last_polls"], sorted(one["last_polls"]))
        self.assertLessEqual(one["min_gap_ms"], one["max_gap_ms"])
        self.assertEqual(two["max_gap_ms"], 0)
        self.assertEqual((fleet["polls"], fleet["outcomes"]["ok"], fleet["not_found"]), (11, 11, 2))
        self.assertEqual((fleet["healthy"]["least_polls"], fleet["healthy"]["most_polls"]), (0, 10))
        self.assertEqual(fleet["healthy"]["max_gap_ms"], one["max_gap_ms"])
        self.assertEqual((after["polls"], after["not_found"]), (0, 0))

    def test_the_log_has_each_answer_with_the_time_in_the_document(self):
        with sim("--units", "12", "--log", "{dir}/log", "--firmware", "attributes,sunspec") as s:
            control(s, unit="bsu-00012", fault="error")
            answers = [(unit, get(s, f"/bsus/{unit}")) for unit in ids(s) * 2]
            log = [json.loads(line) for line in (s.dir / "log").read_text().splitlines()]
        self.assertEqual([line["sequence"] for line in log], list(range(1, 25)))
        self.assertEqual([(line["unit"], line["status"]) for line in log], [(unit, a[0]) for unit, a in answers])
        good = [line for line in log if line["status"] == 200]
        self.assertEqual(len(good), 22)
        self.assertEqual([line["time"] for line in good], [time_of(a[2]) for _, a in answers if a[0] == 200])
        self.assertEqual({line["outcome"] for line in log}, {"ok", "error"})

    def test_the_device_list_leads_to_every_unit(self):
        with sim("--units", "5", "--devices", "{dir}/devices") as s:
            devices = [line.split() for line in (s.dir / "devices").read_text().splitlines()]
            self.assertEqual([unit for unit, _ in devices], ids(s))
            for unit, url in devices:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    self.assertIn(unit.encode(), answer.read())


class CommandLine(unittest.TestCase):
    def test_it_ends_cleanly_on_sigterm(self):
        with sim("--units", "1") as s:
            self.assertEqual(s.stdout(), f"bsu-sim: listening on {s.url}\n")
            self.assertEqual((s.stop(), s.stderr()), (0, ""))

    def test_a_port_in_use_is_told(self):
        with sim("--units", "1") as s:
            result = run([tool("bsu-sim"), "--port", str(s.port)])
        self.assertEqual((result.exit, result.stdout), (1, ""))
        self.assertIn(f"port {s.port}", result.stderr)

    def test_bad_options_are_usage_errors(self):
        for options in (["--slow", "0.5"], ["--slow", "0.5:soon"], ["--error", "1.5"], ["--error", "x"],
                        ["--firmware", "none"], ["--error", "0.6", "--cut", "0.6"], ["--at", "noon"], ["--units", "0"],
                        ["--cadence", "5"], ["--from", "noon"], ["--to", AT], ["--frobnicate"]):
            result = run([tool("bsu-sim"), "--port", "0", *options])
            self.assertEqual((result.exit, result.stdout), (2, ""), options)
            self.assertRegex(result.stderr, r"^bsu-sim: [^\n]+\n$")


if __name__ == "__main__":
    unittest.main()

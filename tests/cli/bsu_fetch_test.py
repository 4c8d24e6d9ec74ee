"""bsu-fetch against bsu-sim, whose counters say what really was asked, and against peers that bsu-sim does not play."""
import base64
import contextlib
import datetime
import fcntl
import http.server
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Server, certificate, run, tool, wait_for


def sim(*options):
    return Server([tool("bsu-sim"), "--port", "0", "--devices", "{dir}/fleet.txt", *options])


def fleet_of(server):
    return str(server.dir / "fleet.txt")


def stats(server, unit=""):
    with urllib.request.urlopen(f"{server.url}/stats/{unit}".rstrip("/"), timeout=30) as answer:
        text = answer.read()
    return [json.loads(line) for line in text.splitlines()] if unit == "all" else json.loads(text)


def control(server, **arguments):
    request = urllib.request.Request(f"{server.url}/control?{urllib.parse.urlencode(arguments)}", data=b"", method="POST")
    urllib.request.urlopen(request, timeout=30).close()


def events_of(text):
    return [json.loads(line) for line in text.split("\n") if line]


def payload(event):
    return event["data"].encode() if "data" in event else base64.b64decode(event["data_base64"], validate=True)


def fetch(*options, env=None, **more):
    return run([tool("bsu-fetch"), *options], env={**os.environ, **(env or {})}, **more)


def resident(pid):
    """Bytes, at their peak."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


class Running:
    """bsu-fetch in the background, its output in a folder; stopped in the end."""

    def __init__(self, *options, env=None, stdout=None):
        self.folder = tempfile.TemporaryDirectory()
        self.out = pathlib.Path(self.folder.name) / "out"
        self.err = pathlib.Path(self.folder.name) / "err"
        self.options, self.env, self.stdout_fd = options, env, stdout

    def __enter__(self):
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen([tool("bsu-fetch"), *self.options], stdin=subprocess.DEVNULL,
                                            stdout=out if self.stdout_fd is None else self.stdout_fd, stderr=err,
                                            env={**os.environ, **(self.env or {})})
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(60)

    def events(self):
        """Those whose lines are whole."""
        return events_of(self.out.read_bytes().rpartition(b"\n")[0].decode())

    def stderr(self):
        return self.err.read_text()


@contextlib.contextmanager
def peer(answer):
    """A server that calls answer(handler) for each GET. Gives its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer(self)

        def reply(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def file_of(text):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "file"
        path.write_text(text)
        yield str(path)


class Once(unittest.TestCase):
    def test_each_unit_is_one_event_with_its_payload_untouched(self):
        with sim("--units", "60", "--at", "2026-03-01T12:00:00Z", "--change-every", "1h") as s:
            before = datetime.datetime.now(datetime.timezone.utc)
            done = fetch("--devices", fleet_of(s), "--once")
            self.assertEqual((done.exit, done.stderr), (0, ""))
            events = events_of(done.stdout)
            self.assertEqual(sorted(e["subject"] for e in events), [f"bsu-{i:05}" for i in range(1, 61)])
            for e in events:
                self.assertEqual(list(e)[:7], ["specversion", "id", "source", "type", "subject", "recordedtime", "datacontenttype"])
                self.assertEqual((e["specversion"], e["type"], e["datacontenttype"]), ("1.0", "bsu.reading", "application/xml"))
                self.assertEqual(e["id"], f"{e['subject']}/{e['recordedtime']}")
                self.assertEqual(e["source"], f"{s.url}/bsus/{e['subject']}")
                recorded = datetime.datetime.fromisoformat(e["recordedtime"][:19] + "+00:00")
                self.assertLess(abs((recorded - before).total_seconds()), 120)
                with urllib.request.urlopen(e["source"], timeout=30) as answer:
                    self.assertEqual(payload(e), answer.read())
            self.assertTrue(any("data_base64" in e for e in events), "the fleet has units that write Latin-1")
            self.assertTrue(any("data" in e for e in events))

    def test_connections_are_kept_and_compression_is_undone(self):
        with sim("--units", "200", "--gzip", "--firmware", "attributes") as s:
            done = fetch("--devices", fleet_of(s), "--once", "--max-in-flight", "4")
            self.assertEqual((done.exit, done.stderr), (0, ""))
            events = events_of(done.stdout)
            self.assertEqual(len(events), 200)
            for e in events:
                self.assertTrue(e["data"].startswith("<?xml"), e["data"][:40])
            self.assertLessEqual(stats(s)["connections"]["accepted"], 4 + 2)

    def test_zstd_is_undone(self):
        packed = run(["zstd", "-c"], stdin="<bsu>zstd</bsu>", text=False).stdout
        asked = []

        def answer(handler):
            asked.append(handler.headers["Accept-Encoding"])
            handler.reply(200, packed, Content_Encoding="zstd", Content_Type="text/xml; charset=utf-8")

        with peer(answer) as url, file_of(f"a {url}/\n") as devices:
            done = fetch("--devices", devices, "--once")
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertEqual(events_of(done.stdout)[0]["data"], "<bsu>zstd</bsu>")
        self.assertEqual(events_of(done.stdout)[0]["datacontenttype"], "text/xml")
        self.assertEqual(asked, ["gzip, zstd"])

    def test_control_characters_and_foreign_bytes_survive(self):
        bodies = {"/nul": b"a\0b\x01\"\\\r\n\x7f", "/bad": b"\xff\xfe", "/empty": b"", "/utf8": "ü\u2028😀\ufffd".encode()}
        with peer(lambda h: h.reply(200, bodies[h.path])) as url:
            with file_of("".join(f"{path[1:]} {url}{path}\n" for path in bodies)) as devices:
                done = fetch("--devices", devices, "--once")
        self.assertEqual((done.exit, done.stderr), (0, ""))
        events = {"/" + e["subject"]: e for e in events_of(done.stdout)}
        self.assertEqual({path: payload(e) for path, e in events.items()}, bodies)
        self.assertEqual([path for path, e in events.items() if "data_base64" in e], ["/bad"])
        self.assertEqual({e["datacontenttype"] for e in events.values()}, {"application/xml"})

    def test_what_is_no_media_type_does_not_get_into_the_event(self):
        types = {"/latin": b"\xff\xfe/x", "/words": b"plain text", "/good": b"text/xml;charset=utf-8", "/none": b""}

        def answer(handler):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Type: " + types[handler.path] + b"\r\n\r\nx")

        with peer(answer) as url, file_of("".join(f"{path[1:]} {url}{path}\n" for path in types)) as devices:
            done = fetch("--devices", devices, "--once")
        self.assertEqual((done.exit, done.stderr), (0, ""))
        done.stdout.encode("utf-8")
        self.assertEqual({e["subject"]: e["datacontenttype"] for e in events_of(done.stdout)},
                         {"latin": "application/xml", "words": "application/xml", "good": "text/xml", "none": "application/xml"})

    def test_each_failure_has_its_cause(self):
        def answer(handler):
            if handler.path == "/old":
                handler.wfile.write(b"hello\n")
                handler.close_connection = True
            elif handler.path == "/gzip":
                handler.reply(200, b"no gzip", Content_Encoding="gzip")
            elif handler.path == "/redirect":
                handler.reply(302, Location="/good")
            else:
                handler.reply(304)  # though nobody asked for what has changed

        paths = ("old", "gzip", "redirect", "unasked")
        with peer(answer) as url:
            lines = "".join(f"{path} {url}/{path}\n" for path in paths) + "nowhere http://nowhere.invalid/\n"
            with file_of(lines) as devices:
                done = fetch("--devices", devices, "--once", "--emit-failures")
        causes = {e["subject"]: (e["data"]["cause"], e["data"].get("status")) for e in events_of(done.stdout)}
        self.assertEqual(causes, {"old": ("protocol", None), "gzip": ("encoding", 200), "redirect": ("status", 302),
                                  "unasked": ("status", 304), "nowhere": ("resolve", None)})

    def test_large_answers_at_once_do_not_fill_the_memory(self):
        body = b"<x>" + b"y" * (1 << 20) + b"</x>"
        with peer(lambda h: h.reply(200, body)) as url, file_of("".join(f"u{i} {url}/{i}\n" for i in range(150))) as devices:
            with Running("--devices", devices, "--once", "--timeout", "60s") as fetching:
                peak = 0
                while fetching.process.poll() is None:
                    with contextlib.suppress(IndexError, OSError):
                        peak = max(peak, resident(fetching.process.pid))
                    time.sleep(0.01)
                self.assertEqual((fetching.process.wait(), fetching.stderr()), (0, ""))
                self.assertEqual([len(e["data"]) for e in fetching.events()], [len(body)] * 150)
        self.assertGreater(peak, 4 << 20)
        self.assertLess(peak, 64 << 20)

    def test_proxies_come_from_the_environment(self):
        asked = []

        def answer(handler):
            asked.append(handler.path)
            handler.reply(200, b"<x/>")

        with peer(answer) as url, file_of("a http://unit.invalid/x\n") as devices:
            done = fetch("--devices", devices, "--once", env={"http_proxy": url})
            direct = fetch("--devices", devices, "--once", env={"http_proxy": url, "no_proxy": "unit.invalid"})
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertEqual(asked, ["http://unit.invalid/x"])
        self.assertEqual(direct.exit, 75)
        self.assertIn("resolve 1 (a: ", direct.stderr)

    def test_some_that_do_not_answer_are_told_on_one_line(self):
        with sim("--units", "20", "--error", "0.2", "--cut", "0.1") as s:
            lines = pathlib.Path(fleet_of(s)).read_text() + "gone http://127.0.0.1:1/\n"
            with file_of(lines) as devices:
                done = fetch("--devices", devices, "--once")
        self.assertEqual(done.exit, 0)
        self.assertEqual(len(events_of(done.stdout)), 14)
        self.assertRegex(done.stderr, r"^bsu-fetch: 7 of 21 units gave no answer: connect 1 \(gone: http://127.0.0.1:1/: "
                         r"Connection refused\), cut 2 \(.*\), status 4 \(.*: status 50[03]\)\n$")

    def test_when_none_answers_later_may_succeed(self):
        with file_of("a http://127.0.0.1:1/x\nb http://127.0.0.1:1/y\n") as devices:
            done = fetch("--devices", devices, "--once")
        self.assertEqual((done.exit, done.stdout), (75, ""))
        self.assertRegex(done.stderr, r"^bsu-fetch: 2 of 2 units gave no answer: connect 2 \(.*Connection refused\)\n$")

    def test_when_all_is_forbidden_the_operator_is_at_fault(self):
        with peer(lambda h: h.reply(403, b"no")) as url, file_of(f"a {url}/\n") as devices:
            done = fetch("--devices", devices, "--once")
        self.assertEqual((done.exit, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"status 403\)\n$")

    def test_an_answer_beyond_max_record_is_a_failure(self):
        with peer(lambda h: h.reply(200, b"x" * 5000)) as url, file_of(f"a {url}/\n") as devices:
            done = fetch("--devices", devices, "--once", "--max-record", "4KiB")
        self.assertEqual((done.exit, done.stdout), (75, ""))
        self.assertIn("too-large 1 (a: ", done.stderr)

    def test_an_answer_that_makes_too_long_an_event_is_a_failure_and_asked_for_again(self):
        asked = []

        def answer(handler):
            asked.append(handler.headers["If-None-Match"])
            handler.reply(200, b'"' * 3000, ETag='"1"')

        with peer(answer) as url, file_of(f"a {url}/\n") as devices:
            with Running("--devices", devices, "--every", "50ms", "--max-record", "4KiB") as fetching:
                wait_for(lambda: len(asked) >= 2, what="another request")
                self.assertEqual(fetching.stop(), 143)
                self.assertEqual(fetching.events(), [])
        self.assertEqual(set(asked), {None})

    def test_failures_can_be_events(self):
        with peer(lambda h: h.reply(500 if h.path == "/bad" else 200, b"<x/>")) as url:
            with file_of(f"gone http://127.0.0.1:1/\nbad {url}/bad\ngood {url}/\n") as devices:
                done = fetch("--devices", devices, "--once", "--emit-failures")
        self.assertEqual(done.exit, 0)
        events = {e["subject"]: e for e in events_of(done.stdout)}
        self.assertEqual({u: e["type"] for u, e in events.items()},
                         {"gone": "bsu.unreachable", "bad": "bsu.unreachable", "good": "bsu.reading"})
        self.assertEqual(events["gone"]["data"], {"cause": "connect", "message": "http://127.0.0.1:1/: Connection refused"})
        self.assertEqual(events["bad"]["data"]["status"], 500)
        self.assertEqual(events["bad"]["datacontenttype"], "application/json")
        self.assertEqual(events["bad"]["id"], "bad/" + events["bad"]["recordedtime"])

    def test_ids_go_into_one_url(self):
        with sim("--units", "3") as s, file_of("bsu-00002\n\n# not this one\nbsu-00003\n") as ids:
            done = fetch("--url", s.url + "/bsus/{id}", "--ids", ids, "--once")
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertEqual(sorted(e["subject"] for e in events_of(done.stdout)), ["bsu-00002", "bsu-00003"])

    def test_a_pipeline_gets_every_event(self):
        with sim("--units", "50") as s, tempfile.TemporaryDirectory() as folder:
            done = fetch("--devices", fleet_of(s), "--once", "--", tool("publish"), f"{folder}/fleet/", cwd=folder)
            self.assertEqual((done.exit, done.stdout, done.stderr), (0, "", ""))
            kept = [e for path in pathlib.Path(folder, "fleet").glob("*.ndjson") for e in events_of(path.read_text())]
        self.assertEqual(len({e["id"] for e in kept}), 50)
        self.assertEqual(len(kept), 50)


class Schedule(unittest.TestCase):
    def test_black_holes_never_delay_the_healthy(self):
        with sim("--units", "1000", "--black-hole", "0.2") as s:
            # 200 black holes, for each of which a request would run for 3 s, and 60 slots.
            with Running("--devices", fleet_of(s), "--every", "1s", "--timeout", "3s", "--max-in-flight", "60") as fetching:
                wait_for(lambda: stats(s)["healthy"]["least_polls"] >= 10, 120, "ten polls of each healthy unit")
                healthy = stats(s)["healthy"]
                self.assertEqual(fetching.stop(), 143)
                self.assertEqual(healthy["units"], 800)
                self.assertLessEqual(healthy["most_polls"] - healthy["least_polls"], 2)
                self.assertLess(healthy["max_gap_ms"], 3000)
                units = stats(s, "all")
                events = fetching.events()
                self.assertRegex(fetching.stderr(), r"bsu-fetch: \d+ of \d+ polls failed in 1s: timeout \d+ \(bsu-\d+: http.*\)\n")
        holes = [u for u in units if u["fault"] == "black-hole"]
        self.assertEqual(len(holes), 200)
        self.assertLess(max(u["polls"] for u in holes), healthy["least_polls"], "failing units back off")
        self.assertGreater(min(u["polls"] for u in holes), 0)
        answered = sum(u["outcomes"]["ok"] for u in units)
        self.assertLessEqual(len(events), answered)
        self.assertGreaterEqual(len(events), answered - 60, "all but what was on its way")
        self.assertEqual(len({e["id"] for e in events}), len(events))

    def test_each_of_many_hosts_keeps_its_connection(self):
        with sim("--units", "400") as s:
            text = pathlib.Path(fleet_of(s)).read_text()
            lines = [line.replace("127.0.0.1", line.split()[0] + ".fleet.localhost") for line in text.splitlines(True)]
            with file_of("".join(lines)) as devices, Running("--devices", devices, "--every", "500ms") as fetching:
                looks = [stats(s)]
                while looks[-1]["healthy"]["least_polls"] < 4:
                    time.sleep(0.1)
                    looks.append(stats(s))
                self.assertEqual(fetching.stop(), 143)
                self.assertEqual(fetching.stderr(), "")
        # One for each host, and one for each look.
        self.assertLessEqual(looks[-1]["connections"]["accepted"], 400 + len(looks) + 20)

    def test_few_descriptors_mean_fewer_requests_and_not_false_failures(self):
        with sim("--units", "600") as s:
            command = f"ulimit -n 200; exec {tool('bsu-fetch')} --devices {fleet_of(s)} --once"
            done = run(["bash", "-c", command])
            self.assertEqual(done.exit, 0)
            self.assertEqual(len(events_of(done.stdout)), 600)
            self.assertEqual(done.stderr, "bsu-fetch: --max-in-flight 1000: only 136, as no more than 200 descriptors are allowed "
                             "(ulimit -n)\n")
            self.assertLessEqual(stats(s)["connections"]["peak"], 136 + 2)

    def test_a_name_server_that_does_not_answer_delays_nobody(self):
        # In a network and with a resolv.conf of its own, where the name server takes questions and says nothing.
        inside = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--", sys.executable, "-B", __file__, "--silent-resolver"]
        if run([*inside[:-4], "true"]).exit != 0:
            self.skipTest("no user namespaces here")
        done = run(inside, timeout=120)
        self.assertEqual(done.exit, 0, done.stderr)
        seen = json.loads(done.stdout)
        self.assertEqual(seen["exit"], 143)
        # The first lookup would end after 10 s, and no poll come before.
        self.assertLess(seen["max_gap_ms"], 4000)
        self.assertRegex(seen["stderr"], r"timeout \d+ \(hole-\d+: http://hole-\d+.example/: no address within 1s\)")

    def test_a_pipeline_that_stands_still_costs_no_memory_and_no_event(self):
        with sim("--units", "3000") as s, tempfile.TemporaryDirectory() as folder:
            command = f"echo $$ > {folder}/pid; exec {tool('publish')} {folder}/fleet/"
            with Running("--devices", fleet_of(s), "--every", "500ms", "--dead-letters", f"{folder}/dead", "--", command) as fetching:
                polls = lambda: stats(s)["polls"]
                wait_for(lambda: polls() > 6000, 60, "polls")
                publish = int(pathlib.Path(folder, "pid").read_text())
                os.kill(publish, signal.SIGSTOP)

                def quiet():
                    before = polls()
                    time.sleep(1)
                    return polls() == before

                wait_for(quiet, 60, "it to stop asking")
                time.sleep(2)  # moments that pass
                os.kill(publish, signal.SIGCONT)
                before = polls()
                wait_for(lambda: polls() > before + 6000, 60, "polls again")
                self.assertLess(resident(fetching.process.pid), 64 << 20)
                self.assertEqual(fetching.stop(), 143)
                self.assertRegex(fetching.stderr(), r"bsu-fetch: \d{4,} polls left out in ")
            kept = [e["id"] for path in pathlib.Path(folder, "fleet").glob("*.ndjson") for e in events_of(path.read_text())]
            self.assertEqual(len(set(kept)), len(kept))
            answered = stats(s)["outcomes"]["ok"]
            self.assertLessEqual(len(kept), answered)
            # What was on its way at the end or given up, no more.
            self.assertGreater(len(kept), answered - 1500)

    def test_polls_are_spread_over_the_period(self):
        with sim("--units", "200") as s, Running("--devices", fleet_of(s), "--every", "2s"):
            wait_for(lambda: stats(s)["healthy"]["least_polls"] >= 1, what="a first round")
            first = sorted(u["last_polls"][0] for u in stats(s, "all"))
        moments = [datetime.datetime.fromisoformat(t.replace("Z", "+00:00")).timestamp() for t in first]
        self.assertGreater(moments[-1] - moments[0], 1.5)
        half = moments[0] + (moments[-1] - moments[0]) / 2
        self.assertTrue(60 <= sum(m < half for m in moments) <= 140)

    def test_a_unit_that_recovers_is_polled_again(self):
        with sim("--units", "2") as s, Running("--devices", fleet_of(s), "--every", "200ms", "--emit-failures") as fetching:
            control(s, unit="bsu-00001", fault="error", status=500)
            wait_for(lambda: stats(s, "bsu-00001")["outcomes"]["error"] >= 2, what="two failures")
            control(s, unit="bsu-00001", fault="none")
            ok = stats(s, "bsu-00001")["outcomes"]["ok"]
            wait_for(lambda: stats(s, "bsu-00001")["outcomes"]["ok"] >= ok + 5, what="five answers")
            self.assertEqual(fetching.stop(), 143)
            failed = [e for e in fetching.events() if e["type"] == "bsu.unreachable"]
        self.assertGreaterEqual(len(failed), 2)
        self.assertEqual({(e["subject"], e["data"]["cause"], e["data"]["status"]) for e in failed}, {("bsu-00001", "status", 500)})

    def test_what_has_not_changed_is_no_event(self):
        with sim("--units", "30", "--change-every", "1h", "--at", "2026-03-01T12:00:00Z") as s:
            with Running("--devices", fleet_of(s), "--every", "200ms") as fetching:
                wait_for(lambda: stats(s)["outcomes"]["not_modified"] >= 90, what="answers of 304")
                self.assertEqual(fetching.stop(), 143)
                self.assertEqual(fetching.stderr(), "")
                self.assertEqual(len(fetching.events()), 30)
            self.assertEqual(stats(s)["outcomes"]["ok"], 30)

    def test_last_modified_is_sent_back(self):
        when = "Sun, 01 Jul 2018 13:00:00 GMT"
        asked = []

        def answer(handler):
            asked.append(handler.headers["If-Modified-Since"])
            handler.reply(304 if asked[-1] == when else 200, b"" if asked[-1] else b"<x/>", Last_Modified=when)

        with peer(answer) as url, file_of(f"a {url}/\n") as devices, Running("--devices", devices, "--every", "50ms") as fetching:
            wait_for(lambda: len(asked) >= 4, what="four polls")
            self.assertEqual(fetching.stop(), 143)
            self.assertEqual(len(fetching.events()), 1)
        self.assertEqual(asked[:4], [None, when, when, when])

    def test_hangup_reads_the_units_again_and_a_bad_file_changes_nothing(self):
        with sim("--units", "4") as s, tempfile.TemporaryDirectory() as folder:
            lines = pathlib.Path(fleet_of(s)).read_text().splitlines(True)
            devices = pathlib.Path(folder, "fleet.txt")
            devices.write_text("".join(lines[:2]))
            with Running("--devices", str(devices), "--every", "100ms") as fetching:
                polls = lambda: [u["polls"] for u in stats(s, "all")]
                wait_for(lambda: min(polls()[:2]) >= 3, what="polls of the first two")
                self.assertEqual(polls()[2:], [0, 0])
                devices.write_text("".join(lines[1:3]))
                fetching.process.send_signal(signal.SIGHUP)
                wait_for(lambda: polls()[2] >= 3, what="polls of the third")
                gone = polls()[0]
                devices.write_text("one two three\n")
                fetching.process.send_signal(signal.SIGHUP)
                wait_for(lambda: "line 1 is not `id URL`: one two three; the units stay as they were" in fetching.stderr(),
                         what="a message")
                seen = polls()
                wait_for(lambda: min(polls()[1] - seen[1], polls()[2] - seen[2]) >= 3, what="more polls of the same")
                self.assertEqual((polls()[0], polls()[3]), (gone, 0))
                self.assertEqual(fetching.stop(), 143)

    def test_an_answer_of_the_old_url_is_not_told_of_the_new_one(self):
        asked = []
        go_on = threading.Event()

        def answer(handler):
            asked.append((handler.path, handler.headers["If-None-Match"]))
            if handler.path == "/old":
                go_on.wait(30)
            if handler.headers["If-None-Match"] == "1":
                handler.reply(304)
            else:
                handler.reply(200, f"<u>{handler.path}</u>".encode(), ETag="1")

        with peer(answer) as url, tempfile.TemporaryDirectory() as folder:
            devices = pathlib.Path(folder, "fleet.txt")
            devices.write_text(f"a {url}/old\n")
            with Running("--devices", str(devices), "--every", "100ms") as fetching:
                wait_for(lambda: asked, what="the first request")
                devices.write_text(f"a {url}/new\n")
                fetching.process.send_signal(signal.SIGHUP)
                wait_for(lambda: ("/new", None) in asked, what="a request to the new URL")
                go_on.set()
                wait_for(lambda: len(fetching.events()) == 2, what="both answers")
                wait_for(lambda: asked.count(("/new", "1")) >= 2, what="more requests")
                self.assertEqual(fetching.stop(), 143)
                self.assertEqual({(e["source"], e["data"]) for e in fetching.events()},
                                 {(f"{url}/{which}", f"<u>/{which}</u>") for which in ("old", "new")})
        self.assertEqual(sum(path == "/old" for path, _ in asked), 1)

    def test_signals_end_it_with_whole_lines(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            with sim("--units", "500") as s, Running("--devices", fleet_of(s), "--every", "100ms") as fetching:
                wait_for(lambda: stats(s)["outcomes"]["ok"] >= 1000, what="answers")
                self.assertEqual(fetching.stop(number), code)
                text = fetching.out.read_bytes()
                self.assertTrue(text.endswith(b"}\n"))
                self.assertGreaterEqual(len(fetching.events()), 500)
                self.assertNotIn("failed", fetching.stderr())

    def test_limit_ends_it_at_once(self):
        with sim("--units", "10") as s:
            done = fetch("--devices", fleet_of(s), "--every", "100ms", "--limit", "25")
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertEqual(len(events_of(done.stdout)), 25)

    def test_a_reader_that_closes_early_ends_it(self):
        with sim("--units", "10") as s:
            reading, writing = os.pipe()
            with Running("--devices", fleet_of(s), "--every", "50ms", stdout=writing) as fetching:
                os.close(writing)
                self.assertTrue(os.read(reading, 1))
                os.close(reading)
                self.assertEqual(fetching.process.wait(60), 0)
                self.assertEqual(fetching.stderr(), "")

    def test_a_reader_that_stops_reading_costs_no_memory_and_blames_no_unit(self):
        with sim("--units", "300", "--slow", "50%:150ms") as s:
            reading, writing = os.pipe()
            with Running("--devices", fleet_of(s), "--every", "100ms", "--timeout", "500ms", "--emit-failures",
                         stdout=writing) as fetching:
                os.close(writing)
                polls = lambda: stats(s)["polls"]
                # It stops asking when nobody reads: two looks, further apart than its timeout, see the same count.
                def quiet():
                    before = polls()
                    time.sleep(1.5)
                    return before > 0 and polls() == before
                wait_for(lambda: polls() > 50, what="polls")
                small = resident(fetching.process.pid)
                wait_for(quiet, 60, "it to stop asking")
                before = polls()
                text = b""
                with open(reading, "rb", buffering=0) as pipe:
                    while polls() < before + 1200:
                        text += pipe.read(1 << 16)
                    self.assertLess(resident(fetching.process.pid), small + (24 << 20))
                    self.assertIsNone(fetching.process.poll())
                    fetching.process.terminate()
                    text += b"".join(iter(lambda: pipe.read(1 << 16), b""))
                self.assertEqual(fetching.process.wait(60), 143)
            events = events_of(text.decode())
            self.assertEqual({e["type"] for e in events}, {"bsu.reading"})
            self.assertEqual(len({e["id"] for e in events}), len(events))
            self.assertGreater(len(events), 1000)


class History(unittest.TestCase):
    def steps(self, s, **more):
        with file_of("bsu-00001\nbsu-00002\n") as ids:
            return fetch("--url", s.url + "/bsus/{id}/history?since={since}&until={until}", "--ids", ids, "--from", "2026-01-01",
                         "--to", "2026-01-01T00:05:00Z", "--step", "2m", **more)

    def test_each_step_is_an_event_whose_id_is_the_same_when_made_again(self):
        with sim("--units", "2", "--cadence", "10s") as s:
            done, again = self.steps(s), self.steps(s)
        for result in (done, again):
            self.assertEqual((result.exit, result.stderr), (0, ""))
        events = events_of(done.stdout)
        self.assertEqual([e["id"] for e in events if e["subject"] == "bsu-00001"],
                         [f"bsu-00001/2026-01-01T00:0{a}:00Z/2026-01-01T00:0{b}:00Z" for a, b in ((0, 2), (2, 4), (4, 5))])
        self.assertEqual([e["data"].count("<reading ") for e in events if e["subject"] == "bsu-00002"], [12, 12, 6])
        key = lambda text: sorted((e["id"], e["source"], e["data"]) for e in events_of(text))
        self.assertEqual(key(done.stdout), key(again.stdout))

    def test_a_step_that_fails_is_tried_again(self):
        count = []

        def answer(handler):
            count.append(handler.path)
            handler.reply(500 if len(count) == 2 else 200, b"<h/>")

        with peer(answer) as url, file_of(f"a {url}/?s={{since}}&u={{until}}\n") as devices:
            done = fetch("--devices", devices, "--from", "2026-01-01", "--to", "2026-01-01T03:00:00Z", "--step", "1h")
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertEqual(len(count), 4)
        self.assertEqual(len(events_of(done.stdout)), 3)
        self.assertIn("s=2026-01-01T00%3A00%3A00Z&u=2026-01-01T01%3A00%3A00Z", count[0])


class Secrets(unittest.TestCase):
    def test_an_identity_does_not_depend_on_headers(self):
        with peer(lambda handler: handler.reply(200, b"<u/>")) as url, file_of("X-Tenant: bsus\n") as headers:
            with file_of(f"a {url}/bsus/a\n") as devices:
                done = fetch("--devices", devices, "--once", "--header-file", headers)
        self.assertEqual(done.exit, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["source"], f"{url}/bsus/a")

    def test_headers_of_a_file_are_sent_and_shown_nowhere(self):
        secret = "s3cr3t-t0ken-77"
        seen, lines = [], []

        def answer(handler):
            seen.append(handler.headers["Authorization"])
            handler.reply(500, f"you sent {secret}".encode())

        with peer(answer) as url, file_of(f"Authorization: Bearer {secret}\n") as headers:
            with file_of(f"a {url}/x?token={secret}\nb http://user:pass-word@{url[7:]}/\n") as devices:
                with Running("--devices", devices, "--every", "100ms", "--header-file", headers, "--emit-failures") as fetching:
                    wait_for(lambda: len(seen) >= 4 and fetching.stderr(), what="polls and a report")
                    command = pathlib.Path(f"/proc/{fetching.process.pid}/cmdline").read_bytes().decode()
                    self.assertEqual(fetching.stop(), 143)
                    lines = [command, fetching.stderr(), fetching.out.read_text()]
        self.assertIn(f"Bearer {secret}", seen)
        for text in lines:
            self.assertNotIn(secret, text)
            self.assertNotIn("pass-word", text)
        self.assertIn("/x?token=***", lines[2])

    def test_credentials_in_url_are_refused(self):
        with file_of("a\n") as ids:
            done = fetch("--url", "https://me:pass-word@host/{id}", "--ids", ids, "--once")
        self.assertEqual((done.exit, done.stdout), (2, ""))
        self.assertNotIn("pass-word", done.stderr)


class Http2(unittest.TestCase):
    def test_http_2_shares_one_connection(self):
        patient = ("--connect-timeout", "60s", "--timeout", "60s")  # handshakes are slow on a busy machine
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for i in range(40):
                (root / f"u{i}").write_text(f"<bsu n='{i}'/>")
            crt, key = certificate(folder)
            # nghttpd speaks nothing but HTTP/2.
            with Server(["nghttpd", "-v", "-a", "127.0.0.1", "-d", folder, "{port}", key, crt], ready=None) as h2:
                with file_of("".join(f"u{i} https://127.0.0.1:{h2.port}/u{i}\n" for i in range(40))) as devices:
                    done = fetch("--devices", devices, "--once", *patient, env={"CURL_CA_BUNDLE": crt})
                    log = h2.stdout()
                    unknown = fetch("--devices", devices, "--once", *patient)
                    (root / "ca.pem").write_bytes((root / "crt").read_bytes())
                    self.assertEqual(run(["openssl", "rehash", folder]).exit, 0)
                    trusted = [fetch("--devices", devices, "--once", "--limit", "1", *patient, env={"CURL_CA_BUNDLE": "", **env})
                               for env in ({"SSL_CERT_FILE": crt}, {"SSL_CERT_DIR": folder, "SSL_CERT_FILE": ""})]
        self.assertEqual((done.exit, done.stderr), (0, ""))
        self.assertEqual(sorted(e["data"] for e in events_of(done.stdout)), sorted(f"<bsu n='{i}'/>" for i in range(40)))
        asked = {line.split("]")[0] for line in log.splitlines() if "recv HEADERS" in line}
        self.assertEqual(len(asked), 1, "one connection")
        self.assertEqual((unknown.exit, unknown.stdout), (75, ""))
        self.assertIn("tls 40 (", unknown.stderr)
        self.assertEqual([(t.exit, t.stderr, len(events_of(t.stdout))) for t in trusted], [(0, "", 1)] * 2)


class Mistakes(unittest.TestCase):
    def refused(self, *options, says):
        done = fetch(*options)
        self.assertEqual((done.exit, done.stdout), (2, ""))
        self.assertRegex(done.stderr, f"^bsu-fetch: .*{says}.*\n$")

    def test_units_that_cannot_be_read_are_told_with_line_and_text(self):
        self.refused("--devices", "/nonexistent/fleet.txt", "--once", says="/nonexistent/fleet.txt: No such file")
        for text, says in (("a http://h/\nb\n", "line 2 is not `id URL`: b"), ("a h\n", "line 1 has no http or https URL: a h"),
                           ("a http://h/\na http://h/\n", "line 2 repeats the id of line 1"), ("", "names no unit"),
                           ('{"id":"a"}\n', "line 1 is not .*: {\"id\":\"a\"}")):
            with file_of(text) as devices:
                self.refused("--devices", devices, "--once", says=says)

    def test_a_url_that_is_not_utf_8_is_refused_and_a_byte_order_mark_is_not(self):
        with tempfile.TemporaryDirectory() as folder, peer(lambda h: h.reply(200, b"x")) as url:
            devices = pathlib.Path(folder, "fleet.txt")
            devices.write_bytes(b"a http://h/\xff\n")
            self.refused("--devices", str(devices), "--once", says="line 1 is not UTF-8")
            devices.write_bytes(b"\xef\xbb\xbfa " + url.encode() + b"/\r\n")
            done = fetch("--devices", str(devices), "--once")
            self.assertEqual([e["subject"] for e in events_of(done.stdout)], ["a"])

    def test_options_that_do_not_fit_together_are_refused(self):
        with file_of("a http://127.0.0.1:1/\n") as devices:
            self.refused("--devices", devices, says="one of --every, --once and --from")
            self.refused("--devices", devices, "--once", "--every", "1s", says="one of --every, --once and --from")
            self.refused("--once", says="--devices")
            self.refused("--url", "http://h/{id}", "--once", says="--url and --ids")
            self.refused("--devices", devices, "--from", "2026-01-01", says="{since}")
            self.refused("--devices", devices, "--once", "--header-file", "/nonexistent", says="/nonexistent: No such file")
            self.refused("--devices", devices, "--once", "--max-in-flight", "0", says="--max-in-flight")
            self.refused("--devices", devices, "--once", "--timeout", "0s", says="--timeout")
            self.refused("--devices", devices, "--once", "--to", "2026-01-01", says="--to and --step belong to --from")
            self.refused("--devices", devices, "--once", "--step", "1h", says="--to and --step belong to --from")
            self.refused("--url", "http://h/", "--ids", devices, "--once", says="no {id} in it")


def with_silent_resolver():
    """Run inside the namespaces that test_a_name_server_that_does_not_answer_delays_nobody makes."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        fcntl.ioctl(resolver, 0x8914, struct.pack("16sH22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
        resolver.bind(("127.0.0.1", 53))
        conf = pathlib.Path(folder, "resolv.conf")
        conf.write_text("nameserver 127.0.0.1\n")
        subprocess.run(["mount", "--bind", conf, "/etc/resolv.conf"], check=True)
        with sim("--units", "50") as s:
            holes = "".join(f"hole-{i} http://hole-{i}.example/\n" for i in range(20))
            with file_of(pathlib.Path(fleet_of(s)).read_text() + holes) as devices:
                with Running("--devices", devices, "--every", "500ms", "--timeout", "1s") as fetching:
                    wait_for(lambda: stats(s)["healthy"]["least_polls"] >= 12, 60, "twelve polls of each")
                    gap = stats(s)["healthy"]["max_gap_ms"]
                    print(json.dumps({"exit": fetching.stop(), "max_gap_ms": gap, "stderr": fetching.stderr()}))


if __name__ == "__main__":
    if sys.argv[1:] == ["--silent-resolver"]:
        with_silent_resolver()
    else:
        unittest.main()

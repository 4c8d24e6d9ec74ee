"""s3-archive on S3, on each server whose packages are here: what it stores, what it refuses, and what it says of mistakes."""
import base64
import collections
import concurrent.futures
import functools
import http.server
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from archive_source import Source, event  # noqa: E402
from harness import certificate, free_port, run, tool  # noqa: E402
from s3_server import ALL, PATH, Proxy, missing  # noqa: E402

S3 = tool("s3-archive")


class S3Tests:
    kind = None
    strict_region = True

    @classmethod
    def setUpClass(cls):
        if cls.kind.missing():
            raise unittest.SkipTest(f"{cls.kind.name} is not installed: {cls.kind.missing()}")
        cls.s3 = cls.enterClassContext(cls.kind())
        cls.s3.make_bucket("bucket")

    def setUp(self):
        self.prefix = f"{self._testMethodName} ä+=%&'"
        self.archive = f"s3://bucket/{self.prefix}"

    def call(self, command, *options, archive=None, stdin="", env=None, exit=0):
        done = run([S3, command, archive or self.archive, *options], stdin=stdin, env=env or self.s3.environment(), timeout=120)
        self.assertEqual(done.exit, exit, done.stderr)
        return done

    def keys(self):
        return self.s3.client.keys("bucket", self.prefix + "/")

    def lines(self):
        found = collections.Counter()
        for key in self.keys():
            done = run(["zstd", "-dcq"], stdin=self.s3.client.get("bucket", key))
            self.assertEqual(done.exit, 0, key)
            found.update(done.stdout.splitlines())
        return found

    # ---- what it stores

    def test_what_was_put_is_listed_verified_and_comes_back_byte_for_byte(self):
        rng = random.Random(1)
        some = [event(n, rng.randrange(36000), text="ä\\u0001 " * (n % 3)) for n in range(2000)]
        done = self.call("put", stdin="\n".join(some))
        self.assertEqual((done.stdout, done.stderr), ("", ""))
        self.assertEqual(self.lines(), collections.Counter(some))
        listed = [json.loads(line) for line in self.call("ls", "--json").stdout.splitlines()]
        self.assertEqual([f"{self.prefix}/{o['key']}" for o in listed], self.keys())
        self.assertEqual([o["bytes"] for o in listed], [len(self.s3.client.get("bucket", key)) for key in self.keys()])
        self.assertEqual(self.call("verify").stderr, "")
        got = self.call("get").stdout.splitlines()
        self.assertEqual(sorted(got), sorted(some))
        times = [json.loads(line)["recordedtime"] for line in got]
        self.assertEqual(times, sorted(times))
        part = self.call("get", "--from", "2018-07-01T03:00:00Z", "--to", "2018-07-01T04:30:00Z").stdout.splitlines()
        self.assertEqual(sorted(part), sorted(line for line in some if "T03:00:00Z" <= json.loads(line)["recordedtime"][10:] < "T04:30:00Z"))

    def test_of_one_units_hour_the_server_sends_less_than_a_hundredth(self):
        """216,000 events of 100 units over six hours."""
        options = ("--units", "100", "--from", "2026-11-20T00:00:00Z", "--to", "2026-11-20T06:00:00Z")
        with tempfile.TemporaryFile() as past:
            subprocess.run([tool("bsu-sim"), *options], stdout=past, check=True)
            past.seek(0)
            subprocess.run([S3, "put", self.archive], stdin=past, env=self.s3.environment(), check=True)
            past.seek(0)
            wanted = [line for line in past if b'"subject":"bsu-00042"' in line and b'"recordedtime":"2026-11-20T03:' in line]
        size = sum(o["bytes"] for o in map(json.loads, self.call("ls", "--json").stdout.splitlines()))
        gap = '{"subject":"bsu-00042","from":"2026-11-20T03:05:00Z","to":"2026-11-20T03:55:00Z","missing":300}'
        for query, stdin in ((["--subject", "bsu-00042", "--from", "2026-11-20T03:00:00Z", "--to", "2026-11-20T04:00:00Z"], ""),
                             (["--ranges", "-"], gap)):
            with Proxy(self.s3.port, 1) as proxy:
                got = self.call("get", *query, stdin=stdin, env=self.s3.environment(proxy.url)).stdout
                self.assertEqual(got.encode(), b"".join(wanted))
                self.assertGreater(proxy.served, 0)
                self.assertLess(proxy.served, size / 100)
                print(f"summary: {self.kind.name}: {proxy.served} of {size} bytes for one of 600 units' hours", flush=True)

    def test_what_came_with_the_end_of_an_object_is_not_asked_for_again(self):
        """Nor is what begins an object and was asked for ahead; what nobody takes would be in the way of what is asked for later."""
        noise = base64.b64encode(random.Random(3).randbytes(1_200_000)).decode()
        long = [event(n, n * 3600, "u1", pad=noise) for n in range(2)]
        short = [event(n, n * 3600, f"u{n % 2}") for n in range(2, 20)]
        self.call("put", stdin="\n".join(long + short))
        with Proxy(self.s3.port, 1) as proxy:
            got = self.call("get", "--subject", "u1", env=self.s3.environment(proxy.url)).stdout
            self.assertEqual(got.splitlines(), long + short[1::2])
            self.assertEqual(proxy.seen["GET 206"], 2 * len(long) + len(short))

    def test_answers_that_break_are_asked_for_again(self):
        """Several ranges are on their way at once: one that fails while another is waited for is no end of an object."""
        rng = random.Random(7)
        some = [event(n, n * 7 % 3600, f"u{n % 9}", pad=base64.b64encode(rng.randbytes(9000)).decode()) for n in range(1200)]
        self.call("put", stdin="\n".join(some))
        for seed in range(2):
            with self.subTest(seed=seed), Proxy(self.s3.port, seed, faults=15) as proxy:
                for command, wanted in (("get",), some), (("get", "--subject", "u4"), some[4::9]), (("verify",), []):
                    proxy.spared = 1
                    got = self.call(*command, env=self.s3.environment(proxy.url)).stdout
                    self.assertEqual(sorted(got.splitlines()), sorted(wanted))

    def test_the_same_input_put_again_changes_nothing(self):
        text = "".join(event(n, n) + "\n" for n in range(1000))
        self.call("put", "--max-records", "300", stdin=text)
        before = {key: self.s3.client.ask("HEAD", f"/bucket/{key}")[1]["Last-Modified"] for key in self.keys()}
        self.call("put", "--max-records", "300", stdin=text)
        self.assertEqual({key: self.s3.client.ask("HEAD", f"/bucket/{key}")[1]["Last-Modified"] for key in self.keys()}, before)
        self.assertEqual(len(before), 4)

    def test_another_content_under_the_name_is_never_overwritten(self):
        events = {n: event(n, n) for n in range(10)}
        source = Source(self.archive, events, env=self.s3.environment())
        key = f"{self.prefix}/date=2018-07-01/hour=00/0b7e%2Fbackfill-0-9.ndjson.zst"
        self.s3.client.put("bucket", key, b"somebody else's")
        self.assertEqual(source.run(random.Random(1)), 70)
        self.assertIn("exists with other content", source.stderr)
        self.assertEqual(source.settled, set())
        self.assertEqual(self.s3.client.get("bucket", key), b"somebody else's")
        self.s3.client.delete("bucket", key)
        self.assertEqual(source.run(random.Random(1)), 0, source.stderr)  # what waited in the spool
        self.assertEqual(source.settled, set(events))
        self.assertEqual(self.lines(), collections.Counter(events.values()))

    def test_what_comes_again_after_the_name_was_taken_meanwhile_is_compared(self):
        """The answer to a PUT is lost, always: what stands there is ours, by its checksum."""
        events = {n: event(n, n * 30) for n in range(300)}
        with Proxy(self.s3.port, 1) as proxy:
            lost = []
            handle = proxy.handle

            def lose(request):
                if request.command == "PUT" and len(lost) < 3:
                    lost.append(request.path)
                    body = request.rfile.read(int(request.headers["Content-Length"]))
                    self.s3.client.put("bucket", self.decoded(request.path), body)
                    request.close_connection = True
                else:
                    handle(request)

            proxy.handle = lose
            source = Source(self.archive, events, env=self.s3.environment(proxy.url))
            self.assertEqual(source.run(random.Random(1), ["--timeout", "2s"]), 0, source.stderr)
        self.assertEqual(len(lost), 3)
        self.assertEqual(source.settled, set(events))
        self.assertEqual(self.lines(), collections.Counter(events.values()))

    @staticmethod
    def decoded(path):
        return urllib.parse.unquote(path).removeprefix("/bucket/")

    def test_a_page_of_the_list_is_not_all_of_it(self):
        self.call("put", stdin=event(1, 1) + "\n")
        key, = self.keys()
        body, folder = self.s3.client.get("bucket", key), key.rpartition("/")[0]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: self.s3.client.put("bucket", f"{folder}/{n:04}+ ä.ndjson.zst", body), range(1010)))
        listed = self.call("ls", "--json").stdout.splitlines()
        self.assertEqual(len(listed), 1011)
        self.assertEqual(len({json.loads(line)["key"] for line in listed}), 1011)

    def test_a_damaged_object_is_found(self):
        self.call("put", stdin="".join(event(n, n * 60) + "\n" for n in range(100)))
        key = self.keys()[0]
        whole = self.s3.client.get("bucket", key)
        for damaged in whole[:30] + bytes([whole[30] ^ 4]) + whole[31:], whole[:-1], b"":
            self.s3.client.put("bucket", key, damaged)
            done = self.call("verify", exit=1)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn(key, done.stderr)
            self.assertEqual(self.call("get", exit=70).stdout, "")

    def test_what_is_large_goes_in_parts_and_only_own_parts_are_removed(self):
        rng = random.Random(1)
        text = "".join(event(n, 1, pad=base64.b64encode(rng.randbytes(60_000)).decode()) + "\n" for n in range(1150))
        other = f"{self.prefix}/of somebody else"
        self.s3.client.begin_upload("bucket", other)
        source = Source(self.archive, dict(enumerate(text.splitlines())), env=self.s3.environment())
        key = f"{self.prefix}/date=2018-07-01/hour=00/0b7e%2Fbackfill-0-1149.ndjson.zst"
        self.s3.client.begin_upload("bucket", key)  # as a run that was killed leaves it
        self.assertEqual(source.run(random.Random(1), ["--max-bytes", "100MiB"]), 0, source.stderr)
        self.assertEqual(self.keys(), [key])
        head = {k.lower(): v for k, v in self.s3.client.ask("HEAD", f"/bucket/{key}")[1].items()}
        self.assertRegex(head["etag"], r"-5\"?$")
        self.assertGreater(int(head["content-length"]), 64 << 20)
        self.assertEqual([k for k in self.s3.client.uploads("bucket") if k.startswith(self.prefix)], [other])
        self.assertEqual(self.call("get").stdout, text)
        self.assertEqual(self.call("verify").stderr, "")
        # Put again under other sizes of parts: the ETag differs, the bytes do not.
        self.call("put", "--max-bytes", "100MiB", stdin=text)
        before = self.keys()
        self.call("put", "--max-bytes", "100MiB", "--multipart", "20MiB", stdin=text)
        self.assertEqual(self.keys(), before)
        self.assertEqual([k for k in self.s3.client.uploads("bucket") if k.startswith(self.prefix)], [other])

    def test_a_lost_race_for_an_object_in_parts_leaves_no_parts(self):
        """As S3 answers it: 412 to the last request, and the parts stay until somebody aborts the upload."""
        rng = random.Random(1)
        text = "".join(event(n, 1, pad=base64.b64encode(rng.randbytes(60_000)).decode()) + "\n" for n in range(150))
        for same in True, False:
            parts, lost = {}, []
            with self.subTest(same=same), Proxy(self.s3.port, 1) as proxy:
                handle = proxy.handle

                def race(request):
                    path, _, query = request.path.partition("?")
                    query = dict(urllib.parse.parse_qsl(query))
                    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
                    if "partNumber" in query:
                        parts[int(query["partNumber"])] = body
                    if request.command != "POST" or "uploadId" not in query:
                        request.rfile = io.BytesIO(body)
                        return handle(request)
                    lost.append(request.headers["If-None-Match"])
                    self.s3.client.put("bucket", self.decoded(path), b"".join(parts[n] for n in sorted(parts)) if same else b"else")
                    return proxy.answer(request, 412, {}, b"<?xml version='1.0'?><Error><Code>PreconditionFailed</Code></Error>")

                proxy.handle = race
                archive = f"{self.archive} {same}"
                done = self.call("put", "--multipart", "5MiB", archive=archive, stdin=text, env=self.s3.environment(proxy.url), exit=0 if same else 70)
                self.assertRegex(done.stderr, r"\A\Z" if same else "exists with other content")
                self.assertEqual((lost, len(parts)), (["*"], 2))
                self.assertEqual([k for k in self.s3.client.uploads("bucket") if k.startswith(self.prefix)], [])
                if same:
                    self.assertEqual(self.call("get", archive=archive).stdout, text)

    def test_an_upload_that_was_begun_twice_leaves_no_parts(self):
        """The answer to the beginning is lost, or comes so late that it was given up, and what it began shows only later."""
        rng = random.Random(2)
        text = "".join(event(n, 1, pad=base64.b64encode(rng.randbytes(60_000)).decode()) + "\n" for n in range(150))
        for late in False, True:
            begun = []
            with self.subTest(late=late), Proxy(self.s3.port, 1) as proxy:
                handle = proxy.handle

                def lose(request):
                    path, _, query = request.path.partition("?")
                    if request.command == "POST" and query.startswith("uploads"):
                        begun.append(path)
                        if len(begun) == 1:
                            if not late:
                                self.s3.client.begin_upload("bucket", self.decoded(path))
                            request.close_connection = True
                            return None
                    if late and "partNumber=1" in query and len(begun) == 2:
                        begun.append(path)
                        self.s3.client.begin_upload("bucket", self.decoded(path))
                    return handle(request)

                proxy.handle = lose
                archive = f"{self.archive} twice {late}"
                self.call("put", "--multipart", "5MiB", archive=archive, stdin=text, env=self.s3.environment(proxy.url))
                self.assertEqual(len(begun), 3 if late else 2)
                self.assertEqual([k for k in self.s3.client.uploads("bucket") if k.startswith(self.prefix)], [])
                self.assertEqual(self.call("get", archive=archive).stdout, text)

    def test_memory_is_bounded(self):
        # By a process of its own: what is measured begins with the size of who starts it.
        measure = "import os, sys; p = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); _, s, u = os.wait4(p, 0); " \
                  "print(os.waitstatus_to_exitcode(s), u.ru_maxrss >> 10, file=sys.stderr)"
        rng = random.Random(1)
        with tempfile.TemporaryFile() as text:
            for n in range(1150):
                text.write((event(n, n * 3, pad=base64.b64encode(rng.randbytes(60_000)).decode()) + "\n").encode())
            for command, *options in ("put", "--max-bytes", "100MiB", "--multipart", "5MiB"), ("get",), ("verify",):
                text.seek(0)
                done = subprocess.run([sys.executable, "-c", measure, S3, command, self.archive, *options], stdin=text, check=True,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self.s3.environment())
                self.assertRegex(done.stderr, rb"^0 \d+\n$")
                self.assertLess(int(done.stderr.split()[1]), 128, command)
                print(f"summary: {self.kind.name}: memory of {command}: {int(done.stderr.split()[1])} MiB", flush=True)

    # ---- whose credentials, which place

    def refused(self, status, words, *command, archive=None, **env):
        for call in command or ("put", "get", "ls", "verify"):
            done = run([S3, call, archive or self.archive, *(["--give-up", "1s"] if call == "put" else [])], stdin=event(1, 1) + "\n",
                       env={k: v for k, v in self.s3.environment(**env).items() if v is not None}, timeout=60)
            self.assertEqual((done.exit, done.stdout), (status, ""), (call, done.stderr))
            if call != "put" or status == 2:
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)
            for secret in self.s3.secret, "not-the-secret":
                self.assertNotIn(secret, done.stderr)
        self.assertEqual(self.keys(), [])

    def test_a_wrong_secret_and_an_unknown_key_are_the_operators_mistake(self):
        self.refused(2, ["403 SignatureDoesNotMatch"], AWS_SECRET_ACCESS_KEY="not-the-secret")
        self.refused(2, ["403"], AWS_ACCESS_KEY_ID="nobody")

    def test_no_credentials_at_all(self):
        self.refused(2, ["no AWS credentials"], AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
        self.refused(2, ["AWS_ACCESS_KEY_ID is set without"], AWS_SECRET_ACCESS_KEY=None)

    def test_a_bucket_that_is_not_there(self):
        self.refused(2, ["404 NoSuchBucket", "s3://no-such-bucket: "], archive="s3://no-such-bucket/x")

    def test_a_region_that_is_another(self):
        if self.strict_region:
            self.refused(2, ["AuthorizationHeaderMalformed", "us-east-1", "eu-west-9"], AWS_REGION="eu-west-9")
        else:
            self.call("put", stdin=event(1, 1) + "\n", env=self.s3.environment(AWS_REGION="eu-west-9"))
            self.assertEqual(len(self.keys()), 1)

    def test_a_clock_that_is_wrong_is_put_right_by_the_servers(self):
        self.assertEqual(missing("faketime"), [], "the package faketime")
        for shift in "+2h", "-2h":
            command = ["faketime", "-m", "-f", shift, S3]
            env = self.s3.environment(FAKETIME_DONT_FAKE_MONOTONIC="1")
            done = run([*command, "put", self.archive + shift], stdin=event(1, 1) + "\n", env=env)
            self.assertEqual(done.exit, 0, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertRegex(done.stderr, "its clock is (2h|1h59m).* " + ("behind" if shift == "+2h" else "ahead of") + " this one")
            done = run([*command, "get", self.archive + shift], env=env)
            self.assertEqual((done.exit, done.stdout), (0, event(1, 1) + "\n"), done.stderr)

    def test_credentials_of_a_profile(self):
        with tempfile.TemporaryDirectory(prefix="inflight-test-") as folder:
            pathlib.Path(folder, "credentials").write_text(
                f"[default]\naws_access_key_id = nobody\naws_secret_access_key = not-the-secret\n\n"
                f"[mine]\naws_access_key_id={self.s3.key}\naws_secret_access_key = {self.s3.secret}\n")
            pathlib.Path(folder, "config").write_text(
                f"# ours\n[profile mine]\nregion = us-east-1\nendpoint_url = {self.s3.url}\ns3 =\n  addressing_style = path\n")
            places = {"AWS_SHARED_CREDENTIALS_FILE": f"{folder}/credentials", "AWS_CONFIG_FILE": f"{folder}/config"}
            env = {k: v for k, v in self.s3.environment(**places, AWS_PROFILE="mine").items()
                   if k not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")}
            self.call("put", stdin=event(1, 1) + "\n", env=env)
            self.assertEqual(self.call("get", env=env).stdout, event(1, 1) + "\n")
            self.assertIn("no profile 'yours'", self.call("ls", env=env | {"AWS_PROFILE": "yours"}, exit=2).stderr)
            self.assertIn("403", self.call("ls", env=self.s3.environment() | env | {"AWS_PROFILE": "default", "AWS_ENDPOINT_URL": self.s3.url,
                                           "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, exit=2).stderr)
            home = pathlib.Path(folder, ".aws")
            home.mkdir()
            for name in "credentials", "config":
                (home / name).write_text(pathlib.Path(folder, name).read_text())
            env = {k: v for k, v in env.items() if k not in places} | {"HOME": folder}
            self.assertEqual(self.call("get", env=env).stdout, event(1, 1) + "\n")
            pathlib.Path(folder, ".aws/config").write_text("secret words\n")
            stderr = self.call("ls", env=env, exit=2).stderr
            self.assertIn("line 1", stderr)
            self.assertNotIn("secret words", stderr)

    def test_a_bucket_before_the_host(self):
        with Proxy(self.s3.port, 1) as proxy:
            handle, asked = proxy.handle, []
            proxy.handle = lambda request: (asked.append((request.headers["Host"], request.path.partition("?")[0])), handle(request))
            url = f"http://localhost:{proxy.port}"
            some = [event(n, n * 60) for n in range(200)]
            self.call("put", "--addressing", "virtual", stdin="\n".join(some), env=self.s3.environment(url))
            self.assertEqual(self.lines(), collections.Counter(some))
            with tempfile.NamedTemporaryFile("w") as config:
                config.write("[default]\ns3 =\n  addressing_style = virtual\n")
                config.flush()
                got = self.call("get", env=self.s3.environment(url, AWS_CONFIG_FILE=config.name))
            self.assertEqual(got.stdout.splitlines(), some)
            self.assertEqual({host for host, _ in asked}, {f"bucket.localhost:{proxy.port}"})
            self.assertEqual({path for _, path in asked if not path.startswith("/" + urllib.parse.quote(self.prefix))}, {"/"})

    def test_tls(self):
        with tempfile.TemporaryDirectory(prefix="inflight-test-") as folder:
            crt, key = certificate(folder, "IP:127.0.0.1,DNS:localhost,DNS:bucket.localhost")
            with Proxy(self.s3.port, 1).with_tls(crt, key) as proxy:
                self.refused(2, ["certificate", proxy.url], AWS_ENDPOINT_URL=proxy.url)
                self.refused(2, [f"{folder}/none"], AWS_ENDPOINT_URL=proxy.url, AWS_CA_BUNDLE=f"{folder}/none")
                self.assertEqual(proxy.seen, {})
                for url, style in (proxy.url, "path"), (f"https://localhost:{proxy.port}", "virtual"):
                    env = self.s3.environment(url, AWS_CA_BUNDLE=crt)
                    self.call("put", "--addressing", style, stdin=event(1, 1) + "\n", env=env)
                    self.assertEqual(self.call("get", "--addressing", style, env=env).stdout, event(1, 1) + "\n")
                self.assertEqual(len(self.keys()), 1)
                pathlib.Path(folder, "config").write_text(f"[default]\nca_bundle = {crt}\n")
                self.call("verify", env=self.s3.environment(proxy.url, AWS_CONFIG_FILE=f"{folder}/config"))
                for key in self.keys():
                    self.s3.client.delete("bucket", key)
                self.refused(75, [proxy.url.replace("https", "http")], AWS_ENDPOINT_URL=proxy.url.replace("https", "http"))
            crt, key = certificate(folder, "DNS:other.localhost")
            with Proxy(self.s3.port, 1).with_tls(crt, key) as proxy:
                self.refused(2, ["certificate", proxy.url], AWS_ENDPOINT_URL=proxy.url, AWS_CA_BUNDLE=crt)
            self.refused(2, ["https://127.0.0.1"], AWS_ENDPOINT_URL=self.s3.url.replace("http", "https"))

    def test_a_spool_of_one_bucket_is_not_taken_for_another(self):
        with tempfile.TemporaryDirectory(prefix="inflight-test-") as spool:
            self.call("put", "--spool", spool, stdin=event(1, 1) + "\n")
            self.assertIn("spool of", self.call("put", "--spool", spool, archive=self.archive + "2", stdin=event(1, 1) + "\n", exit=2).stderr)
            self.assertIn("spool of", self.call("put", "--spool", spool, archive=spool + "/of-files", stdin=event(1, 1) + "\n", exit=2).stderr)
        env = {k: v for k, v in self.s3.environment().items() if k not in ("HOME", "XDG_STATE_HOME", "STATE_DIRECTORY")}
        self.assertIn("--spool", self.call("put", env=env, stdin=event(1, 1) + "\n", exit=2).stderr)

    # ---- something else

    def test_a_server_that_is_no_s3(self):
        class Web(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        with tempfile.TemporaryDirectory(prefix="inflight-test-") as folder:
            pathlib.Path(folder, "bucket").mkdir()
            listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Web, directory=folder))
            thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                url = f"http://127.0.0.1:{listener.server_address[1]}"
                self.refused(2, ["is it an S3 server?", url], AWS_ENDPOINT_URL=url)  # a page
                self.refused(2, ["is it an S3 server?", url], AWS_ENDPOINT_URL=url, archive="s3://other/x")  # 404
            finally:
                listener.shutdown()
                thread.join()
                listener.server_close()

    def test_a_server_that_does_not_answer(self):
        url = f"http://127.0.0.1:{free_port()}"
        self.refused(75, ["Connection refused", url], AWS_ENDPOINT_URL=url)
        self.refused(75, ["no-such-host.invalid", "resolve"], AWS_ENDPOINT_URL="http://no-such-host.invalid")

    def test_names_that_are_none(self):
        for archive in "s3://", "s3:///x", "s3://a/x", "s3://user:pass@bucket/x", "s3://bucket/x?y=z", "s3://bucket/../x", "s4://bucket/x":
            self.refused(2, ["s3-archive: '"], archive=archive)
        for url in "ftp://127.0.0.1", "127.0.0.1:80", "http://", "http://me:not-the-secret@127.0.0.1":
            self.refused(2, ["AWS_ENDPOINT_URL"], AWS_ENDPOINT_URL=url)


class OnSwift(S3Tests, unittest.TestCase):
    kind = ALL[0]


class OnCeph(S3Tests, unittest.TestCase):
    kind = ALL[1]
    strict_region = False


if __name__ == "__main__":
    unittest.main()

"""s3-archive put into real S3 servers while put and server are killed and answers are lost, late or errors: each event ends in
exactly one object, every object is whole, and no upload is left half done.

FAULT_ROUNDS says how many seeded rounds, on each server."""
import base64
import collections
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from archive_source import Source, event  # noqa: E402
from harness import run, tool, wait_for  # noqa: E402
from s3_server import ALL, Proxy  # noqa: E402

from processes import kill, of_lines  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "4"))
GET_ROUNDS = max(2, ROUNDS // 3)
S3 = tool("s3-archive")


def lines(s3, bucket, prefix):
    """Every line of every object that is visible, counted; each object must be whole. And the names."""
    assert s3.catch_up(), "the list of objects is not complete"
    found, keys = collections.Counter(), s3.client.keys(bucket, prefix)
    for key in keys:
        done = run(["zstd", "-dcq"], stdin=s3.client.get(bucket, key))
        assert done.exit == 0, f"{key}: {done.stderr}"
        found.update(done.stdout.splitlines())
    return found, keys


def events_of(rng):
    base = rng.randrange(10**6)
    # Some rounds have objects that go in several parts: what does not compress, so that 5 MiB are soon there.
    large = rng.random() < 0.3
    pad = (lambda: base64.b64encode(rng.randbytes(60_000)).decode()) if large else (lambda: "x" * rng.randrange(300))
    count = rng.randrange(150, 260) if large else rng.randrange(100, 1500)
    return {base + n: event(n, 3500 + n // 10 if rng.random() < 0.95 else rng.randrange(7200), pad=pad()) for n in range(count)}, large


class Faults:
    server = None

    def test_every_event_is_in_exactly_one_object_whatever_is_killed(self):
        if self.server.missing():
            self.skipTest(f"{self.server.name} is not installed: {self.server.missing()}")
        seen, unheard, in_parts = collections.Counter(), 0, 0
        with self.server() as s3:
            s3.make_bucket("faults")
            for seed in range(ROUNDS):
                with self.subTest(seed=seed):
                    a, b, c = self.round(s3, seed)
                    seen, unheard, in_parts = seen + a, unheard + b, in_parts + c
        print(f"summary: {self.server.name}: {ROUNDS} rounds, {unheard} events were stored though nobody had heard of it, {in_parts} objects in "
              f"parts; {dict(sorted(seen.items()))}", flush=True)
        # The test has seen what it is for.
        self.assertGreater(sum(seen[kind] for kind in Proxy.KINDS), 0)
        self.assertGreater(seen["PUT 501" if self.server.name == "swift" else "PUT 200"], 0)

    def round(self, s3, seed):
        rng = random.Random(seed)
        events, large = events_of(rng)
        prefix = f"round {seed}+ä=/raw"
        unheard = 0
        with Proxy(s3.port, seed, faults=rng.choice([0, 5, 15, 30])) as proxy:
            source = Source(f"s3://faults/{prefix}", events, env=s3.environment(proxy.url))

            def options(give_up="120s"):
                return ["--max-records", str(rng.choice([110, 130, 40000] if large else [30, 100, 400, 40000])),
                        "--max-age", "60s" if large else rng.choice(["2ms", "20ms", "60s"]),
                        "--batch-records", str(rng.choice([1, 7, 100, 5000])), "--linger", rng.choice(["1ms", "10ms"]),
                        "--timeout", "1s", "--multipart", "5MiB", "--give-up", give_up]

            for _ in range(rng.randrange(1, 5)):
                crash = threading.Timer(rng.random() * 0.3, self.crash, [s3, rng.choice(s3.crash)]) if rng.random() < 0.3 else None
                if crash:
                    crash.start()
                source.run(rng, options("1s" if crash else "120s"), kill=True, patience=0.3)
                if crash:
                    crash.join()
                    s3.start()
                there, _ = lines(s3, "faults", prefix)
                self.assertEqual([line for line, count in there.items() if count > 1], [])
                self.assertEqual([p for p in source.settled if there[events[p]] != 1], [])
                unheard += sum(there[line] for p, line in events.items() if p not in source.settled)
            status = source.run(rng, options())  # the faults go on, nobody is killed
            self.assertEqual(status, 0, source.stderr)
            seen = proxy.seen
        self.assertEqual(source.settled, set(events))
        there, keys = lines(s3, "faults", prefix)
        self.assertEqual(there, collections.Counter(events.values()))
        self.assertEqual([key for key in s3.client.uploads("faults") if key.startswith(prefix)], [])
        env = s3.environment()
        self.assertEqual(run([S3, "verify", source.archive], env=env), (0, "", ""))
        self.assertEqual(sorted(run([S3, "get", source.archive], env=env).stdout.splitlines()), sorted(events.values()))
        in_parts = sum("-" in s3.client.etag("faults", key) for key in keys) if large else 0
        for key in keys:
            s3.client.delete("faults", key)
        return seen, unheard, in_parts

    def test_put_is_killed_at_each_request_of_an_object_in_parts(self):
        if self.server.missing():
            self.skipTest(f"{self.server.name} is not installed: {self.server.missing()}")
        rng = random.Random(1)
        events = [event(n, n, pad=base64.b64encode(rng.randbytes(60_000)).decode()) for n in range(150)]
        text = "\n".join(events) + "\n"
        with self.server() as s3:
            s3.make_bucket("faults")
            for after in False, True:
                kills = 0
                while self.killed_at(s3, kills + 1, after, text):
                    kills += 1
                # HEAD, the list of uploads, begin, two parts, complete, and HEAD again; before them the list of objects.
                self.assertGreaterEqual(kills, 7)
                print(f"summary: {self.server.name}: killed {'after' if after else 'before'} each of {kills} requests", flush=True)

    def killed_at(self, s3, number, after, text):
        """Whether there was a request of this number, at which put was killed; in any case all is as it must be in the end."""
        prefix = f"killed {number} {after}"
        killed = []
        with Proxy(s3.port, 0) as proxy:
            handle, answer, count, lock = proxy.handle, proxy.answer, [0], threading.Lock()

            def kill(request):
                with lock:
                    count[0] += 1
                    mine = count[0] == number
                if mine and not after:
                    killed.append(process.kill())
                    request.close_connection = True
                    return
                if mine:
                    proxy.answer = lambda *_, **__: killed.append(process.kill())
                handle(request)

            proxy.handle = kill
            command = [S3, "put", f"s3://faults/{prefix}", "--multipart", "5MiB"]
            with tempfile.TemporaryFile() as source:
                source.write(text.encode())
                source.seek(0)
                process = subprocess.Popen(command, stdin=source, env=s3.environment(proxy.url))
                process.wait(60)
            proxy.handle, proxy.answer = handle, answer
            again = run(command, stdin=text, env=s3.environment(proxy.url))  # the same line again, with the same spool
            self.assertEqual((again.exit, again.stderr), (0, ""))
        self.assertEqual(list((s3.dir / "state").glob("**/*.open")), [])
        there, keys = lines(s3, "faults", prefix)
        self.assertEqual(there, collections.Counter(text.splitlines()))
        self.assertEqual(len(keys), 1)
        self.assertEqual([key for key in s3.client.uploads("faults") if key.startswith(prefix)], [])
        return bool(killed)

    def test_get_into_a_pipeline_goes_on_whatever_is_killed(self):
        if self.server.missing():
            self.skipTest(f"{self.server.name} is not installed: {self.server.missing()}")
        events = [event(n, n % 7200, f"u{n % 7}") for n in range(8000)]
        killed, faults = collections.Counter(), 0
        with self.server() as s3:
            s3.make_bucket("faults")
            put = run([S3, "put", "s3://faults/get ä", "--max-records", "700"], stdin="\n".join(events) + "\n", env=s3.environment())
            self.assertEqual((put.exit, put.stderr), (0, ""))
            for seed in range(GET_ROUNDS):
                with self.subTest(seed=seed), tempfile.TemporaryDirectory(prefix="inflight-test-") as folder:
                    faults += self.get_round(s3, seed, folder, len(events), killed)
        print(f"summary: {self.server.name}: {GET_ROUNDS} rounds of get, killed {dict(sorted(killed.items()))}; {faults} broken requests; "
              f"of {len(events)} events each lost 0, doubled 0", flush=True)
        self.assertGreater(killed["s3-archive"], 0)

    def get_round(self, s3, seed, folder, count, killed):
        rng = random.Random(seed)
        with Proxy(s3.port, seed, faults=rng.choice([0, 5, 15])) as proxy:
            command = [S3, "get", "s3://faults/get ä", "--timeout", "1s", "--state", f"{folder}/state", "--",
                       f"{tool('sql-write')} sqlite:{folder}/got.db --table t --key id --create --column id=id --column n=/n:int --batch-records 100"]
            env = {**s3.environment(proxy.url), "FAULT_LINE": folder}

            def get():
                with open(f"{folder}/stderr", "ab") as stderr:
                    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, env=env)

            process = get()
            try:
                for _ in range(rng.randrange(2, 7)):
                    time.sleep(rng.choice([rng.uniform(0.005, 0.1), rng.uniform(0.1, 0.6)]))
                    victims = of_lines()[folder]
                    if rng.random() < 0.2:
                        name = rng.choice(s3.crash)
                        self.crash(s3, name)
                        s3.start()
                        killed[name] += 1
                    elif victims and kill(victim := victims[0] if rng.random() < 0.5 else rng.choice(victims)):
                        killed[victim.name] += 1
                        if victim.pid == process.pid:
                            process.wait(60)
                    if process.poll() is not None:
                        process = get()

                def complete():
                    nonlocal process
                    status = process.wait(120)
                    if status:
                        process = get()
                    return status == 0
                wait_for(complete, 120, "get to end")
            finally:
                process.kill()
                process.wait()
        stderr = pathlib.Path(f"{folder}/stderr").read_text()
        self.assertIn("complete", stderr)
        base = sqlite3.connect(f"{folder}/got.db")
        self.assertEqual([n for n, in base.execute("select n from t order by n")], list(range(count)))
        base.close()
        return sum(proxy.seen[kind] for kind in Proxy.KINDS)

    @staticmethod
    def crash(s3, name):
        s3.kill(signal.SIGKILL, [name])


for each in ALL:
    globals()[each.name.title()] = type(each.name.title(), (Faults, unittest.TestCase), {"server": each})

if __name__ == "__main__":
    unittest.main()

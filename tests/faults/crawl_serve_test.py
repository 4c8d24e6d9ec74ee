"""crawl --serve, killed with its pipeline or without: what was answered 202 is done, each key of each job told once.

FAULT_ROUNDS kills in all, in seeds of ten; SEED is the first one.
"""
import collections
import contextlib
import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, free_port, tool, wait_for  # noqa: E402
from processes import descendants, seeds  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "10"))
PER_SEED = 10
COLLECTIONS = {"orders": 400, "a b%+": 50, "\U0001f600": 120, "empty": 0}


class Job:
    def __init__(self, folder, db, seed):
        self.folder, self.db, self.chance, self.port = pathlib.Path(folder), db, random.Random(seed), free_port()
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.err = open(self.folder / "err", "ab")
        self.process, self.killed = None, collections.Counter()
        self.accepted, self.unknown = {}, collections.Counter()  # id: (collection, key); not known whether it was

    def start(self):
        self.process = subprocess.Popen(
            [tool("crawl"), self.db.url, "--serve", f"127.0.0.1:{self.port}", "--state", "s", "--rate", "800/s", "--takeover", "2s", "--",
             "publish x/"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.err, stderr=self.err)
        wait_for(lambda: self.ask("GET", "/status"), what="the server")

    def ask(self, method, target):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        return None

    def post(self):
        collection = self.chance.choice(list(COLLECTIONS))
        key = "" if self.chance.random() < 0.4 else f"doc {self.chance.randrange(5)}%"
        path = [collection, key] if key else [collection]
        answer = self.ask("POST", "/crawl/" + "/".join(urllib.parse.quote(part, safe="") for part in path))
        if answer is None:
            self.unknown[collection, key] += 1
        elif answer[0] == 202:
            self.accepted[answer[1]["id"]] = (collection, key)
        else:
            assert answer[0] == 409, answer

    def round(self):
        posts = self.chance.randrange(1, 6)
        kill_at = self.chance.randrange(posts)
        for n in range(posts):
            time.sleep(self.chance.random() * 0.2)
            if n == kill_at:
                self.kill()
            self.post()
        if self.process.poll() is not None:
            self.start()

    def kill(self):
        what = self.chance.choice(["crawl", "crawl", "publish", "both"])
        publishers = [p.pid for p in descendants(self.process.pid) if p.name == "publish"]
        victims = (publishers if what != "crawl" else []) + ([self.process.pid] if what != "publish" else [])
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if what != "publish":
            self.process.wait()
            if self.chance.random() < 0.7:
                self.start()
        self.killed[what if victims else "nothing"] += 1

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.err.close()

    def finish(self, test):
        def idle():
            status = self.ask("GET", "/status")
            return status and status[1]["running"] is None and status[1]["waiting"] == 0
        wait_for(idle, 120, "the jobs")
        told, ids = collections.Counter(), collections.Counter()
        for file in sorted((self.folder / "x").glob("*.ndjson")):
            for line in file.read_text().splitlines():
                event = json.loads(line)
                ids[event["id"]] += 1
                told[urllib.parse.unquote(event["source"].rsplit("/", 1)[1]), event["subject"]] += 1
        test.assertEqual([one for one, count in ids.items() if count > 1], [], "told twice")
        jobs = collections.Counter(self.accepted.values())
        for collection, count in COLLECTIONS.items():
            for key in [*(f"k{n}" for n in range(count)), *(f"doc {n}%" for n in range(5))]:
                job = (collection, "" if key.startswith("k") else key)
                test.assertGreaterEqual(told[collection, key], jobs[job], (collection, key, "lost"))
                test.assertLessEqual(told[collection, key], jobs[job] + self.unknown[job], (collection, key, "told without a job"))
        left = [f.name for f in self.folder.glob("s.*") if f.name != "s.serve.lock"]
        test.assertEqual(left, [])


class ServeFaults(unittest.TestCase):
    def one_seed(self, seed, rounds):
        with tempfile.TemporaryDirectory(prefix="inflight-serve-") as folder, RtdbServer() as db:
            for collection, count in COLLECTIONS.items():
                db.put([collection], {f"k{n}": n for n in range(count)})
            job = Job(folder, db, seed)
            try:
                job.start()
                for _ in range(rounds):
                    job.round()
                job.finish(self)
            except BaseException:
                print(f"\nSEED={seed}\n{(job.folder / 'err').read_text(errors='replace')[-3000:]}", file=sys.stderr)
                raise
            finally:
                job.end()
            kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
            print(f"summary: SEED={seed}: killed {kills}; {len(job.accepted)} jobs accepted and done, lost 0", flush=True)

    def test_no_job_is_lost_or_done_twice_whatever_is_killed(self):
        for seed, rounds in seeds(ROUNDS, PER_SEED):
            self.one_seed(seed, rounds)


if __name__ == "__main__":
    unittest.main(verbosity=2)

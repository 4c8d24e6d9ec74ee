"""The sinks that man/receipts.7 shows, as a reader copies them: under consume, and killed."""
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, run, tool, wait_for  # noqa: E402

CONSUME, PUBLISH = tool("consume"), tool("publish")
TRICKLE = """import sys, time
for line in sys.stdin:
    time.sleep(0.003)
    print(line, end="", flush=True)
"""


def examples():
    """The scripts of the rendered page by their interpreter."""
    page = run(["mandoc", "-T", "utf8", "-O", "width=200", str(ROOT / "man" / "receipts.7")])
    assert page.exit == 0, page.stderr
    scripts = {}
    for block in re.findall(r"^( +#!.*?)\n\n", page.stdout, re.M | re.S):
        script = textwrap.dedent(block) + "\n"
        scripts[re.search(r"python|bash", script)[0]] = script
    return scripts


def descendants(pid):
    """Process ids below `pid` with their names."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    found = []
    for child in map(int, children):
        try:
            found.append((child, pathlib.Path(f"/proc/{child}/comm").read_text().strip()))
        except OSError:
            continue
        found += descendants(child)
    return found


class Sink:
    """One of the examples with its store."""

    def __init__(self, folder, kind, script):
        self.kind, self.path = kind, folder / f"sink.{kind}"
        self.path.write_text(script)
        self.store = folder / f"store.{kind}"
        if kind == "bash":
            self.store.mkdir()
        self.command = f"{'python3' if kind == 'python' else 'bash'} {self.path} {self.store}"

    def events(self):
        if self.kind == "bash":
            return [json.loads(p.read_text()) for p in self.store.iterdir() if not p.name.startswith(".")]
        try:
            with sqlite3.connect(f"file:{self.store}?mode=ro", uri=True, timeout=30) as db:
                return [json.loads(row[0]) for row in db.execute("SELECT event FROM event")]
        except sqlite3.OperationalError:
            return []  # not made yet

    def count(self):
        return len(self.events())


class ReceiptsManualTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scripts = examples()

    def setUp(self):
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a sink of one fsync an event: disks differ
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="inflight-test-", dir=memory))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.exchange = str(self.folder / "exchange")
        self.events = []
        (self.folder / "trickle.py").write_text(TRICKLE)  # so that a kill meets a sink that is at work
        self.trickle = f"python3 {self.folder}/trickle.py"

    def publish(self, count):
        first = len(self.events)
        events = [{"specversion": "1.0", "id": f"e{n}", "source": "/test", "type": "t", "subject": f"s{n % 7}", "data": {"n": n}}
                  for n in range(first, first + count)]
        done = run([PUBLISH, self.exchange], "".join(json.dumps(e) + "\n" for e in events))
        self.assertEqual(done.exit, 0, done.stderr)
        self.events += events

    def sink(self, kind):
        return Sink(self.folder, kind, self.scripts[kind])

    def finish(self, pipeline):
        done = run([CONSUME, self.exchange, "--as", "reader", "--until-empty", "--", pipeline], timeout=300)
        self.assertEqual(done.exit, 0, done.stderr)
        checked = run([CONSUME, self.exchange, "--check", "dead=0,behind=0"])
        self.assertEqual(checked, (0, "", ""))

    def assert_stored(self, sink, events):
        def text(event):
            return json.dumps(event, sort_keys=True)
        self.assertEqual(sorted(map(text, sink.events())), sorted(map(text, events)))

    def kill_on_the_way(self, sink, pipeline):
        """kill -9 the sink, and later consume, each while events are on their way that the sink has not seen."""
        self.publish(60)
        process = subprocess.Popen([CONSUME, self.exchange, "--as", "reader", "--settle", "2s", "--", pipeline], stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        for count in (5, 25):
            victim = self.stop_one(process, sink, count)
            self.publish(20)
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: sink.count() >= len(self.events), 120, "all events, after the sink was killed")
        before = sink.count()
        self.publish(20)
        victim = self.stop_one(process, sink, before + 5)
        self.publish(20)
        process.kill()
        process.wait()
        # It goes on with what it has, and finds nobody to tell; or the kernel has sent its orphaned group SIGHUP already.
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)

    def stop_one(self, process, sink, count):
        """Stop the sink somewhere behind the event that makes so many."""
        wait_for(lambda: sink.count() >= count, 120, f"{count} events")
        time.sleep(0.03 * random.random())
        program = "python3" if sink.kind == "python" else "bash"
        while True:
            found = wait_for(lambda: [pid for pid, name in descendants(process.pid) if name == program], 60, "the sink")
            try:
                os.kill(found[-1], signal.SIGSTOP)
                return found[-1]
            except ProcessLookupError:
                pass  # a subshell that has ended meanwhile

    def test_the_manual_shows_a_sink_in_python_and_one_in_shell(self):
        self.assertEqual(sorted(self.scripts), ["bash", "python"])

    def test_all_events_arrive(self):
        self.publish(30)
        for kind in ("python", "bash"):
            with self.subTest(kind):
                sink = self.sink(kind)
                done = run([CONSUME, self.exchange, "--as", kind, "--until-empty", "--", sink.command], timeout=300)
                self.assertEqual((done.exit, done.stderr), (0, ""))
                self.assert_stored(sink, self.events)

    def test_all_events_arrive_after_kill_9(self):
        for kind in ("python", "bash"):
            with self.subTest(kind):
                self.exchange, self.events = str(self.folder / f"exchange-{kind}"), []
                sink = self.sink(kind)
                pipeline = f"{self.trickle} | {sink.command}"
                self.kill_on_the_way(sink, pipeline)
                self.finish(pipeline)
                self.assert_stored(sink, self.events)

    def test_all_records_arrive_after_kill_9_behind_a_foreign_filter_that_splits(self):
        sink = self.sink("python")
        pipeline = f"""jq -c --unbuffered '(.id += "a"), (.id += "b")' | {self.trickle} | {sink.command}"""
        self.kill_on_the_way(sink, pipeline)
        self.finish(pipeline)
        self.assert_stored(sink, [dict(e, id=e["id"] + half) for e in self.events for half in ("a", "b")])


if __name__ == "__main__":
    unittest.main()

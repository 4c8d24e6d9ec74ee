"""throttle from outside: bytes untouched, limits that hold, and a source that is not misled by records held up.

How fast it is stands in tests/bench; here no test waits for a moment, only for something to happen.
"""
import json
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import run, tool, wait_for

FAST = ["faketime", "-f", "+0 x600"]  # ten minutes a second


def event(n):
    return json.dumps({"specversion": "1.0", "id": f"e{n}", "source": "/test", "type": "t", "subject": "u", "data": {"n": n}})


class Test(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)
        self.env = dict(os.environ, XDG_STATE_HOME=str(self.dir / "state"))
        self.env.pop("STATE_DIRECTORY", None)

    def start(self, *options, before=(), **more):
        process = subprocess.Popen([*before, tool("throttle"), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, bufsize=0, env=more.pop("env", self.env), **more)

        def end():
            process.kill()
            process.communicate()
        self.addCleanup(end)
        return process

    @staticmethod
    def feed(process, text):
        process.stdin.write(text.encode())
        process.stdin.flush()

    @staticmethod
    def silent(process, seconds=0.5):
        """A throttle that does not hold may still look so on a slow machine; one that holds never fails this."""
        return not select.select([process.stdout], [], [], seconds)[0]


class Bytes(Test):
    def test_whatever_the_limit_the_bytes_are_the_same(self):
        rng = random.Random(1)
        lines = [rng.randbytes(rng.randrange(300)).replace(b"\n", b"") for _ in range(3000)]
        lines[1000:1003] = [b"x" * (3 << 20), b"", b"y" * ((1 << 20) - 1)]
        text = b"\n".join(lines)
        for options in ([], ["--rate", "10000000/s"], ["--rate", "1GB/s", "--burst", "1MB"], ["--min-interval", "1ns"],
                        ["--rate", "100000/s", "--rate", "1GB/s", "--control", str(self.dir / "none")]):
            with self.subTest(options):
                done = run([tool("throttle"), *options], text, text=False)
                self.assertEqual((done.exit, done.stderr), (0, b""))
                self.assertTrue(done.stdout == text + b"\n")

    def test_nothing_is_faster_than_the_interval_or_the_rate(self):
        text = "".join(event(n) + "\n" for n in range(30))
        for options, least in ((["--min-interval", "20ms"], 0.58), (["--rate", "50/s"], 0.58), (["--rate", f"{len(text) * 2}B/s"], 0.45),
                               (["--rate", "50/s", "--burst", "10"], 0.58)):
            with self.subTest(options):
                began = time.monotonic()
                self.assertEqual(run([tool("throttle"), *options], text), (0, text, ""))
                self.assertGreaterEqual(time.monotonic() - began, least)

    def test_each_record_is_a_write_of_its_own_under_an_interval(self):
        process = self.start("--min-interval", "10ms")
        text = "".join(event(n) + "\n" for n in range(20))
        self.feed(process, text)
        process.stdin.close()
        got = []
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            got.append(chunk.decode())
        self.assertEqual("".join(got), text)
        process.stdin = None

    def test_wrong_words_are_usage_errors(self):
        for words in (["--rate", "fast"], ["--rate", "40"], ["--burst", "x"], ["--min-interval", "25"], ["--guard", "true"], ["--target", "p95=50ms"],
                      ["--guard", "true", "--target", "p95=5"], ["--guard", "true", "--target", "value=1", "--start-rate", "1MB/s"]):
            with self.subTest(words):
                done = run([tool("throttle"), *words], "x\n", env=self.env)
                self.assertEqual((done.exit, done.stdout), (2, ""))
                self.assertRegex(done.stderr, r"\Athrottle: [^\n]+\n\Z")


class Control(Test):
    def test_a_running_pipeline_is_paused_slowed_and_let_go(self):
        control = self.dir / "rate.txt"
        control.write_text("pause\n")
        process = self.start("--rate", "1000000/s", "--control", str(control))
        self.feed(process, event(1) + "\n")
        self.assertTrue(self.silent(process))
        control.write_text("what\n")
        self.assertRegex(process.stderr.readline().decode(), r"\Athrottle: --control: .*rate.txt: 'what' is neither .*; going on as before\n\Z")
        self.assertTrue(self.silent(process))
        control.write_text("1000/s 1us\n")
        self.assertEqual(process.stdout.readline().decode(), event(1) + "\n")
        control.write_text("1/h\n")
        # Whenever it looks: from then on one an hour.
        for _ in range(1000):
            self.feed(process, event(2) + "\n")
            if self.silent(process):
                break
            self.assertEqual(process.stdout.readline().decode(), event(2) + "\n")
        else:
            self.fail("the new rate never came")
        control.unlink()
        self.assertEqual(process.stdout.readline().decode(), event(2) + "\n")
        process.stdin.close()
        process.stdin = None
        self.assertEqual(process.wait(60), 0)

    def test_stopped_while_it_is_paused_it_says_that_something_is_left(self):
        control = self.dir / "rate.txt"
        control.write_text("pause")
        process = self.start("--control", str(control))
        self.feed(process, event(1) + "\n")
        self.assertTrue(self.silent(process))
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 75)
        self.assertIn("stopped while it is paused", process.stderr.read().decode())


class State(Test):
    def test_the_clock_goes_on_when_it_is_killed_and_started_again(self):
        state = self.dir / "x" / "state"
        for options in ["--rate", "1/h"], ["--min-interval", "1h"]:
            first = self.start(*options, "--state", str(state))
            self.feed(first, event(1) + "\n" + event(2) + "\n")
            self.assertEqual(first.stdout.readline().decode(), event(1) + "\n")
            first.kill()
            first.wait()
            self.assertRegex(state.read_text(), r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z *\n\Z")
            self.assertEqual(state.stat().st_size, 31)
            second = self.start(*options, "--state", str(state))
            self.feed(second, event(2) + "\n")
            self.assertTrue(self.silent(second))
            # Nothing waits for a damaged file.
            whole = state.read_bytes()
            for damaged in [whole[:n] for n in (0, 7, 19)] + [b"\xff" * 31, whole.replace(b"T", b"x")]:
                state.write_bytes(damaged)
                third = self.start(*options, "--state", str(state))
                self.feed(third, event(3) + "\n")
                self.assertEqual(third.stdout.readline().decode(), event(3) + "\n")
                third.kill()
                third.wait()
            state.unlink()

    def test_a_time_of_any_length_is_waited_for(self):
        for fraction in "", ".5", ".123456789":
            state = self.dir / "state"
            state.write_text((time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 3000)) + fraction + "Z").ljust(30) + "\n")
            process = self.start("--min-interval", "1h", "--state", str(state))
            self.feed(process, event(1) + "\n")
            self.assertTrue(self.silent(process))

    def test_a_time_far_ahead_is_no_longer_than_one_record_waits(self):
        state = self.dir / "state"
        state.write_text("2200-01-01T00:00:00Z".ljust(30) + "\n")
        done = run([tool("throttle"), "--rate", "100/s", "--state", str(state)], event(1) + "\n")
        self.assertEqual(done, (0, event(1) + "\n", ""))


class UnderASource(Test):
    def channel(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, writer)
        about = os.fstat(writer)
        return reader, writer, dict(self.env, RECEIPTS_FD=f"{writer}:{about.st_dev}:{about.st_ino}:k7", RECEIPTS_SOURCE="test")

    def test_a_record_that_waits_for_long_is_told_as_held_again_and_again(self):
        reader, writer, env = self.channel()
        process = self.start("--rate", "1/d", before=FAST, env=env, pass_fds=[writer])
        # The second one as a foreign filter writes it.
        self.feed(process, '{"delivery":"k7:5","a":1}\n{"a":1, "delivery": "k7:6,9/2."}\n{"delivery":"k7:7"}\n')
        self.assertEqual(process.stdout.readline(), b'{"delivery":"k7:5","a":1}\n')
        said = [json.loads(line) for line in (os.read(reader, 1 << 16), os.read(reader, 1 << 16))]
        os.close(reader)
        for line in said:
            self.assertEqual((line["status"], line["delivery"]), ("held", "k7:6,9/2."))
        # Nobody reads the channel any more: the source is gone, and its successor waits until we are.
        self.assertEqual(process.wait(60), 75)

    def test_consume_waits_at_a_very_low_rate_and_settles_every_event(self):
        """An event an hour, while consume gives up on what does not move for half an hour."""
        env = dict(self.env, PATH=f"{pathlib.Path(tool('throttle')).parent}:{self.env['PATH']}")
        exchange = str(self.dir / "fleet")
        self.assertEqual(run([tool("publish"), exchange], "".join(event(n) + "\n" for n in range(4))).exit, 0)
        done = run([tool("consume"), exchange, "--as", "slow", "--until-empty", "--settle", "1s", "--stall", "3s", "--metrics", str(self.dir / "metrics"),
                    "--", f"{' '.join(FAST[:2])} '{FAST[2]}' throttle --rate 1/h | publish {self.dir}/out"], env=env)
        self.assertEqual((done.exit, done.stdout, done.stderr), (0, "", ""))
        out = [json.loads(line)["id"] for file in self.dir.glob("out/*.ndjson") for line in file.read_text().splitlines()]
        self.assertEqual(out, ["e0", "e1", "e2", "e3"])
        self.assertRegex((self.dir / "metrics").read_text(), r"inflight_restarts_total\{[^}]*\} 0\n")
        self.assertEqual(len(list((self.dir / "state" / "inflight" / "throttle").iterdir())), 1)

    def test_without_limits_nothing_is_kept(self):
        _, writer, env = self.channel()
        done = run([tool("throttle")], '{"delivery":"k7:5"}\n', env=env, pass_fds=[writer])
        self.assertEqual(done, (0, '{"delivery":"k7:5"}\n', ""))
        self.assertFalse((self.dir / "state").exists())


class Guard(Test):
    def test_what_a_command_prints_slows_and_frees_the_flow(self):
        load = self.dir / "load"
        load.write_text("200\n")
        process = self.start("--guard", f"cat {load}; echo more", "--target", "value=100", "--guard-every", "10ms", "--start-rate", "1000000/s")
        # Half of it each half second, down to one a second: then a second between two records is certain.
        end = time.monotonic() + 60
        while time.monotonic() < end:
            self.feed(process, event(1) + "\n" + event(2) + "\n")
            self.assertTrue(process.stdout.readline())
            if self.silent(process, 0.4):
                break
            self.assertTrue(process.stdout.readline())
        else:
            self.fail("the rate never fell")
        load.write_text("1\n")
        self.assertTrue(process.stdout.readline())
        process.stdin.close()
        process.stdin = None
        self.assertEqual((process.wait(60), process.stderr.read()), (0, b""))

    def test_a_probe_is_no_stage_and_one_that_fails_is_told_once(self):
        reader, writer = os.pipe()
        about = os.fstat(writer)
        env = dict(self.env, RECEIPTS_FD=f"{writer}:{about.st_dev}:{about.st_ino}:k7", RECEIPTS_SOURCE="test")
        probe = f"env > {self.dir}/env.new; ls -l /proc/self/fd >> {self.dir}/env.new; mv {self.dir}/env.new {self.dir}/env; exit 3"
        process = self.start("--guard", probe, "--target", "errors=1%", "--guard-every", "10ms", env=env, pass_fds=[writer])
        os.close(writer)
        wait_for(lambda: (self.dir / "env").exists(), what="the probe")
        text = (self.dir / "env").read_text()
        self.assertNotIn("RECEIPTS_FD", text)
        self.assertNotIn(f"pipe:[{about.st_ino}]", text)
        self.feed(process, '{"delivery":"k7:5"}\n')
        self.assertTrue(process.stdout.readline())
        process.stdin.close()
        process.stdin = None
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(process.stderr.read().decode(), "throttle: --guard: the live system does not answer: going slowly\n")
        os.close(reader)


if __name__ == "__main__":
    unittest.main()

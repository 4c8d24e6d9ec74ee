"""From one exchange into another: what a killed consume delivers again, the second exchange still knows.

FAULT_ROUNDS says how many kills; FAULT_SEED when they come.
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool  # noqa: E402

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "4"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
WINDOW = 100_000  # consume's
DOUBLES = 200_000  # publish's

# Receipts a thousand events at once, as a quick sink would, and prints how far it ever was ahead of the saved cursor.
SINK = r"""
import json, os, sys
channel = int(os.environ["RECEIPTS_FD"].split(":")[0])
state, farthest, count = sys.argv[1], 0, 0
os.write(channel, b'{"sink":"quick"}\n')
def receipt(token, first, last):
    os.write(channel, b'{"delivery":"%s:%d-%d","status":"stored","by":"quick"}\n' % (token, first, last))
first = None
for line in sys.stdin.buffer:
    count += 1
    token, position = line[13:line.index(b'"', 13)].split(b":")
    first = int(position) if first is None else first
    if count % 1000 == 0:
        with open(state) as file:
            farthest = max(farthest, int(position) - json.load(file)["cursor"])
        receipt(token, first, int(position))
        first = None
if first is not None:
    receipt(token, first, int(position))
print(farthest, file=open(sys.argv[2], "a"))
"""


class Chain(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-chain-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def publish(self, count):
        text = "".join(f'{{"specversion":"1.0","id":"{n}","source":"test","type":"t","subject":"s{n % 50}"}}\n' for n in range(count))
        done = run([tool("publish"), "a/"], text, cwd=self.folder)
        self.assertEqual(done, (0, "", ""))

    def test_a_cursor_is_saved_before_more_is_delivered_than_publish_recognises(self):
        self.publish(400_000)
        (self.folder / "sink.py").write_text(SINK)
        done = run([tool("consume"), "a/", "--as", "s", "--until-empty", "--",
                    f"{sys.executable} -ISB sink.py a/subscribers/s/state.json farthest"], cwd=self.folder, env=self.environment)
        self.assertEqual(done.exit, 0, done.stderr)
        farthest = max(map(int, (self.folder / "farthest").read_text().split()))
        self.assertGreater(farthest, 10_000)
        self.assertLess(farthest, (WINDOW + DOUBLES) // 2)

    def test_kill_9_of_consume_at_any_instant_doubles_nothing(self):
        count = 250_000 if ROUNDS < 100 else 3_000_000
        self.publish(count)
        chance = random.Random(SEED)
        line = [tool("consume"), "a/", "--as", "mirror", "--until-empty", "--", "publish b/"]
        killed = 0
        while True:
            consume = subprocess.Popen(line, cwd=self.folder, env=self.environment, start_new_session=True)
            try:
                self.assertEqual(consume.wait(chance.uniform(0.2, 1.5) if killed < ROUNDS else 300), 0)
                break
            except subprocess.TimeoutExpired:
                consume.kill()
                killed += 1
            finally:
                if consume.poll() is None:
                    consume.kill()
                consume.wait()
        copied = []
        for segment in sorted((self.folder / "b").glob("*.ndjson")):
            with open(segment, encoding="utf-8") as lines:
                copied += [int(json.loads(line)["id"]) for line in lines]
        self.assertEqual(len(copied), count, f"after {killed} kills, seed {SEED}")
        self.assertEqual(sorted(copied), list(range(count)))
        print(f"summary: {count} events through {killed} kills into another exchange, each once")


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""Events that a stage swallows come again: behind them, in the order of their key, all that is newer comes again too."""
import os
import pathlib
import sqlite3
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool  # noqa: E402

# Passes events on, but swallows each of those named once, without a word.
ONCE = r"""
import json, os, sys
for line in sys.stdin:
    event = json.loads(line)["id"]
    if event in sys.argv[1:] and not os.path.exists(f"swallowed-{event}"):
        open(f"swallowed-{event}", "w").close()
        continue
    print(line, end="", flush=True)
"""


class Order(unittest.TestCase):
    def newest_after(self, *swallowed):
        with tempfile.TemporaryDirectory(prefix="inflight-order-") as folder:
            (pathlib.Path(folder) / "once.py").write_text(ONCE)
            events = "".join(f'{{"specversion":"1.0","id":"{n}","source":"test","type":"version","subject":"one",'
                             f'"data":{{"version":{n}}}}}\n' for n in range(13))
            result = run([tool("publish"), "fleet/"], stdin=events, cwd=folder)
            self.assertEqual((result.exit, result.stderr), (0, ""))
            line = (f"python3 -ISB once.py {' '.join(map(str, swallowed))} | sql-write sqlite:newest.db --create"
                    " --key subject --column subject=subject --column id=id")
            result = run([tool("consume"), "fleet/", "--as", "newest", "--until-empty", "--", line], cwd=folder,
                         env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"})
            self.assertEqual(result.exit, 0, result.stderr)
            self.assertFalse((pathlib.Path(folder) / "fleet/subscribers/newest/dead.ndjson").exists())
            for event in swallowed:
                self.assertTrue((pathlib.Path(folder) / f"swallowed-{event}").exists())
            base = sqlite3.connect(pathlib.Path(folder) / "newest.db")
            try:
                return base.execute("SELECT subject, id FROM record").fetchall()
            finally:
                base.close()

    def test_one_swallowed_event_comes_again_before_what_is_newer(self):
        self.assertEqual(self.newest_after(1), [("one", "12")])

    def test_two_swallowed_events_of_a_key_come_again_with_what_stands_between_them(self):
        self.assertEqual(self.newest_after(1, 5), [("one", "12")])

    def test_the_newest_events_may_be_among_those_that_are_swallowed(self):
        self.assertEqual(self.newest_after(1, 11, 12), [("one", "12")])

    def test_all_events_may_be_swallowed(self):
        self.assertEqual(self.newest_after(*range(13)), [("one", "12")])


if __name__ == "__main__":
    unittest.main(verbosity=2)

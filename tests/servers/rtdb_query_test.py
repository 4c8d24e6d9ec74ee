"""The queries of rtdb-emulator against Google's own engine: the package firebase@8 answers them offline.

It is skipped where node or the package is missing; `npm install --prefix DIR firebase@8` brings it, and
NODE_PATH=DIR/node_modules shows where it is.
"""
import json
import os
import pathlib
import random
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import run
from rtdb_server import RtdbServer

SCRIPT = pathlib.Path(__file__).with_name("rtdb_queries.js")

# Integers with signs and zeros before them, the largest and one beyond, cases, blanks, beyond the basic plane.
KEYS = ["0", "1", "2", "10", "007", "07", "7", "-1", "-01", "-10", "2147483647", "2147483648", "-2147483648", "-2147483649",
        "00000000001", "1e3", "1 ", " ", "-", "a", "A", "aa", "Z", "_", "~", "é", "\uff5e", "\ue000", "\U0001f600", "\ud7ff", "%20", "a+b"]
SCALARS = [None, False, True, 0, -1, 1, 1.5, -2.25, 10, 1e20, "", "a", "A", "10", "é", "\uff5e", "\U0001f600", "true"]


def engine():
    """How to run node with the package, or None."""
    node = shutil.which("node")
    if node is None:
        return None
    places = [os.environ.get("NODE_PATH", ""), run(["npm", "root", "-g"]).stdout.strip() if shutil.which("npm") else ""]
    env = dict(os.environ, NODE_PATH=":".join(p for p in places if p))
    found = run([node, "-e", "require.resolve('firebase/database')"], env=env)
    return (lambda text: run([node, str(SCRIPT)], stdin=text, env=env)) if found.exit == 0 else None


def arguments(query):
    return {"orderBy": json.dumps(query["orderBy"]),
            **{name: str(value) if name.startswith("limit") else json.dumps(value) for name, value in query["bounds"]}}


def random_query(rng):
    order = rng.choice(["$key", "$value", "v", "d/e"])
    values = KEYS if order == "$key" else SCALARS
    bounds = []
    # Of keys the package has no startAfter of its own: it makes "after 7" to "at 8", passing over 07, and "after a" to "at a-".
    starts, ends = (("startAt",), ("endAt",)) if order == "$key" else (("startAt", "startAfter"), ("endAt", "endBefore"))
    if rng.random() < 0.2 and order != "$key":
        bounds.append(("equalTo", rng.choice(values)))
    else:
        for names in (starts, ends):
            if rng.random() < 0.6:
                bounds.append((rng.choice(names), rng.choice(values)))
    if rng.random() < 0.7:
        bounds.append((rng.choice(("limitToFirst", "limitToLast")), rng.randint(1, 12)))
    return {"orderBy": order, "bounds": bounds}


class Queries(unittest.TestCase):
    def test_the_same_children_are_selected(self):
        answer = engine()
        if answer is None:
            self.skipTest("node or its package firebase@8 is not there")
        rng = random.Random(1)
        for _ in range(4):
            keys = rng.sample(KEYS, rng.randint(5, len(KEYS)))
            data = {}
            for key in keys:
                data[key] = rng.choice([rng.choice(SCALARS[1:]), {"v": rng.choice(SCALARS[1:]), "d": {"e": rng.choice(SCALARS[1:])}},
                                        {"w": 1, "v": {"x": 1}}, {"d": {"e": rng.choice(SCALARS[1:])}}])
            queries = [random_query(rng) for _ in range(150)]
            result = answer(json.dumps({"data": data, "queries": queries}))
            self.assertEqual(result.exit, 0, result.stderr)
            expected = [json.loads(line) for line in result.stdout.splitlines()]
            self.assertEqual(len(expected), len(queries))
            with RtdbServer() as db:
                db.put("data", data)
                for query, wanted in zip(queries, expected):
                    # Keys 0, 1, … alone come as an array.
                    got = db.get("data", **arguments(query))
                    got = [str(i) for i, v in enumerate(got) if v is not None] if isinstance(got, list) else list(got)
                    # The order of a JSON object's members says nothing; the emulator's is that of the keys.
                    self.assertEqual(sorted(got), sorted(wanted), query)

    def test_children_stand_in_the_order_of_keys(self):
        answer = engine()
        if answer is None:
            self.skipTest("node or its package firebase@8 is not there")
        data = {key: 1 for key in KEYS}
        [line] = answer(json.dumps({"data": data, "queries": [{"orderBy": "$key", "bounds": []}]})).stdout.splitlines()
        with RtdbServer() as db:
            db.put("data", data)
            self.assertEqual(list(db.get("data", shallow="true")), json.loads(line))


if __name__ == "__main__":
    unittest.main()

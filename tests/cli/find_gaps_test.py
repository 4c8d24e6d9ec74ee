"""find-gaps: against a model that takes the manual's definition word by word, and against series whose holes are known."""
import collections
import json
import pathlib
import random
import sys
import tempfile
import unittest
from fractions import Fraction

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import run, tool  # noqa: E402

BASE = 1_530_403_200_000_000_000  # 2018-07-01T00:00:00Z
SECOND = 1_000_000_000


def text(ns):
    days, rest = divmod(ns - BASE, 86_400 * SECOND)
    seconds, fraction = divmod(rest, SECOND)
    part = f".{fraction:09}".rstrip("0") if fraction else ""
    return f"2018-07-{1 + days:02}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{part}Z"


def line(subject, ns):
    return json.dumps({"subject": subject, "time": text(ns)}) + "\n"


def half_down(x):
    whole = x.__floor__()
    return whole + (x - whole > Fraction(1, 2))


def model(times, every, tolerance, start, end):
    """The gaps of one subject, as find-gaps(1) defines them."""
    found = []
    times = sorted(set(times))
    for a, b in zip([None, *times], [*times, None]):
        if (a is None and start is None) or (b is None and end is None):
            continue
        left = Fraction(a) if a is not None else start - Fraction(every, 2) - 1
        right = Fraction(b) if b is not None else end + Fraction(every, 2)
        if right - left <= every + tolerance:
            continue
        missing = max(1, half_down((right - left) / every) - 1)
        due = [left + k * (right - left) / (missing + 1) for k in range(1, missing + 1)]
        due = [t for t in due if (start is None or t >= start) and (end is None or t < end)]
        if due:
            first = max(t for t in (a, start) if t is not None)
            last = min(t for t in (b, end) if t is not None)
            found.append((text(first), text(last), len(due)))
    return found


class FindGaps(unittest.TestCase):
    def find(self, stdin, *words, exit=0, stderr="", **more):
        result = run([tool("find-gaps"), *words], stdin=stdin, **more)
        self.assertEqual(result.exit, exit, result)
        self.assertEqual(result.stderr, stderr)
        gaps = collections.defaultdict(list)
        for record in map(json.loads, result.stdout.splitlines()):
            self.assertEqual(list(record), ["subject", "from", "to", "missing"])
            gaps[record["subject"]].append((record["from"], record["to"], record["missing"]))
        return dict(gaps)

    def refused(self, exit, why, *words, stdin=""):
        result = run([tool("find-gaps"), *words], stdin=stdin)
        self.assertEqual((result.exit, result.stdout), (exit, ""), result)
        self.assertEqual(result.stderr.count("\n"), 1, result)
        self.assertIn(why, result.stderr)

    def test_the_definition_in_any_order_and_sorted(self):
        for seed in range(60):
            r = random.Random(seed)
            every = r.choice([10 * SECOND, SECOND, 7, 1_000_001]) * 1000
            tolerance = r.choice([None, None, 0, every // 3, every, 4 * every])
            start = r.choice([None, BASE + r.randrange(10) * every // 2])
            end = r.choice([None, BASE + r.randrange(10, 40) * every // 2])
            subjects = {}
            for n in range(r.randrange(1, 6)):
                jitter = r.choice([0, every // 5, every])
                times = [BASE + every * i + r.randrange(-jitter, jitter + 1) for i in range(1, 30) if r.random() < 0.7]
                subjects[f"u{n} \"é"] = [max(BASE, t) for t in times + r.choices(times, k=3)] if times else [BASE]
            words = ["--every", f"{every}ns"]
            words += ["--tolerance", f"{tolerance}ns"] if tolerance is not None else []
            words += ["--from", text(start)] if start is not None else []
            words += ["--to", text(end)] if end is not None else []
            records = [(s, t) for s, times in subjects.items() for t in times]
            expected = {s: model(times, every, every / Fraction(2) if tolerance is None else tolerance, start, end) for s, times in subjects.items()}
            expected = {s: gaps for s, gaps in expected.items() if gaps}
            r.shuffle(records)
            with self.subTest(seed=seed, words=words):
                self.assertEqual(self.find("".join(line(*x) for x in records), *words), expected)
                for key in (lambda x: x), (lambda x: x[1]):
                    records.sort(key=key)
                    self.assertEqual(self.find("".join(line(*x) for x in records), "--sorted", *words), expected)

    def test_known_holes_are_found_and_nothing_else(self):
        """Each reading less than a quarter of --every off its place, doubled, out of order; steps of the clock back."""
        for seed in range(20):
            r = random.Random(seed)
            every, count = 10 * SECOND, 400
            lines, expected = [], {}
            for n in range(5):
                phase, jitter = r.randrange(every), r.choice([1, every // 4])
                there = [True] * count
                for _ in range(r.randrange(8)):
                    first, size = r.randrange(1, count - 20), r.randrange(1, 15)
                    there[first:first + size] = [False] * size
                at = [BASE + every + phase + i * every + r.randrange(-jitter + 1, jitter) for i in range(count)]
                readings = [t for t, is_there in zip(at, there) if is_there]
                gaps = []
                for a, b in zip([i for i in range(count) if there[i]], [i for i in range(count) if there[i]][1:]):
                    if b - a > 1:
                        gaps.append((text(at[a]), text(at[b]), b - a - 1))
                if gaps:
                    expected[f"u{n}"] = gaps
                # A clock that steps back for a while reads times again that lie among the others.
                back = [t - r.randrange(every) for t, u in zip(readings[1:], readings) if t - u < 1.5 * every][:30]
                lines += [line(f"u{n}", t) for t in readings + r.choices(readings, k=20)]
                if seed % 2:
                    lines += [line(f"u{n}", max(t, BASE)) for t in back if any(abs(t - u) < every for u in readings if u <= t)]
            r.shuffle(lines)
            with self.subTest(seed=seed):
                found = self.find("".join(lines), "--every", "10s")
                if seed % 2:  # readings between others may lie right behind the last one before a hole, never in it
                    self.assertEqual({s: len(g) for s, g in found.items()}, {s: len(g) for s, g in expected.items()})
                else:
                    self.assertEqual(found, expected)

    def test_a_window_is_exact_in_the_rhythm_of_what_is_there(self):
        """Whether the records end with the window or go on outside of it."""
        every, count = 10 * SECOND, 60
        start, end = BASE + 600 * SECOND, BASE + (600 + 10 * count) * SECOND
        for phase in (0, 1, every // 2 - 1, every // 2, every // 2 + 1, every - 1):
            for before, behind in ((0, 0), (1, 0), (0, 3), (5, 5), (30, 29)):
                for outside in (0, 30):
                    at = [start + phase + i * every for i in range(-outside, count + outside)]
                    inside = range(outside, outside + count)
                    missing = [*inside[:before], *(inside[count - behind:] if behind else [])]
                    records = "".join(line("u", t) for i, t in enumerate(at) if i not in missing)
                    there = [at[i] for i in inside if i not in missing]
                    expected = [(text(start), text(there[0]), before)] if before else []
                    expected += [(text(there[-1]), text(end), behind)] if behind else []
                    with self.subTest(phase=phase, before=before, behind=behind, outside=outside):
                        found = self.find(records, "--every", "10s", "--from", text(start), "--to", text(end))
                        self.assertEqual(found.get("u", []), expected)

    def test_absent_units_and_strangers(self):
        window = ["--every", "10s", "--from", text(BASE), "--to", text(BASE + 100 * SECOND)]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "fleet.txt"
            for fleet in ("gone\nu\nalso gone\n", "# all\ngone http://h/1\nu http://h/2\n7 http://h/3\n", '{"id":"gone","url":"http://h"}\n{"subject":"u"}\n{"id":7}\n'):
                path.write_text(fleet if "also gone" not in fleet else "gone\nu\n7\n")
                records = "".join(line("u", BASE + i * 10 * SECOND) for i in range(10))
                absent = [(text(BASE), text(BASE + 100 * SECOND), 10)]
                for order in ([], ["--sorted"]):
                    self.assertEqual(self.find(records, *window, *order, "--subjects", str(path)), {"gone": absent, "7": absent})
            path.write_text("u\n")
            told = f"find-gaps: {path}: 2 records are of units that are not in it, such as other\n"
            self.assertEqual(self.find(records + line("other", BASE) * 2, *window, "--subjects", str(path), stderr=told), {})
            self.assertEqual(self.find("", *window, "--subjects", str(path)), {"u": absent})
            self.refused(2, "repeats the id of line 1", *window, "--subjects", self.written(path, "u\nu\n"))
            self.refused(2, "neither an id nor `id URL`", *window, "--subjects", self.written(path, "a b c\n"))
            self.refused(2, "names no unit", *window, "--subjects", self.written(path, "\n"))
            self.refused(2, "No such file", *window, "--subjects", f"{folder}/none")
            self.refused(2, "--subjects needs --from and --to", "--every", "10s", "--subjects", str(path))

    @staticmethod
    def written(path, content):
        path.write_text(content)
        return str(path)

    def test_more_records_than_memory_holds(self):
        count = 150_000  # of 16 bytes: three runs of 1 MiB
        numbers = [i for i in range(count) if not 70_000 <= i < 70_050]
        random.Random(1).shuffle(numbers)
        records = "".join(line(f"u{i % 2}", BASE + i // 2 * SECOND) for i in numbers)
        gap = [(text(BASE + 34_999 * SECOND), text(BASE + 35_025 * SECOND), 25)]
        self.assertEqual(self.find(records, "--every", "1s", "--memory", "1MiB"), {"u0": gap, "u1": gap})

    def test_records_that_say_nothing_are_rejected(self):
        records = line("u", BASE) + '{"subject":"u"}\n{"time":"2018-07-01"}\n{"subject":"u","time":"soon"}\n{"subject":null,"time":"x"}\n[]\n' + line("u", BASE + 20 * SECOND)
        with tempfile.TemporaryDirectory() as folder:
            letters = pathlib.Path(folder) / "letters"
            result = run([tool("find-gaps"), "--every", "10s", "--dead-letters", str(letters)], stdin=records)
            self.assertEqual(result.exit, 1, result)
            self.assertEqual(len(result.stdout.splitlines()), 1)
            self.assertEqual(len(letters.read_text().splitlines()), 5)

    def test_other_times_paths_and_events(self):
        self.assertEqual(self.find('{"u":7,"t":1530403200}\n{"u":7,"t":1530403230}\n', "--every", "10s", "--subject", "u", "--time", "t", "--time-format", "unix"),
                         {"7": [(text(BASE), text(BASE + 30 * SECOND), 2)]})
        self.assertEqual(self.find('{"subject":"u","time":"2018-07-01T00:00:00"}\n{"subject":"u","time":"2018-07-01T02:00:30+02:00"}\n', "--every", "10s"),
                         {"u": [(text(BASE), text(BASE + 30 * SECOND), 2)]})
        event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "subject": "u", "time": text(BASE), "data": {"at": text(BASE + 40 * SECOND)}}
        deletion = {"specversion": "1.0", "id": "2", "source": "s", "type": "x.deleted", "subject": "u", "time": text(BASE + 20 * SECOND)}
        self.assertEqual(self.find(json.dumps(event) + "\n" + json.dumps(deletion) + "\n" + line("u", BASE + 30 * SECOND), "--every", "10s"),
                         {"u": [(text(BASE), text(BASE + 30 * SECOND), 2)]})

    def test_disorder_under_sorted_is_one_clear_error(self):
        self.refused(2, f"line 2: not sorted: {text(BASE)} of u comes behind {text(BASE + SECOND)}", "--every", "10s", "--sorted",
                     stdin=line("u", BASE + SECOND) + line("u", BASE))

    def test_bad_calls(self):
        self.refused(2, "--from 2018-07-02T00:00:00Z is after --to 2018-07-01T00:00:00Z", "--every", "10s", "--from", "2018-07-02", "--to", "2018-07-01")
        self.refused(2, "is not a time", "--every", "10s", "--from", "soonish")
        self.refused(2, "--every: at least 1us", "--every", "0s")
        self.refused(2, "--tolerance", "--every", "10s", "--tolerance", "x")
        self.refused(2, "--tmp", "--every", "10s", "--tmp", "/no/such/folder")
        self.assertEqual(self.find(line("u", BASE), "--every", "10s", "--from", "2018-07-02", "--to", "2018-07-02",
                                   stderr="find-gaps: the window is empty: 2018-07-02T00:00:00Z to 2018-07-02T00:00:00Z\n"), {})

    def test_it_is_no_stage_of_a_pipeline_that_keeps_records(self):
        with tempfile.TemporaryDirectory() as folder:
            event = {"specversion": "1.0", "source": "s", "type": "t", "subject": "u"}
            run([tool("publish"), "x/"], "".join(json.dumps({**event, "id": str(t), "time": text(t)}) + "\n" for t in (BASE, BASE + 30 * SECOND)), cwd=folder)
            told = run([tool("consume"), "x/", "--as", "a", "--until-empty", "--", tool("find-gaps"), "--every", "10s"], cwd=folder)
            self.assertEqual(told.exit, 2, told)
            self.assertIn("no stage of a pipeline that keeps records", told.stderr)
            found = run([tool("consume"), "x/", "--as", "b", "--until-empty", "--ack", "exit", "--", f"{tool('find-gaps')} --every 10s > gaps"], cwd=folder)
            self.assertEqual((found.exit, found.stderr), (0, ""))
            self.assertEqual(json.loads((pathlib.Path(folder) / "gaps").read_text())["missing"], 2)

    def test_check_is_silent_or_one_line(self):
        good = line("u", BASE) + line("u", BASE + 10 * SECOND)
        self.assertEqual(self.find(good, "--every", "10s", "--check"), {})
        self.refused(1, f"7 missing in 2 gaps; most in one: 4 of v from {text(BASE)} to {text(BASE + 50 * SECOND)}", "--every", "10s", "--check",
                     stdin=line("u", BASE) + line("u", BASE + 40 * SECOND) + line("v", BASE) + line("v", BASE + 50 * SECOND))
        self.refused(1, "no records", "--every", "10s", "--check")
        self.assertEqual(self.find("", "--every", "10s"), {})


if __name__ == "__main__":
    unittest.main()

"""reconcile: what two sides have in common and what not, and when it says nothing of them."""
import ctypes
import json
import os
import pathlib
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool, wait_for  # noqa: E402

RECONCILE = tool("reconcile")


def event(n, data, **attributes):
    return {"specversion": "1.0", "id": f"e{n}", "source": "test", "type": "t", "subject": f"u{n}", "data": data, **attributes}


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="inflight-reconcile-"))
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TMPDIR": str(self.dir)}

    def file(self, name, records):
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        (self.dir / name).write_text("".join(line + "\n" for line in lines))
        return f"cat {name}"

    def reconcile(self, left, right, *options, key="id", expect=0):
        """Sides are lists of records, or commands."""
        left, right = (side if isinstance(side, str) else self.file(name, side) for name, side in (("left", left), ("right", right)))
        done = run([RECONCILE, "--key", key, "--left", left, "--right", right, *options], cwd=self.dir, env=self.env)
        self.assertEqual(done.exit, expect, done.stderr)
        return done

    def told(self, *arguments, **options):
        """The differences, without the summary."""
        return [line.removeprefix("reconcile: ") for line in self.reconcile(*arguments, **options).stderr.splitlines()[:-1]]

    def report(self, *arguments, **options):
        self.reconcile(*arguments, "--report", "report", **options)
        return json.loads((self.dir / "report.json").read_text())

    def no_verdict(self, why, *arguments, **options):
        (self.dir / "report.json").write_text("{\"verdict\":\"equal\"}")
        done = self.reconcile(*arguments, "--report", "report", "--emit", "missing,different", **options, expect=75)
        self.assertRegex(done.stderr.splitlines()[-1], rf"^reconcile: no verdict: {why}")
        self.assertEqual(done.stdout, "")
        self.assertEqual(list(self.dir.glob("report*")), [], "a report of a run before would be taken for one of this")
        return done


class Verdicts(Case):
    def test_equal_sides_in_any_order_are_equal(self):
        records = [{"id": n, "v": n / 8} for n in range(1000)]
        done = self.reconcile(records, random.Random(1).sample(records, 1000))
        self.assertEqual((done.stdout, done.stderr), ("", "reconcile: equal: 1000 keys on the left, 1000 on the right: equal 1000, missing 0, "
                                                          "extra 0, different 0, duplicated 0; in 1000 = written 1000 + missing 0\n"))
        self.assertEqual(self.reconcile(records, records, "--quiet").stderr, "")

    def test_each_kind_of_difference_is_told_with_its_key(self):
        left = [{"id": 1, "v": 1}, {"id": 2, "v": 2}, {"id": 3, "v": 3}, {"id": 4, "v": 4}, {"id": 5, "v": 5}, {"id": 5, "v": 5}]
        right = [{"id": 1, "v": 1}, {"id": 3, "v": 3.5}, {"id": 4, "v": 4}, {"id": 4, "v": 4}, {"id": 4, "v": 4}, {"id": 5, "v": 5}, {"id": 6, "v": 6}]
        self.assertEqual(sorted(self.told(left, right, expect=1)), [
            "different: [3]: /v: 3 on the left, 3.5 on the right", "duplicated: [4]: 3 times on the right", "duplicated: [5]: 2 times on the left",
            "extra: [6]", "missing: [2]"])
        report = self.report(left, right, expect=1)
        self.assertEqual(report["verdict"], "different")
        self.assertEqual({k: report[k] for k in ("equal", "missing", "extra", "different")}, {"equal": 3, "missing": 1, "extra": 1, "different": 1})
        self.assertEqual([(report[s]["records"], report[s]["keys"], report[s]["duplicated"]) for s in ("left", "right")], [(6, 5, 1), (7, 5, 1)])

    def test_a_single_duplicate_or_extra_is_a_difference(self):
        one, two = {"id": 1, "v": 1}, {"id": 2, "v": 2}
        self.assertEqual(self.told([one, one], [one], expect=1), ["duplicated: [1]: 2 times on the left"])
        self.assertEqual(self.told([one], [one, one], expect=1), ["duplicated: [1]: 2 times on the right"])
        self.assertEqual(self.told([one], [one, two], expect=1), ["extra: [2]"])
        self.assertEqual(self.told([one, two], [one], expect=1), ["missing: [2]"])

    def test_duplicates_whose_values_differ_are_told_as_both(self):
        self.assertEqual(self.told([{"id": 1, "v": 1}, {"id": 1, "v": 2}], [{"id": 1, "v": 1}], expect=1)[1:], ["duplicated: [1]: 2 times on the left"])
        self.assertEqual(self.told([{"id": 1, "v": 1}, {"id": 1, "v": 2}], [{"id": 1, "v": 1}], expect=1)[0][:15], "different: [1]:")

    def test_a_single_altered_digit_among_many_is_found(self):
        records = [{"subject": f"bsu-{n % 500:05}", "time": f"2018-07-01T{n // 500 // 60:02}:{n // 500 % 60:02}:00Z", "power": n * 7 % 5000 / 10}
                   for n in range(100_000)]
        altered = [dict(r) for r in records]
        altered[77_777]["power"] = round(altered[77_777]["power"] + 0.1, 1)
        random.Random(2).shuffle(altered)
        row = records[77_777]
        self.assertEqual(self.told(records, altered, "--memory", "1MiB", key="subject,time", expect=1), [
            f'different: ["{row["subject"]}","{row["time"]}"]: /power: {row["power"]:g} on the left, {row["power"] + 0.1:g} on the right'])

    def test_two_empty_sides_prove_nothing(self):
        self.no_verdict("both sides are empty", [], [])
        self.reconcile([], [], "--allow-empty")
        self.assertEqual(self.told([{"id": 1}], [], expect=1), ["missing: [1]"])
        self.assertEqual(self.told([], [{"id": 1}], expect=1), ["extra: [1]"])


class Values(Case):
    def test_values_compare_by_meaning(self):
        same = [("12.50", "12.5"), ("1e3", "1000"), ("1.0", "1"), ("-0", "0"), ("9007199254740993", "9007199254740993.0"),
                (r'"\u00e9\/"', '"é/"'), ('{"a":1,"b":2}', '{ "b": 2.0, "a": 1 }'), ('"2018-07-01T12:00:00Z"', '"2018-07-01T14:00:00.000+02:00"'),
                ("[1.0,[]]", "[1,[ ]]")]
        other = [("9007199254740993", "9007199254740992"), ("0.1", "0.10000000000000001"), ("1", '"1"'), ("1", "true"), ("null", "0"), ("null", '""'),
                 ('"a"', '"A"'), ("[1,2]", "[2,1]"), ("[]", "{}"), ("[]", "null"), ('"é"', '"e\u0301"'), ("1e400", "1e401"), (r'"\ud800"', r'"\ud801"'),
                 ('"2018-07-01T12:00:00Z"', '"2018-07-01T12:00:00.000000001Z"')]
        for expect, pairs in (0, same), (1, other):
            for a, b in pairs:
                with self.subTest(a=a, b=b):
                    self.reconcile([f'{{"id":1,"v":{a}}}'], [f'{{"id":1,"v":{b}}}'], expect=expect)
                    self.reconcile([f'{{"id":1,"v":{a}}}'], [f'{{"id":1,"v":{b}}}'], "--field", "v", expect=expect)
                    self.reconcile([f'{{"id":{a}}}'], [f'{{"id":{b}}}'], expect=expect) if "null" not in a + b else None

    def test_times_compare_at_the_precision(self):
        left, right = [{"id": 1, "time": "2018-07-01T12:00:00.123456789Z"}], [{"id": 1, "time": "2018-07-01T12:00:00.123456Z"}]
        self.reconcile(left, right, expect=1)
        self.reconcile(left, right, "--precision", "us")
        self.reconcile(left, right, "--precision", "us", key="id,time")
        self.reconcile(left, right, key="id,time", expect=1)
        self.reconcile([{"id": 1, "time": "2018-07-01T12:00:00.999Z"}], [{"id": 1, "time": "2018-07-01T12:00:00Z"}], "--precision", "s")

    def test_only_the_chosen_fields_are_compared(self):
        left, right = [{"id": 1, "a": 1, "b": {"c": 1, "d": 1}}], [{"id": 1, "a": 2, "b": {"c": 1, "d": 2}}]
        self.reconcile(left, right, "--field", "/b/c")
        self.assertEqual(self.told(left, right, "--field", "a,/b/d", "--field", "/b/c", expect=1), [
            "different: [1]: /b/d: 1 on the left, 2 on the right; a: 1 on the left, 2 on the right"])

    def test_a_field_that_is_not_there_is_not_null_unless_that_is_asked_for(self):
        for fields in [], ["--field", "a,b"]:
            self.assertEqual(self.told([{"id": 1, "a": 1}], [{"id": 1, "a": 1, "b": None}], *fields, expect=1), [
                f"different: [1]: {'' if fields else '/'}b: none on the left, null on the right"])
            self.reconcile([{"id": 1, "a": 1}], [{"id": 1, "a": 1, "b": None}], *fields, "--ignore-null")

    def test_an_event_and_a_bare_record_compare_by_key_and_data(self):
        left = [event(1, {"power": 1.50}, time="2018-07-01T12:00:00Z", recordedtime="2018-07-01T12:00:01Z")]
        right = [{"power": 1.5, "time": "2018-07-01T12:00:00Z", "subject": "u1"}]
        self.reconcile(left, right, key="subject,time")
        self.reconcile(left, [event(1, {"power": 1.5}, time="2018-07-01T12:00:00Z", id="other")], key="subject,time")
        self.reconcile(left, right, "--field", "/power", key="subject,time")
        self.reconcile([event(1, "<a/>")], [event(1, "<b/>")], key="subject", expect=1)
        self.reconcile([{k: v for k, v in event(1, 0, data_base64="AAAA").items() if k != "data"}], [event(1, None)], key="subject", expect=1)

    def test_long_values_are_compared_to_their_end(self):
        for where in 10, 3000:
            text = "x" * 5000
            other = text[:where] + "é" + text[where + 1:]
            told, = self.told([{"id": 1, "v": text}], [{"id": 1, "v": other}], expect=1)
            self.assertRegex(told, r"^different: \[1\]: byte 16: .*é" if where == 10 else r"^different: \[1\]: behind their first 1024 bytes$")
            self.assertLess(len(told), 400)


class NoVerdict(Case):
    def test_a_side_that_fails_gives_no_verdict(self):
        records = [{"id": n} for n in range(10)]
        good = self.file("good", records)
        for bad, how in ("cat good; exit 3", "exit status 3"), ("cat good; kill -9 $$", "signal 9"), ("cat nowhere", "exit status 1"), \
                ("cat nowhere | cat good -", "exit status 1"), ("no-such-program", "exit status 127"), ("false", "exit status 1"), ("cat good; exit 75", "exit status 75"):
            with self.subTest(bad=bad):
                self.no_verdict(rf"left: '.*': ended with {how}$", bad, good)
                self.no_verdict(rf"right: '.*': ended with {how}$", good, bad)

    def test_a_reader_that_is_killed_half_way_gives_no_verdict(self):
        lines = "".join(json.dumps({"id": n}) + "\n" for n in range(5000))
        (self.dir / "all").write_text(lines)
        # It has written half of its lines, or half of a line, and would go on; both sides would be equal up to there.
        for half in lines[:len(lines) // 2].rpartition("\n")[0] + "\n", lines[:len(lines) // 2]:
            with self.subTest(end=half[-10:]):
                (self.dir / "half").write_text(half)
                (self.dir / "pid").unlink(missing_ok=True)
                reader = f"{sys.executable} -c " + shlex.quote(
                    "import os, time, sys; sys.stdout.write(open('half').read()); sys.stdout.flush()\n"
                    "open('pid.new', 'w').write(str(os.getpid())); os.rename('pid.new', 'pid'); time.sleep(600)")
                process = subprocess.Popen([RECONCILE, "--key", "id", "--left", "cat all", "--right", reader, "--report", "report"],
                                           cwd=self.dir, env=self.env, stderr=subprocess.PIPE, text=True)
                pid = wait_for(lambda: (self.dir / "pid").exists() and (self.dir / "pid").read_text(), what="the reader")
                os.kill(int(pid), signal.SIGKILL)
                _, stderr = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 75, stderr)
                self.assertRegex(stderr.splitlines()[-1], r"^reconcile: no verdict: right: '.*")
                self.assertIn("ended with", stderr)
                self.assertFalse((self.dir / "report.json").exists())

    def test_a_line_that_is_no_record_is_named_by_side_and_line(self):
        good = [{"id": 1}, {"id": 2}, {"id": 3}]
        for bad, why in ("hello", "a record is a JSON object"), ("[1]", "a record is a JSON object"), ("", "an empty line"), ('{"id":2', "not JSON"), \
                ('{"a":1}', "id of the key is not there"), ('{"id":null}', "id of the key is null"), ('{"id":2,"v":{"a":tru}}', "data is not JSON"), \
                ('{"id":"\\x"}', "id of the key is not JSON"), ('{"id":2,"v":"' + "x" * 2000 + '"}', "2015 bytes are more than --max-record 1000"):
            with self.subTest(bad=bad[:20]):
                self.no_verdict(f"left: line 2: .*{why}", [{"id": 1}, bad, {"id": 3}], good, "--max-record", "1kB")
                self.no_verdict(f"right: line 2: .*{why}", good, [{"id": 1}, bad, {"id": 3}], "--max-record", "1kB")

    def test_the_other_side_is_ended_where_one_fails(self):
        self.file("bad", ["hello"])
        endless = f"{sys.executable} -c " + shlex.quote("import time\nwhile True: print('{\"id\":1}', flush=True); time.sleep(0.01)")
        for sides in ("cat bad", endless), (endless, "cat bad"), ("exit 4", endless):
            with self.subTest(sides=sides):
                self.no_verdict("(left|right): ", *sides)

    def test_a_stop_signal_ends_it_and_both_sides(self):
        for number, status in (signal.SIGTERM, 143), (signal.SIGINT, 130):
            side = f"echo $$ > {{}}; exec {sys.executable} -c 'import time; time.sleep(600)'"
            process = subprocess.Popen([RECONCILE, "--key", "id", "--left", side.format("a"), "--right", side.format("b")], cwd=self.dir,
                                       stderr=subprocess.PIPE, text=True)
            pids = [wait_for(lambda name=name: (self.dir / name).exists() and (self.dir / name).read_text().strip(), what=name) for name in "ab"]
            process.send_signal(number)
            _, stderr = process.communicate(timeout=60)
            self.assertEqual((process.returncode, stderr), (status, ""))
            for pid in pids:
                self.assertFalse(os.path.exists(f"/proc/{pid}"))
            for name in "ab":
                (self.dir / name).unlink()

    def test_a_full_disk_gives_no_verdict(self):
        self.file("big", ({"id": n, "text": "x" * 50} for n in range(60_000)))

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        done = run([RECONCILE, "--key", "id", "--left", "cat big", "--right", "cat big", "--memory", "1MiB"], cwd=self.dir, env=self.env,
                   preexec_fn=small_files)
        self.assertIn(done.exit, (70, 75))
        self.assertRegex(done.stderr, r"^reconcile: [^\n]*File too large\n$")


class Recheck(Case):
    def counted(self, name, first, later):
        """A command that says one thing the first time, and another thing then."""
        self.file(f"{name}.1", first)
        self.file(f"{name}.2", later)
        return f"echo x >> {name}.runs; if [ $(wc -l < {name}.runs) = 1 ]; then cat {name}.1; else cat {name}.2; fi"

    def test_what_differs_no_more_is_settled(self):
        left = self.counted("l", [{"id": 1, "v": 1}, {"id": 2, "v": 2}, {"id": 3, "v": 3}, {"id": 4, "v": 4}],
                            [{"id": 1, "v": 1}, {"id": 2, "v": 2}, {"id": 3, "v": 3}, {"id": 4, "v": 4}, {"id": 9, "v": 9}])
        right = self.counted("r", [{"id": 1, "v": 1}, {"id": 3, "v": 0}, {"id": 4, "v": 0}],
                             [{"id": 1, "v": 7}, {"id": 2, "v": 2}, {"id": 3, "v": 3}, {"id": 4, "v": 1}])
        done = self.reconcile(left, right, "--recheck", "1ms", "--report", "r", "--emit", "missing,different", expect=1)
        # 1 and 9 have changed since, and were not different before.
        self.assertEqual(done.stderr.splitlines()[0], "reconcile: different: [4]: /v: 4 on the left, 1 on the right")
        self.assertIn("of 3 read again 2 differ no more", done.stderr)
        self.assertEqual([json.loads(line)["subject"] for line in done.stdout.splitlines()], ["4"])
        report = json.loads((self.dir / "r.json").read_text())
        self.assertEqual((report["missing"], report["different"], report["rechecked"]), (0, 1, {"keys": 3, "differ_no_more": 2}))

    def test_all_settled_is_equal_and_nothing_to_recheck_reads_nothing_again(self):
        right = self.counted("r", [], [{"id": 1}])
        self.reconcile([{"id": 1}], right, "--recheck", "1ms")
        self.reconcile([{"id": 1}], self.counted("s", [{"id": 1}], []), "--recheck", "1h")
        self.assertEqual((self.dir / "s.runs").read_text(), "x\n")

    def test_a_second_reading_that_fails_gives_no_verdict(self):
        self.counted("r", [{"id": 1}], [])
        self.no_verdict("right: .*exit status 3", [{"id": 2}], "echo x >> r.runs; [ $(wc -l < r.runs) = 1 ] && cat r.1 || exit 3", "--recheck", "1ms")

    def test_many_differences_are_read_again_in_little_memory(self):
        left = self.file("many", ({"id": n} for n in range(60_000)))
        right = self.counted("r", [{"id": 0}], [{"id": n} for n in range(59_999)])
        done = self.reconcile(left, right, "--recheck", "1ms", "--memory", "1MiB", expect=1)
        self.assertIn("reconcile: missing: [59999]\n", done.stderr)
        self.assertIn("of 59999 read again 59998 differ no more", done.stderr)

    def test_a_stop_signal_ends_the_wait(self):
        self.file("left", [{"id": 1}])
        process = subprocess.Popen([RECONCILE, "--key", "id", "--left", "cat left", "--right", "touch read", "--recheck", "1h"], cwd=self.dir,
                                   stderr=subprocess.PIPE, text=True)
        wait_for((self.dir / "read").exists, what="the first reading")
        process.send_signal(signal.SIGTERM)
        self.assertEqual((process.communicate(timeout=60)[1], process.returncode), ("", 143))


class Repairs(Case):
    def test_what_is_missing_or_different_becomes_an_id_only_event(self):
        left, right = [{"id": "a/b", "v": 1}, {"id": "c", "v": 1}], [{"id": "c", "v": 2}, {"id": "d", "v": 1}]
        done = self.reconcile(left, right, "--emit", "missing,different", "--dataref", "https://old/{id}/{subject}?x".replace("{id}", "o"), expect=1)
        events = {e["subject"]: e for e in map(json.loads, done.stdout.splitlines())}
        self.assertEqual(sorted(events), ["a/b", "c"])  # the extra one is told, never acted upon
        self.assertEqual({k: events["a/b"][k] for k in ("specversion", "source", "type", "dataref")},
                         {"specversion": "1.0", "source": "reconcile", "type": "reconcile.missing", "dataref": "https://old/o/a%2Fb?x"})
        self.assertEqual(events["c"]["type"], "reconcile.different")
        self.assertNotIn("data", events["c"])
        for kinds, subjects in ("missing", {"a/b"}), ("different", {"c"}):
            done = self.reconcile(left, right, "--emit", kinds, expect=1)
            self.assertEqual({json.loads(line)["subject"] for line in done.stdout.splitlines()}, subjects)

    def test_time_of_the_key_is_the_time_of_the_event(self):
        done = self.reconcile([{"subject": "u1", "n": 7, "time": "2018-07-01T14:00:00+02:00"}], [], "--emit", "missing", "--allow-empty",
                              "--dataref", "x/{subject}/{time}", key="subject,time,/n", expect=1)
        found = json.loads(done.stdout)
        self.assertEqual((found["subject"], found["time"], found["dataref"]), ("u1,7", "2018-07-01T12:00:00Z", "x/u1%2C7/2018-07-01T12%3A00%3A00Z"))

    def test_a_second_run_repairs_again_through_an_exchange(self):
        for n in 1, 2:
            line = f"{shlex.quote(RECONCILE)} --key id --left 'echo {{\\\"id\\\":1}}' --right true --emit missing | publish fix/; exit ${{PIPESTATUS[1]}}"
            self.assertEqual(run(["bash", "-c", line], cwd=self.dir, env=self.env).exit, 0)
            published = "".join(p.read_text() for p in (self.dir / "fix").glob("*.ndjson"))
            ids = {json.loads(line)["id"] for line in published.splitlines()}
            self.assertEqual(len(ids), n, "the repair of a later run is no double")

    def test_a_wrong_template_is_told_before_anything_is_read(self):
        for template in "x/{time}", "x/{/order/id}", "x/{subject", "{?subject}":
            done = self.reconcile("touch ran", "touch ran", "--emit", "missing", "--dataref", template, expect=2)
            self.assertRegex(done.stderr, r"^reconcile: --dataref: .*\n$")
        self.assertFalse((self.dir / "ran").exists())


class Reports(Case):
    def test_a_report_is_the_same_byte_for_byte(self):
        left = [{"id": n, "v": n % 7} for n in range(2000)]
        right = [{"id": n, "v": n % 7 + (n % 100 == 0)} for n in range(10, 2010)]
        found = []
        for n in range(3):
            rng = random.Random(n)
            inner = self.dir / str(n)
            inner.mkdir()
            for name, records in ("a", left), ("b", right):
                (inner / f"{name}{n}").write_text("".join(json.dumps(r) + "\n" for r in rng.sample(records, len(records))))
            done = run([RECONCILE, "--key", "id", "--left", f"cat {inner}/a{n}", "--right", f"cat {inner}/b{n}", "--report", str(inner / "r"),
                        "--memory", "1MiB" if n == 2 else "64MiB"], env=self.env)
            self.assertEqual(done.exit, 1)
            found.append(((inner / "r.json").read_bytes(), (inner / "r.txt").read_bytes(), done.stderr))
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[0], found[2])
        self.assertEqual(json.loads(found[0][0])["missing"], 10)

    def test_digests_are_of_the_records_whatever_their_order_and_form(self):
        def digests(left, right, expect):
            report = self.report(left, right, expect=expect)
            return report["left"]["xxh3_128_sum"], report["right"]["xxh3_128_sum"]
        a, b = digests(['{"id":1,"v":1.0}', '{"id":2,"v":"\\u0041"}'], ['{"v":"A","id":2}', '{"v":1,"id":1}'], 0)
        self.assertEqual(a, b)
        self.assertRegex(a, r"^[0-9a-f]{32}$")
        one, two = '{"id":1,"v":1}', '{"id":2,"v":"A"}'
        others = [], [one], [one, '{"id":2,"v":"B"}'], [one, two, two], [one, two, two, two]
        self.assertEqual(len({a, *(digests([one, two], other, 1)[1] for other in others)}), 6)

    def test_a_digest_can_be_recomputed_by_somebody_else(self):
        class Hash(ctypes.Structure):
            _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]
        xxh3 = ctypes.CDLL("libxxhash.so.0").XXH3_128bits
        xxh3.restype, xxh3.argtypes = Hash, [ctypes.c_char_p, ctypes.c_size_t]
        records = [{"id": 1, "v": 12.5}, {"id": 2, "v": "é"}]
        total = 0
        for text in '[1]\t{"v":12.5}'.encode(), '[2]\t{"v":"é"}'.encode():
            found = xxh3(text, len(text))
            total += found.high << 64 | found.low
        self.assertEqual(self.report(records, records)["left"]["xxh3_128_sum"], f"{total % (1 << 128):032x}")

    def test_the_readable_report_says_what_is_in_the_other_one(self):
        self.report([{"id": n} for n in range(12)], [{"id": 0}], "--show", "2", expect=1)
        text = (self.dir / "report.txt").read_text()
        self.assertRegex(text, r"\ADIFFERENT\n\nkey: id\ncompared: all of the data, times to 1ns\n")
        self.assertIn("\nin 12 = written 1 + missing 11\n", text)
        self.assertEqual(text.count("\nmissing ["), 0)
        self.assertRegex(text, r"\nmissing \d+\nmissing \d+\nand 9 more missing\n\Z")

    def test_commands_stand_in_a_report_where_that_is_asked_for_without_secrets(self):
        self.file("left", [{"id": 1}])
        left = "cat left # http://user:hunter2secret@host/"
        self.assertNotIn("commands", self.report(left, "cat left"))
        report = self.report(left, "cat left", "--report-commands")
        self.assertEqual(report["commands"]["right"], "cat left")
        for name in "report.json", "report.txt":
            text = (self.dir / name).read_text()
            self.assertIn("@host/", text)
            self.assertNotIn("hunter2secret", text)

    def test_what_is_missing_is_accounted_for_by_the_exchange(self):
        lines = "".join(json.dumps(event(n, "<a/>" if n % 3 else "<a")) + "\n" for n in range(9))
        self.assertEqual(run([tool("publish"), "ex"], lines, cwd=self.dir).exit, 0)
        done = run([tool("consume"), "ex", "--as", "s", "--until-empty", "--", "xml2json | sql-write sqlite:x.db"], cwd=self.dir, env=self.env)
        self.assertEqual(done.exit, 0, done.stderr)
        left, right = "cat ex/*.ndjson", 'sqlite3 -json x.db "select * from record" | jq -c .[]'
        options = ["--field", "subject", "--exchange", "ex", "--as", "s"]
        done = self.reconcile(left, right, *options, "--report", "r", expect=1)
        self.assertIn("in 9 = written 6 + dead-lettered 3 + pending 0\n", done.stderr)
        self.assertEqual(run([tool("publish"), "ex"], json.dumps(event(10, "<a/>")) + "\n", cwd=self.dir).exit, 0)
        self.reconcile(left, right, *options, "--report", "r", expect=1)
        self.assertIn("\nin 10 = written 6 + dead-lettered 3 + pending 1\n", (self.dir / "r.txt").read_text())
        self.assertEqual(json.loads((self.dir / "r.json").read_text())["balance"],
                         {"in": 10, "written": 6, "dead_lettered": 3, "pending": 1, "lost": 0, "unaccounted": 0})
        done = self.reconcile(f"{left}; echo '{json.dumps({'id': 'new', 'subject': 'x'})}'", right, *options, expect=1)
        self.assertIn("in 11 = written 6 + dead-lettered 3 + pending 1 + unaccounted for 1\n", done.stderr)


class Usage(Case):
    def refused(self, why, *options, **more):
        done = self.reconcile("touch ran", "touch ran", *options, **more, expect=2)
        self.assertRegex(done.stderr, rf"^reconcile: [^\n]*{why}[^\n]*\n$")
        self.assertFalse((self.dir / "ran").exists(), "nothing is run where the command is wrong")

    def test_what_is_wrong_is_told_before_anything_is_run(self):
        self.refused("--key: an empty path", key="a,,b")
        self.refused("--key: an empty path", key="a,")
        self.refused("--field: ", "--field", "")
        self.refused("--emit 'extra'", "--emit", "extra")
        self.refused("--emit ''", "--emit", "missing,")
        self.refused("--dataref belongs to --emit", "--dataref", "x")
        self.refused("--exchange and --as", "--exchange", "x")
        self.refused("--exchange and --as", "--as", "x")
        self.refused("no such|nowhere", "--exchange", "nowhere", "--as", "s")
        self.refused("amqp", "--exchange", "amqp://host/", "--as", "s")
        self.refused("--memory", "--memory", "1kB")
        self.refused("--tmp: .*nowhere", "--tmp", f"{self.dir}/nowhere")
        self.refused("--precision", "--precision", "m")
        self.refused("--recheck", "--recheck", "1")
        self.assertEqual(run([tool("publish"), "ex"], "", cwd=self.dir).exit, 0)
        self.refused("has no subscriber s", "--exchange", "ex", "--as", "s")
        for missing in range(3):
            words = [["--key", "id"], ["--left", "true"], ["--right", "true"]]
            del words[missing]
            self.assertEqual(run([RECONCILE, *sum(words, [])]).exit, 2)

    def test_memory_is_bounded_and_nothing_is_left_behind(self):
        self.file("big", ({"id": n, "text": "x" * 50} for n in range(300_000)))
        tmp = self.dir / "tmp"
        tmp.mkdir()
        command = [RECONCILE, "--key", "id", "--left", "cat big", "--right", "tac big", "--memory", "4MiB", "--tmp", str(tmp), "--quiet"]
        # By a process of its own: the size of what is started here begins with our own.
        peak = run([sys.executable, "-c", "import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], check=True)\n"
                    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)", *command], cwd=self.dir, env=self.env)
        self.assertEqual((peak.exit, peak.stderr), (0, ""))
        self.assertLess(int(peak.stdout), 32 << 10)
        self.assertEqual(list(tmp.iterdir()), [])


if __name__ == "__main__":
    unittest.main()

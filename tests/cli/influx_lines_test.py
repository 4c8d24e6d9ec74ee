"""The lines of influx-write, judged by what a real InfluxDB answers to a query: every character, every limit, every precision."""
import json
import os
import pathlib
import random
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import run, tool  # noqa: E402
from influx_server import InfluxServer  # noqa: E402

ROUNDS = int(os.environ.get("LINES_ROUNDS", "4000"))
LAST = 2**63 - 2
# What line protocol, the shell, JSON or somebody's parser gives a meaning to.
SPECIAL = [",", "=", " ", "\\", '"', "'", "#", "\t", "/", "~", "{", "}", ":", "\u00e9", "\u20ac", "\U0001f600", "\u2028", "\x7f", "\x01", "%", "&", "i", "u",
           "t", "1", "-", ".", "e", "a"]


def rfc3339(ns):
    """Without datetime, which knows neither nanoseconds nor all of these years as we count them."""
    seconds, fraction = divmod(ns, 10**9)
    days, second = divmod(seconds, 86400)
    z = days + 719468
    era, doe = divmod(z, 146097)
    yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    month = (5 * doy + 2) // 153
    day = doy - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year = yoe + era * 400 + (month <= 2)
    return f"{year:04}-{month:02}-{day:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{fraction:09}Z"


def to_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


class Lines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.influx = cls.enterClassContext(InfluxServer())

    def setUp(self):
        self.database = self.id().rpartition(".")[2][:60]
        self.influx.create(self.database, "with duration inf shard duration 5000w")

    def write(self, records, *options, exit=0):
        text = records if isinstance(records, str) else to_lines(records)
        done = run([tool("influx-write"), f"{self.influx.url}?db={self.database}", *options], text)
        self.assertEqual(done.exit, exit, done.stderr)
        if exit == 0:
            self.assertEqual(done.stderr, "")
        return done

    def rows(self, measurement="record", group=True):
        """time -> row, of one measurement."""
        name = measurement.replace("\\", "\\\\").replace('"', '\\"')
        return {row["time"]: row for row in self.influx.query(self.database, f'select * from "{name}"{" group by *" if group else ""}')}

    def test_every_character_in_every_place(self):
        chance = random.Random(7)

        def word(end=True):
            text = "".join(chance.choice(SPECIAL) for _ in range(chance.randint(1, 8)))
            text = re.sub(r"\\+([,= ])", r"\1", text.lstrip("\t#"))  # no line holds a backslash there
            return text if end and text and not text.endswith("\\") else text + "z"
        records, wanted = [], {}
        names = [(word(), word().replace("=", ""), word()) for _ in range(40)]  # --tag takes no name with =
        for n in range(ROUNDS):
            measurement, tag, field = names[n % len(names)]
            if len({tag, field, "time", "subject", "m", "t", ""}) < 7 or field.startswith("@"):
                continue
            value, text = word(), word() + chance.choice(["", "\n", "\r\n", "\\", "\\\\", '\\"', '"', "\n,x=1 "])
            records.append((measurement, tag, field, {"m": measurement, "t": value, field: text, "time": rfc3339(n)}))
            wanted[n] = (measurement, tag, value, field, text)
        for names_of in names:
            some = [record for measurement, tag, field, record in records if (measurement, tag, field) == names_of]
            if some:
                _, tag, field = names_of
                self.write(some, "--measurement", "/m", "--tag", f"{tag}=/t")
        found = {}
        for series in self.influx.ask("select * from /.*/ group by *", self.database):
            for values in series["values"]:
                row = {name: value for name, value in zip(series["columns"], values) if value is not None}
                time = row.pop("time")
                (tag, value), = [(k, v) for k, v in series["tags"].items() if v != ""]
                (field, text), = row.items()
                found[time] = (series["name"], tag, value, field, text)
        self.assertEqual(found, wanted)

    def test_what_no_line_can_hold_is_rejected_and_the_rest_is_stored(self):
        bad = [{"m": m, "t": t, "v": v, "time": rfc3339(n)} for n, (m, t, v) in enumerate([
            ("a\nb", "x", 1), ("a\rb", "x", 1), ("a\0b", "x", 1), ("\ta", "x", 1), ("#a", "x", 1), ("a\\", "x", 1), ("", "x", 1),
            ("a", "x\ny", 1), ("a", "x\\", 1), ("a", "x\0", 1), ("a", "x\\ y", 1), ("a", "x\\,y", 1), ("a", "x\\=y", 1), ("a\\ b", "x", 1), ("a\\,b", "x", 1), ("a", {"b": 1}, 1), ("a", ["b"], 1), ([1], "x", 1), (None, "x", 1),
            ("a", "x" * 66000, 1)])]
        good = {"m": "a", "t": "x", "v": 1, "time": rfc3339(1000)}
        done = self.write(bad + [good], "--measurement", "/m", "--tag", "t=/t", "--field", "v=/v", exit=1)
        self.assertEqual(len(done.stderr.splitlines()), len(bad), done.stderr)
        self.assertEqual(self.rows("a"), {1000: {"time": 1000, "t": "x", "v": 1}})

    def test_numbers_to_their_limits(self):
        floats = ["0", "-0", "1", "12.50", "-1.5", "1e5", "1E+5", "1e-5", "1.7976931348623157e308", "5e-324", "-2.2250738585072014e-308",
                  "9007199254740992", "-9007199254740992", "123456789012345", "0.1", "123456789.123456789123456789"]
        lines = "".join(f'{{"v":{text},"time":"{rfc3339(n)}"}}\n' for n, text in enumerate(floats))
        self.write(lines)
        self.assertEqual([row["v"] for row in self.rows().values()], [float(text) for text in floats])
        for text in "1e400", "-1e400", "9007199254740993", "123456789012345678901234567890":
            done = self.write(f'{{"v":{text},"time":"{rfc3339(99)}"}}\n', exit=1)
            self.assertIn(text, done.stderr)
        self.assertNotIn(99, self.rows())

    def test_integers_of_64_bits(self):
        integers = [0, -1, 2**53 + 1, 2**63 - 1, -2**63, 17]
        records = [{"v": value if n % 2 else str(value), "time": rfc3339(n)} for n, value in enumerate(integers)]
        self.write(records, "--field", "v=/v:int")
        self.assertEqual([row["v"] for row in self.rows().values()], integers)
        for text in "9223372036854775808", "-9223372036854775809", "1.0", "1e3", '""', '"x"', "true":
            self.assertIn("64-bit", self.write(f'{{"v":{text},"time":"{rfc3339(99)}"}}\n', "--field", "v=/v:int", exit=1).stderr)
        self.assertNotIn(99, self.rows())

    def test_declared_types(self):
        records = [{"f": "12.5", "i": "7", "s": 12.50, "b": "true", "b2": 0, "n": 3, "time": rfc3339(n)} for n in range(2)]
        self.write(to_lines(records).replace("12.5,", "12.50,"), *[word for field in ("f=/f:float", "i=/i:int", "s=/s:string", "b=/b:bool", "b2=/b2:bool", "n=/n")
                                                                 for word in ("--field", field)])
        self.assertEqual(self.rows()[0], {"time": 0, "f": 12.5, "i": 7, "s": "12.50", "b": True, "b2": False, "n": 3})
        for field, text in ("v=/v:float", '"x"'), ("v=/v:float", '" 1"'), ("v=/v:float", '"nan"'), ("v=/v:float", '"inf"'), ("v=/v:bool", "2"), ("v=/v", "{}"):
            self.assertIn("field v", self.write(f'{{"v":{text},"time":"{rfc3339(99)}"}}\n', "--field", field, exit=1).stderr)

    def test_a_whole_number_does_not_collide_with_a_later_fraction(self):
        self.write([{"v": 12, "time": rfc3339(1)}, {"v": 12.5, "time": rfc3339(2)}])
        self.assertEqual([row["v"] for row in self.rows().values()], [12, 12.5])

    def test_times_from_1677_to_2262_at_every_precision(self):
        chance = random.Random(3)
        for precision, unit in ("ns", 1), ("us", 10**3), ("ms", 10**6), ("s", 10**9):
            times = {0, unit, -unit, LAST // unit * unit, -(LAST // unit * unit)}
            times |= {chance.randint(-LAST // unit + 1, LAST // unit) * unit for _ in range(300)}
            self.write([{"v": 1, "time": rfc3339(time)} for time in times], "--precision", precision, "--measurement", precision)
            self.assertEqual(set(self.rows(precision)), times)

    def test_a_time_that_influxdb_cannot_hold(self):
        outside = [rfc3339(LAST + 1), rfc3339(-LAST - 1), "1677-09-21T00:12:43Z", "2262-04-12T00:00:00Z", "1500-01-01T00:00:00Z", "2300-01-01T00:00:00Z",
                   "2018-02-30T00:00:00Z", "yesterday", "", 17, True, {}]
        done = self.write([{"v": 1, "time": time} for time in outside] + [{"v": 1}, {"v": 1, "time": None}, {"v": 2, "time": rfc3339(5)}], exit=1)
        self.assertEqual(len(done.stderr.splitlines()), len(outside) + 2, done.stderr)
        self.assertRegex(done.stderr, r"\Ainflux-write: line 1: time \"2262-04-11T23:47:16\.854775807Z\" is none that InfluxDB can hold")
        self.assertIn("line 13: no time", done.stderr)
        self.assertEqual(list(self.rows()), [5])

    def test_a_time_finer_than_the_precision_is_cut_only_where_that_is_said(self):
        records = [{"v": 1, "time": rfc3339(1_500_000_001)}, {"v": 2, "time": rfc3339(-1)}]
        self.assertIn("finer", self.write(records, "--precision", "s", exit=1).stderr)
        self.write(records, "--precision", "s", "--round-time")
        self.assertEqual(list(self.rows()), [-10**9, 10**9])

    def test_times_as_counts(self):
        for name, unit in ("unix", 10**9), ("unixms", 10**6), ("unixus", 10**3), ("unixns", 1):
            self.write([{"v": 1, "at": 1530403200}], "--timestamp", f"at:{name}", "--measurement", name)
            self.assertEqual(list(self.rows(name)), [1530403200 * unit])
            self.assertEqual(list(self.rows(name).values())[0], {"time": 1530403200 * unit, "v": 1})

    def test_an_event_by_default(self):
        event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "subject": "bsu 1", "time": "2018-07-01T00:00:00.000000001Z",
                 "recordedtime": "2018-07-01T00:00:01Z", "data": {"bsu": {"@id": "7", "@time": "x", "power": {"#text": 12.5, "@unit": "W"},
                                                                          "cell": [{"v": 3.2}, {"v": 3}], "on": True, "none": None, "subject": "y"}}}
        self.write([event])
        self.assertEqual(list(self.rows().values()), [
            {"time": 1530403200000000001, "subject": "bsu 1", "bsu_id": "7", "bsu_time": "x", "power": 12.5, "power_unit": "W", "cell_0_v": 3.2,
             "cell_1_v": 3, "on": True, "bsu_subject": "y"}])

    def test_a_bare_record_by_default(self):
        self.write([{"subject": "u1", "time": rfc3339(1), "v": 1, "id": "x", "in": {"time": "later", "subject": "z"}}])
        self.assertEqual(list(self.rows().values()), [{"time": 1, "subject": "u1", "v": 1, "id": "x", "in_time": "later", "in_subject": "z"}])

    def test_names_that_influxdb_keeps_for_itself(self):
        # A field `time` would vanish in silence; a field with a tag's name can hardly be asked for.
        self.write([{"d": {"time": "x", "v": 1, "fw": 2}, "d2": rfc3339(1), "f": "3"}], "--timestamp", "d2", "--tag", "fw=/f")
        self.assertEqual(list(self.rows().values()), [{"time": 1, "fw": "3", "d_time": "x", "d_v": 1, "d_fw": 2}])
        self.write([{"x": {"time": 5, "fw": 6}}, ], "--timestamp", "/x/time:unix", "--tag", "tag=/x/none", "--measurement", "other")
        self.assertEqual(list(self.rows("other").values()), [{"time": 5 * 10**9, "fw": 6}])
        self.write([{"x": {"time": 5, "fw": 6, "at": 7}}], "--timestamp", "/x/at:unix", "--tag", "fw=/x/at", "--measurement", "third")
        self.assertEqual(list(self.rows("third").values()), [{"time": 7 * 10**9, "fw": "7", "data_time": 5, "data_fw": 6}])

    def test_a_measurement_of_the_record(self):
        event = {"specversion": "1.0", "id": "1", "source": "s", "type": "bsu.reading", "time": rfc3339(1), "data": {"kind": "a b", "v": 1}}
        self.write([event], "--measurement", "{type}")
        self.assertEqual(self.rows("bsu.reading"), {1: {"time": 1, "kind": "a b", "v": 1}})
        self.write([event], "--measurement", "/kind")
        self.assertEqual(self.rows("a b"), {1: {"time": 1, "v": 1}})
        self.assertIn("no measurement", self.write([event], "--measurement", "/typo", exit=1).stderr)

    def test_tags(self):
        record = {"subject": "u1", "fw": 1.50, "on": False, "none": None, "empty": "", "v": 1, "time": rfc3339(1)}
        tags = [word for tag in ("fw=/fw", "on=on", "none=/none", "empty=/empty", "zz=/missing") for word in ("--tag", tag)]
        text = to_lines([record]).replace("1.5,", "1.50,")
        self.write(text, *tags)
        self.assertEqual(list(self.rows().values()), [{"time": 1, "subject": "u1", "fw": "1.50", "on": "false", "v": 1}])
        printed = run([tool("influx-write"), "--print", *tags], text)
        self.assertEqual(printed, (0, "record,fw=1.50,on=false,subject=u1 v=1 1\n", ""))
        printed = run([tool("influx-write"), "--print", "--tag", "unit=subject", "--field", "v=/v:uint"], text)
        self.assertEqual(printed, (0, "record,unit=u1 v=1u 1\n", ""))
        printed = run([tool("influx-write"), "--print", "--no-subject", "--field", "v=/v:int"], text)
        self.assertEqual(printed, (0, "record v=1i 1\n", ""))

    def test_two_records_of_a_batch_that_are_one_point(self):
        done = run([tool("influx-write"), f"{self.influx.url}?db={self.database}"],
                   to_lines([{"subject": "u", "a": 1, "time": rfc3339(1)}, {"subject": "u", "b": 2, "time": rfc3339(1)}]))
        self.assertEqual(done.exit, 0)
        self.assertRegex(done.stderr, r"\Ainflux-write: .*: two records are one point, record,subject=u at 1, with other fields.*\n\Z")
        self.assertEqual(self.rows(), {1: {"time": 1, "subject": "u", "a": 1, "b": 2}})
        self.write([{"subject": "w", "a": n, "time": rfc3339(2)} for n in range(50)])  # versions of one point: the last one stays
        self.assertEqual(self.rows()[2]["a"], 49)

    def test_two_values_of_one_name_are_not_one_of_them(self):
        done = self.write([{"v": 1, "@v": 2, "time": rfc3339(1)}], exit=1)
        self.assertIn("two values are the field v", done.stderr)

    def test_compressed(self):
        records = [{"subject": f"u{n}", "v": n, "time": rfc3339(n)} for n in range(3000)]
        self.write(records, "--compress", "gzip")
        self.assertEqual([row["v"] for row in sorted(self.rows(group=False).values(), key=lambda row: row["time"])], list(range(3000)))


if __name__ == "__main__":
    unittest.main()

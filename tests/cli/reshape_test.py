"""reshape against the jq binary over its language, and as a stage that tells receipts."""
import json
import math
import os
import pathlib
import random
import struct
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import run, tool

DOCUMENT = ('{"user":"stedolan","titles":["JQ Primer","More JQ"],"n":5,"f":-2.25,"t":true,"no":null,'
            '"nested":{"a":{"b":[1,2,{"c":"deep"}]},"empty":{},"none":[]},"text":"caf\u00e9 \\"q\\" \\\\ \\u0007\\u007f\\n",'
            '"pairs":[{"k":"x","v":1},{"k":"y","v":3},{"k":"x","v":2}],"big":[3,1,2,10,-1]}')
# Programs over DOCUMENT, in the order of jq's manual.
PROGRAMS = r"""
.
.user
.nested.a.b
."user"
.["user"]
.["no such"]?
.nested["a"].b[2].c
.titles[0]
.titles[-1]
.titles[10]
.big[1:3]
.big[:-2]
.big[2:]
.user[2:4]
.titles[]
.nested[]
.[]
.n?
.user.x?
.titles | .[] | length
.user, .n
(.n, .f) | . * 2
.user, (.titles[] | ascii_downcase)
..
.. | numbers
[.. | strings]
{user, title: .titles[]}
{(.user): .titles}
{"a b": 1, "c\(1+1)": 2, @base64 "x": 3}
{user, n} | {n}
{$__loc__}
[.titles[], .user]
[]
{}
null
"text \(.n) and \(.titles | length)"
1, 1.5, -3, 1e3, 0.1, 1e-7, 123456789012
.n + 1
.n - 1.5
.n * 3
.n / 2
.n % 3
-5 % 3, 5 % -3, -(.n)
.user + "!"
.titles + .big
.nested + {a: 1}
{a:{b:1}} * {a:{c:2}}
.titles - ["JQ Primer"]
"a, b,c" / ", "
"x" * 3
null + 1
.n / 0
1 / 3
10 / 3 | floor, ceil, round, sqrt, fabs
length
.user, .titles, .n, .no, .f | length
.text | utf8bytelength
keys
keys_unsorted
.big | keys
has("user"), has("x")
.big | has(0), has(99)
. as $d | "n", "x" | in($d)
.titles | map(length)
.nested | map_values(length)
path(.nested.a.b[0])
[path(..)]
[paths]
[paths(type == "number")]
[leaf_paths]
del(.nested, .titles[0])
delpaths([["n"], ["big", 0]])
.nested | to_entries
.pairs | map({key: .k, value: .v}) | from_entries
.nested | with_entries(.key |= "x_" + .)
.big[] | select(. > 1)
[.big[] | select(. >= 2 and . < 10)]
empty
[.big[] | empty]
.no | error
error("mine")
error({a: 1})
error(null)
try error("caught") catch .
try error({a: [1]}) catch .a
[.[] | try ascii_downcase catch "no"]
(.user, .n) | try (. + 1) catch .
.big | add
.titles | add
[] | add
.big | any(. > 5), all(. > 5), (map(. > 0) | any, all)
[[1,[2]],[[3]]] | flatten, flatten(1)
[range(5)], [range(2;5)], [range(0;10;3)], [range(5;0;-2)]
.f | floor, sqrt, pow(.;2), log, exp10, fabs
.big | map(pow(.; 2))
"12", "1.50", "x" | tonumber?
.n, .user, .big | tostring
[.[] | type]
infinite, -infinite, nan | ., isinfinite, isnan, isnormal
.big | sort, min, max, unique, reverse
.pairs | sort_by(.v), group_by(.k), unique_by(.k), min_by(.v), max_by(.v)
.pairs | sort_by(.k, -.v)
.titles | contains(["JQ"])
.user | contains("dol"), inside("xstedolanx")
.nested | contains({a: {}})
["a,b, cd", "x"] | map(split(", "))
.titles | join("-")
[1, null, "a", true] | join(",")
.user | startswith("st"), endswith("x"), ltrimstr("st"), rtrimstr("lan")
.user | explode, (explode | implode)
.text | explode | implode
.user | ascii_upcase, ascii_downcase
[.n | recurse(if . > 0 then . - 1 else empty end)]
[2 | recurse(. * .; . < 100)]
recurse_down | numbers
env | type
$ENV | type
env.RESHAPE_TEST, $ENV.RESHAPE_TEST
.pairs | transpose?
[[1,2],[3]] | transpose
.big | sort | bsearch(3), bsearch(4)
$__prog_args?
splits("x")?
.user | [splits("d")]
.user | test("dol"), test("DOL"; "i")
.text | [match("é"; "g") | .offset]
.user | match("(?<first>s)(?<rest>.*)")
.user | capture("(?<first>s)(?<rest>.*)")
.user | [scan("[a-e]")]
.user | sub("st"; "ST"), gsub("[aeo]"; "<\(.)>")
.user | gsub("(?<v>[aeo])"; "<\(.v)>")
.user | split("[do]+"; null)
.titles | map(ascii) ?
@json, @text
.text | @json, @html, @uri, @sh, @base64, (@base64 | @base64d)
.big | @csv, @tsv, @sh
@base64 "v=\(.user)", @uri "v=\(.text)"
@html "<b>\(.text)</b>"
1425599621 | todate, (todate | fromdate)
"2015-03-05T23:51:47Z" | fromdateiso8601, strptime("%Y-%m-%dT%H:%M:%SZ"), (strptime("%Y-%m-%dT%H:%M:%SZ") | mktime)
1425599621 | gmtime, strftime("%A, %B %d, %Y"), (gmtime | mktime)
1425599621.678 | gmtime | mktime
now | type
localtime? | type
.n == 5, .n != 5, .n == "5"
[null, false, true, 0, "a", [], {}] | sort
.n < .f, "a" < "b", [] < {}, null < false
if .n == 5 then "five" elif .n == 6 then "six" else "other" end
if .no then 1 else 2 end
.t and .no, (.t or .no), (.t | not)
(true, false) and (true, false)
.no // "default"
.x // .y // empty
(.no, .user, false) // 7
[.[] // "d"]
reduce .big[] as $x (0; . + $x)
[foreach .big[] as $x (0; . + $x)]
[foreach .big[] as $x (0; . + $x; [$x, .])]
. as {user: $u, titles: [$a, $b]} | [$u, $a, $b]
. as {$user, $n} | "\($user) \($n)"
.pairs[] as {k: $k, v: $v} | {($k): $v}
.[] as [$a] ?// $a | $a
[[1, 2], {"a": 3}] | .[] as [$x] ?// {a: $x} | $x
def f: . * 2; .n | f
def f(g): g | g; .n | f(. + 1)
def f($x; $y): $x + $y; f(.n; .f)
def fac: if . <= 1 then 1 else . * (. - 1 | fac) end; [range(10)] | map(fac)
def down: if . > 0 then ., (. - 1 | down) else empty end; [.n | down]
[limit(3; .big[])], [first(.big[])], first(.big[]), ([.big[] | last(., 1)])
[limit(3; repeat(1))]
until(.n > 100; .n *= 2) | .n
[.n | while(. < 100; . * 2)]
[.n | repeat(. * 2; 10)]?
nth(2; .big[]), (.big | nth(1), first, last)
label $out | foreach .big[] as $x (0; . + $x; if . > 4 then ., break $out else . end)
isvalid(.n), isvalid(error)
[.big | combinations(1)?]
[[1,2],[3,4]] | [combinations]
[[0,1] | combinations(2)]
walk(if type == "number" then . + 1 else . end)
.pairs | INDEX(.k)
.pairs | [.[] | .k] | unique | IN(["x","y"])
.n | IN(1, 5)
[.pairs[] | .k | ascii]?
.big | to_entries | map(select(.value > 1))
.user |= ascii_upcase
.big[1:3] = ["x"]
.big[] += 1
.n -= 1 | .n *= 2 | .n /= 4 | .n %= 3
.no //= "set"
.a.b.c = 1
.x[3] = 1
.pairs[].v |= . * 10
(.pairs[] | select(.k == "x") | .v) = 0
.titles[1] |= empty
.["user", "n"] = 1
. * {nested: {a: 1}}
to_entries[0]
tostream
[tostream] | fromstream(.[])
[1 | truncate_stream([[0],1],[[1,0],2],[[1,0]],[[1]])]
[.big | limit(2; tostream)]
getpath(["nested","a","b"]), getpath(["x","y"])
[getpath(["n"], ["f"])]
setpath(["nested","z"]; 1) | .nested
input
[inputs]
try input catch .
debug | .n
[splits("a")?]
ltrimstr(1), tojson
"[1,{\"a\":2.50}]" | fromjson
"[1" | fromjson
.user | ascii
.user.x
.titles.a
.n[0]
.n | keys
{} | .[0]
[] | .["a"]
{a: 1} | has(0)
.user | error
"\u00e9\ud83d\ude00" | length, utf8bytelength, explode
"x" as $x | "y" as $y | [$x, $y, $__loc__.line]
1 as $x | 2 as $y | [$x, $y, $x]
getpath(["user","x"])
[.[]?]
.user | ltrimstr("ste") | rtrimstr("lan") | ascii_upcase
@text "\(1;2)"?
[.big[] | tostring] | join("/")
significand?, drem(5;3), ldexp(1;3), scalb(1;3), nearbyint?
[.n, .f] | map(trunc, rint)
[splits("x";"g")?]
builtins | length > 100
$ARGS
ascii(65)?
@json "x\(.titles)"
.. |= (if type == "string" then length else . end)
[..] | length
tojson | fromjson
.nested.a.b[2] as $x | $x, [$x, $x]
[.pairs[0], .pairs[0]]
.pairs[1:]
.pairs | .[1:] + .[:1]
[splits(", ")?] | length
.n # and another
"\(.nested)"
-1 | abs?
getpath(["a",0,"b"])?
SQL_no_such?
ltrimstr("x")
[.titles[] | ascii_downcase | split(" ")]
.big | map(select(. != 3)) | length
""".strip("\n").split("\n")


def event(data, number=1, **attributes):
    """An event whose data is this JSON text, at its end."""
    front = {"specversion": "1.0", "id": f"e{number}", "source": "/test", "type": "order", **attributes}
    return json.dumps(front, separators=(",", ":"), ensure_ascii=False)[:-1] + ("" if data is None else f',"data":{data}') + "}"


def reshape(lines, *options):
    """The lines that came out, and the reason of each rejection by its line."""
    with tempfile.TemporaryDirectory() as folder:
        letters = pathlib.Path(folder) / "letters"
        done = run([tool("reshape"), "--dead-letters", str(letters), *options], "".join(line + "\n" for line in lines),
                   env={**os.environ, "RESHAPE_TEST": "set"})
        rejected = {}
        if letters.exists():
            for line in letters.read_text().split("\n")[:-1]:
                rejected[json.loads(line)["line"]] = json.loads(line)["reason"]
    assert done.exit == (1 if rejected else 0), (done.exit, done.stderr)
    return done.stdout.split("\n")[:-1], rejected


def data_of(line):
    """The text of the data of an event that event() made."""
    return line[line.index(',"data":') + 8:-1]


def jq(program, document, *options):
    """The lines that jq -c writes, and what it says of its failure, or None."""
    done = run(["jq", "-c", *options, program], document, env={**os.environ, "RESHAPE_TEST": "set"})
    said = [line for line in done.stderr.splitlines() if line.startswith("jq: error")]
    if not said:
        return done.stdout.splitlines(), None
    return done.stdout.splitlines(), said[0].split("): ", 1)[1] if "(not a string)" not in said[0] else said[0].split("(at ", 1)[1].split(") ", 1)[1]


class AgainstJq(unittest.TestCase):
    def test_what_jq_makes_of_a_document_is_what_comes_out(self):
        compiled = failures = 0
        for program in PROGRAMS:
            with self.subTest(program):
                if run(["jq", program], "null").exit == 3:
                    done = run([tool("reshape"), program], "")
                    self.assertEqual((done.exit, done.stdout), (2, ""))
                    continue
                compiled += 1
                wanted, failure = jq(program, DOCUMENT)
                out, rejected = reshape([event(DOCUMENT)], program)
                if failure is not None:
                    failures += 1
                    self.assertEqual((out, rejected), ([], {1: failure}))
                else:
                    self.assertEqual((out and [data_of(line) for line in out], rejected), (wanted, {}))
        self.assertGreater(compiled, len(PROGRAMS) - 20)
        self.assertGreater(failures, 8)

    def test_any_document_is_written_as_jq_writes_it(self):
        rng = random.Random(1)

        def value(depth=0):
            kind = rng.randrange(8 if depth < 5 else 5)
            if kind == 0:
                return rng.choice(["null", "true", "false"])
            if kind in (1, 2):
                return rng.choice([str(rng.randrange(-10**6, 10**6)), repr(rng.uniform(-1, 1)), "-0", "0",
                                   repr(struct.unpack("d", rng.randbytes(8))[0]).replace("nan", "1").replace("inf", "1e400"),
                                   "1E5", "1.50", "100e-2", "12345678901234567", "1e400", "1e-400"])
            if kind in (3, 4):
                text = "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0xd7ff), rng.randrange(0x10000, 0x10ffff)]))
                               for _ in range(rng.randrange(8)))
                return json.dumps(text, ensure_ascii=rng.random() < 0.5)
            space = rng.choice(["", " ", "\t"])
            if kind in (5, 6):
                return "[" + f"{space},".join(value(depth + 1) for _ in range(rng.randrange(5))) + space + "]"
            return "{" + f",{space}".join(f'"{rng.choice("abcdé")}{i if i < 3 else ""}"{space}:{value(depth + 1)}'
                                          for i in range(rng.randrange(6))) + space + "}"

        documents = [value() for _ in range(3000)]
        for program in ("[.]", "[.. | (.[]? |= .)]"):  # rebuilt from parts; rebuilt throughout
            wanted = run(["jq", "-c", program], "\n".join(documents)).stdout.split("\n")[:-1]
            out, rejected = reshape([event(d) for d in documents], program)
            self.assertEqual((len(out), rejected), (3000, {}))
            for document, line, expected in zip(documents, out, wanted):
                got = data_of(line)
                if got == expected:
                    continue
                # Other digits for the same doubles, and nothing else.
                self.assertEqual(json.loads(got, parse_int=float), json.loads(expected.replace("1.7976931348623157e+308", "1e400"), parse_int=float), document)

    def test_any_double_is_written_as_jq_writes_it(self):
        rng = random.Random(2)
        numbers = [repr(struct.unpack("d", rng.randbytes(8))[0]) for _ in range(3000)]
        numbers += [f"{rng.randrange(1, 1000)}e{e}" for e in range(-30, 40)] + [repr(rng.uniform(-1000, 1000)) for _ in range(1000)]
        numbers = [n for n in numbers if math.isfinite(float(n))]
        halves = json.dumps([float(n) / 2 for n in numbers])
        wanted, _ = jq("map(. * 2)", halves)
        out, _ = reshape([event(halves)], "map(. * 2)")
        # A double that is doubled has other digits than any of the input.
        self.assertEqual([json.loads(data_of(line)) for line in out], [json.loads(line) for line in wanted])
        short = "[" + ",".join(f"{rng.randrange(1, 10**6)}e{e}" for e in range(-30, 40)) + "]"
        self.assertEqual([data_of(line) for line in reshape([event(short)], "map(. * 2)")[0]], jq("map(. * 2)", short)[0])

    def test_arguments_are_as_jq_takes_them(self):
        with tempfile.TemporaryDirectory() as folder:
            table = pathlib.Path(folder) / "table.json"
            table.write_text('{"x":1} {"x":2}\n[3]')
            options = ["--arg", "a", "1 é", "--argjson", "b", '{"c":[1.5]}', "--slurpfile", "t", str(table)]
            program = "[$a, $b, $t, $b.c[0], $ARGS.named.a]"
            out, rejected = reshape([event("{}")], *options, program)
            self.assertEqual(([data_of(line) for line in out], rejected), (jq(program, "{}", *options)[0], {}))
            more = pathlib.Path(folder) / "options"
            more.write_text(f'arg = a 1 é\nargjson = b {{"c":[1.5]}}\nslurpfile = t {table}\njobs = 2\n')
            self.assertEqual(reshape([event("{}")], "--options", str(more), program), (out, {}))

    def test_a_program_comes_from_a_file_with_its_modules_beside_it(self):
        with tempfile.TemporaryDirectory() as folder:
            main = pathlib.Path(folder) / "order.jq"
            main.write_text('#!/usr/bin/jq -f\nimport "prices" as p;\n# the net price\n{net: p::net}\n')
            (pathlib.Path(folder) / "prices.jq").write_text("def net: .gross / 2;\n")
            out, _ = reshape([event('{"gross":5}')], "-f", str(main))
            self.assertEqual([data_of(line) for line in out], ['{"net":2.5}'])


class Numbers(unittest.TestCase):
    def data(self, document, program):
        out, rejected = reshape([event(document)], program)
        return [data_of(line) for line in out] if not rejected else rejected[1]

    def test_an_event_that_the_program_returns_as_it_was_keeps_its_bytes(self):
        line = event('{"a": 12.50, "b": 9007199254740993, "c" : "\\u00e9", "a2": 1E2}', note="x")
        for program in (".", "select(.b > 1)", "if .no then {} else . end", ".a as $x | ."):
            self.assertEqual(reshape([line], program), ([line], {}))
            self.assertEqual(reshape([line], "--envelope", program if program == "." else "."), ([line], {}))
        self.assertEqual(reshape([event("12.50"), event('"x"')], "."), ([event("12.50"), event('"x"')], {}))

    def test_parts_that_the_program_passes_on_have_their_digits(self):
        document = '{"a":{"p":12.50,"n":[9007199254740993, 1e2]},"b":1.10}'
        self.assertEqual(self.data(document, "{x: .a, b}"), ['{"x":{"p":12.50,"n":[9007199254740993,1e2]},"b":1.1}'])
        self.assertEqual(self.data(document, ".a.n"), ["[9007199254740993,1e2]"])
        self.assertEqual(self.data(document, ".a.n[1] = 5"), ['{"a":{"p":12.5,"n":[9007199254740993,5]},"b":1.1}'])
        self.assertEqual(self.data(document, ".a.n[0:2], .a.n[0:1]"), ["[9007199254740993,1e2]", "[9007199254740993]"])

    def test_long_numbers_have_their_digits_wherever_they_come_out(self):
        for number in ("9007199254740993", "-12345678901234567890", "123456789012345678.25", "1e999", "0.12345678901234567891"):
            self.assertEqual(self.data(f'{{"a":{number},"b":7.0}}', "{id: .a, b}"), [f'{{"id":{number},"b":7}}'])
        self.assertEqual(self.data('{"a":9007199254740993}', "{s: (.a | tostring), n: (.a - 1)}"),
                         jq("{s: (.a | tostring), n: (.a - 1)}", '{"a":9007199254740993}')[0])

    def test_two_long_numbers_that_are_one_double_are_rejected_where_they_leave_their_place(self):
        document = '{"a":9007199254740993,"b":9007199254740992}'
        self.assertEqual(self.data(document, "."), [document])
        self.assertEqual(self.data(document, "[.]"), [f"[{document}]"])
        self.assertIn("cannot tell apart", self.data(document, "{a}"))

    def test_a_member_that_stands_twice_is_the_last_one(self):
        document = '{"x":{"a":1,"b":2.50,"a":3},"y":[{"a":1,"a":1.0}]}'
        self.assertEqual(self.data(document, "[.x, .y, .]"), jq("[.x, .y, .]", document)[0])


class Records(unittest.TestCase):
    def test_the_envelope_stays_and_data_is_json(self):
        out, rejected = reshape([event('"<a/>"', datacontenttype="application/xml", unknown=1.50), event("1", datacontenttype="application/problem+json")],
                                "{x: .}")
        self.assertEqual(rejected, {})
        self.assertEqual(out[0], '{"specversion":"1.0","id":"e1","source":"/test","type":"order","datacontenttype":"application/json",'
                                 '"unknown":1.5,"data":{"x":"<a/>"}}')
        self.assertIn("problem+json", out[1])

    def test_several_outputs_are_records_with_ids_that_are_the_same_again(self):
        lines = [event("[1,2,3]", 7), event("[4]", 8), event("[]", 9)]
        out, rejected = reshape(lines, ".[]")
        self.assertEqual(([(json.loads(line)["id"], json.loads(line)["data"]) for line in out], rejected),
                         ([("e7/1", 1), ("e7/2", 2), ("e7/3", 3), ("e8", 4)], {}))
        self.assertEqual(reshape(lines, ".[]"), (out, {}))

    def test_with_envelope_the_program_has_the_whole_event(self):
        lines = [event('{"a":1}', 1, subject="u1"), event('{"a":2}', 2)]
        out, rejected = reshape(lines, "--envelope", '.subject //= "none" | .type = "t" | (., .), (.id = "own")')
        self.assertEqual(rejected, {})
        self.assertEqual([json.loads(line)["id"] for line in out], ["e1/1", "e1/2", "own", "e2/1", "e2/2", "own"])
        self.assertEqual([json.loads(line).get("subject") for line in out], ["u1"] * 3 + ["none"] * 3)
        self.assertEqual(reshape(lines[:1], "--envelope", ".data"), (['{"a":1}'], {}))
        self.assertEqual(reshape(lines[:1], "--envelope", ".id"), ([], {1: "the program makes string of it: a record is an object"}))

    def test_a_bare_record_is_its_own_data(self):
        self.assertEqual(reshape(['{"a": 1,"b":[ 1.50 ]}', '{"a":2}'], "{n: .a, b}, {x: 1}"),
                         (['{"n":1,"b":[1.50]}', '{"x":1}', '{"n":2,"b":null}', '{"x":1}'], {}))
        out, rejected = reshape(['{"a":1}', '{"a":[]}', '{"a":{"b":1}}'], ".a")
        self.assertEqual(out, ['{"b":1}'])
        self.assertEqual(rejected, {1: "the program makes number of it: a record is an object",
                                    2: "the program makes array of it: a record is an object"})

    def test_deletions_pass_untouched(self):
        deletion = '{"specversion":"1.0", "id":"d","source":"/t","type":"doc.deleted", "subject":"k"}'
        self.assertEqual(reshape([deletion], "error(1)"), ([deletion], {}))

    def test_events_without_json_in_them_are_rejected(self):
        out, rejected = reshape([event(None), event(None, dataref="http://x/"), event(None, data_base64="e30="), event("[1,}"), event('{"a":01}'),
                                 event('"\\x"'), event("[" * 300 + "]" * 300), event("[" * 256 + "]" * 256)], ".")
        self.assertEqual(out, [event("[" * 256 + "]" * 256)])
        self.assertEqual([rejected[n] for n in range(1, 4)],
                         ["no data", "no data: hydrate fetches what dataref names", "data is no JSON but base64"])
        for n in range(4, 7):
            self.assertRegex(rejected[n], "not JSON|parse|data")
        self.assertRegex(rejected[7], "256 levels")

    def test_an_error_on_one_record_in_a_hundred_rejects_exactly_those(self):
        lines = [event('{"n":"x"}' if n % 100 == 42 else f'{{"n":{n}}}', n) for n in range(2000)]
        for jobs in "1", "2":
            out, rejected = reshape(lines, "--jobs", jobs, ".n += 1")
            self.assertEqual(sorted(rejected), [n + 1 for n in range(2000) if n % 100 == 42])
            self.assertEqual(set(rejected.values()), {'string ("x") and number (1) cannot be added'})
            self.assertEqual([json.loads(line)["id"] for line in out], [f"e{n}" for n in range(2000) if n % 100 != 42])

    def test_halt_is_an_error_of_the_record_and_the_next_one_follows(self):
        lines = [event("1", 1), event("2", 2), event("3", 3), event("4", 4)]
        program = 'if . == 1 then halt elif . == 2 then "why" | halt_error elif . == 3 then {a: 1} | halt_error else . end'
        out, rejected = reshape(lines, program)
        self.assertEqual((out, rejected), (lines[3:], {1: "the program halts", 2: "why", 3: '{"a":1}'}))

    def test_messages_are_one_line(self):
        _, rejected = reshape([event("1"), event('"' + "é" * 5000 + '"')], 'if . == 1 then error("a\\nb\\u0000") else error(.) end')
        self.assertEqual(rejected[1], "a b ")
        self.assertLess(len(rejected[2]), 600)
        done = run([tool("reshape"), "debug"], event('{"a":1}') + "\n")
        self.assertEqual((done.exit, done.stderr), (0, 'reshape: debug: {"a":1}\n'))


class Programs(unittest.TestCase):
    def fails(self, *words):
        done = run([tool("reshape"), *words], event("1") + "\n")
        self.assertEqual((done.exit, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"\Areshape: [^\n]+\n\Z")
        return done.stderr

    def test_a_program_that_does_not_compile_is_told_with_its_place(self):
        self.assertRegex(self.fails(".a |"), r"the program: syntax error, .* at <top-level>, line 1: .a \|")
        self.assertRegex(self.fails("1 |\n nosuch(1)"), r"nosuch/1 is not defined at <top-level>, line 2:")
        self.assertRegex(self.fails("$x"), r"\$x is not defined at <top-level>, line 1:")
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/order.jq"
            pathlib.Path(path).write_text(".a\n| {\n")
            self.assertRegex(self.fails("-f", path), rf"reshape: {path}: syntax error, .* line 2")
            self.assertIn("No such file", self.fails("-f", f"{folder}/none"))
            self.assertIn("No such file", self.fails("--slurpfile", "t", f"{folder}/none", "."))
            pathlib.Path(path).write_text('{"a":')
            self.assertIn(f"--slurpfile t: {path}: ", self.fails("--slurpfile", "t", path, "."))
        self.assertIn("--argjson b: ", self.fails("--argjson", "b", "{", "."))
        self.assertIn("--argjson b: not one JSON value", self.fails("--argjson", "b", "1 2", "."))
        self.assertIn("one program", self.fails())
        self.assertIn("one program", self.fails("-f", "x", "."))
        self.fails("--arg", "a")

    def test_a_program_without_an_end_does_not_end_in_silence(self):
        for program in ("def f: 1 + f; f", "[limit(1e9; repeat(1))]", "reduce range(10000000) as $i (null; [.])",
                        "reduce range(1000000) as $i (null; [.]) | 1"):
            for jobs in "1", "2":
                with self.subTest(program, jobs=jobs):
                    done = run([tool("reshape"), "--max-memory", "200MiB", "--jobs", jobs, program], event("1", 17) + "\n")
                    self.assertEqual((done.exit, done.stdout), (70, ""))
                    # libjq says something of its own first.
                    self.assertRegex(done.stderr, r'\A(error: [^\n]+\n)?reshape: the program takes more [^\n]+: id "e17"\n\Z')
        # Outputs without an end are the record's fault.
        out, rejected = reshape([event("1"), event("2")], 'if . == 1 then repeat("x" * 1000000) else . end')
        self.assertEqual((out, rejected), ([event("2")], {1: "the program makes more than 256 MiB of it"}))


class UnderASource(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def consume(self, *words):
        done = run([tool("consume"), f"{self.dir}/orders", "--as", "s", "--until-empty", "--", *words])
        self.assertEqual(done.exit, 0, done.stderr)
        return done

    def test_pieces_drops_and_rejections_settle_every_event(self):
        events = [event(data, n) for n, data in enumerate(("[1,2,3]", "[]", '"x"', "[4]", "[5,\"bad\"]"), 1)]
        self.assertEqual(run([tool("publish"), f"{self.dir}/orders"], "".join(e + "\n" for e in events)).exit, 0)
        self.consume(f"{tool('reshape')} --jobs 2 '.[] | {{n: (. + 0)}}' | {tool('publish')} {self.dir}/out")
        out = [json.loads(line) for file in sorted(self.dir.glob("out/*.ndjson")) for line in file.read_text().splitlines()]
        self.assertEqual([(e["id"], e["data"]["n"]) for e in out], [("e1/1", 1), ("e1/2", 2), ("e1/3", 3), ("e4", 4)])
        self.assertTrue(all("delivery" not in e for e in out))
        letters = run([tool("dlq-replay"), f"{self.dir}/orders", "--as", "s", "--export"]).stdout.splitlines()
        self.assertEqual([(json.loads(line)["event"]["id"], json.loads(line)["by"]) for line in letters], [("e3", "reshape"), ("e5", "reshape")])
        check = run([tool("consume"), f"{self.dir}/orders", "--as", "s", "--check", "lag=1s"])
        self.assertEqual((check.exit, check.stdout), (0, ""))

    def test_the_positions_are_not_the_programs(self):
        """It neither sees nor makes any."""
        self.assertEqual(run([tool("publish"), f"{self.dir}/orders"], event('{"a":1}') + "\n" + '{"b":1}\n').exit, 0)
        self.consume(f"{tool('reshape')} --envelope '.seen = has(\"delivery\") | .delivery = \"k1:1\"' | {tool('publish')} {self.dir}/out")
        out = [json.loads(line) for file in self.dir.glob("out/*.ndjson") for line in file.read_text().splitlines()]
        self.assertEqual([(e["seen"], "delivery" in e) for e in out], [(False, False)] * 2)

    def test_an_event_that_a_program_never_ends_with_becomes_a_dead_letter(self):
        lines = "".join(event(f'{{"n":{n}}}', n) + "\n" for n in range(20))
        self.assertEqual(run([tool("publish"), f"{self.dir}/orders"], lines).exit, 0)
        program = "def f: 1 + f; if .n == 13 then f else . end"
        self.consume(f"{tool('reshape')} --max-memory 50MiB '{program}' | {tool('publish')} {self.dir}/out")
        out = [json.loads(line)["id"] for file in self.dir.glob("out/*.ndjson") for line in file.read_text().splitlines()]
        self.assertEqual(sorted(out, key=lambda i: int(i[1:])), [f"e{n}" for n in range(20) if n != 13])
        (letter,) = run([tool("dlq-replay"), f"{self.dir}/orders", "--as", "s", "--export"]).stdout.splitlines()
        self.assertEqual(json.loads(letter)["event"]["id"], "e13")
        self.assertIn("takes more than --max-memory", json.loads(letter)["reason"])


if __name__ == "__main__":
    unittest.main()

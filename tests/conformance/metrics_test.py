"""metrics.7 and what the tools write with --metrics: the same, both ways, in the text format of Prometheus."""
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, ROOT, Server, run, tool  # noqa: E402
from influx_server import InfluxServer  # noqa: E402
from redis_server import Redis  # noqa: E402
from rest_server import RestServer  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402

TOOLS = (BIN.parent / "tools.txt").read_text().split()
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABELS = re.compile(r'(?:([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)",?)')
NUMBER = r"(?:[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|NaN|[+-]Inf)"


def parse(text):
    """As https://prometheus.io/docs/instrumenting/exposition_formats/ has it, strictly: {name: (type, help, labels, value)}."""
    assert text.endswith("\n"), "the last line must end"
    families, current = {}, None
    for line in text.splitlines():
        if found := re.fullmatch(rf"# HELP ({NAME}) ((?:[^\\\n]|\\\\|\\n)+)", line):
            current = found[1]
            assert current not in families, f"{current} stands twice"
            families[current] = [None, found[2], None, None]
        elif found := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge|untyped)", line):
            assert found[1] == current and families[current][0] is None, line
            families[current][0] = found[2]
        else:
            found = re.fullmatch(rf"({NAME})\{{(.*)\}} ({NUMBER})", line)
            assert found and found[1] == current, line
            labels = dict(LABELS.findall(found[2]))
            assert ",".join(f'{k}="{v}"' for k, v in labels.items()) == found[2], line
            assert families[current][2] is None, f"two samples of {current}"
            families[current][2:] = labels, float(found[3])
    for name, (kind, help_text, labels, _) in families.items():
        assert kind and help_text and labels is not None, name
        assert (kind == "counter") == name.endswith("_total"), name
    return families


def documented():
    page = (ROOT / "man" / "metrics.7").read_text()
    metrics = re.search(r"^\.Ss Metrics\n(.*?)^\.El", page, re.M | re.S)[1]
    labels = re.search(r"^\.Ss Labels\n(.*?)^\.El", page, re.M | re.S)[1]
    found = re.findall(r"^\.It Cm (\S+) Pq (\w+)\n(.*)$", metrics, re.M)
    assert len(found) == metrics.count(".It "), metrics
    return {name: (kind, text) for name, kind, text in found}, set(re.findall(r"^\.It Cm (\w+)$", labels, re.M))


EVENTS = "".join(json.dumps({"specversion": "1.0", "id": str(n), "source": "s", "type": "t", "subject": f"u{n}", "time": "2018-07-01T00:00:00Z",
                             "recordedtime": "2018-07-01T00:00:00Z", "data": "<a/>" if n % 3 else "<a"}) + "\n" for n in range(9))
# Each tool in its simplest way, and the sources with a pipeline; in this order, in one folder.
COMMANDS = [
    ("publish", "publish x/"),
    ("consume", "consume x/ --as plain --until-empty"),
    ("consume", "consume x/ --as data --until-empty {} -- 'xml2json | sql-write sqlite:a.db'"),
    ("consume", "consume x/ --as data --until-empty {} -- 'xml2json | sql-write sqlite:a.db'"),
    ("dlq-replay", "dlq-replay x/ --as data {} -- 'sql-write sqlite:b.db'"),
    ("xml2json", "xml2json || [ $? = 1 ]"),
    ("reshape", "reshape '{data: .}' || [ $? = 1 ]"),
    ("throttle", "throttle --rate 1000/s"),
    ("sql-write", "sql-write sqlite:c.db"),
    ("sql-read", "sql-read sqlite:c.db --table record --key id"),
    ("sql-read", "sql-read sqlite:c.db --table record --key id {} -- 'sql-write sqlite:e.db --key id'"),
    ("influx-write", "influx-write $INFLUX --field id=id:string"),
    ("influx-read", "influx-read $INFLUX --measurement record"),
    ("influx-read", "influx-read $INFLUX --measurement record {} -- 'sql-write sqlite:f.db --key subject,time'"),
    ("redis-write", "redis-write $REDIS --key 'u:{subject}'"),
    ("http-write", "http-write $REST/{subject}"),
    ("hydrate", "hydrate"),
    ("s3-archive", "s3-archive put a/"),
    ("s3-archive", "s3-archive get a/"),
    ("s3-archive", "s3-archive get a/ {} -- 'sql-write sqlite:d.db'"),
    ("reconcile", "reconcile --key id --left 's3-archive get a/' --right 's3-archive get a/'"),
    ("find-gaps", "find-gaps --every 1s"),
    ("bsu-fetch", "bsu-fetch --devices fleet.txt --once"),
    ("bsu-fetch", "bsu-fetch --devices fleet.txt --once {} -- publish y/"),
    ("crawl", "crawl $RTDB/orders"),
    ("crawl", "crawl $RTDB/orders {} -- publish z/"),
    ("listen", "timeout 1 listen {} $RTDB/orders || [ $? = 124 ]"),
]


class Metrics(unittest.TestCase):
    def write_all(self):
        """The files that COMMANDS write."""
        folder = pathlib.Path(self.enter(tempfile.TemporaryDirectory(prefix="inflight-test-")))
        redis, influx, rest = self.enter(Redis()), self.enter(InfluxServer()), self.enter(RestServer())
        influx.create("metrics")
        sim = self.enter(Server([tool("bsu-sim"), "--port", "0", "--units", "5", "--devices", "{dir}/fleet.txt"]))
        shutil.copy(sim.dir / "fleet.txt", folder)
        rtdb = self.enter(RtdbServer("--documents", "5"))
        environment = dict(os.environ, RTDB=rtdb.url, PATH=f"{BIN}:{os.environ['PATH']}", REDIS=redis.url, INFLUX=f"{influx.url}?db=metrics",
                           REST=rest.url)
        for n, (name, command) in enumerate(COMMANDS):
            option = f"--metrics {n}-{name}.prom"
            command = command.replace("{}", option) if "{}" in command else f"{name} {option} {command.removeprefix(name)}"
            done = run(["bash", "-c", command], EVENTS, cwd=folder, env=environment)
            self.assertEqual(done.exit, 0, (command, done.stderr))
        return sorted(folder.glob("*.prom"))

    def enter(self, context):
        value = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return value

    def test_what_is_written_is_what_the_manual_says(self):
        self.assertEqual({name for name, _ in COMMANDS}, set(TOOLS))
        metrics, labels = documented()
        self.assertGreater(len(metrics), 5)
        files = self.write_all()
        self.assertEqual(len(files), len(COMMANDS))
        seen, samples = set(), set()
        for path in files:
            with self.subTest(path.name):
                families = parse(path.read_text())
                self.assertEqual({name: (kind, text) for name, (kind, text, _, _) in families.items()},
                                 {name: metrics[name] for name in families if name in metrics}, "not as in the manual")
                self.assertEqual({name for name in metrics if metrics[name][0] == "counter"} - set(families), set(), "every tool has every counter")
                for name, (_, _, found, _) in families.items():
                    self.assertEqual(set(found), labels)
                    self.assertEqual((found["name"], found["tool"]), (path.stem, path.stem.split("-", 1)[1]))
                    samples.add((name, *sorted(found.items())))
                seen |= set(families)
        self.assertEqual(set(metrics) - seen, set(), "in the manual, but nobody writes it")
        self.assertEqual(len(samples), sum(len(parse(path.read_text())) for path in files), "two files have one sample")
        with_lag = {path.stem for path in files if "inflight_lag_seconds" in parse(path.read_text())}
        self.assertEqual(with_lag, {f"{n}-{name}" for n, (name, command) in enumerate(COMMANDS) if " -- " in command})
        if shutil.which("promtool"):
            for path in files:
                with open(path, encoding="utf-8") as text:
                    done = subprocess.run(["promtool", "check", "metrics"], stdin=text, capture_output=True, text=True, check=False)
                self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""), path.name)

    def test_a_name_with_quotes_and_line_ends_is_escaped(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / 'a "b"\\\n.c.prom'
            self.assertEqual(run([tool("xml2json"), "--metrics", str(path)], "").exit, 0)
            families = parse(path.read_text())
            self.assertEqual(families["inflight_records_total"][2]["name"], 'a \\"b\\"\\\\\\n.c')

    def test_the_parser_refuses_what_is_wrong(self):
        good = '# HELP a_total b\n# TYPE a_total counter\na_total{tool="x"} 1\n'
        self.assertEqual(parse(good), {"a_total": ["counter", "b", {"tool": "x"}, 1.0]})
        for bad in good[:-1], good + good, good.replace(" 1", " one"), good.replace('"x"', "x"), good.replace("a_total{", "b_total{"), \
                good.replace("counter", "count"), good.replace("a_total", "a"), good + 'a_total{tool="y"} 2\n', good.replace('"x"', '"x"y"'):
            with self.subTest(bad):
                self.assertRaises(AssertionError, parse, bad)


class ProgressLine(unittest.TestCase):
    def test_it_says_how_long_the_rest_of_a_file_will_take_and_of_a_pipe_nothing(self):
        with tempfile.TemporaryFile() as file:
            file.write(EVENTS.splitlines(True)[1].encode() * 200_000)
            for known in True, False:
                file.seek(0)
                # Nobody reads the output: it stands still after the first of it.
                command = shlex.quote(tool("xml2json")) + " --progress"
                process = subprocess.Popen(["sh", "-c", f"exec {command}" if known else f"cat | {command}"], stdin=file, stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, start_new_session=True)
                line = next(line for line in map(bytes.decode, process.stderr) if ": 0 records" not in line)
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                self.assertRegex(line, r"^xml2json: \d+ records, \d+/s, .*, rejected \d+" + (r", (\d+h)?(\d+m)?(\d+s)? to go\n$" if known else r"\n$"))


if __name__ == "__main__":
    unittest.main()

"""What the fault tests of job 1 share: the fleet, the exchange, and the killing of whatever the lines have started.

Each seeded round waits for a random time, kills a random process, or two, or three, among all that the lines have
started (a source, consume, the shell, any stage, publish) and the servers that they write to, and starts again what is
gone. In the end the stores are compared with the journal, and the journal with what was published and with what the
simulated fleet says that it answered.

FAULT_ROUNDS=300 for the long form; SEED=N to begin with the seed of a run before.
"""
import base64
import bisect
import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, end_with_the_test, nanoseconds, run, tool, wait_for  # noqa: E402

from processes import adopt_orphans, alive, descendants, environment, kill, of_lines, reap_orphans, seeds  # noqa: E402

PATIENCE = 120  # s; for hangs, not for speed
CONVERT = "xml2json --options bsu.opts"


class Down(Exception):
    """A store cannot be asked now."""


# ---- what stands where

class Journal:
    """The segments as plain NDJSON. grow() reads no further than it is told: what lies behind may be taken back."""

    def __init__(self, folder):
        self.folder, self.lines, self._segment, self._offset = folder, [], None, 0

    def segments(self):
        return sorted(self.folder.glob("*.ndjson"))

    def grow(self, end):
        while len(self.lines) < end:
            starts = {int(path.stem): path for path in self.segments()}
            if len(self.lines) in starts:
                self._segment, self._offset = starts[len(self.lines)], 0
            with open(self._segment, "rb") as file:
                file.seek(self._offset)
                block = file.read(4 << 20)
            later = [start for start in starts if start > len(self.lines)]
            stop = min([end, *later])
            lines = block.split(b"\n")[:-1][:stop - len(self.lines)]
            if not lines:
                raise AssertionError(f"position {len(self.lines)} of {end} is settled, but not in the journal")
            self.lines += lines
            self._offset += sum(len(line) + 1 for line in lines)


def payload(event):
    if "data_base64" in event:
        return base64.b64decode(event["data_base64"])
    data = event.get("data")
    # It is text already, whatever encoding it says that it had.
    return data.encode() if isinstance(data, str) else b""


def flatten(element, path, out):
    """The columns of sql-write: the scalars of what xmltodict makes, named by their paths without the root."""
    groups = collections.defaultdict(list)
    for name, value in element.attrib.items():
        out["_".join([*path, name])] = value
    for child in element:
        groups[child.tag].append(child)
    for name, children in groups.items():
        for number, child in enumerate(children):
            flatten(child, [*path, name] if len(children) == 1 else [*path, name, str(number)], out)
    text = (element.text or "").strip()
    if text and path:
        out["_".join(path)] = text
    return out


class Expected:
    """What an event must become, told by python's own XML parser; `columns` is None where it must be dead-lettered."""

    def __init__(self, line):
        event = json.loads(line)
        self.id, self.subject, self.columns, self.time = event["id"], event["subject"], None, None
        try:
            root = ET.fromstring(payload(event))
            self.time = nanoseconds(root.attrib["time"])
        except (ET.ParseError, KeyError, ValueError):
            return
        self.columns = flatten(root, [], {})
        for name in ("id", "time"):
            if name in self.columns:
                self.columns[f"bsu_{name}"] = self.columns.pop(name)
        self.columns |= {name: event[name] for name in ("id", "source", "subject", "recordedtime")}


def newest(events):
    found = {}
    for e in events:
        if e.subject not in found or e.time >= found[e.subject].time:
            found[e.subject] = e
    return found


def same(stored, text):
    if str(stored) == text:
        return True
    try:
        return float(stored) == float(text)
    except ValueError:
        return False


def letters(folder, subscriber):
    """position: lines of the dead letters of a subscriber; a last line without newline is not there yet."""
    found = collections.defaultdict(list)
    path = folder / "fleet/subscribers" / subscriber / "dead.ndjson"
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:
            found[json.loads(line)["position"]].append(line)
    return found


def positions_of(text):
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def summary(block):
    """What stands in the last, skippable frame of an object: archive(5)."""
    if block[-4:] != b"IFLA":
        raise AssertionError("no summary at its end")
    size = int.from_bytes(block[-8:-4], "little")
    return json.loads(block[-16 - size:-16])


# ---- the run

class Line:
    def __init__(self, job, name, words, stdin=None):
        self.job, self.name, self.words, self.stdin = job, name, words, stdin
        self.starts, self.process = 0, None

    def start(self, *more):
        words = list(self.words)
        words[0] = tool(words[0])
        if more:
            at = words.index("--")
            words[at:at] = more
        stdin = open(self.stdin, "rb") if self.stdin else subprocess.DEVNULL
        env = {**os.environ, **self.job.environment(), "PATH": f"{BIN}:{os.environ['PATH']}", "FAULT_LINE": self.name,
               "FAULT_JOB": str(self.job.dir)}
        env.pop("RECEIPTS_FD", None)
        with open(self.job.dir / f"{self.name}.err", "ab") as err:
            err.write(f"-- start {self.starts}: {' '.join(more)}\n".encode())
            err.flush()
            self.process = subprocess.Popen(words, cwd=self.job.dir, stdin=stdin, stdout=err, stderr=err, env=env,
                                            start_new_session=True, preexec_fn=end_with_the_test)
        if self.stdin:
            stdin.close()
        self.starts += 1

    def ended(self):
        return self.process.poll() is not None


class Job:
    """One seed. A kind of job has LINES (name: command; SEED is replaced): `fetch`, `backfill`, and other subscribers of the
    exchange; prepare(), what else the lines need; and it knows the stores: not_stored(), objects(), compare_stores()."""
    LINES = {}

    def __init__(self, seed, rounds):
        self.seed, self.rounds, self.random = seed, rounds, random.Random(seed)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="inflight-job1-"))
        self.journal = Journal(self.dir / "fleet")
        self.lines, self.sim, self.part = {}, None, None
        self.killed, self.problems, self.samples, self.checked = collections.Counter(), [], 0, collections.Counter()
        self.published, self.parts = [], 0
        self.generations = []  # of the fetch line: how many answers the fleet had given when each began
        self.stop_sampling = threading.Event()
        self.subscribers = [name for name in self.LINES if name != "fetch"]
        self.verified = {name: set() for name in self.subscribers}
        self.servers, self.down = {}, {}  # process: its server; server: when it is started again
        self.archived, self.seen = set(), set()
        self.expected = []

    # ---- what a kind of job has

    def prepare(self):
        pass

    def environment(self):
        """More of it for the lines."""
        return {}

    def not_stored(self, name, positions):
        """Those of these positions that the subscriber's store does not hold; Down where it cannot be asked now."""
        raise NotImplementedError

    def objects(self, seen):
        """Name and bytes of the archive's objects, without those that were seen."""
        raise NotImplementedError

    def compare_stores(self, test, good):
        """With what these events must have become."""
        raise NotImplementedError

    def more(self):
        """What the summary says of the stores."""
        raise NotImplementedError

    # ---- set-up

    def set_up(self):
        (self.dir / "bsu.opts").write_text("time = /bsu/@time\ninfer = true\n")
        with open(self.dir / "sim.out", "wb") as out:
            self.sim = subprocess.Popen(
                [tool("bsu-sim"), "--port", "0", "--units", "40", "--seed", str(self.seed), "--firmware", "attributes",
                 "single", "latin1", "--devices", "fleet.txt", "--log", "sim.log"],
                cwd=self.dir, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=end_with_the_test)
        wait_for((self.dir / "fleet.txt").exists, PATIENCE, "bsu-sim to be ready")
        self.url = (self.dir / "fleet.txt").read_text().split()[1].partition("/bsus/")[0]
        # Small segments: their ends are to be met as well.
        made = run([tool("publish"), "fleet/", "--set", "segment=256KiB"], cwd=self.dir)
        assert made.exit == 0, made.stderr
        self.prepare()
        for name, words in self.LINES.items():
            self.lines[name] = Line(self, name, [word.replace("SEED", str(self.seed)) for word in words])
            self.start(name)
        self.sampler = threading.Thread(target=self.sample_all)
        self.sampler.start()

    def start(self, name):
        if name == "fetch":
            # What an ended bsu-fetch had asked for has been answered when its connections are closed.
            wait_for(lambda: json.loads(self.ask("/stats"))["connections"]["open"] <= 1, PATIENCE,
                     "the connections of the bsu-fetch before to be closed")
            self.generations.append(len(self.answers()))
        self.lines[name].start()

    def ask(self, path, post=False):
        request = urllib.request.Request(self.url + path, data=b"" if post else None, headers={"Connection": "close"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read()

    def control(self, **arguments):
        self.ask("/control?" + urllib.parse.urlencode(arguments), post=True)

    def answers(self):
        """What the fleet has answered and bsu-fetch makes an event of, in order."""
        if not (self.dir / "sim.log").exists():
            return []
        lines = (self.dir / "sim.log").read_bytes().split(b"\n")[:-1]
        return [a for a in map(json.loads, lines) if a["outcome"] in ("ok", "malformed")]

    # ---- the publisher of what is known before

    def make_part(self):
        """The next file to publish: mostly small ones, one in a hundred events malformed."""
        path = self.dir / f"part-{self.parts}.ndjson"
        lines = []
        count = self.random.choice([1, 7, 60, 300, 900])
        note = self.note(count)
        for _ in range(count):
            number = len(self.published) + len(lines)
            subject = f"gen-{self.random.randrange(12):02}"
            at = 1530403200000 + number  # ms
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000)) + f".{at % 1000:03}Z"
            end = "</bsu" if self.random.random() < 0.01 else "</bsu>"
            data = (f'<bsu id="{subject}" time="{stamp}"><status>{self.random.choice(["idle", "fault"])}</status>'
                    f'<power unit="kW">{self.random.uniform(-50, 50):.2f}</power>'
                    f'<note>{note()}ü&amp;"\\</note>{end}')
            lines.append(json.dumps({"specversion": "1.0", "id": f"{self.seed}-{number}", "source": "generator",
                                     "type": "bsu.reading", "subject": subject, "recordedtime": stamp,
                                     "datacontenttype": "application/xml", "data": data},
                                    ensure_ascii=self.random.random() < 0.5).encode())
        path.write_bytes(b"\n".join(lines) + b"\n")
        self.published += lines
        self.parts += 1
        return path

    def note(self, count):
        """What makes the texts of a file of so many events."""
        return lambda: "x" * self.random.randrange(400)

    def publish(self):
        """The same line again until it exits 0, then the next part."""
        if self.part is not None and not self.part.ended():
            return
        code = self.part.process.returncode if self.part else 0
        if code not in (0, -signal.SIGKILL):
            raise AssertionError(f"publish exited {code}")
        if code == 0:
            path = self.make_part()
            self.part = self.lines["publish"] = Line(self, "publish", ["publish", "fleet/"], path)
        self.part.start()

    # ---- rounds

    def tick(self):
        if self.problems:
            raise AssertionError(self.problems[0])
        for name in self.LINES:
            line = self.lines[name]
            if not line.ended():
                continue
            if line.process.returncode not in (-signal.SIGKILL,):
                raise AssertionError(f"{name} exited {line.process.returncode} by itself")
            self.start(name)
        self.publish()
        self.revive()
        self.reap()

    def reap(self):
        reap_orphans({line.process.pid for line in self.lines.values()} | {self.sim.pid}
                     | {process.pid for server in self.servers.values() for process in server.processes.values()})

    def revive(self):
        """The servers whose time has come. Nobody waits until they are ready."""
        for server, when in list(self.down.items()):
            if time.monotonic() >= when:
                del self.down[server]
                server.launch()
        for name, server in self.servers.items():
            process = server.processes.get(name)
            if process is not None and process.poll() is not None:
                raise AssertionError(f"{name} exited {process.returncode} by itself: {server.log(name)}")

    def victim(self):
        """A process of a line, or a server's by its name; each line and server as often as another, however many processes
        it has."""
        chances = of_lines()
        for name, server in self.servers.items():
            if name in server.processes:
                chances[type(server).__name__].append(name)
        return self.random.choice(chances[self.random.choice(sorted(chances))]) if chances else None

    def round(self):
        delay = self.random.choice([self.random.uniform(0.001, 0.05), self.random.uniform(0.05, 0.3),
                                    self.random.uniform(0.3, 1.0)])
        if self.random.random() < 0.3:
            self.control(share="20%", fault=self.random.choice(["malformed", "none"]))
        end = time.monotonic() + delay
        while time.monotonic() < end:
            self.tick()
            time.sleep(min(0.01, max(0, end - time.monotonic())))
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            self.kill_one()
        self.tick()

    def kill_one(self):
        wait_for(lambda: (chosen := self.victim()) and self.kill(chosen), PATIENCE, "a process to kill")

    def kill(self, chosen):
        if chosen in self.servers:
            server = self.servers[chosen]
            server.kill(names=[chosen])
            self.killed[chosen] += 1
            self.down.setdefault(server, time.monotonic() + self.random.choice([0, self.random.uniform(0, 2)]))
            return True
        if not kill(chosen):
            return False
        self.killed[chosen.name] += 1
        for line in self.lines.values():
            if line.process.pid == chosen.pid:
                line.process.wait(PATIENCE)
        return True

    # ---- while it runs

    def sample_all(self):
        while not self.stop_sampling.is_set():
            try:
                self.look_for_overlaps()
                for name in self.subscribers:
                    with contextlib.suppress(Down):
                        self.sample(name)
            except Exception as error:  # reported by the main thread
                self.problems.append(f"{type(error).__name__}: {error}")
                return
            self.stop_sampling.wait(0.1)

    def look_for_overlaps(self):
        runs = collections.defaultdict(dict)
        for p in descendants():
            entries = environment(p.pid)
            token = entries.get("RECEIPTS_FD", "").rpartition(":")[2]
            if not token or entries.get("FAULT_LINE") not in self.subscribers or not alive(p):
                continue
            others = runs[entries["FAULT_LINE"]]
            for other, seen in others.items():
                # It was seen before this one, and is alive after it: so both were at once.
                if other != token and alive(seen):
                    raise AssertionError(f"two runs of {entries['FAULT_LINE']} at once: {seen} and {p}")
            others[token] = p

    def sample(self, name):
        """Whatever the state says is settled must be in the store, or among the dead letters."""
        path = self.dir / "fleet/subscribers" / name / "state.json"
        if not path.exists():
            return
        state = json.loads(path.read_bytes())
        settled = set(range(state["cursor"])) | set(positions_of(state["settled"]))
        new = settled - self.verified[name]
        if not new:
            return
        self.samples += 1
        self.journal.grow(max(new) + 1)
        while len(self.expected) < len(self.journal.lines):
            self.expected.append(Expected(self.journal.lines[len(self.expected)]))
        dead = letters(self.dir, name)
        new -= dead.keys()
        missing = self.not_stored(name, new)
        if missing:
            where = sorted(missing)
            raise AssertionError(f"{name}: settled but not stored: {where[:10]} of {len(where)}, cursor "
                                 f"{state['cursor']}, settled {state['settled'][:200]}: {self.journal.lines[where[0]][:300]}")
        self.verified[name] = settled
        self.checked[name] += len(new)

    def older(self, positions, times):
        """Those of these positions that are newer than what a store has of their subject."""
        return {p for p in positions if times.get(self.expected[p].subject, 0) < (self.expected[p].time or 1 << 80)}

    def not_archived(self, positions):
        for name, block in self.objects(self.seen):
            self.archived.update(positions_of(summary(block)["positions"]))
            self.seen.add(name)
        return positions - self.archived

    # ---- the end

    def drain(self):
        """The sources end, and all subscribers settle what is there."""
        self.control(unit="all", fault="black-hole")  # from here on nothing is answered
        self.until(lambda: self.part.ended() and self.part.process.returncode == 0 and len(self.published) >= 4000,
                   "publish to exit 0", self.publish)
        answered = self.answers()[self.generations[-1]:]
        self.until(lambda: not self.unpublished(answered), "the journal to hold what was fetched",
                   lambda: time.sleep(0.1))
        self.end("fetch", 143)
        for name in self.subscribers:
            self.end(name, 143)
        self.until(lambda: not self.running(), "the processes of all lines to end")
        self.until(lambda: not self.down, "all servers to be started")
        for server in set(self.servers.values()):
            server.start()
        for name in self.subscribers:
            self.lines[name].start("--until-empty")
        for _ in range(3):
            time.sleep(self.random.uniform(0, 0.05))
            if chosen := self.victim():
                self.kill(chosen)
        for name in self.subscribers:
            line = self.lines[name]
            self.until(lambda: line.ended() and line.process.returncode != -signal.SIGKILL,
                       f"{name} --until-empty to end", lambda: line.ended() and line.start("--until-empty"))
            assert line.process.returncode == 0, f"{name} --until-empty exited {line.process.returncode}"
        self.stop_sampling.set()
        self.sampler.join()
        assert not self.problems, self.problems[0]
        self.until(lambda: not self.running(), "the processes of all lines to end")
        self.until(lambda: not self.down, "all servers to be started")
        for server in set(self.servers.values()):
            server.start()

    def running(self):
        self.reap()
        return of_lines()

    def until(self, condition, what, again=None):
        def step():
            assert not self.problems, self.problems[0]
            self.revive()
            if condition():
                return True
            if again:
                again()
            return False
        wait_for(step, PATIENCE, what)

    def end(self, name, code):
        line = self.lines[name]
        line.process.terminate()
        self.until(line.ended, f"{name} to end on SIGTERM")
        assert line.process.returncode == code, f"{name} exited {line.process.returncode} on SIGTERM, not {code}"

    def unpublished(self, answered):
        text = b"".join(path.read_bytes() for path in (self.dir / "fleet").glob("*.ndjson"))
        events = [json.loads(line) for line in text.split(b"\n")[:-1] if b'"bsu-' in line]
        return self.match(answered, events)[0]

    @staticmethod
    def match(answered, events):
        """Answers without an event, and events without an answer or with the one of another. An answer is noted before
        it leaves and the same unit is not asked again until it is there: so an event's is the last one before it."""
        by_unit = collections.defaultdict(list)
        for answer in answered:
            by_unit[answer["unit"]].append((nanoseconds(answer["answered"]), answer))
        missing = {answer["sequence"]: answer for answer in answered}
        strange = []
        for event in events:
            noted = by_unit[event["subject"]]
            at = bisect.bisect_right(noted, nanoseconds(event["recordedtime"]), key=lambda n: n[0]) - 1
            answer = missing.pop(noted[at][1]["sequence"], None) if at >= 0 else None
            if answer is None:
                strange.append(event)
            elif answer["outcome"] == "ok":
                at = ET.fromstring(payload(event)).attrib["time"]
                if nanoseconds(at) != nanoseconds(answer["time"]):
                    strange.append(event)
        return list(missing.values()), strange

    # ---- the comparison

    def compare(self, test):
        lines = self.compare_journal(test)
        events = [Expected(line) for line in lines]
        bad = {p for p, e in enumerate(events) if e.columns is None}
        self.compare_archive(test, lines)
        for name in self.subscribers:
            self.compare_letters(test, name, lines, set() if name == "backfill" else bad)
        test.assertEqual((self.dir / "bsu-fetch.dead.ndjson").exists(), False, "publish has rejected events")
        good = [e for p, e in enumerate(events) if p not in bad]
        test.assertEqual(len({(e.subject, e.time) for e in good}), len(good), "the test publishes two readings of the same time")
        self.compare_stores(test, good)
        return len(lines), len(bad), len(good)

    def compare_journal(self, test):
        lines = []
        for path in self.journal.segments():
            test.assertEqual(int(path.stem), len(lines), f"{path.name} does not begin where the one before it ends")
            text = path.read_bytes()
            test.assertTrue(not text or text.endswith(b"\n"), f"{path.name} ends in half a line")
            lines += text.split(b"\n")[:-1]
        for position, line in enumerate(lines):
            try:
                assert json.loads(line)["specversion"] == "1.0"
            except Exception as error:
                raise AssertionError(f"the journal's line {position} is no event ({error}): {line[:300]}") from error
        doubled = [line for line, count in collections.Counter(lines).items() if count > 1]
        test.assertEqual(doubled, [], "lines that stand twice in the journal")
        read = run([tool("consume"), "fleet/", "--as", "check", "--until-empty"], text=False, cwd=self.dir)
        test.assertEqual((read.exit, read.stderr), (0, b""))
        test.assertEqual(len(read.stdout.split(b"\n")) - 1, len(lines))
        test.assertTrue(read.stdout.split(b"\n")[:-1] == lines, "consume reads other lines than stand in the segments")

        made = [line for line in lines if b'"source": "generator"' in line]
        test.assertEqual(len(made), len(self.published))
        test.assertEqual(set(self.published) - set(made), set(), "acknowledged by publish, but not in the journal")
        test.assertEqual(set(made) - set(self.published), set(), "in the journal, but never published")

        answered = self.answers()
        fetched = [json.loads(line) for line in lines if b'"source": "generator"' not in line]
        missing, strange = self.match(answered, fetched)
        test.assertEqual(strange, [], "events of no answer of the fleet, or of one that another event has already")
        # A killed bsu-fetch loses what it had not handed on: of each unit, the last answers before its end.
        lost = {answer["sequence"] for answer in missing}
        for begin, end in zip(self.generations, [*self.generations[1:], len(answered)]):
            gone = {}
            for answer in answered[begin:end]:
                if answer["sequence"] in lost:
                    gone[answer["unit"]] = answer
                else:
                    test.assertNotIn(answer["unit"], gone, f"lost in the middle, before {answer}")
        # The last one was not killed; it is what `gone` is of.
        test.assertEqual(gone, {}, "lost though nobody was killed")
        self.fetched, self.lost_with_fetch = len(fetched), len(lost)
        return lines

    def compare_archive(self, test, lines):
        stored = collections.Counter()
        for name, block in self.objects(set()):
            out = run(["zstd", "-dcq"], stdin=block, text=False)
            test.assertEqual((out.exit, out.stderr), (0, b""), name)
            test.assertTrue(out.stdout.endswith(b"\n"), name)
            stored.update(out.stdout.split(b"\n")[:-1])
        test.assertEqual([(line[:200], n) for line, n in stored.items() if n > 1], [], "stand twice in the archive")
        test.assertEqual([line[:200] for line in set(lines) - set(stored)], [], "not in the archive")
        test.assertEqual([line[:200] for line in set(stored) - set(lines)], [], "in the archive, but not in the journal")

    def compare_letters(self, test, name, lines, bad):
        dead = letters(self.dir, name)
        for position, found in dead.items():
            test.assertEqual(len(found), 1, f"{name}: more than one dead letter of {position}: {found}")
            letter = json.loads(found[0])
            test.assertIn(position, bad, f"{name}: a good event is dead-lettered: {letter['by']}: {letter['reason']}")
            test.assertEqual(letter["by"], "xml2json")
            test.assertTrue(found[0].endswith(b',"event":' + lines[position] + b"}"), found[0])
        test.assertEqual(bad - dead.keys(), set(), f"{name}: neither stored nor dead-lettered")

    # ---- afterwards

    def clean_up(self, failed):
        self.stop_sampling.set()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            rest = [p for p in descendants() if p.state not in "ZX"]
            if not rest:
                break
            for p in rest:
                kill(p)
            time.sleep(0.02)
        logs = {name: server.log(name) for name, server in self.servers.items()} if failed else {}
        for server in set(self.servers.values()):
            server.__exit__()
        for line in [*self.lines.values(), self]:
            child = line.sim if line is self else line.process
            if child is not None:
                child.wait(10)
        reap_orphans(set())
        if failed:
            print(f"\nSEED={self.seed}; what is left of it: {self.dir}", file=sys.stderr)
            listed = run([tool("consume"), "fleet/", "--list"], cwd=self.dir)
            print(listed.stdout + listed.stderr, file=sys.stderr)
            for path in sorted(self.dir.glob("*.err")):
                tail = path.read_bytes()[-2500:].decode(errors="replace")
                print(f"---- {path.name}\n{tail}", file=sys.stderr)
            for name, text in logs.items():
                print(f"---- {name}\n{text}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)


class Seeds:
    """The rounds, in seeds; for a TestCase with a kind of Job."""
    job, rounds, rounds_per_seed = None, 0, 0

    def one_seed(self, seed, rounds):
        job = self.job(seed, rounds)
        failed = True
        try:
            job.set_up()
            for _ in range(rounds):
                job.round()
            job.drain()
            events, dead, stored = job.compare(self)
            self.assertGreaterEqual(sum(job.killed.values()), rounds)
            for figure in (job.fetched, dead, stored, *(job.checked[name] for name in job.subscribers)):
                self.assertGreater(figure, 0, "nothing was tested")
            failed = False
        finally:
            job.clean_up(failed)
        kills = ", ".join(f"{name} {count}" for name, count in sorted(job.killed.items()))
        print(f"summary: SEED={seed}: {rounds} rounds, killed {kills}; {events} events, {job.fetched} of them fetched "
              f"({job.lost_with_fetch} in a killed bsu-fetch), stored {stored}, {job.more()}, "
              f"dead-lettered {dead}, lost 0, doubled 0; "
              f"{sum(job.checked.values())} settled positions checked in {job.samples} samples", flush=True)

    def all_seeds(self):
        adopt_orphans()
        for seed, rounds in seeds(self.rounds, self.rounds_per_seed):
            print(f"SEED={seed}", flush=True)
            self.one_seed(seed, rounds)

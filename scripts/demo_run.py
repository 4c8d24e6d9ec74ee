"""What the demos share: a folder with the processes that work in it, a panel of what these count, and an end that leaves
nothing."""
import collections
import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
colour = terminal and not os.environ.get("NO_COLOR")
wide = re.search("utf-?8", os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or "", re.I)


def paint(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def say(*texts):
    print(*texts, sep="\n", flush=True)


def title(text):
    say("", paint(1, text))


def columns():
    return os.get_terminal_size(1).columns if terminal else 120


class Stopped(BaseException):
    """A signal asked us to end."""


class Failed(Exception):
    """Something that the user should know; the demo ends."""


class Workspace:
    """The folder, and the processes that work in it."""

    def __init__(self, folder, tools):
        self.folder = folder
        self.mark = f"INFLIGHT_DEMO={folder}".encode()  # in the environment of all that is ours, orphans included
        # no_proxy: all that it talks to is on this machine.
        os.environ.update(PATH=os.path.abspath(tools) + ":" + os.environ["PATH"], INFLIGHT_DEMO=folder, no_proxy="127.0.0.1")
        self.environment = dict(os.environ)
        self.running = {}

    def start(self, name, line, output=subprocess.DEVNULL):
        line = re.sub(r"@([\w.]+)", r"--metrics \1.prom", line)
        with open(self.path(name + ".log"), "ab") as log:
            # A session of its own: the terminal's signals are for the demo, which then ends what it has started.
            self.running[name] = subprocess.Popen(
                ["bash", "-c", "exec " + line], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=log, start_new_session=True, preexec_fn=end_with_parent)
        return self.running[name]

    def path(self, name):
        return os.path.join(self.folder, name)

    def end(self, name, patient=signal.SIGTERM):
        process = self.running.pop(name)
        process.send_signal(patient)
        return process.wait()

    def expect(self, name, status, good=0):
        if status != good:
            with open(self.path(name + ".log"), errors="replace") as log:
                raise Failed(f"{name} ended with {status}:\n" + "".join(log.readlines()[-5:]))

    def watch(self):
        for name, process in self.running.items():
            if process.poll() is not None:
                self.expect(name, process.returncode or "0, too early")

    def members(self):
        """All processes that this demo has started, directly or not: (pid, name)."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has gone, or is another user's
                with open(f"/proc/{pid}/environ", "rb") as environ:
                    if self.mark in environ.read().split(b"\0"):
                        yield int(pid), read(f"/proc/{pid}/comm").strip()

    def below(self, name, program):
        """The pid of a program in the pipeline of a line."""
        family = [self.running[name].pid]
        for pid in family:
            family += map(int, read(f"/proc/{pid}/task/{pid}/children").split())
        return next((pid for pid, found in self.members() if pid in family and found == program), None)

    def clean_up(self, keep):
        """What is kept by none needs no drain: all of it is killed, and then the folder goes. A child may be no member: one
        that a signal to us has met at its start, and Redis and Postgres, whose titles overwrite their environments. Orphans
        become children of ours."""
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        while left := {*children(), *(pid for pid, _ in self.members())}:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: where the demo itself is killed


def children():
    """Our own that have not ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return map(int, read(f"/proc/self/task/{os.getpid()}/children").split())


def read(path):
    with contextlib.suppress(OSError):
        with open(path, errors="replace") as file:
            return file.read()
    return ""


class Panel:
    """One live line per stage, from what the stages say of themselves by --metrics."""

    def __init__(self, workspace, stages):
        """`stages`: the @NAME of each in the lines, and what it is called; with blanks before it where it is in a pipeline."""
        self.workspace, self.stages = workspace, stages
        self.before = collections.Counter()  # (stage, counter) -> what runs that have ended had counted
        self.last = collections.Counter()
        self.drawn, self.at = 0, time.monotonic()

    def total(self, stage, name, value):
        if value < self.last[stage, name]:  # started again: counts from 0
            self.before[stage, name] += self.last[stage, name]
        self.last[stage, name] = value
        return self.before[stage, name] + value

    def row(self, stage, label, seconds):
        values = {m[1]: float(m[2]) for m in
                  re.finditer(r"^inflight_(\w+)\{[^}]*\} (\S+)$", read(self.workspace.path(stage + ".prom")), re.M)}
        before = self.before[stage, "records"] + self.last[stage, "records"]
        records = self.total(stage, "records", values.get("records_total", 0))
        rejected = self.total(stage, "rejected", values.get("rejected_total", 0))
        row = f"  {label:<25}{records:>10,.0f}{(records - before) / seconds:>9,.0f}/s"
        if label.startswith(" "):
            return f"{row}{'':>9}{rejected:>10,.0f}"
        return f"{row}{values.get('lag_seconds', 0):>7.1f} s{rejected:>10,.0f}{values.get('restarts_total', 0):>10.0f}"

    def draw(self, *notes, show=True):
        """Without `show` it only counts: what a stage that ends had counted is seen by looking often."""
        seconds, self.at = max(0.1, time.monotonic() - self.at), time.monotonic()
        rows = [self.row(stage, label, seconds) for stage, label in self.stages.items()]
        if not show:
            return
        notes = [note for note in notes if note]
        size = os.get_terminal_size(1) if terminal else os.terminal_size((120, 50))
        if size.lines < len(rows) + len(notes) + 2:
            rows = [row for row, label in zip(rows, self.stages.values()) if not label.startswith(" ")]
        rows = [f"  {'stage':<25}{'records':>10}{'rate':>11}{'lag':>9}{'rejected':>10}{'restarts':>10}", *rows, *notes]
        texts = [row[:size.columns - 1] for row in rows]
        texts[0] = paint(2, texts[0])
        if not terminal:
            say("", *texts)
            return
        above = f"\x1b[{self.drawn}A" if self.drawn else ""
        print(above + "".join(f"\x1b[K{text}\n" for text in texts) + "\x1b[J", end="", flush=True)
        self.drawn = len(texts)

    def leave(self):
        """What is drawn stays, the next is drawn below."""
        self.drawn = 0


class Story:
    """A demo in chapters, and below each of them the panel."""
    patience = 120  # seconds for what takes a few; for hangs

    def __init__(self, work, stages):
        self.work, self.panel, self.drawn, self.happens = work, Panel(work, stages), -10.0, ""

    def notes(self):
        """Lines below the panel, beside what happens."""
        return []

    def chapter(self, text):
        self.panel.leave()
        self.happens = ""
        title(text)

    def note(self, text):
        """In place of the one before; where it is no terminal, when it happens."""
        self.happens = text
        if not terminal:
            say(f"  {text}")

    def draw(self, show=False):
        """The panel; where it is no terminal, every ten seconds, or when it is to be shown."""
        show = show or terminal or time.monotonic() - self.drawn >= 10
        self.drawn = time.monotonic() if show else self.drawn
        self.panel.draw(*(f"  {note}" for note in self.notes()), f"  {self.happens}" if terminal and self.happens else "", show=show)

    def until(self, condition, what):
        """Looks and draws until condition() is true."""
        end = time.monotonic() + self.patience
        while not condition():
            if time.monotonic() > end:
                raise Failed(f"waited {self.patience} s for {what}")
            self.work.watch()
            self.draw()
            time.sleep(1)


def shown(line):
    return re.sub(r" @[\w.]+", "", line)


def prompt(*lines):
    for line in lines:
        say(paint(2, "  " + shown(line).replace("\n", "\n  ")))


def shell(work, line, good=(0,)):
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=work.folder, env=work.environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode not in good:
        raise Failed(f"{line}: exit status {done.returncode}:\n{done.stderr}")
    return done


def count(label, value, want=None):
    good = want is None or value == want
    figure = f"{value:>10,}"
    say(f"  {label:<48}" + (figure if want is None else paint(32 if good else 31, figure)))
    return good


def stop(number, _):
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def perform(demo, options, space, command, errors=()):
    """demo(workspace) returns the exit status. Its folder, in $TMPDIR, goes in the end with all processes, however it ends,
    unless options.keep says that it stays. `space` is what must be free, `command` how the user has called it."""
    if not wide:
        sys.stdout.reconfigure(encoding="ascii", errors="replace")
    workspace, code = None, 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        workspace = Workspace(tempfile.mkdtemp(prefix="inflight-demo-"), options.bin)
        free = shutil.disk_usage(workspace.folder).free
        if free < space:
            raise Failed(f"{os.path.dirname(workspace.folder)}: {free >> 20} MiB are free, {space >> 20} MiB are needed; "
                         f"another folder: TMPDIR=FOLDER {command}")
        code = demo(workspace)
    except Stopped as signalled:
        code = 128 + signalled.args[0]
    except (Failed, OSError, subprocess.CalledProcessError, *errors) as error:
        with contextlib.suppress(OSError):
            print(f"demo: {error}", file=sys.stderr, flush=True)
    except Exception:  # a defect; a thread of ours must not keep us from ending
        traceback.print_exc()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if workspace:
            workspace.clean_up(options.keep)
    # Where standard output is gone, Python would complain of what it could not flush.
    os._exit(code)


def keep(workspace, commands):
    """Says where it is; where servers run, these commands look into them, until a signal."""
    say("", f"kept: {shlex.quote(workspace.folder)}")
    if commands:
        say("", "The servers run until Ctrl-C:", *(f"  {command}" for command in commands))
        with contextlib.suppress(Stopped):
            signal.pause()


def removed(script, options, *more):
    say("", paint(2, f"All is removed now; to keep it: {' '.join([script, shlex.quote(options.bin), *more, '--keep'])}"))

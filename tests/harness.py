"""What every test in python needs: run a command, and have a server while a test lasts.

    from harness import Server, run, tool

    with Server([tool("bsu-sim"), "--port", "0"]) as sim:
        result = run([tool("bsu-fetch"), "--once", "--url", sim.url + "/bsus/{id}"], stdin="")
        assert result.exit == 0, result.stderr

In CMake: add_test(NAME … COMMAND python3 FILE) with INFLIGHT_BIN (folder of the tools) and PYTHONPATH
(this folder) in its environment; without INFLIGHT_BIN the release build is taken.
"""
import collections
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("INFLIGHT_BIN", ROOT / "build" / "release" / "bin"))

Result = collections.namedtuple("Result", "exit stdout stderr")

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def tool(name):
    """The path of a built program."""
    path = BIN / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is not built")
    return str(path)


def run(command, stdin="", timeout=60, text=True, **options):
    """Run to the end; the exit code is negative for a signal. Bytes that are not UTF-8 survive as surrogates;
    text=False gives bytes. Further options (cwd, env, pass_fds) go to subprocess.run."""
    if isinstance(stdin, str):
        stdin = stdin.encode("utf-8", "surrogateescape")
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False, **options)
    if not text:
        return Result(done.returncode, done.stdout, done.stderr)
    return Result(done.returncode, *(b.decode("utf-8", "surrogateescape") for b in (done.stdout, done.stderr)))


def free_port():
    """A loopback port that nobody listens on now, for servers that cannot choose one themselves."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(condition, timeout=30, what="the condition"):
    """Poll until condition() is true and return its value. The time limit is for hangs, not for speed."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise TimeoutError(f"waited {timeout} s for {what}")


class Server:
    """A process with a folder of its own (`dir`, removed in the end), ready when the block begins and gone when it
    ends.

    `{dir}` and `{port}` (a free port) in the command are replaced. With `ready`, a regular expression, it is ready when
    that stands in its standard output, and the first group is its `url`; with ready=None, when its port accepts a
    connection.
    """

    def __init__(self, command, ready=r"listening on (\S+)", timeout=30, env=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="inflight-test-"))
        self.port = free_port() if any("{port}" in str(c) for c in command) else None
        self.command = [str(c).replace("{dir}", str(self.dir)).replace("{port}", str(self.port)) for c in command]
        self.url = f"http://127.0.0.1:{self.port}" if self.port else None
        self.exit = None
        self._ready, self._timeout, self._env = ready, timeout, env
        self.process = None

    def __enter__(self):
        try:
            with open(self.dir / "stdout.txt", "wb") as out, open(self.dir / "stderr.txt", "wb") as err:
                self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                                env=self._env, start_new_session=True,
                                                preexec_fn=self.end_with_the_test)
            wait_for(self._is_ready, self._timeout, f"{self.command[0]} to be ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def stop(self, signal_number=signal.SIGTERM):
        """Stop it and return its exit code; what does not go within 10 s is killed, with what it started."""
        if self.process is None or self.exit is not None:
            return self.exit
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.exit = self.process.wait()
        return self.exit

    def stdout(self):
        return (self.dir / "stdout.txt").read_text(errors="surrogateescape")

    def stderr(self):
        return (self.dir / "stderr.txt").read_text(errors="surrogateescape")

    def _is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.command[0]} ended with {self.process.returncode}: {self.stderr()}")
        if self._ready is None:
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        found = re.search(self._ready, self.stdout())
        if found and found.groups():
            self.url = found.group(1)
            port = re.search(r":(\d+)$", self.url)
            self.port = int(port.group(1)) if port else self.port
        return found

    @staticmethod
    def end_with_the_test():
        # A test that is itself killed (ctest's time limit) cannot clean up: the kernel does. Start servers from the
        # main thread: the kernel acts when the starting thread ends.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

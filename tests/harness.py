"""What every test in python needs: run a command, and have a server while a test lasts.

    from harness import Server, run, tool

    with Server([tool("bsu-sim"), "--port", "0"]) as sim:
        result = run([tool("bsu-fetch"), "--once", "--url", sim.url + "/bsus/{id}"], stdin="")
        assert result.exit == 0, result.stderr

In CMake: add_test(NAME … COMMAND python3 FILE) with INFLIGHT_BIN (folder of the tools) and PYTHONPATH
(this folder) in its environment; without INFLIGHT_BIN the release build is taken.
"""
import calendar
import collections
import contextlib
import ctypes
import http.server
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
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


_reserved = []


def free_port():
    """A loopback port that nobody listens on now, for servers that cannot choose one themselves. The kernel gives it to no
    outgoing connection, unless it gives away all above 10,000: so a server finds it free when it is started again. No other
    test is given it as long as this process lives: an abstract socket of its number says so, and goes with the process."""
    low = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for attempt in range(100):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, low) if low > 11_000 and attempt < 99 else 0))
            reservation = socket.socket(socket.AF_UNIX)
            reservation.bind(f"\0inflight-test-port-{s.getsockname()[1]}")
            _reserved.append(reservation)
            return s.getsockname()[1]
    raise OSError("no port is free")


def wait_for(condition, timeout=30, what="the condition"):
    """Poll until condition() is true and return its value. The time limit is for hangs, not for speed."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise TimeoutError(f"waited {timeout} s for {what}")


def nanoseconds(text):
    """RFC 3339 with Z, any number of digits."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int((fraction + "0" * 9)[:9])


def certificate(folder, names="IP:127.0.0.1,DNS:localhost"):
    """Of these names, signed by itself, and its key, as files in this folder."""
    made = run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{folder}/key", "-out", f"{folder}/crt",
                "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", f"subjectAltName={names}"])
    assert made.exit == 0, made.stderr
    return f"{folder}/crt", f"{folder}/key"


def end_with_the_test():
    """For a child before it executes. A test that is itself killed (ctest's time limit) cannot clean up: the kernel does.
    Start servers from the main thread: the kernel acts when the starting thread ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class PrivateServer:
    """Processes that a test has for itself and a folder of theirs (`dir`, removed in the end): ready when the block begins,
    gone when it ends. kill(), stop() and start() as often as a test likes: what is in the folder stays.

    A kind of server has prepare(), launch() and is_ready().
    """
    patience = 60  # s until it is ready; for hangs, not for speed

    def __init__(self, parent=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="inflight-test-", dir=parent))
        self.processes = {}

    def __enter__(self):
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def prepare(self):
        """Once, before all else."""

    def launch(self):
        """Spawns those of its processes that do not run."""
        raise NotImplementedError

    def is_ready(self):
        raise NotImplementedError

    def start(self):
        """Returns when it is ready."""
        self.launch()
        self.wait()
        return self

    def wait(self, condition=None, what=None):
        """Until it is ready, or for this condition; not longer than its processes live."""
        def checked():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}: {self.log(name)}")
            return (condition or self.is_ready)()
        wait_for(checked, self.patience, what or f"{', '.join(self.processes)} to be ready")

    def spawn(self, name, command, **options):
        if name not in self.processes:
            with open(self.dir / f"{name}.out", "wb") as out, open(self.dir / f"{name}.err", "wb") as err:
                self.processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                                        start_new_session=True, preexec_fn=end_with_the_test, **options)

    def kill(self, how=signal.SIGKILL, names=None):
        """Ends its processes, all or those of these names; what does not go within 10 s is killed, with what it started."""
        chosen = {name: self.processes.pop(name) for name in reversed(list(self.processes)) if names is None or name in names}
        for process in chosen.values():
            if process.poll() is None:
                process.send_signal(how)
        for process in chosen.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self):
        self.kill(signal.SIGTERM)

    def log(self, name):
        """The end of what it has said since it was started."""
        return "".join((self.dir / f"{name}.{kind}").read_text(errors="surrogateescape") for kind in ("out", "err"))[-2000:]


class Server(PrivateServer):
    """One command.

    `{dir}` and `{port}` (a free port) in it are replaced. With `ready`, a regular expression, it is ready when that
    stands in its standard output, and the first group is its `url`; with ready=None, when its port accepts a connection.
    """
    def __init__(self, command, ready=r"listening on (\S+)", timeout=30, env=None):
        super().__init__()
        self.port = free_port() if any("{port}" in str(c) for c in command) else None
        self.command = [str(c).replace("{dir}", str(self.dir)).replace("{port}", str(self.port)) for c in command]
        self.url = f"http://127.0.0.1:{self.port}" if self.port else None
        self.patience, self._ready, self._env = timeout, ready, env
        self.name = pathlib.Path(self.command[0]).name
        self.process = None

    def launch(self):
        self.spawn(self.name, self.command, env=self._env)
        self.process = self.processes[self.name]

    def stop(self, signal_number=signal.SIGTERM):
        """Returns its exit code."""
        self.kill(signal_number)
        return self.process and self.process.returncode

    def stdout(self):
        return (self.dir / f"{self.name}.out").read_text(errors="surrogateescape")

    def stderr(self):
        return (self.dir / f"{self.name}.err").read_text(errors="surrogateescape")

    def is_ready(self):
        if self._ready is None:
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        found = re.search(self._ready, self.stdout())
        if found and found.groups():
            self.url = found.group(1)
            port = re.search(r":(\d+)$", self.url)
            self.port = int(port.group(1)) if port else self.port
        return found


class HttpServer:
    """An HTTP server within the test (`url`, `port`): handle(request) answers, whatever the method."""

    def __init__(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                server.handle(self)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = handle_one

            def log_message(self, *_):
                pass

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # a client that was killed
                pass

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.port = self.listener.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def with_tls(self, certificate, key):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.listener.socket = context.wrap_socket(self.listener.socket, server_side=True, do_handshake_on_connect=False)
        self.url = self.url.replace("http:", "https:")
        return self

    def __enter__(self):
        self.thread = threading.Thread(target=self.listener.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown()
        self.thread.join()
        self.listener.server_close()

    def handle(self, request):
        raise NotImplementedError

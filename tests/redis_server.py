"""A Redis server of a test's own, and a client that knows just enough of the protocol.

    with Redis() as redis:
        run([tool("redis-write"), redis.url, "--key", "u:{subject}"], stdin=records)
        redis("HGETALL", "u:17")
"""
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile

from harness import Server, free_port, wait_for


class RedisError(Exception):
    """What the server answered, if that is an error."""


class Client:
    """One connection."""

    def __init__(self, path=None, port=None):
        self._socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._socket.settimeout(60)
        try:
            self._socket.connect(path or ("127.0.0.1", port))
        except OSError:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rb")

    def __call__(self, *words):
        self.send(*words)
        return self.reply()

    def send(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self._socket.sendall(b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)]))

    def reply(self):
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server has gone")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest.decode()
        if int(rest) < 0:
            return None
        if kind == b"$":
            return self._file.read(int(rest) + 2)[:-2].decode(errors="surrogateescape")
        return [self.reply() for _ in range(int(rest))]

    def close(self):
        self._file.close()
        self._socket.close()


class Redis:
    """Listens on a unix socket (`url`, `path`), and with port=True on a loopback port too (`port`, `tcp`). Durable, unless
    further options say otherwise. stop(), kill() and start() keep its data; all is gone when the block ends."""

    def __init__(self, *options, port=False, appendonly=True):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="inflight-test-"))
        self.path = str(self.dir / "redis.sock")
        self.url = f"unix:{self.path}"
        self.port = free_port() if port else 0
        self._options = ["--appendonly", "yes" if appendonly else "no", "--appendfsync", "always", *options]
        self._process = self._client = None

    @property
    def tcp(self):
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, *options, ready=None):
        """Returns when it answers, or when ready() says so. For the main thread (harness.py)."""
        command = ["redis-server", "--bind", "127.0.0.1", "--dir", str(self.dir), "--unixsocket", self.path, "--save", "",
                   "--loglevel", "warning", *self._options, *options]

        def answers():
            if self._process is None or self._process.poll() is not None:  # its port may be taken for now
                with open(self.dir / "log", "ab") as log:
                    self._process = subprocess.Popen([*command, "--port", str(self.port)], stdin=subprocess.DEVNULL, stdout=log,
                                                     stderr=log, start_new_session=True, preexec_fn=Server.end_with_the_test)
            if ready is not None:
                return ready()
            client = None
            try:
                client = Client(self.path)
                client("PING")
                self._client = client
                return True
            except (OSError, RedisError):  # not yet, or it loads
                if client is not None:
                    client.close()
                return False
        wait_for(answers, 60, what="redis-server to answer")
        return self

    def kill(self, number=signal.SIGKILL):
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
        self._process = self._client = None

    def stop(self):
        self.kill(signal.SIGTERM)

    def signal(self, number):
        self._process.send_signal(number)

    def __call__(self, *words):
        return self._client(*words)

    def client(self):
        """Another connection, for instance one that subscribes; the caller closes it."""
        return Client(self.path)

    def hash(self, key):
        flat = self("HGETALL", key)
        return dict(zip(flat[::2], flat[1::2]))

    def fields(self, key):
        """Without the times."""
        return {name: value for name, value in self.hash(key).items() if name != "updated_at" and not name.startswith("changed_at:")}

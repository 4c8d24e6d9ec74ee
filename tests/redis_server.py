"""A Redis server of a test's own, and a client that knows just enough of the protocol.

    with Redis() as redis:
        run([tool("redis-write"), redis.url, "--key", "u:{subject}"], stdin=records)
        redis("HGETALL", "u:17")
"""
import signal
import socket

from harness import PrivateServer, free_port


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


class Redis(PrivateServer):
    """Listens on a unix socket (`url`, `path`), and with port=True on a loopback port too (`port`, `tcp`). Durable, unless
    further options say otherwise."""

    def __init__(self, *options, port=False, appendonly=True):
        super().__init__()
        self.path = str(self.dir / "redis.sock")
        self.url = f"unix:{self.path}"
        self.port = free_port() if port else 0
        self._command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.dir), "--unixsocket", self.path,
                         "--save", "", "--loglevel", "warning", "--appendonly", "yes" if appendonly else "no", "--appendfsync", "always",
                         *options]
        self._client = None

    @property
    def tcp(self):
        return f"redis://127.0.0.1:{self.port}"

    def launch(self, *options):
        self.spawn("redis-server", [*self._command, *options])

    def start(self, *options, ready=None):
        """With these options for this time; returns when it answers, or when ready() says so."""
        self.launch(*options)
        self.wait(ready)
        return self

    def is_ready(self):
        client = None
        try:
            client = Client(self.path)
            client("PING")
        except (OSError, RedisError):  # not yet, or it loads
            if client is not None:
                client.close()
            return False
        if self._client is not None:
            self._client.close()
        self._client = client
        return True

    def kill(self, how=signal.SIGKILL, names=None):
        if self._client is not None:
            self._client.close()
        self._client = None
        super().kill(how, names)

    def signal(self, number):
        self.processes["redis-server"].send_signal(number)

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

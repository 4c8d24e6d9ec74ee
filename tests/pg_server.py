"""A PostgreSQL of a test's own, on a loopback port and a unix socket, and on request a PgBouncer before it.

    with Postgres() as pg:
        run([tool("sql-write"), pg.url, "--table", "t"], stdin=records, env=pg.environment)
        pg.sql("SELECT * FROM t")

`url` goes over TCP as user pipe, whose password is in `environment` (PGPASSWORD); `socket_url` needs none.
"""
import contextlib
import glob
import os
import pathlib
import shutil
import signal
import subprocess

from harness import PrivateServer, free_port, run, wait_for

PASSWORD = "pw-of-pipe"


def bin_folder():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    return pathlib.Path(found[-1]).parent if found else pathlib.Path(shutil.which("postgres") or "/usr/bin/postgres").parent


BIN = bin_folder()
# Neither the server nor PgBouncer runs as root. Another user's process is no more told that its parent is gone, unless it asks.
AS = ["setpriv", "--pdeathsig=KILL", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


class Postgres(PrivateServer):
    """Durable: fsync is on. More options as name=value."""

    def __init__(self, *options, encoding="UTF8", parent=None):
        super().__init__(parent)
        self.port = free_port()
        self.options, self.encoding = list(options), encoding
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith("PG")}, "PGPASSWORD": PASSWORD, "HOME": str(self.dir)}
        self.url = f"postgresql://pipe@127.0.0.1:{self.port}/postgres"
        self.socket_url = f"postgresql://pipe@/postgres?host={self.dir}/socket&port={self.port}"

    def prepare(self):
        (self.dir / "socket").mkdir()
        (self.dir / "password").write_text(PASSWORD + "\n")
        self.give("socket", "password")
        data = self.dir / "data"
        data.mkdir()
        self.give("data")
        self.dir.chmod(0o711)
        made = subprocess.run([*AS, str(BIN / "initdb"), "-D", str(data), "-U", "pipe", "--auth-host=scram-sha-256", "--auth-local=trust",
                               f"--pwfile={self.dir}/password", "-E", self.encoding, "--locale=C", "-N"],
                              cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr

    def give(self, *names):
        """To the user that the servers run as."""
        for name in names:
            if AS:
                shutil.chown(self.dir / name, "postgres", "postgres")

    def launch(self, *options):
        words = [word for option in [*self.options, *options] for word in ("-c", option)]
        # A server that was killed leaves its children; they see it and go, and only then may another one start.
        (self.dir / "data" / "postmaster.pid").unlink(missing_ok=True)
        self.spawn("postgres", [*AS, str(BIN / "postgres"), "-D", str(self.dir / "data"), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
                                "-c", f"unix_socket_directories={self.dir}/socket", "-c", "max_connections=30", "-c", "shared_buffers=64MB",
                                # In its folder: what a killed server leaves goes with that.
                                "-c", "dynamic_shared_memory_type=mmap",
                                "-c", "autovacuum=off", *words], cwd="/")

    def start(self, *options):
        self.launch(*options)
        self.wait()
        return self

    def is_ready(self):
        return subprocess.run([str(BIN / "pg_isready"), "-q", "-h", f"{self.dir}/socket", "-p", str(self.port), "-U", "pipe", "-d", "postgres"],
                              check=False).returncode == 0

    def kill(self, how=signal.SIGKILL, names=None):
        """SIGKILL takes all of its processes at once: as if the machine had stopped."""
        if how == signal.SIGKILL and "postgres" in self.processes:
            server = self.processes["postgres"]
            server.send_signal(signal.SIGSTOP)  # it makes no more of them
            killed = [*self.children(server.pid), server.pid]
            for child in killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            super().kill(how, names)
            # While one of them has the shared memory yet, no other server starts.
            wait_for(lambda: not any(map(self.lives, killed)), what="the killed server's processes to be gone")
            return
        super().kill(how, names)

    def stop(self):
        self.kill(signal.SIGINT)  # a fast shutdown

    @staticmethod
    def lives(pid):
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    @staticmethod
    def children(pid):
        try:
            return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def sql(self, text, database="postgres", *options):
        """The rows, each a list of texts; NULL is None. Several statements are one transaction."""
        environment = {**self.environment, "PGOPTIONS": "-c default_transaction_read_only=off", "PGCLIENTENCODING": "UTF8"}
        done = run([str(BIN / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-F", "\x1f", "-R", "\x1e", "-P", "null=\x1d", *options,
                    "-d", self.socket_url.replace("/postgres?", f"/{database}?"), "-c", text], env=environment)
        if done.exit != 0:
            raise RuntimeError(done.stderr)
        rows = done.stdout.rstrip("\n")
        return [[None if field == "\x1d" else field for field in row.split("\x1f")] for row in rows.split("\x1e")] if rows else []

    def session(self, database="postgres"):
        """A psql that reads statements from its standard input as long as a test likes; the caller ends it."""
        return subprocess.Popen([str(BIN / "psql"), "-X", "-q", "-A", "-t", "-d", self.socket_url.replace("/postgres?", f"/{database}?")],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1, env=self.environment)


class Bouncer(PrivateServer):
    """A PgBouncer in transaction mode before a Postgres, whose password it knows."""

    def __init__(self, postgres, *options):
        super().__init__()
        self.postgres, self.port, self.options = postgres, free_port(), options
        self.environment = postgres.environment
        self.url = f"postgresql://pipe@127.0.0.1:{self.port}/postgres"

    def prepare(self):
        lines = ["[databases]", f"* = host=127.0.0.1 port={self.postgres.port} user=pipe password={PASSWORD}", "[pgbouncer]",
                 "listen_addr = 127.0.0.1", f"listen_port = {self.port}", "unix_socket_dir =", "auth_type = plain",
                 f"auth_file = {self.dir}/users", "pool_mode = transaction", "default_pool_size = 4", "server_login_retry = 1",
                 *self.options]
        (self.dir / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        (self.dir / "users").write_text(f'"pipe" "{PASSWORD}"\n')
        self.dir.chmod(0o711)
        if AS:
            for name in "pgbouncer.ini", "users":
                shutil.chown(self.dir / name, "postgres", "postgres")

    def launch(self):
        self.spawn("pgbouncer", [*AS, shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", str(self.dir / "pgbouncer.ini")], cwd="/")

    def is_ready(self):
        return run([str(BIN / "psql"), "-X", "-q", "-d", self.url, "-c", ""], env=self.environment).exit == 0

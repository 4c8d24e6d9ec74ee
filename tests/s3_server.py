"""The S3 servers that tests put into, private on loopback: Swift with its s3api, and Ceph's radosgw.

    from s3_server import SERVERS

    for server in SERVERS:      # those whose packages are here
        with server() as s3:
            s3.make_bucket("bucket")
            run([tool("s3-archive"), "put", "s3://bucket/raw"], env=s3.environment())

Both check signatures and know a bucket as BUCKET.localhost, too; they differ in what else they know: Swift has no If-None-Match, Ceph does not mind the region.
Client is a second opinion, signed by a few lines of python: what it sees is not what s3-archive says of itself. Proxy
breaks connections to them.
"""
import collections
import datetime
import hashlib
import hmac
import http.client
import os
import pathlib
import pwd
import random
import shutil
import threading
import urllib.parse
import xml.etree.ElementTree

from harness import HttpServer, PrivateServer, free_port, run

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def user():
    """Ours. The kernel ends no process with the test that has become another user's."""
    return pwd.getpwuid(os.getuid()).pw_name


def missing(*programs):
    return [p for p in programs if not shutil.which(p, path=PATH)]


class Client:
    """A few requests to a server, each signed with AWS Signature Version 4."""

    def __init__(self, port, key, secret, region="us-east-1"):
        self.port, self.key, self.secret, self.region = port, key, secret, region

    def ask(self, method, path, query=None, body=b"", headers=None, ok=(200, 204)):
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        quoted = urllib.parse.quote(path, safe="/-_.~")
        arguments = "&".join(f"{urllib.parse.quote(k, safe='-_.~')}={urllib.parse.quote(v, safe='-_.~')}"
                             for k, v in sorted((query or {}).items()))
        digest = hashlib.sha256(body).hexdigest()
        sent = {"host": f"127.0.0.1:{self.port}", "x-amz-date": stamp, "x-amz-content-sha256": digest, **(headers or {})}
        names = ";".join(sorted(k.lower() for k in sent))
        lines = "".join(f"{k.lower()}:{v}\n" for k, v in sorted(sent.items(), key=lambda item: item[0].lower()))
        whole = f"{method}\n{quoted}\n{arguments}\n{lines}\n{names}\n{digest}"
        scope = f"{day}/{self.region}/s3/aws4_request"
        key = b"AWS4" + self.secret.encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), "sha256").digest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(whole.encode()).hexdigest()}"
        sent["Authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.key}/{scope},SignedHeaders={names},"
                                 f"Signature={hmac.new(key, text.encode(), 'sha256').hexdigest()}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, quoted + ("?" + arguments if arguments else ""), body, sent)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if ok and answer.status not in ok:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        return answer.status, dict(answer.getheaders()), content

    @staticmethod
    def _elements(content, name):
        root = xml.etree.ElementTree.fromstring(content)
        return [{child.tag.rpartition("}")[2]: child.text or "" for child in element}
                for element in root if element.tag.rpartition("}")[2] == name]

    def keys(self, bucket, prefix=""):
        found, start = [], ""
        while True:
            query = {"list-type": "2", "prefix": prefix, **({"start-after": start} if start else {})}
            page = [e["Key"] for e in self._elements(self.ask("GET", f"/{bucket}", query)[2], "Contents")]
            if not page:
                return found
            found += page
            start = page[-1]

    def get(self, bucket, key):
        return self.ask("GET", f"/{bucket}/{key}")[2]

    def etag(self, bucket, key):
        headers = self.ask("HEAD", f"/{bucket}/{key}")[1]
        return headers.get("ETag") or headers["Etag"]

    def put(self, bucket, key, body):
        self.ask("PUT", f"/{bucket}/{key}", body=body)

    def delete(self, bucket, key):
        self.ask("DELETE", f"/{bucket}/{key}")

    def uploads(self, bucket):
        """Keys of multipart uploads that were not completed."""
        return [e["Key"] for e in self._elements(self.ask("GET", f"/{bucket}", {"uploads": ""})[2], "Upload")]

    def begin_upload(self, bucket, key):
        self.ask("POST", f"/{bucket}/{key}", {"uploads": ""})

    def make_bucket(self, bucket):
        self.ask("PUT", f"/{bucket}", ok=(200, 409))


class S3Server(PrivateServer):
    """Several processes; `client` is one that is not ours."""
    name = key = secret = ""
    programs = ()
    patience = 90

    def __init__(self, folder="/var/tmp"):  # a disk: what is in memory often has no extended attributes
        super().__init__(folder)
        self.port = free_port()
        self.client = Client(self.port, self.key, self.secret)

    @classmethod
    def missing(cls):
        """Why it cannot be had here; empty where it can."""
        return " ".join(missing(*cls.programs))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def environment(self, url=None, **others):
        """Of a client that finds this server and nothing of whoever runs the test."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        return env | {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_ENDPOINT_URL": url or self.url,
                      "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_CONFIG_FILE": "/dev/null",
                      "XDG_STATE_HOME": str(self.dir / "state")} | others

    def make_bucket(self, bucket):
        self.client.make_bucket(bucket)

    def spawn(self, name, command, **options):
        super().spawn(name, command, cwd=self.dir, env=dict(os.environ, PATH=PATH), **options)

    def answers(self, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return True
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def is_ready(self):
        return self.answers()

    def catch_up(self):
        """Lets a list of objects show all that are stored; false where it cannot now."""
        return True


class Swift(S3Server):
    name, key, secret = "swift", "test:tester", "testing"
    programs = ("swift-proxy-server", "swift-account-server", "swift-container-server", "swift-object-server", "memcached")
    kinds = ("account", "container", "object")

    def prepare(self):
        self.ports = {kind: free_port() for kind in (*self.kinds, "memcached")}
        (self.dir / "srv/d1").mkdir(parents=True)
        common = f"user = {user()}\nworkers = 0\nswift_dir = {self.dir}\nlog_address = {self.dir}/nolog\nlog_level = WARNING\n"
        for kind in self.kinds:
            (self.dir / f"{kind}.conf").write_text(
                f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {self.ports[kind]}\ndevices = {self.dir}/srv\nmount_check = false\n"
                f"disable_fallocate = true\n{common}[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n" +
                # A slow listing is waited for: what it is not told of in time, a daemon tells it, which is not here.
                ("container_update_timeout = 60\nnode_timeout = 60\nconn_timeout = 60\n" if kind == "object" else "") +
                f"[{kind}-updater]\nnode_timeout = 60\nconn_timeout = 60\n")
            for words in (("create", "4", "1", "0"), ("add", f"r1z1-127.0.0.1:{self.ports[kind]}/d1", "1"), ("rebalance",)):
                done = run(["swift-ring-builder", f"{self.dir}/{kind}.builder", *words], env=dict(os.environ, PATH=PATH))
                assert done.exit == 0, done
        filters = {"catch_errors": "", "gatekeeper": "", "cache": f"memcache_servers = 127.0.0.1:{self.ports['memcached']}\n",
                   "listing_formats": "", "s3api": "s3_acl = false\nlocation = us-east-1\nstorage_domain = localhost\n",
                   "tempauth": "user_test_tester = testing .admin\n", "copy": "", "slo": "rate_limit_after_segment = 100000\n",
                   "dlo": "", "versioned_writes": "allow_object_versioning = true\n", "symlink": "", "bulk": ""}
        eggs = {"cache": "memcache"}
        (self.dir / "proxy.conf").write_text(
            f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {self.port}\n{common}[pipeline:main]\npipeline = {' '.join(filters)} proxy-server\n"
            "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
            # Otherwise a server that was killed ten times is not asked again for a minute.
            "error_suppression_limit = 1000000\n" +
            "".join(f"[filter:{name}]\nuse = egg:swift#{eggs.get(name, name)}\n{more}" for name, more in filters.items()))

    def launch(self):
        self.spawn("memcached", ["memcached", "-u", user(), "-l", "127.0.0.1", "-p", str(self.ports["memcached"]), "-m", "16", "-t", "1"])
        for kind in (*self.kinds, "proxy"):
            self.spawn(kind, ["/usr/bin/swift-%s-server" % kind, f"{self.dir}/{kind}.conf"])

    def is_ready(self):
        return all(self.answers(self.ports[kind]) for kind in self.kinds) and self.answers()

    def catch_up(self):
        # What is stored while the container server is away is listed when the updater, which runs every five minutes, has told it.
        def pending():
            return any((self.dir / "srv/d1").glob("async_pending*/*/*"))
        if pending():
            done = run(["swift-object-updater", f"{self.dir}/object.conf", "once"], env=dict(os.environ, PATH=PATH))
            assert done.exit == 0, done
        return not pending()

    crash = ("proxy", "account", "container", "object")  # what a test may kill; without memcached it answers 500


class Ceph(S3Server):
    name, key, secret = "ceph", "CEPHKEY", "CEPHSECRET"
    programs = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool", "ceph")
    crash = ("rgw",)

    def ceph(self, *words, program="ceph", check=True):
        done = run([program, "-c", f"{self.dir}/ceph.conf", *words], timeout=120, env=dict(os.environ, PATH=PATH))
        assert done.exit == 0 or not check, done
        return done

    def prepare(self):
        folder = self.dir
        for name in ("mon", "osd", "rgw", "run", "log"):
            (folder / name).mkdir()
        v2, v1 = free_port(), free_port()
        fsid = "11111111-2222-3333-4444-555555555555"
        (folder / "ceph.conf").write_text(f"""[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
run dir = {folder}/run
admin socket = {folder}/run/$name.$pid.asok
log file = {folder}/log/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
keyring = {folder}/keyring
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon cluster log file = {folder}/log/cluster.log
mon data avail warn = 1
mon data avail crit = 1
osd objectstore = bluestore
bluestore block size = 4294967296
osd memory target = 939524096
osd class default list = *
osd class load list = *
rgw dns name = localhost
rgw frontends = beast endpoint=127.0.0.1:{self.port}
rgw thread pool size = 16
debug ms = 0
setuser match path = {folder}
""")
        keyring = f"{folder}/keyring"
        for words in (("-C", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"),
                      (keyring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *",
                       "--cap", "mgr", "allow *", "--cap", "mds", "allow *"),
                      (keyring, "--gen-key", "-n", "osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"),
                      (keyring, "--gen-key", "-n", "client.rgw", "--cap", "mon", "allow rw", "--cap", "osd", "allow rwx")):
            self.ceph(*words, program="ceph-authtool")
        self.ceph("--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]", f"{folder}/monmap",
                  program="monmaptool")
        self.ceph("--mkfs", "-i", "a", "--monmap", f"{folder}/monmap", "--keyring", keyring, program="ceph-mon")
        self.fresh = True

    def launch(self):
        conf = f"{self.dir}/ceph.conf"
        self.spawn("mon", ["ceph-mon", "-c", conf, "-f", "-i", "a"])
        self.wait(lambda: self.ceph("--connect-timeout", "2", "mon", "stat", check=False).exit == 0, "the monitor")
        if self.fresh:
            uuid = pathlib.Path("/proc/sys/kernel/random/uuid").read_text().strip()
            self.ceph("osd", "new", uuid)
            self.ceph("--mkfs", "-i", "0", "--osd-uuid", uuid, program="ceph-osd")
        self.spawn("osd", ["ceph-osd", "-c", conf, "-f", "-i", "0"])
        self.wait(lambda: "1 up" in self.ceph("--connect-timeout", "2", "osd", "stat", check=False).stdout, "the OSD")
        self.spawn("rgw", ["radosgw", "-c", conf, "-f", "-n", "client.rgw"])

    def start(self):
        super().start()
        if self.fresh:
            self.ceph("user", "create", "--uid", "pipe", "--display-name", "pipe", "--access-key", self.key,
                      "--secret-key", self.secret, program="radosgw-admin")
            self.fresh = False
        return self


ALL = (Swift, Ceph)
SERVERS = tuple(server for server in ALL if not server.missing())


class Proxy(HttpServer):
    """Stands before a server and, by seed, breaks some of the requests: an error of the server's kind, no answer at all, a
    connection that is cut before the request is passed on, or after it, when nobody learns that it was done.

    `faults` is how many of a hundred requests are broken; `seen` counts what was answered and what was broken, `served` the bytes
    of objects that were answered. Set `spared`, and so many requests are let through: who was never answered does not try again."""
    KINDS = ("500", "503", "409", "hang", "cut before", "cut after", "cut within")

    def __init__(self, port, seed, faults=0):
        super().__init__()
        self.port_behind, self.faults = port, faults
        self.random = random.Random(seed)
        self.seen = collections.Counter()
        self.served = self.spared = 0
        self.lock = threading.Lock()
        self.closed = threading.Event()

    def __exit__(self, *_):
        self.closed.set()
        super().__exit__()

    def handle(self, request):
        with self.lock:
            kind = self.random.choice(self.KINDS) if self.random.randrange(100) < self.faults else ""
            if self.spared > 0:
                self.spared, kind = self.spared - 1, ""
            self.seen[kind] += bool(kind)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if kind == "hang":
            self.closed.wait(3)
        if kind in ("hang", "cut before"):
            request.close_connection = True
            return
        if kind in ("500", "503", "409"):
            code = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict"}[kind]
            late = request.command == "POST" and "uploadId=" in request.path  # of which S3 says 200 before it knows
            self.answer(request, 200 if late else int(kind), {"Content-Type": "application/xml"},
                        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as it happens</Message></Error>".encode())
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.port_behind, timeout=60)
        try:
            connection.request(request.command, request.path, body, dict(request.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):  # the server was killed
            request.close_connection = True
            return
        finally:
            connection.close()
        with self.lock:
            self.seen[f"{request.command} {answer.status}"] += 1
            self.served += len(content) if request.command == "GET" and "list-type=" not in request.path else 0
        if kind == "cut after":
            request.close_connection = True
            return
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding", "content-length")}
        self.answer(request, answer.status, headers, content, answer.getheader("Content-Length"), cut=kind == "cut within")

    @staticmethod
    def answer(request, status, headers, content, length=None, cut=False):
        head = request.command == "HEAD"
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if status != 204:
            request.send_header("Content-Length", length if head and length else str(len(content)))
        request.end_headers()
        if not head:
            request.wfile.write(content[:len(content) // 2] if cut else content)
        request.close_connection = request.close_connection or cut

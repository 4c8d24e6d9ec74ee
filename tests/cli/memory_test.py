"""Every tool within 64 MiB where records are as long as they may be, but for those of BEYOND.

  python3 memory_test.py            assert it
  python3 memory_test.py --table    print NAME<tab>MiB for make bench
"""
import os
import subprocess
import sys
import tempfile
import unittest

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path[:0] = [TESTS, os.path.join(TESTS, "servers")]
from harness import BIN  # noqa: E402
from influx_stub import InfluxStub  # noqa: E402
from redis_server import Redis  # noqa: E402

LIMIT = 64  # MiB, of each process
# Two events wait in any case, and the next answer becomes an event. Two sides are read at the same time.
BEYOND = {"bsu-fetch -- publish": 80, "reconcile": 112}

RECORDS = r"""
import base64, random
random.seed(1)
noise = base64.b64encode(random.randbytes(12 << 20)).decode()[:(16 << 20) - 4096]  # nothing compresses it
for i in range(120):
    print('{"specversion":"1.0","id":"%d","source":"test","type":"t","subject":"u%d","recordedtime":"2018-07-01T00:00:00Z",'
          '"datacontenttype":"application/xml","data":"<u><t>%s</t></u>"}'
          % (i, i, noise if i in (30, 110) else "x" * ((16 << 20) - 4096 if i in (31, 80) else 800)))
"""
ABORT = r"""import os, sys
for line in sys.stdin:
    if len(line) > 1 << 20: os.abort()
    sys.stdout.write(line)
    sys.stdout.flush()
"""
# Units whose answers are as large as may be.
UNITS = r"""
import http.server
class Unit(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"<u><t>" + b"x" * ((16 << 20) - 4096) + b"</t></u>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_): pass
server = Server(("127.0.0.1", 0), Unit)
open("units.txt", "w").write("".join(f"u{i} http://127.0.0.1:{server.server_port}/u{i}\n" for i in range(12)))
print("listening", flush=True)
server.serve_forever()
"""
WRITE = "sql-write sqlite:{}.db --create --table t --key id --column id=id --column text=data"
LETTERS = "dlq-replay long --as killed"
# In this order: what one leaves, the next may read.
COMMANDS = {
    "bsu-fetch": "bsu-fetch --devices units.txt --once > /dev/null",
    "bsu-fetch -- publish": "bsu-fetch --devices units.txt --once -- publish units",
    "publish": "publish long < long.ndjson",
    "consume": "consume long --as c --until-empty --ack exit -- 'cat > /dev/null'",
    "consume, a stage killed by them": f"consume long --as killed --until-empty -- 'python3 abort.py | {WRITE.format('k')}'",
    "dlq-replay --summary": f"{LETTERS} --summary > /dev/null",
    "dlq-replay --export": f"{LETTERS} --export > letters.ndjson",
    "dlq-replay": f"{LETTERS} -- '{WRITE.format('k')}'",
    "dlq-replay --import": f"{LETTERS} --import letters.ndjson",
    "xml2json": "xml2json < long.ndjson > /dev/null",
    "xml2json --jobs 2": "xml2json --jobs 2 < long.ndjson > /dev/null",
    "reshape": "reshape . < long.ndjson > /dev/null",
    "reshape, of a new object": "reshape '{x: .}' < long.ndjson > /dev/null",
    "throttle": "throttle < long.ndjson > /dev/null",
    "throttle --rate": "throttle --rate 1GB/s < long.ndjson > /dev/null",
    "influx-write": "influx-write $INFLUX --timestamp recordedtime --field text=data < long.ndjson",
    "influx-write --compress gzip": "influx-write $INFLUX --timestamp recordedtime --field text=data --compress gzip < long.ndjson",
    "sql-write": f"{WRITE.format('s')} < long.ndjson",
    "sql-write, all rejected": f"yes x | head -n 1000000 | {WRITE.format('r')} 2> /dev/null; test $? = 1",
    "redis-write": "redis-write $REDIS --key u:{subject} --newer-by recordedtime --field id=id --field text=data < long.ndjson",
    "reconcile": "reconcile --key id --memory 4MiB --quiet --left 'cat long.ndjson' --right 'cat long.ndjson'",
    "find-gaps": "find-gaps --every 1s --time recordedtime --memory 4MiB < long.ndjson > /dev/null",
    "hydrate": "hydrate < long.ndjson > /dev/null",
    "http-write": "http-write $REST/{subject} < long.ndjson",
    "s3-archive put": "s3-archive put archive < long.ndjson",
    "s3-archive get": "s3-archive get archive > /dev/null",
    "s3-archive verify": "s3-archive verify archive > /dev/null",
}


def peaks():
    """Yields each command's name, exit code, messages and the largest resident set of one of its processes in MiB."""
    with tempfile.TemporaryDirectory() as folder, InfluxStub(2) as influx, Redis() as redis:
        influx.always = ("status", 204, {}, "")
        # By processes of their own: the size of what is started here begins with our own.
        with open(f"{folder}/long.ndjson", "w", encoding="utf-8") as file:
            subprocess.run([sys.executable, "-c", RECORDS], stdout=file, check=True)
        with open(f"{folder}/abort.py", "w", encoding="utf-8") as file:
            file.write(ABORT)
        units = subprocess.Popen([sys.executable, "-c", UNITS], cwd=folder, stdout=subprocess.PIPE)
        units.stdout.readline()
        sim = subprocess.Popen([f"{BIN}/../tests/bench/rest-sim"], stdout=subprocess.PIPE, text=True)
        rest = sim.stdout.readline().split()[-1]
        env = os.environ | {"REST": rest, "PATH": f"{BIN}:{os.environ['PATH']}", "INFLUX": f"{influx.url}?bucket=b", "REDIS": redis.url}
        for name, command in COMMANDS.items():
            with tempfile.TemporaryFile() as said:
                process = subprocess.Popen(["sh", "-c", command], cwd=folder, env=env, stderr=said)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                said.seek(0)
                yield name, process.returncode, said.read().decode(errors="replace"), usage.ru_maxrss / 1024
        for process in units, sim:
            process.kill()
            process.wait()
            process.stdout.close()


class Memory(unittest.TestCase):
    def test_long_records(self):
        for name, code, said, peak in peaks():
            with self.subTest(name):
                self.assertEqual(code, 0, said)
                self.assertLess(peak, BEYOND.get(name, LIMIT))


if __name__ == "__main__":
    if "--table" in sys.argv:
        for name, code, said, peak in peaks():
            print(f"{name}\t{peak:.0f}", flush=True)
    else:
        unittest.main(verbosity=2)

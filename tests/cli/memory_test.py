"""Every tool within 64 MiB where records are as long as they may be.

  python3 memory_test.py            assert it
  python3 memory_test.py --table    print NAME<tab>MiB for make bench
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN  # noqa: E402
from redis_server import Redis  # noqa: E402

LIMIT = 64  # MiB, of each process

RECORDS = r"""
for i in range(120):
    print('{"specversion":"1.0","id":"%d","source":"test","type":"t","subject":"u%d","recordedtime":"2018-07-01T00:00:00Z",'
          '"datacontenttype":"application/xml","data":"<u><t>%s</t></u>"}'
          % (i, i, "x" * ((16 << 20) - 4096 if i in (30, 31, 80, 110) else 800)))
"""
ABORT = r"""import os, sys
for line in sys.stdin:
    if len(line) > 1 << 20: os.abort()
    sys.stdout.write(line)
    sys.stdout.flush()
"""
WRITE = "sql-write sqlite:{}.db --create --table t --key id --column id=id --column text=data"
LETTERS = "dlq-replay long --as killed"
# In this order: what one leaves, the next may read.
COMMANDS = {
    "publish": "publish long < long.ndjson",
    "consume": "consume long --as c --until-empty --ack exit -- 'cat > /dev/null'",
    "consume, a stage killed by them": f"consume long --as killed --until-empty -- 'python3 abort.py | {WRITE.format('k')}'",
    "dlq-replay --summary": f"{LETTERS} --summary > /dev/null",
    "dlq-replay --export": f"{LETTERS} --export > letters.ndjson",
    "dlq-replay": f"{LETTERS} -- '{WRITE.format('k')}'",
    "dlq-replay --import": f"{LETTERS} --import letters.ndjson",
    "xml2json": "xml2json < long.ndjson > /dev/null",
    "xml2json --jobs 2": "xml2json --jobs 2 < long.ndjson > /dev/null",
    "sql-write": f"{WRITE.format('s')} < long.ndjson",
    "redis-write": "redis-write $REDIS --key u:{subject} --newer-by recordedtime --field id=id --field text=data < long.ndjson",
    "s3-archive put": "s3-archive put archive < long.ndjson",
    "s3-archive get": "s3-archive get archive > /dev/null",
    "s3-archive verify": "s3-archive verify archive > /dev/null",
}


def peaks():
    """Yields each command's name, exit code, messages and the largest resident set of one of its processes in MiB."""
    with tempfile.TemporaryDirectory() as folder, Redis() as redis:
        # By processes of their own: the size of what is started here begins with our own.
        with open(f"{folder}/long.ndjson", "w", encoding="utf-8") as file:
            subprocess.run([sys.executable, "-c", RECORDS], stdout=file, check=True)
        with open(f"{folder}/abort.py", "w", encoding="utf-8") as file:
            file.write(ABORT)
        env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "REDIS": redis.url}
        for name, command in COMMANDS.items():
            with tempfile.TemporaryFile() as said:
                process = subprocess.Popen(["sh", "-c", command], cwd=folder, env=env, stderr=said)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                said.seek(0)
                yield name, process.returncode, said.read().decode(errors="replace"), usage.ru_maxrss / 1024


class Memory(unittest.TestCase):
    def test_long_records(self):
        for name, code, said, peak in peaks():
            with self.subTest(name):
                self.assertEqual(code, 0, said)
                self.assertLess(peak, LIMIT)


if __name__ == "__main__":
    if "--table" in sys.argv:
        for name, code, said, peak in peaks():
            print(f"{name}\t{peak:.0f}", flush=True)
    else:
        unittest.main(verbosity=2)

"""The unit files and crontab lines of the migration: together they bring both sides in step, drain when they are stopped, and say so."""
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, ROOT, run, tool, wait_for  # noqa: E402
from orders_server import OrdersServer  # noqa: E402
from pg_server import Postgres  # noqa: E402
from rtdb_server import RtdbServer  # noqa: E402
from services_test import setting  # noqa: E402

UNITS = {name: ROOT / "scripts" / "systemd" / f"orders-{name}.service" for name in ("listen", "crawl", "etl")}
CRONTAB = ROOT / "scripts" / "cron" / "orders"
NEWS = {"listen": r"listen: orders: the baseline is durable, .*\n", "crawl": r"crawl: orders.*\n(crawl: orders.*\n)?", "etl": ""}


class Services(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        postgres = self.enterContext(Postgres())
        self.service = self.enterContext(OrdersServer(postgres, "--connections", "10", "--version-header", "X-Version"))
        self.database = self.enterContext(RtdbServer("--documents", "50"))
        (self.folder / "order.jq").write_text((ROOT / "scripts" / "demo_order.jq").read_text())
        (self.folder / "api.header").write_text("Authorization: Bearer hunter2secret\n")

    def here(self, line):
        """With the servers of this test, and without a minute's wait."""
        return (line.replace("https://shop.firebaseio.com", self.database.url).replace("https://api/orders", f"{self.service.url}/orders")
                .replace("--recheck 60s", "--recheck 1s"))

    def serve(self, name, change=lambda words: words):
        words = shlex.split(setting(UNITS[name], "ExecStart").replace("%%", "%").replace("$$", "$"))
        self.assertTrue(words[0].startswith("/usr/local/bin/"))
        process = subprocess.Popen(change([tool(pathlib.Path(words[0]).name), *map(self.here, words[1:])]), cwd=self.folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, restore_signals=False, start_new_session=True,
                                   env={"PATH": f"{BIN}:/usr/bin:/bin"})
        self.addCleanup(lambda: (process.kill(), process.communicate()))
        return process

    def stop(self, name, process):
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        self.assertEqual(str(process.returncode), setting(UNITS[name], "SuccessExitStatus"), stderr)
        self.assertRegex(stderr, rf"\A{NEWS[name]}\Z")
        self.assertEqual(setting(UNITS[name], "KillMode"), "mixed")

    def crontab(self):
        return [self.here(line) for line in re.findall(r"^(?:\S+ ){5}cd /var/lib/orders && (.*)$", CRONTAB.read_text(), re.M)]

    def proof(self):
        done = run(["bash", "-c", self.crontab()[-1]], cwd=self.folder, env={"PATH": f"{BIN}:/usr/bin:/bin"})
        return done.exit, done.stderr.splitlines()[-1]

    def test_the_units_bring_both_sides_in_step(self):
        early = self.serve("crawl")
        _, stderr = early.communicate(timeout=60)
        self.assertEqual(early.returncode, 75, stderr)  # starts again until listen has its baseline
        listen = self.serve("listen")
        wait_for(lambda: self.database.stats()["streams"]["open"] == 1, what="listen")
        wait_for(lambda: "crawl" if self.crawl_once() == 0 else None, what="crawl")
        etl = self.serve("etl")
        self.database.put("orders/new", {"number": 1, "status": "new", "lines": [{"sku": "A", "quantity": 1, "cents": 1}]})
        self.database.delete(["orders", min(self.database.get("orders", shallow="true"))])
        wait_for(lambda: len(self.service.orders()) == 50 and self.service.get("new"), what="the orders")
        self.stop("listen", listen)
        self.stop("etl", etl)
        self.assertEqual(self.proof()[0], 0)

    def crawl_once(self):
        process = self.serve("crawl")
        _, stderr = process.communicate(timeout=60)
        if process.returncode == 0:
            self.assertRegex(stderr, rf"\A{NEWS['crawl']}\Z")
        return process.returncode

    def test_the_lines_of_the_crontab_are_silent_but_for_the_proof(self):
        listen = self.serve("listen")
        wait_for(lambda: self.crawl_once() == 0, what="crawl")
        lines = self.crontab()
        self.assertEqual(len(lines), 3)
        self.assertNotIn("%", "".join(lines))  # cron reads it as the end of the line
        for line in [*lines[:2], *lines[:2]]:
            done = run(["/bin/sh", "-c", line], cwd=self.folder, env={"PATH": f"{BIN}:/usr/bin:/bin"})
            self.assertEqual((done.exit, done.stdout, done.stderr), (0, "", ""), line)
        code, verdict = self.proof()
        self.assertEqual(code, 0, verdict)
        self.assertRegex(verdict, r"^reconcile: equal: 50 keys on the left, 50 on the right")
        self.service.delete(next(iter(self.service.orders())))
        self.assertEqual(self.proof()[0], 1)
        self.assertIn("missing 1", self.proof()[1])
        self.stop("listen", listen)

    def test_what_only_the_operator_can_mend_does_not_start_again(self):
        for name, unit in UNITS.items():
            with self.subTest(name):
                process = self.serve(name, lambda words: [*words[:words.index("--") + 1], "no-such-tool"]) if name != "crawl" else \
                    self.serve(name, lambda words: [words[0], "https://127.0.0.1/orders/../..", *words[2:]])
                if name == "listen":
                    wait_for(lambda: self.database.stats()["streams"]["begun"] >= 1, what="listen")
                    self.database.put("orders/new", {"number": 1})
                _, message = process.communicate(timeout=60)
                self.assertTrue(message)
                self.assertIn(str(process.returncode), setting(unit, "RestartPreventExitStatus").split(), message)


if __name__ == "__main__":
    unittest.main()

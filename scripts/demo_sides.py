"""The two sides of the migration's demo, and the people who go on working on the old one meanwhile.

INFLIGHT_BIN says where the programs are.
"""
import http.client
import random
import threading
import time

from demo_postgres import postgres
from demo_run import Failed
from orders_server import OrdersServer
from rtdb_server import RtdbServer

REFUSED = [{"field": "/city", "value": "City 7", "message": "nothing is delivered to City 7"},
           {"field": "/lines/*/sku", "value": "SKU-0042", "message": "no such article: SKU-0042"}]


class Sides:
    """A Realtime Database with its documents, and a service on a Postgres of its own. Nothing here stops them: clean-up kills
    all that has the demo's environment."""

    def __init__(self, folder, documents):
        self.postgres = postgres(folder, "migration", "make demo-migration")
        self.service = OrdersServer(self.postgres, "--connections", "8", "--version-header", "X-Version")
        self.database = RtdbServer("--documents", str(documents))

    def start(self):
        for server in (self.postgres, self.service, self.database):
            server.__enter__()
        self.service.rules(refuse=REFUSED)

    def fail(self, seconds):
        self.service.rules(refuse=REFUSED, fail=[{"status": 503, "for": f"{seconds}s", "message": "closed for lunch"}])

    def strike(self):
        self.postgres.kill()
        self.service.kill()
        self.service.start()
        self.service.rules(refuse=REFUSED)

    def stored(self, table="orders"):
        """How many rows there are, or nothing while Postgres is down."""
        try:
            return int(self.postgres.sql(f"SELECT count(*) FROM {table}")[0][0])
        except RuntimeError:
            return None

    def documents(self):
        return self.database.get("orders")

    @staticmethod
    def lines(documents):
        """How many lines these have: an array, or an object where some were taken away."""
        every = (document.get("lines", []) for document in documents.values())
        return sum(line is not None for lines in every for line in (lines.values() if isinstance(lines, dict) else lines))


class People(threading.Thread):
    """Write, change and delete orders of the old side, so many a second, until they are told to stop."""

    def __init__(self, database, each_second):
        super().__init__(daemon=True)
        self.database, self.pause, self.random = database, 1 / each_second, random.Random(7)
        self.keys = list(database.get("orders", shallow="true"))
        self.written = self.changed = self.deleted = 0
        self.stopping, self.failure = threading.Event(), None

    def run(self):
        try:
            while not self.stopping.wait(self.pause):
                self.work()
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self.failure = error

    def stop(self):
        self.stopping.set()
        self.join()
        if self.failure:
            raise Failed(f"rtdb-emulator: {self.failure}")

    def work(self):
        at = self.random.randrange(len(self.keys))
        path = ["orders", self.keys[at]]
        step = self.random.randrange(100)
        if step < 45:
            self.database.patch(path, {"status": self.random.choice(["paid", "shipped"])})
        elif step < 50:
            self.database.patch([*path, "customer", "address"], {"city": self.random.choice(["City 7", "City 8"])})
        elif step < 60:  # and back again
            before = self.database.get(path)
            self.database.patch(path, {"status": "returned"})
            self.database.put(path, before)
            self.changed += 1
        elif step < 70:  # made again, when it was gone
            before = self.database.get(path)
            self.database.delete(path)
            self.database.put(path, {**before, "note": "made again"})
            self.deleted += 1
        elif step < 82:
            self.database.delete(path)
            self.keys[at] = self.keys[-1]
            self.keys.pop()
            self.deleted += 1
            return
        else:
            self.write(f"-M{self.written:08}")
            return
        self.changed += 1

    def write(self, key):
        sku = "SKU-0042" if self.written % 20 == 0 else f"SKU-{self.written:04}"
        self.database.put(["orders", key], {
            "number": 1_000_000 + self.written, "status": "new", "created": int(time.time() * 1000),
            "customer": {"name": "Ada", "email": "ada@example.com", "address": {"city": "City 8", "zip": "01234"}},
            "lines": [{"sku": sku, "quantity": 1 + self.written % 3, "cents": 1250}], "total": 12.5})
        self.keys.append(key)
        self.written += 1

    def last(self):
        """Once they have stopped: an order behind all that they have done."""
        self.write("-Z")
        return "-Z"

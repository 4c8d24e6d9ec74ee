"""The two databases of the swap's demo, each way that ENGINES= names: how the lines call them, how a dashboard asks them, how
the new one fails, and what they hold in the end.
"""
import contextlib
import http.client
import json
import os
import pathlib
import sqlite3
import sys
import urllib.parse

from demo_run import Failed

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
from harness import HttpServer  # noqa: E402

ROWS = ["create", "table = reading", "key = subject,time", "column = subject=subject", "column = time=time", "column = event=id",
        "column = status=/bsu/status", "column = power=/bsu/power/#text:float"]

OF_A_UNIT = "select time, power from reading where subject = '{unit}'"
TIMES = "--columns subject,time"


class Engines:
    """Nothing here stops what runs: clean-up kills all that has the demo's environment. $OLD and $NEW are the databases, and
    $LIVE is what shows how the live one fares. The id of an event is stored in `event`: what makes a reading another one is
    its unit and its time."""
    old_is = new_is = ""
    server_of_new = []  # what fail() kills
    options = {}  # files that the lines name: lines
    write_old, write_new, write_copy = "", "sql-write $NEW --options rows.opts", "sql-write $NEW --table reading"
    before = ""  # reads what the old one holds of before {to}
    times_of_old = ""  # reads which readings it holds

    def times_of_new(self):
        return f"sql-read $NEW --table reading {TIMES}"

    def new_before(self, to):
        return f"sql-read $NEW --key subject,time --query \"select * from reading where time < '{to}'\""

    def start(self):
        """Whatever runs."""

    def environment(self):
        raise NotImplementedError

    def ask_old(self, unit):
        """The times of a unit's readings, as a dashboard wants them that shows the unit."""
        raise NotImplementedError

    def ask_new(self, unit):
        raise NotImplementedError

    def fail(self):
        """The server of the new one is gone, until mend(); where there is none, nothing is."""

    def mend(self):
        pass

    def stored(self):
        """How many rows the new one has, or nothing while it is down."""
        raise NotImplementedError

    def events_of_old(self):
        """The ids of the events whose readings it holds, one for each point or row."""
        raise NotImplementedError

    def events_of_new(self):
        raise NotImplementedError

    def look(self):
        """Lines for somebody who wants to look into what runs."""
        return []


class InfluxToPostgres(Engines):
    old_is, new_is = "InfluxDB", "Postgres"
    server_of_new = ["Postgres"]
    options = {"rows.opts": ROWS,
               "points.opts": ["measurement = reading", "field = event=id:string", "field = status=/bsu/status:string",
                               "field = power=/bsu/power/#text:float"]}
    write_old = "influx-write $OLD --options points.opts"
    before = "influx-read $OLD --measurement reading --to {to}"
    times_of_old = f"influx-read $OLD --measurement reading {TIMES}"

    def __init__(self, folder):
        from demo_postgres import postgres
        from influx_server import InfluxServer, installed
        if not installed():
            raise Failed("not installed: influxdb; make demo-swap installs it, or scripts/setup swap")
        self.postgres = postgres(folder, "swap", "make demo-swap")
        self.influx, self.connection, self.session = InfluxServer(), None, None

    def start(self):
        for server in self.influx, self.postgres:
            server.__enter__()
        self.influx.create("bsu")

    def environment(self):
        ours = {name: value for name, value in self.postgres.environment.items() if not name.startswith("INFLUX")}
        return dict(ours, OLD=f"{self.influx.url}?db=bsu", NEW=self.postgres.url, LIVE=self.influx.url + self.query("bsu-00001"))

    @staticmethod
    def query(unit):
        return "/query?" + urllib.parse.urlencode({"db": "bsu", "q": OF_A_UNIT.format(unit=unit) + " and time > now() - 1h"})

    def ask_old(self, unit):
        if not self.connection:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.influx.port, timeout=30)
        self.connection.request("GET", self.query(unit))
        answer = self.connection.getresponse()
        result = json.loads(answer.read())["results"][0]
        if "error" in result:
            raise RuntimeError(result["error"])
        return [row[0] for series in result.get("series", []) for row in series["values"]]

    def ask_new(self, unit):
        if not self.session:
            self.session = self.postgres.session()
        when = "to_char(time at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
        query = OF_A_UNIT.format(unit=unit).replace("time,", f"{when},", 1)
        self.session.stdin.write(f"{query} and time > now() - interval '1 hour' order by time;\n\\echo .\n")
        self.session.stdin.flush()
        times = []
        for line in iter(self.session.stdout.readline, ".\n"):
            if "|" not in line:
                raise RuntimeError(line.strip() or "psql has ended")
            times.append(line.partition("|")[0])
        return times

    def fail(self):
        self.postgres.kill()

    def mend(self):
        self.postgres.start()

    def stored(self):
        try:
            return int(self.postgres.sql("select count(*) from reading")[0][0])
        except RuntimeError:
            return None

    def events_of_old(self):
        request = urllib.parse.urlencode({"db": "bsu", "q": 'select "event" from "reading"'})
        connection = http.client.HTTPConnection("127.0.0.1", self.influx.port, timeout=120)
        connection.request("GET", f"/query?{request}", headers={"Accept": "application/csv"})
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return [line.rpartition(",")[2] for line in lines[1:]]

    def events_of_new(self):
        return [event for event, in self.postgres.sql("select event from reading")]

    def look(self):
        return [f"curl -G '{self.influx.url}/query?db=bsu&pretty=true' --data-urlencode 'q=select * from reading limit 5'",
                f"psql '{self.postgres.socket_url}' -c 'select * from reading limit 5'"]


class Service(HttpServer):
    """What reads a SQLite file for others, since no server does: GET /UNIT."""

    def __init__(self, ask):
        super().__init__()
        self.ask = ask

    def handle(self, request):
        try:
            status, body = 200, json.dumps(self.ask(request.path.strip("/"))).encode()
        except sqlite3.Error as error:
            status, body = 500, str(error).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


class SqliteToSqlite(Engines):
    old_is, new_is = "old.db", "new.db"
    options = {"rows.opts": ROWS}
    write_old = "sql-write $OLD --options rows.opts"
    before = "sql-read $OLD --key subject,time --query \"select * from reading where time < '{to}'\""
    times_of_old = f"sql-read $OLD --table reading {TIMES}"

    def __init__(self, folder):
        self.folder, self.service = folder, Service(self.ask_old)

    def start(self):
        self.service.__enter__()

    def environment(self):
        return dict(os.environ, OLD="sqlite:old.db", NEW="sqlite:new.db", LIVE=f"{self.service.url}/bsu-00001")

    def rows(self, database, statement):
        with contextlib.closing(sqlite3.connect(f"file:{self.folder}/{database}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(statement).fetchall()

    def ask(self, database, unit):
        return [time for time, _ in self.rows(database, OF_A_UNIT.format(unit=unit) + " order by time")]

    def ask_old(self, unit):
        return self.ask("old.db", unit)

    def ask_new(self, unit):
        return self.ask("new.db", unit)

    def stored(self):
        try:
            return self.rows("new.db", "select count(*) from reading")[0][0]
        except sqlite3.Error:
            return None

    def events_of_old(self):
        return [event for event, in self.rows("old.db", "select event from reading")]

    def events_of_new(self):
        return [event for event, in self.rows("new.db", "select event from reading")]


ENGINES = {"influx-postgres": InfluxToPostgres, "sqlite": SqliteToSqlite}

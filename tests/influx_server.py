"""A real InfluxDB 1.x for a test: its own folder, a free port, and what it holds.

    with InfluxServer() as influx:
        influx.create("bsu")
        run([tool("influx-write"), influx.url + "?db=bsu"], stdin=...)
        assert influx.query("bsu", "select * from record") == [{"time": …, "subject": …, …}]
"""
import base64
import contextlib
import http.client
import json
import os
import pathlib
import time
import urllib.error
import urllib.parse
import urllib.request

from harness import Server

CONFIG = """reporting-enabled = false
bind-address = "127.0.0.1:0"
[meta]
  dir = "{dir}/meta"
[data]
  dir = "{dir}/data"
  wal-dir = "{dir}/wal"
  index-version = "{index}"
  {more_data}
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
  auth-enabled = {auth}
  max-body-size = {max_body}
[logging]
  level = "error"
"""
PROGRAM = next((path for path in ("/usr/bin/influxd", "/usr/sbin/influxd") if os.path.exists(path)), "influxd")


class InfluxServer(Server):
    """With `auth`, `user` and `password` are its administrator's."""
    user, password = "admin", "pa:ss word"

    def __init__(self, auth=False, max_body=25_000_000, index="tsi1", more_data=""):
        super().__init__([PROGRAM, "-config", "{dir}/influxdb.conf", "-pidfile", "{dir}/pid-of-{port}"], ready=None)
        self._settings = {"auth": str(auth).lower(), "max_body": max_body, "index": index}
        self.auth, self._without_user, self.more_data = auth, auth, more_data

    def launch(self):
        (self.dir / "influxdb.conf").write_text(CONFIG.format(dir=self.dir, port=self.port, more_data=self.more_data, **self._settings))
        super().launch()

    def start(self):
        super().start()
        if self._without_user:
            self.ask(f"create user {self.user} with password '{self.password}' with all privileges")
            self._without_user = False
        return self

    def create(self, database, *more):
        self.ask(f'create database "{database}" {" ".join(more)}')

    def ask(self, statement, database="", epoch="ns"):
        """The first result's series."""
        text = urllib.parse.urlencode({"q": statement, "db": database, "epoch": epoch, "chunked": "false"})
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/query", data=text.encode())
        if self.auth:
            token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        # One of many pollers of a server that has just been started may still be cut off.
        for attempt in range(3):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    result = json.load(answer)["results"][0]
                break
            except (ConnectionError, http.client.RemoteDisconnected):
                if attempt == 2:
                    raise
                time.sleep(0.1)
        if "error" in result:
            raise RuntimeError(f"{statement}: {result['error']}")
        return result.get("series", [])

    def query(self, database, statement):
        """Rows as dicts without nulls, times in nanoseconds; a row of a group by has its tags, too."""
        rows = []
        for series in self.ask(statement, database):
            for values in series["values"]:
                row = dict(zip(series["columns"], values))
                row.update({name: value for name, value in series.get("tags", {}).items() if value != ""})
                rows.append({name: value for name, value in row.items() if value is not None})
        return rows

    def count(self, database, field="n", measurement="record"):
        rows = self.query(database, f'select count("{field}") from "{measurement}"')
        return rows[0]["count"] if rows else 0

    def is_ready(self):
        with contextlib.suppress(urllib.error.URLError, ConnectionError, http.client.HTTPException):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=10) as answer:
                return answer.status == 204
        return False


def installed():
    return pathlib.Path(PROGRAM).exists()

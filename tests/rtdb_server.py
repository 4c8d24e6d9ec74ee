"""rtdb-emulator as tests use it: a private one on loopback, its REST API, its streams and its switches.

    with RtdbServer("--documents", "100") as db:
        db.put("orders/1", {"a": 1})
        run([tool("crawl"), db.url + "/orders"])
"""
import contextlib
import http.client
import json
import urllib.parse

from harness import Server, tool


class RtdbServer(Server):
    """Options are those of rtdb-emulator. It keeps its port when it is killed and started again."""

    def __init__(self, *options):
        super().__init__([tool("rtdb-emulator"), "--port", "{port}", *options])

    def raw(self, method, target, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def target(self, path, arguments):
        """Of a path as text, or as a list of keys that are escaped."""
        if not isinstance(path, str):
            path = "/".join(urllib.parse.quote(key, safe="") for key in path)
        query = "?" + urllib.parse.urlencode(arguments) if arguments else ""
        return f"/{path}.json{query}"

    def request(self, method, path, body=None, headers=None, **arguments):
        return self.raw(method, self.target(path, arguments), body, headers)

    def json(self, method, path, value=None, **arguments):
        body = None if method == "GET" else json.dumps(value).encode()
        status, _, text = self.request(method, path, body, **arguments)
        assert status == 200, (status, text)
        return json.loads(text)

    def get(self, path, **arguments):
        return self.json("GET", path, **arguments)

    def put(self, path, value, **arguments):
        return self.json("PUT", path, value, **arguments)

    def patch(self, path, value, **arguments):
        return self.json("PATCH", path, value, **arguments)

    def delete(self, path, **arguments):
        return self.json("DELETE", path, **arguments)

    def control(self, **switches):
        status, _, text = self.raw("POST", "/control?" + urllib.parse.urlencode(switches))
        assert status == 200, text

    def stats(self):
        return json.loads(self.raw("GET", "/stats")[2])

    def stream(self, path, **arguments):
        return Stream(self.port, self.target(path, arguments))


class Stream:
    """Server-sent events of one location."""

    def __init__(self, port, target):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.request("GET", target, headers={"Accept": "text/event-stream"})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answer.close()
        self.connection.close()

    def next(self, keep_alive=False):
        """(event, data), or None at the end."""
        while True:
            name, data = None, None
            while line := self.answer.readline().decode().rstrip("\n"):
                field, _, value = line.partition(": ")
                name, data = (value, data) if field == "event" else (name, json.loads(value))
            if name is None:
                return None
            if keep_alive or name != "keep-alive":
                return name, data

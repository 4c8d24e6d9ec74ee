"""A REST service within the test: documents by path, made once per idempotency key; it counts, and fails by rule."""
import collections
import contextlib
import json
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import HttpServer  # noqa: E402

Asked = collections.namedtuple("Asked", "method path headers body")


class RestServer(HttpServer):
    """`rule(asked, server)` answers first: None (served as usual), a status, (status, body) or (status, body, headers)."""

    def __init__(self, rule=None, delay=lambda: 0):
        super().__init__()
        self.rule, self.delay = rule, delay
        self.lock = threading.Lock()
        self.asked, self.documents, self.keys = [], {}, {}
        self.history = collections.defaultdict(list)  # what was done to a path, in order
        self.under_way, self.most, self.side_by_side = collections.Counter(), 0, 0

    def handle(self, request):
        length = int(request.headers.get("Content-Length") or 0)
        asked = Asked(request.command, request.path, request.headers, request.rfile.read(length))
        with self.lock:
            self.asked.append(asked)
            self.under_way[asked.path] += 1
            self.most = max(self.most, self.under_way.total())
            self.side_by_side += self.under_way[asked.path] > 1
        time.sleep(self.delay())
        answer = self.rule(asked, self) if self.rule else None
        with self.lock:
            if answer is None:
                answer = self.keys.get(asked.headers["Idempotency-Key"]) if asked.headers["Idempotency-Key"] else None
                answer = answer or self.serve(asked)
            self.under_way[asked.path] -= 1
        self.send(request, *(answer if isinstance(answer, tuple) else (answer,)))

    def serve(self, asked):
        if asked.method == "GET":
            return (200, self.documents[asked.path]) if asked.path in self.documents else 404
        self.history[asked.path].append(None if asked.method == "DELETE" else asked.body)
        if asked.method == "DELETE":
            status = 204 if self.documents.pop(asked.path, None) is not None else 404
        else:
            status = 200 if asked.path in self.documents else 201
            self.documents[asked.path] = asked.body
        if asked.headers["Idempotency-Key"]:
            self.keys[asked.headers["Idempotency-Key"]] = (status,)
        return (status,)

    @staticmethod
    def send(request, status, body=b"", headers=()):
        body = body.encode() if isinstance(body, str) else body
        request.send_response(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            request.send_header(name, value)
        if status != 204 and "content-length" not in names:
            request.send_header("Content-Length", str(len(body)))
        # At once: a second write would wait for the first one's acknowledgement.
        request._headers_buffer.append(b"\r\n" + (b"" if status == 204 else body))  # pylint: disable=protected-access
        with contextlib.suppress(OSError):
            request.flush_headers()


def event(n, data=None, **more):
    attributes = {"specversion": "1.0", "id": f"e{n}", "source": "test", "type": "t", "subject": f"s{n}",
                  "recordedtime": f"2018-07-01T00:00:00.{n:06}Z", **more}
    return attributes if data is None else {**attributes, "data": data}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)

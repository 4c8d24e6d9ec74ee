"""What InfluxDB 2 and 3 answer to writes, as their documentation says, for tests: neither is packaged.

    with InfluxStub(version=3) as influx:
        influx.faults = [("status", 503, {"Retry-After": "1"}, "busy"), ("cut",)]   # for the next requests
        run([tool("influx-write"), influx.url + "/api/v3/write_lp?db=x"], stdin=...)
        influx.points   # (measurement, tags, time) -> fields

2.x (docs.influxdata.com/influxdb/v2, "Troubleshoot issues writing data"; influxdata/docs-v2#6071): a line that cannot be
parsed refuses the whole request (400, `unable to parse`); points that conflict with the schema are dropped and the others
are written (422, `partial write: … dropped=N`).

3.x (docs.influxdata.com/influxdb3/core, "Use the v3 write_lp API"): the good lines are written, the bad ones are listed by
number (400, `partial write of line protocol occurred`).

It reads line protocol with a parser of its own, so that what we write is judged by somebody else's eyes.
"""
import contextlib
import gzip
import json
import pathlib
import re
import socket
import sys
import threading
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import HttpServer  # noqa: E402

UNITS = {"ns": 1, "u": 10**3, "us": 10**3, "ms": 10**6, "s": 10**9, "nanosecond": 1, "microsecond": 10**3, "millisecond": 10**6,
         "second": 10**9}


def split_unescaped(text, separator, opens=lambda part: False):
    """At each `separator` that no backslash precedes and that stands in no quotes; those begin where opens(what stands before)."""
    parts, part, quoted, i = [], "", False, 0
    while i < len(text):
        c = text[i]
        if c == "\\" and i + 1 < len(text):
            part += text[i:i + 2]
            i += 2
            continue
        if c == '"' and (quoted or opens(part)):
            quoted = not quoted
        if c == separator and not quoted:
            parts.append(part)
            part = ""
        else:
            part += c
        i += 1
    return parts + [part]


def plain(text):
    return re.sub(r"\\([,= ])", r"\1", text)


def split_lines(text):
    """At line breaks outside of the quotes of a field's text. A quote counts behind an unescaped `=` only."""
    return [line for line in split_unescaped(text, "\n", lambda part: part.endswith("=")) if line]


def value_of(text):
    """The type and value of a field."""
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return "string", re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if text in ("t", "T", "true", "True", "f", "F", "false", "False"):
        return "boolean", text[0] in "tT"
    if re.fullmatch(r"-?\d+i", text) and -2**63 <= int(text[:-1]) < 2**63:
        return "integer", int(text[:-1])
    if re.fullmatch(r"\d+u", text) and int(text[:-1]) < 2**64:
        return "uinteger", int(text[:-1])
    if re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text) and abs(float(text)) != float("inf"):
        return "float", float(text)
    raise ValueError("invalid field value")


def parse(line, unit):
    """(measurement, tags, time), fields as name -> (type, value)."""
    head, *rest = split_unescaped(line, " ", lambda part: True)
    if len(rest) != 2:
        raise ValueError("missing fields or time" if len(rest) < 2 else "found trailing content")
    measurement, *tags = split_unescaped(head, ",")
    pairs = {}
    for tag in tags:
        name, *value = split_unescaped(tag, "=")
        if len(value) != 1 or not name or not value[0]:
            raise ValueError("missing tag value")
        pairs[plain(name)] = plain(value[0])
    fields = {}
    for field in split_unescaped(rest[0], ",", lambda part: True):
        name, *value = split_unescaped(field, "=", lambda part: True)
        if len(value) != 1 or not name or plain(name) in fields:
            raise ValueError("invalid field format")
        fields[plain(name)] = value_of(value[0])
    if not measurement or not fields:
        raise ValueError("missing measurement or fields")
    return (plain(measurement), tuple(sorted(pairs.items())), int(rest[1]) * unit), fields


class InfluxStub(HttpServer):
    def __init__(self, version, token=None, max_body=None, shuffle=None):
        super().__init__()
        self.version, self.token, self.max_body = version, token, max_body
        self.points, self.types, self.requests, self.faults = {}, {}, [], []
        self.always = None  # a fault for each request
        self.shuffle = shuffle  # what becomes of a list of refused lines before it is sent
        self.lock = threading.Lock()

    # ---- one request

    def handle(self, handler):
        with self.lock:
            fault = self.faults.pop(0) if self.faults else self.always
        length = int(handler.headers.get("Content-Length", 0))
        if fault and fault[0] == "cut":  # before the body is read
            handler.close_connection = True
            with contextlib.suppress(OSError):
                handler.connection.shutdown(socket.SHUT_RDWR)
            return
        body = handler.rfile.read(length)
        if fault and fault[0] == "cut after":
            self.write(handler, body)
            handler.close_connection = True
            with contextlib.suppress(OSError):
                handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault and fault[0] == "hang":
            fault[1].wait(60)
            handler.close_connection = True
            return
        if fault:
            _, status, headers, text = fault
            return self.send(handler, status, text, headers)
        if self.max_body and length > self.max_body:
            return self.send(handler, 413, {"code": "request too large", "message": "cannot read data: points batch is too large"})
        if self.token and handler.headers.get("Authorization") != f"{'Bearer' if self.version == 3 else 'Token'} {self.token}":
            return self.send(handler, 401, {"code": "unauthorized", "message": "unauthorized access"})
        return self.send(handler, *self.write(handler, body))

    @staticmethod
    def send(handler, status, text, headers=None):
        data = text if isinstance(text, bytes) else json.dumps(text).encode() if isinstance(text, dict) else text.encode()
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(data if status != 204 else b"")

    def write(self, handler, body):
        address = urllib.parse.urlparse(handler.path)
        arguments = dict(urllib.parse.parse_qsl(address.query))
        if address.path != ("/api/v2/write" if self.version == 2 else "/api/v3/write_lp"):
            return 404, {"code": "not found", "message": "path not found"}
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        unit = UNITS[arguments["precision"]]
        if self.version == 2 and arguments.get("bucket") == "missing":
            return 404, {"code": "not found", "message": 'bucket "missing" not found'}
        with self.lock:
            lines = split_lines(body.decode())
            self.requests.append(len(lines))
            return self.write_2(lines, unit) if self.version == 2 else self.write_3(lines, unit)

    def store(self, key, fields):
        """None, or why the point is refused."""
        for name, (kind, _) in fields.items():
            there = self.types.get((key[0], name), kind)
            if there != kind:
                return name, kind, there
        for name, (kind, _) in fields.items():
            self.types[(key[0], name)] = kind
        self.points.setdefault(key, {}).update({name: value for name, (_, value) in fields.items()})
        return None

    def write_2(self, lines, unit):
        points = []
        for line in lines:
            try:
                points.append(parse(line, unit))
            except ValueError as why:
                return 400, {"code": "invalid", "message": f"unable to parse '{line}': {why}"}
        refused = [(key, why) for key, fields in points if (why := self.store(key, fields))]
        if not refused:
            return 204, ""
        (measurement, _, _), (name, kind, there) = refused[0]
        return 422, {"code": "unprocessable entity", "message":
                     f'failure writing points to database: partial write: field type conflict: input field "{name}" on '
                     f'measurement "{measurement}" is type {kind}, already exists as type {there} dropped={len(refused)}'}

    def write_3(self, lines, unit):
        refused = []
        for number, line in enumerate(lines, 1):
            try:
                key, fields = parse(line, unit)
                if why := self.store(key, fields):
                    name, kind, there = why
                    raise ValueError(f"invalid column type for column '{name}', expected iox::column_type::field::{there}, "
                                     f"got iox::column_type::field::{kind}")
            except ValueError as why:
                refused.append({"original_line": line[:100], "line_number": number, "error_message": str(why)})
        if not refused:
            return 204, ""
        if self.shuffle:
            refused = self.shuffle(refused, len(lines))
        return 400, {"error": "partial write of line protocol occurred", "data": refused}

"""orders-api as tests use it: on a Postgres of the test's own, its orders, its rules and its counters.

    with Postgres() as pg, OrdersServer(pg, "--connections", "5") as api:
        api.put("17", order(17))
        api.rules(refuse=[{"field": "/status", "value": "lost", "message": "lost is no status"}])
        run([tool("http-write"), api.url + "/orders/{subject}"], stdin=records)
        assert api.orders() == {"17": order(17)}
"""
import contextlib
import http.client
import json
import urllib.parse

from harness import Server, tool


class OrdersServer(Server):
    """Options are those of orders-api. It keeps its port when it is killed and started again, but not its rules."""

    def __init__(self, postgres, *options):
        super().__init__([tool("orders-api"), postgres.url, "--port", "{port}", *options], env=postgres.environment)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if isinstance(body, (dict, list)) else body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    @staticmethod
    def path(key):
        return "/orders/" + urllib.parse.quote(key, safe="")

    def put(self, key, document, **headers):
        """The status."""
        return self.request("PUT", self.path(key), document, self.named(headers))[0]

    def delete(self, key, **headers):
        return self.request("DELETE", self.path(key), None, self.named(headers))[0]

    @staticmethod
    def named(headers):
        return {name.replace("_", "-"): str(value) for name, value in headers.items()}

    def get(self, key):
        """The order, without its key, or None."""
        status, _, text = self.request("GET", self.path(key))
        assert status in (200, 404), (status, text)
        return self.document(text) if status == 200 else None

    def orders(self):
        """All of them by key, in the order of the list."""
        status, _, text = self.request("GET", "/orders")
        assert status == 200, (status, text)
        return {json.loads(line)["key"]: self.document(line) for line in text.splitlines()}

    @staticmethod
    def document(text):
        order_with_key = json.loads(text)
        del order_with_key["key"]
        return order_with_key

    def rules(self, **rules):
        """In place of those before; none: it serves all again."""
        status, _, text = self.request("PUT", "/_rules", rules)
        assert status == 204, (status, text)

    def stats(self):
        return json.loads(self.request("GET", "/_stats")[2])

    def reset_stats(self):
        self.request("DELETE", "/_stats")


def order(number, status="paid", lines=1, **more):
    return {"number": number, "status": status, **more,
            "lines": [{"sku": f"SKU-{number}-{n}", "quantity": n + 1, "cents": 100 * n} for n in range(lines)]}

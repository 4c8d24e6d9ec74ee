"""The stores of the demo as servers of its own: InfluxDB, Redis, and Swift as S3, as the tests start them."""
import http.client
import os
import pathlib
import shutil
import sys
import tempfile
import time

from demo_run import Failed
from demo_stores import Reading, Status, Stores, ids_of_object

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
from influx_server import InfluxServer, installed  # noqa: E402
from redis_server import Client, Redis, RedisError  # noqa: E402
from s3_server import Swift, missing  # noqa: E402

BUCKET, PREFIX = "bsu-archive", "raw"
ANOTHER = "another folder: TMPDIR=FOLDER make demo SERVERS=1"
SOCKET_LIMIT = 107 - len("/inflight-test-12345678/redis.sock")  # sockaddr_un, unix(7)


class Servers(Stores):
    begins = "InfluxDB, Redis and Swift, which speaks S3, are started for them."
    options = {"cache.opts": ["key = bsu:{subject}", "field = status=/bsu/status", "field = power=/bsu/power/#text",
                              "field = health=/bsu/health/#text"],
               # The event's id is a field: what makes a point another one is its unit and its time.
               "points.opts": ["measurement = reading", "field = event=id:string", "field = status=/bsu/status:string",
                               "field = power=/bsu/power/#text:float", "field = health=/bsu/health/#text:float"]}
    archive = f"s3-archive put s3://{BUCKET}/{PREFIX}"
    archive_is, status_is, readings_are = "the bucket's objects", "hashes in Redis", "points in InfluxDB"
    doubled_is = "in two points, objects or letters"  # a point that is written twice is one point
    errors = (RuntimeError, http.client.HTTPException, RedisError)

    def __init__(self, folder):
        absent = [*missing("redis-server", *Swift.programs), *([] if installed() else ["influxd"])]
        if absent:
            raise Failed(f"not installed: {' '.join(absent)}; make demo SERVERS=1 installs them, or scripts/setup servers")
        if len(folder) > SOCKET_LIMIT:
            raise Failed(f"{folder}: too long a name for the socket of Redis in it; {ANOTHER}")
        try:
            os.setxattr(folder, "user.inflight", b"demo")
        except OSError as error:
            raise Failed(f"{folder}: no extended attributes, which Swift needs: {error.strerror}; {ANOTHER}") from error
        tempfile.tempdir = folder  # where they make theirs
        self.influx, self.redis, self.s3 = InfluxServer(), Redis(port=True), Swift(folder)

    def start(self):
        """Nothing here stops them: clean-up kills all that has the demo's environment."""
        for server in (self.influx, self.redis, self.s3):
            server.__enter__()
        self.influx.create("bsu")
        self.s3.make_bucket(BUCKET)
        self.status = f"redis-write {self.redis.tcp} --options cache.opts"
        self.readings = f"influx-write {self.influx.url}?db=bsu --options points.opts"

    def environment(self):
        """Without whatever the user has for servers of his own."""
        ours = self.s3.environment()
        return {name: value for name, value in ours.items() if not name.startswith(("INFLUX", "REDIS"))}

    def strike(self):
        self.influx.kill()
        return "influxd"

    def mend(self):
        self.influx.start()

    def read_archive(self):
        if not self.s3.catch_up():
            raise Failed("Swift's list of objects is not complete")
        for key in self.s3.client.keys(BUCKET, PREFIX + "/"):
            yield from ids_of_object(input=self.s3.client.get(BUCKET, key))

    def read_readings(self):
        for row in self.influx.query("bsu", 'select "subject", "event", "power" from "reading"'):
            seconds, nanoseconds = divmod(row["time"], 10**9)
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            yield Reading(row["subject"], f"{at}.{nanoseconds:09}Z", row["event"], row.get("power"))

    def read_status(self):
        redis = Client(port=self.redis.port)
        keys = redis("KEYS", "bsu:*")
        for key in keys:
            redis.send("HMGET", key, "updated_at", "status", "power", "health")
        for key in keys:
            at, state, power, health = redis.reply()
            yield Status(key.removeprefix("bsu:"), at, state, float(power), float(health))
        redis.close()

    def look(self):
        s3 = {name: value for name, value in self.s3.environment().items() if name in
              ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        return [f"curl -G '{self.influx.url}/query?db=bsu&pretty=true' --data-urlencode 'q=select * from reading limit 5'",
                f"redis-cli -p {self.redis.port} hgetall bsu:bsu-00001",
                " ".join(f"{name}={value}" for name, value in s3.items()) +
                f" {os.path.relpath(shutil.which('s3-archive'))} ls s3://{BUCKET}/{PREFIX}"]

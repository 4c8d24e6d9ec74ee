"""Job 1 on real servers - InfluxDB, Redis, Swift's S3 - while kill -9 meets any process of its lines and of these: nothing
lost, nothing doubled, by what the servers hold (job1.py).

What a Redis that is killed keeps depends on its configuration; this one has appendonly yes and appendfsync always.
"""
import base64
import collections
import http.client
import os
import unittest

from job1 import CONVERT, Down, Job, Seeds, nanoseconds, newest

from influx_server import InfluxServer
from redis_server import Redis, RedisError
from s3_server import Swift

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "10"))
FIELDS = {"id", "recordedtime", "power", "status", "note"}


class Servers(Job):
    LINES = {
        "fetch": ["bsu-fetch", "--devices", "fleet.txt", "--every", "1s", "--", "publish", "fleet/"],
        "backfill": ["consume", "fleet/", "--as", "backfill", "--", "s3-archive", "put", "s3://archive/raw ä", "--max-records", "700",
                     "--max-age", "400ms", "--multipart", "5MiB"],
        "monitoring": ["consume", "fleet/", "--as", "monitoring", "--",
                       f"{CONVERT} | redis-write REDIS --key bsu:{{subject}} --field id=id --field power=/bsu/power/#text"
                       " --field status=/bsu/status"],
        "data": ["consume", "fleet/", "--as", "data", "--",
                 f"{CONVERT} | influx-write INFLUX?db=bsu --field id=id --field recordedtime=recordedtime"
                 " --field power=/bsu/power/#text:float --field status=/bsu/status:string --field note=/bsu/note:string"],
    }

    def prepare(self):
        self.influx, self.redis, self.s3 = InfluxServer(), Redis(), Swift()
        # Not memcached: Swift's proxy does not ask it again for a minute, and answers 500.
        self.servers = {"influxd": self.influx, "redis-server": self.redis, **dict.fromkeys(Swift.crash, self.s3)}
        for server in self.influx, self.redis, self.s3:
            server.__enter__()
        self.influx.create("bsu")
        self.s3.make_bucket("archive")
        self.LINES = {name: [word.replace("INFLUX", self.influx.url).replace("REDIS", self.redis.url) for word in words]
                      for name, words in self.LINES.items()}

    def environment(self):
        return self.s3.environment()

    def note(self, count):
        """Now and then so much in a file that its archive object goes in parts."""
        if count == 300 and self.random.random() < 0.3:
            return lambda: base64.b64encode(self.random.randbytes(30_000)).decode()
        return super().note(count)

    # ---- what the servers hold

    def objects(self, seen):
        for key in self.s3.client.keys("archive"):
            if key not in seen:
                yield key, self.s3.client.get("archive", key)

    def not_stored(self, name, positions):
        try:
            return {"backfill": self.not_in_s3, "monitoring": self.not_in_redis, "data": self.not_in_influx}[name](positions)
        except (OSError, http.client.HTTPException, RedisError, RuntimeError) as error:
            raise Down from error

    def not_in_s3(self, positions):
        positions = self.not_archived(positions)
        if positions and not self.s3.catch_up():
            raise Down
        return self.not_archived(positions)

    def not_in_redis(self, positions):
        client = self.redis.client()
        try:
            times = {self.expected[p].subject: client("HGET", f"bsu:{self.expected[p].subject}", "updated_at") for p in positions}
        finally:
            client.close()
        return self.older(positions, {subject: nanoseconds(time) for subject, time in times.items() if time})

    def not_in_influx(self, positions):
        by_day = collections.defaultdict(list)
        for p in positions:
            if self.expected[p].time is not None:
                by_day[self.expected[p].time // (86400 * 10**9)].append(self.expected[p].time)
        there = set()
        for times in by_day.values():
            rows = self.influx.query("bsu", f"select id from record where time >= {min(times)} and time <= {max(times)} group by subject")
            there.update((row["subject"], row["time"]) for row in rows)
        return {p for p in positions if (self.expected[p].subject, self.expected[p].time) not in there}

    def compare_archive(self, test, lines):
        test.assertTrue(self.s3.catch_up())
        super().compare_archive(test, lines)

    def compare_stores(self, test, good):
        wanted = {(e.subject, e.time): {name: e.columns[name] for name in FIELDS & e.columns.keys()} for e in good}
        for fields in wanted.values():
            fields["power"] = float(fields["power"])
        rows = self.influx.query("bsu", "select * from record group by subject")
        found = {(row.pop("subject"), row.pop("time")): row for row in rows}
        test.assertEqual(len(found), len(rows), "a point stands twice in InfluxDB")
        test.assertEqual(wanted.keys() - found.keys(), set(), "not in InfluxDB")
        test.assertEqual(found.keys() - wanted.keys(), set(), "in InfluxDB, but not in the journal")
        test.assertEqual([key for key in wanted if wanted[key] != found[key]], [], "other fields than in the journal")

        latest = newest(good)
        test.assertEqual(set(self.redis("KEYS", "*")), {f"bsu:{subject}" for subject in latest})
        for subject, e in latest.items():
            stored = self.redis.hash(f"bsu:{subject}")
            test.assertEqual(nanoseconds(stored["updated_at"]), e.time, f"{subject} is not the newest")
            test.assertEqual({**self.redis.fields(f"bsu:{subject}"), "power": float(stored["power"])},
                             {"id": e.id, "power": float(e.columns["power"]), "status": e.columns["status"]})

        test.assertEqual(self.s3.client.uploads("archive"), [], "uploads that nobody has completed")
        keys = self.s3.client.keys("archive")
        self.in_parts = sum("-" in self.s3.client.etag("archive", key) for key in keys)
        self.stored = f"{len(found)} points, {len(latest)} hashes, {len(keys)} objects, {self.in_parts} of them in parts"

    def more(self):
        return self.stored


class Job1OnServers(Seeds, unittest.TestCase):
    job, rounds, rounds_per_seed = Servers, ROUNDS, 10 if ROUNDS <= 40 else 50

    def test_the_fleet_loses_and_doubles_nothing_whatever_is_killed(self):
        if Swift.missing():
            self.skipTest(f"not installed: {Swift.missing()}")
        self.all_seeds()


if __name__ == "__main__":
    unittest.main(verbosity=2)

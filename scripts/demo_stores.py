"""What the stores of the demo hold, read back from what stands on the disk: no counter of any tool has a part in it."""
import dataclasses
import json
import os
import sqlite3
import subprocess


@dataclasses.dataclass
class Stores:
    fetched: list  # ids of the events in the exchange's journal
    archived: list  # ids of those in the objects of the archive
    stored: list  # ids of those that became a row of readings.db
    dead: list  # ids of the dead letters of data
    units: int  # rows of status.db
    stale: int  # units whose status is not that of their newest reading
    lost: int
    doubled: int


def time_key(text):
    """An RFC 3339 time of the tools as text that sorts: they write a fraction without zeros at its end."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")


def journal(folder):
    for name in sorted(os.listdir(folder)):
        if name.endswith(".ndjson"):
            with open(f"{folder}/{name}", "rb") as file:
                yield from (json.loads(line)["id"] for line in file)


def archive(folder):
    for where, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".ndjson.zst") and "/." not in where[len(folder):]:
                done = subprocess.run(["zstd", "-dcq", f"{where}/{name}"], stdout=subprocess.PIPE, check=True)
                yield from (json.loads(line)["id"] for line in done.stdout.splitlines())


def letters(exchange, subscriber):
    file = f"{exchange}/subscribers/{subscriber}/dead.ndjson"
    if not os.path.exists(file):
        return []
    with open(file, "rb") as lines:
        return [json.loads(line)["event"]["id"] for line in lines]


def read_back(folder, readings, status):
    fetched, archived = list(journal(f"{folder}/fleet")), list(archive(f"{folder}/archive"))
    stored = [event for event, in readings.execute("select event from reading")]
    dead, dead_status = (letters(f"{folder}/fleet", subscriber) for subscriber in ("data", "monitoring"))
    newest = {}
    for unit, time in readings.execute("select subject, time from reading"):
        newest[unit] = max(time, newest.get(unit, time), key=time_key)
    now = dict(status.execute("select subject, time from status"))
    events = set(fetched)
    return Stores(
        fetched, archived, stored, dead, len(now),
        stale=sum(now.get(unit) != time for unit, time in newest.items()),
        lost=len(events - set(archived)) + len(events - set(stored) - set(dead)) + len(newest.keys() - now.keys()),
        doubled=sum(len(ids) - len(set(ids)) for ids in (fetched, archived, stored + dead, dead_status)))

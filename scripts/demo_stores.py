"""What the exchange and the stores of the demo hold, read back and compared: no counter of any tool has a part in it.

demo_embedded.py and demo_servers.py are the stores, each with the members of Stores.
"""
import collections
import dataclasses
import json
import os
import subprocess

Reading = collections.namedtuple("Reading", "unit time event power")  # event: the id of the one that it comes from
Status = collections.namedtuple("Status", "unit time state power health")


class Stores:
    """What the three subscribers write to. All of it stands in the demo's folder, which clean-up removes; processes have the
    demo's environment, by which clean-up finds them."""
    begins = ""  # said before start()
    options = {}  # files that the sinks name: lines
    archive = status = readings = ""  # the sinks, as they stand in the lines
    archive_is = status_is = readings_are = doubled_is = ""  # what the report calls that which it counts
    errors = ()  # what reading back may raise, beside Failed and OSError

    def start(self):
        """Whatever runs; the sinks may be named only then."""

    def environment(self):
        """Of the lines."""
        return dict(os.environ)

    def strike(self):
        """SIGKILL a server; returns its name, or nothing where there is none."""
        return ""

    def mend(self):
        """Start it again."""

    def read_archive(self):
        """The ids of all events in its objects."""
        raise NotImplementedError

    def read_readings(self):
        raise NotImplementedError

    def read_status(self):
        raise NotImplementedError

    def look(self):
        """Lines for somebody who wants to look into what runs."""
        return []


@dataclasses.dataclass
class Held:
    fetched: list  # ids of the events in the exchange's journal
    archived: list  # ids of those in the objects of the archive
    readings: list
    status: list
    dead: list  # ids of the dead letters of data
    stale: int  # units whose status is not that of their newest reading
    lost: int
    doubled: int


def instant(text):
    """An RFC 3339 time of the tools as text that sorts: they write a fraction without zeros at its end."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}Z"


def journal(folder):
    for name in sorted(os.listdir(folder)):
        if name.endswith(".ndjson"):
            with open(f"{folder}/{name}", "rb") as file:
                yield from ids(file)


def ids(lines):
    return (json.loads(line)["id"] for line in lines)


def ids_of_object(**source):
    """Of an object of the archive, given to zstd as its stdin=FILE or its input=BYTES."""
    done = subprocess.run(["zstd", "-dcq"], **source, stdout=subprocess.PIPE, check=True)
    return ids(done.stdout.splitlines())


def ids_of_archive(folder):
    for where, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".ndjson.zst") and "/." not in where[len(folder):]:  # what is in the spool is not in the archive
                with open(f"{where}/{name}", "rb") as file:
                    yield from ids_of_object(stdin=file)


def letters(exchange, subscriber):
    file = f"{exchange}/subscribers/{subscriber}/dead.ndjson"
    if not os.path.exists(file):
        return []
    with open(file, "rb") as lines:
        return [json.loads(line)["event"]["id"] for line in lines]


def read_back(exchange, stores):
    fetched, archived = list(journal(exchange)), list(stores.read_archive())
    readings, status = list(stores.read_readings()), sorted(stores.read_status())
    dead, dead_status = (letters(exchange, subscriber) for subscriber in ("data", "monitoring"))
    newest = {}
    for reading in readings:
        newest[reading.unit] = max(reading.time, newest.get(reading.unit, reading.time))
    now = {unit.unit: unit.time for unit in status}
    stored = [reading.event for reading in readings]
    events = set(fetched)
    return Held(
        fetched, archived, readings, status, dead,
        stale=sum(now.get(unit) != time for unit, time in newest.items()),
        lost=len(events - set(archived)) + len(events - set(stored) - set(dead)) + len(newest.keys() - now.keys()),
        doubled=sum(len(found) - len(set(found)) for found in (fetched, archived, stored + dead, dead_status)))

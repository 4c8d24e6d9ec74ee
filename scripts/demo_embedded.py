"""The stores of the demo that need no server: a directory for the archive, SQLite files for status and readings."""
import sqlite3

from demo_stores import Reading, Status, Stores, ids_of_archive, instant

COLUMNS = ["column = subject=subject", "column = time=time", "column = status=/bsu/status",
           "column = power=/bsu/power/#text:float", "column = health=/bsu/health/#text:float"]


class Embedded(Stores):
    options = {"status.opts": ["create", "table = status", "key = subject", "on-conflict = newer:time", *COLUMNS],
               "readings.opts": ["create", "table = reading", "key = subject,time", "column = event=id", *COLUMNS]}
    archive = "s3-archive put archive/"
    status = "sql-write sqlite:status.db --options status.opts"
    readings = "sql-write sqlite:readings.db --options readings.opts"
    archive_is, status_is, readings_are = "the archive's objects", "rows of status.db", "rows of readings.db"
    doubled_is = "in two rows, objects or letters"
    errors = (sqlite3.Error,)

    def __init__(self, folder):
        self.folder = folder

    def read_archive(self):
        return ids_of_archive(f"{self.folder}/archive")

    def rows(self, database, statement):
        return sqlite3.connect(f"{self.folder}/{database}").execute(statement)

    def read_readings(self):
        for unit, time, event, power in self.rows("readings.db", "select subject, time, event, power from reading"):
            yield Reading(unit, instant(time), event, power)

    def read_status(self):
        for unit, time, *values in self.rows("status.db", "select subject, time, status, power, health from status"):
            yield Status(unit, instant(time), *values)

"""Somebody who looks at the fleet while its database is changed, and what he had to wait for."""
import calendar
import random
import threading
import time


class Dashboard(threading.Thread):
    """Shows one unit after another, as somebody would who clicks through the fleet ten times a second: its readings of the last
    hour. It is down where the database does not answer, or has nothing new."""

    def __init__(self, ask, units, stale):
        super().__init__(daemon=True)
        self.ask, self.units, self.stale = ask, units, stale
        self.phase, self.times = "before", {}
        self.queries = self.failed = self.old = 0
        self.down = 0.0  # seconds
        self.last, self.stopping = "", threading.Event()

    def run(self):
        chosen = random.Random(7)
        while not self.stopping.wait(0.1):
            began = time.monotonic()
            good = self.look(f"bsu-{chosen.randrange(self.units) + 1:05}")
            took = time.monotonic() - began
            self.times.setdefault(self.phase, []).append(took)
            self.queries += 1
            self.down += 0 if good else 0.1 + took

    def look(self, unit):
        try:
            times = self.ask(unit)
        except Exception as error:  # whatever it is, the user sees nothing
            self.failed, self.last = self.failed + 1, f"{unit}: {error}"
            return False
        if times and time.time() - seconds_of(times[-1]) <= self.stale:
            return True
        self.old, self.last = self.old + 1, f"{unit}: nothing newer than {times[-1] if times else 'an hour'}"
        return False

    def p95(self, phase):
        """In milliseconds."""
        times = sorted(self.times[phase])
        return 1000 * times[min(len(times) - 1, int(0.95 * len(times)))]

    def stop(self):
        self.stopping.set()
        self.join()


def seconds_of(text):
    """Of an RFC 3339 time in UTC."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")

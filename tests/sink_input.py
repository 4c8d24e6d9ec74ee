"""What tests give a sink, and the channel on which they hear what became of it."""
import json
import os


def event(number, data=None, **attributes):
    made = {"specversion": "1.0", "id": str(number), "source": "test", "type": "bsu.reading", "subject": f"bsu-{number:05}",
            "time": f"2018-07-01T00:00:{number % 60:02}Z", "recordedtime": "2018-07-01T00:01:00Z", **attributes}
    if data is not None:
        made["data"] = data
    return made


def deletion(subject, **attributes):
    return event(0, subject=subject, type="bsu.deleted", **attributes)


def ndjson(records):
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


class Channel:
    """The receipts channel of a source whose token is k7."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        info = os.fstat(self.writer)
        self.environment = {**os.environ, "RECEIPTS_FD": f"{self.writer}:{info.st_dev}:{info.st_ino}:k7"}
        self.options = {"env": self.environment, "pass_fds": [self.writer]}

    def receipts(self):
        """All lines; call it when the sinks have ended."""
        os.close(self.writer)
        with os.fdopen(self.reader) as lines:
            return [json.loads(line) for line in lines]


def positions(receipts, *statuses):
    said = set()
    for receipt in receipts:
        if receipt.get("status") in statuses:
            for part in receipt["delivery"].removeprefix("k7:").split(","):
                first, _, last = part.partition("-")
                said |= set(range(int(first), int(last or first) + 1)) if "/" not in part else {part}
    return said

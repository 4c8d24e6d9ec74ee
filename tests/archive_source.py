"""Events, and a source that runs s3-archive put as its pipeline: what is not settled is delivered again."""
import contextlib
import json
import os
import subprocess
import threading
import time

from harness import tool


def event(n, seconds, subject="a", **data):
    at = f"2018-07-01T{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"
    return json.dumps({"specversion": "1.0", "id": str(n), "source": "/t", "type": "t", "subject": subject,
                       "recordedtime": at, "data": {"n": n, **data}}, separators=(",", ":"))


class Source:
    """Runs s3-archive put as a source runs its pipeline: a receipts channel, positions, redelivery of what is not settled."""

    def __init__(self, archive, events, name="0b7e/backfill", env=None):
        self.archive, self.events, self.name, self.env = archive, events, name, env or os.environ
        self.settled, self.held, self.statuses = set(), set(), []
        self.runs = 0

    def run(self, rng, options=(), kill=False, everything=False, preexec=None, patience=0.03, forget=False):
        """Delivers what is not settled. Returns the exit status. With `kill`, SIGKILL at a random moment, at most `patience` after all was written.
        With `forget` the source is killed, too, before it has kept what it heard."""
        self.runs += 1
        token = f"k{self.runs}"
        reading, writing = os.pipe()
        info = os.fstat(writing)
        env = dict(self.env, RECEIPTS_FD=f"{writing}:{info.st_dev}:{info.st_ino}:{token}", RECEIPTS_SOURCE=self.name)
        process = subprocess.Popen([tool("s3-archive"), "put", self.archive, *options], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                                   pass_fds=[writing], env=env, preexec_fn=preexec)
        os.close(writing)
        told = []

        def listen():
            with os.fdopen(reading) as channel:
                told.extend(channel)

        reader = threading.Thread(target=listen)
        reader.start()
        todo = [(p, line) for p, line in self.events.items() if everything or p not in self.settled]
        until = rng.randrange(len(todo) + 1) if kill else len(todo)
        try:
            sent = 0
            while sent < until:
                count = min(rng.randrange(1, 200), until - sent)
                process.stdin.write(b"".join(self.delivered(token, p, line) for p, line in todo[sent:sent + count]))
                process.stdin.flush()
                sent += count
                if kill and rng.random() < 0.2:
                    time.sleep(rng.random() * 0.005)
            if kill:
                if rng.random() < 0.3:
                    process.stdin.close()
                time.sleep(rng.random() * patience)
                process.kill()
            if not process.stdin.closed:
                process.stdin.close()
        except BrokenPipeError:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        self.stderr = process.stderr.read().decode()
        process.stderr.close()
        status = process.wait(60)
        reader.join(60)
        for text in [] if forget else told:
            self.hear(json.loads(text), token, status)
        return status

    @staticmethod
    def delivered(token, position, line):
        mark = f'"delivery":"{token}:{position}"'
        if position % 3 == 0:  # as another filter may leave it
            return f"{line[:-1]},{mark}}}\n".encode()
        return f"{{{mark},{line[1:]}\n".encode()

    def hear(self, receipt, token, status):
        if "delivery" not in receipt:
            return
        of, positions = receipt["delivery"].split(":")
        assert of == token, receipt
        self.statuses.append(receipt["status"])
        for item in positions.split(","):
            first, _, last = item.partition("-")
            span = range(int(first), int(last or first) + 1)
            if receipt["status"] == "held":
                self.held.update(span)
            elif receipt["status"] == "stored" or (receipt["status"] == "last" and status == 0):
                self.settled.update(span)
            else:
                raise AssertionError(receipt)

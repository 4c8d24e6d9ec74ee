"""Stages of pipelines that misbehave in one way each, for middle_test.py: python3 stages.py WHAT ARGUMENTS.

A MARKER is a file: the misbehaviour happens in the run that makes it, and never again.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time


def first_time(marker):
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    except FileExistsError:
        return False


def emit(line):
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def lines():
    return iter(sys.stdin.buffer.readline, b"")


def die():
    sys.stdout.buffer.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def kill_neighbour(name):
    """SIGKILL the process of this name in our process group."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
                if comm.read().strip() == name and os.getpgid(int(pid)) == os.getpgid(0):
                    os.kill(int(pid), signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            pass


def wait_for_ever(marker):
    """A sink whose destination does not come back, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = int(os.environ["RECEIPTS_FD"].split(":")[0])
    os.write(channel, b'{"sink":"stage"}\n')
    for _ in lines():
        first_time(marker)
        break
    while True:
        os.write(channel, b'{"waiting":"for ever","by":"stage"}\n')
        time.sleep(0.05)


def number_of(event):
    data = event.get("data")
    if not isinstance(data, dict):
        return None
    return data.get("unit", data).get("n")


def kill_after_lines(name, count, marker):
    """What the stage NAME before us had not yet handed on when it was killed is lost."""
    armed = first_time(marker)
    for i, line in enumerate(lines(), 1):
        emit(line)
        if armed and i == int(count):
            kill_neighbour(name)
            return


def kill_after_bytes(name, count, marker):
    armed, left = first_time(marker), int(count)
    while chunk := os.read(0, min(left, 65536) if armed else 65536):
        os.write(1, chunk)
        left -= len(chunk)
        if armed and left == 0:
            kill_neighbour(name)
            return


def die_in_line(count, marker):
    armed = first_time(marker)
    for i, line in enumerate(lines(), 1):
        if armed and i == int(count):
            emit(line[:len(line) // 2])
            die()
        emit(line)


def split(marker):
    """Three pieces of each event, each with the event's `delivery`; dies after the first piece of event 7."""
    armed = first_time(marker)
    for line in lines():
        event = json.loads(line)
        for piece in (1, 2, 3):
            emit(json.dumps({**event, "id": f"{event['id']}/{piece}"}).encode() + b"\n")
            if armed and number_of(event) == 7:
                die()


def kill_sink_between_pieces(name, piece, database, marker):
    """Hands on PIECE, and kills the sink NAME once it has stored it."""
    import sqlite3
    for line in lines():
        emit(line)
        if json.loads(line)["id"] == piece and not os.path.exists(marker):
            while True:
                try:
                    with sqlite3.connect(database, timeout=10) as db:
                        if db.execute("select 1 from record where id = ?", (piece,)).fetchone():
                            break
                except sqlite3.OperationalError:
                    pass
                time.sleep(0.005)
            first_time(marker)
            kill_neighbour(name)


def reorder(count):
    held = []
    for line in lines():
        held.append(line)
        if len(held) == int(count):
            emit(b"".join(reversed(held)))
            held = []
    emit(b"".join(reversed(held)))


def hang(marker, number):
    """Stops for ever at an event: once, and says so by the marker; or with the marker `-` each time."""
    armed = marker == "-" or not os.path.exists(marker)
    for line in lines():
        if armed and number_of(json.loads(line)) == int(number):
            if marker != "-":
                first_time(marker)
            signal.pause()
        emit(line)


def slow(milliseconds):
    for line in lines():
        time.sleep(int(milliseconds) / 1000)
        emit(line)


def buffer_all():
    sys.stdout.buffer.write(sys.stdin.buffer.read())


def without_descriptors(*command):
    sys.exit(subprocess.run(command, close_fds=True, check=False).returncode)


def abort_on(*numbers):
    """SIGABRT on these events, whatever was written before is lost with the buffer."""
    bad = {int(n) for n in numbers}
    for line in sys.stdin.buffer:
        if number_of(json.loads(line)) in bad:
            os.abort()
        sys.stdout.buffer.write(line)


def kill_consume(number):
    """SIGKILL to the process that runs the pipeline, at an event, each time."""
    for line in lines():
        if number_of(json.loads(line)) == int(number):
            pid = os.getppid()
            while open(f"/proc/{pid}/comm", encoding="utf-8").read().strip() != "consume":
                with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                    pid = int(stat.read().rpartition(")")[2].split()[1])
            os.kill(pid, signal.SIGKILL)
            sys.exit(1)  # nobody is left to hear of what the sink would store
        emit(line)


def leave_daemon():
    """Passes its input on; a process in a session of its own keeps all that it has inherited."""
    child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, close_fds=False,
                             start_new_session=True)
    with open("daemon", "w", encoding="utf-8") as file:
        file.write(str(child.pid))
    buffer_all()
    sys.stdout.buffer.flush()
    os._exit(0)


def exit_with(status, marker, number):
    """Ends with this status at an event: once, or with the marker `-` each time."""
    for line in lines():
        if number_of(json.loads(line)) == int(number) and (marker == "-" or first_time(marker)):
            sys.stdout.buffer.flush()
            os._exit(int(status))
        emit(line)


def poisoned(first):
    """Writes something that is no record in place of the events FIRST to FIRST+3."""
    garbage = [b"\n", b"\xff\xfe{}\n", b"{\"a\":\"\0\"}\n", b"\"no object\"\n"]
    for line in sys.stdin.buffer:
        n = number_of(json.loads(line))
        bad = n is not None and int(first) <= n < int(first) + len(garbage)
        sys.stdout.buffer.write(garbage[n - int(first)] if bad else line)


class Channel:
    def __init__(self, name):
        fd, device, inode, self.token = os.environ["RECEIPTS_FD"].split(":")
        info = os.fstat(int(fd))
        assert (info.st_dev, info.st_ino) == (int(device), int(inode))
        self.fd, self.by = int(fd), f"{name}[{os.getpid()}]"
        os.write(self.fd, json.dumps({"sink": name, "pid": os.getpid()}).encode() + b"\n")

    def say(self, delivery, status, **more):
        os.write(self.fd, json.dumps({"delivery": delivery, "status": status, "by": self.by, **more}).encode() + b"\n")


def sink(log, seed):
    """Appends `RUN KEY VERSION` for each record, fails in every way at random; a write(2) is its database."""
    channel = Channel("sink")
    chance = random.Random(f"{seed} {os.getpid()} {time.monotonic_ns()}")
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    batch = []

    def settle():
        chance.shuffle(batch)
        for delivery in batch:
            channel.say(delivery, "stored")
            if chance.random() < 0.01:
                die()
        batch.clear()

    for line in lines():
        if not line.endswith(b"\n"):
            sys.exit(70)
        event = json.loads(line)
        assert event["delivery"].startswith(channel.token + ":"), event
        draw = chance.random()
        if draw < 0.01:
            die()
        if draw < 0.02:
            channel.say(event["delivery"], "rejected", reason="by chance")
            continue
        os.write(out, f"{channel.token} {event['subject']} {event['data']['version']}\n".encode())
        if draw < 0.03:
            die()
        if draw < 0.035:
            sys.exit(75)
        batch.append(event["delivery"])
        if chance.random() < 0.3:
            settle()
    settle()


def write_through(log, wait):
    """A filter that appends its run to a log with every record and at its end, and goes on when its source is gone."""
    run = os.environ["RECEIPTS_FD"].split(":")[3]
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for line in lines():
        os.write(out, f"{run}\n".encode())
        time.sleep(float(wait))
        try:
            emit(line)
        except BrokenPipeError:
            pass
    for _ in range(5):
        os.write(out, f"{run}\n".encode())
        time.sleep(float(wait))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

"""The processes that a fault test has started, and SIGKILL to exactly one of them."""
import collections
import ctypes
import os
import pathlib
import signal

_libc = ctypes.CDLL(None, use_errno=True)
PR_SET_CHILD_SUBREAPER = 36


Process = collections.namedtuple("Process", "pid parent state name started")


def process(pid):
    """None where it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, fields = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
    return Process(int(pid), int(fields[1]), fields[0], name, int(fields[19]))


def descendants(of=os.getpid()):
    """What this test, or another process, has started, and what that has started, and so on."""
    children = collections.defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := process(entry)):
            children[found.parent].append(found)
    todo, result = [of], []
    while todo:
        below = children[todo.pop()]
        result += below
        todo += [p.pid for p in below]
    return result


def environment(pid):
    try:
        entries = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(e.decode(errors="replace").partition("=")[::2] for e in entries)


def of_lines():
    """What runs below commands that were started with FAULT_LINE in their environment, by that."""
    found = collections.defaultdict(list)
    for p in descendants():
        if p.state not in "ZX" and (name := environment(p.pid).get("FAULT_LINE")):
            found[name].append(p)
    return found


def alive(p):
    now = process(p.pid)
    return now is not None and now.started == p.started and now.state not in "ZX"


def kill(p):
    """SIGKILL to exactly this process, though its id may be used again meanwhile."""
    try:
        handle = os.pidfd_open(p.pid)
    except OSError:
        return False
    try:
        if not alive(p):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def seeds(rounds, per_seed):
    """The seeds of a test and how many rounds each has; SEED is the first one, else it is random."""
    first = int(os.environ.get("SEED", "0")) or int.from_bytes(os.urandom(3), "big")
    for number, done in enumerate(range(0, rounds, per_seed)):
        yield first + number, min(per_seed, rounds - done)


def adopt_orphans():
    """From now on orphans below this test come to it."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(mine):
    """Of those that came to this test, those that have ended are collected, since nobody else does it."""
    for p in descendants():
        if p.parent == os.getpid() and p.state == "Z" and p.pid not in mine:
            try:
                os.waitpid(p.pid, os.WNOHANG)
            except ChildProcessError:
                pass

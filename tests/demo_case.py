"""A demo as tests start it: in a folder of the test's own, in which and of which nothing may be left."""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from harness import BIN, ROOT, wait_for


def processes(folder):
    """Those that have `folder` in their environment, as TMPDIR or otherwise, or work in it."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if (str(folder).encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes()
                    or os.readlink(f"/proc/{pid}/cwd").startswith(str(folder))):
                found.append(int(pid))
        except OSError:
            continue
    return found


class DemoCase(unittest.TestCase):
    maxDiff = None  # all that a demo says of its end
    script, arguments = None, ()

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="inflight-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.folder.chmod(0o711)  # Postgres runs as another user

    def start(self, *arguments, **options):
        environment = dict(os.environ, TMPDIR=str(self.folder), **options.pop("env", {}))
        return subprocess.Popen([ROOT / "scripts" / self.script, BIN, *self.arguments, *arguments], env=environment,
                                stdin=subprocess.DEVNULL, stdout=options.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
                                text=True, start_new_session=True, **options)

    def assert_nothing_is_left(self):
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(processes(self.folder), [])

    def stage(self, name):
        """The pid of a stage that runs."""
        for pid in processes(self.folder):
            try:
                if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return pid
            except OSError:
                continue
        return None

    def when(self, name, process):
        """Its pid, once this stage runs."""
        pid = wait_for(lambda: self.stage(name) or process.poll() is not None, what=name)
        self.assertIsNone(process.poll(), f"ended before {name} ran")
        return pid

    def assert_ended_by(self, process, number):
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (128 + number, ""), out)
        self.assert_nothing_is_left()

    @staticmethod
    def figures(out):
        """What is counted in the end, by what stands before the bracket of each."""
        return {label: int(value.replace(",", "")) for label, value in re.findall(r"^  (\w[^(\n]*?)(?: \(.*\))?  +([\d,]+)$", out, re.M)}

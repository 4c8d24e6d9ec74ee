"""A subscriber's command line, as a fault test runs it."""
import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import tool, wait_for  # noqa: E402

from processes import descendants, kill  # noqa: E402


class Line:
    """One subscriber's command line, started again and again."""

    def __init__(self, job, name, pipeline):
        self.job, self.name, self.pipeline = job, name, pipeline
        self.process = None
        self.err = open(job.folder / f"{name}.err", "ab")

    def command(self, *more):
        return [tool("consume"), "x/", "--as", self.name, "--settle", "2s", "--takeover", "5s", *more, "--", self.pipeline]

    def start(self):
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(self.command(), cwd=self.job.folder, env=self.job.environment, stdin=subprocess.DEVNULL,
                                            stdout=self.err, stderr=self.err)

    def kill(self, what):
        """SIGKILL for consume itself, or for the stage of this name below it; whether there was one."""
        if self.process is None or self.process.poll() is not None:
            return False
        if what == "consume":
            self.process.kill()
            self.process.wait()
            return True
        return any([kill(p) for p in descendants(self.process.pid) if p.name == what])

    def drain(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

        def ended():
            done = subprocess.run(self.command("--until-empty"), cwd=self.job.folder, env=self.job.environment, stdout=self.err,
                                  stderr=self.err, stdin=subprocess.DEVNULL, timeout=120, check=False)
            assert done.returncode in (0, 75), f"{self.name}: exit {done.returncode}"
            return done.returncode == 0
        wait_for(ended, 120, f"{self.name} to be empty")

    def end(self):
        if self.process is not None and self.process.poll() is None:
            for p in descendants(self.process.pid):
                kill(p)
            self.process.kill()
            self.process.wait()
        self.err.close()

    def cursor(self):
        state = self.job.folder / "x/subscribers" / self.name / "state.json"
        return json.loads(state.read_text())["cursor"] if state.exists() else 0

"""Command lines in a fault test: started, killed, started again; a subscriber's is drained in the end."""
import json
import pathlib
import subprocess

from harness import tool, wait_for

from processes import descendants, kill


class Command:
    """One of the job's command lines (a source with its pipeline), started again and again."""

    def __init__(self, job, name, *words):
        self.job, self.name, self.words = job, name, words
        self.process = None
        self.err = open(job.folder / f"{name}.err", "ab")

    def command(self, *more):
        """The words; `more` are options."""
        at = self.words.index("--")
        return [tool(self.words[0]), *self.words[1:at], *more, *self.words[at:]]

    def running(self):
        return self.process is not None and self.process.poll() is None

    def start(self):
        if not self.running():
            self.process = subprocess.Popen(self.command(), cwd=self.job.folder, env=self.job.environment, stdin=subprocess.DEVNULL,
                                            stdout=self.err, stderr=self.err)

    def kill(self, what):
        """SIGKILL for the source itself, or for a stage below it; whether there was one."""
        if not self.running():
            return False
        if what == pathlib.Path(self.words[0]).name:
            self.process.kill()
            self.process.wait()
            return True
        return any([kill(p) for p in descendants(self.process.pid) if p.name == what])

    def stop(self):
        if self.running():
            self.process.terminate()
            self.process.wait(60)

    def end(self):
        if self.running():
            for p in descendants(self.process.pid):
                kill(p)
            self.process.kill()
            self.process.wait()
        self.err.close()

    def said(self):
        """The end of it."""
        return (self.job.folder / f"{self.name}.err").read_text(errors="replace")[-2500:]


class Line(Command):
    """One subscriber of the exchange x/."""

    def __init__(self, job, name, pipeline, *options):
        super().__init__(job, name, "consume", "x/", "--as", name, "--settle", "2s", "--takeover", "5s", *options, "--", pipeline)

    def drain(self):
        self.stop()

        def ended():
            done = subprocess.run(self.command("--until-empty"), cwd=self.job.folder, env=self.job.environment, stdout=self.err,
                                  stderr=self.err, stdin=subprocess.DEVNULL, timeout=120, check=False)
            assert done.returncode in (0, 75), f"{self.name}: exit {done.returncode}"
            return done.returncode == 0
        wait_for(ended, 120, f"{self.name} to be empty")

    def cursor(self):
        state = self.job.folder / "x/subscribers" / self.name / "state.json"
        return json.loads(state.read_text())["cursor"] if state.exists() else 0

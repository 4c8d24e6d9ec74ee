"""scripts/setup installs what is missing, and leaves the machine's policy for services as it was."""
import os
import pathlib
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import wait_for  # noqa: E402

SETUP = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "setup"

# Programs in place of the machine's: dpkg-query knows the packages in the file `installed`, apt-get and sudo write down how
# they are called, apt-get also what the policy for services is at that time.
APT_GET = """#!/bin/sh
echo "apt-get $*" >>"$WORK/calls"
case " $* " in
*" install "*)
  cat "$POLICY_RC_D" >"$WORK/policy-seen"
  "$POLICY_RC_D"
  echo $? >"$WORK/policy-answer"
  [ ! -e "$WORK/meanwhile" ] || . "$WORK/meanwhile"
  ;;
esac
"""
DPKG_QUERY = """#!/bin/sh
[ ! -e "$WORK/installed" ] || sed 's/^/installed /' "$WORK/installed"
echo "config-files jq"
exit 1
"""
SUDO = '#!/bin/sh\necho "sudo $*" >>"$WORK/calls"\nexec "$@"\n'
ID = '#!/bin/sh\ncat "$WORK/uid"\n'


class Setup(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = pathlib.Path(folder.name)
        self.policy = self.work / "policy-rc.d"
        (self.work / "bin").mkdir()
        for name, text in (("apt-get", APT_GET), ("dpkg-query", DPKG_QUERY), ("sudo", SUDO), ("id", ID)):
            (self.work / "bin" / name).write_text(text)
            (self.work / "bin" / name).chmod(0o755)
        self.write("uid", "0\n")
        self.environment = {
            **os.environ,
            "PATH": f"{self.work / 'bin'}:{os.environ['PATH']}",
            "WORK": str(self.work),
            "TMPDIR": str(self.work),  # what a run that is killed leaves goes with the test
            "POLICY_RC_D": str(self.policy),
        }

    def write(self, name, text):
        (self.work / name).write_text(text)

    def read(self, name):
        file = self.work / name
        return file.read_text() if file.exists() else ""

    def setup(self, *arguments):
        return subprocess.run([SETUP, *arguments], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def packages(self, *groups):
        lines = self.setup("--list", *groups).stdout.splitlines()
        return [package for line in lines for package in line.split(": ", 1)[1].split()]

    def test_with_all_packages_there_it_does_nothing_and_says_nothing(self):
        self.write("installed", "\n".join(self.packages()))
        result = self.setup()
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))
        self.assertEqual(self.read("calls"), "")

    def test_it_installs_only_what_is_missing_after_one_update(self):
        self.write("installed", "\n".join(p for p in self.packages() if p not in ("jq", "zstd")))
        self.assertEqual(self.setup().returncode, 0)
        calls = self.read("calls").splitlines()
        self.assertEqual(len(calls), 2, calls)
        self.assertTrue(calls[0].endswith(" update"), calls)
        self.assertTrue(calls[1].endswith(" zstd jq"), calls)

    def test_the_list_is_what_is_installed_on_an_empty_machine(self):
        self.setup("lint")
        wanted = self.packages("lint")
        self.assertIn("shellcheck", wanted)
        self.assertTrue(self.read("calls").strip().endswith(" " + " ".join(wanted)))

    def test_servers_for_the_demo_are_a_group_of_their_own(self):
        servers = self.packages("servers")
        self.assertLessEqual({"influxdb", "redis-server", "swift-proxy"}, set(servers))
        self.assertFalse(set(servers) & set(self.packages("build", "demo")))
        self.setup("demo", "servers")
        self.assertTrue(self.read("calls").strip().endswith(" " + " ".join(self.packages("demo", "servers"))))

    def test_services_are_forbidden_while_it_installs_and_the_policy_goes_afterwards(self):
        self.assertEqual(self.setup().returncode, 0)
        self.assertEqual(self.read("policy-answer"), "101\n")
        self.assertFalse(self.policy.exists())

    def test_the_policy_goes_also_when_the_installation_fails(self):
        self.write("meanwhile", "echo E: no space left; exit 100")
        result = self.setup()
        self.assertEqual(result.returncode, 100)
        self.assertIn("E: no space left", result.stderr)
        self.assertEqual(self.read("policy-answer"), "101\n")
        self.assertFalse(self.policy.exists())

    def test_the_policy_goes_also_when_it_is_interrupted(self):
        self.write("meanwhile", 'kill -INT "$PPID"')
        self.assertEqual(self.setup().returncode, 130)
        self.assertEqual(self.read("policy-answer"), "101\n")
        self.assertFalse(self.policy.exists())

    def test_a_policy_of_the_machine_stays(self):
        self.policy.write_text("#!/bin/sh\nexit 102\n")
        self.policy.chmod(0o755)
        self.assertEqual(self.setup().returncode, 0)
        self.assertEqual(self.read("policy-answer"), "102\n")
        self.assertEqual(self.policy.read_text(), "#!/bin/sh\nexit 102\n")

    def test_a_policy_that_a_killed_run_left_goes(self):
        self.write("meanwhile", 'kill -KILL "$PPID"')
        self.assertEqual(self.setup().returncode, -signal.SIGKILL)
        self.assertTrue(self.policy.stat().st_mode & stat.S_IXUSR)
        (self.work / "meanwhile").unlink()
        self.assertEqual(self.setup().returncode, 0)
        self.assertFalse(self.policy.exists())

    def test_a_policy_that_a_killed_run_left_goes_also_where_nothing_is_missing_any_more(self):
        self.write("meanwhile", 'kill -KILL "$PPID"')
        self.assertEqual(self.setup().returncode, -signal.SIGKILL)
        self.write("installed", "\n".join(self.packages()))
        result = self.setup()
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))
        self.assertFalse(self.policy.exists())

    def test_a_second_setup_waits_and_then_finds_its_own_packages_missing_no_more(self):
        """The first to end would take the policy from under the other."""
        self.write("meanwhile", f"""
            if mkdir {self.work}/first 2>/dev/null; then
              until [ -e {self.work}/go ]; do sleep 0.02; done
              echo jq >{self.work}/installed
            fi""")
        wanted = ["bash", "-c", f"{SETUP} test 2>{self.work}/$0"]
        with subprocess.Popen([*wanted, "one"], env=self.environment, stdin=subprocess.DEVNULL) as one:
            wait_for((self.work / "first").exists, what="apt-get install")
            with subprocess.Popen([*wanted, "two"], env=self.environment, stdin=subprocess.DEVNULL) as two:
                wait_for(lambda: "waiting" in self.read("two"), what="the second one to wait")
                self.assertTrue(self.policy.exists())
                self.write("go", "")
                self.assertEqual((one.wait(60), two.wait(60)), (0, 0))
        installs = [call for call in self.read("calls").splitlines() if " install " in call]
        self.assertIn(" jq ", installs[0])
        self.assertNotIn(" jq ", installs[1])
        self.assertFalse(self.policy.exists())

    def test_where_not_root_it_takes_sudo_for_apt_and_for_the_policy(self):
        self.write("uid", "1000\n")
        self.assertEqual(self.setup().returncode, 0)
        calls = [call.split(" ", 1)[0] + " " + call.split(" ")[1] for call in self.read("calls").splitlines()]
        self.assertEqual([c for c in calls if c.startswith("sudo")], ["sudo install", "sudo env", "sudo env", "sudo rm"])

    def test_without_apt_it_names_the_packages_and_fails(self):
        for program in ("bash", "sed", "env"):
            (self.work / "bin" / program).symlink_to(f"/bin/{program}" if program != "env" else "/usr/bin/env")
        (self.work / "bin" / "apt-get").unlink()
        self.environment["PATH"] = str(self.work / "bin")
        result = self.setup("demo")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("demo: python3 zstd\n", result.stderr)

    def test_an_unknown_group_is_a_usage_error(self):
        result = self.setup("everything")
        self.assertEqual(result.returncode, 2)
        self.assertIn("everything", result.stderr)


if __name__ == "__main__":
    unittest.main()

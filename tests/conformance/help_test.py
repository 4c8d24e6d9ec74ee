"""What a tool says of itself and what its manual says of it: the same, both ways, for every tool of CMake's list."""
import os
import pathlib
import re
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BIN, ROOT, run, tool  # noqa: E402

TOOLS = pathlib.Path(os.environ.get("INFLIGHT_TOOLS", BIN.parent / "tools.txt")).read_text().split()
MAN = ROOT / "man"
FOREIGN = {"crontab.5"}
VERSION = re.search(r"^project\(inflight VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.M)[1]
COMMON = {"--options", "--log-format", "--metrics", "--progress", "--help", "--version"}
ALWAYS = {0, 2, 70, 75, 130, 143}
ORDER = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO", "CAVEATS"]


def help_of(name):
    result = run([tool(name), "--help"])
    assert (result.exit, result.stderr) == (0, ""), result
    return result.stdout


def page(name):
    return (MAN / f"{name}.1").read_text()


def section(text, name):
    found = re.search(rf"^\.Sh {name}\n(.*?)(?=^\.Sh |\Z)", text, re.M | re.S)
    return found[1] if found else ""


def options_of_help(text):
    return set(re.findall(r"^  (?:-\w,)?(--[a-z][a-z0-9-]*)", text, re.M))


def options_of_page(text):
    return {"--" + name for name in re.findall(r"^\.It Fl (?:\\?-)([a-z][a-z0-9-]*)", section(text, "OPTIONS"), re.M)}


def every_tool(test):
    def each(self):
        self.assertGreaterEqual(len(TOOLS), 7)
        for name in TOOLS:
            with self.subTest(tool=name):
                test(self, name)
    return each


class HelpTest(unittest.TestCase):
    @every_tool
    def test_help_and_manual_list_the_same_options(self, name):
        told, written = options_of_help(help_of(name)), options_of_page(page(name))
        self.assertEqual(told - written, set(), "in --help, not in the manual")
        self.assertEqual(written - told, set(), "in the manual, not in --help")
        self.assertEqual(COMMON - told, set(), "every tool has these")

    @every_tool
    def test_an_option_stands_once_in_the_manual(self, name):
        names = re.findall(r"^\.It Fl (?:\\?-)([a-z][a-z0-9-]*)", section(page(name), "OPTIONS"), re.M)
        self.assertEqual(sorted(names), sorted(set(names)))

    @every_tool
    def test_help_has_two_examples_of_programs_that_exist(self, name):
        examples = re.search(r"^Examples:\n(.*?)\n\n", help_of(name), re.M | re.S)[1]
        lines = [line[2:] for line in examples.replace("\\\n", "").split("\n")]
        self.assertGreaterEqual(len(lines), 2, examples)
        for line in lines:
            words = re.split(r"[\s|]+", line)
            self.assertTrue(words[0] in TOOLS or shutil.which(words[0]), line)
            self.assertIn(name, words if " -- '" not in line else re.split(r"[\s|']+", line), "an example of another tool")

    @every_tool
    def test_version_prints_name_and_version(self, name):
        self.assertEqual(run([tool(name), "--version"]), (0, f"{name} {VERSION}\n", ""))

    @every_tool
    def test_an_unknown_option_is_one_line_and_2(self, name):
        result = run([tool(name), "--no-such-option"])
        self.assertEqual((result.exit, result.stdout), (2, ""))
        self.assertRegex(result.stderr, rf"\A{name}: [^\n]+\n\Z")

    @every_tool
    def test_the_manual_lists_the_exit_statuses(self, name):
        items = re.findall(r"^\.It ([0-9 ,]+)$", section(page(name), "EXIT STATUS"), re.M)
        codes = {int(code) for item in items for code in re.findall(r"\d+", item)}
        text = help_of(name)
        self.assertEqual(ALWAYS - codes, set())
        self.assertEqual(codes - ALWAYS - {1}, set())
        if "--dead-letters" in text and "-- PIPELINE" not in text:
            self.assertIn(1, codes, "in a plain pipe rejected records are told by exit status 1")

    @every_tool
    def test_the_manual_has_two_examples_in_the_order_of_sections(self, name):
        text = page(name)
        names = re.findall(r"^\.Sh (.*)$", text, re.M)
        self.assertEqual(names, [s for s in ORDER if s in names])
        for needed in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"):
            self.assertIn(needed, names)
        self.assertGreaterEqual(len(re.findall(r"^\.Bd -literal|^\.Dl ", section(text, "EXAMPLES"), re.M)), 2)
        self.assertRegex(text[:80], rf"\A\.Dd [A-Z][a-z]+ \d+, \d+\n\.Dt {name.upper()} 1\n\.Os inflight\n")

    @every_tool
    def test_the_options_that_every_tool_has_are_described_in_the_same_words(self, name):
        blocks = {n: re.search(r"^\.It Fl -options .*?^\.El", page(n), re.M | re.S) for n in ("publish", name)}
        self.assertIsNotNone(blocks[name])
        self.assertEqual(blocks[name][0], blocks["publish"][0])

    def test_pages_that_are_referred_to_exist(self):
        pages = sorted(MAN.glob("*.[1-8]"))
        ours = {p.name for p in pages}
        self.assertTrue({"inflight.7", "receipts.7", "exchange.7", "journal.5"} <= ours, ours)
        for path in pages:
            for name, number in re.findall(r"^\.Xr (\S+) (\d)", path.read_text(), re.M):
                if (number in "57" and f"{name}.{number}" not in FOREIGN) or name in TOOLS:
                    self.assertIn(f"{name}.{number}", ours, f"{path.name} refers to it")

    def test_a_word_that_follows_an_option_is_not_set_as_an_option(self):
        for path in MAN.glob("*.[1-8]"):
            self.assertEqual(re.findall(r"^\.(?:It )?Fl -\S+ [a-z].*$", path.read_text(), re.M), [], path.name)

    def test_the_manuals_are_clean_mdoc(self):
        pages = sorted(str(p) for p in MAN.glob("*.[1-8]"))
        self.assertEqual(run(["mandoc", "-T", "lint", "-W", "warning", *pages]), (0, "", ""))


if __name__ == "__main__":
    unittest.main()

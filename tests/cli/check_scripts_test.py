"""The checks of `make lint` fail when they should."""
import pathlib
import subprocess
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"


class Project(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, path, text=""):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def run_script(self, name, *arguments):
        result = subprocess.run([SCRIPTS / name, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.stdout, "")
        self.assertEqual(result.returncode, 1 if result.stderr else 0)
        return result.stderr


class CheckLayers(Project):
    def faults(self):
        return self.run_script("check-layers", self.root)

    def setUp(self):
        super().setUp()
        self.write("common/status.h", "#include <string>\n")
        self.write("common/status.cpp", '#include "common/status.h"\n\n#include <fmt/format.h>\n#include <sys/stat.h>\n')
        self.write("common/record.h", '#include "common/status.h"\n')
        self.write("common/reader.h", '#include "common/record.h"\n')
        self.write("tests/servers/sim.cpp", '#include <microhttpd.h>\n\n#include "common/record.h"\n')
        self.write("tests/unit/record_test.cpp", '#include "common/record.h"\n#include <doctest/doctest.h>\n')

    def test_an_order_that_keeps_the_layers_is_silent(self):
        self.assertEqual(self.faults(), "")

    def test_an_upward_include_fails_and_names_its_line(self):
        self.write("common/status.h", '#include <string>\n\n#include "common/record.h"\n')
        self.assertIn("common/status.h:3: common/record.h: upwards, from layer 0 to layer 1", self.faults())

    def test_an_upward_include_in_a_source_file_fails(self):
        self.write("common/status.cpp", '#  include "common/record.h"\n')
        self.assertIn("common/status.cpp:1: common/record.h: upwards", self.faults())

    def test_modules_of_one_layer_that_include_each_other_fail(self):
        self.write("common/record.h", '#include "common/reader.h"\n')
        self.assertIn("a circle: reader -> record -> reader", self.faults())

    def test_a_module_without_a_layer_fails(self):
        self.write("common/utils.h")
        self.assertIn("common/utils.h: not in the table of layers", self.faults())

    def test_a_folder_in_common_fails(self):
        self.write("common/detail/status.h")
        self.assertIn("common/detail/status.h: not in the table of layers", self.faults())

    def test_nothing_includes_a_tool(self):
        self.write("tools/part.h")
        for path in ("common/status.cpp", "tests/unit/tool_test.cpp", "tools/publish.cpp"):
            self.write(path, '#include "tools/part.h"\n')
            self.assertIn(f"{path}:1: tools/part.h: nothing includes a tool", self.faults())
            (self.root / path).unlink()

    def test_a_tool_includes_nothing_of_the_tests(self):
        self.write("tests/harness.h")
        self.write("tools/publish.cpp", '#include "tests/harness.h"\n')
        self.assertIn("a tool includes only common/ and libraries", self.faults())

    def test_common_includes_nothing_of_the_tests(self):
        self.write("tests/harness.h")
        self.write("common/status.cpp", '#include "tests/harness.h"\n')
        self.assertIn("common/ includes only common/ and libraries", self.faults())

    def test_a_library_in_a_file_that_it_is_not_for_fails(self):
        self.write("common/status.cpp", "#include <curl/curl.h>\n")
        self.assertIn("common/status.cpp:1: curl/curl.h: is for common/http.cpp", self.faults())

    def test_a_library_without_a_row_fails(self):
        self.write("common/status.cpp", "#include <boost/any.hpp>\n")
        self.assertIn("boost/any.hpp: not in the table of libraries", self.faults())

    def test_a_path_that_does_not_begin_at_the_root_fails(self):
        self.write("common/reader.h", '#include "record.h"\n')
        self.assertIn("common/reader.h:1: record.h: no such file; a path begins at the project's root", self.faults())

    def test_angle_brackets_do_not_hide_an_include(self):
        self.write("common/status.h", "#include <common/record.h>\n")
        self.assertIn("common/status.h:1: common/record.h: the project's own headers", self.faults())

    def test_no_files_at_all_pass(self):
        with tempfile.TemporaryDirectory() as empty:
            self.assertEqual(self.run_script("check-layers", empty), "")


class CheckDocs(Project):
    def setUp(self):
        super().setUp()
        self.write("tools.txt", "publish\nxml2json\n")
        for tool in ("publish", "xml2json"):
            self.write(f"tools/{tool}.cpp")
            self.write(f"man/{tool}.1")
        self.write("man/inflight.7", ".Bl -tag\n.It Xr publish 1\na\n.It Xr xml2json 1\nb\n.El\n.Sh SEE ALSO\n.Xr jq 1\n")
        self.write("README.md", "| tool | does |\n|---|---|\n| `publish` | a |\n| [`xml2json`](man/xml2json.1) | b |\n")

    def faults(self):
        return self.run_script("check-docs", self.root / "tools.txt", self.root)

    def test_tools_with_manual_and_row_are_silent(self):
        self.assertEqual(self.faults(), "")

    def test_a_tool_without_a_manual_fails(self):
        (self.root / "man/publish.1").unlink()
        self.assertEqual(self.faults(), "check-docs: publish: has not a manual man/NAME.1\n")

    def test_a_tool_without_a_line_in_the_overview_fails(self):
        self.write("man/inflight.7", ".It Xr publish 1\n")
        self.assertEqual(self.faults(), "check-docs: xml2json: has not a line in man/inflight.7\n")

    def test_a_tool_without_a_row_fails(self):
        self.write("README.md", "publish and `xml2json`\n| `xml2json` | b |\n")
        self.assertEqual(self.faults(), "check-docs: publish: has not a row in README.md\n")

    def test_a_row_for_a_tool_that_is_not_there_fails(self):
        self.write("tools.txt", "publish\n")
        self.assertIn("xml2json: has a row in README.md, yet CMakeLists.txt lists no such tool", self.faults())

    def test_an_empty_list_passes_in_an_empty_project(self):
        with tempfile.TemporaryDirectory() as empty:
            pathlib.Path(empty, "README.md").write_text("# nothing yet\n")
            self.write("tools.txt", "\n")
            self.assertEqual(self.run_script("check-docs", self.root / "tools.txt", empty), "")


if __name__ == "__main__":
    unittest.main()

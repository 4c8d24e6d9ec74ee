#include "common/fleet.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "common/handle.h"

using namespace inflight;

namespace {

struct File {
  std::string path;
  explicit File(std::string const& text) {
    char name[] = "/tmp/inflight-fleet-XXXXXX";
    Fd const fd(::mkstemp(name));
    path = name;
    std::ofstream(path) << text;
  }
  ~File() { std::remove(path.c_str()); }
};

std::string wrong_devices(std::string const& text) {
  File const file(text);
  auto const fleet = read_devices(file.path);
  REQUIRE_FALSE(fleet);
  CHECK(fleet.status().code() == Code::usage);
  std::string const what = fleet.status().what();
  REQUIRE(what.starts_with(file.path + ": "));
  return what.substr(file.path.size() + 2);
}

}  // namespace

TEST_CASE("devices are lines of id and URL, or JSON, among blanks and comments") {
  File const file("# fleet\n\n a  http://h/a \r\n{\"url\":\"https://h/{id}\",\"id\":\"b c\",\"site\":1}\nd http://h/d");
  auto const fleet = read_devices(file.path);
  REQUIRE(fleet);
  REQUIRE(fleet->size() == 3);
  CHECK((*fleet)[0].id == "a");
  CHECK((*fleet)[0].url == "http://h/a");
  CHECK((*fleet)[1].id == "b c");
  CHECK((*fleet)[1].url == "https://h/b%20c");
  CHECK((*fleet)[2].url == "http://h/d");
}

TEST_CASE("a malformed device line is told by number and text") {
  CHECK(wrong_devices("a http://h\nb\n") == "line 2 is not `id URL`: b");
  CHECK(wrong_devices("a http://h x\n") == "line 1 is not `id URL`: a http://h x");
  CHECK(wrong_devices("\na ftp://h\n") == "line 2 has no http or https URL: a ftp://h");
  CHECK(wrong_devices("{\"id\":7,\"url\":\"http://h\"}") ==
        "line 1 is not {\"id\":\"…\",\"url\":\"…\"}: {\"id\":7,\"url\":\"http://h\"}");
  CHECK(wrong_devices("{\"id\":\"a\"") == "line 1 is not {\"id\":\"…\",\"url\":\"…\"}: {\"id\":\"a\"");
  CHECK(wrong_devices("a http://h\n#\na http://i\n") == "line 3 repeats the id of line 1: a http://i");
}

TEST_CASE("a list without a unit is refused, and so is one that is not there") {
  CHECK(wrong_devices("# nothing\n") == "names no unit");
  auto const fleet = read_devices("/nonexistent/fleet.txt");
  REQUIRE_FALSE(fleet);
  CHECK(fleet.status().code() == Code::usage);
}

TEST_CASE("ids go into the one URL, percent-encoded") {
  File const file("a/1\nb\n");
  auto const fleet = read_ids(file.path, "http://h/{id}/x?u={id}");
  REQUIRE(fleet);
  REQUIRE(fleet->size() == 2);
  CHECK((*fleet)[0].id == "a/1");
  CHECK((*fleet)[0].url == "http://h/a%2F1/x?u=a%2F1");
  File const two("a b\n");
  CHECK_FALSE(read_ids(two.path, "http://h/{id}"));
}

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <random>
#include <string>
#include <vector>

#include "common/path.h"
#include "common/record.h"

using namespace inflight;

namespace {

struct Found {
  Status status;
  std::vector<std::string> values;
};

Found find(std::string line, std::vector<std::string> const& names) {
  std::size_t const size = line.size();
  line.append(kRecordPadding, '}');  // what stands behind a line must not matter
  std::vector<Path> paths;
  for (std::string const& name : names) paths.push_back(*Path::parse(name));
  Selector selector(paths);
  RecordParser parser;
  Record record;
  Found found;
  found.status = parser.parse({line.data(), size}, record);
  std::vector<Value> values;
  if (found.status.ok()) found.status = selector.select(record, values);
  for (Value const& value : values) found.values.emplace_back(value.raw);
  return found;
}

// Any JSON value, with whatever may lead astray who looks for its end.
std::string any_value(std::minstd_rand& random, int depth) {
  auto below = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
  switch (below(depth > 0 ? 6 : 3)) {
    case 0:
      return std::to_string(random());
    case 1:
      return "\"" + std::string(below(70), 'x') + "{[}]" + std::string(below(9), ']') + "\"";
    case 2:
      return below(8) == 0 ? R"("\"{\\")" : "\"\"";
    default: {
      bool const object = below(2) == 0;
      std::string text = object ? "{" : "[";
      unsigned const count = below(6);
      for (unsigned i = 0; i < count; ++i) {
        text += fmt::format("{}{}{}",
                            i == 0          ? ""
                            : below(3) == 0 ? " , "
                                            : ",",
                            object ? fmt::format("\"k{}\":", i) : "", any_value(random, depth - 1));
      }
      return text + (object ? "}" : "]");
    }
  }
}

}  // namespace

TEST_CASE("a selector finds what stands behind values of any shape and length") {
  std::minstd_rand random(7);
  for (int round = 0; round < 20000; ++round) {
    std::string const before = any_value(random, 4), between = any_value(random, 4);
    std::string const line =
        fmt::format(R"({{"specversion":"1.0","id":"7","data":{{"x":{},"a":{{"y":{},"b":1.50}},"c":{}}}}})", before,
                    between, before);
    Found const found = find(line, {"/a/b", "/c", "id", "/none"});
    REQUIRE_MESSAGE(found.status.ok(), line << ": " << found.status.what());
    std::vector<std::string> const expected = {"1.50", before, "\"7\"", ""};
    REQUIRE_MESSAGE(found.values == expected, line);
  }
}

TEST_CASE("a selector rejects a value that it reads and that is no JSON") {
  CHECK(find(R"({"a":{"b":[1,]}})", {"/a/b"}).status.code() == Code::rejected);
  CHECK(find(R"({"a":{"b" 1}})", {"/a/b"}).status.code() == Code::rejected);
}

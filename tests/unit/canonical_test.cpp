#include "common/canonical.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

using namespace inflight;
using namespace std::chrono_literals;

namespace {

std::string canonical(std::string_view json, CanonicalOptions options = {},
                      std::vector<std::string> const& without = {}) {
  std::string out = "before ";
  bool const good = Canonical(options).append(out, json, without);
  REQUIRE(out.starts_with("before "));
  if (!good) CHECK(out == "before ");
  return good ? out.substr(7) : "refused";
}

}  // namespace

TEST_CASE("Numbers that are equal are written alike, in their shortest digits") {
  struct {
    char const *written, *canonical;
  } const cases[] = {
      {"12.50", "12.5"},
      {"12.5", "12.5"},
      {"1e3", "1000"},
      {"1E+3", "1000"},
      {"1000", "1000"},
      {"1000.000", "1000"},
      {"-1000.0010", "-1000.001"},
      {"123456789012345678901.50", "123456789012345678901.5"},
      {"1234567890123456789012.50", "1.2345678901234567890125e21"},
      {"10e-1", "1"},
      {"0", "0"},
      {"-0", "0"},
      {"0.000", "0"},
      {"-0.0e7", "0"},
      {"0e999999", "0"},
      {"-12.50", "-12.5"},
      {"0.5", "0.5"},
      {"5e-1", "0.5"},
      {"0.000001", "0.000001"},
      {"0.0000001", "1e-7"},
      {"10e-8", "1e-7"},
      {"123e-9", "1.23e-7"},
      {"9007199254740993", "9007199254740993"},
      {"9007199254740993.0", "9007199254740993"},
      {"9223372036854775807", "9223372036854775807"},
      {"18446744073709551616", "18446744073709551616"},
      {"100000000000000000000", "100000000000000000000"},
      {"1e20", "100000000000000000000"},
      {"1e21", "1e21"},
      {"1000000000000000000000", "1e21"},
      {"1234567890123456789012345", "1.234567890123456789012345e24"},
      {"0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"},
      {"1e400", "1e400"},
      {"10e399", "1e400"},
      {"1e-400", "1e-400"},
      {"1e9999999999999999", "1e9999999999999999"},
  };
  for (auto const& one : cases) {
    CHECK_MESSAGE(canonical(one.written) == one.canonical, one.written);
    CHECK_MESSAGE(canonical(one.canonical) == one.canonical, one.canonical);  // its own form
  }
  CHECK(canonical("9007199254740993") != canonical("9007199254740992"));
  CHECK(canonical("0.1") != canonical("0.10000000000000001"));
}

TEST_CASE("Strings are their characters, not their escapes") {
  CHECK(canonical(R"("\u00e9\/\u0041")") == "\"é/A\"");
  CHECK(canonical("\"é/A\"") == "\"é/A\"");
  CHECK(canonical(R"("\ud83d\ude00")") == "\"😀\"");
  CHECK(canonical(R"("\u000a\u0022\u005c")") == R"("\n\"\\")");
  CHECK(canonical(R"("\u0000")") == R"("\u0000")");
  CHECK(canonical(R"("1")") != canonical("1"));
  CHECK(canonical(R"("12.50")") == R"("12.50")");  // a text stays a text
}

TEST_CASE("Halves of characters are told apart, though none of them can be written") {
  CHECK(canonical(R"("\ud800")") != canonical(R"("\ud801")"));
  CHECK(canonical(R"("\ud800")") != canonical("\"\xef\xbf\xbd\""));
  CHECK(canonical(R"("\ufffd")") == canonical("\"\xef\xbf\xbd\""));
}

TEST_CASE("Times are instants, cut to the precision") {
  CHECK(canonical(R"("2018-07-01T13:00:00Z")") == R"("2018-07-01T13:00:00Z")");
  CHECK(canonical(R"("2018-07-01T15:00:00.000+02:00")") == R"("2018-07-01T13:00:00Z")");
  CHECK(canonical(R"("2018-07-01T13:00:00.123456789Z")") == R"("2018-07-01T13:00:00.123456789Z")");
  CHECK(canonical(R"("2018-07-01T13:00:00.123456789Z")", {1us}) == R"("2018-07-01T13:00:00.123456Z")");
  CHECK(canonical(R"("2018-07-01T13:00:00.9Z")", {1s}) == R"("2018-07-01T13:00:00Z")");
  CHECK(canonical(R"("1969-12-31T23:59:59.5Z")", {1s}) == R"("1969-12-31T23:59:59Z")");  // cut, not towards zero
  CHECK(canonical(R"("2018-07-01T13:00:00.25\u005a")", {1s}) == R"("2018-07-01T13:00:00Z")");
  for (char const* none : {R"("2018-07-01")", R"("2018-07-01T13:00:00")", R"("2018-13-01T13:00:00Z")",
                           R"("1500-07-01T13:00:00+01:00")", R"("yyyy-mm-ddThh:mm:ssZ")"}) {
    CHECK_MESSAGE(canonical(none, {1s}) == none, none);
  }
  CHECK(canonical(R"({"2018-07-01T13:00:00.9Z":1})", {1s}) == R"({"2018-07-01T13:00:00.9Z":1})");  // a name
}

TEST_CASE("Members stand in the order of their names, and the last one of a name counts") {
  CHECK(canonical(R"( { "b" : 1 , "a" : [ 1.0 , { "d":2, "c":1 } ] } )") == R"({"a":[1,{"c":1,"d":2}],"b":1})");
  CHECK(canonical(R"({"a":1,"b":2,"a":3})") == R"({"a":3,"b":2})");
  CHECK(canonical(R"({"a":1,"\u0061":2})") == R"({"a":2})");
  CHECK(canonical(R"({"z":{},"y":[]})") == R"({"y":[],"z":{}})");
  CHECK(canonical(R"([3,1,2])") == "[3,1,2]");
  CHECK(canonical(R"({"a":true,"b":false,"c":null})") == R"({"a":true,"b":false,"c":null})");
}

TEST_CASE("Many members are as few ones") {
  std::string json = "{", wanted = "{";
  for (int i = 99; i >= 0; --i) json += fmt::format("\"n{:02}\":{},\"n{:02}\":{},", i, i + 1, i, i);
  for (int i = 0; i < 100; ++i) wanted += fmt::format("\"n{:02}\":{},", i, i);
  json.back() = wanted.back() = '}';
  CHECK(canonical(json) == wanted);
}

TEST_CASE("Null members and members of the key can be left out") {
  CanonicalOptions options;
  options.ignore_null = true;
  CHECK(canonical(R"({"a":null,"b":{"c":null},"d":[null]})", options) == R"({"b":{},"d":[null]})");
  CHECK(canonical(R"({"c":null,"b":null})", options) == "{}");
  CHECK(canonical(R"({"id":7,"v":{"id":8}})", {}, {"\"id\""}) == R"({"v":{"id":8}})");
  CHECK(canonical(R"({"i\u0064":7})", {}, {"\"id\""}) == "{}");
}

TEST_CASE("What is no JSON is refused, and nothing is appended") {
  for (char const* text :
       {"",     " ",          "{",   "[1",        "[1,]", "{\"a\":1,}", "{\"a\"}", "{a:1}",   "tru",         "nul",
        "01",   "1.",         ".5",  "+1",        "1e",   "--1",        "\"a",     "\"\\x\"", "\"\\u12g4\"", "1 2",
        "[1]]", "{\"a\":1}}", "NaN", "{\"a\" 1}", "{,}",  "\"\\"}) {
    CHECK_MESSAGE(canonical(text) == "refused", text);
  }
  CHECK(canonical(std::string(1000, '[') + std::string(1000, ']')) != "refused");
  CHECK(canonical(std::string(1002, '[') + std::string(1002, ']')) == "refused");
}

#include "common/time.h"

#include <doctest/doctest.h>

#include <limits>

using namespace inflight;

namespace {

std::string again(std::string_view text) {
  auto const time = parse_rfc3339(text);
  return time ? format_rfc3339(*time) : "none";
}

std::string read(std::string_view format, std::string_view text) {
  auto const parsed = TimeFormat::parse(format);
  REQUIRE_MESSAGE(parsed.ok(), parsed.status().what());
  auto const time = parsed->read(text);
  return time ? format_rfc3339(*time) : "none";
}

}  // namespace

TEST_CASE("RFC 3339 times survive a round trip to the nanosecond, at both ends of the range too") {
  for (std::string_view const text :
       {"2018-07-01T13:00:00Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999999999Z", "2000-02-29T00:00:00.5Z",
        "1677-09-21T00:12:43.145224192Z", "2262-04-11T23:47:16.854775807Z", "1900-02-28T23:59:59.000000001Z"}) {
    CHECK(again(text) == text);
  }
  CHECK(parse_rfc3339("1677-09-21T00:12:43.145224192Z")->ns == std::numeric_limits<std::int64_t>::min());
  CHECK(parse_rfc3339("2262-04-11T23:47:16.854775807Z")->ns == std::numeric_limits<std::int64_t>::max());
  CHECK(again("1677-09-21T00:12:43.145224191Z") == "none");
  CHECK(again("2262-04-11T23:47:16.854775808Z") == "none");
  CHECK(again("0000-01-01T00:00:00Z") == "none");
}

TEST_CASE("Zones, fractions and letters in either case are understood") {
  CHECK(again("2018-07-01T13:00:00+02:00") == "2018-07-01T11:00:00Z");
  CHECK(again("2018-07-01T13:00:00-05:30") == "2018-07-01T18:30:00Z");
  CHECK(again("2018-07-01t13:00:00.120000000z") == "2018-07-01T13:00:00.12Z");
  CHECK(again("2016-12-31T23:59:60Z") == "2017-01-01T00:00:00Z");
  CHECK(again("2017-12-31T23:30:00-01:00") == "2018-01-01T00:30:00Z");
}

TEST_CASE("What is no RFC 3339 time is none") {
  for (std::string_view const text : {"",
                                      "2018-07-01",
                                      "2018-07-01T13:00:00",
                                      "2018-07-01T13:00Z",
                                      "2018-7-01T13:00:00Z",
                                      "2018-13-01T13:00:00Z",
                                      "2018-07-32T13:00:00Z",
                                      "2018-06-31T13:00:00Z",
                                      "2018-02-29T00:00:00Z",
                                      "1900-02-29T00:00:00Z",
                                      "2018-07-01T24:00:00Z",
                                      "2018-07-01T13:60:00Z",
                                      "2018-07-01T13:00:61Z",
                                      "2018-07-01T13:00:00.Z",
                                      "2018-07-01T13:00:00.1234567891Z",
                                      "2018-07-01T13:00:00+0200",
                                      "2018-07-01T13:00:00+24:00",
                                      "2018-07-01T13:00:00Zx",
                                      " 2018-07-01T13:00:00Z",
                                      "2018-07-01T13:00:00,5Z",
                                      "+018-07-01T13:00:00Z"}) {
    CHECK_MESSAGE(again(text) == "none", text);
  }
}

TEST_CASE("Civil dates and days go both ways over every day of 900 years") {
  std::int64_t const first = days_from_civil(1680, 1, 1);
  std::int64_t const last = days_from_civil(2262, 1, 1);
  CHECK(days_from_civil(1970, 1, 1) == 0);
  unsigned before = 0;
  for (std::int64_t day = first; day < last; ++day) {
    Civil const c = civil_from_time({day * 86'400'000'000'000});
    if (days_from_civil(c.year, c.month, c.day) != day || c.hour != 0) FAIL("day " << day);
    if (c.day != before + 1 && c.day != 1) FAIL("day " << day << " does not follow");
    before = c.day;
  }
}

TEST_CASE("Options take times as people write them") {
  Time const now = *parse_rfc3339("2018-07-01T13:14:15.5Z");
  auto when = [&](std::string_view text) {
    auto const time = parse_when(text, now);
    return time ? format_rfc3339(*time) : "none";
  };
  CHECK(when("now") == "2018-07-01T13:14:15.5Z");
  CHECK(when("today") == "2018-07-01T00:00:00Z");
  CHECK(when("yesterday") == "2018-06-30T00:00:00Z");
  CHECK(when("-2h") == "2018-07-01T11:14:15.5Z");
  CHECK(when("2018-07-01") == "2018-07-01T00:00:00Z");
  CHECK(when("2018-07-01T01:02:03") == "2018-07-01T01:02:03Z");
  CHECK(when("2018-07-01 01:02:03+01:00") == "2018-07-01T00:02:03Z");
  CHECK(when("@1530403200") == "2018-07-01T00:00:00Z");
  CHECK(when("@1530403200.123456789") == "2018-07-01T00:00:00.123456789Z");
  CHECK(when("@-1") == "1969-12-31T23:59:59Z");
  for (std::string_view const text : {"", "-", "-x", "@", "@x", "tomorrow", "2018", "-5"}) CHECK(when(text) == "none");
}

TEST_CASE("Counts since 1970 are read exactly") {
  CHECK(read("unix", "1530403200") == "2018-07-01T00:00:00Z");
  CHECK(read("unix", "1530403200.000000001") == "2018-07-01T00:00:00.000000001Z");
  CHECK(read("unix", "-0.5") == "1969-12-31T23:59:59.5Z");
  CHECK(read("unixms", "1530403200001") == "2018-07-01T00:00:00.001Z");
  CHECK(read("unixms", "0.000001") == "1970-01-01T00:00:00.000000001Z");
  CHECK(read("unixus", "1530403200000001") == "2018-07-01T00:00:00.000001Z");
  CHECK(read("unixns", "9223372036854775807") == "2262-04-11T23:47:16.854775807Z");
  CHECK(read("unixns", "-9223372036854775808") == "1677-09-21T00:12:43.145224192Z");
  CHECK(read("unixns", "9223372036854775808") == "none");
  CHECK(read("unix", "9223372037") == "none");
  for (std::string_view const text : {"", "-", "1e9", "0x1", "1.", ".5", " 1", "1 ", "1.0000000001", "+1"})
    CHECK(read("unix", text) == "none");
  CHECK(read("unix", "1.0000000000") == "1970-01-01T00:00:01Z");
}

TEST_CASE("Patterns read what strptime reads, in UTC where no zone stands there") {
  CHECK(read("%Y-%m-%d %H:%M:%S", "2018-07-01 13:14:15") == "2018-07-01T13:14:15Z");
  CHECK(read("%d.%m.%Y %H:%M:%S.%f", "1.7.2018  3:04:05.25") == "2018-07-01T03:04:05.25Z");
  CHECK(read("%a, %d %b %Y %T %Z", "Sun, 01 Jul 2018 13:14:15 GMT") == "2018-07-01T13:14:15Z");
  CHECK(read("%FT%T%z", "2018-07-01T13:14:15+0200") == "2018-07-01T11:14:15Z");
  CHECK(read("%FT%T%z", "2018-07-01T13:14:15-02:30") == "2018-07-01T15:44:15Z");
  CHECK(read("%m/%d/%y %I:%M %p", "07/01/18 12:30 AM") == "2018-07-01T00:30:00Z");
  CHECK(read("%B %e, %Y %I %p", "december  1, 1969 1 pm") == "1969-12-01T13:00:00Z");
  CHECK(read("%Y%m%d%H%M%S", "20180701131415") == "2018-07-01T13:14:15Z");
  CHECK(read("%Y %j", "2020 366") == "2020-12-31T00:00:00Z");
  CHECK(read("%s.%f", "1530403200.5") == "2018-07-01T00:00:00.5Z");
  CHECK(read("%H%%", "13%") == "1970-01-01T13:00:00Z");
  CHECK(read("%Y %j", "2018 366") == "none");
  CHECK(read("%Y-%m-%d", "2018-02-29") == "none");
  CHECK(read("%Y-%m-%d", "2018-02-28x") == "none");
  CHECK(read("%Y-%m-%d", "2018-02") == "none");
  CHECK(read("%d", "0") == "none");
  CHECK(read("rfc3339", "2018-07-01T13:00:00+02:00") == "2018-07-01T11:00:00Z");
  for (std::string_view const text : {"", "%", "%Q", "unixs", "iso", "%Y-%", "%%"})
    CHECK_FALSE(TimeFormat::parse(text).ok());
}

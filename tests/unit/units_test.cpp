#include "common/units.h"

#include <doctest/doctest.h>

using namespace inflight;
using namespace std::chrono_literals;

TEST_CASE("Durations are numbers with units, added up") {
  CHECK(*parse_duration("25ms") == 25ms);
  CHECK(*parse_duration("1h30m") == 90min);
  CHECK(*parse_duration("1.5s") == 1500ms);
  CHECK(*parse_duration("0") == 0s);
  CHECK(*parse_duration("7d") == 168h);
  CHECK(*parse_duration("2w1ns") == 336h + 1ns);
  CHECK(*parse_duration("3us") == *parse_duration("3µs"));
  for (char const* text :
       {"", "5", "-5s", "s", "5x", "1h30", "1 h", " 1h", "1e3s", "infs", "nans", "400000000000h", "0x5s"}) {
    CHECK_MESSAGE(parse_duration(text).status().code() == Code::usage, text);
  }
}

TEST_CASE("Durations are written so that they are read back") {
  for (Duration const d : {Duration(0s), Duration(1ns), Duration(15us), Duration(25ms), Duration(1s), Duration(90s),
                           Duration(90min), Duration(1501ms), Duration(168h), Duration(24h + 5s)}) {
    CHECK(*parse_duration(format_duration(d)) == d);
  }
  CHECK(format_duration(90min) == "1h30m");
  CHECK(format_duration(-25ms) == "-25ms");
}

TEST_CASE("Sizes are decimal or binary as their unit says") {
  CHECK(*parse_size("512") == 512);
  CHECK(*parse_size("64KiB") == 65536);
  CHECK(*parse_size("10MB") == 10'000'000);
  CHECK(*parse_size("10M") == 10'000'000);
  CHECK(*parse_size("1.5GiB") == 1'610'612'736);
  CHECK(*parse_size("0B") == 0);
  for (char const* text : {"", "-1", "1KB", "MiB", "1MiB2", "99999999TiB", "1 kB", "1/s"}) {
    CHECK_MESSAGE(parse_size(text).status().code() == Code::usage, text);
  }
  CHECK(format_size(512) == "512 B");
  CHECK(format_size(1536) == "1.5 KiB");
}

TEST_CASE("Rates are of records or of bytes, over any time") {
  CHECK(parse_rate("40/s")->per_second == doctest::Approx(40));
  CHECK(parse_rate("1/h")->per_second == doctest::Approx(1 / 3600.0));
  CHECK(parse_rate("100/1.5m")->per_second == doctest::Approx(100 / 90.0));
  CHECK(parse_rate("5MiB/s")->per_second == doctest::Approx(5 * 1048576));
  CHECK(parse_rate("5MiB/s")->bytes);
  CHECK_FALSE(parse_rate("5k/s")->bytes);
  for (char const* text : {"", "40", "40/", "/s", "0/s", "40/0s", "40/x", "-1/s", "40/s/s"}) {
    CHECK_MESSAGE(parse_rate(text).status().code() == Code::usage, text);
  }
}

#include "common/pacer.h"

#include <doctest/doctest.h>

#include <vector>

using namespace inflight;
using namespace std::chrono_literals;

namespace {

// Passes records of a size at the moments that the pacer names, each found `late`, for as long as `length`.
std::vector<Duration> pass(Pacer& pacer, Duration from, Duration length, std::size_t size = 100, Duration late = 0ns,
                           Duration write = 0ns) {
  std::vector<Duration> moments;
  for (Duration now = from;;) {
    now = std::max(now, pacer.due()) + late;
    if (now - from > length) return moments;
    pacer.passes(now, size);
    moments.push_back(now);
    now += write;
    pacer.written(now);
  }
}

Pacer::Limits limits(std::string_view text) {
  Pacer::Limits read;
  REQUIRE(Pacer::read(text, read).ok());
  return read;
}

}  // namespace

TEST_CASE("a rate is met within a thousandth, however late each record is") {
  for (double const rate : {1.0, 7.0, 40.0, 1000.0, 333'333.0, 1'000'000.0}) {
    for (Duration const late : {Duration(0ns), Duration(50us), Duration(20ms)}) {
      Pacer::Limits wanted;
      wanted.records = rate;
      Pacer pacer(wanted, 5s);
      Duration const length = rate > 1000 ? 1s : 100s;
      std::uint64_t count = 0;
      if (Duration(std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 / rate))) > late) {
        count = pass(pacer, 5s, length, 100, late).size();
      } else {
        // Late by many records: all that are due pass together.
        for (Duration now = 5s; now <= 5s + length; now += late) {
          for (; pacer.due() <= now; ++count) pacer.passes(now, 100);
        }
      }
      auto const passed = static_cast<double>(count);
      double const expected = rate * std::chrono::duration<double>(length).count();
      CHECK(passed >=
            doctest::Approx(expected - rate * std::chrono::duration<double>(late).count() - 1).epsilon(0.001));
      CHECK(passed <= doctest::Approx(expected + 1).epsilon(0.001));
    }
  }
}

TEST_CASE("a rate of bytes counts bytes, also where a record is larger than a second's") {
  Pacer pacer(limits("1000B/s"), 0s);
  CHECK(pass(pacer, 0s, 100s, 100).size() == doctest::Approx(1001).epsilon(0.001));
  Pacer large(limits("1000B/s"), 0s);
  CHECK(pass(large, 0s, 100s, 10'000).size() == 11);
  large.more(10'000);  // of one that passes in parts
  CHECK(large.due() == 120s);
}

TEST_CASE("records are never closer than the interval, from the end of a write on") {
  Pacer pacer(limits("25ms"), 0s);
  auto const moments = pass(pacer, 0s, 10s, 100, 3us, 2ms);
  CHECK(moments.size() > 360);
  for (std::size_t i = 1; i < moments.size(); ++i) CHECK(moments[i] - moments[i - 1] >= 27ms);
  pacer.idle(60s);  // idling earns nothing
  auto const more = pass(pacer, 60s, 1s);
  for (std::size_t i = 1; i < more.size(); ++i) CHECK(more[i] - more[i - 1] >= 25ms);
}

TEST_CASE("below the limit nothing waits") {
  Pacer pacer(limits("40/s 25ms"), 0s);
  for (Duration now = 0s; now < 10s; now += 26ms) {
    pacer.idle(now);
    CHECK(pacer.due() <= now);
    pacer.passes(now, 100);
    pacer.written(now);
  }
}

TEST_CASE("after idling a burst passes at once, and no more") {
  auto at_once = [](double burst, char const* rate = "10/s") {
    Pacer::Limits wanted = limits(rate);
    wanted.burst_records = burst;
    Pacer pacer(wanted, 0s);
    pacer.idle(100s);
    int passed = 0;
    for (; pacer.due() <= 100s; ++passed) pacer.passes(100s, 100);
    return passed;
  };
  CHECK(at_once(1) == 1);
  CHECK(at_once(5) == 5);
  CHECK(at_once(20) == 20);
  CHECK(at_once(0) == 1);
  CHECK(at_once(0, "40/s") == 1);
  CHECK(at_once(0, "1000/s") == 10);  // of a hundredth of a second
}

TEST_CASE("a reader that was slow for long is caught up with by a tenth of a second") {
  Pacer pacer(limits("1000/s"), 0s);
  pacer.passes(0s, 100);
  int passed = 0;
  for (; pacer.due() <= 60s; ++passed) pacer.passes(60s, 100);
  CHECK(passed == 101);
}

TEST_CASE("new limits hold at once, and nothing waits for what the old ones asked for") {
  Pacer pacer(limits("1/h"), 0s);
  pacer.passes(0s, 100);
  CHECK(pacer.due() == 1h);
  pacer.set(limits("10/s"), 1s);
  CHECK(pacer.due() == 1100ms);
  pacer.set(limits("1/m"), 2s);
  CHECK(pass(pacer, 2s, 1h).size() <= 61);
  pacer.set(limits("pause"), 2h);
  CHECK(pacer.due() == Pacer::kNever);
  pacer.set(limits("none"), 2h);
  CHECK(pacer.due() <= 2h);
  CHECK(limits("none").none());
  pacer.set(limits("1h"), 3h);
  pacer.written(3h);
  pacer.set(limits("25ms"), 3h);
  CHECK(pacer.due() == 3h + 25ms);
}

TEST_CASE("what another process says is kept, but for no longer than one record waits") {
  Pacer pacer(limits("1/m"), 0s);
  pacer.not_before(50s, 0s);
  CHECK(pacer.due() == 50s);
  pacer.not_before(1000h, 0s);
  CHECK(pacer.due() == 60s);
  Pacer interval(limits("25ms"), 0s);
  interval.not_before(1h, 0s);
  CHECK(interval.due() == 25ms);
}

TEST_CASE("limits are read from words, and what makes no sense changes nothing") {
  Pacer::Limits read = limits("40/s 5MiB/s 25ms\n");
  CHECK(read.records == 40);
  CHECK(read.bytes == 5 << 20);
  CHECK(read.min_interval == 25ms);
  CHECK(!read.paused);
  Pacer::Limits const before = read;
  for (char const* wrong : {"fast", "40/s 5x/s", "-3/s", "40"}) {
    CHECK(Pacer::read(wrong, read).code() == Code::usage);
    CHECK(read == before);
  }
  CHECK(limits("").none());
  CHECK(limits(" pause \n").paused);
}

#include "common/schedule.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <vector>

using namespace inflight;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// Polls for a while in steps of a millisecond, each answer after `latency`, or never where it is negative: then the
// request fails after `timeout`. Returns when each unit was asked.
struct Fleet {
  Schedule schedule;
  std::vector<Duration> latency;
  Duration timeout = seconds(5);
  Duration now = seconds(1000);
  std::map<std::size_t, std::vector<Duration>> asked;
  std::multimap<Duration, std::size_t> ends;
  std::size_t given_way = 0;

  Fleet(Duration period, std::size_t slots, std::vector<Duration> l) : schedule(period, slots), latency(std::move(l)) {
    for (std::size_t i = 0; i < latency.size(); ++i) schedule.add(i, now);
  }

  void run(Duration duration) {
    for (Duration const end = now + duration; now < end; now += milliseconds(1)) {
      while (!ends.empty() && ends.begin()->first <= now) {
        std::size_t const unit = ends.begin()->second;
        ends.erase(ends.begin());
        latency[unit] < Duration::zero() ? schedule.failed(unit, now) : schedule.answered(unit, now);
      }
      while (auto const unit = schedule.next(now)) {
        asked[*unit].push_back(now);
        ends.emplace(now + (latency[*unit] < Duration::zero() ? timeout : latency[*unit]), *unit);
      }
      if (auto const unit = schedule.give_way(now)) {
        ++given_way;
        ends.erase(std::find_if(ends.begin(), ends.end(), [&](auto const& end_of) { return end_of.second == *unit; }));
        schedule.failed(*unit, now);
      }
    }
  }

  [[nodiscard]] Duration longest_gap(std::size_t unit) {
    Duration longest{};
    auto const& moments = asked[unit];
    for (std::size_t i = 1; i < moments.size(); ++i) longest = std::max(longest, moments[i] - moments[i - 1]);
    return longest;
  }
};

constexpr Duration kNever{-1};

}  // namespace

TEST_CASE("polls are spread evenly over the period") {
  Fleet fleet(seconds(10), 100, std::vector<Duration>(1000, milliseconds(3)));
  fleet.run(seconds(10));
  std::vector<std::size_t> per_second(10);
  for (auto const& [unit, moments] : fleet.asked) {
    REQUIRE(moments.size() == 1);
    ++per_second[static_cast<std::size_t>((moments[0] - seconds(1000)) / seconds(1))];
  }
  for (std::size_t const count : per_second) CHECK(std::abs(static_cast<int>(count) - 100) <= 3);
}

TEST_CASE("a schedule does not drift, however long answers take") {
  Fleet fleet(seconds(10), 100, {milliseconds(1), milliseconds(700), seconds(9)});
  fleet.run(seconds(1000));
  for (std::size_t unit = 0; unit < 3; ++unit) {
    auto const& moments = fleet.asked[unit];
    REQUIRE(moments.size() == 100);
    CHECK(moments.back() - moments.front() == seconds(990));
  }
}

TEST_CASE("an answer that takes longer than the period costs moments, not the grid") {
  Fleet fleet(seconds(10), 10, {seconds(25)});
  fleet.run(seconds(200));
  auto const& moments = fleet.asked[0];
  REQUIRE(moments.size() > 5);
  CHECK(fleet.schedule.take_missed() > 0);
  CHECK(fleet.schedule.take_missed() == 0);
}

TEST_CASE("a unit that fails is asked after 1, 2, 4, 8 and then each 16 periods") {
  Fleet fleet(seconds(10), 10, {kNever});
  fleet.run(seconds(700));
  std::vector<Duration> gaps;
  auto const& moments = fleet.asked[0];
  for (std::size_t i = 1; i < moments.size(); ++i) gaps.push_back(moments[i] - moments[i - 1]);
  REQUIRE(gaps.size() == 7);
  CHECK(gaps == std::vector<Duration>{seconds(10), seconds(20), seconds(40), seconds(80), seconds(160), seconds(160),
                                      seconds(160)});
}

TEST_CASE("a unit that answers again is back on its schedule") {
  Fleet fleet(seconds(10), 10, {kNever});
  fleet.run(seconds(75));
  fleet.latency[0] = milliseconds(5);
  fleet.run(seconds(300));
  auto const& moments = fleet.asked[0];
  CHECK(moments.back() - moments[moments.size() - 2] == seconds(10));
  CHECK((moments.back() - moments.front()).count() % Duration(seconds(10)).count() == 0);
}

TEST_CASE("what a unit asks for before the next poll is kept to, on its grid") {
  Schedule schedule(seconds(10), 4);
  schedule.add(0, seconds(0));
  REQUIRE(schedule.next(seconds(0)) == 0U);
  schedule.failed(0, seconds(1), seconds(33));
  CHECK_FALSE(schedule.next(seconds(39)));
  CHECK(schedule.next(seconds(40)) == 0U);
}

TEST_CASE("units that never answer do not delay the others, even where slots are few") {
  std::vector<Duration> latency(1000, milliseconds(5));
  for (std::size_t i = 0; i < latency.size(); i += 5) latency[i] = kNever;
  Fleet fleet(seconds(10), 30, latency);
  fleet.timeout = seconds(10);
  fleet.run(seconds(300));
  for (std::size_t i = 0; i < latency.size(); ++i) {
    if (i % 5 == 0) continue;
    CHECK(fleet.asked[i].size() == 30);
    CHECK(fleet.longest_gap(i) < milliseconds(12500));
  }
  CHECK(fleet.given_way > 0);
  CHECK(fleet.schedule.running() <= 30);
}

TEST_CASE("a fleet that is slow as a whole keeps its slots until it answers") {
  Fleet fleet(seconds(10), 30, std::vector<Duration>(60, seconds(3)));
  fleet.run(seconds(200));
  for (std::size_t i = 0; i < 60; ++i) CHECK(fleet.asked[i].size() >= 15);
  std::size_t const before = fleet.given_way;
  fleet.run(seconds(100));
  CHECK(fleet.given_way == before);
}

TEST_CASE("a request gives way when others have overtaken it, not for its age") {
  Duration now = seconds(1000);
  Schedule schedule(seconds(1), 2);
  for (std::size_t unit = 0; unit < 8; ++unit) schedule.add(unit, now);
  auto const after = [&](int ms) { return now + seconds(1) + milliseconds(ms); };
  auto const start = [&](int ms) {
    auto const unit = schedule.next(after(ms));
    REQUIRE(unit);
    return *unit;
  };
  std::size_t const quick = start(0), slow = start(0);
  schedule.answered(quick, after(20));
  std::size_t const beside = start(20);
  CHECK_FALSE(schedule.give_way(after(299)));  // nothing that began much later has been answered
  schedule.answered(beside, after(300));
  std::size_t const later = start(300);
  CHECK_FALSE(schedule.give_way(after(301)));
  schedule.answered(later, after(320));
  (void)start(320);
  CHECK(schedule.give_way(after(321)) == slow);
}

TEST_CASE("where nobody answers at all, requests give way in the end") {
  Duration const now = seconds(1000);
  Schedule schedule(seconds(1), 2);
  for (std::size_t unit = 0; unit < 4; ++unit) schedule.add(unit, now);
  Duration const due = now + seconds(1);
  std::size_t const first = schedule.next(due).value();
  CHECK(schedule.next(due));
  schedule.answered(first, due + milliseconds(10));
  CHECK(schedule.next(due + milliseconds(10)));
  CHECK_FALSE(schedule.give_way(due + milliseconds(510)));
  CHECK(schedule.give_way(due + milliseconds(511)));
}

TEST_CASE("after a standstill the fleet is asked on its moments, not in a burst, and what was missed is counted") {
  Fleet fleet(seconds(1), 100, std::vector<Duration>(100, milliseconds(1)));
  fleet.run(seconds(3));
  CHECK(fleet.schedule.take_missed() == 0);
  fleet.now += seconds(20);
  fleet.asked.clear();
  fleet.schedule.resume(fleet.now);
  fleet.run(milliseconds(100));
  CHECK(fleet.asked.size() >= 5);
  CHECK(fleet.asked.size() <= 15);
  fleet.run(milliseconds(910));
  CHECK(fleet.asked.size() == 100);
  auto const missed = fleet.schedule.take_missed();
  CHECK(missed >= 19 * 100);
  CHECK(missed <= 21 * 100);
}

TEST_CASE("slots may become fewer, and more again") {
  Schedule schedule(Duration::zero(), 8);
  for (std::size_t unit = 0; unit < 20; ++unit) schedule.add(unit, seconds(1));
  auto const startable = [&] {
    std::size_t count = 0;
    while (schedule.next(seconds(1))) ++count;
    return count;
  };
  schedule.allow(2);
  CHECK(startable() == 2);
  schedule.allow(5);
  CHECK(startable() == 3);
  schedule.allow(1);
  CHECK(startable() == 0);
}

TEST_CASE("probes hold at most a quarter of the slots") {
  Fleet fleet(seconds(1), 40, std::vector<Duration>(200, kNever));
  fleet.timeout = seconds(30);
  fleet.run(seconds(60));
  fleet.ends.clear();
  CHECK(fleet.schedule.running() <= 40);
  Schedule schedule(seconds(1), 8);
  for (std::size_t i = 0; i < 8; ++i) schedule.add(i, seconds(0));
  for (std::size_t i = 0; i < 8; ++i) REQUIRE(schedule.next(seconds(1)));
  for (std::size_t i = 0; i < 8; ++i) schedule.failed(i, seconds(1));
  CHECK(schedule.next(seconds(100)));
  CHECK(schedule.next(seconds(100)));
  CHECK_FALSE(schedule.next(seconds(100)));
}

TEST_CASE("units come and go without moving the others") {
  Fleet fleet(seconds(10), 10, std::vector<Duration>(3, milliseconds(1)));
  fleet.run(seconds(35));
  fleet.schedule.remove(1);
  fleet.latency.emplace_back(milliseconds(1));
  fleet.schedule.add(3, fleet.now);
  fleet.run(seconds(40));
  CHECK(fleet.longest_gap(0) == seconds(10));
  CHECK(fleet.longest_gap(2) == seconds(10));
  CHECK(fleet.asked[1].back() < seconds(1035));
  CHECK(fleet.asked[3].size() == 4);
  CHECK(fleet.schedule.units() == 3);
}

TEST_CASE("without a period each unit is due until it is finished") {
  Schedule schedule(Duration::zero(), 2);
  for (std::size_t i = 0; i < 3; ++i) schedule.add(i, seconds(0));
  auto const first = schedule.next(seconds(0)), second = schedule.next(seconds(0));
  REQUIRE((first && second));
  CHECK_FALSE(schedule.next(seconds(0)));
  schedule.finished(*first);
  schedule.failed(*second, seconds(1));
  auto const third = schedule.next(seconds(1));
  REQUIRE(third);
  CHECK(third != second);
  schedule.finished(*third);
  CHECK_FALSE(schedule.next(seconds(1)));
  CHECK(schedule.idle(seconds(1)) == seconds(1));
  REQUIRE(schedule.next(seconds(2)) == second);
  schedule.finished(*second);
  CHECK(schedule.units() == 0);
}

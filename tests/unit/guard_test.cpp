#include "common/guard.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

using namespace inflight;
using namespace std::chrono_literals;

namespace {

// A live system that others use, and that answers slower the more it has to do (M/M/1), probed ten times a second.
class System {
 public:
  explicit System(double capacity, double most = 0)
      : capacity_(capacity), aimd_({*parse_target("p95=50ms")}, 10, most) {}

  struct Time {
    double mean = 0, worst = 0;     // of our rate; of the mean answer in seconds
    double exceeded = 0, felt = 0;  // shares of the time: above the target; by more than a half
  };
  // Lets it go on under this load by others, offered so much by us.
  Time run(double others, Duration length, double offered = 1e12) {
    Time time;
    int steps = 0;
    for (Duration const end = now_ + length; now_ < end; now_ += 100ms, ++steps) {
      double const ours = std::min(aimd_.rate(), offered);
      double const room = std::max(capacity_ - others - ours, capacity_ / 1000);
      double const mean = 0.004 * capacity_ / room;
      std::exponential_distribution<double> spread(1);
      double const seconds = std::min(mean * (0.7 + 0.3 * spread(random_)), 5.0);
      aimd_.add({seconds, false, std::nullopt},
                static_cast<std::uint64_t>(std::floor(sum_ + ours / 10) - std::floor(sum_)), now_);
      sum_ += ours / 10;
      time.mean += ours;
      time.worst = std::max(time.worst, mean);
      double const p95 = mean * 1.6;  // with this spread
      time.exceeded += p95 > 0.05 ? 1 : 0;
      time.felt += p95 > 0.075 ? 1 : 0;
    }
    time.mean /= steps;
    time.exceeded /= steps;
    time.felt /= steps;
    return time;
  }
  [[nodiscard]] double rate() const { return aimd_.rate(); }

 private:
  double capacity_;
  Aimd aimd_;
  Duration now_ = 1000s;
  double sum_ = 0;  // of ours
  std::minstd_rand random_{1};
};

}  // namespace

TEST_CASE("targets are read") {
  CHECK(parse_target("p95=50ms")->percentile == 0.95);
  CHECK(parse_target("p99.9=1s")->most == 1);
  CHECK(parse_target("errors=1%")->most == 0.01);
  CHECK(parse_target("value=100.5")->most == 100.5);
  for (char const* wrong : {"", "p95", "p95=5", "p=5ms", "p0=5ms", "p101=5ms", "p95=0s", "errors=1", "errors=0%",
                            "value=x", "value=0", "q=1"})
    CHECK(parse_target(wrong).status().code() == Code::usage);
}

TEST_CASE("it converges below the target within 30 s, whatever the scale") {
  for (double const capacity : {500.0, 5'000.0, 50'000.0}) {
    System system(capacity);
    system.run(capacity / 2, 30s);
    auto const settled = system.run(capacity / 2, 60s);
    CHECK(settled.exceeded < 0.1);
    CHECK(settled.mean > capacity * 0.25);  // half of what is left
  }
}

TEST_CASE("it gives way when others come, and takes the room when they go") {
  System system(1000);
  system.run(100, 60s);
  double const before = system.rate();
  CHECK(before > 400);
  system.run(750, 10s);
  CHECK(system.rate() < 250);
  CHECK(system.run(750, 60s).exceeded < 0.1);
  system.run(100, 60s);
  CHECK(system.rate() > 400);
}

TEST_CASE("others who come all at once wait for a few seconds at most, and it is back soon when they have gone") {
  for (double const capacity : {1'000.0, 100'000.0}) {
    System system(capacity);
    for (int round = 0; round < 5; ++round) {
      system.run(capacity * 0.1, 60s);
      CHECK(system.run(capacity * 0.85, 5s).felt <= 0.4);
      CHECK(system.run(capacity * 0.85, 55s).felt == 0);
      system.run(capacity * 0.1, 30s);
      CHECK(system.rate() > capacity * 0.4);
    }
  }
}

TEST_CASE("under a load that changes it is twice as fast as the fastest rate that never exceeds the target") {
  // The fixed rate is bound by the worst minutes: 1000 - 700, less the room that keeps p95 below 50 ms.
  double const fixed = 1000 - 700 - 0.004 * 1000 * 1.6 / 0.05;
  System system(1000);
  double sum = 0;
  for (int minute = 0; minute < 20; ++minute) sum += system.run(minute % 4 == 0 ? 700 : 100, 60s).mean;
  CHECK(sum / 20 > 2 * fixed);
}

TEST_CASE("a rate that is not used does not grow, and none grows beyond its ceiling") {
  System idle(1e6);
  idle.run(0, 60s, 50);
  CHECK(idle.rate() < 200);
  System bound(1e6, 300);
  bound.run(0, 60s);
  CHECK(bound.rate() == 300);
}

TEST_CASE("a system that does not answer leaves the least rate") {
  Aimd aimd({*parse_target("p95=50ms")}, 1000, 0);
  Duration now = 0s;
  for (; now < 60s; now += 100ms) aimd.add({5, true, std::nullopt}, 1, now);
  CHECK(aimd.rate() == Aimd::kLeast);
  for (; now < 120s; now += 100ms)
    aimd.add({0.01, false, std::nullopt}, static_cast<std::uint64_t>(std::ceil(aimd.rate() / 10)), now);
  CHECK(aimd.rate() > 1);
}

TEST_CASE("one slow answer, or one failure, is no load") {
  Aimd aimd({*parse_target("p95=50ms"), *parse_target("errors=5%")}, 1000, 1000);
  Duration now = 0s;
  for (int i = 0; i < 400; ++i, now += 100ms)
    aimd.add({i % 100 == 7 ? 1 : 0.01, i % 100 == 57, std::nullopt}, 100, now);
  CHECK(aimd.rate() == 1000);
}

TEST_CASE("a number that is too large cuts at once, and the share of errors when it is reached") {
  Aimd value({*parse_target("value=100")}, 1000, 0);
  for (int i = 0; i < 2; ++i) value.add({0.01, false, 150}, 100, 1s + i * 100ms);
  CHECK(value.rate() < 700);
  Aimd errors({*parse_target("errors=10%")}, 1000, 1000);
  for (int i = 0; i < 40; ++i) errors.add({0.01, i % 4 == 0, std::nullopt}, 100, 1s + i * 100ms);
  CHECK(errors.rate() < 1000);
}

// Keeps what another side counts below a rate, in whatever second it counts: when a request takes effect is known only
// to lie between its start and its answer, so each counts from the one to a second after the other.
//
// Pure bookkeeping: no clock. Times are those of Clock::steady().
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

#include "common/time.h"

namespace inflight {

class RateWindow {
 public:
  // 0: no limit. What is more than a second may have is let through alone.
  explicit RateWindow(double per_second) : per_second_(per_second) {}

  // When so many may be started, if nothing is before that; in the past: now. None: not before an answer.
  [[nodiscard]] std::optional<Duration> due(std::uint64_t count = 1) const {
    std::uint64_t used = open_ + answered_sum_;
    auto const fits = [&] { return used == 0 || static_cast<double>(used + count) <= per_second_; };
    if (per_second_ <= 0 || fits()) return Duration::zero();
    for (auto const& [when, how_many] : answered_) {
      used -= how_many;
      if (fits()) return when + std::chrono::seconds(1);
    }
    return std::nullopt;
  }
  void started(std::uint64_t count = 1) { open_ += count; }
  void answered(Duration now, std::uint64_t count = 1) {
    open_ -= count;
    if (per_second_ <= 0) return;
    for (; !answered_.empty() && answered_.front().first + std::chrono::seconds(1) <= now; answered_.pop_front())
      answered_sum_ -= answered_.front().second;
    answered_.emplace_back(now, count);
    answered_sum_ += count;
  }

 private:
  double per_second_;
  std::uint64_t open_ = 0, answered_sum_ = 0;
  std::deque<std::pair<Duration, std::uint64_t>> answered_;
};

}  // namespace inflight

// When to try again: exponential back-off with full jitter (each wait is uniform between nothing and a doubling
// ceiling).
#pragma once

#include <optional>
#include <random>

#include "common/time.h"

namespace inflight {

class Backoff {
 public:
  // `attempts`: waits that there were already.
  Backoff(Duration first, Duration ceiling, unsigned attempts = 0)
      : first_(first), ceiling_(ceiling), attempts_(attempts), random_(std::random_device{}()) {}

  // The next wait; at least what the destination asked for (Retry-After).
  [[nodiscard]] Duration next(std::optional<Duration> asked = std::nullopt) {
    Duration const limit = std::min(ceiling_, first_ * (std::int64_t{1} << std::min(attempts_++, 30U)));
    std::uniform_int_distribution<std::int64_t> uniform(0, limit.count() > 0 ? limit.count() : ceiling_.count());
    return std::max(asked.value_or(Duration::zero()), Duration{uniform(random_)});
  }
  void reset() { attempts_ = 0; }
  [[nodiscard]] unsigned attempts() const { return attempts_; }

 private:
  Duration first_, ceiling_;
  unsigned attempts_;
  std::minstd_rand random_;
};

}  // namespace inflight

// What a gap is between two readings of one subject.  Manual: man/find-gaps.1
#pragma once

#include <cstdint>
#include <optional>

#include "common/time.h"

namespace inflight {

struct GapRule {
  static constexpr Duration kLeastEvery = std::chrono::microseconds(1);
  Duration every{};                // at least kLeastEvery
  Duration tolerance{};            // not negative
  std::optional<Time> from, to{};  // the window: half-open, `from` before `to`
};

struct Gap {
  Time from, to;  // half-open
  std::uint64_t missing = 0;
};

// Between two neighbours in the order of time; nullopt for one that is not there, before the first and behind the last
// reading. What is told is cut to the window.
[[nodiscard]] std::optional<Gap> find_gap(GapRule const& rule, std::optional<Time> before, std::optional<Time> after);

}  // namespace inflight

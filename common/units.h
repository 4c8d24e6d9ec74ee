// Durations (`25ms`, `10s`, `1h30m`), sizes (`64MiB`, `10MB`, `512`) and rates (`40/s`, `1/h`, `5MiB/s`), as options
// take them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace inflight {

using Duration = std::chrono::nanoseconds;

[[nodiscard]] Result<Duration> parse_duration(std::string_view text);
[[nodiscard]] std::string format_duration(Duration duration);

[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);
[[nodiscard]] std::string format_size(double bytes);  // `1.5 MiB`, for people

struct Rate {
  double per_second = 0;  // 0: no limit
  bool bytes = false;     // of bytes rather than of records
};
[[nodiscard]] Result<Rate> parse_rate(std::string_view text);

}  // namespace inflight

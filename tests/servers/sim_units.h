// Durations and shares as the servers of the tests take them. Each throws std::invalid_argument, with the text in its
// message.
#pragma once

#include <chrono>
#include <string_view>

namespace inflight::sim {

[[nodiscard]] std::chrono::milliseconds parse_duration(std::string_view text);  // "10s", "250ms", "5m", "1h"
[[nodiscard]] double parse_share(std::string_view text);                        // "0.2" or "20%"

}  // namespace inflight::sim

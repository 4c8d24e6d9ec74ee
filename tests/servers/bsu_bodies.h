// The bodies that bsu-sim answers with: whole, compressed, cut off in the middle, or made while they are sent.
#pragma once

#include <microhttpd.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "tests/servers/bsu_fleet.h"

namespace inflight::sim {

struct ResponseDeleter {
  void operator()(MHD_Response* response) const { MHD_destroy_response(response); }
};
using Response = std::unique_ptr<MHD_Response, ResponseDeleter>;

[[nodiscard]] Response copied(std::string_view body);
// Promises the whole length and ends in the middle.
[[nodiscard]] Response cut_off(std::string body);
// The readings of a unit at each `cadence` from `first` until before `until`, after what `begin` says; a year of them
// costs one block of memory.
enum class HistoryEnd : std::uint8_t { good, missing, cut };  // missing: without the end tag; cut: the connection ends
[[nodiscard]] Response history_body(Fleet const& fleet, std::size_t unit, std::int64_t first, std::int64_t until,
                                    std::int64_t cadence, HistoryEnd end, std::string begin);

void compress(std::string& body);  // gzip

}  // namespace inflight::sim

// The units to poll: a file of `id URL` lines or of NDJSON {"id":…,"url":…}, or a file of ids with one URL for all.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace inflight {

struct FleetUnit {
  std::string id;
  std::string url;
};

// `{id}` in a URL is replaced by the id, percent-encoded. Blank lines and lines that begin with # are passed over; `-`
// is standard input. Code::usage for a line that is malformed, names an id a second time or no http(s) URL: number and
// text.
[[nodiscard]] Result<std::vector<FleetUnit>> read_devices(std::string const& path);
[[nodiscard]] Result<std::vector<FleetUnit>> read_ids(std::string const& path, std::string const& url);
// Only the ids of either file, or of NDJSON that has them as "id" or "subject".
[[nodiscard]] Result<std::vector<std::string>> read_unit_names(std::string const& path);

}  // namespace inflight

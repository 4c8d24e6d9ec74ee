// What a subscriber has lost and was told: positions that were damaged, or removed before it had read them. One line of
// JSON each, {"first":0,"end":12010,"why":…,"recorded":…}, `end` being one beyond the last.
#pragma once

#include <cstdint>
#include <string>

#include "common/fd_io.h"
#include "common/receipts.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

// A hole may have been met again, and larger. What cannot be read has none.
[[nodiscard]] Ranges read_holes(std::string const& path);

// Durable. Returns whether it is new: each lane, and each start until the cursor is saved behind it, meets the same.
[[nodiscard]] Result<bool> record_hole(Disk& disk, std::string const& path, std::uint64_t first, std::uint64_t end,
                                       std::string const& why, Time now);

}  // namespace inflight

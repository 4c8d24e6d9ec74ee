// What an archive holds, and whether all of it is as it was put.
//
// A damaged object is told on standard error, and the others are looked at all the same: both say how many there are.
// Code::stopped: a stop signal came.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "common/archive_query.h"
#include "common/object_store.h"
#include "common/status.h"

namespace inflight {

// A line for each object, for people or of JSON, from its summary alone; for people a last one with the sums.
[[nodiscard]] Result<std::uint64_t> archive_list(ObjectStore& store, ArchiveQuery const& query, bool json,
                                                 std::function<Status(std::string_view)> const& emit);

// Reads everything back and compares it with what was noted when it was put.
[[nodiscard]] Result<std::uint64_t> archive_verify(ObjectStore& store, ArchiveQuery const& query);

}  // namespace inflight

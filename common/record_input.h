// All records of a descriptor, one after the other, counted (metrics.h).
#pragma once

#include <cstdint>
#include <functional>

#include "common/reader.h"
#include "common/record.h"
#include "common/status.h"

namespace inflight {

// Calls `take` for each record. What is wrong with a line - it is too long, no record, or `take` says Code::rejected -
// goes to `bad`; what either returns other than ok ends it. `line` is the one at hand, also afterwards.
// Code::stopped: a stop signal came.
[[nodiscard]] Status read_records(Reader& reader, Line& line, std::uint64_t max_record,
                                  std::function<Status(Record const&)> const& take,
                                  std::function<Status(Status const&)> const& bad);

}  // namespace inflight

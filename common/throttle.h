// Passes lines on as fast as limits allow, untouched and unparsed: in large blocks where there is no limit.
//
// What is too long to be held, beyond 1 MiB, passes in parts once its turn has come. Under a source half a line at the
// end of the input is not passed on.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/guard.h"
#include "common/io.h"
#include "common/pacer.h"

namespace inflight {

struct ThrottleOptions {
  Pacer::Limits limits;
  std::string control;  // a file whose text changes the limits
  std::string state;    // a file with the time before which nothing passes, for who is started after us
};

// Runs until the input ends. `guard` may be null.
[[nodiscard]] Exit run_throttle(Io& io, ThrottleOptions const& options, Guard* guard);

// The positions of a line with `delivery`, wherever it stands; empty: there is none.
[[nodiscard]] PositionList positions_of_line(Receipts const& receipts, std::string_view line);

}  // namespace inflight

// Polls a fleet on its schedule, once, or through its history, and puts each answer out as an event.
//
// While the outlet takes no events, no requests are sent; what is on its way is received and kept. A stop signal ends
// it after what has been received is put out.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "common/fleet.h"
#include "common/http.h"
#include "common/io.h"
#include "common/source.h"

namespace inflight {

struct PollOptions {
  // One of the three.
  Duration every{};  // each unit once in this time
  bool once = false;
  std::optional<Time> from;  // history, `{since}` and `{until}` in the URLs

  Time to;          // end of the history
  Duration step{};  // of the history
  bool emit_failures = false;
  std::uint64_t limit = 0;                                     // events; 0: no limit
  std::uint64_t slots = 1000;                                  // requests at a time
  std::uint64_t max_record = kMaxRecord;                       // a longer event is a failure
  std::function<Result<std::vector<FleetUnit>>()> read_fleet;  // on SIGHUP

  [[nodiscard]] bool history() const { return from.has_value(); }
};

// Code::temporary: once, no unit has answered; or the history is incomplete. Code::usage: once, each was forbidden.
[[nodiscard]] Status poll_fleet(Io& io, PollOptions const& options, std::vector<FleetUnit> const& fleet,
                                HttpClient& http, Outlet& outlet);

}  // namespace inflight

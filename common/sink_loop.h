// The loop of every sink: batches, retries, bisection, receipts, dead letters, drain.
//
// Records are read and parsed in one thread (sink_input.h) and delivered in another, one batch after the other, so that
// input never waits for the destination's disk and no later batch overtakes an earlier one. A sink with SinkRequests is
// given single records instead, many at a time (sink_flight.h).
#pragma once

#include "common/io.h"
#include "common/sink.h"
#include "common/status.h"

namespace inflight {

// Runs until the input ends.
[[nodiscard]] Exit run_sink(Io& io, Sink& sink, SinkOptions const& options);

}  // namespace inflight

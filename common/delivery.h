// Runs a pipeline on the events of a source so that kill -9 of anything loses and doubles nothing.  Manual:
// man/receipts.7
//
// A run is a pass over the unsettled positions in order, through one set of processes. Whatever ends it, the next run
// passes over what is unsettled then. Later events of a `partitionkey` that were delivered already follow an older one
// again.
#pragma once

#include "common/delivery_options.h"
#include "common/event_source.h"
#include "common/io.h"
#include "common/ledger.h"

namespace inflight {

// Until the source ends (or is empty, where that is asked for), or a stop signal. The ledger is saved in the end.
[[nodiscard]] Exit deliver(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options);

}  // namespace inflight

// The past of the simulated fleet, as bsu-fetch would have written it.
#pragma once

#include "tests/servers/bsu_options.h"

namespace inflight::sim {

// Writes to standard output what polling each unit once each --cadence from `from` on would have brought until `to`, by
// default now: events in the order of time, the units spread evenly over the cadence. The same options give the same
// bytes. Throws std::invalid_argument for an option, std::runtime_error where nobody reads.
void write_past(Options const& options);

}  // namespace inflight::sim

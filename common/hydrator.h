// Events that name their document become events that hold it: the loop of hydrate.  Manual: man/hydrate.1
//
// Records are read in one thread (sink_input.h); another one fetches, many at a time (sink_flight.h), and writes them
// in the order of the input.
#pragma once

#include <string>

#include "common/cli.h"
#include "common/document_source.h"
#include "common/io.h"
#include "common/status.h"
#include "common/units.h"

namespace inflight {

struct HydrateOptions {
  DocumentOptions documents;
  std::string missing = "reject";
  Rate rate;
  std::uint64_t max_record = kMaxRecord;
  std::string dead_letters;
  Duration give_up{};

  void add_to(Cli& cli);
  // What is wrong with them taken together; empty: nothing.
  [[nodiscard]] std::string mistake() const;
};

[[nodiscard]] Exit hydrate(Io& io, HydrateOptions const& options);

}  // namespace inflight

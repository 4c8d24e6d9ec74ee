// Events that name their document become events that hold it: the loop of hydrate.  Manual: man/hydrate.1
//
// Records are read in one thread (sink_input.h); another one fetches, many at a time (sink_flight.h), and writes them
// in the order of the input.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/cli.h"
#include "common/http_message.h"
#include "common/io.h"
#include "common/status.h"
#include "common/units.h"

namespace inflight {

struct HydrateOptions {
  HttpOptions http;
  std::string missing = "reject", under, token_file;
  Rate rate;
  std::uint64_t max_record = kMaxRecord;
  std::string dead_letters;
  Duration give_up{};
  bool allow_html = false;

  void add_to(Cli& cli);
  // What is wrong with them taken together; empty: nothing.
  [[nodiscard]] std::string mistake() const;
};

[[nodiscard]] Exit hydrate(Io& io, HydrateOptions const& options);

}  // namespace inflight

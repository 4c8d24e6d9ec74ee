// The frame of a source that makes events as it goes (polls, crawls, reads an archive): writes them to standard output,
// or runs `-- PIPELINE` through delivery.h and keeps each event in memory until it is settled.
//
// With a state file positions are the ordinals of what `produce` puts out, which must be the same when the line is
// started again; what is settled is passed over. Where they are not (the rows of a table that lives), each event has a
// mark, and `produce` goes on behind that of the last one that is settled with all before it: what was settled out of
// turn comes again, but for an event whose dead letter has its mark and its text. Without a state file positions begin
// anew, and nothing is remembered.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/cli.h"
#include "common/delivery.h"
#include "common/io.h"

namespace inflight {

struct SourceOptions {
  DeliveryOptions delivery;
  std::uint64_t limit = 0;
  std::string state;
  std::string dead_letters;
  std::string identity;  // what positions belong to; by default the tool's name
  // With a pipeline: called when no other run of the same state is at work, before the state is read. May set
  // `identity`.
  std::function<Status(SourceOptions&)> prepare;
  bool marks = false;  // events have marks

  // -- PIPELINE and what goes with it, --limit, --dead-letters, and --state where `with_state`
  void add_to(Cli& cli, bool with_state);
};

class Outlet {
 public:
  virtual ~Outlet() = default;
  // One event, no newline. Blocks while there is no room. Code::stopped: enough (--limit, a stop signal, the pipeline
  // ended); Code::closed: nobody reads standard output.
  [[nodiscard]] virtual Status put(std::string_view line) = 0;
  // The same for one with a mark.
  [[nodiscard]] virtual Status put(std::string_view line, std::string_view mark) {
    (void)mark;
    return put(line);
  }
  // Behind which mark to begin; empty: from the beginning.
  [[nodiscard]] virtual std::string mark() { return {}; }
  // The same for a line that nobody else needs.
  [[nodiscard]] virtual Status take(std::string line) { return put(line); }
  // Whether put() would not block.
  [[nodiscard]] virtual bool ready() = 0;
  // The source idles: hands on what is buffered.
  [[nodiscard]] virtual Status flush() = 0;
  // The lowest position that is not settled; without a pipeline, that of the next event. Positions are counted from the
  // first event of the state, or of this run where there is none.
  [[nodiscard]] virtual std::uint64_t cursor() = 0;
  // The next event has this position, where it is higher than the one after the last.
  virtual void seek(std::uint64_t position) = 0;
};

[[nodiscard]] Exit run_source(Io& io, SourceOptions const& options, std::function<Status(Outlet&)> const& produce);

}  // namespace inflight

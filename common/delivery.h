// Runs a pipeline on the events of a source so that kill -9 of anything loses and doubles nothing.  Manual:
// man/receipts.7
//
// A run is a pass over the unsettled positions in order, through one set of processes. Whatever ends it, the next run
// passes over what is unsettled then. Later events of a `partitionkey` that were delivered already follow an older one
// again.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/cli.h"
#include "common/io.h"
#include "common/ledger.h"
#include "common/pipeline.h"

namespace inflight {

struct DeliveryOptions {
  std::vector<std::string> pipeline;
  std::uint64_t jobs = 1;
  std::uint64_t window = 100'000;
  Duration settle = std::chrono::seconds(60);
  Duration stall = std::chrono::minutes(10);
  Duration takeover = std::chrono::seconds(30);
  std::uint64_t max_deliveries = 5;
  std::uint64_t sinks = 1;
  std::string ack = "receipts";
  bool until_empty = false;  // end when the source has nothing more for now
  std::string run_lock;      // path; with --jobs each lane adds its number

  void add_to(Cli& cli);
};

// What a source lends to delivery. Positions grow; they may have holes.
class EventReader {
 public:
  enum class Got { event, none, end };  // none: not yet; end: never more
  struct Event {
    std::uint64_t position = 0;
    std::string_view line;  // without newline and `delivery`; valid until the next read
    Time time;              // when it came to the source, for the lag
  };
  virtual ~EventReader() = default;
  // The event at `position`, or the first one behind it.
  [[nodiscard]] virtual Result<Got> read(std::uint64_t position, Event& event) = 0;
};

class EventSource {
 public:
  virtual ~EventSource() = default;
  // What positions belong to, the same when the line is started again (RECEIPTS_SOURCE).
  [[nodiscard]] virtual std::string identity() const = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<EventReader>> reader() = 0;
  // Readable when there may be more, or -1 (then it is asked every 20 ms); clear_wait() after it was seen.
  [[nodiscard]] virtual int wait_fd() { return -1; }
  virtual void clear_wait() {}
  // What is below the cursor is not asked for again.
  virtual void settled(std::uint64_t cursor) { (void)cursor; }
  // Whether a stop signal waits until all that the source has is delivered, since nobody else keeps it (at most 30 s).
  [[nodiscard]] virtual bool drains() const { return false; }
  // Called about once a second.
  [[nodiscard]] virtual Status tick() { return {}; }
};

// Until the source ends (or is empty, where that is asked for), or a stop signal. The ledger is saved in the end.
[[nodiscard]] Exit deliver(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options);

}  // namespace inflight

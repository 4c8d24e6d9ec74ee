// What a source lends to delivery: its events by position, as often as they are asked for until they are settled.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"
#include "common/time.h"

namespace inflight {

// Positions grow; they may have holes.
class EventReader {
 public:
  enum class Got { event, none, end };  // none: not yet; end: never more
  struct Event {
    std::uint64_t position = 0;
    std::string_view line;    // without newline and `delivery`; valid until the next read
    Time time;                // when it came to the source, for the lag
    std::string_view mark{};  // where the source has them (source.h)
  };
  virtual ~EventReader() = default;
  // The event at `position`, or the first one behind it.
  [[nodiscard]] virtual Result<Got> read(std::uint64_t position, Event& event) = 0;
  // Ends the validity of the event last read, and gives its memory back: worth while for a large one.
  virtual void release() {}
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
  // Asked at its end: false where it was cut short, so that there may be more when it is started again.
  [[nodiscard]] virtual bool whole() { return true; }
  // Called about once a second.
  [[nodiscard]] virtual Status tick() { return {}; }
};

}  // namespace inflight

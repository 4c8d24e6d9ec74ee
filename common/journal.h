// The journal: an embedded, durable log of events in a folder.  Byte layout: man/journal.5
//
// Positions count events from 0, without holes but for those that damage left and are told. Many processes may write
// and read at once: writers take turns under the append lock, readers take no lock and stop at the commit mark. What
// append() returned is durable (data, index and folder fsynced) and is never cut again. Nothing here knows of
// subscribers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/fd_io.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct JournalSettings {
  Duration keep = std::chrono::hours(7 * 24);  // how long an event stays after every subscriber has settled it
  std::uint64_t max_disk = 0;              // bytes of all segments; 0: no limit. The caller's to keep: journal_span()
  std::uint64_t segment_bytes = 64 << 20;  // a segment that has reached this is sealed
};

// What stands in exchange.json. Code::usage for a folder that is no exchange, or one of a newer format version.
struct JournalInfo {
  std::string id;  // UUID, made with the journal
  Time created;
  JournalSettings settings;
};
[[nodiscard]] Result<JournalInfo> journal_info(std::string const& folder);
// Makes the journal where the folder is missing or empty; leaves an existing one as it is.
[[nodiscard]] Result<JournalInfo> journal_create(Disk& disk, std::string const& folder);
[[nodiscard]] Status journal_set(Disk& disk, std::string const& folder, JournalSettings const& settings);

// Commits what a killed writer, or a power failure, left complete but behind the commit mark. Whoever starts to read
// calls it first: else it sees those events only when the next writer comes. Takes the append lock.
[[nodiscard]] Status journal_recover(Disk& disk, std::string const& folder);

struct JournalSpan {
  std::uint64_t first = 0;     // the oldest position kept
  std::uint64_t end = 0;       // one beyond the newest committed
  std::uint64_t bytes = 0;     // on disk: data and index
  std::optional<Time> oldest;  // when the oldest batch kept was committed
};
[[nodiscard]] Result<JournalSpan> journal_span(std::string const& folder);

// Removes sealed segments all of whose events are below `position` and were committed before `until`, oldest first, and
// none once the journal has at most `enough` bytes. Returns how many were removed. Takes the append lock.
[[nodiscard]] Result<std::uint64_t> journal_remove(Disk& disk, std::string const& folder, std::uint64_t position,
                                                   Time until, std::uint64_t enough = 0);

// Becomes readable when something was written; the caller drains it and looks for events until there are none. An event
// that was there before is not told, so: watch first, then read.
[[nodiscard]] Result<Fd> journal_watch(std::string const& folder);

// Writes. One per process; not for two threads at once.
class JournalWriter {
 public:
  // Sees the journal through `disk`; recovers what a killed writer left.
  static Result<JournalWriter> open(Disk& disk, Clock& clock, std::string const& folder);
  JournalWriter(JournalWriter&&) noexcept;
  JournalWriter& operator=(JournalWriter&&) noexcept;
  ~JournalWriter();

  struct Line {
    std::string_view text;  // one JSON object, without newline and without `delivery`
    bool once = false;      // has an identity: left out when the same bytes are among the last 200,000 such lines
  };
  struct Appended {
    std::uint64_t first = 0;
    std::uint64_t count = 0;  // written; less than the batch where doubles were left out
    std::uint64_t doubles = 0;
  };
  // One batch: all of it is committed and durable, or none of it. Code::temporary: the disk is full (nothing changed,
  // may be tried again). Code::defect: a failed fsync; the segment is sealed where that can be, and this writer refuses
  // from then on.
  [[nodiscard]] Result<Appended> append(std::span<Line const> lines);

 private:
  struct State;
  explicit JournalWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Reads in order from any position.
class JournalReader {
 public:
  static Result<JournalReader> open(std::string const& folder, std::uint64_t position);
  JournalReader(JournalReader&&) noexcept;
  JournalReader& operator=(JournalReader&&) noexcept;
  ~JournalReader();

  struct Event {
    std::uint64_t position = 0;
    std::string_view line;  // without newline; valid until the next call; at least 64 readable bytes follow it
    Time committed;
  };
  // The next event, or nothing when all that is committed has been read. Code::defect: damage, told by segment, offset
  // and positions; the reader stays before it, and skip_damage() goes on behind it. Code::usage: `position` is no
  // longer kept.
  [[nodiscard]] Result<std::optional<Event>> next();
  [[nodiscard]] Status seek(std::uint64_t position);
  [[nodiscard]] std::uint64_t position() const;  // of the event that next() would return

  struct Damage {
    std::uint64_t first = 0, end = 0;  // positions
    std::string why;
  };
  // After Code::defect of next(): goes behind the damaged batch and says what is lost.
  [[nodiscard]] Result<Damage> skip_damage();

 private:
  struct State;
  explicit JournalReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The first position committed at or after `time` (to the batch).
[[nodiscard]] Result<std::uint64_t> journal_position_at(std::string const& folder, Time time);

}  // namespace inflight

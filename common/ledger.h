// What a source knows of its events: the cursor, what is settled above it, dead letters, and attempts. Durable.
//
// An event is settled when it is stored, dropped on purpose, or rejected and its letter durable. The cursor is the
// lowest position that is not; it never passes one that is not. After a crash the ledger knows at most less than what
// was settled.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/dead_letter.h"
#include "common/fd_io.h"
#include "common/receipts.h"
#include "common/status.h"

namespace inflight {

// The pieces of one event that a splitter made, numbered /1, /2, …, the last one with a dot; pieces of pieces nest.
class Pieces {
 public:
  // `pieces` is a Position's: "/2" or "/2./1.". True when the whole is complete.
  bool add(std::string_view pieces);

 private:
  [[nodiscard]] bool complete() const { return last_ != 0 && done_.contains(1) && done_.next_missing(1) == last_ + 1; }
  Ranges done_;
  std::uint64_t last_ = 0;
  std::map<std::uint64_t, Pieces> open_;
};

class Ledger {
 public:
  // `path` is the state file (empty: nothing is remembered); `letters` that of the dead letters. Where there is no
  // state file, the cursor is `first`.
  static Result<std::unique_ptr<Ledger>> open(Disk& disk, Clock& clock, std::string const& path,
                                              std::string const& letters, std::string const& source,
                                              std::uint64_t first);

  [[nodiscard]] std::uint64_t cursor() const { return cursor_; }
  [[nodiscard]] bool settled(std::uint64_t position) const { return position < cursor_ || settled_.contains(position); }
  // The lowest unsettled position from `position` on.
  [[nodiscard]] std::uint64_t next_unsettled(std::uint64_t position) const;
  // One beyond the highest settled: what was certainly delivered once.
  [[nodiscard]] std::uint64_t reached() const;
  void settle(std::uint64_t first, std::uint64_t last);
  // The same for events that a sink has stored: the pipeline works.
  void stored(std::uint64_t first, std::uint64_t last);
  // One that was settled already was stored once more.
  void stored_again() { ++stored_, changed_ = true; }
  // How often since the first start an event was stored, whichever.
  [[nodiscard]] std::uint64_t stored_count() const { return stored_; }
  // How many were settled since open().
  [[nodiscard]] std::uint64_t settled_count() const { return count_; }
  // It must be delivered again; the cursor goes back to it where it has passed. Save before anything relies on it.
  void unsettle(std::uint64_t position);

  // Takes the event of an open letter back among the unsettled, to be delivered again: the cursor goes back to it where
  // it has passed. The letter is closed when the event is settled otherwise than by a new one. False: no such open
  // letter.
  bool reopen(std::uint64_t position);
  // Those that are being delivered again.
  [[nodiscard]] std::set<std::uint64_t> const& reopened() const { return reopened_; }
  // True once after reopen().
  [[nodiscard]] bool take_reopened() { return std::exchange(reopened_now_, false); }
  // The attempt that a letter of this event would be now.
  [[nodiscard]] std::uint64_t next_attempt(std::uint64_t position) const;

  // Writes letters of events, then settles them. Each stands once, whatever is said of it how often.
  [[nodiscard]] Status dead(std::span<DeadLetter> letters);
  [[nodiscard]] DeadLetters const& letters() const { return *letters_; }
  [[nodiscard]] bool has_open_letter(std::uint64_t position) const;

  // How often an event brought the pipeline down alone, and stored_count() when it was first suspected. Where the
  // whole process died, what isolation.h makes of that, and what was under way.
  struct Attempts {
    enum class Running { nothing, it, another };
    std::uint64_t failures = 0;
    std::uint64_t stored_before = 0;
    std::uint64_t deaths = 0;
    Running running = Running::nothing;
  };
  [[nodiscard]] Attempts attempts(std::uint64_t position) const;
  void set_attempts(std::uint64_t position, Attempts attempts);

  // For those who look at the state beside the process: it says below which position events may have been delivered,
  // and is durable before one is. Called with each that is about to be.
  [[nodiscard]] Status reach(std::uint64_t position);
  void keep_reach() { keeps_reach_ = true; }

  // Durable. Cheap when nothing has changed.
  [[nodiscard]] Status save();
  // The cursor as it was last saved: what is settled above it is delivered again after a crash.
  [[nodiscard]] std::uint64_t saved_cursor() const { return saved_cursor_; }
  // Asked when there is no room for the state or a letter: true where some was made, and the write is tried again.
  void on_full(std::function<bool()> make_room) { make_room_ = std::move(make_room); }
  // Whether the last process that used it ended as it should.
  [[nodiscard]] bool was_clean() const { return was_clean_; }
  void set_clean(bool clean) { clean_ = clean, changed_ = true; }
  // For --list: why nothing moves, or empty.
  void set_note(std::string note);
  [[nodiscard]] std::string const& note() const { return note_; }
  // For sources whose positions stand for something else, by which they go on: what `mark_of` says of the last position
  // below the cursor is kept with it. mark() is what the state said when it was opened.
  void set_mark_of(std::function<std::string(std::uint64_t cursor)> mark_of) { mark_of_ = std::move(mark_of); }
  [[nodiscard]] std::string const& mark() const { return mark_; }
  void set_complete() { complete_ = true, changed_ = true; }
  [[nodiscard]] bool complete() const { return complete_; }

 private:
  Ledger() = default;
  Status write_state();
  template <typename Write>
  Status with_room(Write write);

  Disk* disk_ = nullptr;
  Clock* clock_ = nullptr;
  std::string path_, source_, note_;
  std::function<bool()> make_room_;
  std::function<std::string(std::uint64_t)> mark_of_;
  std::string mark_;
  std::optional<DeadLetters> letters_;
  std::uint64_t cursor_ = 0, saved_cursor_ = 0;
  Ranges settled_;
  std::uint64_t count_ = 0, stored_ = 0;
  bool keeps_reach_ = false;
  std::uint64_t reach_ = 0, reach_step_ = 0;
  Duration reach_at_{};
  std::set<std::uint64_t> reopened_;  // letters that are being replayed
  std::vector<std::uint64_t> to_close_;
  bool reopened_now_ = false;
  std::map<std::uint64_t, Attempts> attempts_;
  bool was_clean_ = true, clean_ = true, changed_ = true, complete_ = false;
};

// The state file as --list and --check read it, beside a running consume.
struct LedgerView {
  std::string source;
  std::uint64_t cursor = 0;
  Ranges settled;                    // above it
  std::uint64_t reach = UINT64_MAX;  // nothing was delivered from here on
  std::string note;
  bool complete = false;
};
[[nodiscard]] Result<LedgerView> view_ledger(std::string const& path);

}  // namespace inflight

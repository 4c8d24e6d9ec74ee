// Finds the event that brings a pipeline down, or that a stage swallows: what the next run delivers, and what its end
// says of that.
//
// A pipeline is guilty until it has worked: an event is at fault only if it fails alone, often enough, while others are
// settled by the same pipeline. Nothing here does I/O but the ledger, which remembers the attempts.
//
// That the whole process died says little: anybody may have killed it. An event is at fault only where processes die
// with it, again and again, and hardly ever with another in its place; which of the two comes first after a start is
// left to chance.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/ledger.h"
#include "common/receipts.h"
#include "common/retry.h"
#include "common/status.h"

namespace inflight {

// What a run delivers.
struct Plan {
  // all: whatever is unsettled. Suspects of having brought the pipeline down: some of them, or one alone. While it
  // waits, probe: any other event; again: one that is settled already. vanished: swallowed by a run that ended well.
  enum class Kind { all, some, lone, probe, again, vanished };
  Kind kind = Kind::all;
  Ranges only;                  // of all but all and probe
  std::uint64_t from = 0;       // nothing before it
  std::uint64_t limit = 0;      // at most so many events; 0: no limit
  std::uint64_t suspended = 0;  // of probe: not this one

  // The first position from `at` on that it may deliver; none where there are no more.
  [[nodiscard]] std::optional<std::uint64_t> next(std::uint64_t at) const;
  // Whether it has delivered all it wants, once it has delivered so many, up to before `scan`.
  [[nodiscard]] bool done(std::uint64_t delivered, std::uint64_t scan) const;
};

// How a run went.
struct RunEnd {
  Plan plan;
  std::uint64_t delivered = 0;      // events
  std::uint64_t scan = 0;           // one beyond the last of them
  std::uint64_t stored = 0;         // by the sinks of this run
  std::uint64_t stored_before = 0;  // the ledger's count when it began
  Ranges open;                      // delivered, and unsettled now
  int status = 0;                   // as a shell has it
  std::string why;                  // it failed, or the last lines of standard error
  [[nodiscard]] bool moved() const { return open.count() < delivered; }
};

// What follows from it, for the caller to do.
struct Consequence {
  struct Letter {
    std::uint64_t position;
    std::string reason;
  };
  std::optional<Letter> letter;
  std::string pause;    // why the subscriber pauses
  std::string warning;  // for the operator
  Duration wait{};      // before the next run
};

// Where isolation looks for events.
class Events {
 public:
  using Found = Result<std::optional<std::uint64_t>>;
  virtual ~Events() = default;
  // The position of the first event from `from` on that the plan delivers and that is there.
  [[nodiscard]] virtual Found find(Plan const& plan, std::uint64_t from) = 0;
  // One beyond the highest that was delivered.
  [[nodiscard]] virtual std::uint64_t high() const = 0;
  // The newest that was stored, so that no other that is follows it; none where the source has it no more.
  [[nodiscard]] virtual Found newest_settled() = 0;
};

class Isolation {
 public:
  // `chance` gives any number, each as likely.
  Isolation(Ledger& ledger, std::uint64_t max_deliveries, std::uint64_t window, std::function<unsigned()> chance = {});

  // Ask before next(): an event that has brought down the whole process so often that it is not delivered again.
  [[nodiscard]] Consequence convict(Events& events);
  [[nodiscard]] Result<Plan> next(Events& events);
  // Call before the plan is carried out: a lone delivery is counted, durably.
  [[nodiscard]] Status begin(Plan const& plan);
  // It ended for a reason that says nothing of the event.
  void not_counted(Plan const& plan);
  [[nodiscard]] Consequence ended_well(RunEnd const& end);
  [[nodiscard]] Consequence failed(RunEnd const& end);
  // Nothing is wrong with this one: it is delivered again for the order of its key.
  void acquit(std::uint64_t position);

 private:
  void prune(Ranges& ranges) const;
  Result<std::optional<Plan>> another(std::uint64_t suspect, Events& events);
  Events::Found probe(Plan& plan, Events& events);
  [[nodiscard]] bool others_worked(Ledger::Attempts attempts) const;
  Status suspect_the_first(Events& events);
  void count_death(std::uint64_t position);
  Status watch(std::uint64_t position, Ledger::Attempts attempts, Ledger::Attempts::Running running);
  void survived();
  Plan some() const;
  Plan vanished() const;
  Consequence failed_alone(RunEnd const& end);
  void count_letter(Consequence& consequence);
  void forget_letters(RunEnd const& end);

  Ledger& ledger_;
  std::uint64_t max_deliveries_, window_;
  std::function<unsigned()> chance_;
  Ranges suspects_, vanished_;
  bool halving_ = false, probe_next_ = false, probed_all_ = false, vanished_together_ = false;
  std::uint64_t probed_ = 0, probe_step_ = 1, group_ = 1;
  std::uint64_t ramp_ = 0;  // the limit of a run that delivers all; 0: none
  std::uint64_t stored_at_fault_ = 0, letters_in_a_row_ = 0;
  std::optional<std::uint64_t> watched_;  // the suspect whose guilt a death of this process would tell of
  Backoff backoff_;
};

}  // namespace inflight

#include "common/isolation.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kLettersInARow = 10;
constexpr std::uint64_t kGrowth = 16;
constexpr int kFirstSignal = 128;
constexpr std::uint64_t kNoMore = UINT64_MAX;
constexpr unsigned kRestartSkips = 32;
constexpr std::uint64_t kDeathsFactor = 4;    // of --max-deliveries
constexpr std::uint64_t kDeathOfAnother = 4;  // weighs as much against the charge

}  // namespace

std::optional<std::uint64_t> Plan::next(std::uint64_t at) const {
  if (kind == Kind::all || kind == Kind::probe) return at;
  auto range = only.map().upper_bound(at);
  if (range != only.map().begin() && std::prev(range)->second >= at) return at;
  if (range == only.map().end()) return std::nullopt;
  return range->first;
}

bool Plan::done(std::uint64_t delivered, std::uint64_t scan) const {
  if (limit != 0 && delivered >= limit) return true;
  return !only.empty() && scan > std::prev(only.map().end())->second;
}

Isolation::Isolation(Ledger& ledger, std::uint64_t max_deliveries, std::uint64_t window,
                     std::function<unsigned()> chance)
    : ledger_(ledger),
      max_deliveries_(max_deliveries),
      window_(window),
      chance_(chance ? std::move(chance) : [] { return std::random_device{}(); }),
      stored_at_fault_(ledger.stored_count()),
      backoff_(milliseconds(50), seconds(30)) {
  if (!ledger.was_clean()) ramp_ = 1;  // it may be an event that takes us down: begin in small groups
}

void Isolation::prune(Ranges& ranges) const {
  std::vector<std::uint64_t> gone;
  for (auto const& [first, last] : ranges.map()) {
    for (std::uint64_t p = first; p <= last; ++p) {
      if (ledger_.settled(p)) gone.push_back(p);
    }
  }
  for (std::uint64_t const p : gone) ranges.remove(p, p);
}

void Isolation::acquit(std::uint64_t position) {
  suspects_.remove(position, position);
  vanished_.remove(position, position);
}

bool Isolation::others_worked(Ledger::Attempts attempts) const {
  return ledger_.stored_count() > attempts.stored_before;
}

// ---- what the next run delivers

// After an unclean end of the whole process: it may have been the first event that took it down, alone.
Status Isolation::suspect_the_first(Events& events) {
  auto first = events.find({}, ledger_.cursor());
  if (!first) return first.status();
  if (!*first) return {};
  suspects_.add(**first, **first);
  count_death(**first);
  auto const attempts = ledger_.attempts(**first);
  bool const charged = attempts.failures > 0 || attempts.deaths > 0;
  probe_next_ = charged && (!others_worked(attempts) || chance_() % 2 == 0);
  return {};
}

// What the last process was doing when it died.
void Isolation::count_death(std::uint64_t position) {
  auto attempts = ledger_.attempts(position);
  using Running = Ledger::Attempts::Running;
  if (attempts.running == Running::nothing) return;
  if (attempts.running == Running::it) {
    ++attempts.deaths;
    if (attempts.failures > 0) --attempts.failures;  // it did not bring the pipeline down
  } else {
    attempts.deaths -= std::min(attempts.deaths, kDeathOfAnother);
  }
  attempts.running = Running::nothing;
  ledger_.set_attempts(position, attempts);
}

Status Isolation::watch(std::uint64_t position, Ledger::Attempts attempts, Ledger::Attempts::Running running) {
  watched_ = position;
  attempts.running = running;
  ledger_.set_attempts(position, attempts);
  return ledger_.save();
}

void Isolation::survived() {
  if (!watched_) return;
  auto attempts = ledger_.attempts(*watched_);
  attempts.running = Ledger::Attempts::Running::nothing;
  if (!ledger_.settled(*watched_)) ledger_.set_attempts(*watched_, attempts);
  watched_.reset();
}

Consequence Isolation::convict(Events& events) {
  Consequence consequence;
  prune(suspects_);
  if (ramp_ != 1 || !suspects_.empty()) return consequence;
  if (!suspect_the_first(events).ok() || suspects_.empty()) return consequence;
  std::uint64_t const position = suspects_.map().begin()->first;
  auto const attempts = ledger_.attempts(position);
  if (attempts.deaths < kDeathsFactor * max_deliveries_ || !others_worked(attempts)) return consequence;
  consequence.letter = {position, fmt::format("processes that deliver it are killed, {} of them; those that deliver "
                                              "others are not",
                                              attempts.deaths)};
  suspects_.clear();
  count_letter(consequence);
  return consequence;
}

Result<Plan> Isolation::next(Events& events) {
  prune(vanished_);
  prune(suspects_);
  if (suspects_.count() > 1) return some();
  if (suspects_.empty()) {
    if (!vanished_.empty()) return vanished();
    Plan all;
    all.limit = ramp_;
    return all;
  }
  std::uint64_t const suspect = suspects_.map().begin()->first;
  if (std::exchange(probe_next_, false)) {
    auto plan = another(suspect, events);
    if (!plan) return plan.status();
    if (*plan) return std::move(**plan);
  }
  Plan lone;
  lone.kind = Plan::Kind::lone;
  lone.only.add(suspect, suspect);
  return lone;
}

// What shows whether the pipeline works for another event. Those that wait come first; where none is left, or all have
// failed, one that is settled: the pipeline worked for it once.
Result<std::optional<Plan>> Isolation::another(std::uint64_t suspect, Events& events) {
  Plan plan;
  plan.kind = Plan::Kind::probe;
  plan.limit = 1;
  plan.suspended = suspect;
  auto at = probe(plan, events);
  if (at && !*at) {
    probed_all_ = true;
    probed_ = 0;
    probe_step_ = 1;
    auto settled = events.newest_settled();
    if (!settled) return settled.status();
    if (*settled) {
      plan = {};
      plan.kind = Plan::Kind::again;
      plan.only.add(**settled, **settled);
      plan.from = **settled;
      return std::optional(std::move(plan));
    }
    at = probe(plan, events);
  }
  if (!at) return at.status();
  return *at ? std::optional(std::move(plan)) : std::nullopt;
}

// Ever farther away: bad ones may stand next to each other.
Events::Found Isolation::probe(Plan& plan, Events& events) {
  if (probed_ == kNoMore) return std::optional<std::uint64_t>();
  std::uint64_t const from = std::max(probed_, ledger_.cursor());
  bool const beyond = from >= events.high();  // of those that were never delivered, one is enough
  auto at = events.find(plan, std::min(from, events.high()));
  // The next one may take the whole process down as well, at each start: then it had better be another each time.
  for (auto skip = ramp_ == 1 ? chance_() % kRestartSkips : 0; skip > 0 && at && *at; --skip) {
    auto next = events.find(plan, **at + 1);
    if (!next) return next;
    if (!*next) break;
    at = next;
  }
  if (!at || !*at) return at;
  if (**at >= ledger_.cursor() + window_) return std::optional<std::uint64_t>();
  plan.from = **at;
  probed_ = beyond ? kNoMore : **at + probe_step_;
  probe_step_ *= 2;
  return at;
}

// Stages keep the order, so it is likely the first or soon after: that one, then larger groups, then halves of the one
// that fails.
Plan Isolation::some() const {
  Plan plan;
  plan.kind = Plan::Kind::some;
  std::uint64_t wanted = halving_ ? suspects_.count() / 2 : std::min(group_, suspects_.count());
  for (auto const& [first, last] : suspects_.map()) {
    std::uint64_t const take = std::min(wanted, last - first + 1);
    if (take == 0) break;
    plan.only.add(first, first + take - 1);
    wanted -= take;
  }
  return plan;
}

// A stage that was killed unseen has swallowed many at once; else each alone.
Plan Isolation::vanished() const {
  Plan plan;
  plan.kind = Plan::Kind::vanished;
  if (vanished_together_) {
    plan.only = vanished_;
  } else {
    std::uint64_t const position = vanished_.map().begin()->first;
    plan.only.add(position, position);
  }
  return plan;
}

Status Isolation::begin(Plan const& plan) {
  using Running = Ledger::Attempts::Running;
  if (plan.kind == Plan::Kind::probe || plan.kind == Plan::Kind::again) {
    if (suspects_.empty()) return {};
    std::uint64_t const suspect = suspects_.map().begin()->first;
    auto const charged = ledger_.attempts(suspect);
    return charged.deaths > 0 ? watch(suspect, charged, Running::another) : Status{};
  }
  if (plan.kind != Plan::Kind::lone) return {};
  std::uint64_t const position = plan.only.map().begin()->first;
  auto attempts = ledger_.attempts(position);
  if (attempts.failures == 0 && attempts.deaths == 0) attempts.stored_before = stored_at_fault_;
  // What failed while nothing worked says nothing of this event.
  if (!others_worked(attempts)) attempts.failures = 0;
  ++attempts.failures;
  return watch(position, attempts, Running::it);
}

void Isolation::not_counted(Plan const& plan) {
  survived();
  if (plan.kind != Plan::Kind::lone) return;
  std::uint64_t const position = plan.only.map().begin()->first;
  auto attempts = ledger_.attempts(position);
  if (attempts.failures == 0) return;
  --attempts.failures;
  ledger_.set_attempts(position, attempts);
}

// ---- what its end says

Consequence Isolation::ended_well(RunEnd const& end) {
  survived();
  Consequence consequence;
  // Decided, though an older event of its key that is still to come may take it back.
  prune(vanished_);
  prune(suspects_);
  if (end.plan.kind == Plan::Kind::vanished) {
    if (end.plan.only.count() > 1) {
      vanished_together_ = end.moved();
    } else if (!end.open.empty()) {
      std::string reason = "vanished: no stage said what became of it";
      if (!end.why.empty()) reason += ": " + end.why;
      consequence.letter = {end.open.map().begin()->first, std::move(reason)};
    }
  } else if (!end.open.empty()) {
    vanished_together_ = true;
    if (vanished_.empty()) stored_at_fault_ = end.stored_before;
    for (auto const& [first, last] : end.open.map()) {
      vanished_.add(first, last);
      suspects_.remove(first, last);
    }
  }
  if (end.moved() || ledger_.stored_count() > end.stored_before) backoff_.reset();
  if (end.plan.kind == Plan::Kind::lone) suspects_.clear();
  if (end.plan.kind == Plan::Kind::some && !halving_) group_ *= kGrowth;
  if (end.plan.kind == Plan::Kind::probe) {
    probed_ = end.scan;  // a good place for the next one
    probe_step_ = 1;
    probed_all_ = false;
  }
  bool const in_order = end.plan.kind == Plan::Kind::all || end.plan.kind == Plan::Kind::lone;
  if (ramp_ != 0 && in_order) ramp_ = ramp_ >= 4096 ? 0 : ramp_ * 4;
  forget_letters(end);
  return consequence;
}

Consequence Isolation::failed(RunEnd const& end) {
  survived();
  forget_letters(end);
  Consequence consequence;
  if (end.plan.kind == Plan::Kind::probe || end.plan.kind == Plan::Kind::again) {
    // Another event fails as well: the pipeline is at fault, until it has worked. Others are tried, first in quick
    // succession.
    probe_next_ = !probed_all_;
    consequence.wait = probed_all_ ? backoff_.next() : milliseconds(20);
    if (probed_all_ && backoff_.attempts() % 8 == 1) {
      consequence.warning =
          fmt::format("the pipeline fails for every event ({}); nothing is dead-lettered, it is tried again", end.why);
    }
  } else if (end.delivered == 0) {
    consequence.wait = std::max<Duration>(backoff_.next(), milliseconds(50));
    consequence.warning = fmt::format("the pipeline ended: {}", end.why);
  } else if (end.plan.kind == Plan::Kind::lone && !end.open.empty()) {
    return failed_alone(end);
  } else if (end.plan.kind == Plan::Kind::vanished) {
    // It is not swallowed now but brings the pipeline down (jq's last input decides its status). Among several it is
    // not known which.
    if (end.plan.only.count() > 1) {
      vanished_together_ = false;
    } else {
      suspects_ = end.open;
      for (auto const& [first, last] : end.open.map()) vanished_.remove(first, last);
    }
  } else {
    if (suspects_.empty()) stored_at_fault_ = ledger_.stored_count();
    suspects_ = end.open;
    halving_ = end.plan.kind == Plan::Kind::some;
    group_ = 1;
    if (end.plan.kind == Plan::Kind::all) {
      consequence.warning =
          fmt::format("the pipeline ended: {}; {} events are delivered again", end.why, end.open.count());
      if (!end.moved()) consequence.wait = backoff_.next();
    }
  }
  if (end.moved() && end.plan.kind != Plan::Kind::lone) backoff_.reset();
  return consequence;
}

Consequence Isolation::failed_alone(RunEnd const& end) {
  Consequence consequence;
  std::uint64_t const position = end.open.map().begin()->first;
  auto const attempts = ledger_.attempts(position);
  bool const guilty = others_worked(attempts);
  if (attempts.failures >= max_deliveries_ && guilty) {
    consequence.letter = {position,
                          fmt::format("brought the pipeline down alone {} times: {}", attempts.failures, end.why)};
    suspects_.clear();
    count_letter(consequence);
  } else {
    probe_next_ = !guilty;
    // Where others work the event is the suspect, and an ordinary exit status will not change by waiting.
    if (!guilty) {
      consequence.wait = backoff_.next();
    } else if (end.status >= kFirstSignal) {
      consequence.wait = std::min<Duration>(backoff_.next(), milliseconds(50));
    }
  }
  return consequence;
}

// One event behind the other that brings the pipeline down, with none between that it has stored.
void Isolation::count_letter(Consequence& consequence) {
  if (++letters_in_a_row_ < kLettersInARow) return;
  consequence.pause = fmt::format(
      "paused: {} events in a row brought the pipeline down; that is a deployment, not data", letters_in_a_row_);
}

// One that was stored to see whether the pipeline works does not stand between them.
void Isolation::forget_letters(RunEnd const& end) {
  bool const in_order = end.plan.kind != Plan::Kind::probe && end.plan.kind != Plan::Kind::again;
  if (in_order && end.stored > 0) letters_in_a_row_ = 0;
}

}  // namespace inflight

#include "common/isolation.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kLettersInARow = 10;
constexpr std::uint64_t kFirstGroup = 16;
constexpr int kFirstSignal = 128;

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

Isolation::Isolation(Ledger& ledger, std::uint64_t max_deliveries, std::uint64_t window)
    : ledger_(ledger),
      max_deliveries_(max_deliveries),
      window_(window),
      group_(kFirstGroup),
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

// ---- what the next run delivers

Result<Plan> Isolation::next(Find const& find) {
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
    auto plan = probe(suspect, find);
    if (!plan) return plan.status();
    if (*plan) return std::move(**plan);
  }
  Plan lone;
  lone.kind = Plan::Kind::lone;
  lone.only.add(suspect, suspect);
  return lone;
}

// Ever farther away: bad ones may stand next to each other.
Result<std::optional<Plan>> Isolation::probe(std::uint64_t suspect, Find const& find) {
  Plan plan;
  plan.kind = Plan::Kind::probe;
  plan.limit = 1;
  plan.suspended = suspect;
  std::uint64_t const end = ledger_.cursor() + window_;
  auto at = find(plan, std::max(probed_, ledger_.cursor()));
  if (!at) return at.status();
  if (!*at || **at >= end) {
    probe_step_ = 1;
    probed_all_ = true;
    at = find(plan, ledger_.cursor());
    if (!at) return at.status();
  }
  if (!*at || **at >= end) return std::optional<Plan>();
  plan.from = **at;
  probed_ = **at + probe_step_;
  probe_step_ *= 2;
  return std::optional(plan);
}

// Stages keep the order, so it is likely the first or soon after: that one, then larger groups, halves of one that
// fails.
Plan Isolation::some() const {
  Plan plan;
  plan.kind = Plan::Kind::some;
  std::uint64_t wanted = std::min(group_, group_ > kFirstGroup ? suspects_.count() : (suspects_.count() + 1) / 2);
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
  if (plan.kind != Plan::Kind::lone) return {};
  std::uint64_t const position = plan.only.map().begin()->first;
  auto attempts = ledger_.attempts(position);
  if (attempts.failures == 0) attempts.settled_before = settled_at_fault_;
  // What failed while nothing worked says nothing of this event.
  if (ledger_.settled_count() <= attempts.settled_before) attempts.failures = 0;
  ++attempts.failures;
  ledger_.set_attempts(position, attempts);
  return ledger_.save();
}

void Isolation::not_counted(Plan const& plan) {
  if (plan.kind != Plan::Kind::lone) return;
  std::uint64_t const position = plan.only.map().begin()->first;
  auto attempts = ledger_.attempts(position);
  if (attempts.failures == 0) return;
  --attempts.failures;
  ledger_.set_attempts(position, attempts);
}

// ---- what its end says

Consequence Isolation::ended_well(RunEnd const& end) {
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
    if (vanished_.empty()) settled_at_fault_ = end.settled_before;
    for (auto const& [first, last] : end.open.map()) {
      vanished_.add(first, last);
      suspects_.remove(first, last);
    }
  }
  if (end.moved()) backoff_.reset();
  if (end.plan.kind == Plan::Kind::lone) suspects_.clear();
  if (end.plan.kind == Plan::Kind::some) group_ *= kFirstGroup;
  if (end.plan.kind == Plan::Kind::probe) {
    probed_ = end.scan;  // a good place for the next one
    probe_step_ = 1;
    probed_all_ = false;
  }
  if (ramp_ != 0) ramp_ = ramp_ >= 4096 ? 0 : ramp_ * 4;
  return consequence;
}

Consequence Isolation::failed(RunEnd const& end) {
  Consequence consequence;
  if (end.plan.kind == Plan::Kind::probe) {
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
    // Alone it is not swallowed but brings the pipeline down (jq's last input decides its status).
    suspects_ = end.open;
    for (auto const& [first, last] : end.open.map()) vanished_.remove(first, last);
  } else {
    if (suspects_.empty()) settled_at_fault_ = ledger_.settled_count();
    suspects_ = end.open;
    group_ = end.plan.kind == Plan::Kind::some ? kFirstGroup : 1;
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
  bool const others_worked = ledger_.settled_count() > attempts.settled_before;
  if (attempts.failures >= max_deliveries_ && others_worked) {
    consequence.letter = {position,
                          fmt::format("brought the pipeline down alone {} times: {}", attempts.failures, end.why)};
    suspects_.clear();
    count_letter(position, consequence);
  } else {
    probe_next_ = !others_worked;
    // Where others work the event is the suspect, and an ordinary exit status will not change by waiting.
    if (!others_worked) {
      consequence.wait = backoff_.next();
    } else if (end.status >= kFirstSignal) {
      consequence.wait = std::min<Duration>(backoff_.next(), milliseconds(50));
    }
  }
  return consequence;
}

// One event behind the other that brings the pipeline down, with none between that it can process.
void Isolation::count_letter(std::uint64_t position, Consequence& consequence) {
  letters_in_a_row_ = letters_in_a_row_ > 0 && position == last_letter_ + 1 ? letters_in_a_row_ + 1 : 1;
  last_letter_ = position;
  if (letters_in_a_row_ < kLettersInARow) return;
  consequence.pause = fmt::format(
      "paused: {} events in a row brought the pipeline down; that is a deployment, not data", letters_in_a_row_);
}

}  // namespace inflight

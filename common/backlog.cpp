#include "common/backlog.h"

#include <algorithm>

namespace inflight {

namespace {

constexpr std::uint64_t kSettledTries = 1000;

}  // namespace

Events::Found Backlog::find(Plan const& plan, std::uint64_t from) {
  EventReader::Event event;
  auto got = next(plan, from, event);
  if (!got) return got.status();
  return *got == EventReader::Got::event ? std::optional(event.position) : std::nullopt;
}

Events::Found Backlog::newest_settled() {
  std::uint64_t tries = 0;
  for (std::uint64_t p = ledger_.reached(); p-- > 0 && tries < kSettledTries;) {
    if (!ledger_.settled(p) || ledger_.has_open_letter(p)) continue;
    ++tries;
    EventReader::Event event;
    auto got = back_->read(p, event);
    if (!got) return got.status();
    if (*got != EventReader::Got::event || event.position != p) break;
    bool const ours = order_.ours(event.line);
    if (event.line.size() > kLongRecord) back_->release();
    if (ours) return std::optional(p);
  }
  return std::optional<std::uint64_t>();
}

Result<EventReader::Got> Backlog::next(Plan const& plan, std::uint64_t from, EventReader::Event& event) {
  using Got = EventReader::Got;
  for (std::uint64_t at = from;;) {
    if (plan.kind != Plan::Kind::again) at = ledger_.next_unsettled(at);
    auto const wanted = plan.next(at);
    if (!wanted) return Got::end;
    if (*wanted > at) {
      at = *wanted;
      continue;
    }
    auto got = ahead_->read(at, event);
    if (!got) return got.status();
    at_end_ = *got != Got::event;
    source_ended_ = *got == Got::end;
    if (*got != Got::event) return *got;
    if (event.position > at) {
      ledger_.settle(at, event.position - 1);  // a hole: no such events
      at = event.position;
      continue;
    }
    bool const suspended = plan.kind == Plan::Kind::probe && event.position == plan.suspended;
    if (!suspended && order_.ours(event.line)) return Got::event;
    ++at;
  }
}

void Backlog::delivered(EventReader::Event const& event) {
  high_ = std::max(high_, event.position + 1);
  if (arrivals_.empty() || (arrivals_.back().second != event.time && event.position > arrivals_.back().first)) {
    arrivals_.emplace_back(event.position, event.time);
  }
}

// Also events that the last run did not deliver: a probe or a small group may have overtaken them.
Result<Ranges> Backlog::keep_order() {
  Ranges open;
  for (std::uint64_t p = ledger_.next_unsettled(0); p < high_; p = ledger_.next_unsettled(p + 1)) open.add(p, p);
  return order_.take_back(*back_, ledger_, open, high_);
}

std::optional<Time> Backlog::oldest() {
  while (arrivals_.size() > 1 && arrivals_[1].first <= ledger_.cursor()) arrivals_.pop_front();
  if (arrivals_.empty() || ledger_.cursor() >= high_) return std::nullopt;
  return arrivals_.front().second;
}

}  // namespace inflight

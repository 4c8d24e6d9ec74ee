#include "common/schedule.h"

#include <algorithm>
#include <cmath>

namespace inflight {

namespace {

using std::chrono::seconds;

constexpr Duration kSilence = std::chrono::milliseconds(500);  // shorter ones may be a machine that is busy
constexpr unsigned kMostDoublings = 4;                         // 16 periods

}  // namespace

Schedule::Schedule(Duration period, std::size_t slots)
    : period_(period), patience_(std::min<Duration>(seconds(1), period / 8)) {
  allow(slots);
}

void Schedule::allow(std::size_t slots) {
  slots_ = std::max<std::size_t>(1, slots);
  probe_slots_ = std::max<std::size_t>(1, slots / 4);
}

void Schedule::resume(Duration now) {
  if (period_ == Duration::zero()) return;
  for (Queue* queue : {&waiting_, &probes_}) {
    while (!queue->empty() && queue->begin()->first + period_ <= now) {
      auto const [due, unit] = *queue->begin();
      queue->erase(queue->begin());
      auto const periods = (now - due) / period_ + 1;
      if (queue == &waiting_) missed_ += static_cast<std::uint64_t>(periods);
      wait_for(unit, due + periods * period_);
    }
  }
}

void Schedule::add(Unit unit, Duration now) {
  if (unit >= states_.size()) states_.resize(unit + 1);
  states_[unit] = {};
  // Multiples of the golden ratio modulo 1 are spread evenly however many there are, so that units may come later.
  double const turns = static_cast<double>(added_++) * 0.618'033'988'749'894'9;
  double const phase = (turns - std::floor(turns)) * static_cast<double>(period_.count());
  wait_for(unit, now + Duration{static_cast<std::int64_t>(phase)});
}

void Schedule::wait_for(Unit unit, Duration due) {
  states_[unit].due = due;
  (states_[unit].failures > 0 ? probes_ : waiting_).emplace(due, unit);
}

void Schedule::remove(Unit unit) {
  State& state = states_[unit];
  state.removed = true;
  waiting_.erase({state.due, unit});
  probes_.erase({state.due, unit});
}

std::optional<Schedule::Unit> Schedule::next(Duration now) {
  if (running_ >= slots_) return std::nullopt;
  auto const is_due = [&](Queue const& queue) { return !queue.empty() && queue.begin()->first <= now; };
  bool const probe =
      is_due(probes_) && running_probes_ < probe_slots_ && !(is_due(waiting_) && *waiting_.begin() < *probes_.begin());
  if (!probe && !is_due(waiting_)) return std::nullopt;
  Queue& queue = probe ? probes_ : waiting_;
  Unit const unit = queue.begin()->second;
  queue.erase(queue.begin());
  State& state = states_[unit];
  state.running = true;
  state.started = now;
  ++running_;
  if (probe) {
    ++running_probes_;
  } else {
    young_.emplace(now, unit);
  }
  return unit;
}

Schedule::State& Schedule::ended(Unit unit) {
  State& state = states_[unit];
  state.running = false;
  --running_;
  if (young_.erase({state.started, unit}) == 0) --running_probes_;
  return state;
}

// The first moment of the grid that follows `due` and is not already past by a whole period.
Duration Schedule::after(Duration due, Duration now) {
  due += period_;
  if (due + period_ <= now) {
    auto const periods = (now - due) / period_;
    missed_ += static_cast<std::uint64_t>(periods);
    due += periods * period_;
  }
  return due;
}

void Schedule::answered(Unit unit, Duration now) {
  State& state = ended(unit);
  state.failures = 0;
  state.latency = std::max(now - state.started, Duration{1});
  newest_answered_ = std::max(newest_answered_, state.started);
  answered_at_ = now;
  typical_ = typical_ == Duration::zero() ? state.latency : typical_ + (state.latency - typical_) / 64;
  if (!state.removed) wait_for(unit, period_ == Duration::zero() ? now : after(state.due, now));
}

void Schedule::failed(Unit unit, Duration now, Duration at_least) {
  State& state = ended(unit);
  unsigned const doublings = state.failures++;
  if (state.removed) return;
  if (period_ == Duration::zero()) {
    Duration const wait = std::min<Duration>(seconds(30), seconds(1) * (std::int64_t{1} << std::min(doublings, 5U)));
    return wait_for(unit, now + std::max(wait, at_least));
  }
  Duration due = state.due + period_ * (std::int64_t{1} << std::min(doublings, kMostDoublings));
  Duration const earliest = std::max(now, now + at_least);
  if (due < earliest) due += (earliest - due + period_ - Duration{1}) / period_ * period_;
  wait_for(unit, due);
}

void Schedule::left_out(Unit unit, Duration now) {
  State& state = ended(unit);
  ++missed_;
  if (!state.removed) wait_for(unit, period_ == Duration::zero() ? now : after(state.due, now));
}

void Schedule::finished(Unit unit) { ended(unit).removed = true; }

std::optional<Schedule::Unit> Schedule::give_way(Duration now) const {
  if (running_ < slots_ || period_ == Duration::zero()) return std::nullopt;
  if (waiting_.empty() || waiting_.begin()->first > now) return std::nullopt;
  Duration const by = now - answered_at_ > std::max(2 * patience_, kSilence) ? now : newest_answered_;
  for (auto const& [started, unit] : young_) {
    Duration const latency = states_[unit].latency > Duration::zero() ? states_[unit].latency : typical_;
    if (by - started < patience_) return std::nullopt;
    if (by - started > 8 * latency) return unit;
  }
  return std::nullopt;
}

Duration Schedule::idle(Duration now) const {
  Duration wait = seconds(60);
  if (running_ >= slots_) {
    bool const wanted = period_ > Duration::zero() && !waiting_.empty() && !young_.empty();
    if (!wanted) return wait;
    Duration const due = std::max(waiting_.begin()->first, young_.begin()->first + patience_) - now;
    return std::clamp<Duration>(due, std::chrono::milliseconds(5), wait);
  }
  if (!waiting_.empty()) wait = std::min(wait, waiting_.begin()->first - now);
  if (!probes_.empty() && running_probes_ < probe_slots_) wait = std::min(wait, probes_.begin()->first - now);
  return std::max(wait, Duration::zero());
}

}  // namespace inflight

#include "common/sink_flight.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "common/messages.h"
#include "common/metrics.h"
#include "common/retry.h"
#include "common/stop.h"

namespace inflight {

namespace {
constexpr Duration kTellEvery = std::chrono::seconds(30);  // that we are alive, and the operator of the same cause
constexpr Duration kDrain = std::chrono::seconds(2);       // how long a stop waits for what fails
constexpr Duration kSoon = std::chrono::seconds(1);        // a refusal that lasts shorter is of no interest
constexpr Duration kLate = std::chrono::milliseconds(5);   // what a start may be late and yet keep its pace
constexpr std::size_t kEverything = 3;                     // fewer records may be doubtful by chance
}  // namespace

void SinkFlight::add(SinkRecord const& record, SinkBatch& batch) {
  std::string key(requests_.key_of(record));
  if (key.empty()) {  // a key of its own
    key = std::to_string(unkeyed_++);
    key.push_back('\0');
  }
  auto const [at, fresh] = lanes_.try_emplace(std::move(key));
  Lane& lane = at->second;
  lane.key = &at->first;
  lane.jobs.push_back({&record, &batch});
  if (fresh) ready_.push_back(&lane);
  ++open_;
}

void SinkFlight::start(Duration now) {
  for (; !late_.empty() && late_.begin()->first <= now; late_.erase(late_.begin()))
    ready_.push_back(late_.begin()->second);
  if (now < paused_until_) return;
  for (; !ready_.empty() && concurrency_.may_start(); ready_.pop_front()) {
    if (pace_ > Duration::zero()) {
      if (now < next_start().value_or(Duration::max())) return;
      next_start_ = std::max(next_start_, now - kLate) + pace_;
    }
    window_.started();
    Lane& lane = *ready_.front();
    for (lane.joined = 1; lane.joined < lane.jobs.size(); ++lane.joined) {
      if (!requests_.joins(*lane.jobs[0].record, *lane.jobs[lane.joined].record)) break;
    }
    if (free_.empty()) {
      free_.push_back(requested_.size());
      requested_.push_back(nullptr);
    }
    lane.number = free_.back();
    free_.pop_back();
    requested_[lane.number] = &lane;
    lane.started = now;
    lane.stored_then = stored_;
    concurrency_.started();
    requests_.start(*lane.jobs[0].record, lane.number);
  }
}

std::optional<Duration> SinkFlight::next_start() const {
  auto const due = window_.due();
  return due ? std::optional(std::max(*due, next_start_)) : std::nullopt;
}

void SinkFlight::answered(Lane& lane, SinkAnswer const& answer, Duration now) {
  free_.push_back(lane.number);
  ++lane.attempts;
  window_.answered(now);
  concurrency_.ended(answer.load, lane.started, now);
  bool const doubts = answer.doubts > 0 && !answer.status.ok();
  if (lane.doubted != doubts) doubts ? ++doubted_ : --doubted_;
  if (lane.doubted && doubts && newest_stored_ > lane.doubted_at) ++lane.doubts;
  lane.doubted = doubts;
  lane.doubted_at = now;
}

std::vector<SinkFlight::Job> SinkFlight::settle(Lane& lane, bool stored, Duration now) {
  auto const end = lane.jobs.begin() + static_cast<std::ptrdiff_t>(lane.joined);
  std::vector<Job> jobs(lane.jobs.begin(), end);
  lane.jobs.erase(lane.jobs.begin(), end);
  if (stored) {
    ++stored_;
    accepted_ = true;
    newest_stored_ = std::max(newest_stored_, lane.started);
  }
  waiting_since_.reset();
  last_outcome_ = now;
  if (lane.doubted) --doubted_;
  open_ -= jobs.size();
  lane.doubted = false;
  lane.attempts = lane.doubts = 0;
  if (lane.jobs.empty()) {
    lanes_.erase(lanes_.find(*lane.key));
  } else {
    ready_.push_back(&lane);
  }
  return jobs;
}

void SinkFlight::again(Lane& lane, std::optional<Duration> asked, bool all, Duration now) {
  Backoff backoff(std::chrono::milliseconds(100), std::chrono::seconds(30), lane.attempts - 1);
  Duration const until = now + backoff.next(asked);
  late_.emplace(until, &lane);
  if (all) paused_until_ = std::max(paused_until_, until);
}

Result<SinkFlight::Outcome> SinkFlight::heed(SinkAnswer const& answer, bool ended, Duration now) {
  Lane& lane = *requested_[answer.number];
  answered(lane, answer, now);
  Status const& said = answer.status;
  if (said.ok()) return Outcome{Fate::stored, settle(lane, true, now)};
  // Where but few such records are left, nobody can be stored in between.
  bool const last =
      ended && said.code() == Code::usage && lane.attempts > 1 && open_ < kEverything && doubted_ == open_;
  if (said.code() == Code::rejected || (answer.doubts > 0 && (lane.doubts >= answer.doubts || last)))
    return Outcome{Fate::rejected, settle(lane, false, now)};
  bool const everything = answer.doubts == 0 || doubted_ >= kEverything;
  if (said.code() == Code::defect || (said.code() == Code::usage && !accepted_ && everything)) return said;
  ++counters().retries;
  // Those that are under way tell whether it is the service that fails.
  bool const all =
      alone(lane) && (under_way() == 0 || answer.retry_after) && (answer.doubts == 0 || said.code() == Code::temporary);
  again(lane, answer.retry_after, all, now);
  if (!waiting_since_) waiting_since_ = now;
  why_ = said.what();
  if (Status status = all ? tell_waiting(now) : Status{}; !status.ok()) return status;
  return Outcome{};
}

// Since when nothing has had an outcome although something failed, if only before that.
std::optional<Duration> SinkFlight::stuck_since() const {
  return waiting_since_ || late_.empty() ? waiting_since_ : last_outcome_;
}

Status SinkFlight::look_after(Duration now) {
  if (io_.receipts.abandoned()) return Status::temporary("receipts channel: the source is gone");
  std::optional<Duration> const since = stuck_since();
  if (since && give_up_ && now - *since > *give_up_) return Status::temporary(fmt::format("gave up: {}", why_));
  if (since && stopping() && now - *since > kDrain) return {Code::stopped, why_};
  if (Status status = hold_all(); !status.ok()) return status;
  return waiting_since_ && now - *waiting_since_ > kSoon ? tell_waiting(now) : Status{};
}

Status SinkFlight::tell_waiting(Duration now) {
  if (told_of_ == waiting_since_ && now - last_told_ < kTellEvery) return {};
  // Once of each time that we wait; whoever feels for a service's limit is refused there time and again.
  if (said_of_ != waiting_since_ && (why_ != said_ || now - said_at_ >= kTellEvery)) {
    say_warning(fmt::format("waiting: {}", why_));
    said_ = why_;
    said_at_ = now;
    said_of_ = waiting_since_;
  }
  told_of_ = waiting_since_;
  last_told_ = now;
  if (Status status = io_.receipts.waiting(why_); !status.ok()) return status;
  return hold_all();
}

Status SinkFlight::hold_all() {
  if (!io_.receipts.active()) return {};
  PositionList held;
  std::vector<Position> positions;
  for (auto const& [key, lane] : lanes_) {
    for (Job const& job : lane.jobs) {
      positions.clear();
      if (parse_positions(job.record->delivery, positions)) held.add(positions);
    }
  }
  return io_.receipts.held(held);
}

Duration SinkFlight::patience(Duration now, Duration most) const {
  Duration wait = most;
  if (!late_.empty()) wait = std::min(wait, late_.begin()->first - now);
  // What is ready waits for the end of a pause, for its turn, or for an answer.
  Duration const turn =
      std::max(paused_until_, concurrency_.may_start() ? next_start().value_or(Duration::zero()) : Duration::zero());
  if (now < turn && !ready_.empty()) wait = std::min(wait, turn - now);
  return std::max(wait, Duration::zero());
}

}  // namespace inflight

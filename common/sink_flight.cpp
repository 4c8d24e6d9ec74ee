#include "common/sink_flight.h"

#include <algorithm>

namespace inflight {

void SinkFlight::add(SinkBatch& batch) {
  batch.open = batch.count;
  for (std::size_t i = 0; i < batch.count; ++i) {
    std::size_t number = jobs_.size();
    if (free_.empty()) {
      jobs_.emplace_back();
    } else {
      number = free_.back();
      free_.pop_back();
    }
    SinkRecord const& record = batch.records[i];
    std::string key(requests_.key_of(record));
    if (key.empty()) {  // a key of its own
      key = std::to_string(unkeyed_++);
      key.push_back('\0');
    }
    auto const [at, fresh] = lanes_.try_emplace(std::move(key));
    Lane& lane = at->second;
    lane.key = &at->first;
    lane.jobs.push_back(number);
    if (fresh) ready_.push_back(&lane);
    jobs_[number] = {};
    jobs_[number].record = &record;
    jobs_[number].batch = &batch;
    jobs_[number].lane = &lane;
    ++open_;
  }
}

void SinkFlight::start(Duration now) {
  for (; !late_.empty() && late_.begin()->first <= now; late_.erase(late_.begin()))
    ready_.push_back(late_.begin()->second);
  if (now < paused_until_) return;
  for (; !ready_.empty() && concurrency_.may_start(); ready_.pop_front()) {
    std::size_t const number = ready_.front()->jobs.front();
    jobs_[number].started = now;
    jobs_[number].stored_then = stored_;
    concurrency_.started();
    requests_.start(*jobs_[number].record, number);
  }
}

SinkFlight::Job& SinkFlight::answered(SinkAnswer const& answer, Duration now) {
  Job& job = jobs_[answer.number];
  ++job.attempts;
  concurrency_.ended(answer.load, job.started, now);
  if (job.doubted != (answer.doubts > 0)) answer.doubts > 0 ? ++doubted_ : --doubted_;
  if (job.doubted && answer.doubts > 0 && newest_stored_ > job.doubted_at) ++job.doubts;
  job.doubted = answer.doubts > 0;
  job.doubted_at = now;
  return job;
}

SinkBatch* SinkFlight::settle(Job& job, bool stored) {
  Lane& lane = *job.lane;
  SinkBatch* const batch = job.batch;
  if (stored) {
    ++stored_;
    newest_stored_ = std::max(newest_stored_, job.started);
  }
  if (job.doubted) --doubted_;
  --open_;
  free_.push_back(lane.jobs.front());
  lane.jobs.pop_front();
  if (lane.jobs.empty()) {
    lanes_.erase(lanes_.find(*lane.key));
  } else {
    ready_.push_back(&lane);
  }
  return --batch->open == 0 ? batch : nullptr;
}

void SinkFlight::again(Job& job, std::optional<Duration> asked, bool all, Duration now) {
  Backoff backoff(std::chrono::milliseconds(100), std::chrono::seconds(30), job.attempts - 1);
  Duration const until = now + backoff.next(asked);
  late_.emplace(until, job.lane);
  if (all) paused_until_ = std::max(paused_until_, until);
}

Duration SinkFlight::patience(Duration now, Duration most) const {
  Duration wait = most;
  if (!late_.empty()) wait = std::min(wait, late_.begin()->first - now);
  // What is ready waits for the end of a pause, or for an answer.
  if (now < paused_until_ && !ready_.empty()) wait = std::min(wait, paused_until_ - now);
  return std::max(wait, Duration::zero());
}

}  // namespace inflight

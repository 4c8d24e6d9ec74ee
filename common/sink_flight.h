// The records that a sink delivers one by one (SinkRequests): which of them may be under way now. Those of one key go
// one after the other, one that has to come again keeps those behind it waiting, and all others pass them.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/concurrency.h"
#include "common/retry.h"
#include "common/sink.h"
#include "common/sink_input.h"

namespace inflight {

class SinkFlight {
 public:
  explicit SinkFlight(SinkRequests& requests) : requests_(requests), concurrency_(requests.max_in_flight()) {}

  struct Lane;
  struct Job {
    SinkRecord const* record = nullptr;
    SinkBatch* batch = nullptr;
    Lane* lane = nullptr;
    Duration started{};
    std::uint64_t stored_then = 0;  // how many were, when it was started
    unsigned attempts = 0;
    bool doubted = false;  // by its newest answer
    unsigned doubts = 0;   // how often that was said again, others being started and stored in between
    Duration doubted_at{};
  };

  void add(SinkBatch& batch);
  // Starts what may be under way.
  void start(Duration now);
  // The record that was answered. It is not under way any more, and waits for settle() or again().
  [[nodiscard]] Job& answered(SinkAnswer const& answer, Duration now);
  // It has its outcome. Its batch, where it was the last of that.
  [[nodiscard]] SinkBatch* settle(Job& job, bool stored);
  // It is delivered again, after a back-off. `all`: until then nothing is started, as nothing else was stored
  // meanwhile.
  void again(Job& job, std::optional<Duration> asked, bool all, Duration now);

  // Whether others were stored while it was under way.
  [[nodiscard]] bool alone(Job const& job) const { return job.stored_then == stored_; }
  [[nodiscard]] std::size_t open() const { return open_; }  // records without an outcome
  [[nodiscard]] std::size_t under_way() const { return concurrency_.under_way(); }
  [[nodiscard]] std::size_t doubted() const { return doubted_; }
  // Whether more could be under way than there is to start.
  [[nodiscard]] bool hungry(Duration now) const {
    return now >= paused_until_ && ready_.size() + under_way() < concurrency_.limit();
  }
  // How long nothing can be started but for answers or new records.
  [[nodiscard]] Duration patience(Duration now, Duration most) const;
  // Visits the records without an outcome.
  template <typename Visit>
  void each(Visit visit) const {
    for (auto const& [key, lane] : lanes_) {
      for (std::size_t const number : lane.jobs) visit(*jobs_[number].record);
    }
  }

  struct Lane {
    std::string const* key = nullptr;
    std::deque<std::size_t> jobs;  // the first is under way, ready or late; those behind it wait
  };

 private:
  SinkRequests& requests_;
  Concurrency concurrency_;
  std::deque<Job> jobs_;
  std::vector<std::size_t> free_;
  std::unordered_map<std::string, Lane> lanes_;
  std::deque<Lane*> ready_;
  std::multimap<Duration, Lane*> late_;  // by when they come again
  Duration paused_until_{};
  std::size_t open_ = 0, doubted_ = 0;
  std::uint64_t stored_ = 0, unkeyed_ = 0;
  Duration newest_stored_{};  // when that was started
};

}  // namespace inflight

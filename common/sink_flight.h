// Records that are asked for one by one (SinkRequests): which of them may be under way now, what their answers mean,
// and what is told while they wait. Those of one key go one after the other, one that has to come again keeps those
// behind it waiting, and all others pass them.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/concurrency.h"
#include "common/io.h"
#include "common/rate_window.h"
#include "common/receipts.h"
#include "common/sink.h"
#include "common/sink_input.h"

namespace inflight {

class SinkFlight {
 public:
  // `give_up`: Code::temporary after so long without an outcome; none: never. `rate`: of requests per second, which
  // none exceeds; 0: none.
  SinkFlight(Io& io, SinkRequests& requests, std::optional<Duration> give_up, double rate = 0)
      : io_(io),
        requests_(requests),
        concurrency_(requests.max_in_flight()),
        give_up_(give_up),
        pace_(rate > 0 ? Duration(static_cast<std::int64_t>(1e9 / rate)) : Duration::zero()),
        window_(rate) {}

  void add(SinkRecord const& record, SinkBatch& batch);
  // Starts what may be under way.
  void start(Duration now);

  // What an answer means for the record that was asked for, and those that have joined it.
  enum class Fate { stored, rejected, again };
  struct Job {
    SinkRecord const* record = nullptr;
    SinkBatch* batch = nullptr;
  };
  struct Outcome {
    Fate fate = Fate::again;
    std::vector<Job> jobs;  // without those that come again
  };
  // `ended`: no more records come. Code::usage, defect: the end.
  [[nodiscard]] Result<Outcome> heed(SinkAnswer const& answer, bool ended, Duration now);
  // To be called again and again: tells that those that others pass are not lost, and that we wait; gives up.
  [[nodiscard]] Status look_after(Duration now);

  [[nodiscard]] std::size_t open() const { return open_; }  // records without an outcome
  [[nodiscard]] std::size_t under_way() const { return concurrency_.under_way(); }
  // Whether more could be under way than there is to start.
  [[nodiscard]] bool hungry(Duration now) const {
    return now >= paused_until_ && ready_.size() + under_way() < concurrency_.limit();
  }
  // How long nothing can be started but for answers or new records.
  [[nodiscard]] Duration patience(Duration now, Duration most) const;

 private:
  struct Lane {
    std::string const* key = nullptr;
    std::deque<Job> jobs;    // the first is under way, ready or late; those behind it have joined it, or wait
    std::size_t joined = 0;  // that are under way
    std::size_t number = 0;  // of the request
    Duration started{};
    std::uint64_t stored_then = 0;  // how many were, when it was started
    unsigned attempts = 0;
    bool doubted = false;  // by its newest answer
    unsigned doubts = 0;   // how often that was said again, others being started and stored in between
    Duration doubted_at{};
  };

  // Whether nothing was stored while it was under way.
  [[nodiscard]] bool alone(Lane const& lane) const { return lane.stored_then == stored_; }
  void answered(Lane& lane, SinkAnswer const& answer, Duration now);
  std::vector<Job> settle(Lane& lane, bool stored, Duration now);
  [[nodiscard]] std::optional<Duration> stuck_since() const;
  void again(Lane& lane, std::optional<Duration> asked, bool all, Duration now);
  Status tell_waiting(Duration now);
  Status hold_all();
  // When the rate lets one more start; none: not before an answer.
  [[nodiscard]] std::optional<Duration> next_start() const;

  Io& io_;
  SinkRequests& requests_;
  Concurrency concurrency_;
  std::optional<Duration> give_up_;
  Duration pace_, next_start_{};  // evenly
  RateWindow window_;
  std::unordered_map<std::string, Lane> lanes_;
  std::vector<Lane*> requested_;  // by number
  std::vector<std::size_t> free_;
  std::deque<Lane*> ready_;
  std::multimap<Duration, Lane*> late_;  // by when they come again
  Duration paused_until_{};
  std::size_t open_ = 0, doubted_ = 0;
  std::uint64_t stored_ = 0, unkeyed_ = 0;
  Duration newest_stored_{};  // when that was started
  bool accepted_ = false;
  std::optional<Duration> waiting_since_;      // since when none had an outcome, after one that failed
  std::optional<Duration> told_of_, said_of_;  // to the source; to the operator
  Duration last_outcome_{}, last_told_{}, said_at_{};
  std::string why_, said_;
};

}  // namespace inflight

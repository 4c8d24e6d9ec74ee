// One copy of a pipeline, run after run, and the events that are its: feeds it, listens to its receipts, decides when
// its input ends, and draws the consequences of how it ended.
#pragma once

#include <poll.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/backlog.h"
#include "common/delivery_options.h"
#include "common/event_source.h"
#include "common/io.h"
#include "common/isolation.h"
#include "common/ledger.h"
#include "common/pipeline.h"
#include "common/retry.h"
#include "common/run_receipts.h"

namespace inflight {

class Lane {
 public:
  // The readers read the same source, each at its own place. `index` of options.jobs.
  Lane(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options, std::uint64_t index,
       std::unique_ptr<EventReader> ahead, std::unique_ptr<EventReader> back);

  // What a killed run delivered behind an event that is unsettled now follows it again.
  [[nodiscard]] Status open();
  // Does what can be done without waiting; where `winding_up`, ends what runs.
  [[nodiscard]] Status step(bool winding_up);
  void add_fds(std::vector<pollfd>& fds) const;
  // Events below the cursor were taken back: this run ends, the next one passes over them.
  void begin_anew();

  [[nodiscard]] bool running() const { return run_.has_value(); }
  [[nodiscard]] bool exhausted() const { return backlog_.at_end() && !run_ && !backlog_.work_left(); }
  [[nodiscard]] bool waiting_for_source() const { return backlog_.at_end(); }
  [[nodiscard]] bool source_ended() const { return backlog_.source_ended(); }
  // Set where the whole delivery has to end.
  [[nodiscard]] std::optional<Exit> verdict() const { return verdict_; }
  // When the oldest event that is not settled came to the source.
  [[nodiscard]] std::optional<Time> oldest() { return backlog_.oldest(); }

 private:
  struct Run {
    Run(Pipeline started, Plan planned, std::uint64_t stored, Duration now)
        : pipeline(std::move(started)),
          plan(std::move(planned)),
          stored_before(stored),
          began(now),
          last_line(now),
          last_fed(now) {}

    Pipeline pipeline;
    Plan plan;
    std::uint64_t stored_before;
    std::string token, pending;
    std::size_t pending_at = 0;
    bool input_open = true, channel_ended = false, window_full = false, plan_exhausted = false;
    std::string killed_why;
    Duration began, last_line, last_fed, last_settled{}, last_decided{}, last_gone_check{};
    std::optional<Duration> killed_at, leader_ended_at, full_since;
    std::optional<std::pair<std::uint64_t, Duration>> overtaken;  // the oldest open event, and since when

    [[nodiscard]] bool fed() const { return pending_at == pending.size(); }
    void drop_pending() {
      pending.clear();
      if (pending.capacity() > 1 << 20) pending.shrink_to_fit();
      pending_at = 0;
    }
  };

  Result<std::optional<Plan>> plan();
  Status start();
  Status feed();
  [[nodiscard]] Status fill();
  void append(EventReader::Event const& event);
  Status listen();
  void decide_end(bool winding_up);
  bool end_is_due(Duration now);
  void guard(bool winding_up);
  void tell_lingering();
  void kill(std::string why);
  void end(Exit exit, std::string const& why);
  Status finish();
  void retry_later(std::string const& errors, bool moved);
  Status failed(RunEnd const& run_end);
  Status carry_out(Consequence const& consequence);
  Status keep_order(bool moved);
  Status take_back();
  [[nodiscard]] std::string lock_path() const;

  Io& io_;
  EventSource& source_;
  Ledger& ledger_;
  DeliveryOptions const& options_;
  std::uint64_t index_;
  Backlog backlog_;
  RunReceipts receipts_;
  Isolation isolation_;
  std::optional<Run> run_;

  std::uint64_t scan_;  // where the run looks for its next event
  std::uint64_t forgotten_ = 0;
  bool anew_ = false, started_once_ = false, worked_ = false;
  Status damage_;  // of the source, met while delivering
  std::optional<Duration> waiting_since_, winding_since_, failing_since_;
  Backoff temporary_;
  Duration not_before_{};
  std::optional<Exit> verdict_;
};

}  // namespace inflight

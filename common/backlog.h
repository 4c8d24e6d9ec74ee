// A source's unsettled events, as one copy of a pipeline has them: which come next, and how far it has come.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "common/event_source.h"
#include "common/isolation.h"
#include "common/key_order.h"
#include "common/ledger.h"
#include "common/status.h"

namespace inflight {

class Backlog final : public Events {
 public:
  // The readers read the same source, each at its own place: one goes on, one looks back.
  Backlog(Ledger& ledger, KeyOrder order, std::unique_ptr<EventReader> ahead, std::unique_ptr<EventReader> back)
      : ledger_(ledger),
        order_(std::move(order)),
        ahead_(std::move(ahead)),
        back_(std::move(back)),
        high_(ledger.reached()) {}

  // The next event from `from` on that is of the plan, ours, and unsettled, unless the plan wants it again.
  [[nodiscard]] Result<EventReader::Got> next(Plan const& plan, std::uint64_t from, EventReader::Event& event);
  void delivered(EventReader::Event const& event);
  // The event that next() found is needed no more, and was a large one.
  void release() { ahead_->release(); }
  // Events were taken back, or settled by others.
  void catch_up() { high_ = std::max(high_, ledger_.reached()); }
  // What follows an unsettled event of its key and is settled must follow it again: takes it back, durably.
  [[nodiscard]] Result<Ranges> keep_order();
  [[nodiscard]] EventReader& looking_back() { return *back_; }

  // Whether next() last found that there is nothing more for now, or never more.
  [[nodiscard]] bool at_end() const { return at_end_; }
  [[nodiscard]] bool source_ended() const { return source_ended_; }
  void look_again() { at_end_ = false; }
  // Whether something that was delivered is unsettled.
  [[nodiscard]] bool work_left() const { return ledger_.next_unsettled(0) < high_; }
  // When the oldest event that is not settled came to the source.
  [[nodiscard]] std::optional<Time> oldest();

  [[nodiscard]] Found find(Plan const& plan, std::uint64_t from) override;
  [[nodiscard]] std::uint64_t high() const override { return high_; }
  [[nodiscard]] Found newest_settled() override;

 private:
  Ledger& ledger_;
  KeyOrder order_;
  std::unique_ptr<EventReader> ahead_, back_;
  std::uint64_t high_;  // one beyond the highest position ever delivered
  bool at_end_ = false, source_ended_ = false;
  std::deque<std::pair<std::uint64_t, Time>> arrivals_;
};

}  // namespace inflight

#include "common/sink_receipts.h"

#include <fmt/format.h>

#include <cstdlib>

#include "common/messages.h"

namespace inflight {

namespace {
bool is_numbered(std::string_view delivery) { return delivery.find('/') != std::string_view::npos; }
}  // namespace

void SinkReceipts::arrived(std::string_view delivery) {
  if (!receipts_.active() || delivery.empty()) return;
  std::lock_guard const lock(mutex_);
  if (delivery == newest_) return;
  newest_ = delivery;
  if (warned_ || delivery.find_first_of("/,-") != std::string_view::npos) return;
  std::uint64_t const position = std::strtoull(newest_.c_str(), nullptr, 10);
  if (!told_.contains(position)) return;
  warned_ = true;
  say_warning(fmt::format("position {} comes back: a stage splits and reorders; use --ack exit", position));
}

void SinkReceipts::begin(std::span<SinkRecord> batch) {
  events_.clear();
  if (!receipts_.active() || batch.empty()) return;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (i == 0 || is_numbered(batch[i].delivery) || batch[i].delivery != batch[i - 1].delivery) events_.emplace_back();
    batch[i].group = static_cast<std::uint32_t>(events_.size() - 1);
    ++events_.back().outstanding;
  }
  if (!waiting_.empty() && waiting_ != batch[0].delivery) add_stored(waiting_);
  waiting_.clear();
}

void SinkReceipts::note(SinkRecord const& record, As as) {
  if (!receipts_.active()) return;
  if (as == As::held || as == As::dropped) {
    positions_.clear();
    (void)parse_positions(record.delivery, positions_);
    (as == As::held ? held_ : dropped_).add(positions_);
  }
  Event& event = events_[record.group];
  event.all_stored = event.all_stored && as == As::stored;
  if (--event.outstanding > 0 || !event.all_stored) return;
  if (record.group + 1 == events_.size() && !is_numbered(record.delivery)) {
    waiting_ = record.delivery;
  } else {
    add_stored(record.delivery);
  }
}

void SinkReceipts::add_stored(std::string_view delivery) {
  positions_.clear();
  (void)parse_positions(delivery, positions_);
  stored_.add(positions_);
  if (positions_.size() != 1 || !positions_[0].pieces.empty()) return;
  std::lock_guard const lock(mutex_);
  if (!warned_) told_.add(positions_[0].first, positions_[0].last);
}

Status SinkReceipts::send() {
  if (!receipts_.active()) return {};
  Status status = receipts_.held(held_);
  if (status.ok()) status = receipts_.dropped(dropped_);
  if (status.ok()) status = receipts_.stored(stored_);
  held_.clear(), dropped_.clear(), stored_.clear();
  return status;
}

Status SinkReceipts::hold(std::span<SinkRecord const> records) {
  PositionList held;
  for (SinkRecord const& record : records) {
    positions_.clear();
    if (parse_positions(record.delivery, positions_)) held.add(positions_);
  }
  return receipts_.held(held);
}

Status SinkReceipts::finish(bool whole) {
  if (Status status = send(); !status.ok()) return status;
  if (waiting_.empty() || !whole) return {};
  add_stored(waiting_);
  waiting_.clear();
  Status status = receipts_.last(stored_);
  stored_.clear();
  return status;
}

}  // namespace inflight

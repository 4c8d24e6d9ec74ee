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
  if (!receipts_.active()) return;
  for (SinkRecord& record : batch) {
    bool const another = events_.empty() || is_numbered(record.delivery) || record.delivery != last_;
    if (another && !waiting_.empty()) add_stored(waiting_);
    waiting_.clear();
    if (another) {
      events_.emplace_back();
      last_ = record.delivery;
    }
    record.group = first_ + static_cast<std::uint32_t>(events_.size() - 1);
    ++events_.back().outstanding;
  }
  forget();
}

// The newest stays: another record of it may follow.
void SinkReceipts::forget() {
  while (events_.size() > 1 && events_.front().outstanding == 0) events_.pop_front(), ++first_;
}

void SinkReceipts::note(SinkRecord const& record, As as) {
  if (!receipts_.active()) return;
  if (as == As::held || as == As::dropped) {
    positions_.clear();
    (void)parse_positions(record.delivery, positions_);
    (as == As::held ? held_ : dropped_).add(positions_);
  }
  Event& event = events_[record.group - first_];
  event.all_stored = event.all_stored && as == As::stored;
  if (--event.outstanding > 0) return;
  if (event.all_stored && &event == &events_.back() && !is_numbered(record.delivery)) {
    waiting_ = record.delivery;
  } else if (event.all_stored) {
    add_stored(record.delivery);
  }
  forget();
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

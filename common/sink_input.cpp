#include "common/sink_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "common/filter_loop.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/stop.h"

namespace inflight {

namespace {
constexpr std::size_t kBatchMemory = 12 << 20;
constexpr std::size_t kSmallBatches = 16, kSmallMemory = 1 << 20, kSmallRecords = 256;
constexpr Duration kFriendly = std::chrono::milliseconds(5);  // what a batch waits though nothing else is under way
}  // namespace

char* Arena::copy(std::string_view text, std::size_t padding) {
  std::size_t const need = text.size() + padding;
  while (block_ < blocks_.size() && blocks_[block_].size() - used_ < need) full_ += used_, ++block_, used_ = 0;
  if (block_ == blocks_.size()) blocks_.emplace_back(std::max(kBlock, need)), used_ = 0;
  char* const to = blocks_[block_].data() + used_;
  std::copy(text.begin(), text.end(), to);
  used_ += need;
  return to;
}

std::string_view Arena::take(std::string& text) {
  if (text.empty()) return {};
  if (text.size() <= kBlock) return {copy(text, 0), text.size()};
  full_ += text.size();
  return taken_.emplace_back(std::exchange(text, {}));
}

void Arena::clear() {
  taken_.clear();
  std::erase_if(blocks_, [](std::vector<char> const& block) { return block.size() > kBlock; });
  block_ = used_ = full_ = 0;
}

void SinkBatch::clear() {
  arena.clear();
  count = bytes = memory = open = 0;
  rejected.clear();
}

SinkInput::SinkInput(Io& io, RecordTaker& taker, SinkOptions const& options, bool texts,
                     std::function<void(std::string_view)> arrived)
    : io_(io),
      taker_(taker),
      options_(options),
      texts_(texts),
      arrived_(std::move(arrived)),
      reader_(io.in, "standard input", options.max_record + 4096),
      batch_records_(taker.one_by_one() ? std::min(options.batch_records, kSmallRecords) : options.batch_records),
      batch_memory_(taker.one_by_one() ? kSmallMemory : kBatchMemory),
      batches_(taker.one_by_one() ? kSmallBatches : 2) {
  expect_bytes_of(io.in);
  for (SinkBatch& batch : batches_) {
    // Grown once: a vector that doubles would take twice the memory that is counted.
    batch.records.reserve(std::min<std::size_t>(batch_records_, batch_memory_ / sizeof(SinkRecord) + 1));
    spare_.push_back(&batch);
  }
}

Status SinkInput::read() {
  Status status = read_batches();
  std::lock_guard const lock(mutex_);
  ended_ = true;
  changed_.notify_all();
  return status;
}

Status SinkInput::read_batches() {
  SinkBatch* batch = nullptr;
  Duration oldest{};
  auto hand_over = [&] {
    if (batch == nullptr || batch->empty()) return;
    std::lock_guard const lock(mutex_);
    queue_.push_back(batch);
    batch = nullptr;
    changed_.notify_all();
  };
  Line line;
  for (;;) {
    auto got = reader_.next(line, patience(batch, oldest));
    if (!got || *got == Reader::Wait::end || *got == Reader::Wait::stopped) {
      hand_over();
      return got ? Status{} : got.status();
    }
    if (*got == Reader::Wait::timeout) {
      hand_over();
      std::lock_guard const lock(mutex_);
      if (stopped_) return {};
      continue;
    }
    if (!line.terminated && io_.receipts.active()) {
      hand_over();
      std::lock_guard const lock(mutex_);
      half_line_ = true;
      return Status::defect(
          fmt::format("line {} ends in the middle: the stage before {} was killed", line.number, tool_name()));
    }
    bool const alone = line.text.size() > kLongRecord;
    if (alone) {
      hand_over();
      if (!wait_until_spare(batch == nullptr)) return {};
    }
    if (batch == nullptr && (batch = take_spare()) == nullptr) return {};
    if (batch->empty()) oldest = io_.clock.steady();
    if (Status status = add(*batch, line, taker_.keeps()); !status.ok()) {
      hand_over();
      return status;
    }
    bool const full = batch->count >= batch_records_ || batch->bytes >= options_.batch_bytes ||
                      batch->memory + batch->arena.used() >= batch_memory_;
    if (full || alone) hand_over();
    if (alone) {
      reader_.release();
      if (!wait_until_spare(batch == nullptr)) return {};
    }
  }
}

// Until the deliverer has given back what was handed over; false after stop().
bool SinkInput::wait_until_spare(bool all) {
  std::size_t const spare = batches_.size() - (all ? 0 : 1);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return spare_.size() >= spare || stopped_; });
  return !stopped_;
}

// How long to wait for more input.
Duration SinkInput::patience(SinkBatch const* batch, Duration oldest) {
  if (batch == nullptr || batch->empty()) return options_.linger;
  Duration const age = io_.clock.steady() - oldest;
  Duration wait = options_.linger - age;
  // What waits is handed over as soon as the deliverer has nothing else to do.
  if (!reader_.ready()) {
    std::lock_guard const lock(mutex_);
    if (idle_ && queue_.empty()) wait = std::min(wait, age >= kFriendly ? Duration::zero() : kFriendly);
  }
  return std::max(Duration::zero(), wait);
}

Status SinkInput::add(SinkBatch& batch, Line const& line, bool keep) {
  ++counters().records;
  counters().bytes += line.size;
  // Lines are parsed where they stay: in the batch, or with the reader where the sink keeps something else of them.
  std::string rewritten;
  auto stay = [&](std::string_view text) {
    return keep && !text.empty() ? std::string_view{batch.arena.copy(text, 0), text.size()} : text;
  };
  char* begin = keep ? line.begin : batch.arena.copy(line.text, kRecordPadding);
  std::size_t size = line.text.size();
  if (batch.count == batch.records.size()) batch.records.emplace_back();
  SinkRecord& record = batch.records[batch.count];
  record.line = line.number;
  record.kept = record.text = record.delivery = {};
  bool const known = io_.receipts.active() && take_delivery(io_.receipts, begin, size, record.delivery);
  record.delivery = stay(record.delivery);
  auto reject = [&](std::string reason) {
    arrived_(record.delivery);
    batch.memory += sizeof(SinkBatch::Rejected) + reason.size();
    batch.rejected.push_back({line.number, record.delivery, stay({begin, size}), std::move(reason)});
    return Status{};
  };
  auto reject_long = [&](std::uint64_t bytes) {
    return reject(fmt::format("a record of {} bytes is over --max-record {}", bytes, options_.max_record));
  };
  if (line.too_long) return reject_long(line.size);
  Record& parsed = keep ? parsed_ : record.record;
  Status status = parser_.parse({begin, size}, parsed);
  if (status.ok() && io_.receipts.active() && !known) {
    Value const value = parsed.attribute("delivery");
    std::vector<Position> positions;
    if (!io_.receipts.positions_of(value.raw, positions)) {
      return Status::usage(fmt::format("line {}: a stage before {} drops .delivery (jq: keep the event, change .data)",
                                       line.number, tool_name()));
    }
    std::size_t const token = io_.receipts.token().size() + 2;
    record.delivery = stay(value.raw.substr(token, value.raw.size() - token - 1));
    rewritten = parsed.without("delivery");
    size = rewritten.size();
    rewritten.resize(size + kRecordPadding);
    begin = keep ? rewritten.data() : batch.arena.copy({rewritten.data(), size}, kRecordPadding);
    status = parser_.parse({begin, size}, parsed);
  }
  if (size > options_.max_record) return reject_long(size);
  if (!status.ok()) return reject(status.what());
  if (options_.on_delete != "apply" && parsed.is_deletion())
    return reject(options_.on_delete == "reject" ? "a deletion (--on-delete reject)" : "");
  std::size_t weight = size;
  if (keep) {
    kept_.clear();
    status = taker_.keep(parsed, kept_);
    if (status.code() == Code::rejected) return reject(status.what());
    if (!status.ok()) return status;
    weight = kept_.size();
    record.kept = batch.arena.take(kept_);
  }
  if (!keep || texts_) record.text = stay({begin, size});
  arrived_(record.delivery);
  batch.bytes += weight;
  batch.memory += sizeof(SinkRecord) + (keep ? 0 : parsed.fields().size() * sizeof(Record::Field));
  ++batch.count;
  return {};
}

SinkBatch* SinkInput::take_spare() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !spare_.empty() || stopped_; });
  if (stopped_) return nullptr;
  SinkBatch* const batch = spare_.back();
  spare_.pop_back();
  return batch;
}

SinkInput::Next SinkInput::next(SinkBatch*& batch, Duration wait) {
  std::unique_lock lock(mutex_);
  idle_ = true;
  changed_.wait_for(lock, wait, [&] { return !queue_.empty() || ended_; });
  if (queue_.empty()) return ended_ ? Next::end : Next::none;
  batch = queue_.front();
  queue_.pop_front();
  idle_ = false;
  return Next::batch;
}

void SinkInput::done(SinkBatch* batch) {
  batch->clear();  // now, not when it is taken again: a long record's memory goes back at once
  std::lock_guard const lock(mutex_);
  spare_.push_back(batch);
  changed_.notify_all();
}

void SinkInput::stop() {
  std::lock_guard const lock(mutex_);
  stopped_ = true;
  request_stop(SIGTERM);  // wakes the reading thread
  changed_.notify_all();
}

bool SinkInput::whole() {
  std::lock_guard const lock(mutex_);
  return !half_line_;
}

Result<SinkBatch*> SinkInput::single(std::function<Status()> const& idle) {
  reader_.on_idle(idle);
  Line line;
  auto got = reader_.next(line);
  if (!got) return got.status();
  if (*got != Reader::Wait::line) return static_cast<SinkBatch*>(nullptr);
  SinkBatch& batch = batches_[0];
  batch.clear();
  if (Status status = add(batch, line, false); !status.ok()) return status;
  return &batch;
}

}  // namespace inflight

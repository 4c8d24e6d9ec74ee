#include "common/sql_sink.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <thread>
#include <utility>

#include "common/messages.h"
#include "common/xxh.h"

namespace inflight {

namespace {

constexpr std::size_t kSmallest = 32;  // a batch in which a row is at fault goes on in no smaller ones
constexpr std::size_t kWorth = 64;     // fewer records are one transaction
constexpr Duration kClosed = std::chrono::seconds(30);

// Which of the lanes' answers is the batch's: a defect, what the operator must mend, a bad row, what is waited for.
int weight(Status const& status) {
  switch (status.code()) {
    case Code::ok:
      return 0;
    case Code::temporary:
      return 1;
    case Code::rejected:
      return 2;
    case Code::usage:
      return 3;
    default:
      return 4;
  }
}

// Otherwise its transaction may still be under way in the server.
bool is_over(Status const& delivered) { return delivered.ok() || delivered.code() == Code::rejected; }

}  // namespace

// ---- one connection

Status SqlLane::open() {
  if (opened_ && writer.connected()) return {};
  Status connected = writer.connect();
  opened_ = connected.ok();
  return connected;
}

Status SqlLane::deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) {
  faults_.assign(order_.size(), "");
  std::size_t step = order_.size();
  bool sorted = false;
  for (std::size_t from = 0; from < order_.size();) {
    std::size_t const to = std::min(order_.size(), from + std::min(step, order_.size()));
    if (Status begun = writer.begin(); !begun.ok()) return begun;
    if (!std::exchange(sorted, true)) sort(batch);
    std::optional<std::size_t> blamed;
    Status const stored = store(batch, from, to, blamed);
    if (blamed) {
      faults_[*blamed] = stored.what();
      step = std::max(kSmallest, *blamed - from + 1);
      continue;
    }
    if (!stored.ok()) return stored;
    for (std::size_t n = from; n < to; ++n)
      faults_[n].empty() ? outcomes.stored(order_[n]) : outcomes.rejected(order_[n], std::move(faults_[n]));
    from = to;
    step *= 2;
  }
  return {};
}

// Those from `from` to `to`, in order_, that are not known to be at fault.
Status SqlLane::store(std::span<SinkRecord const> batch, std::size_t from, std::size_t to,
                      std::optional<std::size_t>& blamed) {
  Status stored;
  written_.clear();
  for (std::size_t n = from; n < to && stored.ok(); ++n) {
    if (!faults_[n].empty()) continue;
    SinkRecord const& record = batch[order_[n]];
    written_.push_back(n);
    stored = writer.packs() ? writer.write(record.kept) : writer.write(record.record);
    if (stored.code() != Code::rejected) continue;
    faults_[n] = stored.what();
    stored = {};
  }
  if (stored.ok()) {
    stored = writer.commit();
    if (auto const call = writer.blamed(); call && stored.code() == Code::rejected) blamed = written_[*call];
  }
  if (!stored.ok()) writer.rollback();
  return stored;
}

void SqlLane::sort(std::span<SinkRecord const> batch) {
  if (!writer.packs()) return;
  keys_.clear();
  ends_.clear();
  for (std::size_t const i : order_) {
    if (!writer.sort_key(batch[i].kept, keys_)) return;
    ends_.push_back(keys_.size());
  }
  auto key = [&](std::size_t n) {
    std::size_t const begin = n == 0 ? 0 : ends_[n - 1];
    return std::string_view(keys_).substr(begin, ends_[n] - begin);
  };
  std::vector<std::size_t> places(order_.size());
  std::iota(places.begin(), places.end(), std::size_t{0});
  std::stable_sort(places.begin(), places.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  for (std::size_t& place : places) place = order_[place];
  order_ = std::move(places);
}

// ---- several

Result<std::unique_ptr<SqlSink>> SqlSink::make(SqlOptions const& options, std::size_t max_in_flight, Clock& clock) {
  if (max_in_flight == 0 || max_in_flight > kMostLanes)
    return Status::usage(fmt::format("--max-in-flight: 1 to {}", kMostLanes));
  std::unique_ptr<SqlSink> sink(new SqlSink(clock));
  for (std::size_t n = 0; n < max_in_flight; ++n) {
    auto writer = SqlWriter::make(options);
    if (!writer) return writer.status();
    sink->order_.push_back(sink->lanes_.emplace_back(std::make_unique<SqlLane>(std::move(*writer))).get());
  }
  if (Status several = sink->lanes_[0]->writer.shareable(); max_in_flight > 1 && !several.ok())
    return Status::usage(fmt::format("--max-in-flight: {}", several.what()));
  return sink;
}

Status SqlSink::deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) {
  if (Status opened = open(batch.size() < kWorth ? 1 : lanes_.size()); !opened.ok()) return opened;
  SqlLane& first = *open_[0];
  if (open_.size() == 1 || !share_out(batch)) {
    open_ = {&first};
    first.clear();
    for (std::size_t i = 0; i < batch.size(); ++i) first.add(i);
  } else if (!fenced_) {
    if (Status fence = first.writer.fence(); !fence.ok()) return fence;
    fenced_ = true;
  }
  std::vector<std::thread> threads;
  for (SqlLane* const lane : open_) {
    lane->writer.share(open_.size() > 1);
    if (lane != &first) threads.emplace_back([&, lane] { lane->status = lane->deliver(batch, outcomes); });
  }
  first.status = first.deliver(batch, outcomes);
  for (std::thread& thread : threads) thread.join();
  Status worst;
  for (SqlLane* const lane : open_) {
    if (weight(lane->status) > weight(worst)) worst = lane->status;
    fenced_ = fenced_ && is_over(lane->status);
  }
  return worst;
}

// As many lanes as there are connections for, one of them at least.
Status SqlSink::open(std::size_t wanted) {
  open_.clear();
  for (std::size_t n = 0; n < order_.size() && open_.size() < wanted; ++n) {
    SqlLane& lane = *order_[n];
    if (!open_.empty() && lane.closed_until > clock_.steady()) continue;
    if (Status opened = lane.open(); opened.ok()) {
      open_.push_back(&lane);
    } else if (open_.empty()) {
      std::rotate(order_.begin(), order_.begin() + 1, order_.end());  // another may have one
      return opened;
    } else {
      lane.closed_until = clock_.steady() + kClosed;
      say_warning_once(fmt::format("goes on with fewer connections: {}", opened.what()));
    }
  }
  return {};
}

// False: the rows must stay in one transaction.
bool SqlSink::share_out(std::span<SinkRecord const> batch) {
  for (SqlLane* const lane : open_) lane->clear();
  std::string key;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    key.clear();
    if (!open_[0]->writer.part_key(batch[i].kept, key)) return false;
    open_[hash64(key) % open_.size()]->add(i);
  }
  return true;
}

}  // namespace inflight

#include "common/sql_sink.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <numeric>
#include <thread>
#include <utility>

namespace inflight {

namespace {

constexpr std::size_t kSmallest = 32;  // a batch in which a row is at fault goes on in no smaller ones
// Of all keys, however many lanes there are: a part is what transactions wait for each other by.
constexpr unsigned kParts = 32;
constexpr std::size_t kWorth = 64;  // fewer records are one transaction
constexpr Duration kClosed = std::chrono::seconds(30);

// What says most of a batch: a defect, what the operator must mend, a row that is bad, what is waited for.
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

}  // namespace

// ---- one connection

Status SqlLane::deliver(std::span<SinkRecord const> batch, std::vector<std::size_t> mine_of_it, Outcomes& outcomes) {
  order_ = std::move(mine_of_it);
  sorted_ = false;
  std::vector<std::string> faults(batch.size());
  std::size_t step = order_.size();
  for (std::size_t from = 0; from < order_.size();) {
    std::size_t const to = std::min(order_.size(), from + std::min(step, order_.size()));
    std::optional<std::size_t> blamed;
    Status const stored = store(batch, from, to, faults, blamed);
    if (blamed) {
      faults[order_[*blamed]] = stored.what();
      step = std::max(kSmallest, *blamed - from + 1);
      continue;
    }
    if (!stored.ok()) return stored;
    for (std::size_t n = from; n < to; ++n) {
      std::size_t const i = order_[n];
      faults[i].empty() ? outcomes.stored(i) : outcomes.rejected(i, std::move(faults[i]));
    }
    from = to;
    step *= 2;
  }
  return {};
}

// Those from `from` to `to`, in order_, that are not known to be at fault.
Status SqlLane::store(std::span<SinkRecord const> batch, std::size_t from, std::size_t to,
                      std::vector<std::string>& faults, std::optional<std::size_t>& blamed) {
  if (Status begun = writer_.begin(); !begun.ok()) return begun;
  if (!std::exchange(sorted_, true)) sort(batch);
  Status stored;
  written_.clear();
  for (std::size_t n = from; n < to && stored.ok(); ++n) {
    std::size_t const i = order_[n];
    if (!faults[i].empty()) continue;
    written_.push_back(n);
    stored = writer_.packs() ? writer_.write(batch[i].kept) : writer_.write(batch[i].record);
    if (stored.code() != Code::rejected) continue;
    faults[i] = stored.what();
    stored = {};
  }
  if (stored.ok()) {
    stored = writer_.commit();
    if (auto const call = writer_.blamed(); call && stored.code() == Code::rejected) blamed = written_[*call];
  }
  if (!stored.ok()) writer_.rollback();
  return stored;
}

void SqlLane::sort(std::span<SinkRecord const> batch) {
  if (!writer_.packs()) return;
  keys_.clear();
  ends_.clear();
  for (std::size_t const i : order_) {
    if (!writer_.sort_key(batch[i].kept, keys_)) return;
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
  if (max_in_flight > 1 && options.url.starts_with("sqlite:"))
    return Status::usage("--max-in-flight: SQLite has one writer at a time");
  if (max_in_flight > 1 && options.columns.empty())
    return Status::usage("--max-in-flight: rows are told apart by their key beforehand: it needs --column");
  std::unique_ptr<SqlSink> sink(new SqlSink(clock));
  for (std::size_t n = 0; n < max_in_flight; ++n) {
    auto writer = SqlWriter::make(options);
    if (!writer) return writer.status();
    sink->lanes_.push_back(std::make_unique<SqlLane>(std::move(*writer)));
  }
  return sink;
}

Status SqlSink::deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) {
  SqlLane& first = *lanes_[0];
  auto const shared = share_out(batch);
  if (!shared) return shared.status();
  if (!*shared) {
    first.writer().confine({});
    std::vector<std::size_t> all(batch.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    return first.deliver(batch, std::move(all), outcomes);
  }
  auto run = [&](SqlLane& lane) {
    lane.writer().confine(lane.parts);
    lane.status = lane.deliver(batch, std::move(lane.mine), outcomes);
  };
  std::vector<std::thread> threads;
  for (SqlLane* const lane : open_) {
    if (lane != &first && !lane->mine.empty()) threads.emplace_back([&run, lane] { run(*lane); });
  }
  if (!first.mine.empty()) run(first);
  for (std::thread& thread : threads) thread.join();
  Status worst;
  for (SqlLane* const lane : open_) {
    if (weight(lane->status) > weight(worst)) worst = lane->status;
    if (lane != &first && lane->status.code() == Code::temporary && !lane->writer().connected())
      lane->closed_until = clock_.steady() + kClosed;
  }
  return worst;
}

Result<bool> SqlSink::share_out(std::span<SinkRecord const> batch) {
  if (lanes_.size() == 1 || batch.size() < kWorth) return false;
  open_.clear();
  for (auto const& lane : lanes_) {
    lane->mine.clear();
    lane->parts.clear();
    lane->status = {};
    if (lane == lanes_[0] || lane->closed_until <= clock_.steady()) open_.push_back(lane.get());
  }
  if (open_.size() == 1) return false;
  SqlWriter& writer = lanes_[0]->writer();
  if (Status begun = writer.begin(); !begun.ok()) return begun;
  std::string key;
  std::vector<bool> used(kParts, false);
  bool shared = true;
  for (std::size_t i = 0; i < batch.size() && shared; ++i) {
    key.clear();
    shared = writer.part_key(batch[i].kept, key);
    std::uint64_t const part = shared ? XXH3_64bits(key.data(), key.size()) % kParts : 0;
    open_[part % open_.size()]->mine.push_back(i);
    used[part] = true;
  }
  writer.rollback();
  for (unsigned part = 0; part < kParts; ++part) {
    if (used[part]) open_[part % open_.size()]->parts.push_back(part);
  }
  return shared;
}

}  // namespace inflight

#include "common/pacer.h"

#include <fmt/format.h>

#include <algorithm>

namespace inflight {

namespace {

double count_of(Duration duration) { return static_cast<double>(duration.count()); }

}  // namespace

Status Pacer::read(std::string_view text, Limits& limits) {
  Limits changed = limits;
  constexpr std::string_view spaces = " \t\r\n";
  for (;;) {
    std::size_t const begin = text.find_first_not_of(spaces);
    if (begin == std::string_view::npos) break;
    text.remove_prefix(begin);
    std::string_view const word = text.substr(0, text.find_first_of(spaces));
    text.remove_prefix(word.size());
    if (word == "pause") {
      changed.paused = true;
    } else if (word == "none") {
      changed.min_interval = {};
      changed.records = changed.bytes = 0;
    } else if (auto rate = parse_rate(word)) {
      (rate->bytes ? changed.bytes : changed.records) = rate->per_second;
    } else if (auto interval = parse_duration(word)) {
      changed.min_interval = *interval;
    } else {
      return Status::usage(
          fmt::format("'{}' is neither a rate (40/s, 5MiB/s), an interval (25ms), pause nor none", word));
    }
  }
  limits = changed;
  return {};
}

void Pacer::Bucket::set(double per_second, double at_once, Duration now) {
  double const before = each;
  each = per_second > 0 ? 1e9 / per_second : 0;
  burst = at_once > 0 ? (at_once - 1) * each : std::max(0.0, count_of(kBurst) - each);
  if (before == each) return;
  if (before > 0) last *= each / before;
  due = each == 0 ? 0 : std::min(due, count_of(now) + std::max(last, each));
}

void Pacer::Bucket::pass(Duration now, double count) {
  if (each == 0) return;
  last = count * each;
  due = std::max(due, count_of(now) - std::max(count_of(kCatchUp), burst)) + last;
}

Pacer::Pacer(Limits const& limits, Duration now) {
  records_.due = bytes_.due = count_of(now);  // the burst is earned first
  interval_due_ = now;
  set(limits, now);
}

void Pacer::set(Limits const& limits, Duration now) {
  if (limits.min_interval < limits_.min_interval) interval_due_ = std::min(interval_due_, now + limits.min_interval);
  limits_ = limits;
  records_.set(limits.records, limits.burst_records, now);
  bytes_.set(limits.bytes, limits.burst_bytes, now);
}

void Pacer::not_before(Duration due, Duration now) {
  Duration longest = limits_.min_interval;
  if (records_.each > 0) longest = std::max(longest, Duration{static_cast<std::int64_t>(records_.each)});
  if (bytes_.each > 0) longest = std::max(longest, Duration{static_cast<std::int64_t>(bytes_.each * (64 << 20))});
  due = std::min(due, now + longest);
  interval_due_ = std::max(interval_due_, due);
}

Duration Pacer::due() const {
  if (limits_.paused) return kNever;
  double const rates = std::max(records_.each > 0 ? records_.due : 0, bytes_.each > 0 ? bytes_.due : 0);
  return std::max(interval_due_, Duration{static_cast<std::int64_t>(rates)});
}

Duration Pacer::grain() const {
  bool const fast = limits_.min_interval == Duration::zero() && (limits_.records >= 10'000 || limits_.bytes >= 1e6);
  return fast ? std::chrono::microseconds(500) : Duration::zero();
}

void Pacer::idle(Duration now) {
  for (Bucket* bucket : {&records_, &bytes_}) {
    if (bucket->each > 0) bucket->due = std::max(bucket->due, count_of(now) - bucket->burst);
  }
}

void Pacer::passes(Duration now, std::size_t bytes) {
  records_.pass(now, 1);
  bytes_.pass(now, static_cast<double>(bytes));
}

void Pacer::more(std::size_t bytes) {
  bytes_.due += bytes_.each * static_cast<double>(bytes);
  bytes_.last += bytes_.each * static_cast<double>(bytes);
}

void Pacer::written(Duration now) {
  if (limits_.min_interval > Duration::zero()) interval_due_ = now + limits_.min_interval;
}

}  // namespace inflight

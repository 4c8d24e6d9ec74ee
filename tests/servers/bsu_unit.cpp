#include "tests/servers/bsu_unit.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "tests/servers/bsu_fleet.h"

namespace inflight::sim {

using std::chrono::milliseconds;

std::int64_t wall_ms() {
  return std::chrono::duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}
std::int64_t steady_ms() {
  return std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Fault parse_fault(std::string_view name) {
  auto const* found = std::find(std::begin(fault_names), std::end(fault_names), name);
  if (found == std::end(fault_names)) throw std::invalid_argument(fmt::format("'{}' is not a fault", name));
  return static_cast<Fault>(found - std::begin(fault_names));
}

void Unit::count_poll() {
  auto const poll = polls.fetch_add(1, std::memory_order_relaxed);
  recent[poll % recent_count].store(wall_ms(), std::memory_order_relaxed);
  std::int64_t const time = steady_ms();
  std::int64_t const before = last_poll.exchange(time, std::memory_order_relaxed);
  if (poll == 0) return;
  // Two threads meet here only if one unit is polled twice at once.
  std::int64_t const gap = time - before;
  if (gap > max_gap) max_gap = gap;
  if (poll == 1 || gap < min_gap) min_gap = gap;
}

void append_stats(std::string& out, std::vector<Unit> const& units) {
  std::array<std::uint64_t, outcome_count> outcomes{};
  std::array<std::size_t, std::size(fault_names)> faults{};
  std::uint64_t polls = 0;
  std::uint32_t least = UINT32_MAX, most = 0;
  std::int64_t max_gap = 0, max_since = 0;
  std::int64_t const time = steady_ms();
  for (auto const& unit : units) {
    for (std::size_t i = 0; i < outcome_count; ++i) outcomes[i] += unit.outcomes[i];
    polls += unit.polls;
    Fault const fault = unit.fault;
    ++faults[static_cast<std::size_t>(fault)];
    if (fault != Fault::none) continue;
    least = std::min(least, unit.polls.load());
    most = std::max(most, unit.polls.load());
    max_gap = std::max(max_gap, unit.max_gap.load());
    if (unit.polls > 0) max_since = std::max(max_since, time - unit.last_poll);
  }
  out += fmt::format("\"units\":{},\"polls\":{},\"outcomes\":{{", units.size(), polls);
  for (std::size_t i = 0; i < outcome_count; ++i)
    out += fmt::format("{}\"{}\":{}", i == 0 ? "" : ",", outcome_names[i], outcomes[i]);
  out += "},\"faults\":{";
  for (std::size_t i = 0; i < faults.size(); ++i)
    out += fmt::format("{}\"{}\":{}", i == 0 ? "" : ",", fault_names[i], faults[i]);
  out += fmt::format(
      "}},\"healthy\":{{\"units\":{},\"least_polls\":{},\"most_polls\":{},\"max_gap_ms\":{},\"max_since_last_ms\":{}}}",
      faults[0], faults[0] == 0 ? 0 : least, most, max_gap, max_since);
}

void append_stats(std::string& out, std::string_view id, std::string_view firmware, Unit const& unit) {
  std::uint32_t const polls = unit.polls;
  out += fmt::format(
      "{{\"id\":\"{}\",\"firmware\":\"{}\",\"fault\":\"{}\",\"polls\":{},\"min_gap_ms\":{},\"max_gap_ms\":{}", id,
      firmware, fault_names[static_cast<std::size_t>(unit.fault.load())], polls, unit.min_gap.load(),
      unit.max_gap.load());
  if (polls > 0) out += fmt::format(",\"since_last_ms\":{}", steady_ms() - unit.last_poll);
  out += ",\"last_polls\":[";
  auto const kept = std::min<std::uint32_t>(polls, Unit::recent_count);
  for (std::uint32_t i = polls - kept; i < polls; ++i) {
    out += i == polls - kept ? "\"" : ",\"";
    append_time(out, unit.recent[i % Unit::recent_count]);
    out += '"';
  }
  out += "],\"outcomes\":{";
  for (std::size_t i = 0; i < outcome_count; ++i)
    out += fmt::format("{}\"{}\":{}", i == 0 ? "" : ",", outcome_names[i], unit.outcomes[i].load());
  out += "}}\n";
}

}  // namespace inflight::sim

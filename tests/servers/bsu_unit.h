// The state of one unit of bsu-sim: which fault it plays, and what became of its polls.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace inflight::sim {

enum class Fault : std::uint8_t { none, slow, black_hole, error, malformed, reshape, cut };
inline constexpr std::string_view fault_names[] = {"none",      "slow",    "black-hole", "error",
                                                   "malformed", "reshape", "cut"};

// What became of a request for a reading or for history. `abandoned`: the client hung up while it was held.
enum class Outcome : std::uint8_t {
  ok,
  not_modified,
  slow,
  black_hole,
  error,
  malformed,
  reshape,
  cut,
  history,
  abandoned
};
inline constexpr std::string_view outcome_names[] = {"ok",        "not_modified", "slow", "black_hole", "error",
                                                     "malformed", "reshape",      "cut",  "history",    "abandoned"};
inline constexpr std::size_t outcome_count = std::size(outcome_names);

// Throws std::invalid_argument.
[[nodiscard]] Fault parse_fault(std::string_view name);

// What happened at one unit. Written by the daemon's threads and read by any, each figure on its own.
struct Unit {
  static constexpr std::size_t recent_count = 8;
  std::atomic<Fault> fault{Fault::none};
  std::atomic<std::int64_t> delay{0};     // of slow answers, ms
  std::atomic<unsigned> error_status{0};  // 0: 500 and 503 in turn
  std::atomic<std::int64_t> newest{0};    // time of the newest reading given out
  std::atomic<std::uint32_t> faulty{0};   // faulty answers so far: which kind is next
  std::atomic<std::uint32_t> polls{0};
  std::atomic<std::int64_t> last_poll{0};  // steady, ms
  std::atomic<std::int64_t> min_gap{0};    // between two polls, ms; 0: not two yet
  std::atomic<std::int64_t> max_gap{0};
  std::array<std::atomic<std::int64_t>, recent_count> recent{};  // wall clock, ms, a ring by polls
  std::array<std::atomic<std::uint32_t>, outcome_count> outcomes{};

  void count_poll();
  void count(Outcome outcome) { outcomes[static_cast<std::size_t>(outcome)].fetch_add(1, std::memory_order_relaxed); }
  void reset() {
    polls = 0;
    last_poll = min_gap = max_gap = 0;
    for (auto& r : recent) r = 0;
    for (auto& o : outcomes) o = 0;
  }
};

// As JSON: one line of a unit; the members of the whole fleet, without the braces.
void append_stats(std::string& out, std::string_view id, std::string_view firmware, Unit const& unit);
void append_stats(std::string& out, std::vector<Unit> const& units);

[[nodiscard]] std::int64_t wall_ms();    // since 1970
[[nodiscard]] std::int64_t steady_ms();  // never set back

}  // namespace inflight::sim

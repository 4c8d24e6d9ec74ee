#include "common/gaps.h"

#include <algorithm>

namespace inflight {

namespace {

__extension__ using Wide = __int128;  // twice the nanoseconds, since half of --every may be none

Wide twice(Time time) { return Wide{time.ns} * 2; }

Wide divided_up(Wide number, Wide by) { return number <= 0 ? number / by : (number + by - 1) / by; }

}  // namespace

std::optional<Gap> find_gap(GapRule const& rule, std::optional<Time> before, std::optional<Time> after) {
  if ((!before && !rule.from) || (!after && !rule.to)) return std::nullopt;
  Wide const every = rule.every.count(), tolerance = rule.tolerance.count();
  Wide const begin = before ? twice(*before) : twice(*rule.from) - every - 2;
  Wide const end = after ? twice(*after) : twice(*rule.to) + every;
  if (end - begin <= 2 * (every + tolerance)) return std::nullopt;
  Wide const missing = std::max(divided_up(end - begin - every, 2 * every) - 1, Wide{1});
  // Which of them lie in the window: the k-th one is at begin + k * (end - begin) / (missing + 1).
  Wide first = 1, behind = missing + 1;
  if (rule.from) first = std::max(first, divided_up((twice(*rule.from) - begin) * (missing + 1), end - begin));
  if (rule.to) behind = std::min(behind, divided_up((twice(*rule.to) - begin) * (missing + 1), end - begin));
  if (first >= behind) return std::nullopt;
  Gap gap;
  gap.from = rule.from ? std::max(before.value_or(*rule.from), *rule.from) : *before;
  gap.to = rule.to ? std::min(after.value_or(*rule.to), *rule.to) : *after;
  gap.missing = static_cast<std::uint64_t>(behind - first);
  return gap;
}

}  // namespace inflight

#include "tests/servers/sim_units.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <stdexcept>

namespace inflight::sim {

using std::chrono::milliseconds;

milliseconds parse_duration(std::string_view text) {
  double value = 0;
  auto const [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view const unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  double const scale = unit == "ms" ? 1 : unit == "s" ? 1e3 : unit == "m" ? 6e4 : unit == "h" ? 3.6e6 : 0;
  if (failed != std::errc() || !(value * scale >= 1 && value * scale < 1e12))
    throw std::invalid_argument(fmt::format("'{}' is not a duration like 250ms, 10s or 5m", text));
  return milliseconds(std::llround(value * scale));
}

double parse_share(std::string_view text) {
  double value = 0;
  auto const [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view const unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (unit == "%") value /= 100;
  if (failed != std::errc() || (!unit.empty() && unit != "%") || !(value >= 0 && value <= 1))
    throw std::invalid_argument(fmt::format("'{}' is not a share from 0 to 1, or from 0% to 100%", text));
  return value;
}

}  // namespace inflight::sim

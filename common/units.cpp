#include "common/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace inflight {

namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr std::array<Unit, 9> kTimes = {{{"ns", 1},
                                         {"us", 1e3},
                                         {"µs", 1e3},
                                         {"ms", 1e6},
                                         {"s", 1e9},
                                         {"m", 60e9},
                                         {"h", 3600e9},
                                         {"d", 86'400e9},
                                         {"w", 604'800e9}}};
constexpr std::array<Unit, 13> kSizes = {{{"", 1},
                                          {"B", 1},
                                          {"k", 1e3},
                                          {"kB", 1e3},
                                          {"MB", 1e6},
                                          {"GB", 1e9},
                                          {"TB", 1e12},
                                          {"KiB", 1024},
                                          {"MiB", 1048576},
                                          {"GiB", 1073741824},
                                          {"TiB", 1099511627776},
                                          {"M", 1e6},
                                          {"G", 1e9}}};

// Takes a number and the letters behind it off the front of `text`.
template <std::size_t N>
bool take(std::string_view& text, std::array<Unit, N> const& units, double& value) {
  double number = 0;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || number < 0 || !std::isfinite(number)) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  std::size_t letters = 0;
  while (letters < text.size() && (text[letters] < '0' || text[letters] > '9') && text[letters] != '/') ++letters;
  std::string_view const name = text.substr(0, letters);
  text.remove_prefix(letters);
  for (auto const& unit : units) {
    if (unit.name == name) {
      value = number * unit.factor;
      return true;
    }
  }
  return false;
}

}  // namespace

Result<Duration> parse_duration(std::string_view text) {
  std::string_view rest = text;
  double total = 0;
  bool good = text == "0" || !text.empty();
  if (text == "0") return Duration{0};
  while (good && !rest.empty()) {
    double part = 0;
    good = take(rest, kTimes, part);
    total += part;
  }
  if (!good || total > 9.2e18) return Status::usage(fmt::format("'{}' is not a duration: 25ms, 10s, 1h30m, 7d", text));
  return Duration{static_cast<std::int64_t>(std::llround(total))};
}

std::string format_duration(Duration duration) {
  std::int64_t ns = duration.count();
  if (ns < 0) return "-" + format_duration(-duration);
  if (ns < 1'000'000'000) {
    if (ns % 1'000'000 == 0) return fmt::format("{}{}", ns / 1'000'000, ns == 0 ? "s" : "ms");
    if (ns % 1000 == 0) return fmt::format("{}us", ns / 1000);
    return fmt::format("{}ns", ns);
  }
  std::string text;
  std::int64_t seconds = ns / 1'000'000'000;
  std::int64_t const ms = ns / 1'000'000 % 1000;
  for (auto [name, size] : {std::pair{'d', std::int64_t{86'400}}, {'h', std::int64_t{3600}}, {'m', std::int64_t{60}}}) {
    if (seconds >= size) text += fmt::format("{}{}", seconds / size, name);
    seconds %= size;
  }
  if (seconds > 0 || ms > 0) text += ms > 0 ? fmt::format("{}.{:03}s", seconds, ms) : fmt::format("{}s", seconds);
  return text;
}

Result<std::uint64_t> parse_size(std::string_view text) {
  std::string_view rest = text;
  double value = 0;
  if (!take(rest, kSizes, value) || !rest.empty() || value > 1.8e19) {
    return Status::usage(fmt::format("'{}' is not a size: 512, 64KiB, 10MB, 1GiB", text));
  }
  return static_cast<std::uint64_t>(value);
}

std::string format_size(double bytes) {
  constexpr std::array<char const*, 5> names = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t i = 0;
  while (bytes >= 1024 && i + 1 < names.size()) bytes /= 1024, ++i;
  return i == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, names[i]);
}

Result<Rate> parse_rate(std::string_view text) {
  auto const slash = text.find('/');
  double amount = 0;
  double per = 0;
  std::string_view number = text.substr(0, slash);
  bool const bytes = number.find('B') != std::string_view::npos;
  bool good = slash != std::string_view::npos && take(number, kSizes, amount) && number.empty();
  if (good) {
    std::string unit(text.substr(slash + 1));
    if (unit.empty() || unit[0] < '0' || unit[0] > '9') unit.insert(0, "1");
    std::string_view rest = unit;
    good = take(rest, kTimes, per) && rest.empty() && per > 0;
  }
  if (!good || amount <= 0) return Status::usage(fmt::format("'{}' is not a rate: 40/s, 100/m, 1/h, 5MiB/s", text));
  return Rate{amount / (per / 1e9), bytes};
}

}  // namespace inflight

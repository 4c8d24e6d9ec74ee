#include "common/time.h"

#include <fmt/format.h>

namespace inflight {

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

class Digits {
 public:
  explicit Digits(std::string_view text) : text_(text) {}

  // Exactly `count` digits, within low..high; otherwise the whole parse has failed.
  unsigned number(unsigned count, unsigned low, unsigned high) {
    unsigned value = 0;
    for (unsigned i = 0; i < count; ++i) {
      if (text_.empty() || text_[0] < '0' || text_[0] > '9') return fail();
      value = value * 10 + static_cast<unsigned>(text_[0] - '0');
      text_.remove_prefix(1);
    }
    return value < low || value > high ? fail() : value;
  }
  bool accept(char lower, char upper) {
    if (text_.empty() || (text_[0] != lower && text_[0] != upper)) return false;
    text_.remove_prefix(1);
    return true;
  }
  void expect(char c) {
    if (!accept(c, c)) fail();
  }
  // The digits of a fraction as nanoseconds.
  std::uint32_t fraction() {
    std::uint32_t value = 0;
    unsigned count = 0;
    for (; !text_.empty() && text_[0] >= '0' && text_[0] <= '9'; text_.remove_prefix(1), ++count) {
      if (count == 9) return fail();
      value = value * 10 + static_cast<std::uint32_t>(text_[0] - '0');
    }
    if (count == 0) return fail();
    for (; count < 9; ++count) value *= 10;
    return value;
  }
  unsigned fail() {
    failed_ = true;
    return 0;
  }
  [[nodiscard]] bool failed() const { return failed_; }
  [[nodiscard]] bool empty() const { return text_.empty(); }

 private:
  std::string_view text_;
  bool failed_ = false;
};

unsigned days_in_month(std::int64_t year, unsigned month) {
  constexpr unsigned days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  bool const leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return month == 2 && leap ? 29 : days[month - 1];
}

std::optional<Time> parse_time(std::string_view text, bool zone_needed) {
  Digits in(text);
  unsigned const year = in.number(4, 0, 9999);
  in.expect('-');
  unsigned const month = in.number(2, 1, 12);
  in.expect('-');
  unsigned const day = in.number(2, 1, 31);
  if (in.failed() || day > days_in_month(year, month)) return std::nullopt;
  std::int64_t seconds = days_from_civil(year, month, day) * 86'400;
  std::uint32_t nanoseconds = 0;
  if (!(in.empty() && !zone_needed)) {
    if (!in.accept('t', 'T') && !in.accept(' ', ' ')) return std::nullopt;
    unsigned const hour = in.number(2, 0, 23);
    in.expect(':');
    unsigned const minute = in.number(2, 0, 59);
    in.expect(':');
    unsigned const second = in.number(2, 0, 60);  // a leap second is the next minute's first
    if (in.accept('.', '.')) nanoseconds = in.fraction();
    seconds += hour * 3600 + minute * 60 + second;
    if (in.accept('+', '+') || in.accept('-', '-')) {
      bool const east = text.find('+') != std::string_view::npos;
      unsigned const zone_hour = in.number(2, 0, 23);
      in.expect(':');
      unsigned const zone_minute = in.number(2, 0, 59);
      std::int64_t const offset = zone_hour * 3600 + zone_minute * 60;
      seconds += east ? -offset : offset;
    } else if (!in.accept('z', 'Z') && zone_needed) {
      return std::nullopt;
    }
  }
  if (in.failed() || !in.empty()) return std::nullopt;
  // Below zero the fraction is taken from the next second, so that the earliest times do not overflow on the way.
  std::int64_t rest = nanoseconds;
  if (seconds < 0) ++seconds, rest -= kSecond;
  std::int64_t ns = 0;
  if (__builtin_mul_overflow(seconds, kSecond, &ns) || __builtin_add_overflow(ns, rest, &ns)) return std::nullopt;
  return Time{ns};
}

Time midnight(Time now) {
  std::int64_t const day = 86'400 * kSecond;
  std::int64_t const into = ((now.ns % day) + day) % day;
  return {now.ns - into};
}

class SystemClock final : public Clock {
 public:
  Time now() override {
    auto const since = std::chrono::system_clock::now().time_since_epoch();
    return {std::chrono::duration_cast<Duration>(since).count()};
  }
  Duration steady() override { return std::chrono::steady_clock::now().time_since_epoch(); }
};

}  // namespace

std::int64_t days_from_civil(std::int64_t year, unsigned month, unsigned day) {
  year -= month <= 2 ? 1 : 0;
  std::int64_t const era = (year >= 0 ? year : year - 399) / 400;
  std::int64_t const year_of_era = year - era * 400;
  std::int64_t const day_of_year = (153 * (static_cast<std::int64_t>(month) + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146'097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719'468;
}

Civil civil_from_time(Time time) {
  std::int64_t seconds = time.ns / kSecond;
  std::int64_t nanoseconds = time.ns % kSecond;
  if (nanoseconds < 0) nanoseconds += kSecond, --seconds;
  std::int64_t days = seconds / 86'400;
  std::int64_t second = seconds % 86'400;
  if (second < 0) second += 86'400, --days;
  days += 719'468;
  std::int64_t const era = (days >= 0 ? days : days - 146'096) / 146'097;
  std::int64_t const day_of_era = days - era * 146'097;
  std::int64_t const year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36'524 - day_of_era / 146'096) / 365;
  std::int64_t const day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  std::int64_t const shifted = (5 * day_of_year + 2) / 153;
  auto const day = static_cast<unsigned>(day_of_year - (153 * shifted + 2) / 5 + 1);
  auto const month = static_cast<unsigned>(shifted < 10 ? shifted + 3 : shifted - 9);
  return {year_of_era + era * 400 + (month <= 2 ? 1 : 0),
          month,
          day,
          static_cast<unsigned>(second / 3600),
          static_cast<unsigned>(second / 60 % 60),
          static_cast<unsigned>(second % 60),
          static_cast<std::uint32_t>(nanoseconds)};
}

std::optional<Time> parse_rfc3339(std::string_view text) {
  if (text.size() < 20) return std::nullopt;
  return parse_time(text, true);
}

std::string format_rfc3339(Time time) {
  Civil const c = civil_from_time(time);
  std::string text =
      fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", c.year, c.month, c.day, c.hour, c.minute, c.second);
  if (c.nanosecond != 0) {
    text += fmt::format(".{:09}", c.nanosecond);
    text.erase(text.find_last_not_of('0') + 1);
  }
  return text += 'Z';
}

Result<Time> parse_when(std::string_view text, Time now) {
  if (text == "now") return now;
  if (text == "today") return midnight(now);
  if (text == "yesterday") return midnight(now) - std::chrono::hours(24);
  if (!text.empty() && text[0] == '-') {
    if (auto ago = parse_duration(text.substr(1))) return now - *ago;
  } else if (!text.empty() && text[0] == '@') {
    if (auto since = parse_duration(std::string(text.substr(1)) + "s")) return Time{} + *since;
  } else if (auto time = parse_time(text, false)) {
    return *time;
  }
  return Status::usage(
      fmt::format("'{}' is not a time: 2018-07-01T13:00:00Z, 2018-07-01, today, yesterday, -2h", text));
}

Clock& system_clock() {
  static SystemClock clock;
  return clock;
}

}  // namespace inflight

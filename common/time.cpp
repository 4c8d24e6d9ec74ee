#include "common/time.h"

#include <fmt/format.h>

#include <algorithm>

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

std::optional<Time> to_time(std::int64_t seconds, std::int64_t rest) {
  // Below zero the fraction is taken from the next second, so that the earliest times do not overflow on the way.
  if (seconds < 0) ++seconds, rest -= kSecond;
  std::int64_t ns = 0;
  if (__builtin_mul_overflow(seconds, kSecond, &ns) || __builtin_add_overflow(ns, rest, &ns)) return std::nullopt;
  return Time{ns};
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
  return to_time(seconds, nanoseconds);
}

// A decimal count of units of `unit` nanoseconds, exact.
std::optional<Time> parse_count(std::string_view text, std::int64_t unit) {
  bool const negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  std::size_t const dot = std::min(text.find('.'), text.size());
  if (dot == 0 || dot + 1 == text.size()) return std::nullopt;
  std::int64_t ns = 0;
  std::int64_t scale = unit;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i == dot) continue;
    if (text[i] < '0' || text[i] > '9') return std::nullopt;
    std::int64_t const digit = negative ? -(text[i] - '0') : text[i] - '0';
    if (i < dot) {
      std::int64_t const part = digit;
      if (__builtin_mul_overflow(ns, 10, &ns) || __builtin_add_overflow(ns, part, &ns)) return std::nullopt;
    } else {
      if (scale % 10 != 0 && digit != 0) return std::nullopt;  // finer than a nanosecond
      scale /= 10;
      if (__builtin_add_overflow(ns, digit * scale, &ns)) return std::nullopt;
    }
    if (i + 1 == dot && __builtin_mul_overflow(ns, unit, &ns)) return std::nullopt;
  }
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
    if (auto since = parse_count(text.substr(1), kSecond)) return *since;
  } else if (auto time = parse_time(text, false)) {
    return *time;
  }
  return Status::usage(
      fmt::format("'{}' is not a time: 2018-07-01T13:00:00Z, 2018-07-01, today, yesterday, -2h", text));
}

namespace {

constexpr std::string_view kMonths[] = {"january", "february", "march",     "april",   "may",      "june",
                                        "july",    "august",   "september", "october", "november", "december"};
constexpr std::string_view kDays[] = {"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"};

// What a pattern reads, from left to right.
struct Fields {
  std::string_view text;
  std::int64_t year = 1970, month = 1, day = 1, hour = 0, minute = 0, second = 0, nanosecond = 0, offset = 0;
  std::int64_t day_of_year = 0;
  bool afternoon = false, half_days = false;
  std::optional<Time> since;

  bool number(std::size_t digits, std::int64_t low, std::int64_t high, std::int64_t& value) {
    std::size_t i = 0;
    std::int64_t n = 0;
    for (; i < digits && i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) n = n * 10 + (text[i] - '0');
    text.remove_prefix(i);
    value = n;
    return i > 0 && n >= low && n <= high;
  }
  bool word(std::string_view lower) {
    if (text.size() < lower.size()) return false;
    for (std::size_t i = 0; i < lower.size(); ++i) {
      if ((text[i] | 0x20) != lower[i]) return false;
    }
    text.remove_prefix(lower.size());
    return true;
  }
  // A name, whole or its first three letters; its number from 1.
  template <std::size_t N>
  bool name(std::string_view const (&names)[N], std::int64_t& value) {
    for (std::size_t i = 0; i < N; ++i) {
      value = static_cast<std::int64_t>(i) + 1;
      if (word(names[i]) || word(names[i].substr(0, 3))) return true;
    }
    return false;
  }
  void space() {
    while (!text.empty() && (text[0] == ' ' || text[0] == '\t' || text[0] == '\n')) text.remove_prefix(1);
  }
  bool zone() {
    if (word("z")) return offset = 0, true;
    if (text.empty() || (text[0] != '+' && text[0] != '-')) return false;
    bool const west = text[0] == '-';
    text.remove_prefix(1);
    std::int64_t hours = 0, minutes = 0;
    std::size_t const before = text.size();
    if (!number(2, 0, 23, hours) || before - text.size() != 2) return false;
    bool const colon = text.starts_with(':');
    if (colon) text.remove_prefix(1);
    bool const more = !text.empty() && text[0] >= '0' && text[0] <= '9';
    if ((colon || more) && !number(2, 0, 59, minutes)) return false;
    offset = (hours * 3600 + minutes * 60) * (west ? -1 : 1);
    return true;
  }
  bool read(std::string_view pattern) {
    for (std::size_t i = 0; i < pattern.size(); ++i) {
      char const c = pattern[i];
      if (c == ' ') {
        space();
      } else if (c != '%') {
        if (text.empty() || text[0] != c) return false;
        text.remove_prefix(1);
      } else if (!field(pattern[++i])) {
        return false;
      }
    }
    return true;
  }
  bool field(char kind) {
    std::int64_t ignored = 0;
    switch (kind) {
      case 'Y':
        return number(4, 0, 9999, year);
      case 'y':
        if (!number(2, 0, 99, year)) return false;
        year += year < 69 ? 2000 : 1900;  // POSIX
        return true;
      case 'm':
        return number(2, 1, 12, month);
      case 'e':
        space();
        [[fallthrough]];
      case 'd':
        return number(2, 1, 31, day);
      case 'j':
        return number(3, 1, 366, day_of_year);
      case 'H':
        return number(2, 0, 23, hour);
      case 'I':
        half_days = true;
        return number(2, 1, 12, hour);
      case 'M':
        return number(2, 0, 59, minute);
      case 'S':
        return number(2, 0, 60, second);
      case 'p':
        afternoon = word("pm");
        return afternoon || word("am");
      case 'b':
      case 'B':
        return name(kMonths, month);
      case 'a':
      case 'A':
        return name(kDays, ignored);
      case 'f': {
        std::size_t const digits = std::min(text.find_first_not_of("0123456789"), text.size());
        if (digits == 0 || digits > 9) return false;
        (void)number(digits, 0, kSecond, nanosecond);
        for (std::size_t i = digits; i < 9; ++i) nanosecond *= 10;
        return true;
      }
      case 'z':
        return zone();
      case 'Z':
        return word("utc") || word("gmt") || word("z");
      case 's': {
        std::size_t const digits =
            std::min(text.find_first_not_of("0123456789", text.starts_with('-') ? 1 : 0), text.size());
        since = parse_count(text.substr(0, digits), kSecond);
        text.remove_prefix(digits);
        return since.has_value();
      }
      case 'F':
        return read("%Y-%m-%d");
      case 'T':
        return read("%H:%M:%S");
      case 'R':
        return read("%H:%M");
      case 'n':
      case 't':
        return space(), true;
      default:
        if (kind != '%' || !text.starts_with('%')) return false;
        text.remove_prefix(1);
        return true;
    }
  }
};

}  // namespace

Result<TimeFormat> TimeFormat::parse(std::string_view text) {
  TimeFormat format;
  if (text == "rfc3339") return format;
  std::int64_t unit = kSecond;
  for (std::string_view const name : {"unix", "unixms", "unixus", "unixns"}) {
    format.unit_ = unit;
    if (text == name) return format;
    unit /= 1000;
  }
  bool fields = false;
  bool good = true;
  for (std::size_t i = 0; i < text.size() && good; ++i) {
    if (text[i] != '%') continue;
    ++i;
    good = i < text.size() && std::string_view("YymdejHIMSpbBaAfzZsFTRnt%").find(text[i]) != std::string_view::npos;
    fields = fields || text[i] != '%';
  }
  if (!good || !fields) {
    return Status::usage(fmt::format(
        "'{}' is not a time format: rfc3339, unix, unixms, unixus, unixns, or as strptime has it, %Y-%m-%d %H:%M:%S",
        text));
  }
  format.pattern_ = text;
  return format;
}

std::optional<Time> TimeFormat::read(std::string_view text) const {
  if (pattern_.empty()) return unit_ == 0 ? parse_rfc3339(text) : parse_count(text, unit_);
  Fields f;
  f.text = text;
  if (!f.read(pattern_) || !f.text.empty()) return std::nullopt;
  if (f.half_days) f.hour = f.hour % 12 + (f.afternoon ? 12 : 0);
  if (f.since) return *f.since + Duration{f.nanosecond};
  auto const month = static_cast<unsigned>(f.month);
  if (f.day > days_in_month(f.year, month)) return std::nullopt;
  std::int64_t days = days_from_civil(f.year, month, static_cast<unsigned>(f.day));
  if (f.day_of_year > 0) {
    days = days_from_civil(f.year, 1, 1) + f.day_of_year - 1;
    if (days >= days_from_civil(f.year + 1, 1, 1)) return std::nullopt;
  }
  return to_time(days * 86'400 + f.hour * 3600 + f.minute * 60 + f.second - f.offset, f.nanosecond);
}

Clock& system_clock() {
  static SystemClock clock;
  return clock;
}

}  // namespace inflight

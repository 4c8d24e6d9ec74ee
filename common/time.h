// Event time: a signed count of nanoseconds since 1970-01-01T00:00:00Z (no leap seconds), 1677-09-21 to 2262-04-11,
// and RFC 3339 text, exact in both directions.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "common/units.h"

namespace inflight {

struct Time {
  std::int64_t ns = 0;
  auto operator<=>(Time const&) const = default;
};

[[nodiscard]] inline Time operator+(Time t, Duration d) { return {t.ns + d.count()}; }
[[nodiscard]] inline Time operator-(Time t, Duration d) { return {t.ns - d.count()}; }
[[nodiscard]] inline Duration operator-(Time a, Time b) { return Duration{a.ns - b.ns}; }

// RFC 3339 date-time with a zone (Z or ±hh:mm) and up to nine fraction digits. nullopt: not one, or outside the range.
[[nodiscard]] std::optional<Time> parse_rfc3339(std::string_view text);

// `2018-07-01T13:00:00Z`, with the fewest fraction digits that lose nothing.
[[nodiscard]] std::string format_rfc3339(Time time);

// What an option takes: RFC 3339 (without a zone: UTC), a date, `now`, `today`, `yesterday`, `-2h`, `@1530403200`.
[[nodiscard]] Result<Time> parse_when(std::string_view text, Time now);

// Times as others write them: `rfc3339`, `unix` (seconds, perhaps with a fraction), `unixms`, `unixus`, `unixns`, or a
// pattern as strptime(3) has it, of %Y %m %d %j %H %I %M %S %f (a fraction's digits) %p %b %B %a %A %z %Z (UTC, GMT) %F
// %T %R %y %e %s %n %t %%. Without a zone it is UTC.
class TimeFormat {
 public:
  [[nodiscard]] static Result<TimeFormat> parse(std::string_view text);
  // nullopt: not of this format, or outside the range.
  [[nodiscard]] std::optional<Time> read(std::string_view text) const;

 private:
  std::string pattern_;    // empty: one of the named ones
  std::int64_t unit_ = 0;  // nanoseconds, of unix…; 0: rfc3339
};

// The days since 1970-01-01 of a civil date, and back (Howard Hinnant, "chrono-compatible low-level date algorithms").
[[nodiscard]] std::int64_t days_from_civil(std::int64_t year, unsigned month, unsigned day);
struct Civil {
  std::int64_t year;
  unsigned month, day, hour, minute, second;
  std::uint32_t nanosecond;
};
[[nodiscard]] Civil civil_from_time(Time time);

// The one seam to the clock. Tests pass one that they move by hand.
class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual Time now() = 0;         // wall clock
  [[nodiscard]] virtual Duration steady() = 0;  // never goes back
};
[[nodiscard]] Clock& system_clock();

}  // namespace inflight

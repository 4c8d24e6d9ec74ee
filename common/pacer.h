// When the next record may pass: a minimum interval, and rates of records and bytes.
//
// A rate is kept on an ideal grid (GCRA, ITU-T I.371): a record that passes late by our own fault does not move those
// behind it, so that the rate is met exactly over time. After idling at most a burst passes at once; what was lost to a
// slow reader or a busy machine is caught up with by at most kCatchUp.
//
// Pure bookkeeping: no clock. Times are those of Clock::steady().
#pragma once

#include <string_view>

#include "common/status.h"
#include "common/units.h"

namespace inflight {

class Pacer {
 public:
  static constexpr Duration kCatchUp = std::chrono::milliseconds(100);
  static constexpr Duration kBurst = std::chrono::milliseconds(10);
  static constexpr Duration kNever = Duration::max();

  struct Limits {
    Duration min_interval{};
    double records = 0, bytes = 0;              // a second; 0: no limit
    double burst_records = 0, burst_bytes = 0;  // that may pass at once after idling; 0: what passes in kBurst
    bool paused = false;

    [[nodiscard]] bool none() const {
      return min_interval == Duration::zero() && records == 0 && bytes == 0 && !paused;
    }
    bool operator==(Limits const&) const = default;
  };
  // Changes what `text` names: rates, an interval, `pause`, `none`, separated by white space. Code::usage.
  [[nodiscard]] static Status read(std::string_view text, Limits& limits);

  Pacer(Limits const& limits, Duration now);
  // What was waited for under the old limits is waited for no longer than the new ones ask.
  void set(Limits const& limits, Duration now);
  [[nodiscard]] Limits const& limits() const { return limits_; }
  // Nothing passes before, but for no longer than the limits ask for one record: what another process says of it.
  void not_before(Duration due, Duration now);

  // When the next record may pass; in the past: at once.
  [[nodiscard]] Duration due() const;
  // Records need not be waited for one by one: how much later than due() is soon enough.
  [[nodiscard]] Duration grain() const;
  // There was nothing to pass up to now.
  void idle(Duration now);
  // A record of this size passes; of one that is too long to be held more() follows.
  void passes(Duration now, std::size_t bytes);
  void more(std::size_t bytes);
  // Its write has ended: the interval begins.
  void written(Duration now);

 private:
  struct Bucket {
    double due = 0;    // nanoseconds
    double each = 0;   // what one costs
    double burst = 0;  // beyond the first
    double last = 0;   // what the newest record cost

    void pass(Duration now, double count);
    void set(double per_second, double at_once, Duration now);
  };

  Limits limits_;
  Bucket records_, bytes_;
  Duration interval_due_{};
};

}  // namespace inflight

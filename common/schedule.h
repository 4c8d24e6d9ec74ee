// Which of many units to ask next, so that each is asked once a period, at moments spread evenly over it, and those
// that fail never delay those that answer.
//
// A unit's moments lie on a grid of its own that does not drift. A unit that fails is asked again after 1, 2, 4, 8 and
// then each 16 periods, and such probes hold at most a quarter of the slots. Where every slot is taken and a unit is
// due, a request gives its slot away (give_way()) that others have overtaken: one that began later by more than an
// eighth of the period (at most a second), and than eight times what the unit's last answer took, has been answered, or
// nobody has been for twice as long. So a server that is slow for all, as after a burst, is not taken for units that do
// not answer.
//
// Pure bookkeeping: no clock, no network. Times are those of Clock::steady().
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "common/units.h"

namespace inflight {

class Schedule {
 public:
  using Unit = std::size_t;  // the caller's index, dense

  // A period of zero: every unit is due at once, and again as soon as it has been asked, until finished() is said of
  // it; one that fails waits 1, 2, 4, … 30 s.
  Schedule(Duration period, std::size_t slots);

  void add(Unit unit, Duration now);
  // Never again. One that is running goes when its end is told.
  void remove(Unit unit);

  // The unit to ask now, which takes a slot until one of the four below is said of it.
  [[nodiscard]] std::optional<Unit> next(Duration now);
  // From now on so many slots, at least one.
  void allow(std::size_t slots);
  // Nobody was asked for a while: who has missed whole periods waits for its next moment, so that the fleet is not
  // asked in a burst.
  void resume(Duration now);
  void answered(Unit unit, Duration now);
  void failed(Unit unit, Duration now, Duration at_least = {});  // at_least: what it asked for (Retry-After)
  void finished(Unit unit);
  // Its request says nothing of the unit, as nobody listened to it.
  void left_out(Unit unit, Duration now);

  // The unit whose request should be ended for the sake of those that are due, if any.
  [[nodiscard]] std::optional<Unit> give_way(Duration now) const;
  // How long there will be nothing to do unless a request ends.
  [[nodiscard]] Duration idle(Duration now) const;

  [[nodiscard]] std::size_t units() const { return waiting_.size() + probes_.size() + running_; }
  [[nodiscard]] std::size_t running() const { return running_; }
  [[nodiscard]] Duration started(Unit unit) const { return states_[unit].started; }
  [[nodiscard]] unsigned failures(Unit unit) const { return states_[unit].failures; }  // in a row
  // Moments that passed without a poll, as every slot was taken, since the last call.
  [[nodiscard]] std::uint64_t take_missed() { return std::exchange(missed_, 0); }

 private:
  struct State {
    Duration due{};
    Duration started{};
    Duration latency{};  // of its last answer; zero: has never answered
    unsigned failures = 0;
    bool running = false;
    bool removed = false;
  };
  using Queue = std::set<std::pair<Duration, Unit>>;

  void wait_for(Unit unit, Duration due);
  State& ended(Unit unit);
  [[nodiscard]] Duration after(Duration due, Duration now);

  Duration period_, patience_;
  std::size_t slots_ = 1, probe_slots_ = 1;
  std::vector<State> states_;
  Queue waiting_, probes_;  // by when they are due
  Queue young_;             // running and no probes, by when they were started
  Duration newest_answered_{},
      answered_at_{};  // when the newest one that was answered began; when the last answer came
  std::size_t running_ = 0, running_probes_ = 0;
  std::uint64_t added_ = 0, missed_ = 0;
  Duration typical_{};  // moving mean of the latency
};

}  // namespace inflight

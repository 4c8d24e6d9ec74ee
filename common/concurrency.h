// How many requests may be under way at a service that others use as well: found by trying, never above a ceiling.
//
// It starts at one and grows, once per round (as many answers as may be under way), while all of it is used and answers
// take no longer than before: doubled at first, later by one. An answer that refuses for load halves it, once for all
// that were under way then. The number that was refused is remembered: it grows back to one less, and tries more only
// after a while, which doubles each time that this fails. So a service with a hard limit is kept busy just below it.
//
// Knows no clock: who uses it says what time it is.
#pragma once

#include <cstddef>

#include "common/units.h"

namespace inflight {

class Concurrency {
 public:
  explicit Concurrency(std::size_t ceiling) : ceiling_(ceiling) {}

  [[nodiscard]] bool may_start() const { return under_way_ < limit_; }
  [[nodiscard]] std::size_t limit() const { return limit_; }
  [[nodiscard]] std::size_t under_way() const { return under_way_; }

  void started();
  // served: an answer, whatever it says of what was asked for. refused: 429, 503, a timeout: too much at once. failed:
  // nothing that says how much the service can take (no connection).
  enum class Answer { served, refused, failed };
  void ended(Answer answer, Duration started, Duration now);

 private:
  [[nodiscard]] std::size_t bound() const { return refused_at_ > 0 ? refused_at_ - 1 : ceiling_; }
  void end_round(Duration now);
  void change(std::size_t limit, Duration now);

  std::size_t ceiling_, limit_ = 1, under_way_ = 0;
  std::size_t peak_ = 0;             // of what was under way since the last change
  Duration changed_{-1};             // requests that began before say nothing of this limit
  Duration lowered_{-1};             // by a refusal
  std::size_t answers_ = 0;          // of this round
  Duration total_{};                 // that they took
  Duration usual_{}, measured_{};    // an answer takes where the service is not busy; 0: not known
  std::size_t resume_at_ = 0;        // the limit after that is measured anew; 0: it is not
  bool first_ = true;                // growth: nothing has shown yet what is too much
  bool falling_ = false;             // refused, and no round since
  std::size_t refused_at_ = 0;       // 0: never, or not for long
  Duration hold_{}, try_more_at_{};  // beyond bound()
};

}  // namespace inflight

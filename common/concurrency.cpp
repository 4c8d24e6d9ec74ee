#include "common/concurrency.h"

#include <algorithm>
#include <utility>

namespace inflight {

namespace {
constexpr std::size_t kRound = 5;                          // answers at least: one alone may be slow by chance
constexpr Duration kSlack = std::chrono::milliseconds(2);  // nobody feels, however fast the service
constexpr Duration kFirstHold = std::chrono::seconds(30), kLongestHold = std::chrono::minutes(5);
// After so long it is measured anew how long an answer takes when nothing else is asked for: the service may have
// become slower for good. A mean that followed what is measured would follow the load that we make.
constexpr Duration kMeasureEvery = std::chrono::minutes(5);
}  // namespace

void Concurrency::started() {
  ++under_way_;
  peak_ = std::max(peak_, under_way_);
}

void Concurrency::change(std::size_t limit, Duration now) {
  limit_ = std::clamp<std::size_t>(limit, 1, ceiling_);
  changed_ = now;
  answers_ = 0;
  total_ = {};
  peak_ = under_way_;
}

void Concurrency::ended(Answer answer, Duration started, Duration now) {
  --under_way_;
  if (answer == Answer::served) {
    if (started < changed_) return;
    ++answers_;
    total_ += now - started;
    if (answers_ >= std::max(limit_, kRound)) end_round(now);
    return;
  }
  if (started < lowered_) return;
  lowered_ = now;
  if (answer == Answer::failed) {
    falling_ = true;
    resume_at_ = 0;
    change(1, now);
    return;
  }
  first_ = false;
  std::size_t const reached = std::min(limit_, peak_);
  if (!falling_ && reached > 1) {
    bool const tried = refused_at_ > 0 && reached >= refused_at_;
    refused_at_ = reached;
    hold_ = tried ? std::min(2 * hold_, kLongestHold) : kFirstHold;
  }
  falling_ = true;
  resume_at_ = 0;
  try_more_at_ = now + hold_;
  change(reached / 2, now);
}

void Concurrency::end_round(Duration now) {
  Duration const mean = total_ / static_cast<std::int64_t>(answers_);
  bool const used = peak_ >= limit_;
  falling_ = false;
  if (resume_at_ > 0 || usual_ == Duration::zero() || mean < usual_) {
    usual_ = mean;
    measured_ = now;
  }
  if (resume_at_ > 0) return change(std::exchange(resume_at_, 0), now);
  if (now - measured_ > kMeasureEvery) {
    resume_at_ = limit_;
    return change(1, now);
  }
  if (refused_at_ > 0 && used && limit_ >= refused_at_) refused_at_ = 0;  // what was too much is no more
  if (mean > 2 * usual_ + kSlack) {
    first_ = false;
    return change(limit_ - std::min(limit_ - 1, std::max<std::size_t>(1, limit_ / 8)), now);
  }
  std::size_t next = limit_;
  if (used && limit_ < bound()) {
    bool const far = refused_at_ == 0 ? first_ : 2 * limit_ <= bound();
    next = std::min(far ? 2 * limit_ : limit_ + 1, bound());
  } else if (used && limit_ >= bound() && limit_ < ceiling_ && now >= try_more_at_) {
    next = limit_ + 1;
  }
  // The same limit goes on with a new round of all that comes.
  if (next != limit_) return change(next, now);
  answers_ = 0;
  total_ = {};
  peak_ = under_way_;
}

}  // namespace inflight

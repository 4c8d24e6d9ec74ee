// Watches a live system beside us, and says how fast we may go so that it does not feel us.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/http.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

// What must hold of the live system: `p95=50ms` of response times, `errors=1%`, or `value=100`, what a command prints.
struct Target {
  enum class Of { latency, errors, value };
  Of of = Of::latency;
  double percentile = 0;  // 0.95
  double most = 0;        // seconds, a share, or a number
};
[[nodiscard]] Result<Target> parse_target(std::string_view text);

// One look at the live system.
struct Sample {
  double seconds = 0;
  bool failed = false;
  std::optional<double> value;
};

// Additive increase, multiplicative decrease, of a rate in records a second.
//
// It doubles until the target is first exceeded; then it is cut, by more the more the target is exceeded. A cut
// that was not enough is followed by a deeper one: others have come, and they wait. From there it goes back
// half-way to the rate that was too high, and near it and beyond it grows by steps, each longer than the one before, as
// long as what is measured leaves room and the rate is used. Where half of the target is left beyond it, others have
// gone, and it doubles again. What was measured before a cut says nothing of the rate after it.
//
// Pure bookkeeping: no clock, no probes. Times are those of Clock::steady().
class Aimd {
 public:
  static constexpr double kLeast = 1;  // records a second

  // `most`: the ceiling; 0: none.
  Aimd(std::vector<Target> targets, double start, double most);

  [[nodiscard]] double rate() const { return rate_; }
  // `passed`: records that passed since the last call.
  void add(Sample const& sample, std::uint64_t passed, Duration now);

 private:
  // What was measured in relation to the target: 1 is the target.
  [[nodiscard]] double load(Target const& target) const;
  [[nodiscard]] bool exceeds(Target const& target) const;
  void cut(double load, Duration now);
  void grow(double load, Duration now);

  std::vector<Target> targets_;
  double rate_, most_;
  double too_high_ = 0;  // the rate that was cut last; 0: none yet, so it doubles
  double step_ = 0;
  int cuts_ = 0;  // one after the other, without a rate that kept the target in between
  std::deque<Sample> samples_;
  std::uint64_t fresh_ = 0;          // since the last decision
  std::uint64_t passed_ = 0;         // since then
  std::optional<Duration> since_;    // when it was
  std::optional<Duration> settles_;  // until then what is measured is of the rate before the cut
};

// Probes in a thread of its own.
class Guard {
 public:
  struct Options {
    std::string probe;  // an URL, or a command for bash
    std::vector<Target> targets;
    Duration every{};
    double start = 0, most = 0;
  };
  // Code::usage: an URL that is none.
  [[nodiscard]] static Result<std::unique_ptr<Guard>> start(Options const& options, Clock& clock);
  ~Guard();

  [[nodiscard]] double rate() const { return rate_; }
  void passed(std::uint64_t records) { passed_ += records; }

 private:
  Guard(Options const& options, Clock& clock, std::unique_ptr<HttpClient> client);
  static Duration patience(Options const& options);
  void run();
  Sample ask();
  Sample fetch();
  Sample call();

  Options options_;
  Clock& clock_;
  std::unique_ptr<HttpClient> client_;  // null: a command
  Duration patience_;
  Aimd aimd_;
  std::atomic<double> rate_;
  std::atomic<std::uint64_t> passed_{0};
  std::atomic<bool> ends_{false};
  std::thread thread_;
};

}  // namespace inflight

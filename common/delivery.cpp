#include "common/delivery.h"

#include <poll.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <optional>
#include <vector>

#include "common/lane.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/pipeline.h"
#include "common/stop.h"

namespace inflight {

namespace {

using std::chrono::seconds;

// What is delivered again after a kill, beyond the window, lies well within the lines by which an exchange behind the
// pipeline knows its doubles.
constexpr std::uint64_t kUnsaved = 25'000;
constexpr std::uint64_t kUnsavedBytes = 32 << 20;

class Delivery {
 public:
  Delivery(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options)
      : io_(io), source_(source), ledger_(ledger), options_(options) {}

  Exit run() {
    if (Status status = open(); !status.ok()) return fail(status);
    std::uint64_t const settled_before = ledger_.settled_count();
    Duration saved{}, ticked{};
    std::optional<Exit> verdict;
    for (;;) {
      bool const stop = stopping() && !draining();
      bool running = false, exhausted = true;
      for (auto& lane : lanes_) {
        if (Status status = lane->step(stop || verdict.has_value()); !status.ok()) return fail(status);
        if (!verdict) verdict = lane->verdict();
        running = running || lane->running();
        exhausted = exhausted && lane->exhausted();
      }
      counters().settled = ledger_.settled_count() - settled_before;
      Duration const now = io_.clock.steady();
      if (now - saved > seconds(1)) {
        saved = now;
        if (Status status = save(); !status.ok()) return fail(status);
        measure_lag();
      } else if (ledger_.cursor() > ledger_.saved_cursor() + kUnsaved ||
                 counters().bytes > bytes_saved_ + kUnsavedBytes) {
        if (Status status = save(); !status.ok()) return fail(status);
      }
      if (ledger_.cursor() != forgotten_) source_.settled(forgotten_ = ledger_.cursor());
      if (now - ticked > seconds(1)) {
        ticked = now;
        if (Status status = source_.tick(); !status.ok()) return fail(status);
        if (ledger_.take_reopened()) {
          // Who looks at the state sees that it is unsettled before it is delivered (fetches.h).
          if (Status status = save(); !status.ok()) return fail(status);
          for (auto& lane : lanes_) lane->begin_anew();
        }
      }
      if (!running && (verdict || stop)) break;
      if (exhausted && (options_.until_empty || lanes_[0]->source_ended())) break;
      wait(stop);
    }
    ledger_.set_clean(true);
    if (!verdict && !stopping() && lanes_[0]->source_ended() && source_.whole()) ledger_.set_complete();
    if (Status status = ledger_.save(); !status.ok()) return fail(status);
    if (verdict) return *verdict;
    if (stopping()) return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
    return Exit::ok;
  }

 private:
  Status open() {
    if (!options_.run_lock.empty()) {
      if (Status status = take_over(io_.clock, options_.run_lock, options_.takeover); !status.ok()) return status;
    }
    for (std::uint64_t i = 0; i < std::max<std::uint64_t>(1, options_.jobs); ++i) {
      auto reader = source_.reader();
      if (!reader) return reader.status();
      auto letters = source_.reader();
      if (!letters) return letters.status();
      lanes_.push_back(
          std::make_unique<Lane>(io_, source_, ledger_, options_, i, std::move(*reader), std::move(*letters)));
    }
    for (auto& lane : lanes_) {
      if (Status status = lane->open(); !status.ok()) return status;
    }
    ledger_.set_clean(false);
    return ledger_.save();
  }

  Status save() {
    bytes_saved_ = counters().bytes;
    return ledger_.save();
  }

  Exit fail(Status const& status) {
    if (status.code() == Code::stopped) return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
    say_error(status.what());
    return status.exit();
  }

  bool draining() {
    if (!source_.drains()) return false;
    Duration const now = io_.clock.steady();
    if (!stopped_at_) stopped_at_ = now;
    return now - *stopped_at_ < seconds(30);
  }

  void wait(bool stop) {
    std::vector<pollfd> fds = {{wake_fd(), POLLIN, 0}};
    if (!stop && !stopping()) fds.push_back({stop_fd(), POLLIN, 0});
    bool at_end = true;
    for (auto& lane : lanes_) {
      lane->add_fds(fds);
      at_end = at_end && lane->waiting_for_source();
    }
    int const source = source_.wait_fd();
    if (at_end && source >= 0) fds.push_back({source, POLLIN, 0});
    int const timeout = at_end && source < 0 ? 10 : 50;
    if (::poll(fds.data(), fds.size(), timeout) > 0) {
      if (fds[0].revents != 0) clear_wake();
      if (at_end && source >= 0 && fds.back().revents != 0) source_.clear_wait();
    }
  }

  void measure_lag() {
    std::optional<Time> oldest;
    for (auto& lane : lanes_) {
      auto const time = lane->oldest();
      if (time && (!oldest || *time < *oldest)) oldest = time;
    }
    counters().lag_ns = oldest ? std::max<std::int64_t>(0, (io_.clock.now() - *oldest).count()) : 0;
  }

  Io& io_;
  EventSource& source_;
  Ledger& ledger_;
  DeliveryOptions const& options_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::uint64_t forgotten_ = 0, bytes_saved_ = 0;
  std::optional<Duration> stopped_at_;
};

}  // namespace

Exit deliver(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options) {
  return Delivery(io, source, ledger, options).run();
}

}  // namespace inflight

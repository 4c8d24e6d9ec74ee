#include "common/sink_loop.h"

#include <fmt/format.h>

#include <csignal>
#include <thread>

#include "common/dead_letter.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/retry.h"
#include "common/sink_flight.h"
#include "common/sink_input.h"
#include "common/sink_receipts.h"
#include "common/stop.h"

namespace inflight {

namespace {

constexpr Duration kFirstWait = std::chrono::milliseconds(100);
// Of one try: an outage is over for us soon after it is for the destination.
constexpr Duration kLongestWait = std::chrono::seconds(5);
constexpr Duration kTellEvery = std::chrono::seconds(30);  // that we are alive
constexpr Duration kDrain = std::chrono::seconds(2);       // how long a stop waits for what fails
constexpr Duration kLook = std::chrono::seconds(1);        // after requests that take long
constexpr Duration kPoll = std::chrono::milliseconds(2);   // for input, while answers are waited for
}  // namespace

class SinkLoop {
 public:
  SinkLoop(Io& io, Sink& sink, SinkOptions const& options)
      : io_(io),
        sink_(sink),
        rejects_(options.dead_letters),
        receipts_(io.receipts),
        input_(io, sink, options, !options.dead_letters.empty() && !io.receipts.active(),
               [this](std::string_view delivery) { receipts_.arrived(delivery); }),
        linger_(options.linger),
        dry_run_(options.dry_run) {
    give_up_ = options.give_up_option > Duration::zero() ? std::optional(options.give_up_option) : options.give_up;
    if (!give_up_ && !io.receipts.active()) give_up_ = std::chrono::minutes(10);
  }

  Exit run() {
    if (Status status = io_.receipts.announce(tool_name()); !status.ok()) return end(status);
    if (dry_run_) return end(dry_run());
    if (Status status = patiently([&] { return sink_.connect(); }); !status.ok()) return end(status);
    Status delivered;
    std::thread deliverer([&] { delivered = sink_.requests() == nullptr ? deliver_all() : request_all(); });
    Status const read = input_.read();
    deliverer.join();
    return end(delivered.ok() ? read : delivered);
  }

 private:
  // A channel that nobody reads: the source is gone, and with it whoever would hear of success.
  static Status source_gone() { return Status::temporary("receipts channel: the source is gone"); }

  Exit end(Status const& status) {
    if (Status finished = rejects_.finish(); !finished.ok() && status.ok()) return end(finished);
    if (!status.ok() && status.code() != Code::stopped) {
      if (status.code() != Code::closed) say_error(status.what());  // --dry-run: who looked has seen enough
      return status.exit();
    }
    if (!status.ok() && !io_.receipts.active()) say_error(fmt::format("stopped, not all is stored: {}", status.what()));
    if (stopping()) return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
    // Told even so: a stage before us may have ended while others wait for input.
    if (Status told = io_.receipts.exit(0); !told.ok()) return Exit::temporary;
    return rejects_.count() > 0 && !io_.receipts.active() ? Exit::rejected : Exit::ok;
  }

  // ---- the delivering thread

  Status deliver_all() {
    Status status;
    for (bool ended = false; status.ok() && !ended;) {
      SinkBatch* batch = nullptr;
      SinkInput::Next const next = input_.next(batch, linger_);
      ended = next == SinkInput::Next::end;
      if (next == SinkInput::Next::batch) {
        status = deliver_batch(*batch);
        input_.done(batch);
      }
      if (status.ok()) status = settle_held(ended);
    }
    return finish_delivery(status);
  }

  Status finish_delivery(Status status) {
    if (status.ok()) status = receipts_.finish(input_.whole() && !stopping());
    if (!status.ok()) input_.stop();
    return status;
  }

  // ---- the same, record by record

  Status request_all() {
    SinkRequests& requests = *sink_.requests();
    SinkFlight flight(io_, requests, give_up_);
    std::vector<SinkAnswer> answers;
    Status status;
    bool ended = false;
    Duration looked = io_.clock.steady();
    while (status.ok() && !(ended && flight.open() == 0)) {
      Duration now = io_.clock.steady();
      if (!ended && flight.hungry(now)) status = take(flight, now, ended);
      if (!status.ok()) break;
      now = io_.clock.steady();
      flight.start(now);
      bool const hungry = !ended && flight.hungry(now);
      if (flight.open() > 0 && (flight.under_way() > 0 || !hungry)) {
        status = requests.turn(flight.patience(now, hungry ? kPoll : kLook), answers);
        now = io_.clock.steady();
        for (SinkAnswer const& answer : answers) {
          if (status.ok()) status = heed(flight, answer, ended, now);
        }
        answers.clear();
      }
      if (status.ok()) status = receipts_.send();
      if (status.ok() && now - looked >= kLook) status = flight.look_after(looked = now);
    }
    return finish_delivery(status);
  }

  // Records for those that could be under way; waits for some where there is nothing else to do.
  Status take(SinkFlight& flight, Duration now, bool& ended) {
    Duration wait = flight.under_way() > 0 ? Duration::zero() : flight.patience(now, linger_);
    for (;;) {
      SinkBatch* batch = nullptr;
      SinkInput::Next const next = input_.next(batch, wait);
      ended = next == SinkInput::Next::end;
      if (next != SinkInput::Next::batch) return {};
      wait = Duration::zero();
      if (Status status = reject(batch->rejected); !status.ok()) return status;
      receipts_.begin({batch->records.data(), batch->count});
      batch->open = batch->count;
      for (std::size_t i = 0; i < batch->count; ++i) flight.add(batch->records[i], *batch);
      if (batch->count == 0) input_.done(batch);
      if (!flight.hungry(now)) return {};
    }
  }

  Status heed(SinkFlight& flight, SinkAnswer const& answer, bool ended, Duration now) {
    auto outcome = flight.heed(answer, ended, now);
    if (!outcome) return outcome.status();
    for (SinkFlight::Job const& job : outcome->jobs) {
      if (outcome->fate == SinkFlight::Fate::stored) {
        ++counters().settled;
        receipts_.note(*job.record, SinkReceipts::As::stored);
      } else if (Status status = reject(*job.record, answer.status.what()); !status.ok()) {
        return status;
      }
      if (--job.batch->open == 0) input_.done(job.batch);
    }
    return {};
  }

  // ---- batches

  Status deliver_batch(SinkBatch& batch) {
    if (Status status = reject(batch.rejected); !status.ok()) return status;
    std::span<SinkRecord> const records(batch.records.data(), batch.count);
    receipts_.begin(records);
    return deliver_range(records);
  }

  // Until each record has an outcome.
  Status deliver_range(std::span<SinkRecord const> records) {
    std::vector<SinkRecord> rest;  // a smaller batch, where some have an outcome already
    Backoff backoff(kFirstWait, kLongestWait);
    std::optional<Duration> failing_since;
    while (!records.empty()) {
      if (io_.receipts.abandoned()) return source_gone();
      Outcomes outcomes(records.size());
      Status status = sink_.deliver(records, outcomes);
      std::vector<std::size_t> left;
      if (Status told = tell(records, outcomes, left); !told.ok()) return told;
      if (left.size() < records.size()) backoff.reset(), failing_since.reset();
      if (left.empty()) return status.code() == Code::defect ? status : Status{};
      if (left.size() < records.size()) {
        std::vector<SinkRecord> fewer;
        for (std::size_t const i : left) fewer.push_back(records[i]);
        rest = std::move(fewer);
        records = rest;
      }
      if (status.code() == Code::rejected) {
        if (records.size() == 1) return reject(records[0], status.what());
        std::size_t const half = records.size() / 2;
        if (Status first = deliver_range(records.first(half)); !first.ok()) return first;
        records = records.subspan(half);
        continue;
      }
      if (status.code() == Code::defect || (status.code() == Code::usage && !accepted_)) return status;
      ++counters().retries;
      if (Status waited = wait_for(status.ok() ? "the destination" : status.what(), backoff.next(outcomes.retry_after_),
                                   records, failing_since);
          !waited.ok()) {
        return waited;
      }
    }
    return {};
  }

  Status tell(std::span<SinkRecord const> records, Outcomes const& outcomes, std::vector<std::size_t>& left) {
    using Kind = Outcomes::Kind;
    for (std::size_t i = 0; i < records.size(); ++i) {
      auto const& outcome = outcomes.outcomes_[i];
      if (outcome.kind == Kind::none) {
        left.push_back(i);
      } else if (outcome.kind == Kind::rejected) {
        if (Status status = reject(records[i], outcome.reason); !status.ok()) return status;
      } else {
        // A rejection says nothing of whether the destination takes records.
        accepted_ = accepted_ || outcome.kind != Kind::dropped;
        ++(outcome.kind == Kind::dropped ? counters().dropped : counters().settled);
        receipts_.note(records[i], outcome.kind == Kind::stored ? SinkReceipts::As::stored
                                   : outcome.kind == Kind::held ? SinkReceipts::As::held
                                                                : SinkReceipts::As::dropped);
      }
    }
    return receipts_.send();
  }

  Status settle_held(bool final) {
    PositionList stored;
    Status status = patiently([&] { return sink_.settle_held(final, stored); });
    if (Status told = io_.receipts.stored(stored); !told.ok()) return told;
    return status;
  }

  Status reject(SinkRecord const& record, std::string_view reason) {
    receipts_.note(record, SinkReceipts::As::rejected);
    return reject(record.delivery, record.line, record.text, reason);
  }

  Status reject(std::span<SinkBatch::Rejected const> all) {
    for (SinkBatch::Rejected const& one : all) {
      if (Status status = reject(one.delivery, one.line, one.text, one.reason); !status.ok()) return status;
    }
    return {};
  }

  // `reason` empty: left out on purpose.
  Status reject(std::string_view delivery, std::uint64_t line, std::string_view text, std::string_view reason) {
    ++(reason.empty() ? counters().dropped : counters().rejected);
    std::vector<Position> positions;
    if (io_.receipts.active() && parse_positions(delivery, positions)) {
      PositionList list;
      list.add(positions);
      return reason.empty() ? io_.receipts.dropped(list) : io_.receipts.rejected(list, reason);
    }
    if (reason.empty()) return {};
    return rejects_.reject(line, text, reason);
  }

  // Repeats what fails for a while or by the operator's hand, until it works or --give-up.
  template <typename Action>
  Status patiently(Action action) {
    Backoff backoff(kFirstWait, kLongestWait);
    std::optional<Duration> failing_since;
    for (;;) {
      Status status = action();
      bool const waitable = status.code() == Code::temporary || (status.code() == Code::usage && accepted_);
      if (!waitable) return status;
      if (Status waited = wait_for(status.what(), backoff.next(), {}, failing_since); !waited.ok()) return waited;
    }
  }

  // Sleeps; tells the operator once why, and the source again and again: however long the destination asked us to wait,
  // we are alive.
  Status wait_for(std::string const& why, Duration time, std::span<SinkRecord const> records,
                  std::optional<Duration>& since) {
    Duration now = io_.clock.steady();
    Duration const until = now + time;
    if (!since) {
      since = last_told_ = now;
      say_warning(fmt::format("waiting: {}", why));
      if (Status status = io_.receipts.waiting(why); !status.ok()) return status;
      if (Status status = receipts_.hold(records); !status.ok()) return status;
    }
    for (;; now = io_.clock.steady()) {
      if (give_up_ && now - *since > *give_up_) return Status::temporary(fmt::format("gave up: {}", why));
      if (now >= until) return {};
      if (stopping() && now - *since > kDrain) return {Code::stopped, why};
      if (io_.receipts.abandoned()) return source_gone();
      if (now - last_told_ >= kTellEvery) {
        last_told_ = now;
        if (Status status = io_.receipts.waiting(why); !status.ok()) return status;
      }
      std::this_thread::sleep_for(std::min<Duration>(until - now, std::chrono::milliseconds(100)));
    }
  }

  Status dry_run() {
    for (;;) {
      auto batch = input_.single([this] { return io_.out.flush(); });
      if (!batch) return batch.status();
      if (*batch == nullptr) return {};
      if (Status status = reject((*batch)->rejected); !status.ok()) return status;
      if ((*batch)->count == 0) continue;
      SinkRecord const& record = (*batch)->records[0];
      std::string text;
      Status status = sink_.show(record, text);
      if (status.code() == Code::rejected) {
        status = reject(record.delivery, record.line, record.text, status.what());
      } else if (status.ok()) {
        status = io_.out.line(text);
      }
      if (!status.ok()) return status;
    }
  }

  Io& io_;
  Sink& sink_;
  RejectFile rejects_;
  SinkReceipts receipts_;
  SinkInput input_;
  Duration linger_;
  bool dry_run_;
  std::optional<Duration> give_up_;

  // of the delivering thread
  bool accepted_ = false;
  Duration last_told_{};
};

Exit run_sink(Io& io, Sink& sink, SinkOptions const& options) { return SinkLoop(io, sink, options).run(); }

}  // namespace inflight

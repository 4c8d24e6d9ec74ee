#include "common/sink_loop.h"

#include <fmt/format.h>
#include <poll.h>

#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <numeric>
#include <thread>

#include "common/dead_letter.h"
#include "common/filter_loop.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/retry.h"
#include "common/stop.h"

namespace inflight {

namespace {

// Memory that does not move, for the lines of a batch.
class Arena {
 public:
  char* copy(std::string_view text) {
    std::size_t const need = text.size() + kRecordPadding;
    while (block_ < blocks_.size() && blocks_[block_].size() - used_ < need) ++block_, used_ = 0;
    if (block_ == blocks_.size()) blocks_.emplace_back(std::max(kBlock, need)), used_ = 0;
    char* const to = blocks_[block_].data() + used_;
    std::copy(text.begin(), text.end(), to);
    used_ += need;
    return to;
  }
  void clear() {
    std::erase_if(blocks_, [](std::vector<char> const& block) { return block.size() > kBlock; });
    block_ = used_ = 0;
  }

 private:
  static constexpr std::size_t kBlock = 1 << 20;
  std::vector<std::vector<char>> blocks_;
  std::size_t block_ = 0, used_ = 0;
};

struct Rejected {
  std::uint64_t line = 0;
  std::string_view delivery;
  std::string_view text;
  std::string reason;  // empty: left out on purpose
};

struct Batch {
  Arena arena;
  std::vector<SinkRecord> records;  // those beyond `count` are kept for their memory
  std::size_t count = 0;
  std::size_t bytes = 0;
  std::vector<Rejected> rejected;  // by the reader: no record at all

  void clear() {
    arena.clear();
    count = bytes = 0;
    rejected.clear();
  }
  [[nodiscard]] bool empty() const { return count == 0 && rejected.empty(); }
};

}  // namespace

class SinkLoop {
 public:
  SinkLoop(Io& io, Sink& sink, SinkOptions const& options)
      : io_(io),
        sink_(sink),
        options_(options),
        rejects_(options.dead_letters),
        reader_(io.in, "standard input", options.max_record + 4096) {
    give_up_ = options.give_up_option > Duration::zero() ? std::optional(options.give_up_option) : options.give_up;
    if (!give_up_ && !io.receipts.active()) give_up_ = std::chrono::minutes(10);
  }

  Exit run() {
    if (Status status = io_.receipts.announce(tool_name()); !status.ok()) return end(status);
    if (options_.dry_run) return end(dry_run());
    if (Status status = patiently([&] { return sink_.connect(); }); !status.ok()) return end(status);
    for (auto& batch : batches_) spare_.push_back(&batch);
    std::thread deliverer([this] { deliver_all(); });
    Status const read = read_all();
    {
      std::lock_guard const lock(mutex_);
      input_ended_ = true;
    }
    changed_.notify_all();
    deliverer.join();
    return end(failed_.ok() ? read : failed_);
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

  // ---- the reading thread

  Status read_all() {
    Batch* batch = nullptr;
    Duration oldest{};
    auto hand_over = [&] {
      if (batch == nullptr || batch->empty()) return;
      std::lock_guard const lock(mutex_);
      queue_.push_back(batch);
      batch = nullptr;
      changed_.notify_all();
    };
    Line line;
    for (;;) {
      std::optional<Duration> wait = options_.linger;
      if (batch != nullptr && !batch->empty()) {
        Duration const age = io_.clock.steady() - oldest;
        wait = std::max(Duration::zero(), options_.linger - age);
        // What waits is handed over as soon as the deliverer has nothing else to do.
        if (!reader_.ready() && deliverer_idle() && age >= std::chrono::milliseconds(5))
          wait = Duration::zero();
        else if (!reader_.ready() && deliverer_idle())
          wait = std::min(*wait, Duration(std::chrono::milliseconds(5)));
      }
      auto got = reader_.next(line, wait);
      if (!got) {
        hand_over();
        return got.status();
      }
      if (*got == Reader::Wait::timeout) {
        hand_over();
        if (Status status = failure(); !status.ok()) return status;
        continue;
      }
      if (*got != Reader::Wait::line) {
        hand_over();
        return {};
      }
      if (!line.terminated && io_.receipts.active()) {
        hand_over();
        half_line_ = true;
        return Status::defect(
            fmt::format("line {} ends in the middle: the stage before {} was killed", line.number, tool_name()));
      }
      if (batch == nullptr) {
        batch = take_spare();
        if (batch == nullptr) return failure();
      }
      if (batch->empty()) oldest = io_.clock.steady();
      if (Status status = add(*batch, line); !status.ok()) {
        hand_over();
        return status;
      }
      if (batch->count >= options_.batch_records || batch->bytes >= options_.batch_bytes) hand_over();
    }
  }

  Status add(Batch& batch, Line const& line) {
    ++counters().records;
    counters().bytes += line.size;
    char* begin = batch.arena.copy(line.text);
    std::size_t size = line.text.size();
    batch.bytes += size;
    if (batch.count == batch.records.size()) batch.records.emplace_back();
    SinkRecord& record = batch.records[batch.count];
    record.line = line.number;
    record.delivery = {};
    bool known = io_.receipts.active() && take_delivery(io_.receipts, begin, size, record.delivery);
    auto reject = [&](std::string reason) {
      batch.rejected.push_back({line.number, record.delivery, {begin, size}, std::move(reason)});
      return Status{};
    };
    if (line.too_long || size > options_.max_record) {
      note_read(record.delivery);
      return reject(fmt::format("a record of {} bytes is over --max-record {}", line.size, options_.max_record));
    }
    Status status = parser_.parse({begin, size}, record.record);
    if (status.ok() && io_.receipts.active() && !known) {
      Value const value = record.record.attribute("delivery");
      std::vector<Position> positions;
      if (!io_.receipts.positions_of(value.raw, positions)) {
        return Status::usage(fmt::format(
            "line {}: a stage before {} drops .delivery (jq: keep the event, change .data)", line.number, tool_name()));
      }
      std::size_t const token = io_.receipts.token().size() + 2;
      record.delivery = value.raw.substr(token, value.raw.size() - token - 1);
      std::string const rest = record.record.without("delivery");
      begin = batch.arena.copy(rest);
      status = parser_.parse({begin, rest.size()}, record.record);
    }
    note_read(record.delivery);
    if (!status.ok()) return reject(status.what());
    if (options_.on_delete != "apply" && record.record.is_deletion()) {
      return reject(options_.on_delete == "reject" ? "a deletion (--on-delete reject)" : "");
    }
    ++batch.count;
    return {};
  }

  // The positions of the newest record read: an unnumbered one among them may come again from a foreign filter that
  // splits.
  void note_read(std::string_view delivery) {
    if (!io_.receipts.active() || delivery.empty()) return;
    std::lock_guard const lock(newest_mutex_);
    if (delivery == newest_) return;
    newest_ = delivery;
    if (!warned_ && delivery.find_first_of("/,-") == std::string_view::npos) {
      std::uint64_t const position = std::strtoull(newest_.c_str(), nullptr, 10);
      if (settled_.contains(position)) {
        warned_ = true;
        say_warning(fmt::format("position {} comes back: a stage splits and reorders; use --ack exit", position));
      }
    }
  }

  Batch* take_spare() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !spare_.empty() || !failed_.ok() || gone_; });
    if (spare_.empty()) return nullptr;
    Batch* const batch = spare_.back();
    spare_.pop_back();
    batch->clear();
    return batch;
  }

  bool deliverer_idle() {
    std::lock_guard const lock(mutex_);
    return idle_ && queue_.empty();
  }

  Status failure() {
    std::lock_guard const lock(mutex_);
    return failed_;
  }

  // ---- the delivering thread

  void deliver_all() {
    Status status;
    while (status.ok()) {
      Batch* batch = nullptr;
      {
        std::unique_lock lock(mutex_);
        idle_ = true;
        changed_.wait_for(lock, options_.linger, [&] { return !queue_.empty() || input_ended_; });
        if (!queue_.empty()) {
          batch = queue_.front();
          queue_.pop_front();
          idle_ = false;
        } else if (input_ended_) {
          break;
        }
      }
      if (batch == nullptr) {
        status = settle_held(false);
        continue;
      }
      status = deliver_batch(*batch);
      if (status.ok()) status = settle_held(false);
      std::lock_guard const lock(mutex_);
      spare_.push_back(batch);
      changed_.notify_all();
    }
    if (status.ok()) status = settle_held(true);
    if (status.ok()) status = finish_receipts();
    std::lock_guard const lock(mutex_);
    gone_ = true;
    if (!status.ok()) {
      failed_ = status;
      request_stop(SIGTERM);  // wakes the reading thread
    }
    changed_.notify_all();
  }

  Status deliver_batch(Batch& batch) {
    for (Rejected const& rejected : batch.rejected) {
      if (Status status = reject(rejected.delivery, rejected.line, rejected.text, rejected.reason); !status.ok())
        return status;
    }
    std::span<SinkRecord> const records(batch.records.data(), batch.count);
    group(records);
    return deliver_range(records);
  }

  // Until each record has an outcome.
  Status deliver_range(std::span<SinkRecord const> records) {
    std::vector<SinkRecord> rest;  // a smaller batch, where some have an outcome already
    Backoff backoff(std::chrono::milliseconds(100), std::chrono::seconds(30));
    std::optional<Duration> failing_since;
    while (!records.empty()) {
      if (io_.receipts.abandoned()) return source_gone();
      Outcomes outcomes(records.size());
      Status status = sink_.deliver(records, outcomes);
      std::vector<SinkRecord> left;
      if (Status told = tell(records, outcomes, left); !told.ok()) return told;
      if (left.size() < records.size()) accepted_ = true, backoff.reset(), failing_since.reset();
      if (left.empty()) return status.code() == Code::defect ? status : Status{};
      rest = std::move(left);
      records = rest;
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

  Status tell(std::span<SinkRecord const> records, Outcomes& outcomes, std::vector<SinkRecord>& left) {
    PositionList stored, held, dropped;
    std::vector<Position> positions;
    for (std::size_t i = 0; i < records.size(); ++i) {
      auto& outcome = outcomes.outcomes_[i];
      if (outcome.kind == Outcomes::Kind::none) {
        left.push_back(records[i]);
        continue;
      }
      if (outcome.kind == Outcomes::Kind::rejected) {
        if (Status status = reject(records[i], outcome.reason); !status.ok()) return status;
        continue;
      }
      ++(outcome.kind == Outcomes::Kind::dropped ? counters().dropped : counters().settled);
      if (!io_.receipts.active()) continue;
      if (outcome.kind == Outcomes::Kind::stored) {
        note(records[i], true);
        continue;
      }
      note(records[i], false);
      positions.clear();
      (void)parse_positions(records[i].delivery, positions);
      (outcome.kind == Outcomes::Kind::held ? held : dropped).add(positions);
    }
    if (!io_.receipts.active()) return {};
    if (Status status = io_.receipts.held(held); !status.ok()) return status;
    if (Status status = io_.receipts.dropped(dropped); !status.ok()) return status;
    return send_stored();
  }

  // Records next to each other with one unnumbered position came of one event, by a foreign filter that splits: it is
  // stored when all of them are. Those at the end of a batch wait for the next one, which may go on with them, or for
  // the end.
  void group(std::span<SinkRecord> records) {
    groups_.clear();
    if (!io_.receipts.active() || records.empty()) return;
    for (std::size_t i = 0; i < records.size(); ++i) {
      bool const whole = records[i].delivery.find('/') == std::string_view::npos;
      if (i == 0 || !whole || records[i].delivery != records[i - 1].delivery) groups_.emplace_back();
      records[i].group = static_cast<std::uint32_t>(groups_.size() - 1);
      ++groups_.back().outstanding;
    }
    if (!deferred_text_.empty() && deferred_text_ != records[0].delivery) add_positions(deferred_text_);
    deferred_text_.clear();
  }

  void note(SinkRecord const& record, bool stored) {
    if (groups_.empty()) return;
    Group& of_event = groups_[record.group];
    of_event.all_stored = of_event.all_stored && stored;
    if (--of_event.outstanding > 0 || !of_event.all_stored) return;
    if (record.group + 1 == groups_.size() && record.delivery.find('/') == std::string_view::npos) {
      deferred_text_ = record.delivery;
    } else {
      add_positions(record.delivery);
    }
  }

  void add_positions(std::string_view delivery) {
    positions_.clear();
    (void)parse_positions(delivery, positions_);
    ready_.add(positions_);
    if (positions_.size() == 1 && positions_[0].pieces.empty() && !warned_) {
      std::lock_guard const lock(newest_mutex_);
      settled_.add(positions_[0].first, positions_[0].last);
    }
  }

  Status send_stored() {
    if (ready_.empty()) return {};
    Status status = io_.receipts.stored(ready_);
    ready_.clear();
    return status;
  }

  Status finish_receipts() {
    if (Status status = send_stored(); !status.ok()) return status;
    if (deferred_text_.empty() || half_line_ || stopping()) return {};
    add_positions(deferred_text_);
    deferred_text_.clear();
    Status status = io_.receipts.last(ready_);
    ready_.clear();
    return status;
  }

  Status settle_held(bool final) {
    PositionList stored;
    Status status = patiently([&] { return sink_.settle_held(final, stored); });
    if (Status told = io_.receipts.stored(stored); !told.ok()) return told;
    return status;
  }

  Status reject(SinkRecord const& record, std::string_view reason) {
    note(record, false);
    return reject(record.delivery, record.line, record.record.line(), reason);
  }

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
    Backoff backoff(std::chrono::milliseconds(100), std::chrono::seconds(30));
    std::optional<Duration> failing_since;
    for (;;) {
      Status status = action();
      bool const waitable = status.code() == Code::temporary || (status.code() == Code::usage && accepted_);
      if (!waitable) return status;
      if (Status waited = wait_for(status.what(), backoff.next(), {}, failing_since); !waited.ok()) return waited;
    }
  }

  // Sleeps, tells the source each 30 s that we are alive, the operator once.
  Status wait_for(std::string const& why, Duration time, std::span<SinkRecord const> records,
                  std::optional<Duration>& since) {
    Duration const now = io_.clock.steady();
    if (!since) {
      since = now;
      last_told_ = now;
      say_warning(fmt::format("waiting: {}", why));
      if (Status status = io_.receipts.waiting(why); !status.ok()) return status;
      if (Status status = hold(records); !status.ok()) return status;
    } else if (now - last_told_ > std::chrono::seconds(30)) {
      last_told_ = now;
      if (Status status = io_.receipts.waiting(why); !status.ok()) return status;
    }
    if (give_up_ && now - *since > *give_up_) return Status::temporary(fmt::format("gave up: {}", why));
    for (Duration const until = now + time; io_.clock.steady() < until;) {
      if (stopping() && since && io_.clock.steady() - *since > std::chrono::seconds(2)) return {Code::stopped, why};
      if (io_.receipts.abandoned()) return source_gone();
      Duration const left = std::min<Duration>(until - io_.clock.steady(), std::chrono::milliseconds(100));
      if (left > Duration::zero()) std::this_thread::sleep_for(left);
    }
    return {};
  }

  Status hold(std::span<SinkRecord const> records) {
    PositionList held;
    std::vector<Position> positions;
    for (SinkRecord const& record : records) {
      positions.clear();
      if (parse_positions(record.delivery, positions)) held.add(positions);
    }
    return io_.receipts.held(held);
  }

  Status dry_run() {
    Batch batch;
    Line line;
    reader_.on_idle([this] { return io_.out.flush(); });
    for (;;) {
      auto got = reader_.next(line);
      if (!got) return got.status();
      if (*got != Reader::Wait::line) return {};
      batch.clear();
      if (Status status = add(batch, line); !status.ok()) return status;
      for (Rejected const& rejected : batch.rejected) {
        if (Status status = reject(rejected.delivery, rejected.line, rejected.text, rejected.reason); !status.ok())
          return status;
      }
      if (batch.count == 0) continue;
      std::string text;
      Status status = sink_.show(batch.records[0], text);
      if (status.code() == Code::rejected) {
        status = reject(batch.records[0].delivery, line.number, batch.records[0].record.line(), status.what());
      } else if (status.ok()) {
        status = io_.out.line(text);
      }
      if (!status.ok()) return status;
    }
  }

  Io& io_;
  Sink& sink_;
  SinkOptions const& options_;
  RejectFile rejects_;
  Reader reader_;
  RecordParser parser_;
  std::optional<Duration> give_up_;
  std::atomic<bool> half_line_ = false;

  std::mutex mutex_;  // guards what follows, up to the next blank line
  std::condition_variable changed_;
  Batch batches_[2];  // one is filled while the other is delivered
  std::vector<Batch*> spare_;
  std::deque<Batch*> queue_;
  bool input_ended_ = false, idle_ = true, gone_ = false;
  Status failed_;

  std::mutex newest_mutex_;
  std::string newest_;  // `delivery` of the record read last
  Ranges settled_;
  bool warned_ = false;

  // of the delivering thread
  struct Group {
    std::uint32_t outstanding = 0;
    bool all_stored = true;
  };
  std::vector<Group> groups_;  // the records of a batch by event
  std::string deferred_text_;
  PositionList ready_;
  std::vector<Position> positions_;
  bool accepted_ = false;
  Duration last_told_{};
};

void SinkOptions::add_to(Cli& cli, bool deletes, bool letters) {
  cli.option("--batch-records", batch_records, "records delivered at once");
  cli.size("--batch-bytes", batch_bytes, "bytes delivered at once");
  cli.option("--linger", linger, "how long a batch waits for more records");
  cli.size("--max-record", max_record, "reject records above this size");
  if (letters) cli.option("--dead-letters", dead_letters, "file for rejected records, where no source keeps them");
  cli.option("--give-up", give_up_option,
             "exit 75 when the destination fails for so long (a plain pipe: 10m, else never)");
  cli.flag("--dry-run", dry_run, "write nothing, show on standard output what would be written");
  if (deletes) cli.choice("--on-delete", on_delete, {"apply", "ignore", "reject"}, "what to do with a deletion");
}

Exit run_sink(Io& io, Sink& sink, SinkOptions const& options) { return SinkLoop(io, sink, options).run(); }

}  // namespace inflight

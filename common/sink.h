// A destination as the loop of every sink (sink_loop.h) sees it: it connects, and delivers one batch.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/cli.h"
#include "common/concurrency.h"
#include "common/reader.h"
#include "common/receipts.h"
#include "common/record.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct SinkOptions {
  std::uint64_t batch_records = 5000;
  std::uint64_t batch_bytes = 4 << 20;
  Duration linger = std::chrono::milliseconds(200);  // a batch waits no longer than this for more records
  std::uint64_t max_record = kMaxRecord;
  std::string dead_letters;
  std::string on_delete = "apply";
  std::optional<Duration> give_up;  // none: under a source never, in a plain pipe 10 min
  Duration give_up_option{};
  bool dry_run = false;

  // --batch-records --batch-bytes --linger --max-record --dead-letters --give-up --dry-run, and --on-delete where
  // `deletes`
  void add_to(Cli& cli, bool deletes = true, bool letters = true);
};

// What became of each record of a batch. A record without an outcome is delivered again.
class Outcomes {
 public:
  explicit Outcomes(std::size_t count) : outcomes_(count) {}

  void stored(std::size_t i) { outcomes_[i].kind = Kind::stored; }
  void all_stored() {
    for (auto& outcome : outcomes_) {
      if (outcome.kind == Kind::none) outcome.kind = Kind::stored;
    }
  }
  // The record's own fault, proven.
  void rejected(std::size_t i, std::string reason) { outcomes_[i] = {Kind::rejected, std::move(reason)}; }
  // Taken in but not yet durable (an open archive object): Sink::settle_held() tells when it is.
  void held(std::size_t i) { outcomes_[i].kind = Kind::held; }
  void dropped(std::size_t i) { outcomes_[i].kind = Kind::dropped; }
  // What the destination asked for before the next attempt.
  void retry_after(Duration wait) { retry_after_ = wait; }

 private:
  friend class SinkLoop;
  enum class Kind : char { none, stored, rejected, held, dropped };
  struct Outcome {
    Kind kind = Kind::none;
    std::string reason;
  };
  std::vector<Outcome> outcomes_;
  std::optional<Duration> retry_after_;
};

// A record as a sink gets it: without `delivery`. What it points to is valid while the batch is delivered.
struct SinkRecord {
  Record record;              // of no use where the sink keeps something else of it
  std::string_view kept;      // that
  std::string_view text;      // the record's line, where the sink keeps it or dead letters are to hold it
  std::string_view delivery;  // its positions (receipts.h), empty in a plain pipe
  std::uint64_t line = 0;     // of the input
  std::uint32_t group = 0;    // the loop's: which records of a batch are of one event
};

// What became of one record that was delivered alone.
struct SinkAnswer {
  std::size_t number = 0;
  // ok: stored. rejected, temporary, usage, defect: as Sink::deliver() says them, of this record.
  Status status;
  std::optional<Duration> retry_after;
  Concurrency::Answer load = Concurrency::Answer::served;
  // temporary or usage, which may yet be the record's own fault: it is, when it was said more often than this, others
  // being started and stored in between each time. 0: it is not.
  unsigned doubts = 0;
};

// The other way to deliver: one record at a time, many of them under way. The loop sees to the order of records and to
// how many there are at once.
class SinkRequests {
 public:
  virtual ~SinkRequests() = default;
  [[nodiscard]] virtual std::size_t max_in_flight() const = 0;
  // Records of one key are delivered one after the other, in their order. Empty: it needs none.
  [[nodiscard]] virtual std::string_view key_of(SinkRecord const& record) const = 0;
  // Whether `next`, of the same key, need not be delivered by itself when `first` is about to be.
  [[nodiscard]] virtual bool joins(SinkRecord const& first, SinkRecord const& next) const {
    (void)first, (void)next;
    return false;
  }
  // The record is valid until turn() has given the answer with this number.
  virtual void start(SinkRecord const& record, std::size_t number) = 0;
  // Waits at most so long, and adds what has been answered.
  [[nodiscard]] virtual Status turn(Duration wait, std::vector<SinkAnswer>& answers) = 0;
};

// What the reading thread (sink_input.h) asks of who takes the records.
class RecordTaker {
 public:
  virtual ~RecordTaker() = default;

  // Whether it keeps something else of each record than the record: what is delivered of it, in fewer bytes, since a
  // batch is bounded by memory and more records then fit into it. The reading thread calls keep(), alongside the rest.
  // Code::rejected: the record's own fault.
  [[nodiscard]] virtual bool keeps() const { return false; }
  [[nodiscard]] virtual Status keep(Record const& record, std::string& kept) {
    (void)record, (void)kept;
    return {};
  }
  // Whether records leave one by one, so that one may wait for long while others pass it.
  [[nodiscard]] virtual bool one_by_one() { return false; }
};

class Sink : public RecordTaker {
 public:
  // Opens the destination; called again after a temporary failure, before any deliver(). Code::usage: the operator is
  // at fault.
  [[nodiscard]] virtual Status connect() = 0;

  // Delivers a batch and says of each record what became of it.
  //   ok         records without an outcome are delivered again after a back-off
  //   temporary  all without an outcome are delivered again; the text says what is waited for
  //   rejected   one of those without an outcome is bad, or they are too much at once: the loop bisects;
  //              a single one is rejected with this text
  //   usage      the operator's (permission, missing table): exit 2 before the first accepted record,
  //              waited for after it
  //   defect     exit 70
  [[nodiscard]] virtual Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) {
    (void)batch, (void)outcomes;
    return Status::defect("it delivers no batches");
  }
  // Delivers record by record instead, where it is not null.
  [[nodiscard]] virtual SinkRequests* requests() { return nullptr; }
  [[nodiscard]] bool one_by_one() override { return requests() != nullptr; }

  // Called after each batch, at least every linger while the input is idle, and with `final` at its end: closes what is
  // due, and adds to `stored` the positions of held records that are durable now.
  [[nodiscard]] virtual Status settle_held(bool final, PositionList& stored) {
    (void) final, (void)stored;
    return {};
  }

  // What --dry-run shows for a record: one line, without newline.
  [[nodiscard]] virtual Status show(SinkRecord const& record, std::string& out) = 0;
};

}  // namespace inflight

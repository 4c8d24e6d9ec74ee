// The input of a sink, or of who takes records as a sink does, in batches: reads and parses in one thread what another
// one delivers.
//
// Memory: two batches, each of at most --batch-records, --batch-bytes and 12 MiB (or of one record, which is then
// alone). Where records are delivered one by one, and one of them may wait for long while others pass it, there are
// more batches, and smaller ones.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/io.h"
#include "common/reader.h"
#include "common/record.h"
#include "common/sink.h"
#include "common/status.h"

namespace inflight {

// Memory that does not move, for the bytes of a batch.
class Arena {
 public:
  // `padding`: how many more bytes must be readable behind it.
  char* copy(std::string_view text, std::size_t padding);
  // A copy, or the text itself where it is long; of no use to the caller after it.
  std::string_view take(std::string& text);
  void clear();
  [[nodiscard]] std::size_t used() const { return full_ + used_; }

 private:
  static constexpr std::size_t kBlock = 1 << 20;
  std::vector<std::vector<char>> blocks_;
  std::deque<std::string> taken_;  // does not move what it holds
  std::size_t block_ = 0, used_ = 0, full_ = 0;
};

struct SinkBatch {
  struct Rejected {
    std::uint64_t line = 0;
    std::string_view delivery;
    std::string_view text;
    std::string reason;  // empty: left out on purpose
  };
  std::vector<SinkRecord> records;  // those beyond `count` are kept for their memory
  std::size_t count = 0;
  std::vector<Rejected> rejected;  // that never come to the sink

  Arena arena;
  std::size_t bytes = 0;   // of records as they came, or as they are kept
  std::size_t memory = 0;  // all that they take
  std::size_t open = 0;    // the deliverer's: records without an outcome

  void clear();
  [[nodiscard]] bool empty() const { return count == 0 && rejected.empty(); }
};

class SinkInput {
 public:
  // `texts`: SinkRecord::text is asked for. `arrived` hears of the positions of each record.
  SinkInput(Io& io, RecordTaker& taker, SinkOptions const& options, bool texts,
            std::function<void(std::string_view delivery)> arrived);

  // ---- the reading thread

  // Until the input ends, a stop signal comes, or stop(). Code::usage: a stage before us drops .delivery. Code::defect:
  // one was killed in the middle of a line.
  [[nodiscard]] Status read();

  // ---- the delivering thread

  enum class Next { batch, none, end };
  // The next batch, or none within this time.
  [[nodiscard]] Next next(SinkBatch*& batch, Duration wait);
  // Gives it back to be filled again.
  void done(SinkBatch* batch);
  // Ends read(), if need be by a stop signal of our own.
  void stop();
  // Whether the input has ended at the end of a line.
  [[nodiscard]] bool whole();

  // Without threads: the next record alone, never as Sink::keep() leaves it. Nothing at the end.
  [[nodiscard]] Result<SinkBatch*> single(std::function<Status()> const& idle);

 private:
  Status read_batches();
  Status add(SinkBatch& batch, Line const& line, bool keep);
  SinkBatch* take_spare();
  bool wait_until_spare(bool all);
  Duration patience(SinkBatch const* batch, Duration oldest);

  Io& io_;
  RecordTaker& taker_;
  SinkOptions const& options_;
  bool texts_;
  std::function<void(std::string_view)> arrived_;
  Reader reader_;
  RecordParser parser_;
  Record parsed_;     // one of which the sink keeps something else
  std::string kept_;  // that
  std::size_t const batch_records_, batch_memory_;
  std::deque<SinkBatch> batches_;  // one is filled while others are delivered

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<SinkBatch*> spare_;
  std::deque<SinkBatch*> queue_;
  bool ended_ = false, idle_ = true, stopped_ = false, half_line_ = false;
};

}  // namespace inflight

// Which positions a sink may call stored, and when.
//
// Records next to each other with one unnumbered position came of one event, by a foreign filter that splits: it is
// stored when all of them are. Whether one more follows shows only in the record behind: so the newest unnumbered
// position waits for that, or is told as `last` when the input has ended.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/receipts.h"
#include "common/sink.h"
#include "common/status.h"

namespace inflight {

// Of the delivering thread, but for arrived(). Says nothing in a plain pipe.
class SinkReceipts {
 public:
  explicit SinkReceipts(Receipts& receipts) : receipts_(receipts) {}

  // The positions of a record as it is read: warns when one comes back that was told stored. Any thread.
  void arrived(std::string_view delivery);

  // Finds out which records of the batch that was read next are of one event.
  void begin(std::span<SinkRecord> batch);
  // What became of one of them; each is told once.
  enum class As { stored, held, dropped, rejected };
  void note(SinkRecord const& record, As as);
  // Tells what was noted stored, held or dropped.
  [[nodiscard]] Status send();
  // Tells at once that these are read and not lost.
  [[nodiscard]] Status hold(std::span<SinkRecord const> records);
  // Tells what waits for a record that will not come. `whole`: the input has ended, and nothing of it was left out.
  [[nodiscard]] Status finish(bool whole);

 private:
  struct Event {
    std::uint32_t outstanding = 0;
    bool all_stored = true;
  };
  void add_stored(std::string_view delivery);
  void forget();

  Receipts& receipts_;
  std::deque<Event> events_;  // from the oldest that is not settled on; SinkRecord::group counts them
  std::uint32_t first_ = 0;   // the oldest's number
  std::string last_;          // the newest's positions
  std::string waiting_;       // the newest's, if it is unnumbered and stored
  PositionList stored_, held_, dropped_;
  std::vector<Position> positions_;

  std::mutex mutex_;  // guards what follows
  std::string newest_;
  Ranges told_;  // unnumbered ones
  bool warned_ = false;
};

}  // namespace inflight

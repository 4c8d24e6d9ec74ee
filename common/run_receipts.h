// What the stages of one run say on its channel, and what that settles in the ledger.  Manual: man/receipts.7
//
// A stage may say anything: only positions that were delivered in this run, under its token, count.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/event_source.h"
#include "common/ledger.h"
#include "common/receipts.h"
#include "common/record.h"
#include "common/status.h"

namespace inflight {

class RunReceipts {
 public:
  // `events` gives the originals for dead letters. Each event needs a receipt of every one of `sinks`.
  RunReceipts(Clock& clock, Ledger& ledger, EventReader& events, std::uint64_t sinks)
      : clock_(clock), ledger_(ledger), events_(events), wanted_sinks_(sinks) {}

  // A new run: nothing is delivered and nothing said.
  void begin(std::string token);
  void delivered(std::uint64_t position);
  // One that is settled already: a receipt for it says only that the pipeline works.
  void delivered_again(std::uint64_t position) { again_ = position; }
  // Whole lines of the channel; foreign ones are passed over. Letters are durable, and settled, when it returns. With
  // one sink too many no receipt of the run counts, and those that did are taken back.
  [[nodiscard]] Status hear(std::string lines);
  // A dead letter of the pipeline as a whole, durable when it returns.
  [[nodiscard]] Status reject(std::uint64_t position, std::string const& by, std::string const& reason);
  // The run ended well: what was known only because the input ended counts now.
  void accept_last();
  // It ended well and is heard by its exit status alone.
  void accept_all();

  [[nodiscard]] std::uint64_t sinks() const { return sinks_; }  // that have said that they are there
  [[nodiscard]] std::unordered_set<int> const& exits() const { return exits_; }
  // Why a stage waits; empty where none does, or something was settled since.
  [[nodiscard]] std::string const& waiting() const { return waiting_; }
  [[nodiscard]] std::uint64_t delivered_count() const { return count_; }
  [[nodiscard]] std::uint64_t stored_count() const { return stored_; }  // whole events
  [[nodiscard]] Ranges unsettled() const;
  // The lowest unsettled event that nobody holds.
  [[nodiscard]] std::optional<std::uint64_t> first_open() const;
  [[nodiscard]] bool any_unsettled() const;  // held ones as well

  // What is below the cursor needs no more to be known of.
  void forget_below(std::uint64_t cursor);
  // It was taken back: what this run delivered of it says nothing of its delivery to come.
  void retract(std::uint64_t position) { delivered_.remove(position, position); }

 private:
  struct Votes {
    std::unordered_set<std::string> by;
    std::map<std::string, Pieces> pieces;
  };

  Status hear_line(std::string_view line);
  Status settle(std::string_view status, std::string_view positions, std::string_view by);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> delivered_among(Position const& position) const;
  void done(Position const& position, std::string_view by, bool stored);
  void settle(std::uint64_t first, std::uint64_t last, bool stored);
  bool has_all_votes(std::uint64_t position, std::string_view pieces, std::string_view by);
  void take_back_all();
  Status dead(std::uint64_t position, std::string const& by, std::string const& reason);
  Status write_letters();

  Clock& clock_;
  Ledger& ledger_;
  EventReader& events_;
  std::uint64_t const wanted_sinks_;
  RecordParser parser_;
  Record heard_;
  std::vector<Position> positions_;

  std::string token_;
  Ranges delivered_, held_;
  Ranges settled_;  // by receipts of this run
  std::optional<std::uint64_t> again_;
  std::uint64_t count_ = 0, stored_ = 0, sinks_ = 0;
  std::map<std::uint64_t, Pieces> pieces_;
  std::map<std::uint64_t, Votes> votes_;
  std::vector<std::pair<std::string, std::string>> last_;  // positions, and who says so
  std::vector<DeadLetter> letters_;
  std::size_t letters_bytes_ = 0;
  std::unordered_set<int> exits_;
  std::string waiting_;
};

}  // namespace inflight

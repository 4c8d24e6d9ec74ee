// The receipts protocol as a stage of a pipeline speaks it.  Manual: man/receipts.7
//
// A source that must not lose data hands every process one pipe, named by RECEIPTS_FD=FD:DEVICE:INODE:TOKEN, and writes
// into each record `"delivery":"TOKEN:POSITIONS"`. Stages answer with one JSON object a line, each one write(2) of at
// most PIPE_BUF bytes.
//
// POSITIONS is a list: `17`, `1200-1233`, or a piece of an event, `17/1`, `17/2`, the last one `17/3.` (nested:
// `17/2./1.`).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace inflight {

// One item of a position list. `pieces` is empty or begins with '/'; it points into the text that was parsed.
struct Position {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::string_view pieces;
};
// Appends what stands in `text` (behind TOKEN:). False where it is no position list.
[[nodiscard]] bool parse_positions(std::string_view text, std::vector<Position>& positions);

// Disjoint ranges of positions.
class Ranges {
 public:
  void add(std::uint64_t first, std::uint64_t last);
  void remove(std::uint64_t first, std::uint64_t last);
  void remove_below(std::uint64_t position);
  void clear() {
    ranges_.clear();
    count_ = 0;
  }
  [[nodiscard]] bool contains(std::uint64_t position) const;
  [[nodiscard]] bool empty() const { return ranges_.empty(); }
  [[nodiscard]] std::uint64_t count() const { return count_; }
  // first -> last, in order, never adjacent
  [[nodiscard]] std::map<std::uint64_t, std::uint64_t> const& map() const { return ranges_; }
  // The lowest position from `position` on that is not in it.
  [[nodiscard]] std::uint64_t next_missing(std::uint64_t position) const;
  [[nodiscard]] std::string text() const;  // `5,7-9`

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_;
  std::uint64_t count_ = 0;
};

// A list of positions as receipts name them, ranges joined.
class PositionList {
 public:
  void add(std::span<Position const> positions);
  void add(PositionList const& other);
  void clear();
  [[nodiscard]] bool empty() const { return whole_.empty() && pieces_.empty(); }
  // The list in texts of at most `limit` bytes each.
  [[nodiscard]] std::vector<std::string> texts(std::size_t limit) const;

 private:
  Ranges whole_;
  std::vector<std::string> pieces_;
};

class Receipts {
 public:
  // From the environment. Inactive where RECEIPTS_FD is not set. Code::usage where it names something that is not the
  // channel: a program before us closes descriptors.
  static Result<Receipts> open();

  [[nodiscard]] bool active() const { return fd_ >= 0; }
  // What the source calls itself, the same when it is started again (RECEIPTS_SOURCE); positions are its.
  [[nodiscard]] std::string const& source() const { return source_; }
  [[nodiscard]] std::string const& token() const { return token_; }
  // The positions of a record's `delivery`, as written in JSON. False: missing, or not of this run.
  [[nodiscard]] bool positions_of(std::string_view raw, std::vector<Position>& positions) const;

  // Each says nothing where inactive. Code::temporary: nobody reads the channel any more; the source is gone.
  [[nodiscard]] Status announce(std::string_view sink);
  [[nodiscard]] Status stored(PositionList const& positions) { return settle(positions, "stored", {}); }
  [[nodiscard]] Status last(PositionList const& positions) { return settle(positions, "last", {}); }
  [[nodiscard]] Status held(PositionList const& positions) { return settle(positions, "held", {}); }
  [[nodiscard]] Status rejected(PositionList const& positions, std::string_view reason) {
    return settle(positions, "rejected", reason);
  }
  [[nodiscard]] Status dropped(PositionList const& positions) { return settle(positions, "dropped", {}); }
  [[nodiscard]] Status waiting(std::string_view why);
  [[nodiscard]] Status exit(int code);
  // True when the source has closed its end.
  [[nodiscard]] bool abandoned() const;

 private:
  Status settle(PositionList const& positions, std::string_view status, std::string_view reason);
  Status send(std::string const& line);

  int fd_ = -1;
  std::string token_;
  std::string source_;
};

}  // namespace inflight

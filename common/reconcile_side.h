// One side of a comparison: a command that writes records, read to its end, each record as an entry of fixed size, in
// the order of keys whatever order they came in.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "common/canonical.h"
#include "common/command.h"
#include "common/path.h"
#include "common/reader.h"
#include "common/spill.h"

namespace inflight {

struct ReconcileOptions {
  std::string left, right;  // commands
  std::vector<Path> key;
  std::vector<Path> fields;  // none: all of the data
  CanonicalOptions canonical;
  std::uint64_t memory = 256 << 20;  // for both sides
  std::string temporary = temporary_folder();
  std::uint64_t max_record = kMaxRecord;
  Duration recheck{};  // none: no second reading
  bool allow_empty = false;
};

// A record, known by XXH3-128 of its canonical key, and by 64 bits of that of key and values: among n keys two that are
// not the same are taken for one with a probability of n² / 2^129, and two values of a key for equal with 2^-64.
struct ReconcileEntry {
  std::uint64_t key_high = 0, key_low = 0;
  std::uint64_t values = 0;
  std::uint64_t at = 0;  // of its text
  auto operator<=>(ReconcileEntry const&) const = default;
};

// Of all records of a side, whatever their order: the sum, modulo 2^128, of the XXH3-128 of each one's canonical text.
struct SideDigest {
  std::uint64_t high = 0, low = 0;
  void add(std::uint64_t more_high, std::uint64_t more_low);
  [[nodiscard]] std::string text() const;
};

class ReconcileSide {
 public:
  ReconcileSide(std::string name, std::string command, ReconcileOptions const& options);

  // Runs the command and reads all that it writes, then sorts. Code::temporary: no verdict, and why: it did not exit
  // with 0, or a line of it is no record that has a key. Code::stopped: a stop signal came.
  [[nodiscard]] Status read();
  // From another thread: ends the command, and with it read().
  void end() { command_.end(); }

  // After read(): the entries in ascending order; false behind the last one.
  [[nodiscard]] Result<bool> next(ReconcileEntry& entry) { return sort_.next(entry); }
  // Key and values, canonical: an array, an object of the fields or the data. Of long values only the first kKept bytes
  // have been kept, and `whole` is false.
  struct Text {
    std::string key, values;
    bool whole = true;
  };
  [[nodiscard]] Result<Text> text(std::uint64_t at) const;
  static constexpr std::size_t kKept = 1024;

  [[nodiscard]] std::uint64_t records() const { return records_; }
  [[nodiscard]] SideDigest const& digest() const { return digest_; }

 private:
  [[nodiscard]] Status add(Record const& record);
  [[nodiscard]] Status append_fields();
  [[nodiscard]] Status append_data(Record const& record);

  std::string name_, line_;
  ReconcileOptions const& options_;
  Command command_;
  Canonical canonical_;
  Selector selector_;  // the key, then the fields
  std::vector<Value> selected_;
  std::vector<std::string> field_names_, key_names_;  // as JSON strings
  std::string text_, header_;
  SpillFile texts_;
  ExternalSort<ReconcileEntry> sort_;
  std::uint64_t records_ = 0;
  SideDigest digest_;
};

}  // namespace inflight

// Which events must stay in order relative to each other: those of one `partitionkey` (`subject` where absent).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/event_source.h"
#include "common/ledger.h"
#include "common/record.h"
#include "common/status.h"

namespace inflight {

class KeyOrder {
 public:
  // The keys are shared out among `copies` of a pipeline; this is the one with number `index`.
  KeyOrder(std::uint64_t copies, std::uint64_t index) : copies_(copies), index_(index) {}

  [[nodiscard]] bool ours(std::string_view line) { return copies_ <= 1 || is_ours(key_of(line)); }

  // What follows one of `open` in the order of its key and is settled already must follow it again, so that an older
  // version never comes last. Takes these back, below `end`; durable before any of `open` is delivered again.
  [[nodiscard]] Result<Ranges> take_back(EventReader& events, Ledger& ledger, Ranges const& open, std::uint64_t end);

 private:
  std::string_view key_of(std::string_view line);
  [[nodiscard]] bool is_ours(std::string_view key) const;

  std::uint64_t copies_, index_;
  RecordParser parser_;
  Record record_;
  std::string buffer_, scratch_;
};

}  // namespace inflight

// Letters that are to be delivered again by whoever runs for their subscriber, now or next: a side log that anybody may
// append to, one line of JSON each, {"replay":17,"attempt":1}.
//
// A letter is stale where its event is gone from the exchange, and with it perhaps newer events of its key that were
// settled: delivered now, an old version would come last. One that holds no payload never is.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/dead_letter.h"
#include "common/ledger.h"
#include "common/status.h"

namespace inflight {

// `kept`: the first position that the exchange keeps.
[[nodiscard]] bool is_stale(DeadLetter& letter, std::uint64_t kept);

class Replays {
 public:
  explicit Replays(std::string path) : path_(std::move(path)) {}

  // Durable. `stale_ok`: also of those that are stale by then.
  [[nodiscard]] Status request(Disk& disk, std::map<std::uint64_t, DeadLetters::Entry> const& letters,
                               bool stale_ok) const;

  // Whether something was asked for since the last merge().
  [[nodiscard]] bool pending() const;
  // Reopens in the ledger what was asked for since the last time. A request counts for the attempt that it names: one
  // that was served, before a crash or after, is passed over. The log is emptied when all of it was served.
  [[nodiscard]] Status merge(Disk& disk, Ledger& ledger, std::uint64_t kept);

 private:
  std::string path_;
  std::uint64_t merged_ = 0;  // bytes
};

}  // namespace inflight

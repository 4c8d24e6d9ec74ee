// What a comparison says: a line for the operator, and a report that somebody else can check, as JSON and as text.
//
// Both are the same byte for byte where the records and the options are: they hold no times, no paths and no commands,
// unless these are asked for.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/reconcile.h"

namespace inflight {

// What a subscriber has yet to do for the right side to be like the left one.
struct Backlogged {
  std::uint64_t pending = 0;        // events unsettled
  std::uint64_t dead_lettered = 0;  // open dead letters
  std::uint64_t lost = 0;           // removed before it could read them
};
// Code::usage where there is no such exchange or subscriber.
[[nodiscard]] Result<Backlogged> read_backlog(Clock& clock, std::string const& exchange, std::string const& subscriber);

class ReconcileReport {
 public:
  // Remembers at most `show` differences of a kind. `commands`: they stand in the report.
  ReconcileReport(ReconcileOptions const& options, std::uint64_t show, bool commands)
      : options_(options), show_(show), commands_(commands) {}

  // Whether it is one of those that are shown.
  bool add(Difference const& difference);
  void set(ReconcileResult const& result, std::optional<Backlogged> backlog) { result_ = result, backlog_ = backlog; }

  [[nodiscard]] std::string summary() const;  // one line
  [[nodiscard]] std::string json() const;
  [[nodiscard]] std::string text() const;

 private:
  // Keys on the left that the right side has; the rest of them is in dead letters, pending, or unaccounted for.
  [[nodiscard]] std::uint64_t written() const {
    return result_.left.keys - std::min(result_.left.keys, result_.missing);
  }
  [[nodiscard]] std::int64_t unaccounted() const;
  [[nodiscard]] std::string balance() const;

  ReconcileOptions const& options_;
  std::uint64_t show_;
  bool commands_;
  std::map<Difference::Kind, std::uint64_t> counts_;
  std::vector<Difference> shown_;
  ReconcileResult result_;
  std::optional<Backlogged> backlog_;
};

// `name: KEY: what`, as a message.
[[nodiscard]] std::string to_message(Difference const& difference);

}  // namespace inflight

// What a tool counts while it runs, its progress line and its metrics file.
//
// Counters are for people and dashboards; nothing decides by them. One set per process.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "common/cli.h"
#include "common/time.h"

namespace inflight {

struct Counters {
  std::atomic<std::uint64_t> records{0};  // taken in
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint64_t> settled{0};  // stored, passed on or settled, as the tool has it
  std::atomic<std::uint64_t> rejected{0};
  std::atomic<std::uint64_t> dropped{0};
  std::atomic<std::uint64_t> retries{0};
  std::atomic<std::uint64_t> restarts{0};  // of a pipeline
  // What comes in all, where that is known: the progress line has an ETA.
  std::atomic<std::uint64_t> expected_records{0}, expected_bytes{0};
  std::atomic<std::int64_t> lag_ns{-1};  // age of the oldest that is not settled; -1: does not apply
};
[[nodiscard]] Counters& counters();
// What is read from here is all that comes: known of a file, not of a pipe.
void expect_bytes_of(int fd);

// Draws the line each second when standard error is a terminal or progress was asked for, and replaces the metrics file
// each second and at the end.
class Progress {
 public:
  explicit Progress(CommonOptions const& options);
  ~Progress();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inflight

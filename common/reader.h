// Reads lines from a descriptor through one large buffer.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/record.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

inline constexpr std::uint64_t kMaxRecord = 16 << 20;

struct Line {
  std::string_view text;     // without newline; kRecordPadding bytes follow; valid until the next call
  char* begin = nullptr;     // of it: whoever has the line may change it in place
  std::uint64_t number = 0;  // counted from 1
  bool terminated = true;    // false: the last line, without newline
  bool too_long = false;     // over max_record: `text` is its first 4 KiB, the rest was passed over
  std::uint64_t size = 0;    // of the whole line
};

class Reader {
 public:
  // `heed_stop` false: for files that must be read to their end whatever signal comes.
  Reader(int fd, std::string name, std::uint64_t max_record = kMaxRecord, bool heed_stop = true);

  enum class Wait { line, end, timeout, stopped };
  // The next line. `timeout` bounds the waiting for bytes (none: for ever). A stop signal ends the waiting, and no line
  // that is not yet read is given any more, except what is already in the buffer.
  [[nodiscard]] Result<Wait> next(Line& line, std::optional<Duration> timeout = std::nullopt);
  // Called before each waiting, with nothing whole left in the buffer: the time to flush what follows us.
  void on_idle(std::function<Status()> idle) { idle_ = std::move(idle); }
  // Whether a whole line is in the buffer.
  [[nodiscard]] bool ready() const;
  // Gives back the memory of a long line; ends the validity of its text.
  void release();
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] std::string const& name() const { return name_; }

 private:
  bool take(Line& line);
  void make_room();
  void resize(std::size_t capacity);

  int fd_;
  std::string name_;
  std::uint64_t max_record_;
  bool heed_stop_;
  std::function<Status()> idle_;
  struct Free {
    void operator()(char* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<char, Free> buffer_;  // not a vector: it grows without a copy, and takes what is read only
  std::size_t capacity_ = 0;            // kRecordPadding more follow
  std::size_t begin_ = 0, scanned_ = 0, end_ = 0;
  std::uint64_t number_ = 0, bytes_ = 0;
  std::uint64_t passed_over_ = 0;  // bytes of a line too long that have been dropped from the buffer
  bool eof_ = false;
};

// What there is to read, in place of `bytes`; false at the end of the file. Calls `idle` before it waits.
// Code::stopped: a stop signal came first.
[[nodiscard]] Result<bool> read_some(int fd, std::string const& name, std::string& bytes,
                                     std::function<Status()> const& idle);

}  // namespace inflight

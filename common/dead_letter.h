// Dead letters: events that could not be processed, each with its stage and reason, kept until they are replayed.
//
// A letter is one line of JSON: {"position":17,"attempt":1,"time":…,"by":…,"reason":…,"event":{…}}; `text` takes the
// place of `event` where the bytes were no JSON (not UTF-8: `text_base64`), `line` that of `position` in a plain pipe.
// `mark` stands before it where the source has marks (source.h).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/fd_io.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct DeadLetter {
  std::uint64_t position = 0;
  std::uint64_t attempt = 1;
  Time time;
  std::string by;  // the stage: a tool's name, or `pipeline`
  std::string reason;
  std::string event;  // the original, as the source has it
  std::string mark{};
};
[[nodiscard]] std::string to_line(DeadLetter letter, bool plain_pipe = false);
[[nodiscard]] Result<DeadLetter> parse_dead_letter(std::string line);

// The letters of one subscriber: an append-only file of letters and of marks that close them. Known by position and
// attempt: appending what stands there already does nothing. Not for two processes at once (the run lock sees to it).
class DeadLetters {
 public:
  // Reads the file; a torn last line is cut off.
  static Result<DeadLetters> open(Disk& disk, std::string const& path);

  // For reading beside the process that writes.
  static Result<DeadLetters> view(std::string const& path);
  // Where the next line will begin at the earliest.
  [[nodiscard]] static Result<std::uint64_t> end(std::string const& path);

  // All of them with one fsync; durable when it returns ok. They are as they were when it returns.
  [[nodiscard]] Status append(std::span<DeadLetter> letters);
  // Closes the open letters of positions (stored or dropped on replay), durably, with one fsync.
  [[nodiscard]] Status close(std::span<std::uint64_t const> positions);
  [[nodiscard]] Status close(std::uint64_t position) { return close(std::span(&position, 1)); }

  struct Entry {
    std::uint64_t offset = 0;  // of the newest attempt's line
    std::uint64_t size = 0;
    std::uint64_t attempt = 0;
    bool open = false;
    std::uint64_t told = 0;  // where the newest line about it begins
  };
  // Every position that ever had a letter.
  [[nodiscard]] std::map<std::uint64_t, Entry> const& entries() const { return entries_; }
  [[nodiscard]] std::uint64_t open_count() const { return open_count_; }
  [[nodiscard]] Result<DeadLetter> read(Entry const& entry) const;

 private:
  Status scan();
  Status ready_to_append();
  Status end_append(Status status, std::uint64_t end);

  Disk* disk_ = nullptr;
  std::string path_;
  Fd fd_;
  std::uint64_t size_ = 0;
  std::map<std::uint64_t, Entry> entries_;
  std::uint64_t open_count_ = 0;
};

// Where a plain shell pipe keeps what it rejects (--dead-letters); without a path each one is a message with its line
// number.
class RejectFile {
 public:
  explicit RejectFile(std::string path) : path_(std::move(path)) {}
  [[nodiscard]] Status reject(std::uint64_t line, std::string_view text, std::string_view reason);
  [[nodiscard]] Status finish();
  [[nodiscard]] std::uint64_t count() const { return count_; }

 private:
  [[nodiscard]] Status end_half_line();

  std::string path_;
  Fd fd_;
  std::uint64_t count_ = 0;
};

}  // namespace inflight

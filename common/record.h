// A record: one line of NDJSON, parsed lazily, edited without touching the bytes that an edit does not name.
//
// A line is an event (it has `specversion`: CloudEvents 1.0, JSON format) or bare (any other object: all of it is
// data). Values are given as written: `"a\u0020b"`, `1.50` and `{ "x":1 }` stay as they are.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/json_text.h"
#include "common/status.h"

namespace inflight {

inline constexpr std::size_t kRecordPadding = 64;  // bytes that must be readable behind a line (simdjson)

inline constexpr std::size_t kMaxMembers = 100'000;  // of a record's outermost level

// A longer record is alone in memory: as few copies of it as can be are held at once, and none that is not needed.
inline constexpr std::size_t kLongRecord = 4 << 20;
inline void forget_long(std::string& text) {
  if (text.capacity() > kLongRecord) std::string().swap(text);
}

// One change of write(): a new raw value for an attribute, or none to leave it out. New attributes come last.
struct Edit {
  std::string_view name;
  std::optional<std::string_view> raw;
};

class Record {
 public:
  struct Field {
    std::string_view name;    // as written, between its quotes
    std::string_view value;   // as written
    std::uint32_t begin = 0;  // of `"name": value` in the line
    std::uint32_t end = 0;
  };

  [[nodiscard]] std::string_view line() const { return line_; }
  [[nodiscard]] bool is_event() const { return is_event_; }
  // An event of a `…deleted` type without data.
  [[nodiscard]] bool is_deletion() const;
  [[nodiscard]] std::span<Field const> fields() const { return fields_; }

  // A top-level member by name (the last one where it stands twice).
  [[nodiscard]] Value attribute(std::string_view name) const;
  // Its text; empty where it is missing or null.
  [[nodiscard]] std::string_view text(std::string_view name, std::string& scratch) const;
  // `data` of an event, all of a bare record.
  [[nodiscard]] Value data() const;
  // `partitionkey`, else `subject`, else empty.
  [[nodiscard]] std::string_view partition_key(std::string& scratch) const;

  // Appends the record with these edits, without newline.
  void write(std::string& out, std::span<Edit const> edits) const;
  [[nodiscard]] std::string without(std::string_view name) const;

 private:
  friend class RecordParser;
  std::string_view line_;
  std::vector<Field> fields_;
  bool is_event_ = false;
};

// One per thread. Checks that the line is UTF-8 and that its outermost level is a JSON object; what lies deeper is
// checked when it is read.
class RecordParser {
 public:
  RecordParser();
  ~RecordParser();
  RecordParser(RecordParser&&) noexcept;
  // Code::rejected with cause and byte offset. The record points into `line`, behind which kRecordPadding bytes are
  // readable.
  [[nodiscard]] Status parse(std::string_view line, Record& record);
  // The same where nothing need stand behind the line.
  [[nodiscard]] Status parse_padded(std::string& line, Record& record);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace inflight

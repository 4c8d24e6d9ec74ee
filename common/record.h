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

#include "common/status.h"

namespace inflight {

inline constexpr std::size_t kRecordPadding = 64;  // bytes that must be readable behind a line (simdjson)

// A value as it stands in the text.
struct Value {
  enum class Kind : char { none, null, boolean, number, string, array, object };
  std::string_view raw;
  Kind kind = Kind::none;
  explicit operator bool() const { return kind != Kind::none; }
};
[[nodiscard]] Value::Kind kind_of(std::string_view raw);
// A JSON string's text; other values as written. `scratch` holds it where escapes had to be resolved.
[[nodiscard]] std::string_view unquote(std::string_view raw, std::string& scratch);
// Appends a JSON string's text. False where an escape in it is none.
[[nodiscard]] bool append_unquoted(std::string& out, std::string_view raw);
// Appends `text` as a JSON string. Bytes that are not UTF-8 become U+FFFD.
void append_quoted(std::string& out, std::string_view text);
[[nodiscard]] std::string json_string(std::string_view text);
[[nodiscard]] bool valid_utf8(std::string_view text);
void append_base64(std::string& out, std::string_view bytes);
// Whether it is a number in JSON's grammar, and nothing else.
[[nodiscard]] bool is_json_number(std::string_view text);
// Appends the bytes that base64 (RFC 4648, padded) stands for. False where it is none.
[[nodiscard]] bool append_from_base64(std::string& out, std::string_view text);

// Whether it is one JSON value, to its last byte.
[[nodiscard]] bool is_json(std::string_view text);

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

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// Which value an option names: an attribute (`subject`; of a bare record a top-level member), or a JSON Pointer (RFC
// 6901) into the data (`/bsu/power/#text`).
class Path {
 public:
  [[nodiscard]] static Result<Path> parse(std::string_view text);
  [[nodiscard]] bool in_data() const { return in_data_; }
  [[nodiscard]] std::vector<std::string> const& steps() const { return steps_; }
  [[nodiscard]] std::string const& text() const { return text_; }

 private:
  std::string text_;
  std::vector<std::string> steps_;
  bool in_data_ = false;
};

// Finds many paths in one pass over a record.
class Selector {
 public:
  explicit Selector(std::vector<Path> const& paths);
  ~Selector();
  Selector(Selector&&) noexcept;
  // values[i] is what paths[i] names, or none. Code::rejected where the data is not JSON.
  [[nodiscard]] Status select(Record const& record, std::vector<Value>& values);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// Calls visit(path, value) for each scalar of a JSON text, `path` the steps joined by `separator`, arrays by index.
// Code::rejected where it is not JSON.
class Flattener {
 public:
  Flattener();
  ~Flattener();
  using Visit = void (*)(void* context, std::string_view path, Value value);
  [[nodiscard]] Status flatten(std::string_view json, char separator, Visit visit, void* context);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// An RFC 6570 template (levels 1 and 2, and `{/json/pointer}` into the data): `orders/{subject}`, `{+subject}`
// unencoded.
class Template {
 public:
  [[nodiscard]] static Result<Template> parse(std::string_view text);
  // Code::rejected where a named value is missing or no scalar.
  [[nodiscard]] Status expand(Record const& record, std::string& out);
  [[nodiscard]] bool constant() const { return parts_.size() <= 1 && (parts_.empty() || parts_[0].literal); }

 private:
  struct Part {
    std::string text;
    bool literal = true;
    bool encode = true;
  };
  std::vector<Part> parts_;
  std::shared_ptr<Selector> selector_;
};

}  // namespace inflight

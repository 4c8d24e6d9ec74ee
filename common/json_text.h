// JSON as text: values as they are written, strings quoted and unquoted, nothing parsed into trees.
#pragma once

#include <string>
#include <string_view>

namespace inflight {

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

// Whether each backslash begins an escape. Of a text that was parsed as a record, which does not look into strings.
[[nodiscard]] bool has_valid_escapes(std::string_view text);
// Whether it is a string in its quotes, a number, true, false or null.
[[nodiscard]] bool is_json_scalar(std::string_view raw);
// Whether the bytes between a string's quotes, escapes and all, say `text`.
[[nodiscard]] bool same_text(std::string_view written, std::string_view text);

}  // namespace inflight

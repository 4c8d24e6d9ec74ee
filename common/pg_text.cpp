#include "common/pg_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/path.h"
#include "common/sql_value.h"
#include "common/time.h"

namespace inflight {

namespace {

constexpr std::string_view kNul = "\\u0000";

// Of a value that stands in a COPY line.
void append_escaped(std::string& out, std::string_view text) {
  for (std::size_t begin = 0;;) {
    std::size_t at = begin;
    while (at < text.size() && static_cast<unsigned char>(text[at]) >= 0x20 && text[at] != '\\') ++at;
    out.append(text, begin, at - begin);
    if (at == text.size()) return;
    char const c = text[at];
    if (c == '\n' || c == '\r' || c == '\t' || c == '\\') {
      out += '\\';
      out += c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c;
    } else {
      out += c;
    }
    begin = at + 1;
  }
}

Status nul() { return Status::rejected("\\u0000 in a text (--nul remove takes it out)"); }

Status without_nul(std::string_view& text, std::string& scratch, bool remove) {
  if (text.find('\0') == std::string_view::npos) return {};
  if (!remove) return nul();
  std::string kept(text);
  std::erase(kept, '\0');
  scratch = std::move(kept);
  text = scratch;
  return {};
}

// The same of a JSON text, in which it is an escape: one that begins with an odd backslash.
Status json_without_nul(std::string_view& json, std::string& scratch, bool remove) {
  std::size_t at = json.find(kNul);
  if (at == std::string_view::npos) return {};
  std::string kept;
  std::size_t begin = 0;
  for (; at != std::string_view::npos; at = json.find(kNul, at)) {
    std::size_t backslashes = 1;
    while (backslashes <= at && json[at - backslashes] == '\\') ++backslashes;
    if (backslashes % 2 == 0) {
      ++at;
      continue;
    }
    if (!remove) return nul();
    kept.append(json, begin, at - begin);
    begin = at += kNul.size();
  }
  if (begin == 0) return {};
  kept.append(json, begin);
  scratch = std::move(kept);
  json = scratch;
  return {};
}

// A time as the column would have it without loss. A column without zone would drop the one that is given.
Status exact_time(PgType const& type, bool round, std::string_view& text, std::string& scratch) {
  std::size_t const point = text.find(':') == std::string_view::npos ? std::string_view::npos : text.find('.');
  if (point != std::string_view::npos && !round) {
    std::size_t const end = std::min(text.find_first_not_of("0123456789", point + 1), text.size());
    std::string_view const beyond = text.substr(std::min(point + 1 + static_cast<std::size_t>(type.digits), end),
                                                end - std::min(point + 1 + static_cast<std::size_t>(type.digits), end));
    if (beyond.find_first_not_of('0') != std::string_view::npos)
      return Status::rejected(fmt::format("{} has more than {} digits of a second (--round-time rounds it)",
                                          text.substr(0, 100), type.digits));
  }
  if (type.kind != PgKind::time || text.find(':') == std::string_view::npos) return {};
  if (text.ends_with('Z') || text.find_first_of("+-", text.find(':')) == std::string_view::npos) return {};
  auto const time = parse_rfc3339(text);
  if (!time) return Status::rejected(fmt::format("{} has a zone, and the column has none", text.substr(0, 100)));
  scratch = format_rfc3339(*time);
  text = scratch;
  return {};
}

// The end of the JSON value that begins here, of a text that is JSON.
std::size_t end_of_value(std::string_view json, std::size_t at) {
  int depth = 0;
  for (bool quoted = false; at < json.size(); ++at) {
    char const c = json[at];
    if (quoted) {
      if (c == '\\') ++at;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      if (depth == 0) return at;
      --depth;
    } else if (c == ',' && depth == 0) {
      return at;
    }
  }
  return at;
}

class Text {
 public:
  Text(PgType const& type, PgTextOptions const& options) : type_(type), options_(options) {}

  // A scalar's text, or JSON's. It points into the value or into scratch_.
  Status of(SqlColumn const& column, Value const& value, std::string_view& text) {
    if (type_.kind == PgKind::json ? column.as != SqlType::text : column.as == SqlType::json) {
      text = value.raw;
      return json_without_nul(text, scratch_, options_.remove_nul);
    }
    text = unquote(value.raw, scratch_);
    if (value.kind == Value::Kind::object || value.kind == Value::Kind::array) {
      if (column.as != SqlType::any && column.as != SqlType::text)
        return Status::rejected(fmt::format("{} is no scalar", value.raw.substr(0, 100)));
      return json_without_nul(text, scratch_, options_.remove_nul);
    }
    if (Status status = without_nul(text, scratch_, options_.remove_nul); !status.ok()) return status;
    if (column.as != SqlType::any && column.as != SqlType::text) {
      SqlValue converted;
      if (Status status = convert(column, value, options_.remove_nul, unused_, converted); !status.ok()) return status;
      if (column.as == SqlType::boolean)
        text = type_.kind == PgKind::boolean || type_.kind == PgKind::text ? (converted.integer != 0 ? "true" : "false")
                                                                           : (converted.integer != 0 ? "1" : "0");
    }
    if (type_.kind == PgKind::real && text.size() > 15) {
      SqlValue converted;
      SqlColumn const floats{column.name, SqlType::real, SqlType::any};
      if (Status status = convert(floats, value, options_.remove_nul, unused_, converted); !status.ok()) return status;
    }
    if (type_.kind == PgKind::time || type_.kind == PgKind::zoned_time)
      return exact_time(type_, options_.round_time, text, scratch_);
    return {};
  }

  // {…} as array_in has it: https://www.postgresql.org/docs/15/arrays.html#ARRAYS-IO
  Status array(SqlColumn const& column, std::string_view json, std::string& out) {
    out += '{';
    bool first = true;
    for (std::size_t at = 1; at < json.size();) {
      at = json.find_first_not_of(" \t\r\n", at);
      if (json[at] == ']') break;
      if (json[at] == ',') {
        ++at;
        continue;
      }
      std::size_t const end = end_of_value(json, at);
      std::string_view raw = json.substr(at, end - at);
      raw = raw.substr(0, raw.find_last_not_of(" \t\r\n") + 1);
      at = end;
      if (!std::exchange(first, false)) out += ',';
      Value const value{raw, kind_of(raw)};
      if (value.kind == Value::Kind::null) {
        out += "NULL";
      } else if (value.kind == Value::Kind::array && type_.kind != PgKind::json) {
        if (Status status = array(column, raw, out); !status.ok()) return status;
      } else {
        std::string_view text;
        if (Status status = of(column, value, text); !status.ok()) return status;
        out += '"';
        for (char const c : text) {
          if (c == '"' || c == '\\') out += '\\';
          out += c;
        }
        out += '"';
      }
    }
    out += '}';
    return {};
  }

 private:
  PgType const& type_;
  PgTextOptions const& options_;
  std::string scratch_, unused_;
};

}  // namespace

Status append_pg_text(std::string& out, PgType const& type, SqlColumn const& column, Value const& value,
                      PgTextOptions const& options) {
  if (value.kind == Value::Kind::null) {
    out += "\\N";
    return {};
  }
  Text text(type, options);
  if (type.array && value.kind == Value::Kind::array && column.as == SqlType::any) {
    if (!is_json(value.raw)) return Status::rejected("an array that is not JSON");
    std::string literal;
    if (Status status = text.array(column, value.raw, literal); !status.ok()) return status;
    append_escaped(out, literal);
    return {};
  }
  std::string_view chars;
  if (type.array && value.kind != Value::Kind::string) {
    chars = value.raw;  // the server says what is wrong with it
  } else if (Status status = text.of(column, value, chars); !status.ok()) {
    return status;
  }
  append_escaped(out, chars);
  return {};
}

}  // namespace inflight

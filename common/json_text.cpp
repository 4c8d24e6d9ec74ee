#include "common/json_text.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <cctype>

namespace inflight {

namespace {

unsigned hex4(std::string_view text) {
  unsigned value = 0;
  for (char const c : text.substr(0, 4)) {
    unsigned digit = 0;
    if (c >= '0' && c <= '9') digit = static_cast<unsigned>(c - '0');
    if (c >= 'a' && c <= 'f') digit = static_cast<unsigned>(c - 'a') + 10;
    if (c >= 'A' && c <= 'F') digit = static_cast<unsigned>(c - 'A') + 10;
    value = value * 16 + digit;
  }
  return value;
}

bool is_hex4(char const* text) {
  return std::all_of(text, text + 4,
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); });
}

void append_utf8(std::string& out, unsigned code) {
  auto put = [&](unsigned byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  }
}

// The length of the UTF-8 sequence at the front, 0 where there is none (RFC 3629).
std::size_t utf8_length(std::string_view text) {
  auto at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  auto tail = [&](std::size_t i) { return (at(i) & 0xc0) == 0x80; };
  unsigned const c = at(0);
  if (c < 0x80) return 1;
  if (c >= 0xc2 && c < 0xe0) return tail(1) ? 2 : 0;
  if (c >= 0xe0 && c < 0xf0) {
    bool const good = tail(1) && tail(2) && !(c == 0xe0 && at(1) < 0xa0) && !(c == 0xed && at(1) >= 0xa0);
    return good ? 3 : 0;
  }
  if (c >= 0xf0 && c < 0xf5) {
    bool const good = tail(1) && tail(2) && tail(3) && !(c == 0xf0 && at(1) < 0x90) && !(c == 0xf4 && at(1) >= 0x90);
    return good ? 4 : 0;
  }
  return 0;
}
}  // namespace

Value::Kind kind_of(std::string_view raw) {
  switch (raw.empty() ? '\0' : raw[0]) {
    case '\0':
      return Value::Kind::none;
    case '"':
      return Value::Kind::string;
    case '{':
      return Value::Kind::object;
    case '[':
      return Value::Kind::array;
    case 't':
    case 'f':
      return Value::Kind::boolean;
    case 'n':
      return Value::Kind::null;
    default:
      return Value::Kind::number;
  }
}

std::string_view unquote(std::string_view raw, std::string& scratch) {
  if (raw.size() < 2 || raw[0] != '"') return raw;
  raw = raw.substr(1, raw.size() - 2);
  std::size_t escape = raw.find('\\');
  if (escape == std::string_view::npos) return raw;
  scratch.clear();
  while (escape != std::string_view::npos && escape + 1 < raw.size()) {
    scratch.append(raw.substr(0, escape));
    char const c = raw[escape + 1];
    raw.remove_prefix(escape + 2);
    switch (c) {
      case 'b':
        scratch += '\b';
        break;
      case 'f':
        scratch += '\f';
        break;
      case 'n':
        scratch += '\n';
        break;
      case 'r':
        scratch += '\r';
        break;
      case 't':
        scratch += '\t';
        break;
      case 'u': {
        unsigned code = hex4(raw);
        raw.remove_prefix(std::min<std::size_t>(4, raw.size()));
        if (code >= 0xd800 && code < 0xdc00 && raw.size() >= 6 && raw.starts_with("\\u")) {
          unsigned const low = hex4(raw.substr(2));
          if (low >= 0xdc00 && low < 0xe000) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            raw.remove_prefix(6);
          }
        }
        append_utf8(scratch, code >= 0xd800 && code < 0xe000 ? 0xfffd : code);  // a lone surrogate has no UTF-8
        break;
      }
      default:
        scratch += c;
    }
    escape = raw.find('\\');
  }
  scratch.append(raw);
  return scratch;
}

bool append_unquoted(std::string& out, std::string_view raw) {
  static constexpr auto plain = [] {
    std::array<char, 128> table{};
    for (std::string_view const pair : {"\"\"", "\\\\", "//", "b\b", "f\f", "n\n", "r\r", "t\t"})
      table[static_cast<unsigned char>(pair[0])] = pair[1];
    return table;
  }();
  raw = raw.substr(1, raw.size() - 2);
  std::size_t const before = out.size();
  out.resize(before + raw.size() + 8);
  char* to = out.data() + before;
  char const* from = raw.data();
  char const* const end = from + raw.size();
  bool good = true;
  while (good && from < end) {
    // Eight bytes at a time up to the next backslash, the bytes behind it too: they are overwritten or cut off.
    if (end - from >= 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, from, 8);
      std::memcpy(to, &word, 8);
      std::uint64_t const x = word ^ 0x5c5c5c5c5c5c5c5cU;
      std::uint64_t const zero = (x - 0x0101010101010101U) & ~x & 0x8080808080808080U;
      int const clean = std::endian::native == std::endian::little ? std::countr_zero(zero) / 8 : zero == 0 ? 8 : 0;
      from += clean;
      to += clean;
      if (clean == 8) continue;
    }
    if (*from != '\\') {
      *to++ = *from++;
      continue;
    }
    char const c = from + 1 < end ? from[1] : '\0';
    char const means = static_cast<unsigned char>(c) < 128 ? plain[static_cast<unsigned char>(c)] : '\0';
    if (means != '\0') {
      *to++ = means;
      from += 2;
      continue;
    }
    std::size_t const size = std::min<std::size_t>(static_cast<std::size_t>(end - from), 12);
    std::size_t used = 6;
    if (c == 'u' && size >= 6 && is_hex4(from + 2)) {
      bool const pair = size == 12 && from[6] == '\\' && from[7] == 'u' && is_hex4(from + 8);
      unsigned code = hex4({from + 2, 4});
      if (pair && code >= 0xd800 && code < 0xdc00) {
        unsigned const low = hex4({from + 8, 4});
        if (low >= 0xdc00 && low < 0xe000) code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00), used = 12;
      }
      std::string character;
      append_utf8(character, code >= 0xd800 && code < 0xe000 ? 0xfffd : code);  // a lone surrogate has no UTF-8
      to = std::copy(character.begin(), character.end(), to);
      from += used;
    } else {
      good = false;
    }
  }
  out.resize(good ? static_cast<std::size_t>(to - out.data()) : before);
  return good;
}

void append_quoted(std::string& out, std::string_view text) {
  // 0: as it is; 1: \u00xx or look closer
  static constexpr auto special = [] {
    std::array<bool, 256> table{};
    for (std::size_t c = 0; c < 256; ++c) table[c] = c < 0x20 || c == '"' || c == '\\' || c >= 0x80;
    return table;
  }();
  out += '"';
  std::size_t clean = 0;
  for (std::size_t i = 0; i < text.size();) {
    auto const c = static_cast<unsigned char>(text[i]);
    if (!special[c]) {
      ++i;
      continue;
    }
    std::size_t const length = c < 0x80 ? 0 : utf8_length(text.substr(i, 4));
    if (length > 1) {
      i += length;
      continue;
    }
    out.append(text, clean, i - clean);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (c >= 0x80) {
          out += "\xef\xbf\xbd";
        } else {
          fmt::format_to(std::back_inserter(out), "\\u{:04x}", c);
        }
    }
    clean = ++i;
  }
  out.append(text, clean, text.size() - clean);
  out += '"';
}

bool has_valid_escapes(std::string_view text) {
  for (std::size_t i = 0; (i = text.find('\\', i)) != std::string_view::npos; i += 2) {
    char const c = i + 1 < text.size() ? text[i + 1] : '\0';
    bool const good = c == 'u' ? i + 6 <= text.size() && is_hex4(text.data() + i + 2)
                               : c != '\0' && std::string_view("\"\\/bfnrt").find(c) != std::string_view::npos;
    if (!good) return false;
  }
  return true;
}

bool is_json_number(std::string_view raw) {
  std::size_t i = raw.starts_with('-') ? 1 : 0;
  auto digits = [&] {
    std::size_t const from = i;
    while (i < raw.size() && raw[i] >= '0' && raw[i] <= '9') ++i;
    return i - from;
  };
  if (i < raw.size() && raw[i] == '0') {
    ++i;
  } else if (digits() == 0) {
    return false;
  }
  if (i < raw.size() && raw[i] == '.' && (++i, digits() == 0)) return false;
  if (i < raw.size() && (raw[i] == 'e' || raw[i] == 'E')) {
    ++i;
    if (i < raw.size() && (raw[i] == '+' || raw[i] == '-')) ++i;
    if (digits() == 0) return false;
  }
  return i == raw.size();
}

bool append_from_base64(std::string& out, std::string_view text) {
  static constexpr auto values = [] {
    std::array<std::uint8_t, 256> table{};
    table.fill(64);
    std::string_view const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::size_t i = 0; i < digits.size(); ++i)
      table[static_cast<unsigned char>(digits[i])] = static_cast<std::uint8_t>(i);
    return table;
  }();
  if (text.size() % 4 != 0) return false;
  std::size_t const padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  out.reserve(out.size() + text.size() / 4 * 3);
  for (std::size_t i = 0; i < text.size(); i += 4) {
    std::size_t const digits = i + 4 == text.size() ? 4 - padding : 4;
    unsigned group = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      unsigned const value = k < digits ? values[static_cast<unsigned char>(text[i + k])] : 0U;
      if (value == 64) return false;
      group = group << 6 | value;
    }
    for (std::size_t k = 1; k < digits; ++k) out += static_cast<char>(group >> (24 - 8 * k) & 0xff);
  }
  return true;
}

std::string json_string(std::string_view text) {
  std::string out;
  append_quoted(out, text);
  return out;
}

bool valid_utf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

void append_base64(std::string& out, std::string_view bytes) {
  static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    auto at = [&](std::size_t k) { return k < bytes.size() ? static_cast<unsigned char>(bytes[k]) : 0U; };
    unsigned const group = at(i) << 16 | at(i + 1) << 8 | at(i + 2);
    for (unsigned k = 0; k < 4; ++k) out += i + k > bytes.size() ? '=' : digits[group >> (18 - 6 * k) & 63];
  }
}
bool is_json_scalar(std::string_view raw) {
  switch (raw.empty() ? '\0' : raw[0]) {
    case '"':
      return raw.size() >= 2 && raw.back() == '"';
    case 't':
      return raw == "true";
    case 'f':
      return raw == "false";
    case 'n':
      return raw == "null";
    default:
      return is_json_number(raw);
  }
}

bool same_text(std::string_view written, std::string_view text) {
  if (written == text) return written.find('\\') == std::string_view::npos;
  if (written.size() <= text.size() || written.find('\\') == std::string_view::npos)
    return false;  // an escape is longer
  std::string scratch;
  return unquote(fmt::format("\"{}\"", written), scratch) == text;
}

}  // namespace inflight

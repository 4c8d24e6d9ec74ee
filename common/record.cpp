#include "common/record.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cstring>

namespace inflight {

namespace {

using simdjson::ondemand::json_type;

std::string_view trimmed(std::string_view raw) {
  while (!raw.empty() && (raw.back() == ' ' || raw.back() == '\t' || raw.back() == '\n' || raw.back() == '\r')) {
    raw.remove_suffix(1);
  }
  return raw;
}

// The value's bytes; the document moves on behind it.
simdjson::error_code raw_of(simdjson::ondemand::value value, std::string_view& raw) {
  json_type type{};
  if (auto error = value.type().get(type)) return error;
  if (type == json_type::object) {
    simdjson::ondemand::object object;
    if (auto error = value.get_object().get(object)) return error;
    auto const error = object.raw_json().get(raw);
    raw = trimmed(raw);
    return error;
  }
  if (type == json_type::array) {
    simdjson::ondemand::array array;
    if (auto error = value.get_array().get(array)) return error;
    auto const error = array.raw_json().get(raw);
    raw = trimmed(raw);
    return error;
  }
  raw = trimmed(value.raw_json_token());
  return raw.empty() ? simdjson::TAPE_ERROR : simdjson::SUCCESS;
}

bool is_scalar_token(std::string_view raw) {
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

Status reject(simdjson::error_code error, std::string_view what) {
  return Status::rejected(fmt::format("{}: {}", what, simdjson::error_message(error)));
}

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

bool same_name(std::string_view written, std::string_view name) {
  if (written == name) return written.find('\\') == std::string_view::npos;
  if (written.size() <= name.size() || written.find('\\') == std::string_view::npos)
    return false;  // an escape is longer
  std::string scratch;
  return unquote(fmt::format("\"{}\"", written), scratch) == name;
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
      table[static_cast<std::size_t>(pair[0])] = pair[1];
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
    char const means = static_cast<unsigned char>(c) < 128 ? plain[static_cast<std::size_t>(c)] : '\0';
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

Value Record::attribute(std::string_view name) const {
  for (std::size_t i = fields_.size(); i-- > 0;) {
    if (same_name(fields_[i].name, name)) return {fields_[i].value, kind_of(fields_[i].value)};
  }
  return {};
}

std::string_view Record::text(std::string_view name, std::string& scratch) const {
  Value const value = attribute(name);
  if (!value || value.kind == Value::Kind::null) return {};
  return unquote(value.raw, scratch);
}

Value Record::data() const {
  if (is_event_) return attribute("data");
  return {line_, Value::Kind::object};
}

std::string_view Record::partition_key(std::string& scratch) const {
  std::string_view const key = text("partitionkey", scratch);
  return key.empty() ? text("subject", scratch) : key;
}

bool Record::is_deletion() const {
  if (!is_event_) return false;
  Value const type = attribute("type");
  if (type.kind != Value::Kind::string || !type.raw.ends_with("deleted\"")) return false;
  Value const data = attribute("data");
  return (!data || data.kind == Value::Kind::null) && !attribute("data_base64");
}

void Record::write(std::string& out, std::span<Edit const> edits) const {
  auto edit_of = [&](std::string_view name) -> Edit const* {
    for (Edit const& edit : edits) {
      if (same_name(name, edit.name)) return &edit;
    }
    return nullptr;
  };
  out += '{';
  bool first = true;
  auto separate = [&] {
    if (!first) out += ',';
    first = false;
  };
  std::uint64_t written = 0;  // edits that have taken the place of an attribute
  std::size_t run_begin = 0;  // fields that stay are copied in one piece
  std::size_t run_end = 0;
  auto copy_run = [&] {
    if (run_end > run_begin) separate(), out.append(line_, run_begin, run_end - run_begin);
    run_begin = run_end = 0;
  };
  for (Field const& field : fields_) {
    Edit const* edit = edit_of(field.name);
    if (edit == nullptr) {
      if (run_end == 0) run_begin = field.begin;
      run_end = field.end;
      continue;
    }
    copy_run();
    std::uint64_t const bit = std::uint64_t{1} << (edit - edits.data());
    if (!edit->raw || (written & bit) != 0) continue;
    separate();
    out.append(line_, field.begin, static_cast<std::size_t>(field.value.data() - line_.data()) - field.begin);
    out.append(*edit->raw);
    written |= bit;
  }
  copy_run();
  for (std::size_t i = 0; i < edits.size(); ++i) {
    if (!edits[i].raw || (written & (std::uint64_t{1} << i)) != 0) continue;
    separate();
    append_quoted(out, edits[i].name);
    out += ':';
    out.append(*edits[i].raw);
  }
  out += '}';
}

std::string Record::without(std::string_view name) const {
  std::string out;
  Edit const edit{name, std::nullopt};
  write(out, {&edit, 1});
  return out;
}

struct RecordParser::State {
  simdjson::ondemand::parser parser;
};

RecordParser::RecordParser() : state_(std::make_unique<State>()) {}
RecordParser::~RecordParser() = default;
RecordParser::RecordParser(RecordParser&&) noexcept = default;

Status RecordParser::parse(std::string_view line, Record& record) {
  record.line_ = line;
  record.fields_.clear();
  record.is_event_ = false;
  if (line.find_first_not_of(" \t\r") == std::string_view::npos)
    return Status::rejected("an empty line is not a record");
  simdjson::ondemand::document document;
  if (auto error = state_->parser.iterate(line.data(), line.size(), line.size() + kRecordPadding).get(document)) {
    return reject(error, "not JSON");
  }
  simdjson::ondemand::object object;
  if (auto error = document.get_object().get(object)) {
    return error == simdjson::INCORRECT_TYPE ? Status::rejected("a record is a JSON object, this is something else")
                                             : reject(error, "not JSON");
  }
  for (auto item : object) {
    simdjson::ondemand::field field;
    if (auto error = std::move(item).get(field)) return reject(error, "not JSON");
    char const* const begin = field.key().raw() - 1;  // its quote
    std::string_view raw;
    simdjson::ondemand::value value = field.value();
    json_type type{};
    if (auto error = value.type().get(type)) return reject(error, "not JSON");
    if (auto error = raw_of(value, raw)) return reject(error, "not JSON");
    if (type != json_type::object && type != json_type::array && !is_scalar_token(raw)) {
      return Status::rejected(fmt::format("not JSON: byte {} is no value", raw.data() - line.data()));
    }
    // The key ends at the quote before the colon before the value.
    char const* key_end = raw.data() - 1;
    while (*key_end != ':') --key_end;
    while (*key_end != '"') --key_end;
    record.fields_.push_back({{begin + 1, static_cast<std::size_t>(key_end - begin - 1)},
                              raw,
                              static_cast<std::uint32_t>(begin - line.data()),
                              static_cast<std::uint32_t>(raw.data() + raw.size() - line.data())});
    if (record.fields_.back().name == "specversion") record.is_event_ = true;
  }
  if (document.current_location().error() == simdjson::SUCCESS)
    return Status::rejected("not JSON: something follows the object");
  return {};
}

Result<Path> Path::parse(std::string_view text) {
  Path path;
  path.text_ = text;
  if (text.empty()) return Status::usage("an empty path: give an attribute (subject) or a JSON Pointer (/bsu/power)");
  if (text[0] != '/') {
    path.steps_.emplace_back(text);
    return path;
  }
  path.in_data_ = true;
  for (std::size_t begin = 1; begin <= text.size();) {
    std::size_t const end = std::min(text.find('/', begin), text.size());
    std::string step;
    for (std::size_t i = begin; i < end; ++i) {
      if (text[i] == '~' && i + 1 < end && (text[i + 1] == '0' || text[i + 1] == '1')) {
        step += text[++i] == '0' ? '~' : '/';
      } else if (text[i] == '~') {
        return Status::usage(fmt::format("'{}' is not a JSON Pointer: ~ is written ~0", text));
      } else {
        step += text[i];
      }
    }
    path.steps_.push_back(std::move(step));
    begin = end + 1;
  }
  return path;
}

namespace {

// The paths as a tree, so that one pass over the data meets each wanted value once.
struct Node {
  std::string step;
  std::vector<std::size_t> wanted;  // indexes of the paths that end here
  std::vector<Node> children;
};

void plant(Node& root, std::vector<std::string> const& steps, std::size_t index) {
  Node* node = &root;
  for (std::string const& step : steps) {
    auto found = std::find_if(node->children.begin(), node->children.end(),
                              [&](Node const& child) { return child.step == step; });
    if (found == node->children.end()) {
      node->children.push_back({step, {}, {}});
      found = node->children.end() - 1;
    }
    node = &*found;
  }
  node->wanted.push_back(index);
}

// Which of the 64 bytes at `at` are `c`, with the bits of `fold` set in each before.
std::uint64_t equal_bytes(char const* at, char c, char fold) {
  std::uint64_t mask = 0;
#ifdef __SSE2__
  using Bytes = char __attribute__((vector_size(16)));
  for (unsigned i = 0; i < 4; ++i) {
    Bytes bytes;
    std::memcpy(&bytes, at + 16 * i, sizeof bytes);
    bytes |= fold;
    auto const equal = static_cast<Bytes>(bytes == c);
    mask |= static_cast<std::uint64_t>(static_cast<std::uint16_t>(__builtin_ia32_pmovmskb128(equal))) << (16 * i);
  }
#else
  for (unsigned i = 0; i < 64; ++i) mask |= std::uint64_t{(at[i] | fold) == c} << i;
#endif
  return mask;
}

// A value inside a text that simdjson has indexed, walked with our own small scanner: one pass, nothing allocated.
class Walk {
 public:
  explicit Walk(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  void space() {
    while (at_ < end_ && *at_ <= ' ' && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
  }
  bool accept(char c) {
    space();
    if (at_ >= end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  // The string at hand, with its quotes; empty where there is none.
  std::string_view string() {
    space();
    if (at_ >= end_ || *at_ != '"') return {};
    char const* const begin = at_++;
    // Most strings are a few bytes long: a call of memchr costs more than they do.
    for (char const* const near = end_ - at_ > 24 ? at_ + 24 : end_; at_ < near && *at_ != '\\'; ++at_) {
      if (*at_ == '"') return {begin, static_cast<std::size_t>(++at_ - begin)};
    }
    for (;;) {
      auto const* quote = static_cast<char const*>(std::memchr(at_, '"', static_cast<std::size_t>(end_ - at_)));
      if (quote == nullptr) return {};
      char const* slash = quote;
      while (slash > begin && slash[-1] == '\\') --slash;
      at_ = quote + 1;
      if ((quote - slash) % 2 == 0) return {begin, static_cast<std::size_t>(at_ - begin)};
    }
  }
  std::string_view scalar() {
    space();
    if (at_ < end_ && *at_ == '"') return string();
    char const* const begin = at_;
    while (at_ < end_ && *at_ != ',' && *at_ != '}' && *at_ != ']' && *at_ != ' ' && *at_ != '\n' && *at_ != '\t' &&
           *at_ != '\r') {
      ++at_;
    }
    std::string_view const raw(begin, static_cast<std::size_t>(at_ - begin));
    return is_scalar_token(raw) ? raw : std::string_view{};
  }
  // Any value; empty where it is not JSON or nested too deep.
  std::string_view skip(int depth = 0) {
    space();
    char const* const begin = at_;
    if (depth > 1000 || at_ >= end_) return {};
    if (*at_ == '{' || *at_ == '[') {
      bool const object = *at_ == '{';
      char const close = object ? '}' : ']';
      ++at_;
      if (accept(close)) return since(begin);
      do {
        if (object && (string().empty() || !accept(':'))) return {};
        if (skip(depth + 1).empty()) return {};
      } while (accept(','));
      return accept(close) ? since(begin) : std::string_view{};
    }
    return scalar();
  }
  // Any value that nobody reads: like simdjson, this only looks for where it ends. Reads up to 64 bytes behind the
  // text.
  std::string_view pass() {
    space();
    if (at_ >= end_ || (*at_ != '{' && *at_ != '[')) return scalar();
    char const* const begin = at_;
    std::uint64_t depth = 0, inside_before = 0;
    for (; at_ < end_; at_ += 64) {
      if (equal_bytes(at_, '\\', 0) != 0) return at_ = begin, skip();
      std::uint64_t inside = equal_bytes(at_, '"', 0);  // of strings: set from a quote up to before the next
      for (unsigned shift = 1; shift < 64; shift *= 2) inside ^= inside << shift;
      inside ^= inside_before;
      inside_before = std::uint64_t{0} - (inside >> 63);
      std::uint64_t const opening = equal_bytes(at_, '{', 0x20) & ~inside;  // [ and { differ in this bit
      std::uint64_t const closing = equal_bytes(at_, '}', 0x20) & ~inside;
      auto const closed = static_cast<std::uint64_t>(std::popcount(closing));
      if (depth > closed) {
        depth += static_cast<std::uint64_t>(std::popcount(opening)) - closed;
        continue;
      }
      for (std::uint64_t both = opening | closing; both != 0; both &= both - 1) {
        bool const opens = (opening & both & (0 - both)) != 0;
        if (opens) {
          ++depth;
        } else if (--depth == 0) {
          at_ += std::countr_zero(both) + 1;
          return at_ <= end_ ? since(begin) : std::string_view{};
        }
      }
    }
    return {};
  }
  [[nodiscard]] char peek() {
    space();
    return at_ < end_ ? *at_ : '\0';
  }
  [[nodiscard]] char const* at() const { return at_; }
  [[nodiscard]] std::string_view since(char const* begin) const {
    return {begin, static_cast<std::size_t>(at_ - begin)};
  }

 private:
  char const* at_;
  char const* end_;
};

}  // namespace

bool is_json(std::string_view text) {
  Walk walk(text);
  if (walk.skip().empty()) return false;
  walk.space();
  return walk.at() == text.data() + text.size();
}

namespace {

bool select_in(Walk& walk, Node const& node, std::vector<Value>& values, int depth = 0) {
  char const* const begin = (walk.space(), walk.at());
  char const open = walk.peek();
  bool good = depth < 1000;
  if (!node.children.empty() && open == '{') {
    walk.accept('{');
    if (!walk.accept('}')) {
      do {
        std::string_view const key = walk.string();
        good = good && !key.empty() && walk.accept(':');
        if (!good) return false;
        std::string_view const name = key.substr(1, key.size() - 2);
        auto const child = std::find_if(node.children.begin(), node.children.end(),
                                        [&](Node const& candidate) { return same_name(name, candidate.step); });
        good = child == node.children.end() ? !walk.pass().empty() : select_in(walk, *child, values, depth + 1);
      } while (good && walk.accept(','));
      good = good && walk.accept('}');
    }
  } else if (!node.children.empty() && open == '[') {
    walk.accept('[');
    if (!walk.accept(']')) {
      std::size_t index = 0;
      do {
        std::string const name = std::to_string(index++);
        auto const child = std::find_if(node.children.begin(), node.children.end(),
                                        [&](Node const& candidate) { return candidate.step == name; });
        good = child == node.children.end() ? !walk.pass().empty() : select_in(walk, *child, values, depth + 1);
      } while (good && walk.accept(','));
      good = good && walk.accept(']');
    }
  } else {
    good = good && !(node.wanted.empty() ? walk.pass() : walk.skip(depth)).empty();
  }
  if (!good) return false;
  for (std::size_t const index : node.wanted) {
    std::string_view const raw = walk.since(begin);
    values[index] = {raw, kind_of(raw)};
  }
  return true;
}

}  // namespace

struct Selector::State {
  std::size_t count = 0;
  std::vector<std::pair<std::size_t, std::string>> attributes;
  Node data;
};

Selector::Selector(std::vector<Path> const& paths) : state_(std::make_unique<State>()) {
  state_->count = paths.size();
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (paths[i].in_data()) {
      plant(state_->data, paths[i].steps(), i);
    } else {
      state_->attributes.emplace_back(i, paths[i].text());
    }
  }
}
Selector::~Selector() = default;
Selector::Selector(Selector&&) noexcept = default;

Status Selector::select(Record const& record, std::vector<Value>& values) {
  values.assign(state_->count, {});
  for (auto const& [index, name] : state_->attributes) values[index] = record.attribute(name);
  if (state_->data.children.empty()) return {};
  Value const data = record.data();
  if (!data) return {};
  Walk walk(data.raw);
  if (!select_in(walk, state_->data, values)) {
    return Status::rejected(fmt::format("data is not JSON: byte {}", walk.at() - record.line().data()));
  }
  return {};
}

struct Flattener::State {
  std::string path;
  char separator = '_';
  Visit visit = nullptr;
  void* context = nullptr;

  bool flatten(Walk& walk, int depth) {
    char const open = walk.peek();
    if (depth > 1000) return false;
    if (open != '{' && open != '[') {
      std::string_view const raw = walk.scalar();
      if (raw.empty()) return false;
      visit(context, path, {raw, kind_of(raw)});
      return true;
    }
    char const close = open == '{' ? '}' : ']';
    walk.accept(open);
    if (walk.accept(close)) return true;
    std::size_t const length = path.size();
    std::string scratch;
    std::size_t index = 0;
    do {
      if (!path.empty()) path += separator;
      if (open == '{') {
        std::string_view const key = walk.string();
        if (key.empty() || !walk.accept(':')) return false;
        path += unquote(key, scratch);
      } else {
        path += std::to_string(index++);
      }
      if (!flatten(walk, depth + 1)) return false;
      path.resize(length);
    } while (walk.accept(','));
    return walk.accept(close);
  }
};

Flattener::Flattener() : state_(std::make_unique<State>()) {}
Flattener::~Flattener() = default;

Status Flattener::flatten(std::string_view json, char separator, Visit visit, void* context) {
  *state_ = {{}, separator, visit, context};
  Walk walk(json);
  if (!state_->flatten(walk, 0)) {
    return Status::rejected(fmt::format("data is not JSON: byte {} of it", walk.at() - json.data()));
  }
  return {};
}

Result<Template> Template::parse(std::string_view text) {
  Template result;
  std::string_view const whole = text;
  std::vector<Path> paths;
  while (!text.empty()) {
    std::size_t const open = text.find('{');
    if (open != 0) {
      result.parts_.push_back({std::string(text.substr(0, open)), true, false});
      text.remove_prefix(std::min(open, text.size()));
      continue;
    }
    std::size_t const close = text.find('}');
    if (close == std::string_view::npos) return Status::usage(fmt::format("'{}': a {{ without its }}", text));
    std::string_view name = text.substr(1, close - 1);
    bool const reserved = name.starts_with('+');
    if (reserved) name.remove_prefix(1);
    // RFC 6570's other operators and modifiers would be taken for a part of the name.
    if (!name.starts_with('/') && name.find_first_of("#.;?&=,!@|*:") != std::string_view::npos) {
      return Status::usage(fmt::format(
          "'{}': {{{}}} is of RFC 6570, but not of what is understood here: {{name}}, {{+name}}, {{/json/pointer}}",
          whole, name));
    }
    auto path = Path::parse(name);
    if (!path) return path.status();
    paths.push_back(*path);
    result.parts_.push_back({std::string(name), false, !reserved});
    text.remove_prefix(close + 1);
  }
  result.selector_ = std::make_shared<Selector>(paths);
  return result;
}

Status Template::expand(Record const& record, std::string& out) {
  std::vector<Value> values;
  if (Status status = selector_->select(record, values); !status.ok()) return status;
  std::size_t next = 0;
  std::string scratch;
  for (Part const& part : parts_) {
    if (part.literal) {
      out += part.text;
      continue;
    }
    Value const value = values[next++];
    if (!value || value.kind == Value::Kind::null || value.kind == Value::Kind::object ||
        value.kind == Value::Kind::array) {
      return Status::rejected(
          fmt::format("{{{}}} names {}", part.text, value ? "no scalar" : "nothing in this record"));
    }
    std::string_view const text = unquote(value.raw, scratch);
    auto hex = [&](std::size_t k) {
      return k < text.size() && std::isxdigit(static_cast<unsigned char>(text[k])) != 0;
    };
    for (std::size_t i = 0; i < text.size(); ++i) {
      char const c = text[i];
      bool const unreserved = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                              c == '.' || c == '_' || c == '~';
      bool const reserved = !part.encode && (std::string_view(":/?#[]@!$&'()*+,;=").find(c) != std::string_view::npos ||
                                             (c == '%' && hex(i + 1) && hex(i + 2)));  // encoded already
      if (unreserved || reserved) {
        out += c;
      } else {
        fmt::format_to(std::back_inserter(out), "%{:02X}", static_cast<unsigned char>(c));
      }
    }
  }
  return {};
}

}  // namespace inflight

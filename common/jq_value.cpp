#include "common/jq_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "common/json_text.h"
#include "common/record.h"

namespace inflight {

namespace {

constexpr std::size_t kLongKey = 40;
constexpr int kExactDigits = 15;  // that any double keeps (DBL_DIG)
constexpr std::size_t kFewPlaces = 64;
constexpr std::size_t kRoom = 4 << 10;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Where `text` stops being bytes of a string that stand for themselves in jq's output.
std::size_t plain(char const* text, std::size_t size) {
  static constexpr auto special = [] {
    std::array<bool, 256> table{};
    for (std::size_t c = 0; c < 0x20; ++c) table[c] = true;
    table['"'] = table['\\'] = table[0x7f] = true;
    return table;
  }();
  std::size_t i = 0;
  while (i < size && !special[static_cast<unsigned char>(text[i])]) ++i;
  return i;
}

void append_string(std::string& out, std::string_view text) {
  if (text.size() > kLongRecord) out.reserve(out.size() + text.size() + kRoom);  // it would double for the quote
  out += '"';
  while (!text.empty()) {
    std::size_t const clean = plain(text.data(), text.size());
    out.append(text.substr(0, clean));
    if (clean == text.size()) break;
    static constexpr std::string_view letters = "\"\"\\\\\bb\ff\nn\rr\tt";
    char const c = text[clean];
    std::size_t i = 0;
    while (i < letters.size() && letters[i] != c) i += 2;
    if (i < letters.size()) {
      out += '\\';
      out += letters[i + 1];
    } else {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned char>(c));
    }
    text.remove_prefix(clean + 1);
  }
  out += '"';
}

// The digits as jq 1.6 sets them (jv_dtoa.c, jvp_dtoa_fmt): the shortest that read back as the same double.
void append_double(std::string& out, double number) {
  char buffer[32];
  auto const end = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  if (text.starts_with('-')) {
    out += '-';
    text.remove_prefix(1);
  }
  std::size_t const e = text.find('e');
  int exponent = 0;
  (void)std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), text.data() + text.size(), exponent);
  char digits[32];
  int count = 0;
  for (char const c : text.substr(0, e)) {
    if (c != '.') digits[count++] = c;
  }
  int const point = exponent + 1;  // digits before it
  std::string_view const all(digits, static_cast<std::size_t>(count));
  if (point <= -4 || point > count + 15) {
    out += all[0];
    if (count > 1) out.append(1, '.').append(all.substr(1));
    fmt::format_to(std::back_inserter(out), "e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (point <= 0) {
    out.append("0.").append(static_cast<std::size_t>(-point), '0').append(all);
  } else if (point >= count) {
    out.append(all).append(static_cast<std::size_t>(point - count), '0');
  } else {
    out.append(all.substr(0, static_cast<std::size_t>(point))).append(1, '.');
    out.append(all.substr(static_cast<std::size_t>(point)));
  }
}

// Whether a double may not hold all of its digits.
bool is_long(std::string_view text) {
  text = text.substr(0, text.find_first_of("eE"));
  int digits = 0, zeros = 0;
  for (char const c : text) {
    if (c < '0' || c > '9') continue;
    if (c == '0') {
      zeros += digits > 0 ? 1 : 0;
    } else {
      digits += zeros + 1;
      zeros = 0;
    }
  }
  return digits > kExactDigits;
}

}  // namespace

JqRecord::JqRecord() : places_(kFewPlaces) {}

JqRecord::Identity JqRecord::identify(jv value) {
  static_assert(sizeof(jv) == sizeof(Identity));
  return std::bit_cast<Identity>(value);
}

// ---- reading

Status JqRecord::read(std::string_view text) {
  forget();
  text_ = text;
  at_ = text.data();
  end_ = at_ + text.size();
  broken_ = Broken::syntax;
  jv value = jv_invalid();
  bool repeats = false;
  bool good = read_value(value, 0, repeats);
  input_ = JqValue(value);
  if (good) skip_space();
  if (good && at_ == end_) return {};
  if (broken_ == Broken::deep) return Status::rejected(fmt::format("over {} levels deep", kJqDepth));
  return Status::rejected(fmt::format("not JSON at byte {}", at_ - text.data() + 1));
}

void JqRecord::forget() {
  input_ = JqValue();
  long_numbers_.clear();
  forget_long(scratch_);
  if (places_.size() > kFewPlaces && parts_.size() < places_.size() / 16) {
    std::vector<std::uint32_t>(kFewPlaces).swap(places_);
    std::vector<Part>().swap(parts_);
  }
  forget_parts(0);
}

void JqRecord::skip_space() {
  while (at_ < end_ && is_space(*at_)) ++at_;
}

bool JqRecord::take(char c) {
  skip_space();
  if (at_ == end_ || *at_ != c) return false;
  ++at_;
  return true;
}

// `repeats` is set where a member stands twice somewhere in it: such a part is not as jq writes it.
bool JqRecord::read_value(jv& value, unsigned depth, bool& repeats) {
  skip_space();
  switch (at_ < end_ ? *at_ : '\0') {
    case '{':
      return depth < kJqDepth ? read_object(value, depth + 1, repeats) : broken(Broken::deep);
    case '[':
      return depth < kJqDepth ? read_array(value, depth + 1, repeats) : broken(Broken::deep);
    case '"':
      return read_string(value, false);
    case 't':
      return read_word("true", jv_true(), value);
    case 'f':
      return read_word("false", jv_false(), value);
    case 'n':
      return read_word("null", jv_null(), value);
    default:
      return read_number(value);
  }
}

bool JqRecord::read_object(jv& value, unsigned depth, bool& repeats) {
  char const* const begin = at_++;
  std::size_t const parts = parts_.size();
  value = jv_object();
  bool twice = false;
  int count = 0;
  if (!take('}')) {
    do {
      skip_space();
      jv name = jv_invalid();
      if (at_ == end_ || *at_ != '"' || !read_string(name, true)) return jv_free(name), false;
      jv member = jv_invalid();
      bool const good = take(':') && read_value(member, depth, twice);
      if (!good) return jv_free(name), jv_free(member), false;
      value = jv_object_set(value, name, member);
      ++count;
    } while (take(','));
    if (!take('}')) return false;
  }
  if (jv_object_length(jv_copy(value)) != count) {
    twice = true;
    forget_parts(parts);  // one of them is gone, and its memory will be another value's
  }
  repeats = repeats || twice;
  if (!twice) keep_part(value, {begin, static_cast<std::size_t>(at_ - begin)});
  return true;
}

bool JqRecord::read_array(jv& value, unsigned depth, bool& repeats) {
  char const* const begin = at_++;
  value = jv_array();
  bool twice = false;
  if (!take(']')) {
    do {
      jv element = jv_invalid();
      if (!read_value(element, depth, twice)) return jv_free(element), false;
      value = jv_array_append(value, element);
    } while (take(','));
    if (!take(']')) return false;
  }
  repeats = repeats || twice;
  if (!twice) keep_part(value, {begin, static_cast<std::size_t>(at_ - begin)});
  return true;
}

bool JqRecord::read_word(std::string_view word, jv result, jv& value) {
  if (!std::string_view(at_, static_cast<std::size_t>(end_ - at_)).starts_with(word)) return false;
  at_ += word.size();
  value = result;
  return true;
}

bool JqRecord::read_number(jv& value) {
  char const* const begin = at_;
  char const* at = at_;
  bool const negative = at < end_ && *at == '-';
  if (negative) ++at;
  char const* const digits = at;
  std::int64_t whole = 0;
  while (at < end_ && *at >= '0' && *at <= '9' && at - digits <= kExactDigits) whole = whole * 10 + (*at++ - '0');
  bool const longer = at < end_ && ((*at >= '0' && *at <= '9') || *at == '.' || *at == 'e' || *at == 'E');
  if (!longer && at > digits && at - digits <= kExactDigits && (*digits != '0' || at - digits == 1)) {
    at_ = at;
    auto const number = static_cast<double>(whole);
    value = jv_number(negative ? -number : number);
    return true;
  }
  while (at < end_ && ((*at >= '0' && *at <= '9') || std::strchr("+-.eE", *at) != nullptr) && *at != '\0') ++at;
  std::string_view const text(begin, static_cast<std::size_t>(at - begin));
  if (!is_json_number(text)) return false;
  double number = 0;
  if (std::from_chars(begin, at, number).ec != std::errc()) {
    number = std::strtod(std::string(text).c_str(), nullptr);  // infinite, as jq has it, or next to nothing
    if (!std::isfinite(number)) keep_long_number(std::copysign(DBL_MAX, number), text);
  }
  if (is_long(text)) keep_long_number(number, text);
  at_ = at;
  value = jv_number(number);
  return true;
}

bool JqRecord::read_string(jv& value, bool is_key) {
  char const* const begin = ++at_;
  bool escaped = false;
  for (;;) {
    at_ += plain(at_, static_cast<std::size_t>(end_ - at_));
    if (at_ == end_) return false;
    if (*at_ == '"') break;
    if (static_cast<unsigned char>(*at_) < 0x20) return false;
    escaped = escaped || *at_ == '\\';
    at_ += *at_ == '\\' && end_ - at_ > 1 ? 2 : 1;
  }
  std::string_view text(begin, static_cast<std::size_t>(at_ - begin));
  if (escaped) {
    scratch_.clear();
    if (!append_unquoted(scratch_, {begin - 1, text.size() + 2})) return at_ = begin, false;
    text = scratch_;
  }
  ++at_;
  value = is_key && text.size() <= kLongKey ? key(text) : jv_string_sized(text.data(), static_cast<int>(text.size()));
  return true;
}

// Members have the same names in each record.
jv JqRecord::key(std::string_view text) {
  std::size_t const place = text.empty() ? 0
                                         : (text.size() * 31 + static_cast<unsigned char>(text.front()) * 7 +
                                            static_cast<unsigned char>(text.back()) * 131 +
                                            static_cast<unsigned char>(text[text.size() / 2]) * 17) %
                                               keys_.size();
  Key& known = keys_[place];
  if (known.text != text || jv_get_kind(known.value.get()) != JV_KIND_STRING) {
    known.text = text;
    known.value = JqValue(jv_string_sized(text.data(), static_cast<int>(text.size())));
  }
  return known.value.copy();
}

// ---- what was read, to be found again

void JqRecord::keep_part(jv value, std::string_view text) {
  parts_.push_back({identify(value), text});
  if (parts_.size() * 2 <= places_.size()) return place_part(parts_.size() - 1);
  places_.resize(places_.size() * 4);
  forget_parts(parts_.size());
}

void JqRecord::place_part(std::size_t index) {
  std::size_t place = parts_[index].identity.body / 16 % places_.size();
  while (places_[place] != 0) place = (place + 1) % places_.size();
  places_[place] = static_cast<std::uint32_t>(index + 1);
}

void JqRecord::forget_parts(std::size_t from) {
  parts_.resize(from);
  std::fill(places_.begin(), places_.end(), 0);
  for (std::size_t i = 0; i < parts_.size(); ++i) place_part(i);
}

std::string_view JqRecord::part(jv value) const {
  Identity const wanted = identify(value);
  for (std::size_t place = wanted.body / 16 % places_.size(); places_[place] != 0;
       place = (place + 1) % places_.size()) {
    if (Part const& found = parts_[places_[place] - 1]; found.identity == wanted) return found.text;
  }
  return {};
}

void JqRecord::keep_long_number(double number, std::string_view text) {
  auto const [known, added] = long_numbers_.try_emplace(std::bit_cast<std::uint64_t>(number), text);
  if (!added && known->second != text) known->second = {};
}

bool JqRecord::is_input(JqValue const& value) const { return identify(value.get()) == identify(input_.get()); }

// ---- writing

namespace {

// JSON as it stands, without white space and with strings as jq writes them.
void append_compact(std::string& out, std::string_view text, std::string& scratch) {
  char const* at = text.data();
  char const* const end = at + text.size();
  char const* from = at;  // what is not yet written
  auto flush = [&] { out.append(from, static_cast<std::size_t>(at - from)); };
  while (at < end) {
    if (is_space(*at)) {
      flush();
      while (at < end && is_space(*at)) ++at;
      from = at;
    } else if (*at == '"') {
      char const* const begin = at++;
      at += plain(at, static_cast<std::size_t>(end - at));
      if (*at == '"') {
        ++at;
        continue;
      }
      while (*at != '"') at += *at == '\\' ? 2 : 1;
      ++at;
      out.append(from, static_cast<std::size_t>(begin - from));
      scratch.clear();
      (void)append_unquoted(scratch, {begin, static_cast<std::size_t>(at - begin)});
      append_string(out, scratch);
      from = at;
    } else {
      ++at;
    }
  }
  flush();
}

}  // namespace

Status JqRecord::write(JqValue const& value, std::string& out) {
  if (write_value(value.copy(), out, 0)) return {};
  return Status::rejected(failed_);
}

bool JqRecord::write_value(jv value, std::string& out, unsigned depth) {
  JqValue const owned(value);
  switch (jv_get_kind(value)) {
    case JV_KIND_INVALID:
    case JV_KIND_NULL:
      out += "null";
      return true;
    case JV_KIND_FALSE:
      out += "false";
      return true;
    case JV_KIND_TRUE:
      out += "true";
      return true;
    case JV_KIND_NUMBER:
      return write_number(jv_number_value(value), out);
    case JV_KIND_STRING:
      append_string(out, {jv_string_value(value), static_cast<std::size_t>(jv_string_length_bytes(owned.copy()))});
      return true;
    case JV_KIND_ARRAY:
    case JV_KIND_OBJECT:
      break;
  }
  if (std::string_view const text = part(value); !text.empty()) return append_compact(out, text, scratch_), true;
  if (depth == kJqDepth) {
    failed_ = fmt::format("what the program makes is over {} levels deep", kJqDepth);
    return false;
  }
  if (jv_get_kind(value) == JV_KIND_ARRAY) {
    out += '[';
    int const length = jv_array_length(owned.copy());
    for (int i = 0; i < length; ++i) {
      if (i > 0) out += ',';
      if (!write_value(jv_array_get(owned.copy(), i), out, depth + 1)) return false;
    }
    out += ']';
    return true;
  }
  out += '{';
  char const* comma = "";
  for (int i = jv_object_iter(value); jv_object_iter_valid(value, i) != 0; i = jv_object_iter_next(value, i)) {
    out += comma;
    comma = ",";
    JqValue const name(jv_object_iter_key(value, i));
    append_string(out, {jv_string_value(name.get()), static_cast<std::size_t>(jv_string_length_bytes(name.copy()))});
    out += ':';
    if (!write_value(jv_object_iter_value(value, i), out, depth + 1)) return false;
  }
  out += '}';
  return true;
}

bool JqRecord::write_number(double number, std::string& out) {
  if (std::isnan(number)) {
    out += "null";
    return true;
  }
  if (std::isinf(number)) number = std::copysign(DBL_MAX, number);
  if (!long_numbers_.empty()) {
    if (auto const known = long_numbers_.find(std::bit_cast<std::uint64_t>(number)); known != long_numbers_.end()) {
      if (known->second.empty()) {
        failed_ = fmt::format("two numbers near {} that jq cannot tell apart: it has 64-bit doubles", number);
        return false;
      }
      out += known->second;
      return true;
    }
  }
  if (std::abs(number) < 1e15 && number == std::trunc(number) && (number != 0 || !std::signbit(number))) {
    fmt::format_to(std::back_inserter(out), "{}", static_cast<std::int64_t>(number));
  } else {
    append_double(out, number);
  }
  return true;
}

}  // namespace inflight

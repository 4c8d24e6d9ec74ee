#include "common/canonical.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "common/json_text.h"
#include "common/time.h"

namespace inflight {

namespace {

constexpr int kMostDepth = 1000;
constexpr std::ptrdiff_t kMostInserted = 32;  // members that are sorted by insertion
constexpr std::int64_t kMostPlain = 21;       // digits before the point that are written without an exponent
constexpr std::int64_t kMostZeros = 6;        // zeros behind it, likewise

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Whether it can be a time at all: most strings are none.
bool like_time(std::string_view text) {
  return text.size() >= 20 && text.size() <= 40 && text[4] == '-' && text[7] == '-' && text[13] == ':';
}

// Escapes of half a character (RFC 8259, section 8.2) all give U+FFFD: they are told apart as they are written.
bool has_lone_surrogate(std::string_view raw, std::string_view text) {
  return text.find("\xef\xbf\xbd") != std::string_view::npos &&
         (raw.find("\\ud") != std::string_view::npos || raw.find("\\uD") != std::string_view::npos);
}

}  // namespace

void append_canonical_number(std::string& out, std::string_view number) {
  std::string_view rest = number;
  bool const negative = rest.starts_with('-');
  if (negative) rest.remove_prefix(1);
  std::size_t const whole = std::min(rest.find_first_of(".eE"), rest.size());
  std::size_t const mantissa = std::min(rest.find_first_of("eE"), rest.size());
  std::int64_t exponent = 0;
  if (mantissa < rest.size()) {
    std::string_view digits = rest.substr(mantissa + 1);
    bool const minus = digits.starts_with('-');
    if (!is_digit(digits[0])) digits.remove_prefix(1);
    digits.remove_prefix(std::min(digits.find_first_not_of('0'), digits.size()));
    if (digits.size() > 15) {
      out.append(number);
      return;
    }
    std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
    if (minus) exponent = -exponent;
  } else if (whole <= static_cast<std::size_t>(kMostPlain) && rest[0] != '0') {
    // Most numbers have no exponent and something before the point: they lose but the zeros at their end.
    if (whole < rest.size()) {
      number.remove_suffix(number.size() - number.find_last_not_of('0') - 1);
      if (number.back() == '.') number.remove_suffix(1);
    }
    out.append(number);
    return;
  }
  // The value is 0.DIGITS times ten to the power of `point`.
  std::string_view const before = rest.substr(0, whole);
  std::string_view const behind = whole < mantissa ? rest.substr(whole + 1, mantissa - whole - 1) : std::string_view{};
  auto digit = [&](std::size_t i) { return i < before.size() ? before[i] : behind[i - before.size()]; };
  std::size_t first = 0, last = before.size() + behind.size();
  while (first < last && digit(first) == '0') ++first;
  while (last > first && digit(last - 1) == '0') --last;
  if (first == last) {
    out += '0';
    return;
  }
  auto const count = static_cast<std::int64_t>(last - first);
  std::int64_t const point = static_cast<std::int64_t>(before.size()) - static_cast<std::int64_t>(first) + exponent;
  auto digits = [&](std::size_t from, std::size_t to) {
    for (std::size_t i = from; i < to; ++i) out += digit(i);
  };
  if (negative) out += '-';
  if (point > 0 && point <= kMostPlain) {
    if (count <= point) {
      digits(first, last);
      out.append(static_cast<std::size_t>(point - count), '0');
    } else {
      digits(first, first + static_cast<std::size_t>(point));
      out += '.';
      digits(first + static_cast<std::size_t>(point), last);
    }
  } else if (point <= 0 && point > -kMostZeros) {
    out += "0.";
    out.append(static_cast<std::size_t>(-point), '0');
    digits(first, last);
  } else {
    digits(first, first + 1);
    if (count > 1) out += '.';
    digits(first + 1, last);
    fmt::format_to(std::back_inserter(out), "e{}", point - 1);
  }
}

bool Canonical::append(std::string& out, std::string_view json, std::span<std::string const> without) {
  out_ = &out, at_ = json.data(), end_ = at_ + json.size(), without_ = without;
  members_.clear();
  std::size_t const before = out.size();
  bool const good = value(0) && (peek(), at_ == end_);
  if (!good) out.resize(before);
  return good;
}

char Canonical::peek() {
  while (at_ < end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\r' || *at_ == '\n')) ++at_;
  return at_ < end_ ? *at_ : '\0';
}

bool Canonical::value(int depth) {
  if (depth > kMostDepth) return false;
  switch (peek()) {
    case '{':
      return object(depth);
    case '[':
      return array(depth);
    case '"':
      return string(false);
    default:
      return scalar();
  }
}

bool Canonical::array(int depth) {
  ++at_;
  *out_ += '[';
  if (!accept(']')) {
    do {
      if (!value(depth + 1)) return false;
      *out_ += ',';
    } while (accept(','));
    if (!accept(']')) return false;
    out_->pop_back();
  }
  *out_ += ']';
  return true;
}

bool Canonical::object(int depth) {
  ++at_;
  std::size_t const begin = out_->size();
  std::size_t const first = members_.size();
  *out_ += '{';
  if (!accept('}')) {
    do {
      Member member{out_->size(), 0, 0};
      if (peek() != '"' || !string(true)) return false;
      member.name_end = out_->size();
      if (!accept(':')) return false;
      *out_ += ':';
      if (!value(depth + 1)) return false;
      member.end = out_->size();
      std::string_view const text(*out_);
      std::string_view const name = text.substr(member.begin, member.name_end - member.begin);
      bool const left_out = (options_.ignore_null && text.substr(member.name_end + 1) == "null") ||
                            (depth == 0 && std::find(without_.begin(), without_.end(), name) != without_.end());
      if (left_out) {
        out_->resize(member.begin);
      } else {
        members_.push_back(member);
        *out_ += ',';
      }
    } while (accept(','));
    if (!accept('}')) return false;
    order(begin, first);
    members_.resize(first);
    if (out_->back() == ',') out_->pop_back();
  }
  *out_ += '}';
  return true;
}

void Canonical::order(std::size_t begin, std::size_t first) {
  std::string_view const text(*out_);
  auto name = [&](Member const& m) { return text.substr(m.begin, m.name_end - m.begin); };
  auto const from = members_.begin() + static_cast<std::ptrdiff_t>(first);
  auto const out_of_order = [&](Member const& a, Member const& b) { return name(a) >= name(b); };
  if (std::adjacent_find(from, members_.end(), out_of_order) == members_.end()) return;
  auto const before = [&](Member const& a, Member const& b) { return name(a) < name(b); };
  if (members_.end() - from > kMostInserted) {
    std::stable_sort(from, members_.end(), before);
  } else {  // without the memory that stable_sort takes each time
    for (auto member = from; member != members_.end(); ++member)
      std::rotate(std::upper_bound(from, member, *member, before), member, member + 1);
  }
  scratch_.clear();
  for (auto member = from; member != members_.end(); ++member) {
    if (member + 1 != members_.end() && name(member[1]) == name(*member)) continue;
    scratch_.append(text, member->begin, member->end - member->begin) += ',';
  }
  out_->resize(begin + 1);
  out_->append(scratch_);
}

bool Canonical::string(bool name) {
  char const* const begin = at_;
  ++at_;
  auto const* quote = static_cast<char const*>(std::memchr(at_, '"', static_cast<std::size_t>(end_ - at_)));
  if (quote == nullptr) return false;
  bool const escaped = std::memchr(at_, '\\', static_cast<std::size_t>(quote - at_)) != nullptr;
  if (escaped) {
    while (at_ < end_ && *at_ != '"') at_ += *at_ == '\\' ? 2 : 1;
    if (at_ >= end_) return false;
  } else {
    at_ = quote;
  }
  ++at_;
  std::string_view const raw(begin, static_cast<std::size_t>(at_ - begin));
  std::string_view text = raw.substr(1, raw.size() - 2);
  std::string unescaped;
  if (escaped) {
    if (!append_unquoted(unescaped, raw)) return false;
    if (has_lone_surrogate(raw, unescaped)) {
      out_->append(raw);
      return true;
    }
    text = unescaped;
  }
  if (!name && like_time(text)) {
    if (auto time = parse_rfc3339(text)) {
      bool const already = text.size() == 20 && text[10] == 'T' && text[19] == 'Z' && text[17] < '6';
      if (already && options_.precision <= std::chrono::seconds(1)) {
        out_->append(raw.data(), escaped ? 0 : raw.size());
        if (escaped) append_quoted(*out_, text);
        return true;
      }
      std::int64_t const unit = options_.precision.count();
      std::int64_t const finer = time->ns % unit;
      time->ns -= finer < 0 ? finer + unit : finer;
      append_quoted(*out_, format_rfc3339(*time));
      return true;
    }
  }
  if (escaped) {
    append_quoted(*out_, text);
  } else {
    out_->append(raw);
  }
  return true;
}

bool Canonical::scalar() {
  char const* const begin = at_;
  while (at_ < end_ && *at_ != ',' && *at_ != '}' && *at_ != ']' && static_cast<unsigned char>(*at_) > ' ') ++at_;
  std::string_view const raw(begin, static_cast<std::size_t>(at_ - begin));
  if (raw == "true" || raw == "false" || raw == "null") {
    out_->append(raw);
    return true;
  }
  if (!is_json_number(raw)) return false;
  append_canonical_number(*out_, raw);
  return true;
}

}  // namespace inflight

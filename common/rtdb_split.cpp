#include "common/rtdb_split.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/rtdb.h"

namespace inflight {

namespace {

constexpr std::size_t kLongestKey = 768;  // bytes (…/docs/database/usage/limits)

// ---- characters by their place in the order of UTF-16 code units: those beyond the basic plane before U+E000

constexpr std::uint32_t kFirst = 0x20, kLast = 0x10ffff - 0x800;

std::uint32_t code_point(std::uint32_t place) {
  if (place < 0xd800) return place;
  constexpr std::uint32_t beyond = 0x110000 - 0x10000;
  return place < 0xd800 + beyond ? place - 0xd800 + 0x10000 : place - 0xd800 - beyond + 0xe000;
}

std::uint32_t place_of(std::uint32_t code_point) {
  if (code_point < 0xd800) return code_point;
  constexpr std::uint32_t beyond = 0x110000 - 0x10000;
  return code_point >= 0x10000 ? code_point - 0x10000 + 0xd800 : code_point - 0xe000 + 0xd800 + beyond;
}

bool in_keys(std::uint32_t place) {
  return place >= kFirst && place != 0x7f &&
         (place > 0x7f || std::string_view(".$#[]/").find(static_cast<char>(place)) == std::string_view::npos);
}

// The one before; there is one for all but the first.
std::uint32_t before(std::uint32_t place) {
  do --place;
  while (!in_keys(place));
  return place;
}

std::string text_of(std::uint32_t place) {
  std::uint32_t const c = code_point(place);
  auto const tail = [&](unsigned shift) { return static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
}

// Of valid UTF-8: where each character begins, and then the end.
std::vector<std::size_t> beginnings(std::string_view text) {
  std::vector<std::size_t> at;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) at.push_back(i);
  }
  at.push_back(text.size());
  return at;
}

std::uint32_t place_at(std::string_view character) {
  auto const first = static_cast<unsigned char>(character.front());
  std::uint32_t c = character.size() == 1 ? first : first & (0x7fU >> character.size());
  for (char const next : character.substr(1)) c = c << 6 | (static_cast<unsigned char>(next) & 0x3f);
  return place_of(c);
}

// ---- integers, which come before all other keys

std::optional<std::int64_t> integer(std::string_view key) {
  if (key.empty() || rtdb_sort_key(key).front() != '\0') return std::nullopt;
  std::size_t const digits = key.find_first_not_of("-0");
  if (digits == std::string_view::npos) return 0;
  std::int64_t const value = std::stoll(std::string(key.substr(digits)));
  return key.front() == '-' ? -value : value;
}

std::string padded(std::int64_t value, std::size_t zeros) {
  std::string text = std::to_string(value);
  return text.insert(value < 0 ? 1 : 0, zeros, '0');
}
std::size_t most_zeros(std::int64_t value) { return kLongestKey - std::to_string(value).size(); }

class Search {
 public:
  Search(std::string_view from, std::function<Result<bool>(std::string const&)> const& refused)
      : from_(from), refused_(refused) {}

  Result<std::string> run() {
    std::optional<std::int64_t> const number = integer(from_);
    if (!from_.empty() && refused(from_)) return found(from_);
    if (from_.empty() || number) {
      // All integers, and the first of all other keys.
      if (refused(" ")) return found(first_integer(number.value_or(INT32_MIN)));
      return found(first_text("", kFirst));
    }
    std::vector<std::size_t> const at = beginnings(from_);
    // The longest beginning of `from` that is the key's too.
    std::size_t shared = 0;
    for (std::size_t none = at.size(); none - shared > 1 && failure_.ok();) {
      std::size_t const middle = (shared + none) / 2;
      (refused(last_with(from_.substr(0, at[middle]))) ? shared : none) = middle;
    }
    bool const all = shared + 1 == at.size();
    return found(
        first_text(from_.substr(0, at[shared]),
                   all ? kFirst : place_at(std::string_view(from_).substr(at[shared], at[shared + 1] - at[shared]))));
  }

 private:
  [[nodiscard]] Result<std::string> found(std::string key) const {
    if (!failure_.ok()) return failure_;
    return key;
  }

  bool refused(std::string const& end) {
    if (!failure_.ok()) return true;
    auto const answer = refused_(end);
    if (!answer) failure_ = answer.status();
    return !answer || *answer;
  }

  std::string first_integer(std::int64_t from) {
    std::int64_t low = from, high = std::int64_t{INT32_MAX} + 1;  // which stands for " "
    while (low < high && failure_.ok()) {
      std::int64_t const middle = low + (high - low) / 2;
      if (refused(std::to_string(middle)))
        high = middle;
      else
        low = middle + 1;
    }
    std::string const exact = high > INT32_MAX ? " " : std::to_string(high);
    // It is that, or the number below with zeros before it.
    std::int64_t const below = high - 1;
    if (below < INT32_MIN || !refused(padded(below, most_zeros(below)))) return exact;
    std::size_t few = 1, many = most_zeros(below);
    while (few < many && failure_.ok()) {
      std::size_t const middle = (few + many) / 2;
      if (refused(padded(below, middle)))
        many = middle;
      else
        few = middle + 1;
    }
    return padded(below, many);
  }

  // The last key that begins so.
  static std::string last_with(std::string const& prefix) {
    std::size_t const room = kLongestKey - std::min(prefix.size(), kLongestKey);
    std::uint32_t const last = room >= 3 ? kLast : room == 2 ? 0x7ff : '~';
    return room == 0 ? prefix : prefix + text_of(last);
  }

  // A key with this beginning, and more than that; the next character is not lower than `low`.
  std::string first_text(std::string prefix, std::uint32_t low) {
    for (;; low = kFirst) {
      // Whether the key comes no later than the beginning with this character. Numbers have another place in the order.
      auto const reached = [&](std::uint32_t place) {
        while (!in_keys(place)) --place;
        std::string const end = prefix + text_of(place);
        if (end.size() > kLongestKey) return true;
        if (!integer(end)) return refused(end);
        return refused(last_with(prefix + text_of(before(place))));
      };
      std::uint32_t high = kLast + 1;
      if (low < 0x80 && reached(0x80)) high = 0x80;
      while (low < high && failure_.ok()) {
        std::uint32_t const middle = low + (high - low) / 2;
        if (reached(middle))
          high = middle;
        else
          low = middle + 1;
      }
      if (!failure_.ok()) return prefix;
      std::string const exact = prefix + text_of(std::min(high, kLast));
      if (high <= kFirst) return exact;
      std::string const shorter = prefix + text_of(before(high));
      if (shorter.size() >= kLongestKey || (high <= kLast && !refused(last_with(shorter)))) return exact;
      prefix = shorter;
    }
  }

  std::string from_;
  std::function<Result<bool>(std::string const&)> const& refused_;
  Status failure_;
};

}  // namespace

std::string rtdb_key_after(std::string_view key) {
  if (std::optional<std::int64_t> const value = integer(key)) {
    if (key.size() < kLongestKey) return std::string(key).insert(key.front() == '-' ? 1 : 0, 1, '0');
    return *value < INT32_MAX ? std::to_string(*value + 1) : " ";
  }
  std::string after(key);
  if (after.size() < kLongestKey) return after + ' ';
  for (;;) {
    std::size_t const last = beginnings(after).rbegin()[1];
    std::uint32_t place = place_at(std::string_view(after).substr(last));
    after.resize(last);
    do ++place;
    while (place <= kLast && (!in_keys(place) || integer(after + text_of(place))));
    // One that takes more bytes than there are is the last with what is before it.
    if (place <= kLast && after.size() + text_of(place).size() <= kLongestKey) return after + text_of(place);
  }
}

Result<std::string> rtdb_first_refused(std::string_view from,
                                       std::function<Result<bool>(std::string const& end)> const& refused) {
  return Search(from, refused).run();
}

}  // namespace inflight

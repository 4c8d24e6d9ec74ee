#include "common/xml_cursor.h"

#include <fmt/format.h>

#include <cstring>

namespace inflight {

void XmlCursor::begin() {
  error = {};
  line_ = column_ = 1;
  at = token = counted_ = buffer.data();
  end = at + buffer.size();
  whole = true;
  fill_ = nullptr;
}

void XmlCursor::begin(Fill const& fill, std::size_t limit) {
  buffer.clear();
  begin();
  whole = false;
  fill_ = &fill;
  limit_ = limit;
}

void XmlCursor::count(char const* to, std::uint64_t& line, std::uint64_t& column) const {
  for (char const* from = counted_; from < to; ++from) {
    if (*from == '\n' || (*from == '\r' && !(from + 1 < end && from[1] == '\n'))) {
      ++line, column = 1;
    } else {
      column += (static_cast<unsigned char>(*from) & 0xc0) != 0x80 ? 1 : 0;
    }
  }
}

std::uint64_t XmlCursor::token_line() {
  count(token, line_, column_);
  counted_ = token;
  return line_;
}

XmlStep XmlCursor::fail_at(char const* place, std::string_view what) {
  std::uint64_t line = line_, column = column_;
  count(place, line, column);
  error = Status::rejected(fmt::format("line {}, column {}: {}", line, column, what));
  return XmlStep::bad;
}

XmlStep XmlCursor::bad_character() {
  std::size_t length = 0;
  return fail_at(at, fmt::format("U+{:04X} is not allowed in XML", code_at(at, length)));
}

XmlStep XmlCursor::check_character() {
  if (static_cast<unsigned char>(*at) != 0xef) return ended();
  if (static_cast<unsigned char>(at[1]) == 0xbf && static_cast<unsigned char>(at[2]) >= 0xbe) return bad_character();
  at += 3;
  return XmlStep::ok;
}

XmlStep XmlCursor::find(std::string_view text) {
  static constexpr XmlTable special = xml_table("");
  char const* const from = at;
  auto const* found =
      static_cast<char const*>(::memmem(at, static_cast<std::size_t>(end - at), text.data(), text.size()));
  char const* const to = found != nullptr ? found : end;
  while (at < to) {
    if (of(special, *at) == 0 || is_xml_space(*at)) {
      ++at;
    } else if (XmlStep const step = check_character(); step != XmlStep::ok) {
      return step;
    }
  }
  if (found != nullptr) return XmlStep::ok;
  if (!whole) at = from;
  return XmlStep::more;
}

Status XmlCursor::refill() {
  (void)token_line();
  buffer.erase(0, static_cast<std::size_t>(token - buffer.data()));
  std::size_t const held = buffer.size();
  at = token = counted_ = buffer.data();
  end = at + held;
  if (held > limit_) {
    (void)fail_at(at, fmt::format("a tag, comment or section of more than {} bytes", limit_));
    return error;
  }
  // At least twice as much as before: what is cut many times is not read anew each time.
  Status failed;
  while (!whole && buffer.size() <= 2 * held) {
    auto filled = (*fill_)(buffer);
    if (!filled) failed = filled.status();
    whole = !filled || !*filled;
  }
  at = token = counted_ = buffer.data();
  end = at + buffer.size();
  if (failed.code() == Code::rejected) {
    (void)fail_at(end, failed.what());
    return error;
  }
  return failed;
}

}  // namespace inflight

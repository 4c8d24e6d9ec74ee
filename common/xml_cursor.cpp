#include "common/xml_cursor.h"

#include <fmt/format.h>

#include <cstring>

#include "common/record.h"

namespace inflight {

void XmlCursor::begin() {
  error = {};
  counted_place_ = {};
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

void XmlCursor::forget() {
  if (buffer.size() <= kLongRecord) return;
  (void)token_line();
  forget_long(buffer);
  at = token = counted_ = end = buffer.data();
}

// Lines end as in section 2.11: with a line feed, a carriage return, or both.
XmlCursor::Place XmlCursor::place_of(char const* to) const {
  Place place = counted_place_;
  for (char const* from = counted_; from < to; ++from) {
    if (*from == '\r' || (*from == '\n' && !place.after_return)) {
      ++place.line, place.column = 1;
    } else if (*from != '\n') {
      place.column += (static_cast<unsigned char>(*from) & 0xc0) != 0x80 ? 1 : 0;
    }
    place.after_return = *from == '\r';
  }
  return place;
}

std::uint64_t XmlCursor::token_line() {
  counted_place_ = place_of(token);
  counted_ = token;
  return counted_place_.line;
}

XmlStep XmlCursor::fail_at(char const* place, std::string_view what) {
  Place const found = place_of(place);
  error = Status::rejected(fmt::format("line {}, column {}: {}", found.line, found.column, what));
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

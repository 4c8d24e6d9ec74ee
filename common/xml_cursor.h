// An XML text as its scanner reads it: whole, or in pieces through a buffer, with the place of what is wrong.
//
// The text is UTF-8 and has been checked to be. A NUL, which no XML contains, stands behind it, so that a loop over
// characters needs no other bound.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "common/xml_chars.h"

namespace inflight {

// What came of reading one token: it was there, it is cut off by the end of the text (more may come), or it is no XML.
enum class XmlStep { ok, more, bad };

class XmlCursor {
 public:
  // Appends more text; false: that was the end. Code::rejected: bytes that have no text.
  using Fill = std::function<Result<bool>(std::string& text)>;

  std::string buffer;           // where a whole text is put before begin()
  char const* at = nullptr;     // the next character
  char const* end = nullptr;    // the NUL behind the text
  char const* token = nullptr;  // what is not yet done with begins here
  bool whole = true;            // no more text will come
  Status error;                 // of XmlStep::bad, with line and column

  // At the front of what the buffer holds.
  void begin();
  // At the front of what `fill` gives; `limit` bounds one token, in bytes.
  void begin(Fill const& fill, std::size_t limit);
  [[nodiscard]] bool in_pieces() const { return fill_ != nullptr; }
  // The text has been read: of a long one nothing is kept but the token's line.
  void forget();
  // Brings more text behind what is held; drops what is done with. All pointers into the text are void.
  [[nodiscard]] Status refill();

  XmlStep fail_at(char const* place, std::string_view what);
  // Something else stands here, unless the text only ends.
  XmlStep fail(std::string_view what) { return at == end ? XmlStep::more : fail_at(at, what); }
  // At the NUL behind the text, or at a character that is not allowed in it.
  XmlStep ended() { return at == end ? XmlStep::more : bad_character(); }
  // At what xml_table() wants a closer look at and the caller does not know. Moves on behind a character that is
  // allowed.
  XmlStep check_character();

  bool space() {
    char const* const from = at;
    while (is_xml_space(*at)) ++at;
    return at > from;
  }
  [[nodiscard]] bool starts(std::string_view text) const {
    return std::string_view(at, static_cast<std::size_t>(end - at)).starts_with(text);
  }
  // Too near to the end to tell whether `text` stands here.
  [[nodiscard]] bool cut(std::string_view text) const {
    std::string_view const rest(at, static_cast<std::size_t>(end - at));
    return !whole && rest.size() < text.size() && text.starts_with(rest);
  }
  // Moves to the first `text` from here on, over characters that are allowed.
  XmlStep find(std::string_view text);

  // The line on which the token stands, counted from 1. The text behind it is counted once.
  [[nodiscard]] std::uint64_t token_line();

 private:
  XmlStep bad_character();
  struct Place {
    std::uint64_t line = 1, column = 1;
    bool after_return = false;  // a line feed that follows is of the same end of line, in whatever piece it comes
  };
  [[nodiscard]] Place place_of(char const* at) const;

  Fill const* fill_ = nullptr;
  std::size_t limit_ = 0;
  char const* counted_ = nullptr;  // at or before the token
  Place counted_place_;
};

}  // namespace inflight

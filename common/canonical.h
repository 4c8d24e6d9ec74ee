// JSON in one form for all that means the same, so that values are equal where their bytes are.
//
// Numbers are exact decimals in the shortest digits (12.50 is 12.5, 1e3 is 1000, -0 is 0, however many digits there
// are); strings are their characters, not their escapes; a string that is an RFC 3339 time is that instant in UTC, cut
// to a precision; members stand in the order of their names, the last one where a name stands twice; no white space.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/units.h"

namespace inflight {

struct CanonicalOptions {
  Duration precision{1};     // of times: what is finer is cut off
  bool ignore_null = false;  // a member that is null is as one that is not there
};

// One per thread: it keeps its buffers.
class Canonical {
 public:
  explicit Canonical(CanonicalOptions options) : options_(options) {}

  // Appends one value; false where it is not JSON, or nested deeper than 1000, and `out` is as it was. Of an object,
  // leaves out the members whose names, as JSON strings of this form, are in `without`. The text is UTF-8 and has no
  // control characters in its strings (the record parser sees to both).
  [[nodiscard]] bool append(std::string& out, std::string_view json, std::span<std::string const> without = {});

 private:
  struct Member {
    std::size_t begin, name_end, end;  // in the output
  };
  bool value(int depth);
  bool object(int depth);
  bool array(int depth);
  bool string(bool name);
  bool scalar();
  void order(std::size_t begin, std::size_t first);
  char peek();
  bool accept(char c) { return peek() == c && (++at_, true); }

  CanonicalOptions options_;
  std::string* out_ = nullptr;
  char const* at_ = nullptr;
  char const* end_ = nullptr;
  std::span<std::string const> without_;
  std::vector<Member> members_;  // of the objects that are open
  std::string scratch_;
};

// A number in JSON's grammar. Where its exponent has more than 15 digits, it stays as it is written.
void append_canonical_number(std::string& out, std::string_view number);

}  // namespace inflight

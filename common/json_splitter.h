// JSON that comes in pieces, taken apart member by member: memory is bounded by one member's value, however long the
// whole is.
//
// The outermost value is split where it is an object or an array (whose elements have their index as key), and so is a
// member's value where descend() says so. What is not split is given whole, as it is written, and not checked beyond
// where it ends.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace inflight {

class JsonSplitter {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    // `depth`: 1 for a member of the outermost value, 0 for a scalar that is all there is (its key is empty). `whole`
    // false: the value is longer than it may be, and only its beginning is given. What fails ends feed().
    [[nodiscard]] virtual Status member(std::size_t depth, std::string_view key, std::string_view value,
                                        bool whole) = 0;
    // Asked where a member's value begins as an object or array.
    [[nodiscard]] virtual bool descend(std::size_t depth, std::string_view key) {
      (void)depth, (void)key;
      return false;
    }
  };

  JsonSplitter(Handler& handler, std::uint64_t max_value) : handler_(handler), max_value_(max_value) {}

  // Code::usage: it is no JSON.
  [[nodiscard]] Status feed(std::string_view bytes);
  // The text is at its end: whether it was whole. A new one may begin.
  [[nodiscard]] Status finish();
  void reset();

 private:
  enum class State : char { value, key_or_end, key, colon, captured, after, done };
  struct Frame {
    bool array = false;
    std::uint64_t index = 0;
  };

  Status step(char c, bool& again);
  Status begin_value(char c, bool& again);
  std::size_t capture(std::string_view bytes, bool& ended);
  void append(std::string_view bytes);
  Status captured();
  [[nodiscard]] Status wrong(char c) const;

  Handler& handler_;
  std::uint64_t max_value_;
  State state_ = State::value;
  std::vector<Frame> frames_;
  std::string key_, value_;
  bool whole_ = true, is_key_ = false;
  std::size_t nesting_ = 0;  // within what is captured
  bool in_string_ = false, escaped_ = false, scalar_ = false;
  std::uint64_t at_ = 0;
};

}  // namespace inflight

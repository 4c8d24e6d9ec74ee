// JSON text and the values of libjq: what a jq program passes on untouched is written as it came, not as jq's doubles.
#pragma once

extern "C" {  // it does not say so itself
#include <jv.h>
}

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/status.h"

namespace inflight {

// Levels of arrays and objects in each other, as jq 1.6 reads and writes them.
inline constexpr unsigned kJqDepth = 256;

// Owns one reference.
class JqValue {
 public:
  JqValue() : value_(jv_invalid()) {}
  explicit JqValue(jv value) : value_(value) {}
  JqValue(JqValue&& other) noexcept : value_(other.release()) {}
  JqValue& operator=(JqValue&& other) noexcept {
    if (this != &other) {
      jv_free(value_);
      value_ = other.release();
    }
    return *this;
  }
  JqValue(JqValue const&) = delete;
  JqValue& operator=(JqValue const&) = delete;
  ~JqValue() { jv_free(value_); }

  [[nodiscard]] jv get() const { return value_; }            // for jv_get_kind() and others that consume nothing
  [[nodiscard]] jv copy() const { return jv_copy(value_); }  // for those that consume
  [[nodiscard]] jv release() {
    jv const value = value_;
    value_ = jv_invalid();
    return value;
  }

 private:
  jv value_;
};

// One record's input, and what a program makes of it. One per thread.
//
// Writes what `jq -c` writes, but for numbers: in an array or object that is an untouched part of the input they are as
// written there, and so is, wherever it comes out, one of more than 15 digits, which a double may not hold.
class JqRecord {
 public:
  JqRecord();
  // Code::rejected: not JSON, or too deep. `text` must outlive what is written. What was read before is forgotten.
  [[nodiscard]] Status read(std::string_view text);
  void forget();
  [[nodiscard]] jv input() const { return input_.copy(); }
  // Whether it is the input itself.
  [[nodiscard]] bool is_input(JqValue const& value) const;
  // Code::rejected: too deep, or two numbers of the input that only their last digits tell apart.
  [[nodiscard]] Status write(JqValue const& value, std::string& out);

 private:
  // A value's own bytes: equal for the same object while the input holds it.
  struct Identity {
    std::uint64_t head = 0, body = 0;
    bool operator==(Identity const&) const = default;
  };
  struct Part {
    Identity identity;
    std::string_view text;
  };
  struct Key {
    std::string text;
    JqValue value;
  };
  enum class Broken { no, syntax, deep };

  static Identity identify(jv value);
  bool broken(Broken why) { return broken_ = why, false; }
  void skip_space();
  bool take(char c);
  bool read_value(jv& value, unsigned depth, bool& repeats);
  bool read_object(jv& value, unsigned depth, bool& repeats);
  bool read_array(jv& value, unsigned depth, bool& repeats);
  bool read_word(std::string_view word, jv result, jv& value);
  bool read_number(jv& value);
  bool read_string(jv& value, bool key);
  jv key(std::string_view text);
  void keep_part(jv value, std::string_view text);
  void place_part(std::size_t index);
  void forget_parts(std::size_t from);
  void keep_long_number(double number, std::string_view text);
  [[nodiscard]] std::string_view part(jv value) const;
  bool write_value(jv value, std::string& out, unsigned depth);  // consumes it
  bool write_number(double number, std::string& out);

  JqValue input_;
  std::string_view text_;
  char const* at_ = nullptr;
  char const* end_ = nullptr;
  Broken broken_ = Broken::no;
  std::vector<Part> parts_;
  std::vector<std::uint32_t> places_;                                 // open addressing: index in parts_ + 1
  std::unordered_map<std::uint64_t, std::string_view> long_numbers_;  // empty text: more than one
  std::array<Key, 256> keys_;
  std::string scratch_;
  std::string failed_;  // why a value cannot be written
};

}  // namespace inflight

// The outcome of everything that input, disk or a peer can make fail.
//
// A Status is cheap when ok. Its text is the rest of the line `tool: what: why` that the operator reads, so it names
// the place (file, URL, line) and the cause (errno's text, the server's words).
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace inflight {

// Exit statuses of every tool (sysexits.h where it has a name for it).
enum class Exit : int {
  ok = 0,
  rejected = 1,    // done, but some records are in the dead letters
  usage = 2,       // called wrongly: the operator's to mend
  defect = 70,     // EX_SOFTWARE: a defect or unrecoverable local failure
  temporary = 75,  // EX_TEMPFAIL: later may succeed
  interrupted = 130,
  terminated = 143,
};

enum class Code {
  ok,
  rejected,   // the record is at fault, and only it
  usage,      // options, configuration, permission: the operator is at fault
  temporary,  // later may succeed
  defect,     // neither: a damaged file, a failed fsync, a bug
  closed,     // nobody reads our output any more
  stopped,    // a stop signal came first
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string what) : code_(code), what_(std::move(what)) {}

  static Status usage(std::string what) { return {Code::usage, std::move(what)}; }
  static Status rejected(std::string what) { return {Code::rejected, std::move(what)}; }
  static Status temporary(std::string what) { return {Code::temporary, std::move(what)}; }
  static Status defect(std::string what) { return {Code::defect, std::move(what)}; }
  // `what: strerror(error)`; disk full and the like are temporary, a missing or forbidden path is usage, EIO a defect.
  static Status from_errno(std::string const& what, int error);

  [[nodiscard]] bool ok() const { return code_ == Code::ok; }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] Code code() const { return code_; }
  [[nodiscard]] std::string const& what() const { return what_; }
  // The same failure, told with the place before it: `place: what`.
  [[nodiscard]] Status at(std::string const& place) const { return ok() ? *this : Status{code_, place + ": " + what_}; }
  [[nodiscard]] Exit exit() const;

 private:
  Code code_ = Code::ok;
  std::string what_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT(google-explicit-constructor): reads as a value
  Result(Status status) : value_(std::move(status)) {}  // NOLINT(google-explicit-constructor): or as a failure
  [[nodiscard]] bool ok() const { return value_.index() == 0; }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] T& operator*() { return std::get<0>(value_); }
  [[nodiscard]] T const& operator*() const { return std::get<0>(value_); }
  [[nodiscard]] T* operator->() { return &std::get<0>(value_); }
  [[nodiscard]] T const* operator->() const { return &std::get<0>(value_); }
  [[nodiscard]] Status status() const { return ok() ? Status{} : std::get<1>(value_); }

 private:
  std::variant<T, Status> value_;
};

}  // namespace inflight

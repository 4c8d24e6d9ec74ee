// Writes lines to a descriptor through one large buffer. A failed write is a failure of the tool; a reader that closed
// early (Code::closed) is not, and tells the caller that it may stop.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace inflight {

class Writer {
 public:
  Writer(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  // A line, without its newline.
  [[nodiscard]] Status line(std::string_view text) {
    if (text.size() > 4 * kBuffer) {
      if (Status status = pass(text); !status.ok()) return status;
      return pass("\n");
    }
    buffer_.append(text).push_back('\n');
    return buffer_.size() < kBuffer ? Status{} : flush();
  }
  // Whole lines, each with its newline.
  [[nodiscard]] Status lines(std::string_view text) {
    if (text.size() > 4 * kBuffer) return pass(text);
    buffer_.append(text);
    return buffer_.size() < kBuffer ? Status{} : flush();
  }
  [[nodiscard]] Status flush();
  // Flushes and closes; a disk that is full is told at the latest here.
  [[nodiscard]] Status close();

 private:
  Status pass(std::string_view text);  // without a copy
  static Status failed(Status const& status);

  static constexpr std::size_t kBuffer = 128 << 10;
  int fd_;
  std::string name_;
  std::string buffer_;
};

}  // namespace inflight

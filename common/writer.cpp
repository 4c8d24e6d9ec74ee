#include "common/writer.h"

#include <unistd.h>

#include <cerrno>

#include "common/fd_io.h"

namespace inflight {

// Whatever the cause, it is not the record's or the operator's.
Status Writer::failed(Status const& status) {
  bool const theirs = status.code() == Code::usage || status.code() == Code::temporary;
  return theirs ? Status::defect(status.what()) : status;
}

Status Writer::flush() {
  if (buffer_.empty() || fd_ < 0) return {};
  Status const status = write_all(fd_, buffer_, name_);
  buffer_.clear();
  if (buffer_.capacity() > 4 * kBuffer) buffer_.shrink_to_fit();
  return failed(status);
}

Status Writer::pass(std::string_view text) {
  if (Status status = flush(); !status.ok() || fd_ < 0) return status;
  return failed(write_all(fd_, text, name_));
}

Status Writer::close() {
  Status status = flush();
  if (fd_ >= 0 && ::close(fd_) != 0 && status.ok()) status = Status::defect(Status::from_errno(name_, errno).what());
  fd_ = -1;
  return status;
}

}  // namespace inflight

#include "common/writer.h"

#include <unistd.h>

#include <cerrno>

#include "common/fd_io.h"

namespace inflight {

Status Writer::flush() {
  if (buffer_.empty() || fd_ < 0) return {};
  Status status = write_all(fd_, buffer_, name_);
  buffer_.clear();
  if (buffer_.capacity() > 4 * kBuffer) buffer_.shrink_to_fit();
  if (status.code() == Code::usage || status.code() == Code::temporary) return Status::defect(status.what());
  return status;
}

Status Writer::close() {
  Status status = flush();
  if (fd_ >= 0 && ::close(fd_) != 0 && status.ok()) status = Status::defect(Status::from_errno(name_, errno).what());
  fd_ = -1;
  return status;
}

}  // namespace inflight

#include "common/status.h"

#include <cerrno>
#include <cstring>

namespace inflight {

Status Status::from_errno(std::string const& what, int error) {
  std::string text = what + ": " + std::strerror(error);
  switch (error) {
    case ENOENT:
    case EACCES:
    case EPERM:
    case ENOTDIR:
    case EISDIR:
    case EROFS:
    case ENAMETOOLONG:
      return usage(std::move(text));
    case EPIPE:
      return {Code::closed, std::move(text)};
    case ENOSPC:
    case EDQUOT:
    case EAGAIN:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EINTR:
    case ETXTBSY:
      return temporary(std::move(text));
    default:
      return defect(std::move(text));
  }
}

Exit Status::exit() const {
  switch (code_) {
    case Code::ok:
    case Code::closed:
      return Exit::ok;
    case Code::rejected:
      return Exit::rejected;
    case Code::usage:
      return Exit::usage;
    case Code::temporary:
      return Exit::temporary;
    case Code::stopped:
      return Exit::terminated;
    case Code::defect:
      break;
  }
  return Exit::defect;
}

}  // namespace inflight

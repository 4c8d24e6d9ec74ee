#include "common/spill.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/fd_io.h"

namespace inflight {

namespace {

Result<Fd> make_file(std::string const& folder) {
  int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {  // some file systems do not have it
    std::string path = join(folder, "inflight-XXXXXX");
    fd = ::mkostemp(path.data(), O_CLOEXEC);
    if (fd >= 0) ::unlink(path.c_str());
  }
  if (fd < 0) return Status::from_errno(folder, errno);
  return Fd(fd);
}

}  // namespace

std::string temporary_folder() {
  char const* const folder = std::getenv("TMPDIR");
  return folder != nullptr && *folder != '\0' ? folder : "/var/tmp";
}

Status check_temporary_folder(std::string const& folder) { return make_file(folder).status(); }

Status SpillFile::append(std::string_view bytes) {
  if (buffer_.size() + bytes.size() < kBuffer) {
    buffer_.append(bytes);
    return {};
  }
  return write(bytes);
}

Status SpillFile::flush() {
  Status status = write({});
  std::string().swap(buffer_);
  return status;
}

Status SpillFile::write(std::string_view bytes) {
  if (!fd_) {
    auto made = make_file(folder_);
    if (!made) return made.status();
    fd_ = std::move(*made);
  }
  for (std::string_view const part : {std::string_view(buffer_), bytes}) {
    if (Status status = write_all(fd_.get(), part, folder_); !status.ok()) return status;
    written_ += part.size();
  }
  buffer_.clear();
  return {};
}

Status SpillFile::read(char* to, std::size_t size, std::uint64_t offset) const {
  std::size_t done = 0;
  if (offset < written_) {
    auto const wanted = static_cast<std::size_t>(std::min<std::uint64_t>(size, written_ - offset));
    auto got = read_at(fd_.get(), to, wanted, offset, folder_);
    if (!got) return got.status();
    if (*got != wanted) return Status::defect(fmt::format("{}: a temporary file is shorter than was written", folder_));
    done = wanted;
  }
  if (done == size) return {};
  std::uint64_t const from = offset + done - written_;
  if (from + (size - done) > buffer_.size()) return Status::defect("a temporary file: read behind its end");
  std::memcpy(to + done, buffer_.data() + from, size - done);
  return {};
}

}  // namespace inflight

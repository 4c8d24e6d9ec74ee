#include "common/fd_io.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>

namespace inflight {

Status write_all(int fd, std::string_view bytes, std::string const& name) {
  while (!bytes.empty()) {
    ssize_t const n = ::write(fd, bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      pollfd wait{fd, POLLOUT, 0};
      ::poll(&wait, 1, -1);
    } else if (errno != EINTR) {
      return Status::from_errno(name, errno);
    }
  }
  return {};
}

Result<std::string> read_all(int fd, std::string const& name, std::uint64_t limit) {
  std::string text;
  char buffer[65536];
  for (;;) {
    ssize_t const n = ::read(fd, buffer, sizeof buffer);
    if (n == 0) return text;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::from_errno(name, errno);
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > limit) return Status::usage(fmt::format("{}: larger than {} bytes", name, limit));
  }
}

Result<std::string> read_file(std::string const& path) {
  Fd const fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Status::from_errno(path, errno);
  return read_all(fd.get(), path);
}

Result<Fd> Disk::open(std::string const& path, int flags, mode_t mode) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) return Status::from_errno(path, errno);
  return fd;
}

Status Disk::write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) {
  while (!bytes.empty()) {
    ssize_t const n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::from_errno(path, errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Status Disk::sync(int fd, std::string const& path) {
  if (::fdatasync(fd) == 0) return {};
  return Status::defect(Status::from_errno("fsync of " + path, errno).what());
}

Status Disk::sync_folder(std::string const& path) {
  Fd const fd(::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return Status::from_errno(path, errno);
  if (::fsync(fd.get()) == 0) return {};
  return Status::defect(Status::from_errno("fsync of " + path, errno).what());
}

Status Disk::truncate(int fd, std::uint64_t length, std::string const& path) {
  if (::ftruncate(fd, static_cast<off_t>(length)) == 0) return {};
  return Status::from_errno(path, errno);
}

Status Disk::rename(std::string const& from, std::string const& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return {};
  return Status::from_errno(to, errno);
}

Status Disk::remove(std::string const& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
  return Status::from_errno(path, errno);
}

Disk& real_disk() {
  static Disk disk;
  return disk;
}

Result<std::size_t> read_at(int fd, char* to, std::size_t size, std::uint64_t offset, std::string const& path) {
  std::size_t done = 0;
  while (done < size) {
    ssize_t const n = ::pread(fd, to + done, size - done, static_cast<off_t>(offset + done));
    if (n == 0) break;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::from_errno(path, errno);
    done += static_cast<std::size_t>(n);
  }
  return done;
}

Result<std::uint64_t> file_size(int fd, std::string const& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return Status::from_errno(path, errno);
  return static_cast<std::uint64_t>(info.st_size);
}

Status replace_file(Disk& disk, std::string const& path, std::string_view bytes) {
  std::string const temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  Status status;
  {
    auto fd = disk.open(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (!fd) return fd.status();
    status = disk.write_at(fd->get(), bytes, 0, temporary);
    if (status.ok()) status = disk.sync(fd->get(), temporary);
  }
  if (status.ok()) status = disk.rename(temporary, path);
  if (!status.ok()) {
    (void)disk.remove(temporary);
    return status;
  }
  return disk.sync_folder(parent_folder(path));
}

Status make_folders(Disk& disk, std::string const& path) {
  if (path.empty() || path == "/" || path == ".") return {};
  std::string bare = path;
  while (bare.size() > 1 && bare.back() == '/') bare.pop_back();
  std::string const parent = parent_folder(bare);
  if (!exists(bare)) {
    if (Status status = make_folders(disk, parent); !status.ok()) return status;
    if (::mkdir(bare.c_str(), 0777) != 0 && errno != EEXIST) return Status::from_errno(bare, errno);
  } else if (::access(parent.c_str(), R_OK) != 0) {
    return {};  // not made by us
  }
  // Also where it was there: whoever made it may have been killed before its name was durable.
  return disk.sync_folder(parent);
}

bool exists(std::string const& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

Result<std::vector<std::string>> list_folder(std::string const& path) {
  std::vector<std::string> names;
  Handle<DIR, ::closedir> const folder(::opendir(path.c_str()));
  if (!folder) {
    if (errno == ENOENT) return names;
    return Status::from_errno(path, errno);
  }
  while (dirent const* entry = ::readdir(folder.get())) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string join(std::string_view folder, std::string_view name) {
  std::string path(folder);
  if (!path.empty() && path.back() != '/') path += '/';
  return path.append(name);
}

std::string parent_folder(std::string const& path) {
  auto const end = path.find_last_not_of('/');
  auto const slash = end == std::string::npos ? std::string::npos : path.rfind('/', end);
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<Fd> lock_file(std::string const& path, Lock kind, bool wait) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!fd) return Status::from_errno(path, errno);
  int const operation = (kind == Lock::shared ? LOCK_SH : LOCK_EX) | (wait ? 0 : LOCK_NB);
  while (::flock(fd.get(), operation) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return Status::temporary(path + ": held by another process");
    return Status::from_errno(path, errno);
  }
  return fd;
}

bool lock_held(std::string const& path) {
  // A shared lock, so that two who ask do not see each other.
  Fd const fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return fd && ::flock(fd.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

std::vector<pid_t> pids_with_open(std::string const& path) {
  std::vector<pid_t> pids;
  char* const resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return pids;
  Handle<char, std::free> const wanted(resolved);
  auto processes = list_folder("/proc");
  if (!processes) return pids;
  for (std::string const& pid : *processes) {
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    auto descriptors = list_folder("/proc/" + pid + "/fd");
    if (!descriptors) continue;
    for (std::string const& name : *descriptors) {
      char target[PATH_MAX + 1];
      ssize_t const n = ::readlink(fmt::format("/proc/{}/fd/{}", pid, name).c_str(), target, PATH_MAX);
      if (n <= 0 || std::string_view(target, static_cast<std::size_t>(n)) != wanted.get()) continue;
      pids.push_back(static_cast<pid_t>(std::strtol(pid.c_str(), nullptr, 10)));
      break;
    }
  }
  return pids;
}

std::vector<std::string> who_has_open(std::string const& path) {
  std::vector<std::string> who;
  for (pid_t const pid : pids_with_open(path)) {
    auto command = read_file(fmt::format("/proc/{}/comm", pid));
    std::string text = command ? *command : "?";
    while (!text.empty() && text.back() == '\n') text.pop_back();
    who.push_back(fmt::format("{} ({})", text, pid));
  }
  return who;
}

}  // namespace inflight

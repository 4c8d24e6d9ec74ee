#include "common/reserve.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace inflight {
namespace {

constexpr std::uint64_t kReserve = 4 << 20;
constexpr std::uint64_t kReservePart = 256 << 10;

std::string reserve_path(std::string const& exchange) { return join(exchange, "reserve"); }

}  // namespace

Status keep_reserve(Disk& disk, std::string const& exchange) {
  std::string const path = reserve_path(exchange);
  auto fd = disk.open(path, O_RDWR | O_CREAT);
  if (!fd) return fd.status();
  auto const size = file_size(fd->get(), path);
  if (!size) return size.status();
  if (*size >= kReserve) return {};
  Status const full = Status::temporary(
      fmt::format("{}: no room on the disk but for cursors and dead letters: {}", exchange, std::strerror(ENOSPC)));
  // Asked first, so that trying does not take what a subscriber is about to need.
  struct statvfs room {};
  if (::fstatvfs(fd->get(), &room) == 0 && room.f_blocks > 0 &&
      std::uint64_t{room.f_bavail} * room.f_frsize < kReserve - *size + kReservePart) {
    return full;
  }
  int const error = ::posix_fallocate(fd->get(), 0, static_cast<off_t>(kReserve));
  if (error == 0) return {};
  (void)disk.truncate(fd->get(), *size, path);
  return error == ENOSPC ? full : Status::from_errno(path, error);
}

bool use_reserve(Disk& disk, std::string const& exchange) {
  std::string const path = reserve_path(exchange);
  auto fd = disk.open(path, O_RDWR);
  if (!fd) return false;
  auto const size = file_size(fd->get(), path);
  if (!size || *size == 0) return false;
  return disk.truncate(fd->get(), *size - std::min(*size, kReservePart), path).ok();
}

}  // namespace inflight

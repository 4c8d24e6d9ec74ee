// The reserve: room on disk that cursors and dead letters of an exchange may take when nothing else is left
// (man/exchange.7).
#pragma once

#include <string>

#include "common/fd_io.h"
#include "common/status.h"

namespace inflight {

// Ok while all of it stands, made anew where it does not; Code::temporary where the disk has no room for it: no more
// events then.
[[nodiscard]] Status keep_reserve(Disk& disk, std::string const& exchange);
// Gives up a part of it. False when nothing is left to give.
[[nodiscard]] bool use_reserve(Disk& disk, std::string const& exchange);

// Writes, and writes again with what the reserve gives up as long as there is no room.
template <typename Write>
[[nodiscard]] Status with_reserve(Disk& disk, std::string const& exchange, Write write) {
  Status status = write();
  while (status.code() == Code::temporary && use_reserve(disk, exchange)) status = write();
  return status;
}

}  // namespace inflight

// Objects as files below a folder.
#pragma once

#include <memory>
#include <string>

#include "common/fd_io.h"
#include "common/object_store.h"

namespace inflight {

// Code::usage where the directory is missing, unless it is to be made.
[[nodiscard]] Result<std::unique_ptr<ObjectStore>> open_directory_store(Disk& disk, std::string const& path, bool make);

}  // namespace inflight

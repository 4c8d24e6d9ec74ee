// The store that a name is of: the path of a directory, or s3://BUCKET/PREFIX.
#pragma once

#include <memory>
#include <string>

#include "common/fd_io.h"
#include "common/object_store.h"
#include "common/s3_client.h"

namespace inflight {

struct StoreOptions {
  bool puts = false;  // otherwise it is only read
  S3Options s3;
};

// Code::usage where the name is of no kind that is known, and where what it names is missing; a directory to put into
// is made.
[[nodiscard]] Result<std::unique_ptr<ObjectStore>> open_object_store(Disk& disk, Clock& clock, std::string const& name,
                                                                     StoreOptions const& options);

}  // namespace inflight

#include "common/open_store.h"

#include <fmt/format.h>

#include "common/directory_store.h"
#include "common/s3_store.h"
#include "common/url.h"

namespace inflight {

Result<std::unique_ptr<ObjectStore>> open_object_store(Disk& disk, Clock& clock, std::string const& name,
                                                       StoreOptions const& options) {
  if (name.starts_with("s3://")) return open_s3_store(disk, clock, name, options.puts, options.s3);
  if (name.empty() || name.find("://") != std::string::npos) {
    return Status::usage(
        fmt::format("'{}': not an archive: the path of a directory, or s3://BUCKET/PREFIX", public_url(name)));
  }
  return open_directory_store(disk, name, options.puts);
}

}  // namespace inflight

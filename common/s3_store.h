// Objects in a bucket of S3, below a prefix.
#pragma once

#include <memory>
#include <string>

#include "common/fd_io.h"
#include "common/object_store.h"
#include "common/s3_client.h"

namespace inflight {

// `s3://BUCKET[/PREFIX]`, the prefix as it is, not percent-encoded. Asks the server once, so that what is wrong with
// credentials, region or bucket is told here, Code::usage; Code::temporary where it does not answer.
[[nodiscard]] Result<std::unique_ptr<ObjectStore>> open_s3_store(Disk& disk, Clock& clock, std::string const& name,
                                                                 bool puts, S3Options const& options);

}  // namespace inflight

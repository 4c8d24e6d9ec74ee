// gzip (RFC 1952), for the bodies of requests.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace inflight {

// Appends `bytes` as one gzip member, compressed quickly rather than well. Code::temporary: no memory.
[[nodiscard]] Status append_gzip(std::string& out, std::string_view bytes);

}  // namespace inflight

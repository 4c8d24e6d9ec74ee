#include "common/gzip.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <limits>

namespace inflight {

Status append_gzip(std::string& out, std::string_view bytes) {
  constexpr int kGzip = 16 + MAX_WBITS;
  z_stream stream{};
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    return Status::temporary("gzip: out of memory");
  std::array<char, 64 << 10> chunk{};
  int result = Z_OK;
  while (result == Z_OK) {
    if (stream.avail_in == 0) {
      std::size_t const size = std::min<std::size_t>(bytes.size(), std::numeric_limits<uInt>::max());
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));  // zlib does not write to it
      stream.avail_in = static_cast<uInt>(size);
      bytes.remove_prefix(size);
    }
    stream.next_out = reinterpret_cast<Bytef*>(chunk.data());
    stream.avail_out = static_cast<uInt>(chunk.size());
    result = deflate(&stream, bytes.empty() ? Z_FINISH : Z_NO_FLUSH);
    out.append(chunk.data(), chunk.size() - stream.avail_out);
  }
  deflateEnd(&stream);
  return result == Z_STREAM_END ? Status{} : Status::defect("gzip: cannot compress");
}

}  // namespace inflight

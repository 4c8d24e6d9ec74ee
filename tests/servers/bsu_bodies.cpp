#include "tests/servers/bsu_bodies.h"

#include <zlib.h>

#include <algorithm>
#include <new>
#include <utility>

namespace inflight::sim {

namespace {

// One deflate state per thread: setting one up costs more than compressing a document.
class Gzip {
 public:
  Gzip() {
    if (deflateInit2(&stream_, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
      throw std::bad_alloc();
  }
  ~Gzip() { deflateEnd(&stream_); }
  Gzip(Gzip const&) = delete;
  Gzip& operator=(Gzip const&) = delete;

  void compress(std::string& body) {
    deflateReset(&stream_);
    packed_.resize(deflateBound(&stream_, body.size()));
    stream_.next_in = reinterpret_cast<Bytef*>(body.data());
    stream_.avail_in = static_cast<uInt>(body.size());
    stream_.next_out = reinterpret_cast<Bytef*>(packed_.data());
    stream_.avail_out = static_cast<uInt>(packed_.size());
    deflate(&stream_, Z_FINISH);
    packed_.resize(stream_.total_out);
    body.swap(packed_);
  }

 private:
  z_stream stream_{};
  std::string packed_;
};

struct CutBody {
  std::string text;
  std::size_t end;
};

ssize_t read_cut_body(void* state, std::uint64_t position, char* out, std::size_t max) {
  auto const& body = *static_cast<CutBody*>(state);
  if (position >= body.end) return MHD_CONTENT_READER_END_WITH_ERROR;
  std::size_t const size = std::min(max, body.end - position);
  body.text.copy(out, size, position);
  return static_cast<ssize_t>(size);
}

struct HistoryBody {
  Fleet const& fleet;
  std::size_t unit;
  std::int64_t next, until, cadence;
  HistoryEnd end;
  std::string ready{};   // made
  std::size_t sent = 0;  // of which this much was taken
  bool ended = false;

  void make_more() {
    ready.clear();
    sent = 0;
    for (; next < until && ready.size() < 16'384; next += cadence)
      Fleet::history_reading(ready, fleet.read(unit, next));
    if (next < until) return;
    ended = true;
    if (end == HistoryEnd::good) Fleet::history_end(ready);
  }
};

ssize_t read_history(void* state, std::uint64_t, char* out, std::size_t max) {
  auto& body = *static_cast<HistoryBody*>(state);
  if (body.sent == body.ready.size() && !body.ended) body.make_more();
  std::size_t const size = std::min(max, body.ready.size() - body.sent);
  if (size == 0)
    return body.end == HistoryEnd::cut ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
  body.ready.copy(out, size, body.sent);
  body.sent += size;
  return static_cast<ssize_t>(size);
}

}  // namespace

Response copied(std::string_view body) {
  // libmicrohttpd takes void* and, told to copy, does not write to it.
  return Response(MHD_create_response_from_buffer(body.size(), const_cast<char*>(body.data()), MHD_RESPMEM_MUST_COPY));
}

Response cut_off(std::string body) {
  std::size_t const size = body.size();
  auto* cut = new CutBody{std::move(body), size / 2};
  return Response(MHD_create_response_from_callback(size, 4096, &read_cut_body, cut,
                                                    [](void* p) { delete static_cast<CutBody*>(p); }));
}

Response history_body(Fleet const& fleet, std::size_t unit, std::int64_t first, std::int64_t until,
                      std::int64_t cadence, HistoryEnd end, std::string begin) {
  auto* body = new HistoryBody{fleet, unit, first, until, cadence, end, std::move(begin)};
  return Response(MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 32'768, &read_history, body,
                                                    [](void* p) { delete static_cast<HistoryBody*>(p); }));
}

void compress(std::string& body) {
  thread_local Gzip gzip;
  gzip.compress(body);
}

}  // namespace inflight::sim

#include "common/archive.h"

#include <fmt/format.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

#include "common/handle.h"

namespace inflight {

namespace {

constexpr std::int64_t kHour = 3'600'000'000'000;
constexpr std::uint32_t kSkippable = 0x184D2A5D;
constexpr std::string_view kTag = "IFLA";
constexpr std::size_t kTail = 16;  // digest, length, tag
constexpr std::size_t kChunk = 1 << 20;
constexpr std::size_t kMaxSpare = 3 << 20;
constexpr std::size_t kInOneCall = 2 << 20;  // of what is longer zstd keeps a copy of its window
constexpr int kFormat = 1;

using Digest = Handle<XXH3_state_t, XXH3_freeState>;

Digest new_digest() {
  Digest digest(XXH3_createState());
  if (!digest) throw std::bad_alloc();
  XXH3_128bits_reset(digest.get());
  return digest;
}

std::string text_of(XXH128_hash_t hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }
std::string text_of(Digest const& digest) { return text_of(XXH3_128bits_digest(digest.get())); }

template <typename T>
void put_number(std::string& out, T number) {
  for (std::size_t i = 0; i < sizeof number; ++i) out += static_cast<char>(number >> 8 * i & 0xff);
}

template <typename T>
T get_number(char const* from) {
  T number = 0;
  for (std::size_t i = 0; i < sizeof number; ++i)
    number |= static_cast<T>(static_cast<unsigned char>(from[i])) << 8 * i;
  return number;
}

std::string to_json(ObjectSummary const& summary) {
  nlohmann::ordered_json json = {{"format", kFormat},
                                 {"records", summary.records},
                                 {"bytes", summary.bytes},
                                 {"xxh128", summary.digest},
                                 {"stored_bytes", summary.stored_bytes},
                                 {"stored_xxh128", summary.stored_digest},
                                 {"first", format_rfc3339(summary.first)},
                                 {"last", format_rfc3339(summary.last)}};
  if (!summary.source.empty()) json["source"] = summary.source;
  if (!summary.positions.empty()) json["positions"] = summary.positions;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Status damaged(ObjectStore const& store, std::string const& key, std::string_view why) {
  return Status::defect(fmt::format("{}: damaged: {}", store.name(key), why));
}

}  // namespace

std::uint64_t hash64(std::string_view bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::pair<std::uint64_t, std::uint64_t> hash128(std::string_view bytes) {
  XXH128_hash_t const hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

std::optional<Time> archive_time(Record const& record) {
  std::string scratch;
  for (std::string_view const name : {"recordedtime", "time"}) {
    if (auto time = parse_rfc3339(record.text(name, scratch))) return time;
  }
  return std::nullopt;
}

std::int64_t hour_of(Time time) {
  std::int64_t const hour = time.ns / kHour;
  return time.ns % kHour < 0 ? hour - 1 : hour;
}

std::string hour_folder(std::int64_t hour) {
  // The first hour that can be begins before the earliest time.
  Time const inside{std::max(hour, std::numeric_limits<std::int64_t>::min() / kHour) * kHour};
  Civil const c = civil_from_time(hour_of(inside) == hour ? inside : Time{std::numeric_limits<std::int64_t>::min()});
  return fmt::format("date={:04}-{:02}-{:02}/hour={:02}/", c.year, c.month, c.day, c.hour);
}

Time begin_of_hour(std::int64_t hour) {
  std::int64_t ns = 0;
  if (__builtin_mul_overflow(hour, kHour, &ns)) {
    ns = hour < 0 ? std::numeric_limits<std::int64_t>::min() : std::numeric_limits<std::int64_t>::max();
  }
  return {ns};
}

std::optional<std::int64_t> hour_of_key(std::string_view key) {
  // date=2018-07-01/hour=13/NAME.ndjson.zst
  constexpr std::size_t folder = 24;
  if (key.size() <= folder || !key.starts_with("date=") || !key.ends_with(".ndjson.zst")) return std::nullopt;
  if (key.substr(15, 6) != "/hour=" || key[23] != '/' || key.find('/', folder) != std::string_view::npos)
    return std::nullopt;
  auto const time = parse_rfc3339(fmt::format("{}T{}:59:59.999999999Z", key.substr(5, 10), key.substr(21, 2)));
  if (time) return hour_of(*time);
  auto const begin = parse_rfc3339(fmt::format("{}T{}:00:00Z", key.substr(5, 10), key.substr(21, 2)));
  if (begin) return hour_of(*begin);
  return std::nullopt;
}

struct FrameCompressor::State {
  Handle<ZSTD_CCtx, ZSTD_freeCCtx> context{ZSTD_createCCtx()};
  std::vector<char> out = std::vector<char>(ZSTD_compressBound(kInOneCall));
  std::string spare;
};

FrameCompressor::FrameCompressor(int level) : state_(std::make_unique<State>()) {
  if (!state_->context) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_checksumFlag, 1);
}

FrameCompressor::~FrameCompressor() = default;

void FrameCompressor::compress(std::string_view text, std::string_view end,
                               std::function<void(std::string_view)> const& take) {
  ZSTD_CCtx* const context = state_->context.get();
  auto const good = [](std::size_t code) {
    if (ZSTD_isError(code)) throw std::runtime_error(fmt::format("zstd: {}", ZSTD_getErrorName(code)));
    return code;
  };
  std::vector<char>& out = state_->out;
  if (end.empty() && text.size() <= kInOneCall) {
    take({out.data(), good(ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size()))});
    return;
  }
  good(ZSTD_CCtx_reset(context, ZSTD_reset_session_only));
  good(ZSTD_CCtx_setPledgedSrcSize(context, text.size() + end.size()));
  for (std::string_view const piece : {text, end}) {
    ZSTD_inBuffer in{piece.data(), piece.size(), 0};
    bool const last = piece.data() == end.data();
    for (std::size_t left = 1; last ? left != 0 : in.pos < in.size;) {
      ZSTD_outBuffer to{out.data(), out.size(), 0};
      left = good(ZSTD_compressStream2(context, &to, &in, last ? ZSTD_e_end : ZSTD_e_continue));
      take({out.data(), to.pos});
    }
  }
}

std::string FrameCompressor::take_spare() { return std::exchange(state_->spare, {}); }

void FrameCompressor::keep_spare(std::string&& lines) {
  if (lines.capacity() > kMaxSpare) return;
  lines.clear();
  state_->spare = std::move(lines);
}

struct ObjectEncoder::State {
  FrameCompressor* compressor = nullptr;
  std::function<void()> ready;
  Digest content = new_digest();
  Digest stored = new_digest();
  std::string lines;  // that are in no frame yet
  std::string pending;
  ObjectSummary summary;

  void frame(std::string_view text, std::string_view end) {
    XXH3_128bits_update(content.get(), text.data(), text.size());
    XXH3_128bits_update(content.get(), end.data(), end.size());
    compressor->compress(text, end, [this](std::string_view bytes) {
      XXH3_128bits_update(stored.get(), bytes.data(), bytes.size());
      summary.stored_bytes += bytes.size();
      pending += bytes;
      ready();
    });
  }
};

ObjectEncoder::ObjectEncoder(FrameCompressor& compressor, std::function<void()> ready)
    : state_(std::make_unique<State>()) {
  state_->compressor = &compressor;
  state_->ready = std::move(ready);
}

ObjectEncoder::~ObjectEncoder() = default;

void ObjectEncoder::add(std::string_view line, Time time) {
  ObjectSummary& summary = state_->summary;
  summary.first = summary.records == 0 ? time : std::min(summary.first, time);
  summary.last = summary.records == 0 ? time : std::max(summary.last, time);
  ++summary.records;
  summary.bytes += line.size() + 1;
  if (line.size() >= kAlone) {
    cut();
    state_->frame(line, "\n");
    return;
  }
  if (state_->lines.empty()) state_->lines = state_->compressor->take_spare();
  state_->lines.append(line).push_back('\n');
}

void ObjectEncoder::cut() {
  State& s = *state_;
  if (s.lines.empty()) return;
  s.frame(s.lines, {});
  // Many objects may be open: none keeps what it does not use.
  s.compressor->keep_spare(std::exchange(s.lines, {}));
}

ObjectSummary const& ObjectEncoder::finish(std::string source, std::string positions) {
  State& s = *state_;
  cut();
  s.summary.digest = text_of(s.content);
  s.summary.stored_digest = text_of(s.stored);
  s.summary.source = std::move(source);
  s.summary.positions = std::move(positions);
  std::string const json = to_json(s.summary);
  put_number(s.pending, kSkippable);
  put_number(s.pending, static_cast<std::uint32_t>(json.size() + kTail));
  s.pending += json;
  put_number(s.pending, hash64(json));
  put_number(s.pending, static_cast<std::uint32_t>(json.size()));
  s.pending += kTag;
  return s.summary;
}

std::string& ObjectEncoder::pending() { return state_->pending; }
std::size_t ObjectEncoder::waiting() const { return state_->lines.size(); }
ObjectSummary const& ObjectEncoder::summary() const { return state_->summary; }

Result<ObjectSummary> read_summary(ObjectStore& store, ObjectStore::Object const& object) {
  auto const bad = [&](std::string_view why) { return damaged(store, object.key, why); };
  // Nearly always all of it comes with the first range.
  std::vector<char> tail(std::min<std::uint64_t>(object.bytes, 64 << 10));
  auto got = store.get(object.key, object.bytes - tail.size(), tail);
  if (!got) return got.status();
  if (*got != tail.size()) return bad("it is shorter than it was");
  if (tail.size() < kTail || std::string_view(tail.data() + tail.size() - kTag.size(), kTag.size()) != kTag) {
    return bad("no summary at its end: cut short, or not written by s3-archive");
  }
  auto const length = get_number<std::uint32_t>(tail.data() + tail.size() - 8);
  std::uint64_t const whole = std::uint64_t{length} + kTail + 8;
  if (whole > object.bytes) return bad("the length of its summary");
  if (whole > tail.size()) {
    tail.resize(whole);
    got = store.get(object.key, object.bytes - whole, tail);
    if (!got) return got.status();
    if (*got != whole) return bad("it is shorter than it was");
  }
  char const* const frame = tail.data() + tail.size() - whole;
  std::string_view const text(frame + 8, length);
  if (get_number<std::uint32_t>(frame) != kSkippable || get_number<std::uint32_t>(frame + 4) != length + kTail) {
    return bad("the frame of its summary");
  }
  if (get_number<std::uint64_t>(frame + 8 + length) != hash64(text)) return bad("the checksum of its summary");
  ObjectSummary summary;
  try {
    auto const json = nlohmann::json::parse(text);
    int const format = json.at("format");
    if (format > kFormat) {
      return Status::usage(
          fmt::format("{}: format {}: this version reads up to {}", store.name(object.key), format, kFormat));
    }
    summary.records = json.at("records");
    summary.bytes = json.at("bytes");
    summary.digest = json.at("xxh128");
    summary.stored_bytes = json.at("stored_bytes");
    summary.stored_digest = json.at("stored_xxh128");
    auto const first = parse_rfc3339(json.at("first").get<std::string>());
    auto const last = parse_rfc3339(json.at("last").get<std::string>());
    if (!first || !last) return bad("the times of its summary");
    summary.first = *first;
    summary.last = *last;
    summary.source = json.value("source", "");
    summary.positions = json.value("positions", "");
  } catch (nlohmann::json::exception const& error) {
    return bad(fmt::format("its summary: {}", error.what()));
  }
  if (summary.stored_bytes + whole != object.bytes) return bad("its length is not what its summary says");
  return summary;
}

Status read_object(ObjectStore& store, ObjectStore::Object const& object, ObjectSummary const& summary,
                   std::function<void(std::string_view)> const& take) {
  auto const bad = [&](std::string_view why) { return damaged(store, object.key, why); };
  Handle<ZSTD_DCtx, ZSTD_freeDCtx> const context(ZSTD_createDCtx());
  if (!context) throw std::bad_alloc();
  Digest const content = new_digest();
  Digest const stored = new_digest();
  std::vector<char> compressed(kChunk), plain(ZSTD_DStreamOutSize());
  std::uint64_t bytes = 0, lines = 0;
  std::size_t open = 0;  // not 0: a frame has not ended
  char newest = '\n';
  for (std::uint64_t offset = 0; offset < summary.stored_bytes;) {
    auto const want = std::min<std::uint64_t>(compressed.size(), summary.stored_bytes - offset);
    auto got = store.get(object.key, offset, std::span(compressed.data(), want));
    if (!got) return got.status();
    if (*got != want) return bad("it is shorter than it was");
    offset += want;
    XXH3_128bits_update(stored.get(), compressed.data(), want);
    ZSTD_inBuffer in{compressed.data(), want, 0};
    for (bool full = false; in.pos < in.size || full;) {
      ZSTD_outBuffer out{plain.data(), plain.size(), 0};
      open = ZSTD_decompressStream(context.get(), &out, &in);
      if (ZSTD_isError(open))
        return bad(fmt::format("byte {} or before: {}", offset - want + in.pos, ZSTD_getErrorName(open)));
      full = out.pos == out.size;
      if (out.pos == 0) continue;
      bytes += out.pos;
      if (bytes > summary.bytes) return bad("it holds more than its summary says");
      XXH3_128bits_update(content.get(), plain.data(), out.pos);
      lines += static_cast<std::uint64_t>(std::count(plain.data(), plain.data() + out.pos, '\n'));
      newest = plain[out.pos - 1];
      take({plain.data(), out.pos});
    }
  }
  if (open != 0) return bad("its last frame is cut short");
  if (text_of(stored) != summary.stored_digest) return bad("the digest of its stored bytes");
  if (bytes != summary.bytes || lines != summary.records || newest != '\n' || text_of(content) != summary.digest) {
    return bad("its content is not what its summary says");
  }
  return {};
}

}  // namespace inflight

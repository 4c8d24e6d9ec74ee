#include "common/archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/xxh.h"
#include "common/zstd_frames.h"

namespace inflight {

namespace {

constexpr std::int64_t kHour = 3'600'000'000'000;
constexpr std::string_view kTag = "IFLA";
constexpr std::size_t kTail = 16;  // digest, length, tag
constexpr std::size_t kChunk = 1 << 20;
constexpr int kFormat = 1;

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
  if (summary.index) json["index"] = {{"offset", summary.index->offset}, {"size", summary.index->size}};
  if (!summary.source.empty()) json["source"] = summary.source;
  if (!summary.positions.empty()) json["positions"] = summary.positions;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

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

std::string frame_head(std::uint32_t magic, std::uint32_t size) {
  std::string head;
  put_number(head, magic);
  put_number(head, size);
  return head;
}

std::string summary_frame(ObjectSummary const& summary) {
  std::string const json = to_json(summary);
  std::string frame = frame_head(kSummaryFrame, static_cast<std::uint32_t>(json.size() + kTail));
  frame += json;
  put_number(frame, hash64(json));
  put_number(frame, static_cast<std::uint32_t>(json.size()));
  frame += kTag;
  return frame;
}

Status damaged_object(ObjectStore const& store, std::string const& key, std::string_view why) {
  return Status::defect(fmt::format("{}: damaged: {}", store.name(key), why));
}

ObjectSummary::Extent summary_range(ObjectStore::Object const& object) {
  std::uint64_t const size = std::min<std::uint64_t>(object.bytes, 32 << 10);
  return {object.bytes - size, size};
}

Result<ObjectSummary> read_summary(ObjectStore& store, ObjectStore::Object const& object) {
  auto const bad = [&](std::string_view why) { return damaged_object(store, object.key, why); };
  // Nearly always all of it comes with the first range.
  std::vector<char> tail(summary_range(object).size);
  auto got = store.get(object.key, summary_range(object).offset, tail);
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
  if (get_number<std::uint32_t>(frame) != kSummaryFrame || get_number<std::uint32_t>(frame + 4) != length + kTail) {
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
    if (auto const index = json.find("index"); index != json.end())
      summary.index = {index->at("offset").get<std::uint64_t>(), index->at("size").get<std::uint64_t>()};
  } catch (nlohmann::json::exception const& error) {
    return bad(fmt::format("its summary: {}", error.what()));
  }
  if (summary.stored_bytes + whole != object.bytes) return bad("its length is not what its summary says");
  return summary;
}

Status read_object(ObjectStore& store, ObjectStore::Object const& object, ObjectSummary const& summary,
                   std::function<void(std::string_view)> const& take, std::function<void(std::uint64_t)> const& ended) {
  auto const bad = [&](std::string_view why) { return damaged_object(store, object.key, why); };
  FrameReader reader;
  ContentDigest content, stored;
  std::vector<char> compressed(kChunk);
  std::uint64_t bytes = 0, lines = 0;
  char newest = '\n';
  for (std::uint64_t offset = 0; offset < summary.stored_bytes;) {
    auto const want = std::min<std::uint64_t>(compressed.size(), summary.stored_bytes - offset);
    auto got = store.get(object.key, offset, std::span(compressed.data(), want));
    if (!got) return got.status();
    if (*got != want) return bad("it is shorter than it was");
    std::string_view const chunk(compressed.data(), want);
    stored.update(chunk);
    std::string const wrong = reader.read(
        chunk,
        [&](std::string_view plain) {
          bytes += plain.size();
          if (bytes > summary.bytes) return;
          content.update(plain);
          lines += static_cast<std::uint64_t>(std::count(plain.begin(), plain.end(), '\n'));
          newest = plain.back();
          take(plain);
        },
        [&](std::size_t end) { ended(offset + end); });
    if (!wrong.empty()) return bad(wrong);
    if (bytes > summary.bytes) return bad("it holds more than its summary says");
    offset += want;
  }
  if (reader.inside()) return bad("its last frame is cut short");
  if (stored.text() != summary.stored_digest) return bad("the digest of its stored bytes");
  if (bytes != summary.bytes || lines != summary.records || newest != '\n' || content.text() != summary.digest) {
    return bad("its content is not what its summary says");
  }
  return {};
}

}  // namespace inflight

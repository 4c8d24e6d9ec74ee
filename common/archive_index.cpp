#include "common/archive_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/json_text.h"
#include "common/zstd_frames.h"

namespace inflight {

namespace {

constexpr std::size_t kLongestLine = 64 << 20;  // what says more of one frame is no index
constexpr std::uint64_t kPiece = 4 << 20;       // what is longer is read in pieces
constexpr char const* kMismatch = "it does not match the frames";

constexpr std::int64_t kMillisecond = 1'000'000;

// Outwards: finer digits are what an index would mostly consist of.
std::int64_t milliseconds_before(Time time) { return time.ns / kMillisecond - (time.ns % kMillisecond < 0 ? 1 : 0); }
std::int64_t milliseconds_after(Time time) { return time.ns / kMillisecond + (time.ns % kMillisecond > 0 ? 1 : 0); }
Time from_milliseconds(std::int64_t milliseconds) {
  std::int64_t ns = 0;
  if (__builtin_mul_overflow(milliseconds, kMillisecond, &ns))
    ns = milliseconds < 0 ? std::numeric_limits<std::int64_t>::min() : std::numeric_limits<std::int64_t>::max();
  return {ns};
}

ArchiveFrame frame_of(nlohmann::json const& json) {
  ArchiveFrame frame;
  frame.offset = json.at("offset");
  frame.size = json.at("size");
  frame.bytes = json.at("bytes");
  for (nlohmann::json const& item : json.at("groups")) {
    ArchiveGroup group;
    if (!item.at(0).is_null()) group.subject = item.at(0).get<std::string>();
    group.records = item.at(1);
    group.first = from_milliseconds(item.at(2));
    group.last = from_milliseconds(item.at(3));
    if (item.size() >= 6) group.positions = {item.at(4).get<std::uint64_t>(), item.at(5).get<std::uint64_t>()};
    frame.groups.push_back(std::move(group));
  }
  return frame;
}

// Hands over the bytes from `offset` on, of what is long piece by piece: no answer need be larger, and memory does not
// grow with what an index says of its size. `take` returns what is wrong, as `bad` tells it.
template <typename Bad>
Status read_pieces(ObjectStore& store, ObjectStore::Object const& object, std::uint64_t offset, std::uint64_t size,
                   Bad const& bad, std::function<std::string(std::string_view)> const& take) {
  std::string piece;
  while (size > 0) {
    piece.resize(std::min(size, kPiece));
    auto got = store.get(object.key, offset, piece);
    if (!got) return got.status();
    if (*got != piece.size()) return damaged_object(store, object.key, "it is shorter than it was");
    if (std::string const wrong = take(piece); !wrong.empty()) return bad(wrong);
    offset += piece.size();
    size -= piece.size();
  }
  return {};
}

}  // namespace

std::optional<std::string> archive_subject(Record const& record) {
  if (!archive_time(record)) return std::nullopt;
  std::string scratch;
  std::string_view const subject = record.text("subject", scratch);
  return subject.empty() ? std::nullopt : std::optional<std::string>(subject);
}

void append_index_line(std::string& out, ArchiveFrame const& frame) {
  auto const to = std::back_inserter(out);
  fmt::format_to(to, R"({{"offset":{},"size":{},"bytes":{},"groups":[)", frame.offset, frame.size, frame.bytes);
  for (ArchiveGroup const& group : frame.groups) {
    out += &group == frame.groups.data() ? "[" : ",[";
    if (group.subject) {
      append_quoted(out, *group.subject);
    } else {
      out += "null";
    }
    fmt::format_to(to, ",{},{},{}", group.records, milliseconds_before(group.first), milliseconds_after(group.last));
    if (group.positions) fmt::format_to(to, ",{},{}", group.positions->lowest, group.positions->highest);
    out += ']';
  }
  out += "]}";
}

Result<std::vector<ArchiveFrame>> read_index(ObjectStore& store, ObjectStore::Object const& object,
                                             ObjectSummary const& summary,
                                             std::function<bool(ArchiveFrame const&)> const& wanted) {
  auto const bad = [&](std::string_view why) {
    return damaged_object(store, object.key, fmt::format("its index: {}", why));
  };
  std::uint64_t const begin = summary.index->offset, size = summary.index->size;
  if (begin < 8 || begin > summary.stored_bytes || summary.stored_bytes - begin != size) return bad("its place");
  std::vector<ArchiveFrame> frames;
  std::uint64_t records = 0, bytes = 0, offset = 0;
  // What is wrong with a line, or empty.
  auto take_line = [&](std::string const& line) -> std::string {
    try {
      ArchiveFrame one = frame_of(nlohmann::json::parse(line));
      if (one.offset != offset || one.size > begin - 8 - offset || one.bytes > summary.bytes - bytes) return kMismatch;
      offset += one.size;
      bytes += one.bytes;
      for (ArchiveGroup const& group : one.groups) records += group.records;
      if (wanted(one)) frames.push_back(std::move(one));
    } catch (nlohmann::json::exception const& error) {
      return error.what();
    }
    return "";
  };
  std::string line, wrong;
  FrameReader reader;
  auto take_text = [&](std::string_view text) {
    while (wrong.empty()) {
      std::size_t const end = text.find('\n');
      line.append(text.substr(0, end));
      if (end == std::string_view::npos) {
        if (line.size() > kLongestLine) wrong = "a line that is too long";
        return;
      }
      wrong = take_line(line);
      line.clear();
      text.remove_prefix(end + 1);
    }
  };
  std::string const head = frame_head(kIndexFrame, static_cast<std::uint32_t>(size));
  bool first = true;
  Status const status =
      read_pieces(store, object, begin - head.size(), size + head.size(), bad, [&](std::string_view piece) {
        if (std::exchange(first, false)) {
          if (!piece.starts_with(head)) return std::string("its frame");
          piece.remove_prefix(head.size());
        }
        std::string const broken = reader.read(piece, take_text, [](std::size_t) {});
        return broken.empty() ? wrong : broken;
      });
  if (!status.ok()) return status;
  if (reader.inside() || !line.empty()) return bad("its length");
  if (offset != begin - 8 || bytes != summary.bytes || records != summary.records) return bad(kMismatch);
  return frames;
}

bool ArchiveFrameCheck::next(Record const& record, Time time) {
  if (complete()) return false;
  ArchiveGroup const& group = frame_.groups[group_];
  if (time < group.first || time > group.last) return false;
  if (archive_subject(record) != group.subject) return false;
  bytes_ += record.line().size() + 1;
  if (++seen_ < group.records) return true;
  ++group_;
  seen_ = 0;
  return !complete() || bytes_ == frame_.bytes;
}

Status read_records_of(ObjectStore& store, ObjectStore::Object const& object, ObjectSummary const& summary,
                       TakeRecord const& take, std::function<void(std::uint64_t)> const& ended) {
  RecordParser parser;
  Record record;
  Time const begin = begin_of_hour(hour_of_key(object.key).value_or(0));
  auto take_line = [&](std::string_view line) -> Status {
    if (Status status = parser.parse(line, record); !status.ok())
      return damaged_object(store, object.key, status.what());
    return take(record, archive_time(record).value_or(begin));
  };
  std::string padded;  // a line that came in pieces, or has nothing behind it
  Status failed;
  auto take_bytes = [&](std::string_view bytes) {
    while (failed.ok()) {
      std::size_t const end = bytes.find('\n');
      if (padded.empty() && end < bytes.size() && bytes.size() - end >= kRecordPadding) {
        failed = take_line(bytes.substr(0, end));
      } else {
        padded.append(bytes.substr(0, end));
        if (end == std::string_view::npos) return;
        std::size_t const size = padded.size();
        padded.append(kRecordPadding, '\0');
        failed = take_line({padded.data(), size});
        padded.clear();
        forget_long(padded);
      }
      bytes.remove_prefix(end + 1);
    }
  };
  Status const status = read_object(store, object, summary, take_bytes, ended);
  return status.ok() ? failed : status;
}

Status read_frame(ObjectStore& store, ObjectStore::Object const& object, ArchiveFrame const& frame,
                  TakeRecord const& take) {
  auto const bad = [&](std::string_view why) {
    return damaged_object(store, object.key, fmt::format("the frame at byte {}: {}", frame.offset, why));
  };
  std::string text;
  text.reserve(std::min<std::uint64_t>(frame.bytes, 2 << 20) + kRecordPadding);
  FrameReader reader;
  std::size_t frames = 0;
  bool too_long = false;
  Status const read =
      read_pieces(store, object, frame.offset, frame.size, bad, [&](std::string_view piece) -> std::string {
        return reader.read(
            piece,
            [&](std::string_view bytes) {
              too_long = too_long || text.size() + bytes.size() > frame.bytes;
              if (!too_long) text += bytes;
            },
            [&](std::size_t) { ++frames; });
      });
  if (!read.ok()) return read;
  if (too_long || reader.inside() || frames != 1 || text.size() != frame.bytes || !text.ends_with('\n'))
    return bad("its length is not what the index says");
  std::size_t const size = text.size();
  text.append(kRecordPadding, '\0');

  RecordParser parser;
  Record record;
  Time const begin = begin_of_hour(hour_of_key(object.key).value_or(0));
  ArchiveFrameCheck check(frame);
  for (std::size_t at = 0, end = 0; at < size; at = end + 1) {
    end = text.find('\n', at);
    if (Status status = parser.parse({text.data() + at, end - at}, record); !status.ok()) return bad(status.what());
    Time const time = archive_time(record).value_or(begin);
    if (!check.next(record, time)) return bad("it is not what the index says");
    if (Status status = take(record, time); !status.ok()) return status;
  }
  return check.complete() ? Status{} : bad("it is not what the index says");
}

}  // namespace inflight

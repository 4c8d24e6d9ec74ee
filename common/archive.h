// The objects of an archive: their names, their bytes, their summary.  Layout: man/archive.5
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/object_store.h"
#include "common/record.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

// What a record is filed under: `recordedtime`, else `time`, else nothing.
[[nodiscard]] std::optional<Time> archive_time(Record const& record);

// Hours are counted from 1970-01-01T00Z.
[[nodiscard]] std::int64_t hour_of(Time time);
[[nodiscard]] std::string hour_folder(std::int64_t hour);  // `date=2018-07-01/hour=13/`
// The hour of an object's key; nothing where it is no name of an archive's object.
[[nodiscard]] std::optional<std::int64_t> hour_of_key(std::string_view key);
// The beginning of an hour. Hours before 1677-09-21 or after 2262-04-11 begin there.
[[nodiscard]] Time begin_of_hour(std::int64_t hour);

struct ObjectSummary {
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;  // of the lines, with their newlines
  std::string digest;       // of these
  std::uint64_t stored_bytes = 0;
  std::string stored_digest;
  Time first, last;
  std::string source;
  std::string positions;  // as receipts name them
  // Where the index lies in the object; none in objects of before there was one.
  struct Extent {
    std::uint64_t offset = 0, size = 0;
  };
  std::optional<Extent> index;
};

inline constexpr std::uint32_t kSummaryFrame = 0x184D2A5D, kIndexFrame = 0x184D2A5C;  // of zstd's skippable ones

// The frame of a summary: all that stands behind its stored_bytes.
[[nodiscard]] std::string summary_frame(ObjectSummary const& summary);
// What stands before the content of a skippable frame.
[[nodiscard]] std::string frame_head(std::uint32_t magic, std::uint32_t size);

// Code::defect, naming the object.
[[nodiscard]] Status damaged_object(ObjectStore const& store, std::string const& key, std::string_view why);

// Reads the end of an object only. Code::defect where it is damaged or was not written by us.
[[nodiscard]] Result<ObjectSummary> read_summary(ObjectStore& store, ObjectStore::Object const& object);
// The range of the object that read_summary() asks for first.
[[nodiscard]] ObjectSummary::Extent summary_range(ObjectStore::Object const& object);

// Hands over the lines' bytes piece by piece, and checks everything that can be checked: only after ok is what was
// handed over good. `ended` hears where in the object each frame of lines ends. Code::defect, naming the object, where
// it is damaged.
[[nodiscard]] Status read_object(
    ObjectStore& store, ObjectStore::Object const& object, ObjectSummary const& summary,
    std::function<void(std::string_view)> const& take, std::function<void(std::uint64_t)> const& ended = [](auto) {});

}  // namespace inflight

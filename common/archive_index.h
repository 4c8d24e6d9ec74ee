// Where the events of each subject lie in an object of an archive.  Layout: man/archive.5
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/archive.h"
#include "common/object_store.h"
#include "common/record.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

// Lines of one subject that stand one after the other in a frame.
struct ArchiveGroup {
  std::optional<std::string> subject;  // none: records without subject or time, of any subject
  std::uint64_t records = 0;
  Time first, last;  // the earliest and the latest
  struct Span {
    std::uint64_t lowest = 0, highest = 0;
  };
  std::optional<Span> positions;
};

struct ArchiveFrame {
  std::uint64_t offset = 0, size = 0;  // in the object
  std::uint64_t bytes = 0;             // of its lines
  std::vector<ArchiveGroup> groups;
};

// The group that a record is filed under.
[[nodiscard]] std::optional<std::string> archive_subject(Record const& record);

// One line of the index, without newline.
void append_index_line(std::string& out, ArchiveFrame const& frame);

// Those frames of an object whose summary names an index that `wanted` says are. Code::defect, naming the object, where
// it is damaged or is no index of this object.
[[nodiscard]] Result<std::vector<ArchiveFrame>> read_index(ObjectStore& store, ObjectStore::Object const& object,
                                                           ObjectSummary const& summary,
                                                           std::function<bool(ArchiveFrame const&)> const& wanted);

// Compares the records of a frame with what the index says of them.
class ArchiveFrameCheck {
 public:
  explicit ArchiveFrameCheck(ArchiveFrame const& frame) : frame_(frame) {}
  // False: it is not the one that is next.
  [[nodiscard]] bool next(Record const& record, Time time);
  [[nodiscard]] bool complete() const { return group_ == frame_.groups.size(); }

 private:
  ArchiveFrame const& frame_;
  std::size_t group_ = 0;
  std::uint64_t seen_ = 0;  // of its records
  std::uint64_t bytes_ = 0;
  std::string scratch_;
};

// A record with its time, or the beginning of its folder's hour.
using TakeRecord = std::function<Status(Record const&, Time)>;

// All records of an object, as read_object() has it. What take() returns other than ok ends it.
[[nodiscard]] Status read_records_of(
    ObjectStore& store, ObjectStore::Object const& object, ObjectSummary const& summary, TakeRecord const& take,
    std::function<void(std::uint64_t)> const& ended = [](auto) {});

// Those of one frame. Code::defect, naming the object: the frame is damaged, or is not what the index says.
[[nodiscard]] Status read_frame(ObjectStore& store, ObjectStore::Object const& object, ArchiveFrame const& frame,
                                TakeRecord const& take);

}  // namespace inflight

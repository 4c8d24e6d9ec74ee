// The end of the journal, where batches are appended. Everything here happens under the append lock.
// What is written, synced and marked in which order, and what recovery may cut: man/journal.5, APPENDING and RECOVERY.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/fd_io.h"
#include "common/journal_index.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight::journal {

class Tail {
 public:
  Tail(Disk& disk, std::string folder, Uuid const& id) : disk_(disk), folder_(std::move(folder)), id_(id) {}

  // Comes to stand at the end, recovering what others have left. To be called first whenever the lock was taken.
  [[nodiscard]] Status catch_up();
  // The position that the next event gets.
  [[nodiscard]] std::uint64_t end() const { return segment_ ? segment_->mark.end : 0; }
  // Begins a new segment where there is none, or the last one is sealed or has reached `segment_bytes`.
  [[nodiscard]] Status make_room(std::uint64_t segment_bytes);
  // After make_room(). All of it or, but for Code::defect, nothing: then the segment was cut back (and sealed after a
  // failed fsync) as far as that was possible.
  [[nodiscard]] Status append(std::string_view data, std::uint64_t count, Time committed);

 private:
  struct Segment {
    Index index;
    Fd data;
    std::string data_path;
    Mark mark;
  };

  [[nodiscard]] Result<bool> unchanged() const;
  [[nodiscard]] Status open_last();
  [[nodiscard]] Status recover(Segment& segment);
  // `replaces`: a segment that was sealed without any event has this name.
  [[nodiscard]] Status begin(std::uint64_t first, bool replaces);
  [[nodiscard]] Status seal_before(std::uint64_t first, std::uint64_t successor);
  // Whether the record's data are as its checksum says; if so, writes both again.
  [[nodiscard]] Result<bool> renew(Segment& segment, std::uint64_t number, IndexRecord const& record);
  [[nodiscard]] Status cut(Segment& segment, Mark const& mark);
  [[nodiscard]] Status set_mark(Segment& segment, Mark mark);

  Disk& disk_;
  std::string folder_;
  Uuid id_;
  std::optional<Segment> segment_;
};

}  // namespace inflight::journal

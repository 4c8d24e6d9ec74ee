// The index beside a segment of the journal: header, commit marks and records as man/journal.5 lays them out, and what
// can be told from them without knowing why. Used by the journal's writer and reader only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd_io.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight::journal {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint64_t kRecordsAt = 12288;
constexpr std::uint64_t kRecordSize = 64;

using Uuid = std::array<unsigned char, 16>;
[[nodiscard]] std::optional<Uuid> parse_uuid(std::string_view text);

[[nodiscard]] std::string data_path(std::string const& folder, std::uint64_t first);
[[nodiscard]] std::string index_path(std::string const& folder, std::uint64_t first);

// The first positions of the segments of a folder, ascending: of those with an index, or of all data files.
[[nodiscard]] Result<std::vector<std::uint64_t>> list_segments(std::string const& folder);
[[nodiscard]] Result<std::vector<std::uint64_t>> list_data(std::string const& folder);

// Held while the journal is made, appended to, recovered or shortened.
[[nodiscard]] Result<Fd> append_lock(std::string const& folder);

struct Mark {
  std::uint64_t sequence = 0;  // 0: none was readable
  std::uint64_t count = 0;     // records
  std::uint64_t end = 0;       // position behind the last event
  std::uint64_t length = 0;    // bytes of data
  bool sealed = false;
  bool operator==(Mark const&) const = default;
};

struct IndexRecord {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t checksum = 0;  // of the data
  Time committed;
  [[nodiscard]] std::uint64_t end() const { return first + count; }
};

[[nodiscard]] std::uint64_t checksum(std::string_view bytes);

// An open index. Reads go straight to the file, so that every call sees what other processes have written.
class Index {
 public:
  // The bytes of a new index: header and a mark that commits nothing.
  [[nodiscard]] static std::string fresh(Uuid const& id, std::uint64_t first);

  // Code::usage: a newer version. Code::defect: the header is of another journal, or unreadable with all marks and
  // records. Where only the header is, header_damaged() says so, and everything else is as usual.
  [[nodiscard]] static Result<Index> open(Disk& disk, std::string const& folder, std::uint64_t first, Uuid const& id,
                                          int flags);

  [[nodiscard]] bool header_damaged() const { return header_damaged_; }
  [[nodiscard]] Status mend_header(Disk& disk, Uuid const& id);

  // The mark that counts. Without a readable one: sequence 0, nothing committed.
  [[nodiscard]] Result<Mark> mark() const;
  [[nodiscard]] Status write_mark(Disk& disk, Mark const& mark) const;

  [[nodiscard]] Result<std::uint64_t> size() const { return file_size(fd(), path_); }
  // How many records fit into the file as it is now; they need not be committed or readable.
  [[nodiscard]] Result<std::uint64_t> capacity() const;
  // `out[i]` is record `at + i`, nothing where it is unreadable; fewer than `count` at the end of the file.
  [[nodiscard]] Status read(std::uint64_t at, std::size_t count, std::vector<std::optional<IndexRecord>>& out) const;
  [[nodiscard]] Result<std::optional<IndexRecord>> read(std::uint64_t at) const;
  [[nodiscard]] Status write(Disk& disk, std::uint64_t at, IndexRecord const& record) const;

  // The number of the first readable record at or behind `from` that ends behind `position`; nothing: there is none.
  struct Found {
    std::uint64_t number = 0;
    IndexRecord record;
  };
  [[nodiscard]] Result<std::optional<Found>> find(std::uint64_t from, std::uint64_t position) const;

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::string const& path() const { return path_; }
  [[nodiscard]] std::uint64_t first() const { return first_; }

 private:
  [[nodiscard]] Result<bool> signed_under_header() const;

  Fd fd_;
  std::string path_;
  std::uint64_t first_ = 0;
  std::uint64_t seed_ = 0;
  bool header_damaged_ = false;
};

}  // namespace inflight::journal

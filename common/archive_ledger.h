// Which objects of a spool were completed, and of which records: what makes each record stand in one object, across any
// kill.  Layout: man/archive.5
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd_io.h"
#include "common/status.h"

namespace inflight {

class ArchiveLedger {
 public:
  // One record of a completed object.
  struct Key {
    std::uint64_t position = 0;
    std::uint64_t hash = 0;
    bool operator<(Key const& other) const {
      return position != other.position ? position < other.position : hash < other.hash;
    }
  };
  struct Completed {
    std::uint64_t number = 0;
    std::string key;  // of the object
    std::string source;
    std::vector<Key> keys;
  };

  ArchiveLedger(Disk& disk, std::string path) : disk_(&disk), path_(std::move(path)) {}

  // Calls each() with the entries in order. A damaged entry, and what follows it, is cut off and told.
  [[nodiscard]] Status open(std::function<void(Completed const&)> const& each);
  // Durable when ok. May be repeated after any failure but Code::defect.
  [[nodiscard]] Status append(Completed const& completed);
  // Leaves out what nobody will deliver again, when that is more than half of the file. Code::defect: the file was
  // replaced and cannot be opened; after any other failure it is as it was.
  [[nodiscard]] Status compact();
  // Above all numbers that were given.
  [[nodiscard]] std::uint64_t next_number() const { return next_; }

 private:
  // What is known of an entry that is on disk.
  struct Entry {
    std::uint64_t number = 0;
    std::uint64_t offset = 0, size = 0;
    std::uint64_t keys = 0;
    std::uint64_t highest = 0;
    std::string source;
  };
  void note(Completed const& completed, std::uint64_t size);

  Disk* disk_;
  std::string path_;
  Fd fd_;
  std::uint64_t size_ = 0;
  std::uint64_t next_ = 1;
  std::deque<Entry> entries_;
};

}  // namespace inflight

// What does not fit into memory: a temporary file without a name, and sorting through one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "common/handle.h"
#include "common/status.h"

namespace inflight {

// TMPDIR, or /var/tmp: what does not fit into memory does not belong into a /tmp that is memory.
[[nodiscard]] std::string temporary_folder();
// Code::usage where no file can be made there.
[[nodiscard]] Status check_temporary_folder(std::string const& folder);

// Bytes that are appended and read back. The file is made when the first buffer is full, and is gone with the process,
// however that ends.
class SpillFile {
 public:
  explicit SpillFile(std::string folder) : folder_(std::move(folder)) {}
  [[nodiscard]] Status append(std::string_view bytes);
  // Nothing of it is in memory any more.
  [[nodiscard]] Status flush();
  // All of `size` bytes, which have been appended.
  [[nodiscard]] Status read(char* to, std::size_t size, std::uint64_t offset) const;
  [[nodiscard]] std::uint64_t size() const { return written_ + buffer_.size(); }

 private:
  static constexpr std::size_t kBuffer = 1 << 20;
  [[nodiscard]] Status write(std::string_view bytes);  // of the buffer, and then these
  std::string folder_;
  Fd fd_;
  std::uint64_t written_ = 0;
  std::string buffer_;  // what is behind it
};

// Sorts any number of entries of a fixed size within `memory` bytes: runs that fill it are sorted and spilled, then
// merged. Entries that are equal stand one after the other, as often as they were added.
//
// With more than memory / 4 KiB runs, which is memory² / 4 KiB bytes of entries, it takes 4 KiB more for each.
template <typename T>
requires std::is_trivially_copyable_v<T>
class ExternalSort {
 public:
  ExternalSort(std::string folder, std::uint64_t memory)
      : file_(std::move(folder)), most_(std::max<std::size_t>(memory / sizeof(T), 1)) {}

  [[nodiscard]] Status add(T const& entry) {
    if (entries_.capacity() == 0) entries_.reserve(most_);  // only what is written to takes memory
    entries_.push_back(entry);
    return entries_.size() < most_ ? Status{} : spill();
  }

  // After the last add(), before the first next().
  [[nodiscard]] Status sort() {
    if (runs_.empty()) {
      std::sort(entries_.begin(), entries_.end());
      return {};
    }
    if (!entries_.empty()) {
      if (Status status = spill(); !status.ok()) return status;
    }
    std::vector<T>().swap(entries_);
    std::size_t const each = std::max<std::size_t>(most_ / runs_.size(), std::max<std::size_t>(4096 / sizeof(T), 1));
    for (Run& run : runs_) {
      run.most = each;
      if (Status status = refill(run); !status.ok()) return status;
    }
    for (std::size_t i = 0; i < runs_.size(); ++i) heads_.push_back({runs_[i].entries[0], i});
    std::make_heap(heads_.begin(), heads_.end(), later);
    return {};
  }

  // In ascending order; false behind the last one.
  [[nodiscard]] Result<bool> next(T& entry) {
    if (runs_.empty()) {
      if (next_ == entries_.size()) return false;
      entry = entries_[next_++];
      return true;
    }
    if (heads_.empty()) return false;
    std::pop_heap(heads_.begin(), heads_.end(), later);
    Head& head = heads_.back();
    entry = head.entry;
    Run& run = runs_[head.run];
    if (++run.next == run.entries.size()) {
      if (Status status = refill(run); !status.ok()) return status;
    }
    if (run.entries.empty()) {
      heads_.pop_back();
    } else {
      head.entry = run.entries[run.next];
      std::push_heap(heads_.begin(), heads_.end(), later);
    }
    return true;
  }

 private:
  struct Run {
    std::uint64_t offset = 0, left = 0;  // of what is still in the file
    std::vector<T> entries;
    std::size_t next = 0, most = 0;
  };
  struct Head {
    T entry;
    std::size_t run;
  };
  static bool later(Head const& a, Head const& b) { return b.entry < a.entry; }

  Status spill() {
    std::sort(entries_.begin(), entries_.end());
    Run run;
    run.offset = file_.size();
    run.left = entries_.size();
    runs_.push_back(std::move(run));
    Status status =
        file_.append({reinterpret_cast<char const*>(entries_.data()), entries_.size() * sizeof(T)});  // NOLINT
    entries_.clear();
    return status;
  }

  Status refill(Run& run) {
    run.next = 0;
    run.entries.resize(static_cast<std::size_t>(std::min<std::uint64_t>(run.most, run.left)));
    std::size_t const size = run.entries.size() * sizeof(T);
    Status status = file_.read(reinterpret_cast<char*>(run.entries.data()), size, run.offset);  // NOLINT
    run.offset += size;
    run.left -= run.entries.size();
    return status;
  }

  SpillFile file_;
  std::size_t most_;
  std::vector<T> entries_;  // the run at hand; all, where none was spilled
  std::size_t next_ = 0;
  std::vector<Run> runs_;
  std::vector<Head> heads_;  // the next entry of each, as a heap
};

}  // namespace inflight

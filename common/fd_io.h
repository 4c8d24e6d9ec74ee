// File descriptors and files: whole reads and writes, and what it takes to be durable.
//
// Disk is the one seam to the file system for whatever must survive a crash (journal, cursors, dead letters, spools,
// archives): tests pass one that fails or tears a write at will. Every path in a message is as the caller gave it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/handle.h"
#include "common/status.h"

namespace inflight {

// Writes all of it, waiting where the descriptor does not block. EPIPE is Code::closed.
[[nodiscard]] Status write_all(int fd, std::string_view bytes, std::string const& name);

// The rest of a descriptor, at most `limit` bytes (beyond: Code::usage).
[[nodiscard]] Result<std::string> read_all(int fd, std::string const& name, std::uint64_t limit = 1ULL << 30);
[[nodiscard]] Result<std::string> read_file(std::string const& path);

class Disk {
 public:
  virtual ~Disk() = default;
  // open(2) with O_CLOEXEC.
  [[nodiscard]] virtual Result<Fd> open(std::string const& path, int flags, mode_t mode = 0666);
  // All bytes at an offset. After a failure any part of them may have been written.
  [[nodiscard]] virtual Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path);
  // fdatasync(2): data and what is needed to read it back. After a failure nothing is known of what was not yet synced.
  [[nodiscard]] virtual Status sync(int fd, std::string const& path);
  [[nodiscard]] virtual Status sync_folder(std::string const& path);
  [[nodiscard]] virtual Status truncate(int fd, std::uint64_t length, std::string const& path);
  [[nodiscard]] virtual Status rename(std::string const& from, std::string const& to);
  // Removing what is not there is no failure.
  [[nodiscard]] virtual Status remove(std::string const& path);
};
[[nodiscard]] Disk& real_disk();

// pread(2) until `size` bytes or end of file; how many were read.
[[nodiscard]] Result<std::size_t> read_at(int fd, char* to, std::size_t size, std::uint64_t offset,
                                          std::string const& path);
[[nodiscard]] Result<std::uint64_t> file_size(int fd, std::string const& path);

// Durable replacement: temporary file beside it, fsync, rename, fsync of the folder. Readers see the old or the new
// whole.
[[nodiscard]] Status replace_file(Disk& disk, std::string const& path, std::string_view bytes);

// mkdir -p; the name of each is durable when it returns ok, whoever made it.
[[nodiscard]] Status make_folders(Disk& disk, std::string const& path);
[[nodiscard]] bool exists(std::string const& path);
// The names in a folder, sorted; a folder that is not there has none.
[[nodiscard]] Result<std::vector<std::string>> list_folder(std::string const& path);
[[nodiscard]] std::string join(std::string_view folder, std::string_view name);
[[nodiscard]] std::string parent_folder(std::string const& path);

// flock(2) on a file that is created where it is not there. `wait` false: Code::temporary when somebody holds it.
// The lock ends when every descriptor of this open (children inherit it) is closed.
enum class Lock { shared, exclusive };
[[nodiscard]] Result<Fd> lock_file(std::string const& path, Lock kind, bool wait);
// Whether somebody holds it exclusively; makes no file.
[[nodiscard]] bool lock_held(std::string const& path);
// The processes that have `path` open; as `name (pid)`, for messages.
[[nodiscard]] std::vector<pid_t> pids_with_open(std::string const& path);
[[nodiscard]] std::vector<std::string> who_has_open(std::string const& path);

}  // namespace inflight

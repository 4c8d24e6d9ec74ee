#include "common/directory_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <vector>

namespace inflight {

namespace {

constexpr std::size_t kChunk = 1 << 20;

// What link(2) says where the file system has no links, or the file is on another one.
bool no_link(int error) {
  return error == EXDEV || error == EPERM || error == EMLINK || error == ENOSYS || error == EOPNOTSUPP;
}

class DirectoryStore final : public ObjectStore {
 public:
  DirectoryStore(Disk& disk, std::string root) : disk_(disk), root_(std::move(root)) {}

  Result<Put> put(std::string const& key, std::string const& file) override {
    std::string const path = join(root_, key);
    std::string const folder = parent_folder(path);
    if (Status status = durable_folder(folder); !status.ok()) return status;
    Put outcome = Put::created;
    if (::link(file.c_str(), path.c_str()) != 0) {
      if (no_link(errno)) {
        auto copied = copy(file, path);
        if (!copied) return copied;
        outcome = *copied;
      } else if (errno == EEXIST) {
        auto compared = compare(file, path);
        if (!compared) return compared;
        outcome = *compared;
      } else {
        return Status::from_errno(path, errno);
      }
    }
    // Also where it is there already: who put it may have been killed before this.
    if (Status status = disk_.sync_folder(folder); !status.ok()) return status;
    return outcome;
  }

  Result<std::size_t> get(std::string const& key, std::uint64_t offset, std::span<char> to) override {
    std::string const path = join(root_, key);
    auto fd = disk_.open(path, O_RDONLY);
    if (!fd) return fd.status();
    return read_at(fd->get(), to.data(), to.size(), offset, path);
  }

  Result<std::optional<Object>> find(std::string const& key) override {
    struct stat info {};
    std::string const path = join(root_, key);
    if (::stat(path.c_str(), &info) == 0) {
      if (!S_ISREG(info.st_mode)) return std::optional<Object>();
      return std::optional<Object>({key, static_cast<std::uint64_t>(info.st_size)});
    }
    if (errno == ENOENT || errno == ENOTDIR) return std::optional<Object>();
    return Status::from_errno(path, errno);
  }

  Status list(std::string const& from, Visit const& visit) override {
    auto more = walk("", from, visit);
    return more.status();
  }

  std::string name(std::string const& key) const override { return join(root_, key); }
  Result<std::string> spools() const override { return join(root_, ".spool"); }
  bool remote() const override { return false; }
  std::string identity() const override { return ""; }

 private:
  Status durable_folder(std::string const& folder) {
    if (durable_.contains(folder) && exists(folder)) return {};
    if (Status status = make_folders(disk_, folder); !status.ok()) return status;
    // A folder that is there may be of a run that was killed before it fsynced the parent.
    for (std::string path = folder; path.size() > root_.size(); path = parent_folder(path)) {
      if (Status status = disk_.sync_folder(parent_folder(path)); !status.ok()) return status;
    }
    durable_.insert(folder);
    return {};
  }

  Result<Put> copy(std::string const& file, std::string const& path) {
    std::size_t const slash = path.rfind('/');
    std::string const part = fmt::format("{}/.{}.part", path.substr(0, slash), path.substr(slash + 1));
    {
      auto from = disk_.open(file, O_RDONLY);
      if (!from) return from.status();
      auto to = disk_.open(part, O_WRONLY | O_CREAT | O_TRUNC);
      if (!to) return to.status();
      std::vector<char> buffer(kChunk);
      for (std::uint64_t offset = 0;;) {
        auto got = read_at(from->get(), buffer.data(), buffer.size(), offset, file);
        if (!got) return got.status();
        if (*got == 0) break;
        if (Status status = disk_.write_at(to->get(), {buffer.data(), *got}, offset, part); !status.ok()) return status;
        offset += *got;
      }
      if (Status status = disk_.sync(to->get(), part); !status.ok()) return status;
    }
    int error = ::link(part.c_str(), path.c_str()) == 0 ? 0 : errno;
    if (no_link(error)) {
      error = ::renameat2(AT_FDCWD, part.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0 ? 0 : errno;
    }
    if (Status status = disk_.remove(part); !status.ok()) return status;
    if (error == EEXIST) return compare(file, path);
    if (error != 0) return Status::from_errno(path, error);
    return Put::created;
  }

  Result<Put> compare(std::string const& file, std::string const& path) {
    auto left = disk_.open(file, O_RDONLY);
    if (!left) return left.status();
    auto right = disk_.open(path, O_RDONLY);
    if (!right) return right.status();
    std::vector<char> a(kChunk), b(kChunk);
    for (std::uint64_t offset = 0;;) {
      auto n = read_at(left->get(), a.data(), a.size(), offset, file);
      if (!n) return n.status();
      auto m = read_at(right->get(), b.data(), b.size(), offset, path);
      if (!m) return m.status();
      if (*n != *m || std::memcmp(a.data(), b.data(), *n) != 0) return Put::different;
      if (*n == 0) return Put::same;
      offset += *n;
    }
  }

  // Everything below a folder, `folder` being empty or with '/' at its end. False: visit() has seen enough.
  Result<bool> walk(std::string const& folder, std::string const& from, Visit const& visit) {
    auto names = list_folder(join(root_, folder));
    if (!names) return names.status();
    struct Entry {
      std::string key;  // with '/' at the end of a folder's: so is the order of keys kept
      std::uint64_t bytes = 0;
    };
    std::vector<Entry> entries;
    for (std::string const& name : *names) {
      if (name.starts_with('.')) continue;
      struct stat info {};
      std::string const key = folder + name;
      if (::stat(join(root_, key).c_str(), &info) != 0) {
        if (errno == ENOENT) continue;
        return Status::from_errno(join(root_, key), errno);
      }
      if (S_ISDIR(info.st_mode)) entries.push_back({key + "/", 0});
      if (S_ISREG(info.st_mode)) entries.push_back({key, static_cast<std::uint64_t>(info.st_size)});
    }
    std::sort(entries.begin(), entries.end(), [](Entry const& a, Entry const& b) { return a.key < b.key; });
    for (Entry const& entry : entries) {
      bool const is_folder = entry.key.back() == '/';
      // A folder is passed over when even its last key is below `from`.
      if (is_folder ? entry.key < from && !from.starts_with(entry.key) : entry.key < from) continue;
      auto more = is_folder ? walk(entry.key, from, visit) : visit({entry.key, entry.bytes});
      if (!more || !*more) return more;
    }
    return true;
  }

  Disk& disk_;
  std::string root_;
  std::set<std::string> durable_;  // folders whose entry in their parent is fsynced
};

}  // namespace

Result<std::unique_ptr<ObjectStore>> open_directory_store(Disk& disk, std::string const& path, bool make) {
  if (make) {
    if (Status status = make_folders(disk, path); !status.ok()) return status;
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return Status::from_errno(path, errno);
  if (!S_ISDIR(info.st_mode)) return Status::from_errno(path, ENOTDIR);
  std::string root = path;
  while (root.size() > 1 && root.back() == '/') root.pop_back();
  return std::unique_ptr<ObjectStore>(std::make_unique<DirectoryStore>(disk, std::move(root)));
}

}  // namespace inflight

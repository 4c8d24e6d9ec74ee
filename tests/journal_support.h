// What the journal's tests share: folders that go away, disks that fail, and a reading that accounts for every
// position.
#pragma once

#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/journal.h"

namespace inflight::test {

class TempFolder {
 public:
  // In memory where there is such a place: thousands of small files are made, and no disk's speed is tested.
  TempFolder() : TempFolder(::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path()) {}
  explicit TempFolder(std::filesystem::path const& in) {
    std::string name = (in / "journal.XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(TempFolder const&) = delete;
  TempFolder& operator=(TempFolder const&) = delete;
  [[nodiscard]] std::string operator/(std::string const& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline void copy_folder(std::string const& from, std::string const& to) {
  std::filesystem::remove_all(to);
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
}

inline std::string slurp(std::string const& path) {
  auto text = read_file(path);
  return text ? *text : std::string{};
}

inline void spit(std::string const& path, std::string const& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

class HandClock final : public Clock {
 public:
  Time now() override { return time; }
  Duration steady() override { return Duration{time.ns}; }
  Time time{1'530'403'200'000'000'000};
};

// Syncs nothing: for tests in which no power fails.
class QuickDisk : public Disk {
 public:
  Status sync(int, std::string const&) override { return {}; }
  Status sync_folder(std::string const&) override { return {}; }
};

struct Crash {};

// Fails at the n-th operation that changes something.
class FaultyDisk final : public QuickDisk {
 public:
  enum class Fault {
    full_once,
    full_from_then_on,
    sync_once,
    sync_from_then_on,
    crash_before,
    crash_torn,
    crash_after
  };

  FaultyDisk(Fault fault, std::uint64_t at, std::uint64_t seed) : fault_(fault), at_(at), random_(seed) {}
  [[nodiscard]] bool struck() const { return struck_; }

  Result<Fd> open(std::string const& path, int flags, mode_t mode) override {
    if ((flags & O_CREAT) == 0) return Disk::open(path, flags, mode);
    Result<Fd> result = Status::defect("not opened");
    Status const status = act(Kind::space, path, [&] {
      result = Disk::open(path, flags, mode);
      return result.status();
    });
    if (!status.ok()) return status;
    return result;
  }
  Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) override {
    auto some = [&] {
      std::size_t const size = std::uniform_int_distribution<std::size_t>(0, bytes.size() - 1)(random_);
      (void)Disk::write_at(fd, bytes.substr(0, size), offset, path);
    };
    return act(
        Kind::space, path, [&] { return Disk::write_at(fd, bytes, offset, path); }, some);
  }
  Status sync(int, std::string const& path) override {
    return act(Kind::sync, path, [] { return Status{}; });
  }
  Status sync_folder(std::string const& path) override {
    return act(Kind::sync, path, [] { return Status{}; });
  }
  Status truncate(int fd, std::uint64_t length, std::string const& path) override {
    return act(Kind::other, path, [&] { return Disk::truncate(fd, length, path); });
  }
  Status rename(std::string const& from, std::string const& to) override {
    return act(Kind::space, to, [&] { return Disk::rename(from, to); });
  }
  Status remove(std::string const& path) override {
    return act(Kind::other, path, [&] { return Disk::remove(path); });
  }

 private:
  enum class Kind { space, sync, other };

  Status act(
      Kind kind, std::string const& path, std::function<Status()> const& whole,
      std::function<void()> const& torn = [] {}) {
    bool const crashes = fault_ == Fault::crash_before || fault_ == Fault::crash_torn || fault_ == Fault::crash_after;
    if (crashes && struck_) throw Crash{};
    bool const full = fault_ == Fault::full_once || fault_ == Fault::full_from_then_on;
    if (!crashes && kind != (full ? Kind::space : Kind::sync)) return whole();
    ++count_;
    bool const goes_on = fault_ == Fault::full_from_then_on || fault_ == Fault::sync_from_then_on;
    if (count_ != at_ && !(goes_on && count_ > at_)) return whole();
    struck_ = true;
    if (crashes) {
      if (fault_ == Fault::crash_torn) torn();
      if (fault_ == Fault::crash_after) (void)whole();
      throw Crash{};
    }
    if (!full) return Status::defect("fsync of " + path + ": Input/output error");
    torn();
    return Status::from_errno(path, ENOSPC);
  }

  Fault fault_;
  std::uint64_t at_;
  std::uint64_t count_ = 0;
  bool struck_ = false;
  std::mt19937_64 random_;
};

inline JournalSettings small_segments(std::uint64_t bytes) {
  JournalSettings settings;
  settings.segment_bytes = bytes;
  return settings;
}

inline void make_journal(std::string const& folder, std::uint64_t segment_bytes) {
  QuickDisk disk;
  REQUIRE(journal_create(disk, folder));
  REQUIRE(journal_set(disk, folder, small_segments(segment_bytes)).ok());
}

inline std::string numbered(std::uint64_t n) {
  return fmt::format(R"({{"n":{},"pad":"{}"}})", n, std::string(n % 13, 'x'));
}

// Lines `first`, `first + 1` … as one batch.
inline Result<JournalWriter::Appended> append_numbered(JournalWriter& writer, std::uint64_t first, std::uint64_t count,
                                                       bool once = false) {
  std::vector<std::string> texts;
  for (std::uint64_t i = 0; i < count; ++i) texts.push_back(numbered(first + i));
  std::vector<JournalWriter::Line> lines;
  for (std::string const& text : texts) lines.push_back({text, once});
  return writer.append(lines);
}

struct Reading {
  std::map<std::uint64_t, std::string> events;
  std::set<std::int64_t> times;  // of commitment
  std::vector<JournalReader::Damage> damages;
  std::string stuck;  // damage that cannot be skipped
  std::uint64_t end = 0;

  [[nodiscard]] std::vector<std::string> lines() const {
    std::vector<std::string> all;
    for (auto const& [position, line] : events) all.push_back(line);
    return all;
  }
};

// Reads all there is. Positions come without a hole, or the hole is told.
inline Reading read_everything(std::string const& folder, std::uint64_t from = 0) {
  Reading reading;
  reading.end = from;
  auto reader = JournalReader::open(folder, from);
  if (!reader) {
    reading.stuck = reader.status().what();
    return reading;
  }
  for (;;) {
    auto const event = reader->next();
    if (event && !*event) return reading;
    if (event) {
      REQUIRE((*event)->position == reading.end);
      reading.events[(*event)->position] = std::string((*event)->line);
      reading.times.insert((*event)->committed.ns);
      ++reading.end;
      continue;
    }
    CHECK(event.status().code() == Code::defect);
    CHECK(reader->position() == reading.end);
    auto const damage = reader->skip_damage();
    if (!damage) {
      reading.stuck = damage.status().what();
      return reading;
    }
    REQUIRE(damage->first == reading.end);
    REQUIRE(damage->end > damage->first);
    reading.damages.push_back(*damage);
    reading.end = damage->end;
  }
}

// Everything delivered is what was written at that position.
inline void check_truth(Reading const& reading) {
  for (auto const& [position, line] : reading.events) REQUIRE(line == numbered(position));
}

}  // namespace inflight::test

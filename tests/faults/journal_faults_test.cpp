// The journal on disks that are full, fail to sync, stop in the middle of an operation, or lose power.
#include "common/journal_index.h"
#include "tests/journal_support.h"

using namespace inflight;
using namespace inflight::test;

namespace {

std::uint64_t rounds(std::uint64_t few) {
  char const* const text = std::getenv("FAULT_ROUNDS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : few;
}

// What the writer was told, so that what the journal holds can be held against it.
struct Told {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> acknowledged;  // first line, count
  std::vector<std::pair<std::uint64_t, std::uint64_t>> unknown;       // neither acknowledged nor denied
  std::uint64_t removed_below = 0;                                    // positions that may have been removed
};

constexpr std::uint64_t kBatches = 9;

// Appends batches of one to three lines through segments of a few batches and removes some, until something fails for
// good. `other` is a writer that takes its turns too, without anything to say.
void work(Disk& disk, std::string const& folder, Told& told, JournalWriter* other = nullptr) {
  HandClock clock;
  std::uint64_t n = 0;
  auto writer = JournalWriter::open(disk, clock, folder);
  if (!writer) return;
  for (std::uint64_t batch = 0; batch < kBatches; ++batch) {
    std::uint64_t const count = 1 + batch % 3;
    for (int tries = 0;; ++tries) {
      told.unknown.emplace_back(n, count);
      auto const appended = append_numbered(*writer, n, count);
      if (appended) {
        REQUIRE(appended->count == count);
        told.unknown.pop_back();
        told.acknowledged.emplace_back(n, count);
        break;
      }
      if (appended.status().code() != Code::temporary) return;
      told.unknown.pop_back();
      if (tries == 2) return;
    }
    n += count;
    if (other != nullptr) REQUIRE(other->append({}));
    if (batch == 5) {
      told.removed_below = 8;
      (void)journal_remove(disk, folder, 8, clock.time + std::chrono::hours(1));
    }
  }
}

// After the fault: another process, new or there already, goes on with the journal on a disk that works.
void check_after(std::string const& folder, Told const& told, JournalWriter* other = nullptr) {
  QuickDisk disk;
  std::optional<JournalWriter> fresh;
  if (other == nullptr) {
    auto writer = JournalWriter::open(disk, system_clock(), folder);
    REQUIRE_MESSAGE(writer.ok(), writer.status().what());
    fresh = std::move(*writer);
  }
  constexpr std::uint64_t marker = 1000;
  auto const appended = append_numbered(other == nullptr ? *fresh : *other, marker, 2);
  REQUIRE_MESSAGE(appended.ok(), appended.status().what());
  auto const span = journal_span(folder);
  REQUIRE(span);
  REQUIRE(span->end == appended->first + 2);
  REQUIRE(span->first <= told.removed_below);
  Reading const reading = read_everything(folder, span->first);
  REQUIRE_MESSAGE(reading.stuck.empty(), reading.stuck);
  REQUIRE_MESSAGE(reading.damages.empty(), reading.damages.front().why);
  std::vector<std::string> expected;
  for (auto const& [first, count] : told.acknowledged) {
    for (std::uint64_t i = 0; i < count; ++i) expected.push_back(numbered(first + i));
  }
  // An unknown batch is there as a whole or not at all; a denied one is not there.
  REQUIRE(told.unknown.size() <= 1);
  if (!told.unknown.empty() && appended->first > expected.size()) {
    auto const& [first, count] = told.unknown.front();
    for (std::uint64_t i = 0; i < count; ++i) expected.push_back(numbered(first + i));
  }
  expected.push_back(numbered(marker));
  expected.push_back(numbered(marker + 1));
  expected.erase(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(span->first));
  REQUIRE(reading.lines() == expected);
}

void sweep(FaultyDisk::Fault fault, std::uint64_t segment_bytes, bool with_other = false) {
  for (std::uint64_t round = 0; round < rounds(1); ++round) {
    for (std::uint64_t at = 1;; ++at) {
      CAPTURE(at);
      CAPTURE(round);
      TempFolder temp;
      std::string const folder = temp / "j";
      make_journal(folder, segment_bytes);
      FaultyDisk disk(fault, at, round * 1'000'003 + at);
      Told told;
      QuickDisk quick;
      std::optional<JournalWriter> other;
      if (with_other) {
        // It has another opinion of when a segment is full.
        REQUIRE(journal_set(quick, folder, small_segments(1 << 20)).ok());
        other = std::move(*JournalWriter::open(quick, system_clock(), folder));
        REQUIRE(journal_set(quick, folder, small_segments(segment_bytes)).ok());
      }
      try {
        work(disk, folder, told, other ? &*other : nullptr);
      } catch (Crash const&) {
      }
      if (!disk.struck()) {
        REQUIRE(at > 20);
        REQUIRE(told.acknowledged.size() == kBatches);
        REQUIRE((segment_bytes > 1000 || journal_span(folder)->first > 0));
        break;
      }
      check_after(folder, told, other ? &*other : nullptr);
    }
  }
}

// A disk whose power can fail: what was not synced is then there or not, each sector and each name as chance has it.
class PowerDisk final : public Disk {
 public:
  PowerDisk(std::string folder, std::uint64_t fails_at, std::uint64_t seed)
      : folder_(std::move(folder)), fails_at_(fails_at), random_(seed) {
    names_ = current_names();
    for (auto const& [name, inode] : names_) synced_[inode] = contents_[inode] = slurp(join(folder_, name));
  }
  [[nodiscard]] bool struck() const { return operations_ >= fails_at_; }
  // The process is gone, the power is not: the next process has so many operations.
  void go_on(std::uint64_t operations) { fails_at_ = operations_ + operations; }

  Result<Fd> open(std::string const& path, int flags, mode_t mode) override {
    if ((flags & O_CREAT) != 0) tick();
    auto fd = Disk::open(path, flags, mode);
    // An inode number may come back for another file, which then has nothing on the disk.
    if (fd && (flags & O_CREAT) != 0 && *file_size(fd->get(), path) == 0 && contents_.count(inode_of(fd->get())) == 0) {
      contents_[inode_of(fd->get())] = synced_[inode_of(fd->get())] = "";
    }
    return fd;
  }
  Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) override {
    tick();
    Status const status = Disk::write_at(fd, bytes, offset, path);
    note(fd, path);
    return status;
  }
  Status sync(int fd, std::string const& path) override {
    tick();
    note(fd, path);
    synced_[inode_of(fd)] = contents_[inode_of(fd)];
    return {};
  }
  Status sync_folder(std::string const&) override {
    tick();
    names_ = current_names();
    return {};
  }
  Status truncate(int fd, std::uint64_t length, std::string const& path) override {
    tick();
    Status const status = Disk::truncate(fd, length, path);
    note(fd, path);
    return status;
  }
  Status rename(std::string const& from, std::string const& to) override {
    tick();
    return Disk::rename(from, to);
  }
  // Kept under another name, so that its inode is not given to another file, and an unsynced removal can be undone.
  Status remove(std::string const& path) override {
    tick();
    if (!exists(path)) return {};
    return Disk::rename(path, fmt::format("{}/../gone.{}", folder_, ++gone_));
  }

  // What another machine finds when power is back.
  void fail(std::string const& into) {
    std::filesystem::remove_all(into);
    std::filesystem::create_directories(into);
    auto const now = current_names();
    std::set<std::string> all;
    for (auto const& [name, inode] : now) all.insert(name);
    for (auto const& [name, inode] : names_) all.insert(name);
    for (std::string const& name : all) {
      auto const before = names_.find(name);
      auto const after = now.find(name);
      bool const same = before != names_.end() && after != now.end() && before->second == after->second;
      auto const& chosen = same || coin() ? after : before;
      if (chosen == now.end() || chosen == names_.end()) continue;
      spit(join(into, name), survives(chosen->second));
    }
  }

 private:
  static ino_t inode_of(int fd) {
    struct stat info {};
    REQUIRE(::fstat(fd, &info) == 0);
    return info.st_ino;
  }
  [[nodiscard]] std::map<std::string, ino_t> current_names() const {
    std::map<std::string, ino_t> names;
    auto const listed = list_folder(folder_);
    REQUIRE(listed);
    for (std::string const& name : *listed) {
      struct stat info {};
      REQUIRE(::stat(join(folder_, name).c_str(), &info) == 0);
      names[name] = info.st_ino;
    }
    return names;
  }
  void note(int fd, std::string const& path) { contents_[inode_of(fd)] = slurp(path); }
  bool coin() { return (random_() & 1) != 0; }
  std::string survives(ino_t inode) {
    std::string const& old = synced_[inode];
    std::string bytes = contents_[inode];
    std::size_t const length = coin() ? bytes.size() : old.size();
    bytes.resize(length, '\0');
    for (std::size_t at = 0; at < length; at += 512) {
      if (coin()) continue;
      for (std::size_t i = at; i < std::min(at + 512, length); ++i) bytes[i] = i < old.size() ? old[i] : '\0';
    }
    return bytes;
  }
  void tick() {
    if (struck()) throw Crash{};
    ++operations_;
    if (struck()) throw Crash{};
  }

  std::string folder_;
  std::uint64_t fails_at_;
  std::uint64_t operations_ = 0;
  std::uint64_t gone_ = 0;
  std::mt19937_64 random_;
  std::map<std::string, ino_t> names_;     // as of the last sync of the folder
  std::map<ino_t, std::string> contents_;  // now
  std::map<ino_t, std::string> synced_;    // as of the last sync of the file
};

}  // namespace

TEST_CASE("journal: a disk that is full for one write refuses one append, which then succeeds") {
  sweep(FaultyDisk::Fault::full_once, 120);
}

TEST_CASE("journal: a disk that stays full denies appends and takes nothing back") {
  sweep(FaultyDisk::Fault::full_from_then_on, 120);
}

TEST_CASE("journal: one failed fsync loses nothing that was acknowledged") { sweep(FaultyDisk::Fault::sync_once, 120); }

TEST_CASE("journal: a disk that no longer syncs loses nothing that was acknowledged") {
  sweep(FaultyDisk::Fault::sync_from_then_on, 120);
}

TEST_CASE("journal: a crash before, within or after any operation leaves whole batches") {
  for (std::uint64_t const segment_bytes : {std::uint64_t{120}, std::uint64_t{1} << 20}) {
    sweep(FaultyDisk::Fault::crash_before, segment_bytes);
    sweep(FaultyDisk::Fault::crash_torn, segment_bytes);
    sweep(FaultyDisk::Fault::crash_after, segment_bytes);
  }
}

TEST_CASE("journal: a writer that was there before goes on whatever became of the other one") {
  for (auto const fault :
       {FaultyDisk::Fault::crash_before, FaultyDisk::Fault::crash_torn, FaultyDisk::Fault::crash_after,
        FaultyDisk::Fault::sync_from_then_on, FaultyDisk::Fault::full_from_then_on}) {
    sweep(fault, 120, true);
  }
}

TEST_CASE("journal: a crash in the recovery after a crash leaves whole batches") {
  for (std::uint64_t first = 1; first < 200; first += 1 + 60 / (rounds(4) + 1)) {
    for (std::uint64_t second = 1;; ++second) {
      CAPTURE(first);
      CAPTURE(second);
      TempFolder temp;
      std::string const folder = temp / "j";
      make_journal(folder, 120);
      Told told;
      try {
        FaultyDisk disk(FaultyDisk::Fault::crash_torn, first, first);
        work(disk, folder, told);
      } catch (Crash const&) {
      }
      FaultyDisk disk(FaultyDisk::Fault::crash_torn, second, second);
      try {
        (void)journal_recover(disk, folder);
      } catch (Crash const&) {
      }
      check_after(folder, told);
      if (!disk.struck()) break;
    }
  }
}

TEST_CASE("journal: a power failure soon after a crash takes back nothing that was acknowledged") {
  for (std::uint64_t round = 0; round < rounds(2); ++round) {
    bool complete = false;
    for (std::uint64_t at = 1; !complete; ++at) {
      for (std::uint64_t const more : {2UL, 3UL, 4UL, 5UL, 6UL, 8UL, 10UL}) {
        CAPTURE(round);
        CAPTURE(at);
        CAPTURE(more);
        TempFolder temp;
        std::string const folder = temp / "j";
        make_journal(folder, 120);
        PowerDisk disk(folder, at, round * 1'000'003 + at * 16 + more);
        Told told;
        try {
          work(disk, folder, told);
        } catch (Crash const&) {
        }
        complete = !disk.struck();
        disk.go_on(more);
        try {
          // What was neither acknowledged nor denied is known once a writer has opened the journal.
          auto writer = JournalWriter::open(disk, system_clock(), folder);
          REQUIRE_MESSAGE(writer.ok(), writer.status().what());
          std::uint64_t known =
              told.acknowledged.empty() ? 0 : told.acknowledged.back().first + told.acknowledged.back().second;
          if (journal_span(folder)->end > known) {
            REQUIRE(told.unknown.size() == 1);
            told.acknowledged.push_back(told.unknown.front());
            known = told.unknown.front().first + told.unknown.front().second;
          }
          told.unknown.assign(1, {known, 2});
          auto appended = append_numbered(*writer, known, 2);
          REQUIRE(appended);
          told.acknowledged.push_back(told.unknown.front());
          told.unknown.assign(1, {known + 2, 3});
          appended = append_numbered(*writer, known + 2, 3);
          REQUIRE(appended);
          told.acknowledged.push_back(told.unknown.front());
          told.unknown.clear();
        } catch (Crash const&) {
        }
        disk.fail(temp / "after");
        check_after(temp / "after", told);
      }
    }
  }
}

TEST_CASE("journal: a power failure at any operation takes back nothing that was acknowledged") {
  for (std::uint64_t round = 0; round < rounds(12); ++round) {
    for (std::uint64_t at = 1;; ++at) {
      CAPTURE(round);
      CAPTURE(at);
      TempFolder temp;
      std::string const folder = temp / "j";
      make_journal(folder, 120);
      PowerDisk disk(folder, at, round * 1'000'003 + at);
      Told told;
      try {
        work(disk, folder, told);
      } catch (Crash const&) {
      }
      if (!disk.struck()) {
        REQUIRE(told.acknowledged.size() == kBatches);
        break;
      }
      disk.fail(temp / "after");
      check_after(temp / "after", told);
    }
  }
}

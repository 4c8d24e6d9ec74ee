#include "common/archive.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <random>

#include "common/archive_check.h"
#include "common/archive_encoder.h"
#include "common/archive_get.h"
#include "common/archive_index.h"
#include "common/archive_put.h"
#include "common/directory_store.h"
#include "common/xxh.h"
#include "tests/journal_support.h"

using namespace inflight;
using namespace inflight::test;

namespace {

struct Event {
  std::string delivery;
  std::string line;
};

std::string event_line(std::uint64_t n, std::uint64_t minute, std::string const& extra = "") {
  return fmt::format(
      R"({{"specversion":"1.0","id":"{}","source":"/t","recordedtime":"2018-07-01T{:02}:{:02}:00Z","data":{{"n":{}{}}}}})",
      n, minute / 60, minute % 60, n, extra);
}

// Two hours that alternate, with late events of a third.
std::vector<Event> some_events(std::uint64_t count) {
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < count; ++n) {
    std::uint64_t const minute = n % 7 == 0 ? n % 60 : 600 + n % 100;
    events.push_back({std::to_string(n), event_line(n, minute)});
  }
  return events;
}

class Parsed {
 public:
  explicit Parsed(std::string const& line) : text_(line + std::string(kRecordPadding, '\0')) {
    REQUIRE(parser_.parse({text_.data(), line.size()}, record_).ok());
  }
  Record const& operator*() const { return record_; }

 private:
  std::string text_;
  RecordParser parser_;
  Record record_;
};

void settle(PositionList& stored, std::set<std::string>& settled) {
  for (std::string const& text : stored.texts(1 << 20)) {
    std::vector<Position> positions;
    REQUIRE(parse_positions(text, positions));
    for (Position const& position : positions) {
      for (auto p = position.first; p <= position.last; ++p) settled.insert(fmt::format("{}{}", p, position.pieces));
    }
  }
  stored.clear();
}

// One run of a sink: what is not settled is delivered, in batches of `batch`.
Status deliver(Disk& disk, Clock& clock, std::string const& archive, std::vector<Event> const& events,
               std::set<std::string>& settled, std::size_t batch, ArchivePutOptions const& options,
               std::string const& source = "journal/sub") {
  auto store = open_directory_store(disk, archive, true);
  if (!store) return store.status();
  auto archiver = Archiver::open(disk, clock, **store, source, options);
  if (!archiver) return archiver.status();
  PositionList stored;
  std::size_t count = 0;
  std::set<std::string> const before = settled;
  for (Event const& event : events) {
    if (before.contains(event.delivery)) continue;
    Parsed const parsed(event.line);
    auto taken = (*archiver)->add(*parsed, event.delivery);
    if (!taken) return taken.status();
    if (*taken == Archiver::Taken::stored) settled.insert(event.delivery);
    if (++count % batch != 0) continue;
    Status const status = (*archiver)->settle(false, stored);
    settle(stored, settled);
    if (!status.ok()) return status;
  }
  Status const status = (*archiver)->settle(true, stored);
  settle(stored, settled);
  return status;
}

std::multiset<std::string> archived(std::string const& archive) {
  std::multiset<std::string> lines;
  auto store = open_directory_store(real_disk(), archive, false);
  if (!store) return lines;
  REQUIRE(visit_objects(**store, {}, [&](ObjectStore::Object const& object) -> Status {
    auto summary = read_summary(**store, object);
    REQUIRE_MESSAGE(summary.ok(), summary.status().what());
    std::string text;
    Status const status = read_object(**store, object, *summary, [&](std::string_view bytes) { text += bytes; });
    REQUIRE_MESSAGE(status.ok(), status.what());
    for (std::size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
      lines.insert(text.substr(at, end - at));
    }
    return {};
  }));
  return lines;
}

std::multiset<std::string> lines_of(std::vector<Event> const& events) {
  std::multiset<std::string> lines;
  for (Event const& event : events) lines.insert(event.line);
  return lines;
}

std::vector<std::string> got(std::string const& archive, ArchiveQuery const& query = {}) {
  auto store = open_directory_store(real_disk(), archive, false);
  REQUIRE(store);
  std::vector<std::string> lines;
  ArchiveFound found;
  Status const status = archive_get(
      **store, query,
      [&](std::string_view line) {
        lines.emplace_back(line);
        return Status{};
      },
      found);
  REQUIRE_MESSAGE(status.ok(), status.what());
  return lines;
}

std::string only_object(std::string const& archive) {
  auto store = open_directory_store(real_disk(), archive, false);
  REQUIRE(store);
  std::string key;
  REQUIRE(visit_objects(**store, {}, [&](ObjectStore::Object const& object) {
    REQUIRE(key.empty());
    key = object.key;
    return Status{};
  }));
  return key;
}

ArchivePutOptions small_objects(std::uint64_t records) {
  ArchivePutOptions options;
  options.max_records = records;
  return options;
}

}  // namespace

TEST_CASE("archive: an hour has one folder, and the folder's keys name the hour, to both ends of time") {
  constexpr std::int64_t hour = 3'600'000'000'000;
  std::int64_t const last = std::numeric_limits<std::int64_t>::max(), first = std::numeric_limits<std::int64_t>::min();
  for (std::int64_t const ns : {std::int64_t{0}, std::int64_t{-1}, hour - 1, hour, 424'860 * hour + 7, first, last}) {
    std::int64_t const expected = hour_of(Time{ns});
    std::string const key = hour_folder(expected) + "a.ndjson.zst";
    CHECK(hour_of_key(key) == expected);
    CHECK(key.substr(0, 24) == hour_folder(expected));
  }
  CHECK(hour_folder(hour_of(*parse_rfc3339("2018-07-01T13:59:59.999999999Z"))) == "date=2018-07-01/hour=13/");
  CHECK(hour_folder(hour_of(*parse_rfc3339("1969-12-31T23:59:59Z"))) == "date=1969-12-31/hour=23/");
  for (char const* other : {"x.ndjson.zst", "date=2018-07-01/hour=25/x.ndjson.zst", "date=2018-07-01/hour=13/x.ndjson",
                            "date=2018-07-01/hour=13/y/x.ndjson.zst", "date=2018-07-01/x.ndjson.zst"}) {
    CHECK_FALSE(hour_of_key(other).has_value());
  }
}

TEST_CASE("archive: a run killed at any step, then again with other batches: each event stands in exactly one object") {
  std::vector<Event> const events = some_events(60);
  for (auto const fault :
       {FaultyDisk::Fault::crash_before, FaultyDisk::Fault::crash_torn, FaultyDisk::Fault::crash_after}) {
    for (std::uint64_t at = 1;; ++at) {
      TempFolder temp;
      HandClock clock;
      std::set<std::string> settled;
      FaultyDisk disk(fault, at, at);
      try {
        Status const status = deliver(disk, clock, temp / "a", events, settled, 5, small_objects(20));
        CHECK_MESSAGE(status.ok(), status.what());
      } catch (Crash const&) {
      }
      auto const there = archived(temp / "a");
      for (Event const& event : events) {
        INFO("step ", at, " position ", event.delivery);
        CHECK(there.count(event.line) <= 1);
        if (settled.contains(event.delivery)) CHECK(there.count(event.line) == 1);
      }
      QuickDisk good;
      REQUIRE(deliver(good, clock, temp / "a", events, settled, 7, small_objects(13)).ok());
      CHECK(settled.size() == events.size());
      CHECK(archived(temp / "a") == lines_of(events));
      if (!disk.struck()) {
        CHECK(at > 30);
        break;
      }
    }
  }
}

TEST_CASE("archive: everything delivered again after all was put changes nothing") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  std::vector<Event> const events = some_events(100);
  std::set<std::string> settled;
  REQUIRE(deliver(disk, clock, temp / "a", events, settled, 5, small_objects(20)).ok());
  settled.clear();
  REQUIRE(deliver(disk, clock, temp / "a", events, settled, 9, small_objects(31)).ok());
  CHECK(settled.size() == events.size());
  CHECK(archived(temp / "a") == lines_of(events));
}

TEST_CASE("archive: a full disk at any write only delays") {
  std::vector<Event> const events = some_events(60);
  for (std::uint64_t at = 1;; ++at) {
    TempFolder temp;
    HandClock clock;
    FaultyDisk disk(FaultyDisk::Fault::full_once, at, at);
    auto store = open_directory_store(real_disk(), temp / "a", true);
    REQUIRE(store);
    ArchivePutOptions const options = small_objects(20);
    auto archiver = Archiver::open(disk, clock, **store, "journal/sub", options);
    if (!archiver) {
      CHECK(archiver.status().code() == Code::temporary);
      continue;
    }
    PositionList stored;
    std::set<std::string> settled;
    int failures = 0;
    for (Event const& event : events) {
      Parsed const parsed(event.line);
      auto taken = (*archiver)->add(*parsed, event.delivery);
      if (!taken) {
        ++failures;
        CHECK(taken.status().code() == Code::temporary);
        taken = (*archiver)->add(*parsed, event.delivery);
      }
      REQUIRE(taken);
    }
    Status status = (*archiver)->settle(true, stored);
    if (!status.ok()) {
      ++failures;
      CHECK(status.code() == Code::temporary);
      status = (*archiver)->settle(true, stored);
    }
    REQUIRE_MESSAGE(status.ok(), status.what());
    settle(stored, settled);
    CHECK(settled.size() == events.size());
    CHECK(archived(temp / "a") == lines_of(events));
    if (!disk.struck()) {
      CHECK(failures == 0);
      CHECK(at > 10);
      break;
    }
  }
}

namespace {

class FullDisk final : public QuickDisk {
 public:
  bool full = false;
  Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) override {
    return full ? Status::from_errno(path, ENOSPC) : QuickDisk::write_at(fd, bytes, offset, path);
  }
};

}  // namespace

TEST_CASE("archive: what is not taken since the disk is full makes no object, of a record that comes no more") {
  TempFolder const temp;
  HandClock clock;
  FullDisk disk;
  auto store = open_directory_store(real_disk(), temp / "a", true);
  REQUIRE(store);
  ArchivePutOptions const options;
  auto archiver = Archiver::open(disk, clock, **store, "journal/sub", options);
  REQUIRE(archiver);
  disk.full = true;
  Parsed const first(event_line(7, 0, fmt::format(R"(,"pad":"{}")", std::string(ObjectEncoder::kAlone, 'x'))));
  auto taken = (*archiver)->add(*first, "7");
  CHECK((taken && *taken == Archiver::Taken::held));  // its frame waits in memory
  Parsed const other(event_line(8, 60));
  CHECK((*archiver)->add(*other, "8").status().code() == Code::temporary);
  PositionList stored;
  CHECK((*archiver)->settle(true, stored).code() == Code::temporary);
  CHECK(stored.texts(10).empty());
  disk.full = false;
  REQUIRE((*archiver)->settle(true, stored));
  CHECK(stored.texts(10) == std::vector<std::string>{"7"});
  CHECK(only_object(temp / "a") == "date=2018-07-01/hour=00/journal%2Fsub-7-7.ndjson.zst");
}

TEST_CASE("archive: frames that are written while records come, on a full disk and in a run that is killed") {
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < 18; ++n) {
    std::string const pad(n % 3 == 0 ? ObjectEncoder::kAlone : 100, static_cast<char>('a' + n));
    events.push_back({std::to_string(n), event_line(n, n % 2 * 60, fmt::format(R"(,"pad":"{}")", pad))});
  }
  using Fault = FaultyDisk::Fault;
  for (auto const fault : {Fault::full_once, Fault::crash_before, Fault::crash_torn, Fault::crash_after}) {
    for (std::uint64_t at = 1;; ++at) {
      TempFolder const temp;
      HandClock clock;
      std::set<std::string> settled;
      FaultyDisk disk(fault, at, at);
      try {
        for (int tries = 0; tries < 3 && settled.size() < events.size(); ++tries)
          (void)deliver(disk, clock, temp / "a", events, settled, 5, small_objects(6));
      } catch (Crash const&) {
      }
      QuickDisk good;
      REQUIRE(deliver(good, clock, temp / "a", events, settled, 7, small_objects(8)).ok());
      CHECK(settled.size() == events.size());
      CHECK(archived(temp / "a") == lines_of(events));
      if (!disk.struck()) {
        CHECK(at > 15);
        break;
      }
    }
  }
}

TEST_CASE("archive: a failed fsync ends the run, settles nothing of that object, and the next run puts it") {
  std::vector<Event> const events = some_events(60);
  for (std::uint64_t at = 1;; ++at) {
    TempFolder temp;
    HandClock clock;
    std::set<std::string> settled;
    FaultyDisk disk(FaultyDisk::Fault::sync_once, at, at);
    Status const status = deliver(disk, clock, temp / "a", events, settled, 5, small_objects(20));
    if (!disk.struck()) {
      CHECK(at > 20);
      break;
    }
    CHECK(status.code() == Code::defect);
    CHECK(settled.size() < events.size());
    QuickDisk good;
    REQUIRE(deliver(good, clock, temp / "a", events, settled, 7, small_objects(13)).ok());
    CHECK(archived(temp / "a") == lines_of(events));
  }
}

TEST_CASE("archive: pieces of an event and positions that come back are all kept, whatever object they fall into") {
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < 20; ++n) {
    for (std::uint64_t k = 1; k <= 3; ++k) {
      events.push_back(
          {fmt::format("{}/{}{}", n, k, k == 3 ? "." : ""), event_line(n, 600 + n, fmt::format(R"(,"k":{})", k))});
    }
  }
  // A foreign splitter repeats a position; the last two are even the same line.
  for (std::uint64_t n = 20; n < 40; ++n) {
    for (std::uint64_t k : {1UL, 2UL, 2UL})
      events.push_back({std::to_string(n), event_line(n, 600 + n, fmt::format(R"(,"k":{})", k))});
  }
  for (std::size_t const size : {std::size_t{1}, std::size_t{2}, std::size_t{4}, std::size_t{7}}) {
    for (std::uint64_t at = 1 + size % 5;; at += 5) {
      TempFolder temp;
      HandClock clock;
      std::set<std::string> settled;
      FaultyDisk disk(FaultyDisk::Fault::crash_after, at, at);
      try {
        Status const status = deliver(disk, clock, temp / "a", events, settled, 1, small_objects(size));
        CHECK_MESSAGE(status.ok(), status.what());
      } catch (Crash const&) {
      }
      settled.clear();  // receipts of a repeated position are the loop's to hold back: all comes again
      QuickDisk good;
      REQUIRE(deliver(good, clock, temp / "a", events, settled, 3, small_objects(5)).ok());
      CHECK(archived(temp / "a") == lines_of(events));
      if (!disk.struck()) break;
    }
  }
}

TEST_CASE("archive: the ledger is cut at any length and damaged at any byte, and nothing is lost") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  std::vector<Event> const events = some_events(9);
  std::set<std::string> settled;
  REQUIRE(deliver(disk, clock, temp / "a", events, settled, 5, small_objects(3)).ok());
  std::string const path = "/.spool/journal%2Fsub/ledger";
  std::string const whole = slurp(temp / "a" + path);
  REQUIRE(whole.size() > 300);
  for (std::size_t i = 0; i < 2 * whole.size(); i += 3) {
    copy_folder(temp / "a", temp / "b");
    std::string bytes = whole.substr(0, i < whole.size() ? i : whole.size());
    if (i >= whole.size()) bytes[i - whole.size()] = static_cast<char>(bytes[i - whole.size()] ^ 0x10);
    spit(temp / "b" + path, bytes);
    settled.clear();
    Status const status = deliver(disk, clock, temp / "b", events, settled, 5, small_objects(2));
    REQUIRE_MESSAGE(status.ok(), status.what());
    CHECK(settled.size() == events.size());
    auto const there = archived(temp / "b");
    for (Event const& event : events) CHECK(there.count(event.line) >= 1);
    CHECK(got(temp / "b").size() == events.size());
  }
}

TEST_CASE("archive: the ledger forgets what lies too far back, and keeps the numbers of objects growing") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  ArchivePutOptions const options = small_objects(2000);
  std::uint64_t const count = 40;
  std::set<std::string> numbers;
  std::uint64_t largest = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    auto store = open_directory_store(disk, temp / "a", true);
    REQUIRE(store);
    auto archiver = Archiver::open(disk, clock, **store, "s", options);
    REQUIRE_MESSAGE(archiver.ok(), archiver.status().what());
    for (std::uint64_t k = 0; k < 1000; ++k) {
      Parsed const parsed(event_line(i * 1000 + k, i));
      REQUIRE((*archiver)->add(*parsed, std::to_string(i * 50'000 + k)));
    }
    auto const names = list_folder(temp / "a/.spool/s");
    REQUIRE(names);
    for (std::string const& name : *names) {
      if (name.ends_with(".open")) CHECK(numbers.insert(name).second);
    }
    PositionList stored;
    REQUIRE((*archiver)->settle(true, stored).ok());
    largest = std::max<std::uint64_t>(largest, slurp(temp / "a/.spool/s/ledger").size());
  }
  CHECK(numbers.size() == count);
  CHECK(largest < 14 * 16'200);  // six entries are within reach; at most as many again wait to be left out
  // The newest ones are still known.
  auto store = open_directory_store(disk, temp / "a", true);
  auto archiver = Archiver::open(disk, clock, **store, "s", options);
  REQUIRE(archiver);
  for (std::uint64_t i = count - 5; i < count; ++i) {
    Parsed const parsed(event_line(i * 1000 + 17, i));
    auto const taken = (*archiver)->add(*parsed, std::to_string(i * 50'000 + 17));
    REQUIRE(taken);
    CHECK(*taken == Archiver::Taken::stored);
  }
}

TEST_CASE("archive: an object of the same name with other content is an error, with the same content it is not") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  std::vector<Event> const events = {{"5", event_line(5, 600)}, {"6", event_line(6, 601)}};
  std::set<std::string> settled;
  ArchivePutOptions options = small_objects(100);
  REQUIRE(deliver(disk, clock, temp / "a", events, settled, 5, options).ok());
  std::string const object = temp / "a/date=2018-07-01/hour=10/journal%2Fsub-5-6.ndjson.zst";
  std::string const bytes = slurp(object);
  REQUIRE_FALSE(bytes.empty());

  std::filesystem::remove_all(temp / "a/.spool");
  settled.clear();
  options.level = 19;  // the same lines in other bytes
  REQUIRE(deliver(disk, clock, temp / "a", events, settled, 5, options).ok());
  CHECK(settled.size() == 2);
  CHECK(slurp(object) == bytes);

  std::filesystem::remove_all(temp / "a/.spool");
  settled.clear();
  std::vector<Event> const others = {{"5", event_line(5, 600)}, {"6", event_line(7, 601)}};
  Status const status = deliver(disk, clock, temp / "a", others, settled, 5, options);
  CHECK(status.code() == Code::defect);
  CHECK(status.what().find("journal%2Fsub-5-6.ndjson.zst") != std::string::npos);
  CHECK(settled.empty());
  CHECK(slurp(object) == bytes);
}

TEST_CASE("archive: a flip of any byte of an object, and a cut at any length, is found") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  std::set<std::string> settled;
  REQUIRE(deliver(disk, clock, temp / "a", {{"1", event_line(1, 600)}, {"2", event_line(2, 600)}}, settled, 5,
                  small_objects(9))
              .ok());
  std::string const key = "date=2018-07-01/hour=10/journal%2Fsub-1-2.ndjson.zst";
  std::string const whole = slurp(temp / ("a/" + key));
  REQUIRE_FALSE(whole.empty());
  auto store = open_directory_store(disk, temp / "a", false);
  REQUIRE(store);
  auto check = [&](std::string const& bytes) {
    spit(temp / ("a/" + key), bytes);
    ObjectStore::Object const object{key, bytes.size()};
    auto summary = read_summary(**store, object);
    Status status = summary.status();
    if (status.ok()) status = read_object(**store, object, *summary, [](std::string_view) {});
    return status;
  };
  REQUIRE(check(whole).ok());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ (1 << i % 8));
    CHECK_MESSAGE(check(bytes).code() == Code::defect, "byte ", i);
    CHECK_MESSAGE(check(whole.substr(0, i)).code() == Code::defect, "length ", i);
  }
  CHECK(check(whole + "x").code() == Code::defect);
  CHECK(check(whole + whole).code() == Code::defect);
}

TEST_CASE("archive: get is in order of time, once each, whatever overlaps, also where it does not fit in memory") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  // Five subscribers hold the same 40 MiB, shuffled, in objects of their own.
  std::mt19937_64 random(7);
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < 2500; ++n) {
    events.push_back({std::to_string(n),
                      event_line(n, 600 + random() % 60, fmt::format(R"(,"pad":"{}")", std::string(16'000, 'p')))});
  }
  for (char const* source : {"a", "b", "c", "d", "e"}) {
    std::vector<Event> mixed = events;
    std::shuffle(mixed.begin(), mixed.end(), random);
    for (std::uint64_t n = 0; n < mixed.size(); ++n) mixed[n].delivery = std::to_string(n);
    std::set<std::string> settled;
    REQUIRE(deliver(disk, clock, temp / "a", mixed, settled, 100, small_objects(1300), source).ok());
  }
  auto const lines = got(temp / "a");
  CHECK(lines.size() == events.size());
  CHECK(std::multiset<std::string>(lines.begin(), lines.end()) == lines_of(events));
  auto time_of = [](std::string const& line) { return *archive_time(*Parsed(line)); };
  CHECK(std::is_sorted(lines.begin(), lines.end(),
                       [&](auto const& a, auto const& b) { return time_of(a) < time_of(b); }));
  CHECK(got(temp / "a") == lines);
}

TEST_CASE("archive: more objects overlap than files may be open by default") {
  TempFolder const temp;
  QuickDisk disk;
  HandClock clock;
  std::mt19937_64 random(7);
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < 1440; ++n) {
    events.push_back({std::to_string(n),
                      event_line(n, 600 + random() % 60, fmt::format(R"(,"pad":"{}")", std::string(16'000, 'p')))});
  }
  std::set<std::string> settled;
  REQUIRE(deliver(disk, clock, temp / "a", events, settled, 100, small_objects(8)));
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit const few{48, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
  auto const lines = got(temp / "a");
  CHECK(std::multiset<std::string>(lines.begin(), lines.end()) == lines_of(events));
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
}

TEST_CASE("archive: get keeps to its times and subjects, and equal bare records are not doubles") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < 300; ++n) {
    events.push_back(
        {std::to_string(n), fmt::format(R"({{"recordedtime":"2018-07-01T{:02}:{:02}:00Z","subject":"s{}"}})",
                                        n % 120 / 60, n % 60, n % 3)});
  }
  std::set<std::string> settled;
  REQUIRE(deliver(disk, clock, temp / "a", events, settled, 10, small_objects(70)).ok());
  CHECK(got(temp / "a").size() == 300);
  ArchiveQuery query;
  query.from = *parse_rfc3339("2018-07-01T00:30:00Z");
  query.to = *parse_rfc3339("2018-07-01T01:10:00Z");
  std::multiset<std::string> expected;
  for (Event const& event : events) {
    Time const time = *archive_time(*Parsed(event.line));
    if (time >= *query.from && time < *query.to) expected.insert(event.line);
  }
  auto lines = got(temp / "a", query);
  CHECK(std::multiset<std::string>(lines.begin(), lines.end()) == expected);
  query.subjects = {"s1", "s2"};
  lines = got(temp / "a", query);
  std::erase_if(expected, [](std::string const& line) { return line.find("s0") != std::string::npos; });
  CHECK(std::multiset<std::string>(lines.begin(), lines.end()) == expected);
}

TEST_CASE("archive: records without a time are filed under the hour of their arrival, and come first in it") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;  // 2018-07-01T00:00:00Z
  std::vector<Event> const events = {{"1", R"({"recordedtime":"2018-07-01T00:00:01Z"})"},
                                     {"2", R"({"recordedtime":"soon"})"},
                                     {"3", R"({"recordedtime":7,"time":"2018-07-01T02:00:00+01:00"})"},
                                     {"4", R"({"recordedtime":"9999-01-01T00:00:00Z"})"}};
  std::set<std::string> settled;
  REQUIRE(deliver(disk, clock, temp / "a", events, settled, 10, small_objects(70)).ok());
  CHECK(settled.size() == 4);
  CHECK(got(temp / "a") == std::vector<std::string>{events[1].line, events[3].line, events[0].line, events[2].line});
  CHECK(exists(temp / "a/date=2018-07-01/hour=01/journal%2Fsub-3-3.ndjson.zst"));
}

TEST_CASE("archive: a spool has one holder, who is named") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  auto store = open_directory_store(disk, temp / "a", true);
  ArchivePutOptions const options;
  auto first = Archiver::open(disk, clock, **store, "s", options);
  REQUIRE(first);
  auto const second = Archiver::open(disk, clock, **store, "s", options);
  CHECK(second.status().code() == Code::temporary);
  CHECK(second.status().what().find(fmt::format("({})", ::getpid())) != std::string::npos);
  CHECK(Archiver::open(disk, clock, **store, "other", options).ok());
  // A plain pipe has no subscriber, so each takes a spool of its own.
  auto const third = Archiver::open(disk, clock, **store, "", options);
  CHECK(third.ok());
  CHECK(Archiver::open(disk, clock, **store, "", options).ok());
}

TEST_CASE("archive: objects close by count, bytes and age") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  auto store = open_directory_store(disk, temp / "a", true);
  ArchivePutOptions options;
  options.max_records = 10;
  options.max_bytes = 3000;
  auto archiver = Archiver::open(disk, clock, **store, "s", options);
  REQUIRE(archiver);
  PositionList stored;
  std::set<std::string> settled;
  std::uint64_t n = 0;
  auto add = [&](std::uint64_t minute, std::string const& extra = "") {
    Parsed const parsed(event_line(n, minute, extra));
    REQUIRE((*archiver)->add(*parsed, std::to_string(n++)));
    REQUIRE((*archiver)->settle(false, stored).ok());
    settle(stored, settled);
  };
  for (int i = 0; i < 9; ++i) add(0);
  CHECK(settled.empty());
  add(60);  // the tenth that came, though of another hour
  CHECK(settled.size() == 9);
  add(60, fmt::format(R"(,"pad":"{}")", std::string(3000, 'x')));
  CHECK(settled.size() == 11);
  add(0);
  clock.time = clock.time + std::chrono::seconds(59);
  add(0);
  CHECK(settled.size() == 11);
  clock.time = clock.time + std::chrono::seconds(1);
  REQUIRE((*archiver)->settle(false, stored).ok());
  settle(stored, settled);
  CHECK(settled.size() == 13);
}

TEST_CASE(
    "archive: at most 256 objects are open, and in a plain pipe an hour's object waits for its own records only") {
  TempFolder temp;
  QuickDisk disk;
  HandClock clock;
  auto store = open_directory_store(disk, temp / "a", true);
  ArchivePutOptions options;
  options.max_records = 10;
  auto archiver = Archiver::open(disk, clock, **store, "", options);
  REQUIRE(archiver);
  PositionList stored;
  for (std::int64_t hour = 0; hour < 257; ++hour) {
    Parsed const parsed(fmt::format(R"({{"time":"{}"}})", format_rfc3339(begin_of_hour(hour))));
    REQUIRE((*archiver)->add(*parsed, ""));
    REQUIRE((*archiver)->settle(false, stored).ok());
    CHECK(archived(temp / "a").size() == (hour < 256 ? 0 : 1));
  }
  REQUIRE((*archiver)->settle(true, stored).ok());
  CHECK(archived(temp / "a").size() == 257);
}

namespace {

// Every line of an archive that a query wants, by looking at all of them.
std::vector<std::string> wanted(std::string const& archive, ArchiveQuery const& query) {
  std::vector<std::string> lines;
  for (std::string const& line : got(archive)) {
    Parsed const parsed(line);
    std::string scratch;
    Time const time = archive_time(*parsed).value_or(begin_of_hour(hour_of(HandClock().now())));
    if (query.wants((*parsed).text("subject", scratch), time)) lines.push_back(line);
  }
  return lines;
}

std::string subject_line(std::mt19937& random, std::uint64_t n, std::size_t length) {
  std::string subject = random() % 20 == 0 ? "" : fmt::format(R"("subject":"u\u0031-{}",)", random() % 40);
  std::string const time =
      random() % 30 == 0 ? "" : fmt::format(R"("recordedtime":"2018-07-01T{:02}:{:02}:00Z",)", random() % 4, n % 60);
  return fmt::format(R"({{{}{}"n":{},"text":"{}"}})", subject, time, n, std::string(length, 'x'));
}

// One a minute, of each subject in turn.
std::vector<Event> by_subject(std::uint64_t count, std::uint64_t subjects) {
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < count; ++n) {
    events.push_back(
        {std::to_string(n),
         fmt::format(R"({{"subject":"u{}","recordedtime":"2018-07-01T00:{:02}:00Z","n":{}}})", n % subjects, n, n)});
  }
  return events;
}

// Counts what is read of the objects, and fails for a while where it is told to.
class CountingStore final : public ObjectStore {
 public:
  explicit CountingStore(ObjectStore& store) : store_(store) {}
  std::uint64_t bytes = 0, most = 0;  // of one call
  int failures = 0;                   // that are to come
  Status failure = Status::temporary("busy");
  Result<Put> put(std::string const& key, std::string const& file) override { return store_.put(key, file); }
  Result<std::size_t> get(std::string const& key, std::uint64_t offset, std::span<char> to) override {
    if (failures > 0 && failures-- > 0) return failure;
    bytes += to.size();
    most = std::max<std::uint64_t>(most, to.size());
    return store_.get(key, offset, to);
  }
  Result<std::optional<Object>> find(std::string const& key) override { return store_.find(key); }
  Status list(std::string const& from, Visit const& visit) override { return store_.list(from, visit); }
  std::string name(std::string const& key) const override { return store_.name(key); }
  Result<std::string> spools() const override { return store_.spools(); }
  bool remote() const override { return false; }
  std::string identity() const override { return ""; }

 private:
  ObjectStore& store_;
};

// An object of these frames' bytes with another index, whose checksums are all right.
std::string with_index(std::string const& object, ObjectSummary summary, std::vector<ArchiveFrame> const& frames) {
  std::string lines, index, file = object.substr(0, summary.index->offset - 8);
  for (ArchiveFrame const& frame : frames) {
    append_index_line(lines, frame);
    lines += '\n';
  }
  FrameCompressor compressor(3);
  compressor.compress(lines, {}, [&](std::string_view bytes) { index += bytes; });
  file += frame_head(kIndexFrame, static_cast<std::uint32_t>(index.size())) + index;
  ContentDigest digest;
  digest.update(file);
  summary.index->size = index.size();
  summary.stored_bytes = file.size();
  summary.stored_digest = digest.text();
  return file + summary_frame(summary);
}

void write_file(std::string const& path, std::string_view text) {
  REQUIRE(::unlink(path.c_str()) == 0);  // it may be linked to a spool's
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("archive: of subjects and ranges comes what looking at every line finds") {
  std::mt19937 random(5);
  for (int round = 0; round < 6; ++round) {
    TempFolder const temp;
    std::string const archive = temp / "a";
    HandClock clock;
    std::vector<Event> events;
    for (std::uint64_t n = 0; n < 3000; ++n) {
      std::size_t const length = random() % 700 == 0 ? (1 << 20) + random() % 100 : random() % 300;
      events.push_back({std::to_string(n), subject_line(random, n, length)});
    }
    std::set<std::string> settled;
    REQUIRE(deliver(real_disk(), clock, archive, events, settled, 100, small_objects(700)));
    CHECK(archived(archive) == lines_of(events));
    for (int asked = 0; asked < 12; ++asked) {
      ArchiveQuery query;
      auto const at = [](std::uint64_t minute) {
        return *parse_rfc3339(fmt::format("2018-07-01T{:02}:{:02}:00Z", minute / 60, minute % 60));
      };
      if (asked % 3 == 0) query.from = at(random() % 120);
      if (asked % 4 == 0) query.to = at(120 + random() % 110);
      if (asked % 2 == 0) {
        for (std::uint64_t n = random() % 4; n < 4; ++n) query.subjects.push_back(fmt::format("u1-{}", random() % 42));
        if (query.subjects.empty()) continue;
      } else {
        std::string ranges;
        for (std::uint64_t n = random() % 5; n < 6; ++n) {
          std::uint64_t const begin = random() % 200;
          ranges += fmt::format(R"({{"subject":"u1-{}","from":"{}","to":"{}","missing":1}})"
                                "\n",
                                random() % 42, format_rfc3339(at(begin)), format_rfc3339(at(begin + random() % 40)));
        }
        std::string const file = temp / "ranges";
        std::ofstream(file) << ranges;
        auto const slack = std::chrono::minutes(static_cast<int>(random() % 7));
        REQUIRE(read_ranges(real_disk(), file, -1, slack, query));
      }
      CHECK(got(archive, query) == wanted(archive, query));
    }
  }
}

TEST_CASE("archive: of one subject little is read, and nothing of hours that no range touches") {
  TempFolder const temp;
  std::string const archive = temp / "a";
  HandClock clock;
  std::mt19937 random(1);
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < 12'000; ++n) {
    std::string noise;
    for (int i = 0; i < 300; ++i) noise += static_cast<char>('a' + random() % 26);
    events.push_back(
        {std::to_string(n),
         fmt::format(R"({{"subject":"bsu-{}","recordedtime":"2018-07-01T{:02}:00:00.{:09}Z","noise":"{}"}})", n % 400,
                     n / 3000, n, noise)});
  }
  std::set<std::string> settled;
  REQUIRE(deliver(real_disk(), clock, archive, events, settled, 1000, {}));
  auto store = open_directory_store(real_disk(), archive, false);
  REQUIRE(store);
  std::uint64_t stored = 0;
  REQUIRE(visit_objects(**store, {}, [&](ObjectStore::Object const& object) {
    stored += object.bytes;
    return Status{};
  }));
  for (bool const by_range : {false, true}) {
    ArchiveQuery query;
    query.subjects = {"bsu-17"};
    if (by_range) {
      query.ranges = {{"bsu-17", {{*parse_rfc3339("2018-07-01T02:00:00Z"), *parse_rfc3339("2018-07-01T02:30:00Z")}}}};
    }
    CountingStore counting(**store);
    ArchiveFound found;
    std::uint64_t lines = 0;
    REQUIRE(archive_get(
        counting, query,
        [&](std::string_view) {
          ++lines;
          return Status{};
        },
        found));
    CHECK(lines == (by_range ? 8 : 30));
    CHECK(found.records == lines);
    CHECK(found.subjects == std::set<std::string, std::less<>>{"bsu-17"});
    // Per hour: the end of an object, and a frame of it.
    std::uint64_t const hours = by_range ? 1 : 4;
    CHECK(counting.bytes < hours * ((32 << 10) + stored / 4 / 5));
    CHECK(counting.bytes > hours * (32 << 10));
  }
}

TEST_CASE("archive: a long frame and a long index are asked for in pieces: of answers a server's is bounded") {
  TempFolder const temp;
  std::string const archive = temp / "a";
  HandClock clock;
  std::mt19937 random(3);
  auto const noise = [&](std::size_t size) {
    std::string text(size, ' ');
    for (char& c : text) c = static_cast<char>('0' + random() % 10 + (random() % 2) * ('a' - '0'));
    return text;
  };
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < 4; ++n) {
    events.push_back(
        {std::to_string(n),
         fmt::format(R"({{"subject":"u{}","recordedtime":"2018-07-01T00:00:0{}Z","noise":"{}"}})",
                     n < 3 ? noise(3 << 20) : std::string("x"), n, n < 3 ? std::string() : noise(10 << 20))});
  }
  std::set<std::string> settled;
  REQUIRE(deliver(real_disk(), clock, archive, events, settled, 100, {}));
  auto store = open_directory_store(real_disk(), archive, false);
  REQUIRE(store);
  ArchiveQuery query;
  query.subjects = {"ux"};
  CountingStore counting(**store);
  ArchiveFound found;
  std::vector<std::string> lines;
  REQUIRE(archive_get(
      counting, query,
      [&](std::string_view line) {
        lines.emplace_back(line);
        return Status{};
      },
      found));
  CHECK(lines == std::vector<std::string>{events[3].line});
  CHECK(counting.bytes > 9 << 20);  // of both
  CHECK(counting.most == 4 << 20);
}

TEST_CASE("archive: a flip of any byte is found by a query of one subject too, or changes nothing of its answer") {
  TempFolder const temp;
  std::string const archive = temp / "a";
  HandClock clock;
  std::vector<Event> const events = by_subject(60, 5);
  std::set<std::string> settled;
  REQUIRE(deliver(real_disk(), clock, archive, events, settled, 100, {}));
  std::string const path = archive + "/" + only_object(archive);
  ArchiveQuery query;
  query.subjects = {"u3"};
  auto const right = got(archive, query);
  CHECK(right.size() == 12);
  auto whole = read_file(path);
  REQUIRE(whole);
  auto store = open_directory_store(real_disk(), archive, false);
  REQUIRE(store);
  std::size_t found_out = 0;
  for (std::size_t at = 0; at < whole->size(); ++at) {
    std::string broken = *whole;
    broken[at] = static_cast<char>(broken[at] ^ 0x10);
    write_file(path, broken);
    std::vector<std::string> lines;
    ArchiveFound found;
    Status const status = archive_get(
        **store, query,
        [&](std::string_view line) {
          lines.emplace_back(line);
          return Status{};
        },
        found);
    if (!status.ok()) {
      ++found_out;
      CHECK(status.code() != Code::temporary);
      CHECK(status.what().find(path) != std::string::npos);
      CHECK(lines.empty());
    } else {
      CHECK(lines == right);
    }
  }
  CHECK(found_out > whole->size() * 9 / 10);
}

TEST_CASE("archive: an index that does not match its frames is found, by verify and by who reads by it") {
  TempFolder const temp;
  std::string const archive = temp / "a";
  HandClock clock;
  std::vector<Event> events;
  for (std::uint64_t n = 0; n < 3000; ++n) {
    events.push_back(
        {std::to_string(n), fmt::format(R"({{"subject":"u{}","recordedtime":"2018-07-01T00:{:02}:{:02}Z","n":"{}"}})",
                                        n % 50, n / 60, n % 60, std::string(200, 'y'))});
  }
  std::set<std::string> settled;
  REQUIRE(deliver(real_disk(), clock, archive, events, settled, 100, {}));
  std::string const key = only_object(archive), path = archive + "/" + key;
  auto store = open_directory_store(real_disk(), archive, false);
  REQUIRE(store);
  auto object = (*store)->find(key);
  REQUIRE(object);
  auto const summary = read_summary(**store, **object);
  REQUIRE(summary);
  auto const frames = read_index(**store, **object, *summary, [](ArchiveFrame const&) { return true; });
  REQUIRE(frames);
  REQUIRE(frames->size() > 3);
  auto const whole = read_file(path);
  REQUIRE(whole);
  auto const damaged = archive_verify(**store, {});
  CHECK((damaged && *damaged == 0));
  using Change = std::function<void(std::vector<ArchiveFrame>&)>;
  std::vector<Change> const changes = {
      [](auto& f) { std::swap(f[1].groups[0].subject, f[1].groups[1].subject); },
      [](auto& f) { ++f[1].groups[0].records, --f[1].groups[1].records; },
      [](auto& f) { f[1].groups[0].last = f[1].groups[0].first; },
      [](auto& f) { f[1].groups.pop_back(); },
      [](auto& f) { std::swap(f[1].groups, f[2].groups); },
      [](auto& f) { ++f[1].bytes, --f[2].bytes; },
      [](auto& f) { ++f[1].size, ++f[2].offset, --f[2].size; },
      [](auto& f) { f.pop_back(); },
      [](auto& f) { f[1].groups[0].subject = std::nullopt; },
  };
  for (std::size_t i = 0; i <= changes.size(); ++i) {
    CAPTURE(i);
    auto changed = *frames;
    std::string subject = *changed[1].groups[0].subject;
    if (i < changes.size()) changes[i](changed);
    std::string const file = with_index(*whole, *summary, changed);
    if (i == changes.size()) CHECK(file == *whole);
    write_file(path, file);
    auto const verified = archive_verify(**store, {});
    REQUIRE(verified);
    CHECK(*verified == (i < changes.size() ? 1 : 0));
    ArchiveQuery query;
    query.subjects = {subject};
    ArchiveFound found;
    Status const status = archive_get(
        **store, query, [](std::string_view) { return Status{}; }, found);
    CHECK((status.code() == Code::defect) == (i < changes.size()));
  }
}

TEST_CASE("archive: the same lines in another order, under the same name, are the same object") {
  TempFolder const temp;
  std::string const archive = temp / "a";
  HandClock clock;
  std::vector<Event> const events = by_subject(40, 3);
  for (bool const same : {true, false}) {
    std::set<std::string> settled;
    if (same) REQUIRE(deliver(real_disk(), clock, archive, events, settled, 100, {}));
    std::string const path = archive + "/" + only_object(archive);
    // As if a stretch had ended in the middle, because of what else was open.
    FrameCompressor compressor(3);
    ObjectEncoder encoder(compressor, [] {});
    for (std::uint64_t n = 0; n < 40; ++n) {
      if (n == 20) encoder.cut();
      std::string const line = same || n != 7 ? events[n].line : event_line(7, 7, R"(,"subject":"other")");
      encoder.add({line, *parse_rfc3339(fmt::format("2018-07-01T00:{:02}:00Z", n)), fmt::format("u{}", n % 3),
                   ArchiveGroup::Span{n, n}});
    }
    (void)encoder.finish("journal/sub", "0-39");
    auto const before = read_file(path);
    write_file(path, encoder.pending());
    CHECK(*before != encoder.pending());
    std::filesystem::remove_all(archive + "/.spool");
    settled.clear();
    Status const status = deliver(real_disk(), clock, archive, events, settled, 100, {});
    CHECK(status.ok() == same);
    CHECK(settled.size() == (same ? 40 : 0));
    CHECK(*read_file(path) == encoder.pending());
  }
}

TEST_CASE("archive: a name that is taken, and a store that fails while its content is compared: it is tried again") {
  TempFolder const temp;
  std::string const archive = temp / "a";
  HandClock clock;
  std::vector<Event> const events = {{"5", event_line(5, 600)}, {"6", event_line(6, 601)}};
  std::set<std::string> settled;
  ArchivePutOptions options;
  REQUIRE(deliver(real_disk(), clock, archive, events, settled, 5, options));
  std::filesystem::remove_all(archive + "/.spool");
  options.level = 19;  // the same lines in other bytes
  auto store = open_directory_store(real_disk(), archive, true);
  REQUIRE(store);
  CountingStore failing(**store);
  auto archiver = Archiver::open(real_disk(), clock, failing, "journal/sub", options);
  REQUIRE(archiver);
  for (Event const& event : events) {
    Parsed const parsed(event.line);
    REQUIRE((*archiver)->add(*parsed, event.delivery));
  }
  PositionList stored;
  for (Status const& failure : {Status::temporary("busy"), Status::usage("no permission"), Status::temporary("busy")}) {
    failing.failures = 1;
    failing.failure = failure;
    Status const status = (*archiver)->settle(true, stored);
    CHECK(status.code() == failure.code());
    CHECK(stored.texts(10).empty());
  }
  REQUIRE((*archiver)->settle(true, stored));
  CHECK(stored.texts(10) == std::vector<std::string>{"5-6"});
}

TEST_CASE("archive: an object of a newer layout is refused, and is not said to be damaged") {
  TempFolder const temp;
  HandClock clock;
  std::string const archive = temp / "a";
  std::set<std::string> settled;
  REQUIRE(deliver(real_disk(), clock, archive, {{"0", event_line(0, 0)}}, settled, 1, {}));
  std::string const path = archive + "/" + only_object(archive);
  auto const whole = read_file(path);
  std::size_t const begin = whole->rfind(R"({"format":1)");
  std::string json = whole->substr(begin, whole->size() - 16 - begin), hash;
  json.replace(0, 11, R"({"format":2)");
  for (unsigned i = 0; i < 8; ++i) hash += static_cast<char>(hash64(json) >> 8 * i & 0xff);
  write_file(path, whole->substr(0, begin) + json + hash + whole->substr(whole->size() - 8));
  auto store = open_directory_store(real_disk(), archive, false);
  REQUIRE(store);
  ArchiveFound found;
  Status const status = archive_get(
      **store, {}, [](std::string_view) { return Status{}; }, found);
  CHECK(status.code() == Code::usage);
  CHECK(status.what() == path + ": format 2: this version reads up to 1");
}

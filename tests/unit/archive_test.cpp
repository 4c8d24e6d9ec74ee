#include "common/archive.h"

#include <limits>

#include "common/archive_get.h"
#include "common/archive_put.h"
#include "common/directory_store.h"
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

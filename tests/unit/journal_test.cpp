#include "common/journal.h"

#include <poll.h>
#include <sys/wait.h>

#include "common/journal_doubles.h"
#include "common/journal_index.h"
#include "tests/journal_support.h"

using namespace inflight;
using namespace inflight::test;

namespace {

std::string const kFirstIndex = "/00000000000000000000.index";
std::string const kFirstData = "/00000000000000000000.ndjson";

JournalWriter open_writer(Disk& disk, std::string const& folder, Clock& clock = system_clock()) {
  auto writer = JournalWriter::open(disk, clock, folder);
  REQUIRE_MESSAGE(writer.ok(), writer.status().what());
  return std::move(*writer);
}

// Four batches of 1, 2, 3 and 4 lines.
void fill(std::string const& folder, std::uint64_t segment_bytes) {
  QuickDisk disk;
  HandClock clock;
  make_journal(folder, segment_bytes);
  auto writer = open_writer(disk, folder, clock);
  std::uint64_t n = 0;
  for (std::uint64_t count = 1; count <= 4; ++count) {
    auto const appended = append_numbered(writer, n, count);
    REQUIRE(appended);
    REQUIRE(appended->first == n);
    n += count;
  }
}

// After whatever happened to a journal of ten events: a writer goes on behind all positions that were given away.
void check_goes_on(std::string const& folder, Reading const& before) {
  QuickDisk disk;
  auto writer = open_writer(disk, folder);
  std::uint64_t const from = journal_span(folder)->end;
  REQUIRE(from >= 10);
  auto const appended = append_numbered(writer, from, 2);
  REQUIRE_MESSAGE(appended.ok(), appended.status().what());
  REQUIRE(appended->first == from);
  Reading const after = read_everything(folder);
  REQUIRE(after.stuck.empty());
  check_truth(after);
  REQUIRE(after.end == from + 2);
  REQUIRE(after.events.count(from) == 1);
  REQUIRE(after.events.count(from + 1) == 1);
  for (auto const& [position, line] : before.events) REQUIRE(after.events.count(position) == 1);
}

}  // namespace

TEST_CASE("journal: what was appended is read back in order, with positions and times") {
  TempFolder temp;
  HandClock clock;
  std::string const folder = temp / "fleet";
  REQUIRE(journal_create(real_disk(), folder));
  auto writer = open_writer(real_disk(), folder, clock);
  REQUIRE(append_numbered(writer, 0, 3));
  clock.time = clock.time + std::chrono::seconds(5);
  auto const second = append_numbered(writer, 3, 2);
  REQUIRE(second);
  CHECK(second->first == 3);
  CHECK(second->count == 2);
  auto reader = JournalReader::open(folder, 1);
  REQUIRE(reader);
  for (std::uint64_t n = 1; n < 5; ++n) {
    auto const event = reader->next();
    REQUIRE(event);
    REQUIRE(*event);
    CHECK((*event)->position == n);
    CHECK((*event)->line == numbered(n));
    CHECK((*event)->committed == (n < 3 ? clock.time - std::chrono::seconds(5) : clock.time));
    CHECK(reader->position() == n + 1);
  }
  CHECK(!*reader->next());
  CHECK(append_numbered(writer, 5, 1));
  CHECK((*reader->next())->position == 5);
  CHECK(slurp(folder + kFirstData).starts_with(numbered(0) + "\n" + numbered(1) + "\n"));
  CHECK(journal_position_at(folder, clock.time).status().ok());
  CHECK(*journal_position_at(folder, clock.time) == 3);
  CHECK(*journal_position_at(folder, clock.time - std::chrono::seconds(9)) == 0);
  CHECK(*journal_position_at(folder, clock.time + std::chrono::seconds(1)) == 6);
  auto const span = journal_span(folder);
  REQUIRE(span);
  CHECK(span->first == 0);
  CHECK(span->end == 6);
  CHECK(span->oldest == clock.time - std::chrono::seconds(5));
}

TEST_CASE("journal: seeking finds every position in every segment, and none beyond the end") {
  TempFolder temp;
  std::string const folder = temp / "j";
  make_journal(folder, 300);
  QuickDisk disk;
  auto writer = open_writer(disk, folder);
  for (std::uint64_t n = 0; n < 200; n += 4) REQUIRE(append_numbered(writer, n, 4));
  auto reader = JournalReader::open(folder, 0);
  REQUIRE(reader);
  for (std::uint64_t i = 0; i < 400; ++i) {
    std::uint64_t const n = i * 67 % 200;
    REQUIRE(reader->seek(n).ok());
    auto const event = reader->next();
    REQUIRE(event);
    CHECK((*event)->line == numbered(n));
  }
  CHECK(reader->seek(200).ok());
  CHECK(!*reader->next());
  CHECK(reader->seek(201).code() == Code::defect);
}

TEST_CASE("journal: a folder that is something else, or of a newer version, is refused unchanged") {
  TempFolder temp;
  std::filesystem::create_directories(temp / "photos");
  spit(temp / "photos/a.jpg", "x");
  CHECK(journal_create(real_disk(), temp / "photos").status().code() == Code::usage);
  CHECK(!exists(temp / "photos/append.lock"));
  CHECK(journal_info(temp / "photos").status().what().find("is not an exchange") != std::string::npos);
  CHECK(journal_info(temp / "nothing").status().code() == Code::usage);
  CHECK(JournalWriter::open(real_disk(), system_clock(), temp / "photos").status().code() == Code::usage);

  REQUIRE(journal_create(real_disk(), temp / "j"));
  auto const id = journal_info(temp / "j")->id;
  CHECK(journal_create(real_disk(), temp / "j")->id == id);
  std::string text = slurp(temp / "j/exchange.json");
  text.replace(text.find("\"version\":1"), 11, "\"version\":2");
  spit(temp / "j/exchange.json", text);
  auto const refused = JournalWriter::open(real_disk(), system_clock(), temp / "j");
  CHECK(refused.status().code() == Code::usage);
  CHECK(refused.status().what().find("format version 2 is newer than this program's 1") != std::string::npos);
  CHECK(slurp(temp / "j/exchange.json") == text);
}

TEST_CASE("journal: settings are kept in the journal, and members of others with them") {
  TempFolder temp;
  std::string const folder = temp / "j";
  auto const made = journal_create(real_disk(), folder);
  REQUIRE(made);
  CHECK(made->settings.keep == std::chrono::hours(7 * 24));
  std::string text = slurp(folder + "/exchange.json");
  text.replace(text.find('{'), 1, "{\"mine\":[1,2],");
  spit(folder + "/exchange.json", text);
  JournalSettings settings;
  settings.keep = std::chrono::minutes(90);
  settings.max_disk = 1 << 30;
  settings.segment_bytes = 4096;
  REQUIRE(journal_set(real_disk(), folder, settings).ok());
  auto const info = journal_info(folder);
  REQUIRE(info);
  CHECK(info->id == made->id);
  CHECK(info->settings.keep == settings.keep);
  CHECK(info->settings.max_disk == settings.max_disk);
  CHECK(info->settings.segment_bytes == settings.segment_bytes);
  CHECK(slurp(folder + "/exchange.json").find("\"mine\":[1,2]") != std::string::npos);
}

TEST_CASE("journal: a line with an identity is written once, whoever writes it") {
  TempFolder temp;
  std::string const folder = temp / "j";
  make_journal(folder, 200);
  QuickDisk disk;
  auto one = open_writer(disk, folder);
  auto two = open_writer(disk, folder);
  REQUIRE(append_numbered(one, 0, 10, true));
  auto again = append_numbered(two, 5, 10, true);
  REQUIRE(again);
  CHECK(again->first == 10);
  CHECK(again->count == 5);
  CHECK(again->doubles == 5);
  again = append_numbered(one, 0, 15, true);
  REQUIRE(again);
  CHECK(again->count == 0);
  CHECK(again->doubles == 15);
  auto three = open_writer(disk, folder);
  CHECK(append_numbered(three, 0, 15, true)->doubles == 15);
  CHECK(append_numbered(three, 3, 1, false)->count == 1);
  std::string const text = R"({"id":"a"})";
  std::vector<JournalWriter::Line> const twice = {{text, true}, {text, true}};
  CHECK(three.append(twice)->doubles == 1);
  CHECK(journal_span(folder)->end == 17);
}

TEST_CASE("journal: a batch that failed is no double when it is tried again") {
  TempFolder temp;
  std::string const folder = temp / "j";
  make_journal(folder, 1 << 20);
  FaultyDisk disk(FaultyDisk::Fault::full_once, 3, 1);
  auto writer = open_writer(disk, folder);
  auto const failed = append_numbered(writer, 0, 5, true);
  REQUIRE(!failed);
  CHECK(failed.status().code() == Code::temporary);
  auto const again = append_numbered(writer, 0, 5, true);
  REQUIRE(again);
  CHECK(again->count == 5);
  CHECK(read_everything(folder).lines().size() == 5);
}

TEST_CASE("journal: the window of doubles holds 200,000 lines, gives up the oldest, and takes back what was not kept") {
  journal::Doubles window;
  std::uint64_t const size = journal::Doubles::kWindow;
  auto add = [&](std::uint64_t n) { return window.add(std::to_string(n)); };
  for (std::uint64_t n = 0; n < 3 * size; ++n) {
    REQUIRE(add(n));
    if (n % 1000 == 999) window.keep();
  }
  window.keep();
  for (std::uint64_t n = 2 * size; n < 3 * size; n += 77) REQUIRE(!add(n));
  CHECK(!add(2 * size));
  CHECK(add(2 * size - 1));
  window.undo();
  for (std::uint64_t n = 3 * size; n < 6 * size; ++n) REQUIRE(add(n));
  window.undo();
  for (std::uint64_t n = 2 * size; n < 3 * size; n += 7) REQUIRE(!add(n));
  CHECK(add(3 * size));
  window.keep();
  CHECK(add(2 * size));
}

TEST_CASE("journal: a line with a newline is refused, and nothing of its batch is written") {
  TempFolder temp;
  std::string const folder = temp / "j";
  make_journal(folder, 1 << 20);
  QuickDisk disk;
  auto writer = open_writer(disk, folder);
  std::vector<JournalWriter::Line> const lines = {{"{}", false}, {"{\n}", false}};
  CHECK(!writer.append(lines));
  CHECK(read_everything(folder).events.empty());
  CHECK(slurp(folder + kFirstData).empty());
}

TEST_CASE("journal: a batch with a line of 16 MiB goes through, with 64 readable bytes behind it") {
  TempFolder temp;
  std::string const folder = temp / "j";
  make_journal(folder, 1 << 20);
  QuickDisk disk;
  auto writer = open_writer(disk, folder);
  std::string const big(16 << 20, 'x');
  std::vector<JournalWriter::Line> const lines = {{"{\"a\":1}", false}, {big, false}};
  REQUIRE(writer.append(lines));
  REQUIRE(append_numbered(writer, 2, 3));
  auto reader = JournalReader::open(folder, 1);
  REQUIRE(reader);
  auto const event = reader->next();
  REQUIRE(event);
  CHECK((*event)->line == big);
  std::string const behind((*event)->line.end(), (*event)->line.end() + 64);
  CHECK(behind[0] == '\n');
  for (std::uint64_t n = 2; n < 5; ++n) CHECK((*reader->next())->line == numbered(n));
  CHECK(!*reader->next());
}

TEST_CASE(
    "journal: data truncated at every length: what is before is delivered, the rest is told, positions stay unique") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(temp / "whole", 1 << 20);
  std::string const data = slurp(temp / "whole" + kFirstData);
  for (std::size_t length = 0; length < data.size(); ++length) {
    CAPTURE(length);
    copy_folder(temp / "whole", folder);
    spit(folder + kFirstData, data.substr(0, length));
    std::uint64_t intact = 0;  // batches end at 1, 3, 6, 10 lines
    std::size_t offset = 0;
    for (std::uint64_t n = 0; n < 10; ++n) {
      offset += numbered(n).size() + 1;
      if (offset <= length && (n == 0 || n == 2 || n == 5)) intact = n + 1;
    }
    for (bool recovered : {false, true}) {
      CAPTURE(recovered);
      QuickDisk disk;
      if (recovered) REQUIRE(journal_recover(disk, folder).ok());
      Reading const reading = read_everything(folder);
      check_truth(reading);
      REQUIRE(reading.stuck.empty());
      REQUIRE(reading.events.size() == intact);
      REQUIRE(reading.end == 10);
      REQUIRE(!reading.damages.empty());
      REQUIRE(reading.damages.front().first == intact);
      REQUIRE(reading.damages.front().why.find(kFirstData) != std::string::npos);
    }
    check_goes_on(folder, read_everything(folder));
  }
}

TEST_CASE(
    "journal: the index truncated at every length: nothing wrong is delivered, the rest is told, positions stay "
    "unique") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(temp / "whole", 1 << 20);
  std::string const index = slurp(temp / "whole" + kFirstIndex);
  REQUIRE(index.size() == 12288 + 4 * 64);
  for (std::size_t length = 0; length < index.size(); ++length) {
    // Between the blocks all lengths are the same.
    if (length > 80 && length < 12288 - 80 && length % 4096 > 80 && length % 4096 != 4095) continue;
    CAPTURE(length);
    copy_folder(temp / "whole", folder);
    spit(folder + kFirstIndex, index.substr(0, length));
    check_truth(read_everything(folder));
    QuickDisk disk;
    Status const recovered = journal_recover(disk, folder);
    // What is missing counts as zeros: a checksum that happens to end in them is whole.
    if (length < 64 && index.substr(length, 64 - length).find_first_not_of('\0') != std::string::npos) {
      REQUIRE(recovered.code() == Code::defect);
      REQUIRE(recovered.what().find(kFirstIndex) != std::string::npos);
      REQUIRE(!read_everything(folder).stuck.empty());
      REQUIRE(!JournalWriter::open(disk, system_clock(), folder));
      continue;
    }
    REQUIRE_MESSAGE(recovered.ok(), recovered.what());
    Reading const reading = read_everything(folder);
    check_truth(reading);
    REQUIRE(reading.stuck.empty());
    std::size_t const records = length < 12288 ? 0 : (length - 12288) / 64;
    REQUIRE(reading.events.size() == records * (records + 1) / 2);
    REQUIRE(reading.end == 10);
    REQUIRE(!reading.damages.empty());
    check_goes_on(folder, reading);
  }
}

TEST_CASE("journal: one flipped bit at any byte is told or harmless") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(temp / "whole", 60);  // several segments
  auto const names = list_folder(temp / "whole");
  REQUIRE(names);
  std::mt19937 random(7);
  std::size_t flips = 0;
  for (std::string const& name : *names) {
    if (name.find(".ndjson") == std::string::npos && name.find(".index") == std::string::npos) continue;
    std::string const whole = slurp(temp / ("whole/" + name));
    for (std::size_t at = 0; at < whole.size(); ++at) {
      bool const index = name.find(".index") != std::string::npos;
      if (index && at < 12288 && at % 4096 >= 64 && at % 701 != 0) continue;
      CAPTURE(name);
      CAPTURE(at);
      ++flips;
      copy_folder(temp / "whole", folder);
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << random() % 8));
      spit(folder + "/" + name, damaged);
      check_truth(read_everything(folder));
      QuickDisk disk;
      Status const recovered = journal_recover(disk, folder);
      Reading const reading = read_everything(folder);
      check_truth(reading);
      if (!reading.events.empty()) REQUIRE(reading.times == std::set<std::int64_t>{HandClock().time.ns});
      REQUIRE_MESSAGE(recovered.ok(), recovered.what());
      REQUIRE(reading.stuck.empty());
      REQUIRE(reading.end == 10);
      if (!index) REQUIRE(reading.damages.size() == 1);
      check_goes_on(folder, reading);
    }
  }
  CHECK(flips > 500);
}

TEST_CASE("journal: batches behind a mark that was lost are rolled forward") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  std::string index = slurp(folder + kFirstIndex);
  index.replace(4096, 64, 64, '\0');
  index.replace(8192, 64, 64, '\0');
  spit(folder + kFirstIndex, index);
  CHECK(read_everything(folder).stuck.find("commit marks") != std::string::npos);
  CHECK(!journal_span(folder));
  // A failed fsync may have left them as clean pages that are not on the disk: they are written again.
  class Spy final : public QuickDisk {
   public:
    Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) override {
      written[path] += bytes.size();
      return Disk::write_at(fd, bytes, offset, path);
    }
    std::map<std::string, std::size_t> written;
  };
  Spy disk;
  REQUIRE(journal_recover(disk, folder).ok());
  CHECK(disk.written[folder + kFirstData] == slurp(folder + kFirstData).size());
  CHECK(disk.written[folder + kFirstIndex] == 4 * 64 + 64);
  Reading const reading = read_everything(folder);
  check_truth(reading);
  CHECK(reading.events.size() == 10);
  CHECK(reading.damages.empty());
}

TEST_CASE("journal: a torn mark leaves the one before it") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  std::string index = slurp(folder + kFirstIndex);
  index.replace(8192, 8, 8, '\x7f');  // the fifth mark: one for the new index, one for each batch
  spit(folder + kFirstIndex, index);
  CHECK(journal_span(folder)->end == 6);
  CHECK(read_everything(folder).lines().size() == 6);
  REQUIRE(journal_recover(real_disk(), folder).ok());
  CHECK(read_everything(folder).lines().size() == 10);
}

TEST_CASE("journal: a reader waits through a repair that is made while it looks on") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  std::string const index = slurp(folder + kFirstIndex);
  auto reader = JournalReader::open(folder, 0);
  REQUIRE(reader);
  for (int n = 0; n < 10; ++n) REQUIRE(*reader->next());
  {
    Fd const fd(::open((folder + kFirstIndex).c_str(), O_WRONLY));
    std::string const zeros(64, '\0');
    REQUIRE(Disk().write_at(fd.get(), zeros, 4096, "index").ok());
    REQUIRE(Disk().write_at(fd.get(), zeros, 8192, "index").ok());
  }
  CHECK(reader->next().status().code() == Code::defect);
  CHECK(reader->skip_damage().status().code() == Code::defect);
  QuickDisk disk;
  auto writer = open_writer(disk, folder);
  REQUIRE(append_numbered(writer, 10, 1));
  auto const event = reader->next();
  REQUIRE(event);
  REQUIRE(*event);
  CHECK((*event)->line == numbered(10));
}

TEST_CASE("journal: nobody sees a batch before it is durable, and the index is synced with the data") {
  class Spy final : public QuickDisk {
   public:
    explicit Spy(std::string folder) : folder_(std::move(folder)) {}
    Status sync(int, std::string const& path) override {
      CHECK(read_everything(folder_).end == 10);
      synced.insert(path);
      return {};
    }
    std::set<std::string> synced;

   private:
    std::string folder_;
  };
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  Spy disk(folder);
  auto writer = open_writer(disk, folder);
  CHECK(disk.synced.empty());
  REQUIRE(append_numbered(writer, 10, 2));
  CHECK(disk.synced == std::set<std::string>{folder + kFirstData, folder + kFirstIndex});
  CHECK(read_everything(folder).end == 12);
}

TEST_CASE("journal: what a killed writer left half done is cut") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  std::string const data = slurp(folder + kFirstData);
  std::string const index = slurp(folder + kFirstIndex);
  spit(folder + kFirstData, data + "{\"n\":10,\"pa");
  spit(folder + kFirstIndex, index + std::string(100, 'z'));
  CHECK(read_everything(folder).events.size() == 10);
  REQUIRE(journal_recover(real_disk(), folder).ok());
  CHECK(slurp(folder + kFirstData) == data);
  CHECK(slurp(folder + kFirstIndex) == index);
}

TEST_CASE("journal: a writer that was there before keeps what a killed one had written but for the mark") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  QuickDisk disk;
  auto writer = open_writer(disk, folder);
  std::string const before = slurp(folder + kFirstIndex).substr(0, 12288);
  {
    auto killed = open_writer(disk, folder);
    REQUIRE(append_numbered(killed, 10, 2));
    Fd const fd(::open((folder + kFirstIndex).c_str(), O_WRONLY));
    REQUIRE(Disk().write_at(fd.get(), before, 0, "index").ok());
  }
  auto const appended = append_numbered(writer, 12, 1);
  REQUIRE(appended);
  CHECK(appended->first == 12);
  Reading const reading = read_everything(folder);
  check_truth(reading);
  CHECK(reading.events.size() == 13);
  CHECK(reading.damages.empty());
}

TEST_CASE("journal: a failed fsync seals the segment and ends the writer; the next one goes on in a new segment") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  for (std::uint64_t const at : {1UL, 2UL}) {
    FaultyDisk disk(FaultyDisk::Fault::sync_once, at, at);
    auto writer = open_writer(disk, folder);
    std::uint64_t const end = journal_span(folder)->end;
    std::string const segment = folder + fmt::format("/{:020}", at == 1 ? 0 : 10);
    std::string const data = slurp(segment + ".ndjson");
    std::size_t const index = slurp(segment + ".index").size();
    auto const failed = append_numbered(writer, end, 3);
    REQUIRE(disk.struck());
    CHECK(slurp(segment + ".ndjson") == data);
    CHECK(slurp(segment + ".index").size() == index);
    REQUIRE(failed.status().code() == Code::defect);
    CHECK(append_numbered(writer, end, 3).status().code() == Code::defect);
    CHECK(journal_span(folder)->end == end);
    QuickDisk quick;
    auto next = open_writer(quick, folder);
    REQUIRE(append_numbered(next, end, 3));
    CHECK(exists(folder + fmt::format("/{:020}.index", end)));
  }
  Reading const reading = read_everything(folder);
  check_truth(reading);
  CHECK(reading.events.size() == 16);
  CHECK(reading.damages.empty());
}

TEST_CASE(
    "journal: a segment that was not sealed when its successor was begun is left by readers, and sealed by the next "
    "writer") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  std::string const before = slurp(folder + kFirstIndex);
  REQUIRE(journal_set(real_disk(), folder, small_segments(10)).ok());
  auto reader = JournalReader::open(folder, 10);
  REQUIRE(reader);
  CHECK(!*reader->next());
  QuickDisk disk;
  auto writer = open_writer(disk, folder);
  REQUIRE(append_numbered(writer, 10, 1));
  {
    Fd const fd(::open((folder + kFirstIndex).c_str(), O_WRONLY));
    REQUIRE(Disk().write_at(fd.get(), before, 0, "index").ok());
  }
  auto const event = reader->next();
  REQUIRE(event);
  REQUIRE(*event);
  CHECK((*event)->line == numbered(10));
  auto const id = journal::parse_uuid(journal_info(folder)->id);
  auto const index = journal::Index::open(disk, folder, 0, *id, O_RDONLY);
  REQUIRE(index);
  CHECK(!index->mark()->sealed);
  REQUIRE(journal_recover(disk, folder).ok());
  CHECK(index->mark()->sealed);
}

TEST_CASE("journal: an empty segment that was sealed by a failed fsync is replaced, and a reader in it goes on") {
  TempFolder temp;
  std::string const folder = temp / "j";
  make_journal(folder, 1 << 20);
  FaultyDisk disk(FaultyDisk::Fault::sync_once, 4, 1);  // data, index and folder of the new segment, then the batch
  auto writer = open_writer(disk, folder);
  REQUIRE(append_numbered(writer, 0, 3).status().code() == Code::defect);
  auto reader = JournalReader::open(folder, 0);
  REQUIRE(reader);
  CHECK(!*reader->next());
  QuickDisk quick;
  auto next = open_writer(quick, folder);
  REQUIRE(append_numbered(next, 0, 3));
  for (std::uint64_t n = 0; n < 3; ++n) {
    auto const event = reader->next();
    REQUIRE(event);
    REQUIRE(*event);
    CHECK((*event)->line == numbered(n));
  }
}

TEST_CASE("journal: segments are removed from the oldest on, a reader in a removed one goes on, a late one is told") {
  TempFolder temp;
  HandClock clock;
  std::string const folder = temp / "j";
  make_journal(folder, 100);
  QuickDisk disk;
  auto writer = open_writer(disk, folder, clock);
  for (std::uint64_t n = 0; n < 40; n += 2) {
    clock.time = clock.time + std::chrono::seconds(1);
    REQUIRE(append_numbered(writer, n, 2));
  }
  auto reader = JournalReader::open(folder, 0);
  REQUIRE(reader);
  REQUIRE(*reader->next());
  Time const start = *journal_span(folder)->oldest;
  CHECK(*journal_remove(disk, folder, 0, clock.time) == 0);
  CHECK(*journal_remove(disk, folder, 40, start) == 0);
  auto const removed = journal_remove(disk, folder, 20, clock.time);
  REQUIRE(removed);
  CHECK(*removed > 1);
  std::uint64_t const first = journal_span(folder)->first;
  CHECK(first > 4);
  CHECK(first <= 20);
  CHECK(!exists(folder + kFirstData));
  REQUIRE(*reader->next());
  CHECK(reader->position() == 2);
  // The segment that it has open comes to its end, and the next one is gone.
  Result<std::optional<JournalReader::Event>> event = std::optional<JournalReader::Event>{};
  while ((event = reader->next())) REQUIRE(*event);
  CHECK(event.status().code() == Code::usage);
  CHECK(event.status().what().find(fmt::format("the first one is {}", first)) != std::string::npos);
  CHECK(JournalReader::open(folder, first - 1).status().code() == Code::usage);
  Reading const rest = read_everything(folder, first);
  check_truth(rest);
  CHECK(rest.end == 40);

  CHECK(*journal_remove(disk, folder, 40, clock.time + std::chrono::hours(1)) > 0);
  Reading const last = read_everything(folder, journal_span(folder)->first);
  CHECK(last.end == 40);
  CHECK(!last.events.empty());
  REQUIRE(append_numbered(writer, 40, 1));
}

TEST_CASE("journal: data that an interrupted removal left are removed later") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 60);
  REQUIRE(Disk().remove(folder + kFirstIndex).ok());
  QuickDisk disk;
  REQUIRE(exists(folder + kFirstData));
  auto writer = open_writer(disk, folder);
  REQUIRE(append_numbered(writer, 10, 1));
  CHECK(*journal_remove(disk, folder, 0, Time{}) == 0);
  CHECK(!exists(folder + kFirstData));
}

TEST_CASE(
    "journal: a segment in the middle without index, header or data is told as damage, and the rest is delivered") {
  TempFolder temp;
  for (std::string const what : {"no index", "no data", "no header", "no files"}) {
    CAPTURE(what);
    std::string const folder = temp / what;
    fill(folder, 40);
    auto const names = list_folder(folder);
    std::vector<std::string> segments;
    for (auto const& name : *names) {
      if (name.find(".index") != std::string::npos) segments.push_back(name.substr(0, 20));
    }
    REQUIRE(segments.size() >= 3);
    std::string const middle = folder + "/" + segments[1];
    if (what != "no data" && what != "no header") REQUIRE(Disk().remove(middle + ".index").ok());
    if (what == "no data" || what == "no files") REQUIRE(Disk().remove(middle + ".ndjson").ok());
    if (what == "no header") spit(middle + ".index", "");
    QuickDisk disk;
    REQUIRE(journal_recover(disk, folder).ok());
    Reading const reading = read_everything(folder);
    check_truth(reading);
    REQUIRE(reading.stuck.empty());
    REQUIRE(reading.end == 10);
    std::uint64_t lost = 0;
    for (auto const& damage : reading.damages) lost += damage.end - damage.first;
    CHECK(lost == std::stoull(segments[2]) - std::stoull(segments[1]));
    CHECK(reading.events.size() == 10 - lost);
    check_goes_on(folder, reading);
  }
}

TEST_CASE("journal: a last segment whose index is gone is never begun anew over its data") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  std::string const data = slurp(folder + kFirstData);
  REQUIRE(Disk().remove(folder + kFirstIndex).ok());
  auto const refused = JournalWriter::open(real_disk(), system_clock(), folder);
  CHECK(refused.status().code() == Code::defect);
  CHECK(refused.status().what().find(kFirstData) != std::string::npos);
  CHECK(slurp(folder + kFirstData) == data);
}

TEST_CASE("journal: an index of another journal is not taken for one's own") {
  TempFolder temp;
  fill(temp / "a", 1 << 20);
  fill(temp / "b", 1 << 20);
  spit(temp / ("b" + kFirstIndex), slurp(temp / ("a" + kFirstIndex)));
  QuickDisk disk;
  CHECK(journal_recover(disk, temp / "b").code() == Code::defect);
  CHECK(read_everything(temp / "b").events.empty());
}

TEST_CASE("journal: a watch becomes readable when a batch is committed") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  auto const watch = journal_watch(folder);
  REQUIRE(watch);
  pollfd look{watch->get(), POLLIN, 0};
  CHECK(::poll(&look, 1, 0) == 0);
  QuickDisk disk;
  auto writer = open_writer(disk, folder);
  REQUIRE(append_numbered(writer, 10, 1));
  CHECK(::poll(&look, 1, 10'000) == 1);
}

TEST_CASE("journal: a batch whose mark could not be written is off the disk before that is told") {
  class NoMark final : public QuickDisk {
   public:
    Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) override {
      if (path.ends_with(".index") && offset < 12288) return Status::from_errno(path, ENOSPC);
      return QuickDisk::write_at(fd, bytes, offset, path);
    }
    Status sync(int, std::string const& path) override {
      if (path.ends_with(".index")) durable = slurp(path);
      return {};
    }
    std::string durable;
  };
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  std::string const index = slurp(folder + kFirstIndex);
  NoMark disk;
  auto writer = open_writer(disk, folder);
  CHECK(append_numbered(writer, 10, 2).status().code() == Code::temporary);
  CHECK(disk.durable == index);
  CHECK(read_everything(folder).end == 10);
}

TEST_CASE("journal: a mark that was written though the write failed has committed its batch: readers have seen it") {
  class LateFault final : public QuickDisk {
   public:
    Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) override {
      Status const status = QuickDisk::write_at(fd, bytes, offset, path);
      return path.ends_with(".index") && offset < 12288 ? Status::from_errno(path, EIO) : status;
    }
  };
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(folder, 1 << 20);
  LateFault disk;
  auto writer = open_writer(disk, folder);
  auto const appended = append_numbered(writer, 10, 2);
  REQUIRE_MESSAGE(appended.ok(), appended.status().what());
  CHECK(appended->count == 2);
  CHECK(read_everything(folder).end == 12);
}

TEST_CASE("journal: the name of a folder that somebody else made is durable before anything stands in it") {
  class Spy final : public QuickDisk {
   public:
    Status sync_folder(std::string const& path) override {
      synced.push_back(path);
      return {};
    }
    std::vector<std::string> synced;
  };
  TempFolder temp;
  std::filesystem::create_directory(temp / "made");
  std::filesystem::create_directory(temp / "made/j");
  Spy disk;
  REQUIRE(journal_create(disk, temp / "made/j/"));
  REQUIRE(disk.synced.size() == 2);
  CHECK(disk.synced[0] == temp / "made");
  CHECK(disk.synced[1] == temp / "made/j");
  REQUIRE(make_folders(disk, temp / "made/a/b").ok());
  std::vector<std::string> const later(disk.synced.begin() + 2, disk.synced.end());
  CHECK(later == std::vector{parent_folder(temp / "made"), temp / "made", temp / "made/a"});
}

TEST_CASE("journal: a header that is unreadable is what the marks or records behind it say, and is written again") {
  TempFolder temp;
  std::string const folder = temp / "j";
  fill(temp / "whole", 1 << 20);
  std::string const index = slurp(temp / "whole" + kFirstIndex);
  for (bool const marks_too : {false, true}) {
    copy_folder(temp / "whole", folder);
    std::string damaged = index;
    damaged.replace(0, marks_too ? 12288 : 64, marks_too ? 12288 : 64, 'x');
    spit(folder + kFirstIndex, damaged);
    if (!marks_too) CHECK(read_everything(folder).events.size() == 10);
    CHECK(slurp(folder + kFirstIndex) == damaged);
    QuickDisk disk;
    REQUIRE(journal_recover(disk, folder).ok());
    CHECK(slurp(folder + kFirstIndex).substr(0, 64) == index.substr(0, 64));
    Reading const reading = read_everything(folder);
    check_truth(reading);
    CHECK(reading.damages.empty());
    CHECK(reading.events.size() == 10);
    check_goes_on(folder, reading);
  }
  // Of another journal all of it is foreign.
  fill(temp / "other", 1 << 20);
  spit(temp / ("other" + kFirstIndex), std::string(64, 'x') + index.substr(64));
  QuickDisk disk;
  CHECK(journal_recover(disk, temp / "other").code() == Code::defect);
  CHECK(slurp(temp / ("other" + kFirstIndex)).substr(0, 64) == std::string(64, 'x'));
}

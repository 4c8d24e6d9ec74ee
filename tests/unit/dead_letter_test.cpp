#include "common/dead_letter.h"

#include "tests/journal_support.h"

using namespace inflight;
using namespace inflight::test;

namespace {

DeadLetter letter(std::uint64_t position, std::string event = R"({"specversion":"1.0","id":"1"})",
                  std::uint64_t attempt = 1) {
  return {position, attempt, Time{1'530'403'200'000'000'000}, "stage", "because \"x\"", std::move(event)};
}

}  // namespace

TEST_CASE("A letter is read back as it was written, whatever bytes its event has") {
  CHECK(to_line(letter(17)) ==
        R"({"position":17,"attempt":1,"time":"2018-07-01T00:00:00Z","by":"stage","reason":"because \"x\"",)"
        R"("event":{"specversion":"1.0","id":"1"}})");
  for (std::string const event : {R"({"a":1.50e3 , "b":[1,{"c":null}]})", "no \\ JSON\t\"here\"", "", "[1]"}) {
    auto const read = parse_dead_letter(to_line(letter(3, event, 4)));
    REQUIRE_MESSAGE(read.ok(), read.status().what());
    CHECK(read->event == event);
    CHECK(read->position == 3);
    CHECK(read->attempt == 4);
    CHECK(read->by == "stage");
    CHECK(read->reason == "because \"x\"");
    CHECK(read->time == letter(3).time);
  }
  CHECK(to_line(letter(1, "\xff\x01")).ends_with(R"(,"text_base64":"/wE="})"));
  CHECK(!parse_dead_letter(R"({"attempt":1})"));
}

TEST_CASE("The name of a file of letters is durable before its first letter is, also where a killed process made it") {
  class Spy final : public QuickDisk {
   public:
    Status sync_folder(std::string const&) override {
      ++folders;
      return {};
    }
    Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) override {
      CHECK(folders == 1);
      return QuickDisk::write_at(fd, bytes, offset, path);
    }
    int folders = 0;
  };
  TempFolder temp;
  for (bool const made_before : {false, true}) {
    std::string const path = temp / (made_before ? "made.ndjson" : "new.ndjson");
    if (made_before) spit(path, "");
    Spy disk;
    auto letters = DeadLetters::open(disk, path);
    REQUIRE(letters);
    DeadLetter two[] = {letter(1), letter(2)};
    REQUIRE(letters->append(two).ok());
    REQUIRE(letters->close(1).ok());
    CHECK(disk.folders == 1);
    CHECK(DeadLetters::view(path)->open_count() == 1);
  }
}

TEST_CASE("A letter that finds no room leaves the file as it was, and is written when there is some") {
  TempFolder temp;
  std::string const path = temp / "dead.ndjson";
  DeadLetter first = letter(1), second = letter(2);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    (void)Disk().remove(path);
    FaultyDisk disk(FaultyDisk::Fault::full_once, 3, seed);  // the file is made, a letter written, another one
    auto letters = DeadLetters::open(disk, path);
    REQUIRE(letters);
    REQUIRE(letters->append(std::span(&first, 1)).ok());
    std::string const before = slurp(path);
    CHECK(letters->append(std::span(&second, 1)).code() == Code::temporary);
    CHECK(slurp(path) == before);
    CHECK(letters->open_count() == 1);
    REQUIRE(letters->append(std::span(&second, 1)).ok());
    CHECK(slurp(path) == to_line(first) + "\n" + to_line(second) + "\n");
  }
}

TEST_CASE("A letter of a plain pipe does not continue the half line that a killed tool has left") {
  TempFolder temp;
  std::string const path = temp / "letters";
  for (std::string const before : {"", "{\"position\":1}\n", "{\"position\":1}\n{\"posi"}) {
    spit(path, before);
    RejectFile file(path);
    REQUIRE(file.reject(7, R"({"a":1})", "bad").ok());
    REQUIRE(file.finish().ok());
    std::string const after = slurp(path);
    CHECK(after.starts_with(before));
    std::size_t const begin = after.rfind('\n', after.size() - 2);
    CHECK(after.substr(begin == std::string::npos ? 0 : begin + 1).starts_with(R"({"line":7,)"));
  }
}

TEST_CASE("The end is that of the last whole line, however long a torn one is") {
  TempFolder const folder;
  std::string const path = folder / "dead.ndjson";
  CHECK(*DeadLetters::end(path) == 0);
  std::ofstream(path, std::ios::app) << "{}\n";
  CHECK(*DeadLetters::end(path) == 3);
  std::ofstream(path, std::ios::app) << std::string(200'000, 'x');
  CHECK(*DeadLetters::end(path) == 3);
  std::ofstream(path, std::ios::app) << "\n";
  CHECK(*DeadLetters::end(path) == 200'004);
}

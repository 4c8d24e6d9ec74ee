#include "common/ledger.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

using namespace inflight;

namespace {

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/inflight-ledger-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string operator/(std::string const& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::unique_ptr<Ledger> open(Folder const& folder, std::uint64_t first = 0) {
  auto ledger = Ledger::open(real_disk(), system_clock(), folder / "state.json", folder / "dead.ndjson", "here", first);
  REQUIRE_MESSAGE(ledger.ok(), ledger.status().what());
  return std::move(*ledger);
}

DeadLetter letter(std::uint64_t position, std::uint64_t attempt = 1) {
  return {position, attempt, Time{1}, "stage", "because", R"({"specversion":"1.0","id":"1"})"};
}

}  // namespace

TEST_CASE("The cursor is the lowest unsettled position, whatever order events are settled in") {
  Folder const folder;
  auto ledger = open(folder, 10);
  ledger->settle(12, 14);
  CHECK(ledger->cursor() == 10);
  ledger->settle(11, 11);
  CHECK(ledger->cursor() == 10);
  CHECK(ledger->next_unsettled(11) == 15);
  CHECK(ledger->reached() == 15);
  ledger->settle(10, 10);
  CHECK(ledger->cursor() == 15);
  ledger->settle(3, 9);  // long settled
  CHECK(ledger->cursor() == 15);
  CHECK(ledger->settled_count() == 5);
}

TEST_CASE("What was saved is known again, and nothing else") {
  Folder const folder;
  {
    auto ledger = open(folder);
    ledger->settle(0, 4);
    ledger->settle(7, 8);
    ledger->set_attempts(5, {3, 2});
    ledger->set_clean(false);
    REQUIRE(ledger->save().ok());
    ledger->settle(5, 5);  // not saved
  }
  auto ledger = open(folder);
  CHECK(ledger->cursor() == 5);
  CHECK(ledger->settled(7));
  CHECK_FALSE(ledger->settled(6));
  CHECK(ledger->attempts(5).failures == 3);
  CHECK_FALSE(ledger->was_clean());
}

TEST_CASE("A dead letter settles its event even when the state was not saved behind it, and stands once") {
  Folder const folder;
  {
    auto ledger = open(folder);
    REQUIRE(ledger->save().ok());
    DeadLetter dead[] = {letter(0), letter(2)};
    REQUIRE(ledger->dead(dead).ok());
    REQUIRE(ledger->dead(dead).ok());
  }
  auto ledger = open(folder);
  CHECK(ledger->cursor() == 1);
  CHECK(ledger->settled(2));
  CHECK(ledger->letters().open_count() == 2);
  std::ifstream file(folder / "dead.ndjson");
  std::string line;
  int lines = 0;
  while (std::getline(file, line)) ++lines;
  CHECK(lines == 2);
}

TEST_CASE("Letters whose state is gone are refused: their positions would be taken for those of other events") {
  Folder const folder;
  {
    auto ledger = open(folder);
    REQUIRE(ledger->save().ok());
    DeadLetter dead[] = {letter(1)};
    REQUIRE(ledger->dead(dead).ok());
  }
  std::filesystem::remove(folder / "state.json");
  auto const ledger =
      Ledger::open(real_disk(), system_clock(), folder / "state.json", folder / "dead.ndjson", "here", 0);
  CHECK(ledger.status().code() == Code::usage);
}

TEST_CASE("A torn last letter is cut off, at every length, and the whole ones stay") {
  Folder const folder;
  {
    auto ledger = open(folder);
    REQUIRE(ledger->save().ok());  // the state comes before the letters
    DeadLetter dead[] = {letter(0), letter(1)};
    REQUIRE(ledger->dead(dead).ok());
  }
  auto whole = read_file(folder / "dead.ndjson");
  REQUIRE(whole.ok());
  std::size_t const first = whole->find('\n') + 1;
  for (std::size_t length = first; length < whole->size(); ++length) {
    std::ofstream(folder / "dead.ndjson", std::ios::trunc) << whole->substr(0, length);
    auto ledger = open(folder);
    CHECK(ledger->letters().open_count() == 1);
    DeadLetter again[] = {letter(1)};
    REQUIRE(ledger->dead(again).ok());
    CHECK(*read_file(folder / "dead.ndjson") == *whole);
  }
}

TEST_CASE("A replayed letter is closed when its event is settled, and stays open with one more attempt when it fails") {
  Folder const folder;
  auto ledger = open(folder);
  DeadLetter dead[] = {letter(3), letter(5)};
  ledger->settle(0, 9);
  REQUIRE(ledger->dead(dead).ok());
  REQUIRE(ledger->reopen(3));
  REQUIRE(ledger->reopen(5));
  CHECK_FALSE(ledger->reopen(5));
  CHECK_FALSE(ledger->reopen(4));
  CHECK(ledger->cursor() == 3);
  CHECK(ledger->settled(4));
  CHECK_FALSE(ledger->settled(5));
  ledger->settle(3, 3);
  DeadLetter second[] = {letter(5, ledger->next_attempt(5))};
  REQUIRE(ledger->dead(second).ok());
  REQUIRE(ledger->save().ok());
  CHECK(ledger->cursor() == 10);
  CHECK(ledger->letters().open_count() == 1);
  CHECK(ledger->letters().entries().at(5).attempt == 2);
  CHECK_FALSE(ledger->has_open_letter(3));
}

TEST_CASE("The state of another source, a newer version and a damaged file are refused") {
  Folder const folder;
  REQUIRE(open(folder)->save().ok());
  auto other = Ledger::open(real_disk(), system_clock(), folder / "state.json", folder / "dead.ndjson", "elsewhere", 0);
  CHECK(other.status().code() == Code::usage);
  std::ofstream(folder / "state.json") << R"({"version":2,"source":"here","cursor":1})";
  CHECK(Ledger::open(real_disk(), system_clock(), folder / "state.json", folder / "dead.ndjson", "here", 0)
            .status()
            .code() == Code::usage);
  std::ofstream(folder / "state.json") << R"({"version":1,"cur)";
  CHECK(Ledger::open(real_disk(), system_clock(), folder / "state.json", folder / "dead.ndjson", "here", 0)
            .status()
            .code() == Code::defect);
}

TEST_CASE("Pieces make a whole in any order, nested too") {
  Pieces flat;
  CHECK_FALSE(flat.add("/2"));
  CHECK_FALSE(flat.add("/3."));
  CHECK_FALSE(flat.add("/3."));
  CHECK(flat.add("/1"));
  Pieces one;
  CHECK(one.add("/1."));
  Pieces nested;
  CHECK_FALSE(nested.add("/1"));
  CHECK_FALSE(nested.add("/2./1"));
  CHECK(nested.add("/2./2."));
  Pieces wide;
  for (int i = 1; i < 1000; ++i) CHECK_FALSE(wide.add(fmt::format("/{}", i)));
  CHECK(wide.add("/1000."));
}

TEST_CASE("A cursor or a letter that finds no room asks for some, until there is enough or none to be had") {
  class Full final : public Disk {
   public:
    std::uint64_t room = 0;
    Status write_at(int fd, std::string_view bytes, std::uint64_t offset, std::string const& path) override {
      if (bytes.size() <= room) return Disk::write_at(fd, bytes, offset, path);
      (void)!Disk::write_at(fd, bytes.substr(0, room), offset, path).ok();  // what fits is written
      return Status::from_errno(path, ENOSPC);
    }
  } disk;
  Folder const folder;
  auto opened = Ledger::open(disk, system_clock(), folder / "state.json", folder / "dead.ndjson", "here", 0);
  REQUIRE(opened.ok());
  Ledger& ledger = **opened;
  int left = 40;
  ledger.on_full([&] { return left > 0 ? --left, disk.room += 10, true : false; });
  std::vector<DeadLetter> letters = {letter(0)};
  REQUIRE(ledger.dead(letters).ok());
  CHECK(ledger.cursor() == 1);
  REQUIRE(ledger.save().ok());
  CHECK(left < 40);
  CHECK(open(folder)->cursor() == 1);

  left = 0, disk.room = 0;
  std::vector<DeadLetter> more = {letter(1)};
  CHECK(ledger.dead(more).code() == Code::temporary);
  CHECK(ledger.cursor() == 1);
  ledger.settle(1, 5);
  CHECK(ledger.save().code() == Code::temporary);
  auto const known = open(folder);
  CHECK(known->cursor() == 1);
  CHECK(known->letters().entries().size() == 1);

  disk.room = 4096;
  CHECK(ledger.save().ok());
  CHECK(open(folder)->cursor() == 6);
}

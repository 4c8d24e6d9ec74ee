#include "common/listen_state.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <string>

namespace inflight {

namespace {

// A state in a file that is gone in the end.
struct StateFile {
  std::string path;
  StateFile() {
    char name[] = "/tmp/inflight-listen-XXXXXX";
    ::close(::mkstemp(name));
    path = name;
  }
  ~StateFile() { CHECK(SqliteFile::remove(path)); }
};

std::string pending(ListenState& state) {
  auto const found = state.pending(0, 100);
  REQUIRE(found);
  std::string text;
  for (auto const& one : *found) text += std::to_string(one.position) + one.key + (one.deleted ? "- " : " ");
  return text;
}

void baseline(ListenState& state) {
  REQUIRE(state.begin_snapshot());
  for (char const* key : {"a", "b", "c"}) REQUIRE(state.saw(key, "0"));
  REQUIRE(state.end_snapshot());
  REQUIRE(state.commit());
}

}  // namespace

TEST_CASE("a snapshot tells what is new, other, or gone, and a baseline nothing") {
  ListenState state(system_clock());
  REQUIRE(state.open("", "here"));
  baseline(state);
  CHECK(state.has_baseline());
  CHECK(pending(state).empty());
  REQUIRE(state.begin_snapshot());
  REQUIRE(state.saw("c", "0"));
  REQUIRE(state.saw("b", "1"));
  REQUIRE(state.saw("d", "0"));
  REQUIRE(state.end_snapshot());
  CHECK(pending(state) == "1b 2d 3a- ");
}

TEST_CASE("a snapshot that was cut deletes nothing, and one that was cut before the baseline is forgotten") {
  ListenState state(system_clock());
  REQUIRE(state.open("", "here"));
  REQUIRE(state.begin_snapshot());
  REQUIRE(state.saw("x", "0"));
  state.cut_snapshot();
  CHECK_FALSE(state.has_baseline());
  baseline(state);
  REQUIRE(state.begin_snapshot());
  REQUIRE(state.saw("b", "0"));
  state.cut_snapshot();
  REQUIRE(state.begin_snapshot());
  for (char const* key : {"a", "b", "c"}) REQUIRE(state.saw(key, "0"));
  REQUIRE(state.end_snapshot());
  CHECK(pending(state).empty());
}

TEST_CASE("changes of one document join until its event was put out") {
  ListenState state(system_clock());
  REQUIRE(state.open("", "here"));
  baseline(state);
  REQUIRE(state.saw("a", "1"));
  Time const first = state.pending(0, 1)->front().recorded;
  REQUIRE(state.saw_deletion("a"));
  CHECK(pending(state) == "1a- ");
  CHECK(state.pending(0, 1)->front().recorded > first);  // of the deletion: what was fetched before is older
  state.put_out(2);
  REQUIRE(state.saw("a", "0"));
  REQUIRE(state.saw_part("b"));
  CHECK(pending(state) == "1a- 2a 3b ");
  REQUIRE(state.saw("b", "0"));  // whether that is what it was is not known
  CHECK(pending(state) == "1a- 2a 3b ");
  REQUIRE(state.settled(3));
  CHECK(pending(state) == "3b ");
}

TEST_CASE("what is pending survives, its position is used once, and what a run before may have put out is not joined") {
  StateFile const file;
  {
    ListenState state(system_clock());
    REQUIRE(state.open(file.path, "here"));
    CHECK(check_baseline(file.path, "here").code() == Code::temporary);
    baseline(state);
    REQUIRE(state.saw("a", "1"));
    REQUIRE(state.saw("b", "1"));
    REQUIRE(state.commit());
    REQUIRE(state.saw("c", "1"));  // never committed
  }
  {
    ListenState state(system_clock());
    REQUIRE(state.open(file.path, "here"));
    CHECK(state.has_baseline());
    CHECK(pending(state) == "1a 2b ");
    REQUIRE(state.saw("a", "2"));
    CHECK(pending(state) == "1a 2b 3a ");
    REQUIRE(state.settled(4));
    REQUIRE(state.commit());
  }
  ListenState state(system_clock());
  REQUIRE(state.open(file.path, "here"));
  REQUIRE(state.saw("c", "1"));
  CHECK(pending(state) == "4c ");
  ListenState other(system_clock());
  CHECK(other.open(file.path, "there").code() == Code::usage);
}

TEST_CASE("a write that fails, as on a full disk, takes its transaction with it: no digest moves on without its mark") {
  for (std::string const extent : {"ABORT", "ROLLBACK"}) {  // of the statement, or of all, as SQLite chooses
    CAPTURE(extent);
    StateFile const file;
    ListenState state(system_clock());
    REQUIRE(state.open(file.path, "here"));
    baseline(state);
    SqliteFile other;
    REQUIRE(other.open(file.path, SqliteFile::How::appended));
    std::string const fails =
        "CREATE TRIGGER full BEFORE INSERT ON pending WHEN NEW.key=CAST('b' AS BLOB) BEGIN SELECT "
        "RAISE(" +
        extent + ",'full'); END";
    REQUIRE(other.execute(fails.c_str()));
    REQUIRE(state.saw("a", "1"));
    CHECK_FALSE(state.saw("b", "1"));
    CHECK_FALSE(state.dirty());
    CHECK(state.commit());
    CHECK(pending(state).empty());
    REQUIRE(other.execute("DROP TRIGGER full"));
    REQUIRE(state.begin_snapshot());
    REQUIRE(state.saw("a", "1"));
    REQUIRE(state.saw("b", "1"));
    REQUIRE(state.saw("c", "0"));
    REQUIRE(state.end_snapshot());
    REQUIRE(state.commit());
    CHECK(pending(state) == "1a 2b ");
  }
}

}  // namespace inflight

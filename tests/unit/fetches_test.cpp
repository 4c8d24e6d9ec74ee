#include "common/fetches.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <vector>

#include "tests/journal_support.h"

using namespace inflight;
using namespace inflight::test;

namespace {

// An exchange of ten events with the subjects 0 to 9, and one who fetches them.
class Subscribed {
 public:
  Subscribed() : files_(folder_ / "x", "etl"), fetches_(folder_ / "x", "etl") {
    make_journal(folder_ / "x", 64 << 20);
    publish();
    REQUIRE(register_subscriber(real_disk(), system_clock(), files_, "earliest", false).ok());
    ledger_ = open();
  }
  void publish() {
    QuickDisk disk;
    auto writer = JournalWriter::open(disk, system_clock(), folder_ / "x");
    REQUIRE(writer);
    for (int n = 0; n < 10; ++n) {
      // 2 and 7 must stay in order, though they are not the same document.
      std::string const key = n == 2 || n == 7 ? R"(,"partitionkey":"together")" : "";
      std::string const line = fmt::format(R"({{"specversion":"1.0","id":"{0}","subject":"{0}"{1}}})", n, key);
      JournalWriter::Line const one{line, false};
      REQUIRE(writer->append(std::span(&one, 1)));
    }
  }
  [[nodiscard]] std::unique_ptr<Ledger> open() {
    auto ledger = open_ledger(real_disk(), system_clock(), files_);
    REQUIRE(ledger);
    return std::move(*ledger);
  }
  // Delivered up to here, settled from `first` to `last`.
  void deliver(std::uint64_t end) {
    if (end > 0) REQUIRE(ledger_->reach(end - 1).ok());
  }
  void settle(std::uint64_t first, std::uint64_t last) {
    ledger_->settle(first, last);
    REQUIRE(ledger_->save().ok());
  }
  void reject(std::uint64_t position) {
    DeadLetter letter{position,  ledger_->next_attempt(position),
                      Time{1},   "stage",
                      "because", fmt::format(R"({{"specversion":"1.0","subject":"{}"}})", position)};
    REQUIRE(ledger_->dead(std::span(&letter, 1)).ok());
    REQUIRE(ledger_->save().ok());
  }
  [[nodiscard]] std::string mark() const {
    auto mark = fetches_.mark();
    REQUIRE(mark);
    return *mark;
  }
  [[nodiscard]] std::string since(std::string const& mark) const {
    std::string subjects, scratch;
    Status const status = fetches_.since(mark, [&](Record const& record) {
      subjects += record.text("subject", scratch);
      return Status{};
    });
    REQUIRE_MESSAGE(status.ok(), status.what());
    return subjects;
  }
  Ledger& ledger() { return *ledger_; }
  SubscriberFiles const& files() const { return files_; }

 private:
  TempFolder folder_;
  SubscriberFiles files_;
  Fetches fetches_;
  std::unique_ptr<Ledger> ledger_;
};

}  // namespace

TEST_CASE("What was settled since a mark, or is not settled, may have been fetched since") {
  Subscribed subscribed;
  subscribed.deliver(10);
  subscribed.settle(0, 2);
  subscribed.settle(4, 4);
  std::string const mark = subscribed.mark();
  CHECK(subscribed.since(mark) == "356789");
  subscribed.settle(3, 6);
  CHECK(subscribed.since(mark) == "356789");
  CHECK(subscribed.since(subscribed.mark()) == "789");
  subscribed.settle(7, 9);
  CHECK(subscribed.since(subscribed.mark()).empty());
  CHECK(subscribed.since("") == "0123456789");
}

TEST_CASE("What was never delivered was never fetched") {
  Subscribed subscribed;
  CHECK(subscribed.since("").empty());  // it has not begun
  for (int i = 0; i < 200; ++i) subscribed.publish();
  subscribed.deliver(1);
  subscribed.settle(0, 0);
  std::string const told = subscribed.since(subscribed.mark());
  CHECK(told.starts_with("123"));
  CHECK(told.size() == 999);
  subscribed.deliver(1001);
  CHECK(subscribed.since(subscribed.mark()).size() >= 1999);
}

TEST_CASE("A letter that is replayed is fetched again, until it is closed and by then") {
  Subscribed subscribed;
  subscribed.deliver(10);
  subscribed.reject(3);
  subscribed.reject(5);
  subscribed.settle(0, 9);
  std::string const mark = subscribed.mark();
  CHECK(subscribed.since(mark).empty());
  REQUIRE(subscribed.ledger().reopen(3));
  REQUIRE(subscribed.ledger().save().ok());
  CHECK(subscribed.since(mark) == "3");
  std::string const meanwhile = subscribed.mark();
  subscribed.settle(3, 3);
  CHECK(subscribed.since(mark) == "3");
  CHECK(subscribed.since(meanwhile) == "3");
  CHECK(subscribed.since(subscribed.mark()).empty());
  REQUIRE(subscribed.ledger().reopen(5));
  subscribed.reject(5);  // once more
  CHECK(subscribed.since(mark) == "35");
}

TEST_CASE("What follows again in the order of its partition key is fetched again") {
  Subscribed subscribed;
  subscribed.deliver(10);
  subscribed.reject(2);
  subscribed.settle(0, 9);
  std::string const mark = subscribed.mark();
  REQUIRE(subscribed.ledger().reopen(2));
  subscribed.settle(2, 2);
  CHECK(subscribed.since(mark) == "27");
}

TEST_CASE("A mark of another journal says nothing of this one") {
  Subscribed other, subscribed;
  other.deliver(10);
  other.settle(0, 9);
  subscribed.deliver(10);
  subscribed.settle(0, 9);
  CHECK(subscribed.since(other.mark()) == "0123456789");
}

TEST_CASE("A mark that is none is an error") {
  Subscribed const subscribed;
  Fetches const fetches(subscribed.files().exchange(), "etl");
  for (char const* text : {"x", "x y", "x y z", "x 1 3-"})
    CHECK(fetches.since(text, [](Record const&) { return Status{}; }).code() == Code::defect);
}

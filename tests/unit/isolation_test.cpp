#include "common/isolation.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <random>
#include <set>

#include "tests/journal_support.h"

using namespace inflight;

namespace {

// A pipeline that takes events in order, dies of some, swallows others, and hands out receipts only for what is more
// than `buffer` events back, or when its input has ended. Others bring down the process that runs the pipeline.
class Simulation final : public Events {
 public:
  Simulation(std::uint64_t count, std::set<std::uint64_t> fatal, std::set<std::uint64_t> swallowed = {})
      : count_(count), fatal_(std::move(fatal)), swallowed_(std::move(swallowed)) {
    char name[] = "/tmp/inflight-isolation-XXXXXX";
    folder_ = ::mkdtemp(name);
    start();
  }
  ~Simulation() override { std::filesystem::remove_all(folder_); }
  Simulation(Simulation const&) = delete;

  Found find(Plan const& plan, std::uint64_t from) override {
    REQUIRE(from <= count_);  // a journal has nothing beyond its end
    for (std::uint64_t at = from;;) {
      at = ledger_->next_unsettled(at);
      auto const wanted = plan.next(at);
      if (!wanted || *wanted >= count_) return std::optional<std::uint64_t>();
      if (*wanted == at && !(plan.kind == Plan::Kind::probe && at == plan.suspended)) return std::optional(at);
      at = *wanted == at ? at + 1 : *wanted;
    }
  }
  std::uint64_t high() const override { return high_; }
  Found newest_settled() override {
    for (std::uint64_t p = ledger_->reached(); p-- > 0;) {
      if (ledger_->settled(p) && !letters.contains(p)) return std::optional(p);
    }
    return std::optional<std::uint64_t>();
  }

  void start() {
    auto opened = Ledger::open(disk_, system_clock(), folder_ + "/state.json", folder_ + "/dead.ndjson", "here", 0);
    REQUIRE(opened.ok());
    ledger_ = std::move(*opened);
    isolation_.emplace(*ledger_, 5, window, [this] { return static_cast<unsigned>(chance()); });
    ledger_->set_clean(false);
    REQUIRE(ledger_->save().ok());
    high_ = ledger_->reached();
    died = false;
    ++starts;
  }

  // False when there is nothing more to deliver, or the subscriber paused.
  bool run() {
    if (Consequence const guilty = isolation_->convict(*this); guilty.letter) {
      keep(guilty);
      return !paused;
    }
    auto plan = isolation_->next(*this);
    REQUIRE(plan.ok());
    REQUIRE(isolation_->begin(*plan).ok());
    ++runs;
    RunEnd end;
    end.stored_before = ledger_->stored_count();
    Ranges delivered;
    std::vector<std::uint64_t> inside;
    std::uint64_t const stored_at_start = ledger_->stored_count();
    bool failed = false;
    std::uint64_t at = std::max(ledger_->cursor(), plan->from);
    auto take = [&](std::uint64_t position) {
      if (fatal_.contains(position) || broken) {
        failed = true;
      } else if (deadly.contains(position)) {
        died = true;
      } else if (!swallowed_.contains(position)) {
        inside.push_back(position);
      }
    };
    auto receipt = [&](std::size_t keep) {
      for (; inside.size() > keep; inside.erase(inside.begin())) settle(inside.front(), plan->kind);
    };
    if (plan->kind == Plan::Kind::again) {
      REQUIRE(ledger_->settled(plan->from));
      take(plan->from);
    } else {
      while (!failed && !died && !plan->done(end.delivered, at)) {
        auto next = find(*plan, at);
        REQUIRE(next.ok());
        if (!*next) break;
        REQUIRE(**next < ledger_->cursor() + window);
        take(**next);
        delivered.add(**next, **next);
        ++end.delivered;
        at = **next + 1;
        high_ = std::max(high_, at);
        receipt(buffer);
      }
      if (end.delivered == 0 && plan->kind == Plan::Kind::all) return false;
    }
    if (killed && killed()) died = true;
    if (died) return false;
    if (!failed) receipt(0);
    end.scan = at;
    end.stored = plan->kind == Plan::Kind::again ? 0 : ledger_->stored_count() - stored_at_start;
    for (auto const& [first, last] : delivered.map()) {
      for (std::uint64_t p = first; p <= last; ++p) {
        if (!ledger_->settled(p)) end.open.add(p, p);
      }
    }
    end.status = failed ? 1 : 0;
    end.plan = std::move(*plan);
    keep(failed ? isolation_->failed(end) : isolation_->ended_well(end));
    REQUIRE(ledger_->save().ok());
    return !paused;
  }
  void run_to_the_end(int most) {
    while (run()) REQUIRE(runs < most);
  }
  [[nodiscard]] bool finished() const { return ledger_->cursor() == count_; }

  static constexpr std::uint64_t window = 1000;
  std::size_t buffer = 3;
  bool broken = false, paused = false, died = false;
  int runs = 0, starts = 0;
  std::mt19937 chance;
  std::set<std::uint64_t> deadly;
  std::function<bool()> killed;  // in the middle of this run, by somebody else
  std::string warning;
  std::set<std::uint64_t> letters;

 private:
  void keep(Consequence const& consequence) {
    if (consequence.letter) {
      CHECK(letters.insert(consequence.letter->position).second);
      ledger_->settle(consequence.letter->position, consequence.letter->position);
    }
    if (!consequence.warning.empty()) warning = consequence.warning;
    paused = !consequence.pause.empty();
  }

  void settle(std::uint64_t position, Plan::Kind kind) {
    if (kind == Plan::Kind::again) {
      ledger_->stored_again();
    } else {
      ledger_->stored(position, position);
    }
  }

  inflight::test::QuickDisk disk_;
  std::uint64_t count_, high_ = 0;
  std::set<std::uint64_t> fatal_, swallowed_;
  std::string folder_;
  std::unique_ptr<Ledger> ledger_;
  std::optional<Isolation> isolation_;
};

using Set = std::set<std::uint64_t>;

}  // namespace

TEST_CASE("The event that brings a pipeline down is found, and no other") {
  for (Set const& fatal : std::vector<Set>{{50}, {0}, {299}, {298, 299}, {0, 1}, {7, 8, 9}, {3, 150, 290}, {296}}) {
    for (std::size_t const buffer : {0U, 3U, 40U, 10'000U}) {
      Simulation simulation(300, fatal);
      simulation.buffer = buffer;
      simulation.run_to_the_end(60 * static_cast<int>(fatal.size()));
      CHECK(simulation.letters == fatal);
      CHECK(simulation.finished());
    }
  }
}

TEST_CASE("An event is found within a few dozen runs, however many wait with it") {
  Simulation simulation(100'000, {70'000});
  simulation.buffer = 900;
  simulation.run_to_the_end(24);
  CHECK(simulation.letters == Set{70'000});
}

TEST_CASE("What a stage swallows becomes a letter, also where its last event decides how it ends") {
  for (Set const& fatal : std::vector<Set>{{}, {50, 150, 250}, {299}}) {
    Set const swallowed = {10, 20, 298};
    Simulation simulation(300, fatal, swallowed);
    simulation.run_to_the_end(200);
    Set all = fatal;
    all.insert(swallowed.begin(), swallowed.end());
    CHECK(simulation.letters == all);
    CHECK(simulation.finished());
  }
}

TEST_CASE("A pipeline that fails for every event makes no letter, and asks for nothing beyond the end") {
  for (std::uint64_t const count : {1U, 2U, 100U}) {
    Simulation simulation(count, {});
    simulation.broken = true;
    for (int i = 0; i < 100; ++i) CHECK(simulation.run());
    CHECK(simulation.letters.empty());
    if (count > 1) CHECK(simulation.warning.find("fails for every event") != std::string::npos);
    simulation.broken = false;
    simulation.run_to_the_end(200);
    CHECK(simulation.letters.empty());
    CHECK(simulation.finished());
  }
}

TEST_CASE("An only event that fails waits until the pipeline has worked for another") {
  Simulation simulation(1, {0});
  for (int i = 0; i < 50; ++i) CHECK(simulation.run());
  CHECK(simulation.letters.empty());
}

TEST_CASE("A pipeline that has worked and fails for every event since makes no letter") {
  Simulation simulation(300, {});
  for (int i = 0; i < 100; ++i) {
    simulation.broken = i > 0;
    if (!simulation.run()) break;
  }
  CHECK(simulation.letters.empty());
}

TEST_CASE("Ten letters in a row pause") {
  Set fatal;
  for (std::uint64_t p = 20; p < 60; ++p) fatal.insert(p);
  Simulation simulation(300, fatal);
  simulation.run_to_the_end(400);
  CHECK(simulation.paused);
  CHECK(simulation.letters.size() == 10);
}

TEST_CASE("An event that brings down the process that delivers it is found over its starts") {
  for (Set const& deadly : std::vector<Set>{{0}, {150}, {7, 8}}) {
    Simulation simulation(300, {});
    simulation.deadly = deadly;
    while (!simulation.finished()) {
      while (simulation.run()) {
      }
      REQUIRE(simulation.starts < 500);
      if (simulation.died) simulation.start();
    }
    CHECK(simulation.letters == deadly);
  }
}

TEST_CASE("A process that is killed in the middle of nearly every run accuses nobody") {
  // By chance, or with the first run over so that it is always the second one.
  for (unsigned seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 chance(seed);
    Simulation simulation(40, {});
    simulation.chance.seed(seed + 1000);
    int start = 0, runs = 0;
    simulation.killed = [&] {
      runs = start == simulation.starts ? runs + 1 : 1;
      start = simulation.starts;
      return seed % 2 == 0 ? chance() % 20 != 0 : runs == 2 || chance() % 4 == 0;
    };
    while (!simulation.finished()) {
      while (simulation.run()) {
      }
      REQUIRE(simulation.starts < 20'000);
      if (simulation.died) simulation.start();
    }
    CHECK(simulation.letters.empty());
  }
}

TEST_CASE("A process that is killed at random instants accuses nobody") {
  Simulation simulation(300, {});
  for (int i = 0; !simulation.finished(); ++i) {
    if (i % 3 != 0) simulation.start();
    simulation.run();
  }
  CHECK(simulation.letters.empty());
}

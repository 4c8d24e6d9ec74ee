#include "common/sink_loop.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/messages.h"
#include "common/stop.h"

using namespace inflight;

namespace {

// Says of each batch what a test wants. Runs in the child.
using Answer = std::function<Status(std::span<SinkRecord const> batch, Outcomes& outcomes, int call)>;

struct Fake final : Sink {
  Answer answer;
  std::function<Status(int call)> connecting;
  int log = -1, calls = 0, connects = 0;
  bool holds = false, keeps_n = false;
  PositionList held;

  void say(std::string const& line) const { (void)write_all(log, line + "\n", "log"); }
  Status connect() override { return connecting ? connecting(connects++) : Status{}; }
  bool keeps() const override { return keeps_n; }
  Status keep(Record const& record, std::string& kept) override {
    kept = record.attribute("n").raw;
    return kept == "13" ? Status::rejected("thirteen") : Status{};
  }
  Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) override {
    std::string ids;
    for (SinkRecord const& record : batch)
      ids += fmt::format("{}{}", ids.empty() ? "" : " ", keeps_n ? record.kept : record.record.attribute("n").raw);
    say(ids);
    return answer(batch, outcomes, calls++);
  }
  Status settle_held(bool final, PositionList& stored) override {
    if (holds && final) stored.add(held), say("released");
    return {};
  }
  Status show(SinkRecord const& record, std::string& out) override {
    out = fmt::format("would store {}", record.record.attribute("n").raw);
    return {};
  }
};

struct Pipe {
  int fd[2] = {-1, -1};
  Pipe() { REQUIRE(::pipe(fd) == 0); }
  void close(int end) {
    if (fd[end] >= 0) ::close(fd[end]);
    fd[end] = -1;
  }
  std::string drain() {  // until its writers are gone
    close(1);
    std::string text;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(fd[0], buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<std::size_t>(n));
    return text;
  }
  std::string line() {
    std::string text;
    for (char c = 0; ::read(fd[0], &c, 1) == 1 && c != '\n';) text += c;
    return text;
  }
  ~Pipe() { close(0), close(1); }
};

// Each look at it is 25 seconds later.
struct HastyClock final : Clock {
  std::atomic<std::int64_t> seconds = 0;
  Time now() override { return system_clock().now(); }
  Duration steady() override { return std::chrono::seconds(seconds += 25); }
};

// One run of the loop, in a process of its own: it has signals, a channel and an exit status.
struct Run {
  Pipe in, log, errors, out, channel;
  pid_t child = -1;

  explicit Run(std::function<void(Fake&, SinkOptions&)> const& prepare, bool receipts = false, bool hasty = false) {
    child = ::fork();
    REQUIRE(child >= 0);
    if (child != 0) {
      in.close(0), log.close(1), errors.close(1), out.close(1), channel.close(1);
      return;
    }
    ::dup2(errors.fd[1], 2);
    in.close(1), channel.close(0);
    set_tool_name("fake");
    install_signals();
    HastyClock hasty_clock;
    Clock& clock = hasty ? static_cast<Clock&>(hasty_clock) : system_clock();
    Io io{in.fd[0], Writer{out.fd[1], "standard output"}, {}, clock, real_disk()};
    if (receipts) {
      struct stat info {};
      (void)::fstat(channel.fd[1], &info);
      ::setenv("RECEIPTS_FD", fmt::format("{}:{}:{}:k7", channel.fd[1], info.st_dev, info.st_ino).c_str(), 1);
      auto opened = Receipts::open();
      if (!opened) ::_exit(99);
      io.receipts = *opened;
    }
    Fake sink;
    sink.log = log.fd[1];
    sink.answer = [](auto, Outcomes& outcomes, int) { return outcomes.all_stored(), Status{}; };
    SinkOptions options;
    prepare(sink, options);
    Exit const exit = run_sink(io, sink, options);
    (void)io.out.close();
    ::_exit(static_cast<int>(exit));
  }
  ~Run() {
    if (child > 0) ::kill(child, SIGKILL), ::waitpid(child, nullptr, 0);
  }

  void feed(std::string const& text) const { REQUIRE(write_all(in.fd[1], text, "input").ok()); }
  int end() {
    in.close(1);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    child = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::vector<std::string> deliveries() {
    std::vector<std::string> lines;
    std::string const text = log.drain();
    for (std::size_t begin = 0; begin < text.size();) {
      std::size_t const newline = text.find('\n', begin);
      lines.push_back(text.substr(begin, newline - begin));
      begin = newline + 1;
    }
    return lines;
  }
  // What was said of which positions, without the names of who says it.
  std::string receipts() {
    std::string said, text = channel.drain();
    for (std::size_t begin = 0; begin < text.size();) {
      std::string const line = text.substr(begin, text.find('\n', begin) - begin);
      begin += line.size() + 1;
      auto value = [&](std::string const& key) {
        std::size_t const at = line.find("\"" + key + "\":\"");
        if (at == std::string::npos) return std::string{};
        std::size_t const from = at + key.size() + 4;
        return line.substr(from, line.find('"', from) - from);
      };
      if (line.starts_with("{\"sink\"")) said += "sink;";
      if (line.starts_with("{\"waiting\"")) said += "waiting " + value("waiting") + ";";
      if (line.starts_with("{\"delivery\"")) {
        std::string const reason = value("reason");
        said += value("status") + " " + value("delivery").substr(3) + (reason.empty() ? "" : " " + reason) + ";";
      }
    }
    return said;
  }
};

std::string bare(int from, int to) {
  std::string text;
  for (int i = from; i <= to; ++i) text += fmt::format("{{\"n\":{}}}\n", i);
  return text;
}
std::string delivered(std::string const& positions, int n) {
  return fmt::format("{{\"delivery\":\"k7:{}\",\"n\":{}}}\n", positions, n);
}

int number(SinkRecord const& record) { return std::stoi(std::string(record.record.attribute("n").raw)); }
bool has(std::span<SinkRecord const> batch, int n) {
  return std::any_of(batch.begin(), batch.end(), [&](SinkRecord const& record) { return number(record) == n; });
}

}  // namespace

TEST_CASE("all records of a plain pipe are delivered in order, in batches of the size asked for") {
  Run run([](Fake&, SinkOptions& options) { options.batch_records = 3, options.linger = std::chrono::hours(1); });
  run.feed(bare(1, 7));
  CHECK(run.end() == 0);
  std::string all;
  for (std::string const& batch : run.deliveries()) {
    CHECK(std::count(batch.begin(), batch.end(), ' ') <= 2);
    all += batch + " ";
  }
  CHECK(all == "1 2 3 4 5 6 7 ");
  CHECK(run.errors.drain().empty());
}

TEST_CASE("one bad record of a thousand costs about twice log2(n) deliveries and is the only one rejected") {
  Run run([](Fake& sink, SinkOptions& options) {
    options.linger = std::chrono::hours(1);
    options.batch_records = 1000;
    sink.answer = [](std::span<SinkRecord const> batch, Outcomes& outcomes, int) {
      if (has(batch, 700)) return Status::rejected("seven hundred is bad");
      return outcomes.all_stored(), Status{};
    };
  });
  run.feed(bare(1, 1000));
  CHECK(run.end() == 1);
  auto const deliveries = run.deliveries();
  CHECK(deliveries.size() <= 1 + 2 * 10);
  CHECK(std::count(deliveries.begin(), deliveries.end(), "700") == 1);
  CHECK(run.errors.drain() == "fake: line 700: seven hundred is bad\n");
}

TEST_CASE("bisection keeps the order of the records that are stored") {
  Run run(
      [](Fake& sink, SinkOptions& options) {
        options.batch_records = 8, options.linger = std::chrono::hours(1);
        sink.answer = [log = sink.log](std::span<SinkRecord const> batch, Outcomes& outcomes, int) {
          if (has(batch, 3) || has(batch, 6)) return Status::rejected("bad");
          for (SinkRecord const& record : batch)
            (void)write_all(log, fmt::format("stored {}\n", number(record)), "log");
          return outcomes.all_stored(), Status{};
        };
      },
      true);
  for (int i = 1; i <= 8; ++i) run.feed(delivered(std::to_string(i), i));
  CHECK(run.end() == 0);
  std::string stored;
  for (std::string const& line : run.deliveries()) {
    if (line.starts_with("stored ")) stored += line.substr(7);
  }
  CHECK(stored == "124578");
  std::string const receipts = run.receipts();
  CHECK(receipts.find("rejected 3 bad;") != std::string::npos);
  CHECK(receipts.find("rejected 6 bad;") != std::string::npos);
  CHECK(receipts.ends_with("last 8;"));
}

TEST_CASE("a temporary failure delivers the records without an outcome again, and only them") {
  Run run([](Fake& sink, SinkOptions& options) {
    options.batch_records = 4, options.linger = std::chrono::hours(1);
    sink.answer = [](std::span<SinkRecord const>, Outcomes& outcomes, int call) {
      if (call == 0) return outcomes.stored(0), outcomes.stored(2), Status::temporary("503");
      return outcomes.all_stored(), Status{};
    };
  });
  run.feed(bare(1, 4));
  CHECK(run.end() == 0);
  CHECK(run.deliveries() == std::vector<std::string>{"1 2 3 4", "2 4"});
  CHECK(run.errors.drain() == "fake: waiting: 503\n");
}

TEST_CASE("the operator's mistake before the first accepted record ends with 2, and nothing is rejected") {
  Run run([](Fake& sink,
             SinkOptions&) { sink.answer = [](auto, Outcomes&, int) { return Status::usage("no such table"); }; },
          true);
  run.feed(delivered("1", 1));
  CHECK(run.end() == 2);
  CHECK(run.receipts() == "sink;");
  CHECK(run.errors.drain() == "fake: no such table\n");
}

TEST_CASE("after the first accepted record the operator's mistake is waited for") {
  Run run(
      [](Fake& sink, SinkOptions& options) {
        options.batch_records = 1;
        sink.answer = [](auto, Outcomes& outcomes, int call) {
          if (call == 1) return Status::usage("permission denied");
          return outcomes.all_stored(), Status{};
        };
      },
      true);
  run.feed(delivered("1", 1) + delivered("2", 2));
  CHECK(run.end() == 0);
  CHECK(run.deliveries() == std::vector<std::string>{"1", "2", "2"});
  std::string const receipts = run.receipts();
  CHECK(receipts.find("waiting permission denied;") != std::string::npos);
  CHECK(receipts.find("held 2;") != std::string::npos);
  CHECK(receipts.find("rejected") == std::string::npos);
}

TEST_CASE("a connection that fails for a while is tried again, one that is the operator's fault ends with 2") {
  Run waits([](Fake& sink, SinkOptions&) {
    sink.connecting = [](int call) { return call < 2 ? Status::temporary("refused") : Status{}; };
  });
  waits.feed(bare(1, 1));
  CHECK(waits.end() == 0);
  Run wrong([](Fake& sink, SinkOptions&) { sink.connecting = [](int) { return Status::usage("no such host"); }; });
  CHECK(wrong.end() == 2);
}

TEST_CASE("--give-up ends with 75 when the destination goes on failing, and rejects nothing") {
  Run run(
      [](Fake& sink, SinkOptions& options) {
        options.give_up_option = std::chrono::milliseconds(1);
        sink.answer = [](auto, Outcomes&, int) { return Status::temporary("disk full"); };
      },
      true);
  run.feed(delivered("1", 1));
  CHECK(run.end() == 75);
  CHECK(run.receipts() == "sink;waiting disk full;held 1;");
}

TEST_CASE("however long one wait is, the source hears every 30 s that the sink is alive") {
  Run run(
      [](Fake& sink, SinkOptions&) {
        sink.answer = [](auto, Outcomes& outcomes, int call) {
          if (call > 0) return outcomes.all_stored(), Status{};
          return outcomes.retry_after(std::chrono::seconds(500)), Status::temporary("503");
        };
      },
      true, true);
  run.feed(delivered("1", 1));
  CHECK(run.end() == 0);
  std::string const receipts = run.receipts();
  std::size_t told = 0;
  for (std::size_t at = 0; (at = receipts.find("waiting 503;", at)) != std::string::npos; ++at) ++told;
  CHECK(told >= 5);
  CHECK(told <= 1 + 500 / 30);
}

TEST_CASE("what the destination asks for is waited at least, and --give-up ends also such a wait") {
  Run run(
      [](Fake& sink, SinkOptions& options) {
        options.give_up_option = std::chrono::minutes(2);
        sink.answer = [](auto, Outcomes& outcomes, int) {
          return outcomes.retry_after(std::chrono::hours(24)), Status::temporary("429");
        };
      },
      false, true);
  run.feed(bare(1, 1));
  CHECK(run.end() == 75);
  CHECK(run.deliveries() == std::vector<std::string>{"1"});
  CHECK(run.errors.drain() == "fake: waiting: 429\nfake: gave up: 429\n");
}

TEST_CASE("a plain pipe gives up after ten minutes, a sink below a source never does") {
  auto const failing_for = [](int calls) {
    return [calls](Fake& sink, SinkOptions&) {
      sink.answer = [calls](auto, Outcomes& outcomes, int call) {
        if (call < calls) return outcomes.retry_after(std::chrono::seconds(100)), Status::temporary("down");
        return outcomes.all_stored(), Status{};
      };
    };
  };
  Run plain(failing_for(9), false, true);
  plain.feed(bare(1, 1));
  CHECK(plain.end() == 75);
  CHECK(plain.deliveries().size() > 3);
  Run below(failing_for(9), true, true);
  below.feed(delivered("1", 1));
  CHECK(below.end() == 0);
  CHECK(below.deliveries().size() == 10);
}

TEST_CASE("a batch that is too much at once is split until its parts fit, and nothing is rejected") {
  Run run([](Fake& sink, SinkOptions& options) {
    options.batch_records = 10, options.linger = std::chrono::hours(1);
    sink.answer = [](std::span<SinkRecord const> batch, Outcomes& outcomes, int) {
      if (batch.size() > 3) return Status::rejected("413 too large");
      return outcomes.all_stored(), Status{};
    };
  });
  run.feed(bare(1, 10));
  CHECK(run.end() == 0);
  std::string all;
  for (std::string const& batch : run.deliveries()) {
    if (std::count(batch.begin(), batch.end(), ' ') < 3) all += batch + " ";
  }
  CHECK(all == "1 2 3 4 5 6 7 8 9 10 ");
  CHECK(run.errors.drain().empty());
}

TEST_CASE("a sink that keeps less of a record gets that, and dead letters hold the record") {
  std::string const letters =
      (std::filesystem::temp_directory_path() / fmt::format("sink-letters.{}", ::getpid())).string();
  {
    auto file = real_disk().open(letters, O_WRONLY | O_CREAT | O_TRUNC);
    REQUIRE(file.ok());
    REQUIRE(write_all(file->get(), "{\"there\":1}\n", letters).ok());
  }
  Run run([&](Fake& sink, SinkOptions& options) {
    sink.keeps_n = true, options.dead_letters = letters, options.max_record = 60;
    sink.answer = [](std::span<SinkRecord const> batch, Outcomes& outcomes, int) {
      for (std::size_t i = 0; i < batch.size(); ++i) {
        if (batch[i].kept == "2") outcomes.rejected(i, "two is bad");
      }
      return outcomes.all_stored(), Status{};
    };
  });
  run.feed("{\"n\":1,\"x\":\"a\"}\n{\"n\":2,\"x\":\"b\"}\n{\"n\":13,\"x\":\"c\"}\n{\"n\":3,\"x\":\"" +
           std::string(60, 'd') + "\"}\n{\"n\":4}\n");
  CHECK(run.end() == 1);
  std::string all;
  for (std::string const& batch : run.deliveries()) all += batch + " ";
  CHECK(all == "1 2 4 ");
  auto const text = read_file(letters);
  REQUIRE(text.ok());
  (void)::unlink(letters.c_str());
  CHECK(std::count(text->begin(), text->end(), '\n') == 4);
  CHECK(text->starts_with("{\"there\":1}\n"));
  CHECK(text->find(R"("reason":"two is bad","event":{"n":2,"x":"b"}})") != std::string::npos);
  CHECK(text->find(R"("reason":"thirteen","event":{"n":13,"x":"c"}})") != std::string::npos);
  CHECK(text->find("--max-record 60") != std::string::npos);
}

TEST_CASE("what a sink keeps is told by its positions as a whole record is") {
  Run run(
      [](Fake& sink, SinkOptions& options) {
        sink.keeps_n = true, options.linger = std::chrono::hours(1), options.batch_records = 4;
      },
      true);
  run.feed(delivered("1", 1) + "{\"n\":2,\"delivery\":\"k7:2\"}\n" + delivered("3", 13) + delivered("4", 4) +
           delivered("5", 5));
  CHECK(run.end() == 0);
  CHECK(run.deliveries() == std::vector<std::string>{"1 2 4 5"});
  CHECK(run.receipts() == "sink;rejected 3 thirteen;stored 1-2,4;last 5;");
}

TEST_CASE("a defect ends with 70") {
  Run run(
      [](Fake& sink, SinkOptions&) { sink.answer = [](auto, Outcomes&, int) { return Status::defect("damaged"); }; });
  run.feed(bare(1, 2));
  CHECK(run.end() == 70);
}

TEST_CASE("what waits is delivered though the input stays open") {
  Run run([](Fake&, SinkOptions& options) { options.linger = std::chrono::milliseconds(20); });
  run.feed(bare(1, 1));
  CHECK(run.log.line() == "1");  // hangs where it is not
  run.feed(bare(2, 2));
  CHECK(run.log.line() == "2");
  CHECK(run.end() == 0);
}

TEST_CASE("an unnumbered position is stored only when a record of another one was delivered, the newest at the end") {
  Run run(
      [](Fake&, SinkOptions& options) { options.batch_records = 1, options.linger = std::chrono::milliseconds(20); },
      true);
  run.feed(delivered("5", 1) + delivered("5", 2));
  CHECK(run.log.line() == "1");
  CHECK(run.log.line() == "2");
  run.feed(delivered("6/1", 3) + delivered("6/2.", 4) + delivered("7", 5));
  CHECK(run.end() == 0);
  CHECK(run.receipts() == "sink;stored 5,6/1;stored 6/2.;last 7;");
}

TEST_CASE("of an event that a foreign filter has split nothing is stored before its last record is") {
  Run run(
      [](Fake& sink, SinkOptions& options) {
        options.batch_records = 3, options.linger = std::chrono::hours(1);
        sink.answer = [](std::span<SinkRecord const>, Outcomes& outcomes, int call) {
          if (call == 0) return outcomes.stored(0), outcomes.stored(2), Status::temporary("slow");
          return outcomes.all_stored(), Status{};
        };
      },
      true);
  run.feed(delivered("5", 1) + delivered("5", 2) + delivered("6", 3));
  CHECK(run.end() == 0);
  CHECK(run.receipts() == "sink;waiting slow;held 5;stored 5;last 6;");
}

TEST_CASE("an event of which one record is rejected is not stored") {
  Run run(
      [](Fake& sink, SinkOptions& options) {
        options.batch_records = 3, options.linger = std::chrono::hours(1);
        sink.answer = [](std::span<SinkRecord const>, Outcomes& outcomes, int) {
          return outcomes.rejected(1, "bad"), outcomes.all_stored(), Status{};
        };
      },
      true);
  run.feed(delivered("5", 1) + delivered("5", 2) + delivered("6", 3));
  CHECK(run.end() == 0);
  CHECK(run.receipts() == "sink;rejected 5 bad;last 6;");
}

TEST_CASE("held records are told held, and stored when the sink releases them") {
  Run run(
      [](Fake& sink, SinkOptions&) {
        sink.holds = true;
        sink.answer = [&sink](std::span<SinkRecord const> batch, Outcomes& outcomes, int) {
          for (std::size_t i = 0; i < batch.size(); ++i) {
            std::vector<Position> positions;
            (void)parse_positions(batch[i].delivery, positions);
            sink.held.add(positions);
            outcomes.held(i);
          }
          return Status{};
        };
      },
      true);
  run.feed(delivered("1", 1) + delivered("2", 2));
  CHECK(run.end() == 0);
  std::string const receipts = run.receipts();
  CHECK(receipts.find("held 1") != std::string::npos);
  CHECK(receipts.ends_with("stored 1-2;"));
}

TEST_CASE("under a source half a line at the end is neither delivered nor rejected") {
  Run run([](Fake&, SinkOptions&) {}, true);
  run.feed(delivered("1", 1) + "{\"delivery\":\"k7:2\",\"n\":2}");
  CHECK(run.end() == 70);
  std::string const receipts = run.receipts();
  CHECK(receipts.find("2") == std::string::npos);
  CHECK(receipts.find("last") == std::string::npos);
}

TEST_CASE("in a plain pipe the last line needs no newline") {
  Run run([](Fake&, SinkOptions&) {});
  run.feed("{\"n\":1}");
  CHECK(run.end() == 0);
  CHECK(run.deliveries() == std::vector<std::string>{"1"});
}

TEST_CASE("a record without delivery under a source ends with 2") {
  Run run([](Fake&, SinkOptions&) {}, true);
  run.feed("{\"n\":1}\n");
  CHECK(run.end() == 2);
  CHECK(run.errors.drain().find("drops .delivery") != std::string::npos);
}

TEST_CASE("a delivery that is not the first member is found and taken out") {
  Run run(
      [](Fake& sink, SinkOptions&) {
        sink.answer = [&sink](std::span<SinkRecord const> batch, Outcomes& outcomes, int) {
          sink.say(std::string(batch[0].record.line()));
          return outcomes.all_stored(), Status{};
        };
      },
      true);
  run.feed("{\"n\":1,\"delivery\":\"k7:9\",\"m\":2}\n");
  CHECK(run.end() == 0);
  CHECK(run.deliveries() == std::vector<std::string>{"1", "{\"n\":1,\"m\":2}"});
  CHECK(run.receipts() == "sink;last 9;");
}

TEST_CASE("bad lines are rejected with their position, and the others stored") {
  Run run([](Fake&, SinkOptions& options) { options.max_record = 100; }, true);
  run.feed(delivered("1", 1) + "{\"delivery\":\"k7:2\",\"n\":}\n{\"delivery\":\"k7:3\",\"n\":\"" +
           std::string(200, 'x') + "\"}\n" + delivered("4", 4));
  CHECK(run.end() == 0);
  std::string const receipts = run.receipts();
  CHECK(receipts.find("rejected 2 not JSON") != std::string::npos);
  CHECK(receipts.find("rejected 3 a record of") != std::string::npos);
  CHECK(receipts.ends_with("last 4;"));
}

TEST_CASE("SIGTERM drains what was read, and says nothing of the newest position") {
  Run run([](Fake&, SinkOptions& options) { options.linger = std::chrono::milliseconds(20); }, true);
  run.feed(delivered("1", 1) + delivered("2", 2));
  CHECK(run.log.line() == "1 2");
  REQUIRE(::kill(run.child, SIGTERM) == 0);
  int status = 0;
  REQUIRE(::waitpid(run.child, &status, 0) == run.child);
  run.child = -1;
  CHECK(WEXITSTATUS(status) == 143);
  CHECK(run.receipts() == "sink;stored 1;");
}

TEST_CASE("a source that is gone ends the sink though its destination still fails") {
  Run run(
      [](Fake& sink, SinkOptions&) { sink.answer = [](auto, Outcomes&, int) { return Status::temporary("down"); }; },
      true);
  run.channel.line();  // it has begun
  run.feed(delivered("1", 1));
  CHECK(run.log.line() == "1");
  run.channel.close(0);
  CHECK(run.end() == 75);
}

TEST_CASE("--dry-run shows each record and delivers none") {
  Run run([](Fake&, SinkOptions& options) { options.dry_run = true; });
  run.feed(bare(1, 2));
  CHECK(run.end() == 0);
  CHECK(run.out.drain() == "would store 1\nwould store 2\n");
  CHECK(run.deliveries().empty());
}

#include "common/filter_loop.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "common/fd_io.h"

using namespace inflight;

namespace {

// Makes n records of {"n":n}, rejects {"bad":…} after its first, ends the tool at {"end":…}, and keeps others.
class Pieces final : public Filter {
 public:
  Status apply(Record const& in, Output& out) override {
    if (in.attribute("bad")) return out.record(in, {}), Status::rejected("it is bad");
    if (in.attribute("end")) return Status::temporary("later");
    Value const count = in.attribute("n");
    if (!count) return out.record(in, {}), Status{};
    for (int i = 0; i < std::stoi(std::string(count.raw)); ++i) out.begin() += fmt::format("{{\"i\":{}}}", i);
    return {};
  }
};

struct Outcome {
  Exit exit;
  std::string out, receipts, letters;
};

Outcome filter(std::string_view input, std::uint64_t jobs, bool source, std::uint64_t max_record = 1 << 20) {
  int in[2], out[2], channel[2];
  REQUIRE((::pipe(in) == 0 && ::pipe(out) == 0 && ::pipe(channel) == 0));
  struct stat info {};
  REQUIRE(::fstat(channel[1], &info) == 0);
  if (source) ::setenv("RECEIPTS_FD", fmt::format("{}:{}:{}:k7", channel[1], info.st_dev, info.st_ino).c_str(), 1);
  char folder[] = "/tmp/inflight-filter-XXXXXX";
  REQUIRE(::mkdtemp(folder) != nullptr);
  Outcome outcome{Exit::ok, "", "", ""};
  std::thread feeder([&] {
    CHECK(write_all(in[1], input, "pipe").ok());
    ::close(in[1]);
  });
  std::thread drain([&] { outcome.out = *read_all(out[0], "pipe"); });
  std::thread hear([&] { outcome.receipts = *read_all(channel[0], "pipe"); });
  {
    FilterOptions options;
    options.jobs = jobs;
    options.max_record = max_record;
    options.dead_letters = std::string(folder) + "/letters";
    Io io{in[0], Writer(out[1], "pipe"), *Receipts::open()};
    outcome.exit = run_filter(
        io, [] { return std::make_unique<Pieces>(); }, options);
    CHECK(io.out.close().ok());
    if (exists(options.dead_letters)) outcome.letters = *read_file(options.dead_letters);
    ::unlink(options.dead_letters.c_str());
  }
  ::rmdir(folder);
  ::close(channel[1]);
  for (std::thread* thread : {&feeder, &drain, &hear}) thread->join();
  for (int const fd : {in[0], out[0], channel[0]}) ::close(fd);
  ::unsetenv("RECEIPTS_FD");
  return outcome;
}

std::string taken(std::string line) {
  ::setenv("RECEIPTS_FD", "0", 1);
  int fds[2];
  REQUIRE(::pipe(fds) == 0);
  struct stat info {};
  REQUIRE(::fstat(fds[1], &info) == 0);
  ::setenv("RECEIPTS_FD", fmt::format("{}:{}:{}:k7", fds[1], info.st_dev, info.st_ino).c_str(), 1);
  auto const receipts = Receipts::open();
  ::unsetenv("RECEIPTS_FD");
  ::close(fds[0]);
  ::close(fds[1]);
  char* begin = line.data();
  std::size_t size = line.size();
  std::string_view delivery;
  std::string const before = line;
  if (!take_delivery(*receipts, begin, size, delivery)) {
    CHECK(line == before);
    return "none";
  }
  return fmt::format("{} {}", delivery, std::string_view(begin, size));
}

}  // namespace

TEST_CASE("The delivery is taken off the front where our tools put it") {
  CHECK(taken(R"({"delivery":"k7:17","a":1})") == R"(17 {"a":1})");
  CHECK(taken(R"({"delivery":"k7:5,9/2.", "a":1})") == R"(5,9/2. { "a":1})");
  CHECK(taken(R"({"delivery":"k7:17"})") == "17 {}");
  for (char const* line : {"", "{", R"({"delivery":")", R"({"delivery":"k7:17")", R"({"delivery":"k7:17" ,"a":1})",
                           R"({"delivery":"k8:17","a":1})", R"({"delivery":"k7","a":1})", R"({"delivery":"k7:","a":1})",
                           R"({"a":1,"delivery":"k7:17"})", R"({"delivery":17})"}) {
    CHECK_MESSAGE(taken(line) == "none", line);
  }
}

TEST_CASE("In a plain pipe, records pass in order and the rejected go to the dead letters") {
  for (std::uint64_t const jobs : {1UL, 3UL}) {
    auto const done = filter("{\"n\":2}\n{\"bad\":1}\n\nnonsense\n{\"n\":0}\n{\"x\":1.50}\n{\"half\":1}", jobs, false);
    CHECK(done.exit == Exit::rejected);
    CHECK(done.out == "{\"i\":0}\n{\"i\":1}\n{\"x\":1.50}\n{\"half\":1}\n");
    CHECK(std::count(done.letters.begin(), done.letters.end(), '\n') == 3);
    CHECK(done.letters.find("it is bad") != std::string::npos);
  }
}

TEST_CASE("Under a source, pieces are numbered, drops and rejections told") {
  for (std::uint64_t const jobs : {1UL, 2UL}) {
    auto const done = filter(R"({"delivery":"k7:17","n":3})"
                             "\n"
                             R"({"delivery":"k7:18","n":1})"
                             "\n"
                             R"({"delivery":"k7:19/2.","n":2})"
                             "\n"
                             R"({"delivery":"k7:20-21","n":2})"
                             "\n"
                             R"({"delivery":"k7:22","n":0})"
                             "\n"
                             R"({"delivery":"k7:23","bad":0})"
                             "\n"
                             R"({"a":1, "delivery":"k7:24"})"
                             "\n"
                             R"({"delivery":"k7:25" })"
                             "\n"
                             R"({"delivery":"k7:26",x})"
                             "\n",
                             jobs, true);
    CHECK(done.exit == Exit::ok);
    CHECK(done.out == R"({"delivery":"k7:17/1","i":0})"
                      "\n"
                      R"({"delivery":"k7:17/2","i":1})"
                      "\n"
                      R"({"delivery":"k7:17/3.","i":2})"
                      "\n"
                      R"({"delivery":"k7:18","i":0})"
                      "\n"
                      R"({"delivery":"k7:19/2./1","i":0})"
                      "\n"
                      R"({"delivery":"k7:19/2./2.","i":1})"
                      "\n"
                      R"({"delivery":"k7:20/1,21/1","i":0})"
                      "\n"
                      R"({"delivery":"k7:20/2.,21/2.","i":1})"
                      "\n"
                      R"({"delivery":"k7:24","a":1})"
                      "\n"
                      R"({"delivery":"k7:25"})"
                      "\n");
    CHECK(done.receipts.find(R"({"delivery":"k7:22","status":"dropped")") != std::string::npos);
    CHECK(done.receipts.find(R"({"delivery":"k7:23","status":"rejected")") != std::string::npos);
    CHECK(done.receipts.find(R"({"delivery":"k7:26","status":"rejected")") != std::string::npos);
    CHECK(std::count(done.receipts.begin(), done.receipts.end(), '\n') == 3);
    CHECK(done.letters.empty());
  }
}

TEST_CASE("Half a line, a missing delivery and a failing filter end the tool, after what came before") {
  for (std::uint64_t const jobs : {1UL, 2UL}) {
    auto const half = filter("{\"delivery\":\"k7:1\",\"a\":1}\n{\"delivery\":\"k7:2\",\"a\":1}", jobs, true);
    CHECK(half.exit == Exit::defect);
    CHECK(half.out == "{\"delivery\":\"k7:1\",\"a\":1}\n");
    CHECK(half.receipts.empty());
    auto const missing =
        filter("{\"delivery\":\"k7:1\",\"a\":1}\n{\"a\":1}\n{\"delivery\":\"k7:3\",\"a\":1}\n", jobs, true);
    CHECK(missing.exit == Exit::usage);
    CHECK(missing.out == "{\"delivery\":\"k7:1\",\"a\":1}\n");
    auto const wrong = filter("{\"delivery\":\"k8:1\",\"a\":1}\n", jobs, true);
    CHECK(wrong.exit == Exit::usage);
    if (jobs == 1) CHECK(filter("{\"a\":1}\n{\"end\":1}\n{\"a\":2}\n", jobs, false).exit == Exit::temporary);
  }
}

TEST_CASE("A record that is too long, or becomes so, is rejected") {
  auto const long_in =
      filter("{\"delivery\":\"k7:1\",\"a\":\"" + std::string(9000, 'x') + "\"}\n{\"delivery\":\"k7:2\",\"b\":1}\n", 1,
             true, 1000);
  CHECK(long_in.out == "{\"delivery\":\"k7:2\",\"b\":1}\n");
  CHECK(long_in.receipts.find(R"({"delivery":"k7:1","status":"rejected")") != std::string::npos);
}

TEST_CASE("A deletion passes untouched") {
  std::string_view const line = R"({"specversion":"1.0","type":"x.deleted","bad":1,"n":3})";
  CHECK(filter(std::string(line) + "\n", 1, false).out == std::string(line) + "\n");
}

TEST_CASE("Many records keep their order on several threads") {
  std::string input, expected;
  for (int i = 0; i < 40'000; ++i) {
    if (i % 10 == 3) {
      input += fmt::format("{{\"bad\":{}}}\n", i);
    } else {
      input += fmt::format("{{\"x\":{}}}\n", i);
      expected += fmt::format("{{\"x\":{}}}\n", i);
    }
  }
  auto const done = filter(input, 3, false);
  CHECK(done.out == expected);
  CHECK(std::count(done.letters.begin(), done.letters.end(), '\n') == 4000);
}

#include "common/reader.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "common/fd_io.h"
#include "common/writer.h"

using namespace inflight;

namespace {

struct Pipe {
  Pipe() {
    int fds[2] = {-1, -1};
    REQUIRE(::pipe(fds) == 0);
    out.reset(fds[0]);
    in.reset(fds[1]);
  }
  Fd in, out;
};

// The lines of a text that comes in pieces of `step` bytes.
std::vector<std::string> lines_of(std::string_view text, std::size_t step, std::uint64_t max_record) {
  Pipe pipe;
  std::thread feeder([&] {
    for (; !text.empty(); text.remove_prefix(std::min(step, text.size())))
      CHECK(write_all(pipe.in.get(), text.substr(0, step), "pipe").ok());
    pipe.in.reset();
  });
  Reader reader(pipe.out.get(), "pipe", max_record);
  std::vector<std::string> lines;
  Line line;
  for (;;) {
    auto const got = reader.next(line);
    REQUIRE(got.ok());
    if (*got == Reader::Wait::end) break;
    std::string const shown =
        line.text.size() <= 20 ? std::string(line.text) : fmt::format("{}*{}", line.text.size(), line.text[0]);
    lines.push_back(fmt::format("{}:{}{}{}", line.number, shown, line.too_long ? fmt::format("!{}", line.size) : "",
                                line.terminated ? "" : "~"));
  }
  feeder.join();
  return lines;
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("Lines come whole, however the bytes arrive") {
  for (std::size_t const step : {1UL, 2UL, 3UL, 7UL, 4096UL}) {
    CHECK(lines_of("", step, 100).empty());
    CHECK(lines_of("\n", step, 100) == Lines{"1:"});
    CHECK(lines_of("a\n\nbc\n", step, 100) == Lines{"1:a", "2:", "3:bc"});
    CHECK(lines_of("a\nb", step, 100) == Lines{"1:a", "2:b~"});
    CHECK(lines_of("a\r\nb\r", step, 100) == Lines{"1:a\r", "2:b\r~"});
    CHECK(lines_of(std::string("a\0b\n", 4), step, 100) == Lines{"1:" + std::string("a\0b", 3)});
  }
}

TEST_CASE("A line over the limit shows its beginning and its size, and those around it are whole") {
  for (std::size_t const step : {std::size_t{1000}, std::size_t{70'000}, std::size_t{1'000'000}}) {
    std::string const text = "a\n" + std::string(1'000'000, 'x') + "\nb\n" + std::string(50'001, 'y') + "\n" +
                             std::string(50'000, 'z') + "\nc";
    CHECK(lines_of(text, step, 50'000) ==
          Lines{"1:a", "2:4096*x!1000000", "3:b", "4:4096*y!50001", "5:50000*z", "6:c~"});
    CHECK(lines_of(std::string(900'000, 'x'), step, 50'000) == Lines{"1:4096*x!900000~"});
  }
}

TEST_CASE("A line longer than the buffer is whole where the limit allows it") {
  CHECK(lines_of(std::string(3'000'000, 'x') + "\nb\n", 65'536, 3'000'000) == Lines{"1:3000000*x", "2:b"});
}

TEST_CASE("Waiting calls the idle function first, and ends at its time") {
  Pipe pipe;
  Reader reader(pipe.out.get(), "pipe");
  int idle = 0;
  reader.on_idle([&] { return ++idle, Status{}; });
  REQUIRE(write_all(pipe.in.get(), "a\nb\nhalf", "pipe").ok());
  Line line;
  CHECK(*reader.next(line) == Reader::Wait::line);
  CHECK(reader.ready());
  CHECK(*reader.next(line) == Reader::Wait::line);
  CHECK(idle == 0);
  CHECK_FALSE(reader.ready());
  CHECK(*reader.next(line, Duration{1}) == Reader::Wait::timeout);
  CHECK(idle == 1);
  reader.on_idle([] { return Status::defect("full"); });
  CHECK(reader.next(line).status().code() == Code::defect);
  REQUIRE(write_all(pipe.in.get(), "\n", "pipe").ok());
  CHECK(*reader.next(line) == Reader::Wait::line);
  CHECK(line.text == "half");
  CHECK(reader.bytes() == 9);
}

TEST_CASE("What cannot be read is told") {
  Reader reader(9999, "gone");
  Line line;
  CHECK_FALSE(reader.next(line).ok());
}

TEST_CASE("A writer gives whole lines when it is flushed, and tells a full disk and a closed pipe") {
  Pipe pipe;
  Writer writer(pipe.in.release(), "pipe");
  CHECK(writer.line("a").ok());
  CHECK(writer.lines("b\nc\n").ok());
  CHECK(writer.flush().ok());
  CHECK(writer.line("d").ok());
  CHECK(writer.close().ok());
  CHECK(*read_all(pipe.out.get(), "pipe") == "a\nb\nc\nd\n");

  auto full = real_disk().open("/dev/full", O_WRONLY);
  REQUIRE(full.ok());
  Writer to_full(full->release(), "/dev/full");
  CHECK(to_full.line("a").ok());
  CHECK(to_full.close().code() == Code::defect);

  ::signal(SIGPIPE, SIG_IGN);
  Pipe closed;
  closed.out.reset();
  Writer to_closed(closed.in.release(), "pipe");
  CHECK(to_closed.line("a").ok());
  CHECK(to_closed.flush().code() == Code::closed);
}

#include "common/receipts.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "common/fd_io.h"

using namespace inflight;

namespace {

std::string parsed(std::string_view text) {
  std::vector<Position> positions;
  if (!parse_positions(text, positions)) return "none";
  std::string out;
  for (Position const& p : positions) out += fmt::format("{}-{}{} ", p.first, p.last, p.pieces);
  return out;
}

std::string joined(std::vector<std::string_view> const& lists) {
  PositionList list;
  std::vector<Position> positions;
  for (auto const text : lists) {
    positions.clear();
    REQUIRE(parse_positions(text, positions));
    list.add(positions);
  }
  auto const texts = list.texts(4096);
  return texts.empty() ? "" : texts[0];
}

// The channel as a source makes it.
struct Channel {
  Channel() {
    int fds[2] = {-1, -1};
    REQUIRE(::pipe(fds) == 0);
    read_end.reset(fds[0]);
    write_end.reset(fds[1]);
    ::fcntl(fds[0], F_SETFL, O_NONBLOCK);
    struct stat info {};
    REQUIRE(::fstat(fds[1], &info) == 0);
    value = fmt::format("{}:{}:{}:k7", fds[1], info.st_dev, info.st_ino);
    ::setenv("RECEIPTS_FD", value.c_str(), 1);
  }
  ~Channel() { ::unsetenv("RECEIPTS_FD"); }
  std::vector<nlohmann::json> lines() const {
    std::string text(1 << 16, '\0');
    auto const n = ::read(read_end.get(), text.data(), text.size());
    text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
    std::vector<nlohmann::json> result;
    for (std::size_t at = 0; at < text.size();) {
      std::size_t const end = text.find('\n', at);
      REQUIRE(end - at < PIPE_BUF);
      result.push_back(nlohmann::json::parse(text.substr(at, end - at)));
      at = end + 1;
    }
    return result;
  }
  Fd read_end, write_end;
  std::string value;
};

}  // namespace

TEST_CASE("Positions are numbers, ranges and pieces, in a list") {
  CHECK(parsed("17") == "17-17 ");
  CHECK(parsed("1200-1233,1235") == "1200-1233 1235-1235 ");
  CHECK(parsed("17/1") == "17-17/1 ");
  CHECK(parsed("17/3.,5/2./1") == "17-17/3. 5-5/2./1 ");
  CHECK(parsed("18446744073709551615") == "18446744073709551615-18446744073709551615 ");
  for (char const* text : {"", ",", "1,", ",1", "x", "1x", "-1", "2-1", "1-", "1/", "1/0", "1/x", "1..", "1-2/1",
                           "1/1.2", " 1", "1 ", "+1", "18446744073709551616"}) {
    CHECK_MESSAGE(parsed(text) == "none", text);
  }
}

TEST_CASE("Ranges join, and count what they hold") {
  Ranges ranges;
  for (auto const& [first, last] : {std::pair{10, 12}, {20, 20}, {13, 15}, {18, 19}, {1, 1}, {11, 14}}) {
    ranges.add(static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(last));
  }
  CHECK(ranges.text() == "1,10-15,18-20");
  CHECK(ranges.count() == 10);
  CHECK(ranges.contains(15));
  CHECK_FALSE(ranges.contains(16));
  CHECK_FALSE(ranges.contains(0));
  ranges.add(2, 17);
  CHECK(ranges.text() == "1-20");
  CHECK(ranges.count() == 20);
  ranges.remove_below(7);
  CHECK(ranges.text() == "7-20");
  CHECK(ranges.count() == 14);
  ranges.remove_below(21);
  CHECK(ranges.empty());
  CHECK(ranges.count() == 0);
  ranges.add(UINT64_MAX - 1, UINT64_MAX);
  ranges.add(UINT64_MAX, UINT64_MAX);
  CHECK(ranges.count() == 2);
  CHECK(ranges.contains(UINT64_MAX));
}

TEST_CASE("Ranges hold what a set of numbers holds, whatever is added and removed") {
  Ranges ranges;
  std::vector<bool> set(200, false);
  std::uint64_t random = 88172645463325252ULL;
  auto next = [&](std::uint64_t below) {
    return random ^= random << 13, random ^= random >> 7, random ^= random << 17, random % below;
  };
  for (int round = 0; round < 5000; ++round) {
    if (next(50) == 0) {
      std::uint64_t const below = next(200);
      ranges.remove_below(below);
      std::fill(set.begin(), set.begin() + static_cast<std::ptrdiff_t>(below), false);
    } else {
      std::uint64_t const first = next(190);
      std::uint64_t const last = first + next(10);
      ranges.add(first, last);
      std::fill(set.begin() + static_cast<std::ptrdiff_t>(first), set.begin() + static_cast<std::ptrdiff_t>(last) + 1,
                true);
    }
    std::uint64_t count = 0;
    bool same = true;
    for (std::uint64_t i = 0; i < 200; ++i) count += set[i] ? 1 : 0, same = same && ranges.contains(i) == set[i];
    std::uint64_t end = 0;
    for (auto const& [first, last] : ranges.map())
      same = same && (first == 0 || end == 0 || first > end + 1), end = last;
    REQUIRE((same && ranges.count() == count));
  }
}

TEST_CASE("A list joins whole positions, keeps pieces, and is cut into texts of a size") {
  CHECK(joined({"5", "3", "4", "9/1", "9/2."}) == "3-5,9/1,9/2.");
  PositionList list;
  CHECK(list.empty());
  for (std::uint64_t i = 0; i < 1000; ++i) {
    Position const position{3 * i, 3 * i, {}};
    list.add({&position, 1});
  }
  Ranges all;
  for (std::string const& text : list.texts(100)) {
    CHECK(text.size() <= 100);
    std::vector<Position> positions;
    REQUIRE(parse_positions(text, positions));
    for (Position const& p : positions) all.add(p.first, p.last);
  }
  CHECK(all.count() == 1000);
}

TEST_CASE("Without RECEIPTS_FD nothing is said and nothing is needed") {
  ::unsetenv("RECEIPTS_FD");
  auto receipts = Receipts::open();
  REQUIRE(receipts.ok());
  CHECK_FALSE(receipts->active());
  CHECK(receipts->announce("sink").ok());
  CHECK(receipts->exit(1).ok());
}

TEST_CASE("A channel that is not the one named is a usage error") {
  Channel const channel;
  for (std::string const& text :
       {std::string("x"), std::string("3"), std::string("3:1:2"), channel.value.substr(0, channel.value.size() - 2),
        "9999" + channel.value, channel.value.substr(0, channel.value.rfind(':')) + "9:k7", "-" + channel.value}) {
    ::setenv("RECEIPTS_FD", text.c_str(), 1);
    CHECK_MESSAGE(Receipts::open().status().code() == Code::usage, text);
  }
}

TEST_CASE("Receipts are lines of JSON that name the positions") {
  Channel channel;
  auto receipts = Receipts::open();
  REQUIRE(receipts.ok());
  CHECK(receipts->token() == "k7");
  std::vector<Position> positions;
  CHECK_FALSE(receipts->positions_of("\"k8:1\"", positions));
  CHECK_FALSE(receipts->positions_of("\"k7\"", positions));
  CHECK_FALSE(receipts->positions_of("\"k7:\"", positions));
  CHECK_FALSE(receipts->positions_of("17", positions));
  CHECK_FALSE(receipts->positions_of("", positions));
  REQUIRE(receipts->positions_of("\"k7:1-3,9/2.\"", positions));
  PositionList list;
  list.add(positions);
  CHECK(receipts->stored(list).ok());
  CHECK(receipts->rejected(list, "bad \"xml\"\n" + std::string(5000, '\x01')).ok());
  CHECK(receipts->stored({}).ok());
  CHECK(receipts->waiting("503").ok());
  CHECK(receipts->exit(75).ok());
  auto const lines = channel.lines();
  REQUIRE(lines.size() == 4);
  CHECK(lines[0]["delivery"] == "k7:1-3,9/2.");
  CHECK(lines[0]["status"] == "stored");
  CHECK(lines[1]["status"] == "rejected");
  CHECK(lines[1]["reason"].get<std::string>().starts_with("bad \"xml\"\n"));
  CHECK(lines[2]["waiting"] == "503");
  CHECK(lines[3]["exit"] == 75);
}

TEST_CASE("Many positions become several lines, each within PIPE_BUF") {
  Channel channel;
  auto receipts = Receipts::open();
  PositionList list;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    Position const position{1'000'000 + 2 * i, 1'000'000 + 2 * i, {}};
    list.add({&position, 1});
  }
  CHECK(receipts->stored(list).ok());
  Ranges all;
  auto const lines = channel.lines();
  CHECK(lines.size() > 1);
  for (auto const& line : lines) {
    std::vector<Position> positions;
    REQUIRE(receipts->positions_of(line["delivery"].dump(), positions));
    for (Position const& p : positions) all.add(p.first, p.last);
  }
  CHECK(all.count() == 3000);
}

TEST_CASE("A stage sees that the source is gone") {
  Channel channel;
  auto receipts = Receipts::open();
  CHECK_FALSE(receipts->abandoned());
  channel.read_end.reset();
  CHECK(receipts->abandoned());
}

#include "common/rtdb_split.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/rtdb.h"

namespace inflight {

namespace {

// By order; long ones share all but their end.
std::vector<std::string> keys() {
  std::vector<std::string> keys = {"-2147483648",
                                   "-1",
                                   "-01",
                                   "0",
                                   "7",
                                   "07",
                                   "007",
                                   "8",
                                   "2147483647",
                                   "02147483647",
                                   std::string(767, '0') + "7",
                                   " ",
                                   "  ",
                                   "%",
                                   "%20",
                                   "+",
                                   "-",
                                   "-L1",
                                   "-L10",
                                   "-2147483649",
                                   "-9z",
                                   "2147483648",
                                   "5a",
                                   "A",
                                   "A B",
                                   "a+b",
                                   "a%2Fb",
                                   "a",
                                   "aa",
                                   "~",
                                   "\u0080",
                                   "é",
                                   "é\U0001f600",
                                   "\U0001f600",
                                   "\U0010ffffx",
                                   "\ue000",
                                   "\uff5e",
                                   "\ufffd"};
  std::string const same(766, 'q');
  for (char const* end : {"", " ", "a", "aa", "ab", "~~", "é"}) keys.push_back(same + end);
  std::string wide;
  for (int i = 0; i < 256; ++i) wide += "漢";
  keys.push_back(wide);
  keys.push_back(wide.substr(0, 765));
  std::sort(keys.begin(), keys.end(), [](auto const& a, auto const& b) { return rtdb_sort_key(a) < rtdb_sort_key(b); });
  return keys;
}

bool less(std::string const& a, std::string const& b) { return rtdb_sort_key(a) < rtdb_sort_key(b); }

}  // namespace

TEST_CASE("what comes after a key is after it and not beyond the next one") {
  auto const all = keys();
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    CAPTURE(all[i]);
    std::string const after = rtdb_key_after(all[i]);
    CHECK(rtdb_key_fault(after) == "");
    CHECK(less(all[i], after));
    CHECK_FALSE(less(all[i + 1], after));
  }
}

TEST_CASE("the first key that is refused is found from any before it") {
  auto const all = keys();
  for (std::size_t first = 0; first < all.size(); ++first) {
    std::vector<std::string> froms = {"", all[first]};
    for (std::size_t i : {first - 1, first - 2, first / 2}) {
      if (i < first) froms.push_back(rtdb_key_after(all[i]));
    }
    for (std::string const& from : froms) {
      CAPTURE(all[first]);
      CAPTURE(from);
      int asked = 0;
      auto const found = rtdb_first_refused(from, [&](std::string const& end) -> Result<bool> {
        ++asked;
        CHECK(rtdb_key_fault(end) == "");
        return !less(end, all[first]);
      });
      REQUIRE(found.ok());
      CHECK(*found == all[first]);
    }
  }
}

TEST_CASE("a beginning that the keys share costs few questions") {
  std::string const shared(700, 'k');
  int asked = 0;
  auto const found = rtdb_first_refused(shared + "a ", [&](std::string const& end) -> Result<bool> {
    ++asked;
    return !less(end, shared + "bcd");
  });
  REQUIRE(found.ok());
  CHECK(*found == shared + "bcd");
  CHECK(asked < 60);
}

TEST_CASE("what a question fails with ends the search") {
  int asked = 0;
  auto const found = rtdb_first_refused("abc", [&](std::string const&) -> Result<bool> {
    if (++asked < 5) return false;
    return Status::temporary("gone");
  });
  CHECK(found.status().code() == Code::temporary);
  CHECK(asked == 5);
}

}  // namespace inflight

#include "common/json_splitter.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "common/json_digest.h"
#include "common/rtdb.h"

namespace inflight {

namespace {

class Seen final : public JsonSplitter::Handler {
 public:
  Status member(std::size_t depth, std::string_view key, std::string_view value, bool whole) override {
    text += std::to_string(depth) + ' ' + std::string(key) + '=' + std::string(value) + (whole ? "" : "…") + '\n';
    return {};
  }
  bool descend(std::size_t depth, std::string_view key) override { return depth == 1 && key == "data"; }
  std::string text;
};

// Fed in pieces of this size; what was seen, and the error after a `!`.
std::string split(std::string_view json, std::size_t piece, std::uint64_t most = 1000) {
  Seen seen;
  JsonSplitter splitter(seen, most);
  Status status;
  for (std::size_t at = 0; at < json.size() && status.ok(); at += piece) status = splitter.feed(json.substr(at, piece));
  if (status.ok()) status = splitter.finish();
  return status.ok() ? seen.text : seen.text + '!' + status.what();
}

}  // namespace

TEST_CASE("JSON is taken apart the same however it comes in pieces") {
  struct Case {
    char const* json;
    char const* seen;
  };
  Case const cases[] = {
      {R"({"a":1,"b":{"c":[1,"]}"]},"d":"x\"y\\","e":null})",
       "1 a=1\n1 b={\"c\":[1,\"]}\"]}\n1 d=\"x\\\"y\\\\\"\n1 e=null\n"},
      {R"( { "a\u00e9" : true , "" : [ ] } )", "1 aé=true\n1 =[ ]\n"},
      {"{}", ""},
      {"[]", ""},
      {"null\n", "0 =null\n"},
      {"-1.5e3", "0 =-1.5e3\n"},
      {R"("a b")", "0 =\"a b\"\n"},
      {R"([1,null,{"x":2}])", "1 0=1\n1 1=null\n1 2={\"x\":2}\n"},
      {R"({"path":"/","data":{"k":{"data":1},"l":2},"z":3})", "1 path=\"/\"\n2 k={\"data\":1}\n2 l=2\n1 z=3\n"},
      {R"({"path":"/","data":[4,5]})", "1 path=\"/\"\n2 0=4\n2 1=5\n"},
      {R"({"data":null})", "1 data=null\n"},
  };
  for (auto const& one : cases) {
    for (std::size_t piece : {1U, 2U, 3U, 7U, 1000U})
      CHECK_MESSAGE(split(one.json, piece) == one.seen, one.json << " by " << piece);
  }
}

TEST_CASE("What is no JSON, or not all of it, is told") {
  for (char const* json : {"<html>", R"({"a":1,})", R"({"a" 1})", R"({a:1})", R"({"a":01})", R"({"a":tru})", "{} {}",
                           R"({"\x":1})", "[1 2]"}) {
    for (std::size_t piece : {1U, 1000U}) CHECK_MESSAGE(split(json, piece).find("!no JSON") != std::string::npos, json);
  }
  for (char const* json : {"", "{", R"({"a")", R"({"a":{)", R"({"a":"x)", "[1,"})
    CHECK_MESSAGE(split(json, 3).find("!the answer ended") != std::string::npos, json);
}

TEST_CASE("A value that is too long is told as such, a key may be long") {
  CHECK(split(R"({"a":"0123456789","b":1})", 1, 8) == "1 a=\"0123456…\n1 b=1\n");
  std::string const key(3000, 'k');
  CHECK(split("{\"" + key + "\":1}", 100, 8) == "1 " + key + "=1\n");
}

TEST_CASE("A digest is of the data, not of how it is written") {
  auto const digest = [](char const* json) { return json_digest(json).value(); };
  CHECK(digest(R"({"a":1,"b":{"c":true}})") == digest(" { \"b\" : {\"c\":true}, \"a\":1 }"));
  CHECK(digest(R"({"0":"x","1":"y"})") == digest(R"(["x","y"])"));
  CHECK(digest(R"(["x",null,"y"])") == digest(R"({"2":"y","0":"x"})"));
  CHECK(digest(R"({"a":"\u00e9"})") == digest(R"({"a":"é"})"));
  std::vector<std::string> all;
  for (char const* json : {"{}", "1", "\"1\"", "true", "\"t\"", R"({"a":1})", R"({"a":2})", R"({"b":1})",
                           R"({"a":{"b":1}})", R"({"b":{"a":1}})", R"({"a":1,"b":2})", R"({"a":2,"b":1})",
                           R"(["a","b"])", R"(["b","a"])", R"({"a":{"b":1,"c":2}})", R"({"a":{"b":1},"c":2})"}) {
    for (std::string const& other : all) CHECK_MESSAGE(digest(json) != other, json);
    all.push_back(digest(json));
  }
  CHECK_FALSE(json_digest("{\"a\":").has_value());
}

TEST_CASE("Keys stand in the order of the database") {
  // Checked against Google's own engine by tests/servers/rtdb_query_test.py, which the emulator passes.
  char const* const keys[] = {"-2147483648",
                              "-10",
                              "-1",
                              "-01",
                              "0",
                              "1",
                              "01",
                              "001",
                              "2",
                              "10",
                              "2147483647",
                              " ",
                              "-",
                              "-2147483649",
                              "00x",
                              "1 ",
                              "1e3",
                              "2147483648",
                              "A",
                              "a",
                              "aa",
                              "~",
                              "é",
                              "\xed\x9f\xbf",
                              "\xf0\x9f\x98\x80",
                              "\xee\x80\x80",
                              "\xef\xbd\x9e"};
  for (std::size_t i = 1; i < std::size(keys); ++i)
    CHECK_MESSAGE(rtdb_sort_key(keys[i - 1]) < rtdb_sort_key(keys[i]), keys[i]);
}

TEST_CASE("URLs of collections are read and written") {
  auto const url = [](std::string const& text) {
    auto const c = RtdbCollection::parse(text);
    return c ? c->url("a=b") + ' ' + c->document("x y/%") + ' ' + c->source() : '!' + c.status().what();
  };
  CHECK(url("https://shop.firebaseio.com/a%20b/c+d/") ==
        "https://shop.firebaseio.com/a%20b/c%2Bd.json?a=b https://shop.firebaseio.com/a%20b/c%2Bd/x%20y%2F%25.json "
        "//firebasedatabase.googleapis.com/projects/_/locations/us-central1/instances/shop/refs/a%20b/c%2Bd");
  CHECK(url("https://shop.europe-west1.firebasedatabase.app/o.json")
            .ends_with("locations/europe-west1/instances/shop/refs/o"));
  CHECK(url("http://127.0.0.1:9000/o?ns=shop") ==
        "http://127.0.0.1:9000/o.json?ns=shop&a=b http://127.0.0.1:9000/o/x%20y%2F%25.json?ns=shop "
        "http://127.0.0.1:9000/o?ns=shop");
  CHECK(url("http://127.0.0.1:9000").starts_with("http://127.0.0.1:9000/.json?a=b "));
  for (char const* bad : {"", "x", "ftp://a/b", "https://u:p@shop.firebaseio.com/o",
                          "https://shop.firebaseio.com/o?auth=x", "https://shop.firebaseio.com/a%23b"})
    CHECK_MESSAGE(url(bad).starts_with("!"), bad);
}

}  // namespace inflight

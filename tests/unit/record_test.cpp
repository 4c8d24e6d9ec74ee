#include "common/record.h"
#include "common/path.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

using namespace inflight;

namespace {

// A record with the bytes that it points into.
struct Parsed {
  explicit Parsed(std::string_view text) : line(std::string(text) + std::string(kRecordPadding, '\0')) {
    status = RecordParser().parse({line.data(), text.size()}, record);
  }
  std::string line;
  Record record;
  Status status;
};

std::string edited(std::string_view text, std::vector<Edit> const& edits) {
  Parsed const parsed(text);
  REQUIRE_MESSAGE(parsed.status.ok(), parsed.status.what());
  std::string out;
  parsed.record.write(out, edits);
  CHECK(Parsed(out).status.ok());
  return out;
}

std::string selected(std::string_view text, std::string_view path) {
  Parsed const parsed(text);
  REQUIRE_MESSAGE(parsed.status.ok(), parsed.status.what());
  std::vector<Value> values;
  Status const status = Selector({*Path::parse(path)}).select(parsed.record, values);
  return !status.ok() ? "rejected" : values[0] ? std::string(values[0].raw) : "none";
}

std::string expanded(std::string_view form, std::string_view text) {
  Parsed const parsed(text);
  auto made = Template::parse(form);
  if (!made) return "usage";
  std::string out;
  return made->expand(parsed.record, out).ok() ? out : "rejected";
}

std::string unquoted(std::string_view raw) {
  std::string scratch, out;
  std::string const lenient(unquote(raw, scratch));
  if (!append_unquoted(out, raw)) return "none";
  CHECK(out == lenient);
  return out;
}

}  // namespace

TEST_CASE("An edit leaves every other byte as it was written") {
  std::string_view const line =
      R"({ "a" : 1.50 ,"b":"x\u0020y\/",  "c" :{ "d": [1, 2 ] } , "n":123456789012345678901234567890 })";
  CHECK(edited(line, {}) ==
        R"({"a" : 1.50 ,"b":"x\u0020y\/",  "c" :{ "d": [1, 2 ] } , "n":123456789012345678901234567890})");
  CHECK(edited(line, {{"b", "null"}}) ==
        R"({"a" : 1.50,"b":null,"c" :{ "d": [1, 2 ] } , "n":123456789012345678901234567890})");
  CHECK(edited(line, {{"a", std::nullopt}, {"c", std::nullopt}}) ==
        R"({"b":"x\u0020y\/","n":123456789012345678901234567890})");
  CHECK(edited(line, {{"n", std::nullopt}, {"z\"", "[]"}}) ==
        R"({"a" : 1.50 ,"b":"x\u0020y\/",  "c" :{ "d": [1, 2 ] },"z\"":[]})");
  CHECK(edited("{}", {{"a", "1"}}) == R"({"a":1})");
  CHECK(edited(R"({"a":1})", {{"a", std::nullopt}}) == "{}");
  CHECK(edited("{ }", {}) == "{}");
}

TEST_CASE("A name that stands there twice is read last and edited once") {
  std::string_view const line = R"({"a":1,"b":2,"a":3})";
  CHECK(Parsed(line).record.attribute("a").raw == "3");
  CHECK(edited(line, {{"a", "4"}}) == R"({"a":4,"b":2})");
  CHECK(edited(line, {{"a", std::nullopt}}) == R"({"b":2})");
  CHECK(edited(R"({"\u0061":1})", {{"a", "2"}}) == R"({"\u0061":2})");
}

TEST_CASE("Values are given as written, with their kind") {
  Parsed const p(R"({"s":"","z":null,"t":true,"n":-0.10e+5 ,"o":{"x":[{}]} ,"l":[ ]})");
  REQUIRE(p.status.ok());
  CHECK(p.record.attribute("s").raw == "\"\"");
  CHECK(p.record.attribute("n").raw == "-0.10e+5");
  CHECK(p.record.attribute("o").raw == R"({"x":[{}]})");
  CHECK(p.record.attribute("l").kind == Value::Kind::array);
  CHECK(p.record.attribute("z").kind == Value::Kind::null);
  CHECK(p.record.attribute("t").kind == Value::Kind::boolean);
  CHECK_FALSE(p.record.attribute("x"));
  CHECK_FALSE(p.record.is_event());
  CHECK(p.record.data().raw == p.record.line());
}

TEST_CASE("What is no JSON object on its outermost level is rejected") {
  using namespace std::string_view_literals;
  for (std::string_view const text : {""sv,
                                      " "sv,
                                      "null"sv,
                                      "[]"sv,
                                      "\"a\""sv,
                                      "{"sv,
                                      "{\"a\""sv,
                                      "{\"a\":"sv,
                                      "{\"a\":1"sv,
                                      "{\"a\":1,}"sv,
                                      "{\"a\":1}}"sv,
                                      "{\"a\":1}{\"b\":2}"sv,
                                      "{\"a\":1} x"sv,
                                      "{\"a\" 1}"sv,
                                      "{a:1}"sv,
                                      "{\"a\":tru}"sv,
                                      "{\"a\":01}"sv,
                                      "{\"a\":1.}"sv,
                                      "{\"a\":+1}"sv,
                                      "{\"a\":1 2}"sv,
                                      "{\"a\":nan}"sv,
                                      "{\"a\":\"x}"sv,
                                      "{\"a\":\"\xff\"}"sv,
                                      "{\"a\":\"\xed\xa0\x80\"}"sv,
                                      "{\"a\":\"\n\"}"sv,
                                      "{\"a\":\"\0\"}"sv,
                                      "{\"a\":1}\0"sv,
                                      "{\"a\":1 \"b\":2}"sv,
                                      "{,}"sv,
                                      "{\"a\":{\"b\":1}"sv}) {
    Parsed const parsed(text);
    CHECK_MESSAGE(parsed.status.code() == Code::rejected, text);
  }
}

TEST_CASE("A line cut off anywhere is rejected") {
  std::string_view const line = R"({"specversion":"1.0","id":"7\\","n":-1.5e3,"t":true,"data":{"a":[1,{"b":"\"}"}]}})";
  REQUIRE(Parsed(line).status.ok());
  for (std::size_t size = 0; size < line.size(); ++size) {
    CHECK_MESSAGE(Parsed(line.substr(0, size)).status.code() == Code::rejected, line.substr(0, size));
  }
}

TEST_CASE("Escapes and surrogates become UTF-8, and text becomes escapes") {
  CHECK(unquoted(R"("")").empty());
  CHECK(unquoted(R"("a\"\\\/\b\f\n\r\tz")") == "a\"\\/\b\f\n\r\tz");
  CHECK(unquoted(R"("\u0041\u00e4\u20AC\ud83d\ude00")") == "Aä€😀");
  CHECK(unquoted(R"("\ud83d")") == "\xef\xbf\xbd");
  CHECK(unquoted(R"("\ude00x")") == "\xef\xbf\xbdx");
  CHECK(unquoted(R"("\ud83d\u0041")") ==
        "\xef\xbf\xbd"
        "A");
  CHECK(unquoted(R"("\ud83d\ud83d\ude00")") == "\xef\xbf\xbd😀");
  CHECK(unquoted("\"\\u0000\"") == std::string(1, '\0'));
  for (std::size_t n = 0; n < 20; ++n) {  // an escape at each place of a word of eight bytes
    std::string const plain(n, 'x');
    CHECK(unquoted("\"" + plain + "\\n" + plain + "\"") == plain + "\n" + plain);
  }
  std::string out = "kept";
  for (char const* raw : {R"("\x")", R"("\u12")", R"("\u12g4")", R"("abcdefgh\")", R"("\a\n")"})
    CHECK_FALSE(append_unquoted(out, raw));
  CHECK(out == "kept");
  CHECK(json_string("\"\\\n\x01 ä😀") == R"("\"\\\n\u0001 ä😀")");
  CHECK(json_string("a\xff"
                    "b\xed\xa0\x80") ==
        "\"a\xef\xbf\xbd"
        "b\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
  std::string scratch;
  CHECK(unquote("12.50", scratch) == "12.50");
}

TEST_CASE("Base64 goes both ways, and what is none is told") {
  for (std::string const& bytes :
       {std::string(), std::string("f"), std::string("fo"), std::string("foo"), std::string("foob\0\xff", 6)}) {
    std::string text, back;
    append_base64(text, bytes);
    CHECK(append_from_base64(back, text));
    CHECK(back == bytes);
  }
  std::string out;
  CHECK(append_from_base64(out, "Zm9vYg=="));
  CHECK(out == "foob");
  for (char const* text : {"Z", "Zm9", "Zm9v Yg=", "====", "Zg=a", "Z===", "Zm=v", "Zm9\n"})
    CHECK_FALSE(append_from_base64(out, text));
}

TEST_CASE("Numbers are those of JSON's grammar") {
  for (char const* text : {"0", "-0", "10", "1.5", "-0.10", "1e5", "1E-05", "123456789012345678901234567890"})
    CHECK(is_json_number(text));
  for (char const* text : {"", "-", "+1", "01", "1.", ".5", "1e", "1e+", "0x1", "1 ", "NaN", "1.5.5", "--1"})
    CHECK_FALSE(is_json_number(text));
}

TEST_CASE("A deletion is an event of a deleted type without data") {
  auto deletion = [](std::string_view text) { return Parsed(text).record.is_deletion(); };
  CHECK(deletion(R"({"specversion":"1.0","type":"google.firebase.database.ref.v1.deleted"})"));
  CHECK(deletion(R"({"specversion":"1.0","type":"x.deleted","data":null})"));
  CHECK_FALSE(deletion(R"({"specversion":"1.0","type":"x.deleted","data":1})"));
  CHECK_FALSE(deletion(R"({"specversion":"1.0","type":"x.deleted","data_base64":""})"));
  CHECK_FALSE(deletion(R"({"specversion":"1.0","type":"x.written"})"));
  CHECK_FALSE(deletion(R"({"type":"x.deleted"})"));
}

TEST_CASE("The partition key is its attribute, or else the subject") {
  std::string scratch;
  CHECK(Parsed(R"({"subject":"s","partitionkey":"\u0070"})").record.partition_key(scratch) == "p");
  CHECK(Parsed(R"({"subject":"s","partitionkey":null})").record.partition_key(scratch) == "s");
  CHECK(Parsed("{}").record.partition_key(scratch).empty());
}

TEST_CASE("A path names an attribute, or a JSON Pointer into the data") {
  std::string_view const event =
      R"({"specversion":"1.0","subject":"s","data":{"a":{"b/c":1,"~":[{"x":2},3],"#t":"\u0041"},"\u0061b":4,"":5,"0":6}})";
  CHECK(selected(event, "subject") == "\"s\"");
  CHECK(selected(event, "/a/b~1c") == "1");
  CHECK(selected(event, "/a/~0/0/x") == "2");
  CHECK(selected(event, "/a/~0/1") == "3");
  CHECK(selected(event, "/a/~0/2") == "none");
  CHECK(selected(event, "/a/~0") == R"([{"x":2},3])");
  CHECK(selected(event, "/a/#t") == R"("\u0041")");
  CHECK(selected(event, "/ab") == "4");
  CHECK(selected(event, "/") == "5");
  CHECK(selected(event, "/0") == "6");
  CHECK(selected(event, "/a/b~1c/d") == "none");
  CHECK(selected(event, "/subject") == "none");
  CHECK(selected(R"({"subject":"s","a":{"b":1}})", "/a/b") == "1");
  CHECK(selected(R"({"subject":"s","a":{"b":1}})", "subject") == "\"s\"");
  CHECK(selected(R"({"specversion":"1.0"})", "/a") == "none");
  CHECK(selected(R"({"specversion":"1.0","data":{"a":[1,]}})", "/a/0") == "rejected");
  CHECK_FALSE(Path::parse("").ok());
  CHECK_FALSE(Path::parse("/a~2").ok());
  CHECK_FALSE(Path::parse("/a~").ok());
}

TEST_CASE("Many paths are found in one pass") {
  Parsed const p(R"({"id":"7","l":[{"a":1,"b":2},{"a":3}],"z":{"y":{"x":4}}})");
  std::vector<Path> paths;
  for (char const* text : {"/z/y/x", "id", "/l/1/a", "/l/0/b", "/none", "/l", "/z/y"})
    paths.push_back(*Path::parse(text));
  std::vector<Value> values;
  REQUIRE(Selector(paths).select(p.record, values).ok());
  std::string all;
  for (Value const& value : values) all += fmt::format("{};", value.raw);
  CHECK(all == R"(4;"7";3;2;;[{"a":1,"b":2},{"a":3}];{"x":4};)");
}

TEST_CASE("Flattening visits each scalar with its path") {
  std::string seen;
  auto const visit = [](void* context, std::string_view path, Value value) {
    *static_cast<std::string*>(context) += fmt::format("{}={} ", path, value.raw);
  };
  CHECK(
      Flattener().flatten(R"({"a":{"b":1,"c":[true,{"d":"x"}]},"e":{},"f":[],"\u0067":null})", '_', visit, &seen).ok());
  CHECK(seen == "a_b=1 a_c_0=true a_c_1_d=\"x\" g=null ");
  for (char const* text : {"{\"a\":}", "{\"a\":1", "[1,]", "{\"a\" 1}", "tru", "{1:2}"}) {
    CHECK(Flattener().flatten(text, '_', visit, &seen).code() == Code::rejected);
  }
  CHECK(Flattener().flatten(std::string(5000, '[') + std::string(5000, ']'), '_', visit, &seen).code() ==
        Code::rejected);
}

TEST_CASE("Templates expand as RFC 6570 has it, and reject what is missing") {
  std::string_view const record = R"({"subject":"a b/ü%41","id":7,"order":{"id":"x?y"},"n":null})";
  CHECK(expanded("orders/{subject}", record) == "orders/a%20b%2F%C3%BC%2541");
  CHECK(expanded("orders/{+subject}", record) == "orders/a%20b/%C3%BC%41");
  CHECK(expanded("{id}/{/order/id}-{+/order/id}", record) == "7/x%3Fy-x?y");
  CHECK(expanded("plain", record) == "plain");
  CHECK(expanded("", record).empty());
  CHECK(expanded("{none}", record) == "rejected");
  CHECK(expanded("{n}", record) == "rejected");
  CHECK(expanded("{order}", record) == "rejected");
  for (char const* form : {"{", "{}", "a{subject", "{?a}", "{a,b}", "{a:3}", "{a*}", "{#a}", "{.a}", "{;a}", "{&a}"}) {
    CHECK_MESSAGE(expanded(form, record) == "usage", form);
  }
  CHECK(Template::parse("fixed")->constant());
  CHECK_FALSE(Template::parse("{subject}")->constant());
}

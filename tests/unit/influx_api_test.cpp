#include "common/influx_api.h"

#include <doctest/doctest.h>

namespace {

using namespace inflight;
using Kind = InfluxAnswer::Kind;

InfluxTarget target(std::string const& url) {
  auto parsed = InfluxTarget::parse(url, InfluxPrecision::us);
  REQUIRE(parsed.ok());
  return *parsed;
}

InfluxAnswer answer(int status, std::string body, std::string const& url = "http://h?db=x", std::size_t points = 3) {
  HttpResponse response;
  response.status = status;
  response.cause = status < 300 ? HttpCause::none : HttpCause::status;
  response.body = std::move(body);
  return judge(target(url), response, points);
}

std::string const kThree = "http://h/api/v3/write_lp?db=x";

}  // namespace

TEST_CASE("each generation has its endpoint and its word for a precision") {
  CHECK(target("http://h:8086?db=x&rp=y").url == "http://h:8086/write?db=x&rp=y&precision=u");
  CHECK(target("http://h:8086/?db=x").url == "http://h:8086/write?db=x&precision=u");
  CHECK(target("https://h/proxy?org=o&bucket=b").url == "https://h/proxy/api/v2/write?org=o&bucket=b&precision=us");
  CHECK(target("https://h/proxy/api/v2/write?bucket=b").url == "https://h/proxy/api/v2/write?bucket=b&precision=us");
  CHECK(target(kThree).url == kThree + "&precision=microsecond");
  CHECK(target(kThree).version == 3);
}

TEST_CASE("which servers are on this machine") {
  for (char const* url : {"http://localhost:8086?db=x", "http://127.0.0.1?db=x", "http://[::1]:8086?db=x"})
    CHECK(target(url).local);
  for (char const* url : {"http://influx:8086?db=x", "http://localhost.example.org?db=x", "http://10.127.0.0?db=x"})
    CHECK_FALSE(target(url).local);
}

TEST_CASE("points are refused by words that speak of points") {
  auto const conflict = answer(
      400, R"({"error":"partial write: field type conflict: input field \"v\" on measurement \"m\" is type string, )"
           R"(already exists as type float dropped=2"})");
  CHECK(conflict.kind == Kind::refused);
  CHECK(conflict.dropped == 2);
  CHECK(conflict.reason ==
        R"(field type conflict: input field "v" on measurement "m" is type string, already exists as type float)");
  CHECK(answer(400, R"({"error":"unable to parse 'm v=x 2': invalid boolean"})").kind == Kind::refused);
  CHECK(answer(400, R"({"error":"partial write: points beyond retention policy dropped=1"})").kind == Kind::refused);
  CHECK(answer(422, R"({"code":"unprocessable entity","message":"failure writing points to database: partial write: )"
                    R"(field type conflict: input field \"v\" dropped=1"})")
            .kind == Kind::refused);
  CHECK(answer(400, R"({"code":"invalid","line":2,"message":"who knows"})").kind == Kind::refused);
}

TEST_CASE("what the operator can mend is no fault of points") {
  CHECK(answer(400, R"({"error":"partial write: max-series-per-database limit exceeded: (3) dropped=1"})")
            .status.code() == Code::usage);
  CHECK(answer(400, R"({"error":"partial write: write /x/0002: no space left on device dropped=1"})").status.code() ==
        Code::temporary);
  CHECK(answer(500, R"({"error":"retention policy not found: y"})").status.code() == Code::usage);
  CHECK(answer(404, R"({"error":"database not found: \"x\""})").status.what() ==
        R"(http://h?db=x: status 404: database not found: "x")");
  for (int const status : {301, 401, 403, 404, 405}) CHECK(answer(status, "").status.code() == Code::usage);
  for (int const status : {408, 429, 500, 502, 503}) {
    CHECK(answer(status, "").kind == Kind::failed);
    CHECK(answer(status, "").status.code() == Code::temporary);
  }
}

TEST_CASE("a success is 204, or nothing at all") {
  CHECK(answer(204, "").kind == Kind::stored);
  CHECK(answer(200, "").kind == Kind::stored);
  CHECK(answer(200, "<html>").status.code() == Code::usage);
  CHECK(answer(200, "{}").status.code() == Code::usage);
}

TEST_CASE("the list of 3.x counts only where it names points that there are") {
  auto const body = [](std::string const& lines) {
    return R"({"error":"partial write of line protocol occurred","data":[)" + lines + "]}";
  };
  auto const listed = answer(
      400, body(R"({"original_line":"m v=x","line_number":2,"error_message":"No fields were provided"})"), kThree);
  REQUIRE(listed.kind == Kind::listed);
  REQUIRE(listed.lines.size() == 1);
  CHECK(listed.lines[0] == std::pair<std::size_t, std::string>(1, "No fields were provided"));
  for (char const* wrong : {R"({"line_number":0})", R"({"line_number":4})", R"({"line_number":"2"})",
                            R"({"line_number":-1})", "{}", "2", "", R"({"line_number":2},{"line_number":2})"})
    CHECK(answer(400, body(wrong), kThree).kind != Kind::listed);
}

TEST_CASE("a refusal without known words is doubtful, whatever it is") {
  for (char const* body :
       {"", "<html>Bad Request</html>", "{", R"({"error":17})", R"({"message":"no"})", "[]", "null", "\xff"})
    CHECK(answer(400, body).kind == Kind::doubtful);
  CHECK(answer(413, "").kind == Kind::too_large);
}

TEST_CASE("the server's words are one line of text, not too long") {
  CHECK(answer(400,
               "a\n\tb\r\n\x01"
               "c")
            .reason == "a b c");
  auto const longer = answer(400, std::string(299, 'x') + "\u20ac" + std::string(1000, 'y')).reason;
  CHECK(longer.size() < 310);
  CHECK(longer.starts_with(std::string(299, 'x') + "\u2026"));
}

#include "common/poll_event.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/record.h"

namespace inflight {

namespace {

std::string head(PollEvent const& event, std::string_view type, std::string_view content_type, std::size_t more) {
  std::string line = R"({"specversion":"1.0","id":)";
  line.reserve(more + 512);
  append_quoted(line, event.id);
  line += R"(,"source":)";
  append_quoted(line, event.source);
  line += fmt::format(R"(,"type":"{}","subject":)", type);
  append_quoted(line, event.unit);
  line += fmt::format(R"(,"recordedtime":"{}","datacontenttype":)", format_rfc3339(event.recorded));
  append_quoted(line, content_type);
  return line;
}

// What the unit says its answer is, without parameters. XML where it says nothing, or nothing that is a media type
// (RFC 9110, 8.3.1: a token, a slash, a token).
std::string_view media_type(HttpResponse const& answer) {
  std::string_view type = answer.header("Content-Type");
  type = type.substr(0, type.find(';'));
  type = type.substr(0, type.find_last_not_of(" \t") + 1);
  std::size_t const slash = type.find('/');
  bool const token = std::all_of(type.begin(), type.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("!#$%&'*+-.^_`|~/").find(c) != std::string_view::npos;
  });
  bool const good = token && slash != 0 && slash < type.size() - 1 && slash == type.rfind('/');
  return !type.empty() && good ? type : "application/xml";
}

}  // namespace

std::string reading_event(PollEvent const& event, HttpResponse const& answer) {
  std::string line = head(event, "bsu.reading", media_type(answer), answer.body.size() + answer.body.size() / 4);
  if (valid_utf8(answer.body)) {
    line += R"(,"data":)";
    append_quoted(line, answer.body);
  } else {
    line += R"(,"data_base64":")";
    append_base64(line, answer.body);
    line += '"';
  }
  line += '}';
  return line;
}

std::string unreachable_event(PollEvent const& event, HttpResponse const& answer) {
  std::string line = head(event, "bsu.unreachable", "application/json", answer.error.size());
  line += fmt::format(R"(,"data":{{"cause":"{}")", name_of(answer.cause));
  if (answer.status != 0) line += fmt::format(R"(,"status":{})", answer.status);
  line += fmt::format(R"(,"message":{}}}}})", json_string(answer.error));
  return line;
}

}  // namespace inflight

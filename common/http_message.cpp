#include "common/http_message.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/fd_io.h"
#include "common/messages.h"

namespace inflight {

std::string_view name_of(HttpCause cause) {
  static constexpr std::array<std::string_view, kHttpCauses> names = {
      "none", "resolve", "connect", "timeout", "tls", "cut", "too-large", "encoding", "protocol", "status"};
  return names[static_cast<std::size_t>(cause)];
}

bool HttpResponse::misdirected() const {
  if (cause != HttpCause::tls) return cause == HttpCause::protocol;
  for (char const* const words : {"certificate", "version", "unknown protocol", "http request"}) {
    if (error.find(words) != std::string::npos) return true;
  }
  return false;
}

void HttpOptions::add_to(Cli& cli) {
  cli.option("--max-in-flight", max_in_flight, "requests at a time");
  cli.option("--max-per-host", max_per_host, "connections to one host and port at a time (0: no such limit)");
  cli.option("--timeout", timeout, "a request takes no longer");
  cli.option("--connect-timeout", connect_timeout, "connecting takes no longer");
  cli.option("--header-file", header_files,
             "send the headers in this file, one `Name: value` a line (may be repeated)");
  cli.size("--max-record", max_body, "a longer record is refused");
}

Result<std::vector<std::string>> read_header_file(std::string const& path) {
  auto text = read_file(path);
  if (!text) return text.status();
  std::vector<std::string> lines;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text->size();) {
    std::size_t const end = std::min(text->find('\n', begin), text->size());
    std::string line = text->substr(begin, end - begin);
    begin = end + 1;
    ++number;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.pop_back();
    if (line.empty()) continue;
    std::size_t const colon = line.find(':');
    bool const control =
        std::any_of(line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\t'; });
    if (colon == std::string::npos || colon == 0 || line.find_first_of(" \t") < colon || control) {
      return Status::usage(fmt::format("{}: line {} is not `Name: value`", path, number));
    }
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    std::size_t const value = line.find_first_not_of(" \t", colon + 1);
    if (value != std::string::npos && name != "accept" && name != "content-type" && name != "user-agent") {
      add_secret(std::string_view(line).substr(value));
      // `Bearer TOKEN`: the token alone is the secret, too.
      if (std::size_t const space = line.rfind(' '); space > value)
        add_secret(std::string_view(line).substr(space + 1));
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace inflight

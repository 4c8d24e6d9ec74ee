// What goes into the HTTP client and what comes out of it: options, requests, responses, files of headers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/cli.h"
#include "common/reader.h"
#include "common/status.h"
#include "common/units.h"

namespace inflight {

struct HttpOptions {
  std::uint64_t max_in_flight = 1000;
  std::uint64_t max_per_host = 0;              // connections to one host and port; 0: no limit of its own
  Duration timeout = std::chrono::seconds(5);  // from start() to the last byte
  Duration connect_timeout = std::chrono::seconds(3);
  Duration stall{};                     // without a byte either way for so long it ends; 0: no such limit
  std::uint64_t max_body = kMaxRecord;  // of a response, decoded
  bool decode = true;                   // bodies; otherwise they are as the server keeps them
  std::string ca_bundle;                // instead of those that the environment names
  std::vector<std::string> header_files;

  // --max-in-flight --max-per-host --timeout --connect-timeout --header-file, and --max-record
  void add_to(Cli& cli);
};

// A part of an open file, which is read while it is sent.
struct HttpFile {
  int fd = -1;
  std::uint64_t offset = 0, size = 0;
};

struct HttpRequest {
  std::string method = "GET";
  std::string url;
  std::vector<std::string> headers;  // `Name: value`, beside those of the header files
  std::string body;                  // sent with any method but GET and HEAD; with DELETE where it is not empty
  HttpFile file{};                   // sent instead of it, where there is one
  // What a second time does more than once: on a connection that was kept and ends without an answer libcurl would send
  // it again by itself (CURLOPT_FRESH_CONNECT).
  bool once = false;
  // Gets the body of a 2xx answer piece by piece, as it comes and of any length, instead of HttpResponse::body. False:
  // the request ends, as one that was cut.
  std::function<bool(std::string_view)> on_body{};
};

// Why there is no usable answer. `status`: there is one, but neither 2xx nor 304.
enum class HttpCause : char { none, resolve, connect, timeout, tls, cut, too_large, encoding, protocol, status };
inline constexpr std::size_t kHttpCauses = 10;
[[nodiscard]] std::string_view name_of(HttpCause cause);

// Valid while `done` runs; the body may be moved out.
struct HttpResponse {
  HttpCause cause = HttpCause::none;
  int status = 0;       // 0: no answer came
  bool no_url = false;  // nobody was asked: what was to be is no URL
  std::string body;     // decoded; also that of an error
  std::string error;    // `URL: why`, redacted; empty with HttpCause::none
  Duration elapsed{};
  std::optional<Duration> retry_after;
  std::function<std::string_view(char const* name)> header;  // the last of that name, empty where there is none

  // Whether no answer came because of what waiting does not mend: nobody there speaks HTTP, or TLS as we do, or we do
  // not trust the certificate.
  [[nodiscard]] bool misdirected() const;
};

// `Name: value` lines, as curl's -H @FILE takes them; blank lines are passed over. The values are registered as secrets
// but for names that never hold one (Accept, Content-Type, User-Agent). Code::usage names file and line, never the
// text.
[[nodiscard]] Result<std::vector<std::string>> read_header_file(std::string const& path);

}  // namespace inflight

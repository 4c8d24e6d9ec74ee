// HTTP and HTTPS requests, many at a time, in one loop over libcurl: keep-alive, HTTP/2 where TLS negotiates it, gzip
// and zstd, limits on requests, connections, time and size. Proxies and CA bundles come from the environment as for
// curl (http_proxy, no_proxy, CURL_CA_BUNDLE, SSL_CERT_FILE, SSL_CERT_DIR). Redirects are not followed: a header that
// holds a secret is for the host that the operator named.
//
// One thread owns a client and calls turn(); every `done` runs inside turn() or cancel().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/cli.h"
#include "common/reader.h"
#include "common/status.h"
#include "common/time.h"
#include "common/units.h"

namespace inflight {

struct HttpOptions {
  std::uint64_t max_in_flight = 1000;
  std::uint64_t max_per_host = 0;              // connections to one host and port; 0: no limit of its own
  Duration timeout = std::chrono::seconds(5);  // from start() to the last byte
  Duration connect_timeout = std::chrono::seconds(3);
  std::uint64_t max_body = kMaxRecord;  // of a response, decoded
  std::vector<std::string> header_files;

  // --max-in-flight --max-per-host --timeout --connect-timeout --header-file, and --max-record
  void add_to(Cli& cli);
};

struct HttpRequest {
  std::string method = "GET";
  std::string url;
  std::vector<std::string> headers;  // `Name: value`, beside those of the header files
  std::string body;                  // sent with any method but GET and HEAD
};

// Why there is no usable answer. `status`: there is one, but neither 2xx nor 304.
enum class HttpCause : char { none, resolve, connect, timeout, tls, cut, too_large, encoding, protocol, status };
inline constexpr std::size_t kHttpCauses = 10;
[[nodiscard]] std::string_view name_of(HttpCause cause);

// Valid while `done` runs; the body may be moved out.
struct HttpResponse {
  HttpCause cause = HttpCause::none;
  int status = 0;     // 0: no answer came
  std::string body;   // decoded; also that of an error
  std::string error;  // `URL: why`, redacted; empty with HttpCause::none
  Duration elapsed{};
  std::optional<Duration> retry_after;
  std::function<std::string_view(char const* name)> header;  // the last of that name, empty where there is none
};

class HttpClient {
 public:
  using Done = std::function<void(HttpResponse&)>;
  using Id = std::size_t;  // of a request until its `done` has returned

  // Code::usage: a header file cannot be read or is malformed.
  [[nodiscard]] static Result<std::unique_ptr<HttpClient>> make(HttpOptions const& options,
                                                                Clock& clock = system_clock());
  ~HttpClient();

  // There must be room: in_flight() < max_in_flight.
  Id start(HttpRequest const& request, Done done);
  // Ends it now, as a timeout that says `why`.
  void cancel(Id id, std::string const& why);

  [[nodiscard]] std::size_t in_flight() const;
  [[nodiscard]] std::uint64_t received() const;  // bytes of bodies that are still arriving

  // Waits at most this long for something to happen, and lets happen whatever can. A signal ends the waiting.
  [[nodiscard]] Status turn(Duration wait);

 private:
  struct State;
  explicit HttpClient(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Seconds or an HTTP date (RFC 9110, 10.2.3), never negative. nullopt: neither.
[[nodiscard]] std::optional<Duration> parse_retry_after(std::string_view text, Time now);

// `Name: value` lines, as curl's -H @FILE takes them; blank lines are passed over. The values are registered as secrets
// but for names that never hold one (Accept, Content-Type, User-Agent). Code::usage names file and line, never the
// text.
[[nodiscard]] Result<std::vector<std::string>> read_header_file(std::string const& path);

}  // namespace inflight

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
#include <string>

#include "common/http_message.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

class HttpClient {
 public:
  using Done = std::function<void(HttpResponse&)>;
  using Id = std::size_t;  // of a request until its `done` has returned

  // Code::usage: a header file cannot be read or is malformed.
  [[nodiscard]] static Result<std::unique_ptr<HttpClient>> make(HttpOptions const& options,
                                                                Clock& clock = system_clock());
  ~HttpClient();

  // As asked for, or fewer where the limit on descriptors allows no more.
  [[nodiscard]] std::uint64_t max_in_flight() const;

  // There must be room: in_flight() < max_in_flight().
  Id start(HttpRequest request, Done done);
  // Ends it now, as a timeout that says `why`.
  void cancel(Id id, std::string const& why);

  [[nodiscard]] std::size_t in_flight() const;
  [[nodiscard]] std::uint64_t received() const;  // bytes of bodies that are still arriving
  // While `held` large bodies wait, since those that came are not taken. True: some do.
  bool hold(bool held);

  // Waits at most this long for something to happen, and lets happen whatever can. A signal ends the waiting.
  [[nodiscard]] Status turn(Duration wait);

 private:
  struct State;
  explicit HttpClient(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inflight

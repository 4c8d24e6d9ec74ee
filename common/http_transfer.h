// One request of the HTTP client in http.h, over and over: what libcurl is told of it, what arrives, how it ended.
// Only http.cpp includes this.
#pragma once

#include <curl/curl.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "common/handle.h"
#include "common/http_message.h"
#include "common/time.h"

namespace inflight {

struct HttpTransfer;

// What all bodies that are arriving hold. Beyond a bound one goes on and the others wait, paused, so that a thousand
// large answers do not fill the memory; while those that came are not taken, that one waits as well.
struct HttpIntake {
  std::uint64_t received = 0;
  HttpTransfer* large = nullptr;  // the one that goes on beyond the bound
  bool held = false;
  std::vector<HttpTransfer*> waiting{};

  [[nodiscard]] bool full(std::uint64_t more = 0) const { return received + more > (8 << 20); }
};

struct HttpTransfer {
  std::size_t id;
  HttpOptions const& options;
  HttpIntake& intake;
  Handle<CURL, curl_easy_cleanup> easy{};
  CURLM* multi = nullptr;  // that it was added to
  HttpResponse response{};
  std::function<void(HttpResponse&)> done{};
  std::function<bool(std::string_view)> sink{};  // of the body, instead of response.body
  bool too_large = false, refused = false;

  HttpTransfer(std::size_t id, HttpOptions const& options, HttpIntake& intake);
  HttpTransfer(HttpTransfer const&) = delete;
  HttpTransfer& operator=(HttpTransfer const&) = delete;

  void prepare(HttpRequest request, std::vector<std::string> const& headers);
  // Fills the response, and leaves the intake. `reason` instead of what libcurl says, where it is not empty.
  void conclude(CURLcode code, std::string const& reason, Time now);
  // Keeps no more memory than the next request will need.
  void release();

 private:
  [[nodiscard]] std::string why(CURLcode code) const;
  static std::size_t on_body(char* bytes, std::size_t, std::size_t size, void* to);
  static std::size_t on_send(char* to, std::size_t, std::size_t size, void* of);
  static int on_seek(void* of, curl_off_t offset, int origin);

  Handle<curl_slist, curl_slist_free_all> headers_{};
  std::array<char, CURL_ERROR_SIZE> error_{};
  std::string url_, sent_;
  HttpFile file_;
  std::uint64_t file_sent_ = 0;
};

// Seconds or an HTTP date (RFC 9110, 10.2.3), never negative. nullopt: neither.
[[nodiscard]] std::optional<Duration> parse_retry_after(std::string_view text, Time now);

}  // namespace inflight

#include "common/http_transfer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "common/messages.h"
#include "common/url.h"

namespace inflight {

namespace {

constexpr long kReceiveBuffer = 8 << 10;  // per transfer: the smaller, the less a thousand of them weigh
constexpr std::size_t kKept = 64 << 10;

template <typename T>
void set(CURL* easy, CURLoption option, T value) {
  // It fails only for options that this libcurl was built without; the few that may be missing are set elsewhere.
  (void)curl_easy_setopt(easy, option, value);
}

char const* environment(char const* name) {
  char const* const value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

HttpCause cause_of(CURLcode code) {
  switch (code) {
    case CURLE_OK:
      return HttpCause::none;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return HttpCause::resolve;
    case CURLE_COULDNT_CONNECT:
    case CURLE_INTERFACE_FAILED:
    case CURLE_PROXY:
      return HttpCause::connect;
    case CURLE_OPERATION_TIMEDOUT:
      return HttpCause::timeout;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CLIENTCERT:
      return HttpCause::tls;
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      return HttpCause::cut;
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_WRITE_ERROR:  // we refuse no bytes but of an answer that is too large
      return HttpCause::encoding;
    default:
      return HttpCause::protocol;
  }
}

}  // namespace

std::size_t HttpTransfer::on_body(char* bytes, std::size_t, std::size_t size, void* to) {
  auto& transfer = *static_cast<HttpTransfer*>(to);
  HttpIntake& intake = transfer.intake;
  if (transfer.sink) {
    long status = 0;
    (void)curl_easy_getinfo(transfer.easy.get(), CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200 && status <= 299) {
      transfer.refused = !transfer.sink({bytes, size});
      return transfer.refused ? 0 : size;
    }
  }
  std::string& body = transfer.response.body;
  if (body.size() + size > transfer.options.max_body) {
    transfer.too_large = true;
    return 0;
  }
  if (intake.full(size) && (intake.held || intake.large != &transfer)) {
    if (intake.held || (intake.large != nullptr && intake.large != &transfer)) {
      intake.waiting.push_back(&transfer);
      return CURL_WRITEFUNC_PAUSE;
    }
    intake.large = &transfer;
    // Where it is told how long it will be, it does not grow in steps to twice that.
    curl_off_t length = -1;
    curl_easy_getinfo(transfer.easy.get(), CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (length > 0) body.reserve(std::min(static_cast<std::uint64_t>(length), transfer.options.max_body));
  }
  body.append(bytes, size);
  intake.received += size;
  return size;
}

std::size_t HttpTransfer::on_send(char* to, std::size_t, std::size_t size, void* of) {
  auto& transfer = *static_cast<HttpTransfer*>(of);
  HttpFile const& file = transfer.file_;
  std::size_t const want = std::min<std::uint64_t>(size, file.size - transfer.file_sent_);
  ssize_t const got = ::pread(file.fd, to, want, static_cast<off_t>(file.offset + transfer.file_sent_));
  if (got < 0 || (got == 0 && want > 0)) return CURL_READFUNC_ABORT;
  transfer.file_sent_ += static_cast<std::uint64_t>(got);
  return static_cast<std::size_t>(got);
}

// libcurl sends again on a new connection what an idle one that was closed has not taken.
int HttpTransfer::on_seek(void* of, curl_off_t offset, int origin) {
  if (origin != SEEK_SET) return CURL_SEEKFUNC_CANTSEEK;
  static_cast<HttpTransfer*>(of)->file_sent_ = static_cast<std::uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

HttpTransfer::HttpTransfer(std::size_t number, HttpOptions const& all, HttpIntake& shared)
    : id(number), options(all), intake(shared), easy(curl_easy_init()) {
  if (!easy) throw std::bad_alloc();
  CURL* const handle = easy.get();
  response.header = [handle](char const* name) -> std::string_view {
    curl_header* found = nullptr;
    return curl_easy_header(handle, name, 0, CURLH_HEADER, -1, &found) == CURLHE_OK ? found->value : std::string_view{};
  };
  auto const ms = [](Duration d) { return static_cast<long>(std::max<std::int64_t>(1, d.count() / 1'000'000)); };
  set(handle, CURLOPT_PRIVATE, static_cast<void*>(this));
  set(handle, CURLOPT_WRITEDATA, static_cast<void*>(this));
  set(handle, CURLOPT_WRITEFUNCTION, &on_body);
  set(handle, CURLOPT_ERRORBUFFER, error_.data());
  set(handle, CURLOPT_NOSIGNAL, 1L);
  // A lookup that runs out of time is left to its thread: to wait for that would hold up all other transfers.
  set(handle, CURLOPT_QUICK_EXIT, 1L);
  set(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  set(handle, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
  if (options.decode) set(handle, CURLOPT_ACCEPT_ENCODING, "gzip, zstd");
  set(handle, CURLOPT_BUFFERSIZE, kReceiveBuffer);
  set(handle, CURLOPT_PATH_AS_IS, 1L);
  set(handle, CURLOPT_TCP_KEEPALIVE, 1L);
  set(handle, CURLOPT_USERAGENT, tool_name().c_str());
  set(handle, CURLOPT_TIMEOUT_MS, ms(options.timeout));
  set(handle, CURLOPT_CONNECTTIMEOUT_MS, ms(std::min(options.connect_timeout, options.timeout)));
  if (options.stall > Duration::zero()) {
    set(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(handle, CURLOPT_LOW_SPEED_TIME, std::max(1L, ms(options.stall) / 1000));
  }
  if (!options.ca_bundle.empty()) {
    set(handle, CURLOPT_CAINFO, options.ca_bundle.c_str());
  } else if (char const* file = environment("CURL_CA_BUNDLE")) {
    set(handle, CURLOPT_CAINFO, file);
  } else {
    if (char const* folder = environment("SSL_CERT_DIR")) set(handle, CURLOPT_CAPATH, folder);
    if (char const* bundle = environment("SSL_CERT_FILE")) set(handle, CURLOPT_CAINFO, bundle);
  }
}

void HttpTransfer::prepare(HttpRequest request, std::vector<std::string> const& headers) {
  CURL* const handle = easy.get();
  too_large = refused = false;
  sink = std::move(request.on_body);
  error_[0] = '\0';
  url_ = request.url;
  set(handle, CURLOPT_URL, request.url.c_str());
  // Requests to a host that may speak HTTP/2 wait for its first connection rather than open one each.
  set(handle, CURLOPT_PIPEWAIT, request.url.starts_with("https") ? 1L : 0L);

  set(handle, CURLOPT_FRESH_CONNECT, request.once ? 1L : 0L);

  bool const get = request.method == "GET";
  bool const head = request.method == "HEAD";
  set(handle, CURLOPT_CUSTOMREQUEST, static_cast<char const*>(nullptr));
  set(handle, CURLOPT_UPLOAD, 0L);
  if (get || head) {
    set(handle, CURLOPT_NOBODY, head ? 1L : 0L);
    if (get) set(handle, CURLOPT_HTTPGET, 1L);
  } else if (request.method == "DELETE" && request.body.empty() && request.file.fd < 0) {
    // Without the headers of a body that is not there (RFC 9110, 9.3.5).
    set(handle, CURLOPT_NOBODY, 0L);
    set(handle, CURLOPT_HTTPGET, 1L);
    set(handle, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  } else {
    set(handle, CURLOPT_NOBODY, 0L);
    if (request.file.fd >= 0) {
      file_ = request.file;
      file_sent_ = 0;
      set(handle, CURLOPT_UPLOAD, 1L);
      set(handle, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(file_.size));
      set(handle, CURLOPT_READDATA, static_cast<void*>(this));
      set(handle, CURLOPT_READFUNCTION, &on_send);
      set(handle, CURLOPT_SEEKDATA, static_cast<void*>(this));
      set(handle, CURLOPT_SEEKFUNCTION, &on_seek);
    } else {
      sent_ = std::move(request.body);
      set(handle, CURLOPT_POST, 1L);
      set(handle, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(sent_.size()));
      set(handle, CURLOPT_POSTFIELDS, sent_.c_str());
    }
    set(handle, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }
  curl_slist* list = nullptr;
  for (auto const* lines : {&headers, &std::as_const(request.headers)}) {
    for (std::string const& line : *lines) {
      curl_slist* const longer = curl_slist_append(list, line.c_str());
      if (longer == nullptr) throw std::bad_alloc();
      list = longer;
    }
  }
  if (!get && !head) list = curl_slist_append(list, "Expect:");  // a round trip for nothing
  set(handle, CURLOPT_HTTPHEADER, list);
  headers_.reset(list);
}

void HttpTransfer::conclude(CURLcode code, std::string const& reason, Time now) {
  long status = 0;
  curl_off_t micros = 0;
  (void)curl_easy_getinfo(easy.get(), CURLINFO_RESPONSE_CODE, &status);
  (void)curl_easy_getinfo(easy.get(), CURLINFO_TOTAL_TIME_T, &micros);
  response.status = static_cast<int>(status);
  response.elapsed = std::chrono::microseconds(micros);
  response.cause = too_large ? HttpCause::too_large : refused ? HttpCause::cut : cause_of(code);
  response.no_url = code == CURLE_URL_MALFORMAT;
  response.retry_after.reset();
  response.error.clear();
  if (response.cause == HttpCause::none && status != 304 && (status < 200 || status > 299))
    response.cause = HttpCause::status;
  if (response.cause == HttpCause::status) {
    response.error = fmt::format("{}: status {}", public_url(url_), status);
    if (status == 429 || status >= 500) response.retry_after = parse_retry_after(response.header("Retry-After"), now);
  } else if (response.cause != HttpCause::none) {
    response.error = redact(fmt::format("{}: {}", public_url(url_), reason.empty() ? why(code) : reason));
  }
  intake.received -= response.body.size();
  if (intake.large == this) intake.large = nullptr;
  std::erase(intake.waiting, this);
}

void HttpTransfer::release() {
  sink = nullptr;
  for (std::string* text : {&response.body, &sent_}) {
    text->clear();
    if (text->capacity() > kKept) std::string().swap(*text);  // assigned to, it would keep its memory
  }
}

std::string HttpTransfer::why(CURLcode code) const {
  if (too_large) return fmt::format("the answer is larger than {} bytes", options.max_body);
  if (refused) return "the rest of the answer is not wanted";
  if (code == CURLE_WRITE_ERROR) return "the answer is not encoded as it says";
  if (code == CURLE_OPERATION_TIMEDOUT) {
    curl_off_t resolved = 0, connected = 0;
    (void)curl_easy_getinfo(easy.get(), CURLINFO_NAMELOOKUP_TIME_T, &resolved);
    (void)curl_easy_getinfo(easy.get(), CURLINFO_PRETRANSFER_TIME_T, &connected);
    Duration const limit = std::min(options.connect_timeout, options.timeout);
    if (resolved == 0) return fmt::format("no address within {}", format_duration(limit));
    if (connected == 0) return fmt::format("no connection within {}", format_duration(limit));
    if (options.stall > Duration::zero() && response.elapsed < options.timeout)
      return fmt::format("nothing more came or went for {}", format_duration(options.stall));
    return fmt::format("no {} within {}", response.body.empty() ? "answer" : "end of the answer",
                       format_duration(options.timeout));
  }
  long error = 0;
  (void)curl_easy_getinfo(easy.get(), CURLINFO_OS_ERRNO, &error);
  if (code == CURLE_COULDNT_CONNECT && error != 0) return std::strerror(static_cast<int>(error));
  if (code == CURLE_GOT_NOTHING) return "the connection ended before an answer";
  if (code == CURLE_PARTIAL_FILE) return "the connection ended within the answer";
  return error_[0] != '\0' ? error_.data() : curl_easy_strerror(code);
}

std::optional<Duration> parse_retry_after(std::string_view text, Time now) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  if (text.empty()) return std::nullopt;
  if (text.find_first_not_of("0123456789") == std::string_view::npos) {
    std::int64_t seconds = 0;
    for (char const c : text.substr(0, 9)) seconds = seconds * 10 + (c - '0');
    return std::chrono::seconds(seconds);
  }
  std::time_t const at = curl_getdate(std::string(text).c_str(), nullptr);
  if (at < 0) return std::nullopt;
  // No more than a number may ask for: nanoseconds of all years do not fit.
  std::int64_t const seconds = std::min<std::int64_t>(at - now.ns / 1'000'000'000, 999'999'999);
  return std::max(Duration::zero(), Duration(std::chrono::seconds(seconds)) - Duration(now.ns % 1'000'000'000));
}

}  // namespace inflight

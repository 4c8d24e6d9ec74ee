#include "common/http.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>

#include "common/fd_io.h"
#include "common/handle.h"
#include "common/messages.h"
#include "common/stop.h"
#include "common/url.h"

namespace inflight {

namespace {

// Idle connections that are kept for the next request: a fleet of one host per unit needs one each.
constexpr long kConnections = 8192;
constexpr long kReceiveBuffer = 8 << 10;  // per transfer: the smaller, the less a thousand of them weigh
constexpr std::size_t kKeptBody = 64 << 10;

struct Transfer {
  std::size_t id = 0;
  Handle<CURL, curl_easy_cleanup> easy;
  Handle<curl_slist, curl_slist_free_all> headers;
  std::array<char, CURL_ERROR_SIZE> error{};
  std::string url;
  std::string sent;
  std::uint64_t max_body = 0;
  std::uint64_t* received = nullptr;
  bool too_large = false;
  HttpResponse response;
  HttpClient::Done done;
};

template <typename T>
void set(CURL* easy, CURLoption option, T value) {
  // It fails only for options that this libcurl was built without; the few that may be missing are set elsewhere.
  (void)curl_easy_setopt(easy, option, value);
}

std::size_t on_body(char* bytes, std::size_t, std::size_t size, void* to) {
  auto& transfer = *static_cast<Transfer*>(to);
  std::string& body = transfer.response.body;
  if (body.size() + size > transfer.max_body) {
    transfer.too_large = true;
    return 0;
  }
  body.append(bytes, size);
  *transfer.received += size;
  return size;
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
      return HttpCause::encoding;
    default:
      return HttpCause::protocol;
  }
}

std::string why(Transfer const& transfer, CURLcode code, HttpOptions const& options) {
  CURL* easy = transfer.easy.get();
  if (transfer.too_large) return fmt::format("the answer is larger than {} bytes", options.max_body);
  if (code == CURLE_OPERATION_TIMEDOUT) {
    curl_off_t connected = 0;
    (void)curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &connected);
    Duration const limit = std::min(options.connect_timeout, options.timeout);
    if (connected == 0) return fmt::format("no connection within {}", format_duration(limit));
    return fmt::format("no {} within {}", transfer.response.body.empty() ? "answer" : "end of the answer",
                       format_duration(options.timeout));
  }
  long error = 0;
  (void)curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &error);
  if (code == CURLE_COULDNT_CONNECT && error != 0) return std::strerror(static_cast<int>(error));
  if (code == CURLE_GOT_NOTHING) return "the connection ended before an answer";
  if (code == CURLE_PARTIAL_FILE) return "the connection ended within the answer";
  return transfer.error[0] != '\0' ? transfer.error.data() : curl_easy_strerror(code);
}

// As many descriptors as the connections may need, up to the hard limit; the limit that then holds.
std::uint64_t raise_descriptor_limit(std::uint64_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < wanted) {
    rlimit const raised{std::min<rlim_t>(wanted, limit.rlim_max), limit.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) return raised.rlim_cur;
  }
  return limit.rlim_cur;
}

char const* environment(char const* name) {
  char const* const value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

}  // namespace

std::string_view name_of(HttpCause cause) {
  static constexpr std::array<std::string_view, kHttpCauses> names = {
      "none", "resolve", "connect", "timeout", "tls", "cut", "too-large", "encoding", "protocol", "status"};
  return names[static_cast<std::size_t>(cause)];
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

struct HttpClient::State {
  HttpOptions options;
  Clock& clock;
  std::vector<std::string> headers;
  Fd epoll;
  Handle<CURLM, curl_multi_cleanup> multi;
  std::deque<Transfer> transfers;  // references stay valid
  std::vector<std::size_t> idle;
  std::size_t in_flight = 0;
  std::uint64_t received = 0;
  std::optional<Duration> timer;  // when libcurl wants to be called

  State(HttpOptions const& o, Clock& c) : options(o), clock(c) {}
  ~State() {
    for (Transfer& transfer : transfers) (void)curl_multi_remove_handle(multi.get(), transfer.easy.get());
    transfers.clear();
    multi.reset();  // calls on_socket and on_timer for what it closes
  }

  Status open();
  Transfer& idle_transfer();
  void finish(Transfer& transfer, CURLcode code, std::string const& reason);
  void collect();

  static int on_socket(CURL*, curl_socket_t fd, int what, void* self, void* known);
  static int on_timer(CURLM*, long milliseconds, void* self);
};

Status HttpClient::State::open() {
  if (options.max_in_flight == 0) return Status::usage("--max-in-flight: at least 1");
  static CURLcode const global = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (global != CURLE_OK) return Status::defect(fmt::format("libcurl: {}", curl_easy_strerror(global)));
  for (std::string const& path : options.header_files) {
    auto lines = read_header_file(path);
    if (!lines) return lines.status();
    headers.insert(headers.end(), lines->begin(), lines->end());
  }
  epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return Status::from_errno("epoll", errno);
  // A stop signal ends the waiting whichever thread it comes to; once, so that whoever drains does not spin.
  epoll_event stop{};
  stop.events = EPOLLIN | EPOLLET;
  stop.data.fd = stop_fd();
  (void)::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, stop.data.fd, &stop);
  multi.reset(curl_multi_init());
  if (!multi) return Status::temporary("libcurl: out of memory");

  constexpr std::uint64_t other = 64;  // descriptors that are no connections
  std::uint64_t const limit = raise_descriptor_limit(kConnections + options.max_in_flight + other);
  long const connections = static_cast<long>(limit > 2 * other ? limit - other : limit / 2);
  CURLM* m = multi.get();
  (void)curl_multi_setopt(m, CURLMOPT_SOCKETFUNCTION, &on_socket);
  (void)curl_multi_setopt(m, CURLMOPT_SOCKETDATA, this);
  (void)curl_multi_setopt(m, CURLMOPT_TIMERFUNCTION, &on_timer);
  (void)curl_multi_setopt(m, CURLMOPT_TIMERDATA, this);
  (void)curl_multi_setopt(m, CURLMOPT_MAXCONNECTS, std::min(connections, kConnections));
  (void)curl_multi_setopt(m, CURLMOPT_MAX_TOTAL_CONNECTIONS, connections);
  (void)curl_multi_setopt(m, CURLMOPT_MAX_HOST_CONNECTIONS, static_cast<long>(options.max_per_host));
  return {};
}

int HttpClient::State::on_socket(CURL*, curl_socket_t fd, int what, void* self, void* known) {
  auto& state = *static_cast<State*>(self);
  if (what == CURL_POLL_REMOVE) {
    (void)::epoll_ctl(state.epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
    return 0;
  }
  epoll_event event{};
  event.data.fd = fd;
  if ((what & CURL_POLL_IN) != 0) event.events |= EPOLLIN;
  if ((what & CURL_POLL_OUT) != 0) event.events |= EPOLLOUT;
  if (known == nullptr) (void)curl_multi_assign(state.multi.get(), fd, self);
  int const first = known == nullptr ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  int const second = known == nullptr ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  return ::epoll_ctl(state.epoll.get(), first, fd, &event) == 0 ||
                 ::epoll_ctl(state.epoll.get(), second, fd, &event) == 0
             ? 0
             : -1;
}

int HttpClient::State::on_timer(CURLM*, long milliseconds, void* self) {
  auto& state = *static_cast<State*>(self);
  state.timer.reset();
  if (milliseconds >= 0) state.timer = state.clock.steady() + std::chrono::milliseconds(milliseconds);
  return 0;
}

Transfer& HttpClient::State::idle_transfer() {
  if (!idle.empty()) {
    Transfer& transfer = transfers[idle.back()];
    idle.pop_back();
    return transfer;
  }
  Transfer& transfer = transfers.emplace_back();
  transfer.id = transfers.size() - 1;
  transfer.easy.reset(curl_easy_init());
  if (!transfer.easy) throw std::bad_alloc();
  transfer.max_body = options.max_body;
  transfer.received = &received;
  CURL* const easy = transfer.easy.get();
  transfer.response.header = [easy](char const* name) -> std::string_view {
    curl_header* found = nullptr;
    return curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &found) == CURLHE_OK ? found->value : std::string_view{};
  };
  auto const ms = [](Duration d) { return static_cast<long>(std::max<std::int64_t>(1, d.count() / 1'000'000)); };
  set(easy, CURLOPT_PRIVATE, static_cast<void*>(&transfer));
  set(easy, CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  set(easy, CURLOPT_WRITEFUNCTION, &on_body);
  set(easy, CURLOPT_ERRORBUFFER, transfer.error.data());
  set(easy, CURLOPT_NOSIGNAL, 1L);
  set(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  set(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
  set(easy, CURLOPT_ACCEPT_ENCODING, "gzip, zstd");
  set(easy, CURLOPT_BUFFERSIZE, kReceiveBuffer);
  set(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  set(easy, CURLOPT_USERAGENT, tool_name().c_str());
  set(easy, CURLOPT_TIMEOUT_MS, ms(options.timeout));
  set(easy, CURLOPT_CONNECTTIMEOUT_MS, ms(std::min(options.connect_timeout, options.timeout)));
  if (char const* file = environment("CURL_CA_BUNDLE")) {
    set(easy, CURLOPT_CAINFO, file);
  } else {
    if (char const* folder = environment("SSL_CERT_DIR")) set(easy, CURLOPT_CAPATH, folder);
    if (char const* bundle = environment("SSL_CERT_FILE")) set(easy, CURLOPT_CAINFO, bundle);
  }
  return transfer;
}

void HttpClient::State::finish(Transfer& transfer, CURLcode code, std::string const& reason) {
  CURL* const easy = transfer.easy.get();
  HttpResponse& response = transfer.response;
  long status = 0;
  curl_off_t micros = 0;
  (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  (void)curl_easy_getinfo(easy, CURLINFO_TOTAL_TIME_T, &micros);
  response.status = static_cast<int>(status);
  response.elapsed = std::chrono::microseconds(micros);
  response.cause = transfer.too_large ? HttpCause::too_large : cause_of(code);
  response.retry_after.reset();
  response.error.clear();
  if (response.cause == HttpCause::none && status != 304 && (status < 200 || status > 299))
    response.cause = HttpCause::status;
  if (response.cause == HttpCause::status) {
    response.error = fmt::format("{}: status {}", public_url(transfer.url), status);
    if (status == 429 || status == 503)
      response.retry_after = parse_retry_after(response.header("Retry-After"), clock.now());
  } else if (response.cause != HttpCause::none) {
    response.error =
        redact(fmt::format("{}: {}", public_url(transfer.url), reason.empty() ? why(transfer, code, options) : reason));
  }
  (void)curl_multi_remove_handle(multi.get(), easy);
  received -= std::min<std::uint64_t>(received, response.body.size());
  --in_flight;
  Done const done = std::move(transfer.done);
  done(response);
  response.body.clear();
  if (response.body.capacity() > kKeptBody) response.body = {};
  transfer.sent.clear();
  if (transfer.sent.capacity() > kKeptBody) transfer.sent = {};
  idle.push_back(transfer.id);
}

void HttpClient::State::collect() {
  int left = 0;
  while (CURLMsg const* message = curl_multi_info_read(multi.get(), &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode const code = message->data.result;
    char* transfer = nullptr;
    (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
    finish(*reinterpret_cast<Transfer*>(transfer), code, {});
  }
}

Result<std::unique_ptr<HttpClient>> HttpClient::make(HttpOptions const& options, Clock& clock) {
  auto state = std::make_unique<State>(options, clock);
  if (Status status = state->open(); !status.ok()) return status;
  return std::unique_ptr<HttpClient>(new HttpClient(std::move(state)));
}

HttpClient::HttpClient(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpClient::~HttpClient() = default;

HttpClient::Id HttpClient::start(HttpRequest const& request, Done done) {
  Transfer& transfer = state_->idle_transfer();
  CURL* const easy = transfer.easy.get();
  transfer.done = std::move(done);
  transfer.too_large = false;
  transfer.error[0] = '\0';
  transfer.url = request.url;
  set(easy, CURLOPT_URL, request.url.c_str());
  // Requests to a host that may speak HTTP/2 wait for its first connection rather than open one each.
  set(easy, CURLOPT_PIPEWAIT, request.url.starts_with("https") ? 1L : 0L);

  bool const get = request.method == "GET";
  bool const head = request.method == "HEAD";
  set(easy, CURLOPT_CUSTOMREQUEST, static_cast<char const*>(nullptr));
  if (get || head) {
    set(easy, CURLOPT_NOBODY, head ? 1L : 0L);
    if (get) set(easy, CURLOPT_HTTPGET, 1L);
  } else {
    transfer.sent = request.body;
    set(easy, CURLOPT_NOBODY, 0L);
    set(easy, CURLOPT_POST, 1L);
    set(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(transfer.sent.size()));
    set(easy, CURLOPT_POSTFIELDS, transfer.sent.c_str());
    set(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }
  curl_slist* list = nullptr;
  for (auto const* lines : {&std::as_const(state_->headers), &request.headers}) {
    for (std::string const& line : *lines) {
      curl_slist* const longer = curl_slist_append(list, line.c_str());
      if (longer == nullptr) throw std::bad_alloc();
      list = longer;
    }
  }
  if (!get && !head) list = curl_slist_append(list, "Expect:");  // a round trip for nothing
  set(easy, CURLOPT_HTTPHEADER, list);
  transfer.headers.reset(list);

  (void)curl_multi_add_handle(state_->multi.get(), easy);
  ++state_->in_flight;
  return transfer.id;
}

void HttpClient::cancel(Id id, std::string const& why) {
  state_->finish(state_->transfers[id], CURLE_OPERATION_TIMEDOUT, why);
}

std::size_t HttpClient::in_flight() const { return state_->in_flight; }
std::uint64_t HttpClient::received() const { return state_->received; }

Status HttpClient::turn(Duration wait) {
  State& s = *state_;
  if (s.timer) wait = std::min(wait, *s.timer - s.clock.steady());
  // Rounded up, as a wait that is cut off by a fraction of a millisecond would spin until its time has come.
  auto const milliseconds = std::clamp<std::int64_t>((wait.count() + 999'999) / 1'000'000, 0, 60'000);
  std::array<epoll_event, 256> events{};
  int const count =
      ::epoll_wait(s.epoll.get(), events.data(), static_cast<int>(events.size()), static_cast<int>(milliseconds));
  if (count < 0 && errno != EINTR) return Status::from_errno("epoll", errno);
  int running = 0;
  for (int i = 0; i < count; ++i) {
    epoll_event const& event = events[static_cast<std::size_t>(i)];
    if (event.data.fd == stop_fd()) continue;
    int mask = 0;
    if ((event.events & EPOLLIN) != 0) mask |= CURL_CSELECT_IN;
    if ((event.events & EPOLLOUT) != 0) mask |= CURL_CSELECT_OUT;
    if ((event.events & (EPOLLERR | EPOLLHUP)) != 0) mask |= CURL_CSELECT_ERR;
    (void)curl_multi_socket_action(s.multi.get(), event.data.fd, mask, &running);
  }
  if (s.timer && *s.timer <= s.clock.steady()) {
    s.timer.reset();
    (void)curl_multi_socket_action(s.multi.get(), CURL_SOCKET_TIMEOUT, 0, &running);
  }
  s.collect();
  return {};
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
  return std::max(Duration::zero(), Duration(std::chrono::seconds(at)) - Duration(now.ns));
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

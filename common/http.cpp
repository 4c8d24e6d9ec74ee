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
#include <functional>
#include <utility>
#include <vector>

#include "common/fd_io.h"
#include "common/handle.h"
#include "common/http_transfer.h"
#include "common/messages.h"
#include "common/stop.h"

namespace inflight {

namespace {

// Idle connections that are kept for the next request: a fleet of one host per unit needs one each.
constexpr std::uint64_t kConnections = 8192;
// After each request libcurl walks through all connections and all addresses that a multi handle knows. With thousands
// of hosts that is most of the work, so that they are divided among many handles, by host.
constexpr std::size_t kShards = 32;
constexpr std::uint64_t kStopEvent = ~std::uint64_t{0};

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

}  // namespace

struct HttpClient::State {
  struct Shard {
    State* state = nullptr;
    Handle<CURLM, curl_multi_cleanup> multi{};
    std::optional<Duration> timer{};  // when libcurl wants to be called
    bool used = false;
  };

  HttpOptions options;
  Clock& clock;
  std::vector<std::string> headers;
  Fd epoll;
  std::array<Shard, kShards> shards;
  std::size_t shard_count = kShards;
  std::uint64_t idle_connections = kConnections;
  std::deque<HttpTransfer> transfers;  // references stay valid
  std::vector<std::size_t> idle;
  std::size_t in_flight = 0;
  HttpIntake intake;

  State(HttpOptions const& o, Clock& c) : options(o), clock(c) {}
  ~State() {
    for (HttpTransfer& transfer : transfers) {
      if (transfer.multi != nullptr) (void)curl_multi_remove_handle(transfer.multi, transfer.easy.get());
    }
    transfers.clear();
    for (Shard& shard : shards) shard.multi.reset();  // calls on_socket and on_timer for what it closes
  }

  Status open();
  void spread_descriptors();
  Shard& shard_of(std::string_view url);
  void finish(HttpTransfer& transfer, CURLcode code, std::string const& reason);
  void go_on();
  void collect(Shard& shard);

  static int on_socket(CURL*, curl_socket_t fd, int what, void* to, void* known);
  static int on_timer(CURLM*, long milliseconds, void* to);
};

Status HttpClient::State::open() {
  if (options.max_in_flight == 0) return Status::usage("--max-in-flight: at least 1");
  if (options.timeout <= Duration::zero()) return Status::usage("--timeout: more than 0s");
  if (options.connect_timeout <= Duration::zero()) return Status::usage("--connect-timeout: more than 0s");
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
  stop.data.u64 = kStopEvent;
  (void)::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, stop_fd(), &stop);
  spread_descriptors();
  for (std::size_t i = 0; i < shard_count; ++i) {
    Shard& shard = shards[i];
    shard.state = this;
    shard.multi.reset(curl_multi_init());
    CURLM* const m = shard.multi.get();
    if (m == nullptr) return Status::temporary("libcurl: out of memory");
    (void)curl_multi_setopt(m, CURLMOPT_SOCKETFUNCTION, &on_socket);
    (void)curl_multi_setopt(m, CURLMOPT_SOCKETDATA, &shard);
    (void)curl_multi_setopt(m, CURLMOPT_TIMERFUNCTION, &on_timer);
    (void)curl_multi_setopt(m, CURLMOPT_TIMERDATA, &shard);
    (void)curl_multi_setopt(m, CURLMOPT_MAX_HOST_CONNECTIONS, static_cast<long>(options.max_per_host));
    // One shard: idle connections make room for new ones.
    if (shard_count == 1)
      (void)curl_multi_setopt(m, CURLMOPT_MAX_TOTAL_CONNECTIONS, static_cast<long>(idle_connections));
  }
  return {};
}

// Where descriptors are scarce there is one shard, as the connections of one cannot make room for those of another.
void HttpClient::State::spread_descriptors() {
  constexpr std::uint64_t other = 64;  // descriptors that are no connections
  std::uint64_t const wanted = kConnections + options.max_in_flight + 2 * kShards + other;
  std::uint64_t const limit = raise_descriptor_limit(wanted);
  if (limit >= wanted) return;
  shard_count = 1;
  idle_connections = limit > 2 * other ? limit - other : limit / 2;
  if (options.max_in_flight <= idle_connections) return;
  say_warning(fmt::format("--max-in-flight {}: only {}, as no more than {} descriptors are allowed (ulimit -n)",
                          options.max_in_flight, idle_connections, limit));
  options.max_in_flight = idle_connections;
}

HttpClient::State::Shard& HttpClient::State::shard_of(std::string_view url) {
  url.remove_prefix(std::min(url.size(), url.find("://") + 3));
  Shard& shard = shards[std::hash<std::string_view>{}(url.substr(0, url.find_first_of("/?#"))) % shard_count];
  if (shard.used) return shard;
  shard.used = true;
  auto const used = std::count_if(shards.begin(), shards.end(), [](Shard const& s) { return s.used; });
  long const each = static_cast<long>(idle_connections / static_cast<std::uint64_t>(used));
  for (Shard& s : shards) {
    if (s.used) (void)curl_multi_setopt(s.multi.get(), CURLMOPT_MAXCONNECTS, std::max(each, 1L));
  }
  return shard;
}

int HttpClient::State::on_socket(CURL*, curl_socket_t fd, int what, void* to, void* known) {
  auto& shard = *static_cast<Shard*>(to);
  int const epoll = shard.state->epoll.get();
  if (what == CURL_POLL_REMOVE) {
    (void)::epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr);
    return 0;
  }
  epoll_event event{};
  auto const index = static_cast<std::uint64_t>(&shard - shard.state->shards.data());
  event.data.u64 = index << 32 | static_cast<std::uint32_t>(fd);
  if ((what & CURL_POLL_IN) != 0) event.events |= EPOLLIN;
  if ((what & CURL_POLL_OUT) != 0) event.events |= EPOLLOUT;
  if (known == nullptr) (void)curl_multi_assign(shard.multi.get(), fd, to);
  int const first = known == nullptr ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  int const second = known == nullptr ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  return ::epoll_ctl(epoll, first, fd, &event) == 0 || ::epoll_ctl(epoll, second, fd, &event) == 0 ? 0 : -1;
}

int HttpClient::State::on_timer(CURLM*, long milliseconds, void* to) {
  auto& shard = *static_cast<Shard*>(to);
  shard.timer.reset();
  if (milliseconds >= 0) shard.timer = shard.state->clock.steady() + std::chrono::milliseconds(milliseconds);
  return 0;
}

void HttpClient::State::finish(HttpTransfer& transfer, CURLcode code, std::string const& reason) {
  transfer.conclude(code, reason, clock.now());
  (void)curl_multi_remove_handle(transfer.multi, transfer.easy.get());
  transfer.multi = nullptr;
  --in_flight;
  Done const done = std::move(transfer.done);
  done(transfer.response);
  transfer.release();
  idle.push_back(transfer.id);
  if (!intake.waiting.empty()) go_on();
}

// There is room again for bodies that wait.
void HttpClient::State::go_on() {
  std::vector<std::pair<HttpTransfer*, CURLcode>> failed;
  for (HttpTransfer* transfer : std::exchange(intake.waiting, {})) {
    if (intake.full() && (intake.held || (intake.large != nullptr && intake.large != transfer))) {
      intake.waiting.push_back(transfer);
    } else if (CURLcode const code = curl_easy_pause(transfer->easy.get(), CURLPAUSE_CONT); code != CURLE_OK) {
      failed.emplace_back(transfer, code);
    }
  }
  for (auto const& [transfer, code] : failed) finish(*transfer, code, {});
}

void HttpClient::State::collect(Shard& shard) {
  int left = 0;
  while (CURLMsg const* message = curl_multi_info_read(shard.multi.get(), &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode const code = message->data.result;
    char* transfer = nullptr;
    (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
    finish(*reinterpret_cast<HttpTransfer*>(transfer), code, {});
  }
}

Result<std::unique_ptr<HttpClient>> HttpClient::make(HttpOptions const& options, Clock& clock) {
  auto state = std::make_unique<State>(options, clock);
  if (Status status = state->open(); !status.ok()) return status;
  return std::unique_ptr<HttpClient>(new HttpClient(std::move(state)));
}

HttpClient::HttpClient(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpClient::~HttpClient() = default;

HttpClient::Id HttpClient::start(HttpRequest request, Done done) {
  State& s = *state_;
  if (s.idle.empty()) {
    s.idle.push_back(s.transfers.size());
    s.transfers.emplace_back(s.transfers.size(), s.options, s.intake);
  }
  HttpTransfer& transfer = s.transfers[s.idle.back()];
  s.idle.pop_back();
  transfer.multi = s.shard_of(request.url).multi.get();
  transfer.prepare(std::move(request), s.headers);
  transfer.done = std::move(done);
  (void)curl_multi_add_handle(transfer.multi, transfer.easy.get());
  ++s.in_flight;
  return transfer.id;
}

void HttpClient::cancel(Id id, std::string const& why) {
  state_->finish(state_->transfers[id], CURLE_OPERATION_TIMEDOUT, why);
}

std::uint64_t HttpClient::max_in_flight() const { return state_->options.max_in_flight; }
std::size_t HttpClient::in_flight() const { return state_->in_flight; }
std::uint64_t HttpClient::received() const { return state_->intake.received; }

bool HttpClient::hold(bool held) {
  HttpIntake& intake = state_->intake;
  bool const waiting = held && !intake.waiting.empty();
  if (std::exchange(intake.held, held) && !held) state_->go_on();
  return waiting;
}

Status HttpClient::turn(Duration wait) {
  State& s = *state_;
  Duration const begun = s.clock.steady();
  for (auto const& shard : s.shards) {
    if (shard.timer) wait = std::min(wait, *shard.timer - begun);
  }
  // Rounded up, as a wait that is cut off by a fraction of a millisecond would spin until its time has come.
  auto const milliseconds = std::clamp<std::int64_t>((wait.count() + 999'999) / 1'000'000, 0, 60'000);
  std::array<epoll_event, 256> events{};
  int const count =
      ::epoll_wait(s.epoll.get(), events.data(), static_cast<int>(events.size()), static_cast<int>(milliseconds));
  if (count < 0 && errno != EINTR) return Status::from_errno("epoll", errno);
  int running = 0;
  for (int i = 0; i < count; ++i) {
    epoll_event const& event = events[static_cast<std::size_t>(i)];
    if (event.data.u64 == kStopEvent) continue;
    int mask = 0;
    if ((event.events & EPOLLIN) != 0) mask |= CURL_CSELECT_IN;
    if ((event.events & EPOLLOUT) != 0) mask |= CURL_CSELECT_OUT;
    if ((event.events & (EPOLLERR | EPOLLHUP)) != 0) mask |= CURL_CSELECT_ERR;
    auto const fd = static_cast<curl_socket_t>(event.data.u64 & 0xffff'ffff);
    (void)curl_multi_socket_action(s.shards[event.data.u64 >> 32].multi.get(), fd, mask, &running);
  }
  Duration const now = s.clock.steady();
  for (auto& shard : s.shards) {
    if (shard.timer && *shard.timer <= now) {
      shard.timer.reset();
      (void)curl_multi_socket_action(shard.multi.get(), CURL_SOCKET_TIMEOUT, 0, &running);
    }
    if (shard.used) s.collect(shard);
  }
  return {};
}

}  // namespace inflight

// bsu-sim: a fleet of battery storage units that answers XML over HTTP, well or badly, as told.  Help: bsu-sim --help
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "tests/servers/bsu_fleet.h"
#include "tests/servers/held_connections.h"

namespace inflight::sim {
namespace {

using Clock = HeldConnections::Clock;
using std::chrono::milliseconds;

enum class Fault : std::uint8_t { none, slow, black_hole, error, malformed, reshape, cut };
constexpr std::string_view fault_names[] = {"none", "slow", "black-hole", "error", "malformed", "reshape", "cut"};

// What became of a request for a reading or for history. `abandoned`: the client hung up while it was held.
enum class Outcome : std::uint8_t {
  ok,
  not_modified,
  slow,
  black_hole,
  error,
  malformed,
  reshape,
  cut,
  history,
  abandoned
};
constexpr std::string_view outcome_names[] = {"ok",        "not_modified", "slow", "black_hole", "error",
                                              "malformed", "reshape",      "cut",  "history",    "abandoned"};
constexpr std::size_t outcome_count = std::size(outcome_names);

struct Options {
  std::size_t units = 100;
  std::uint64_t seed = 1;
  std::uint16_t port = 8400;
  unsigned threads = 1;
  std::vector<std::string> firmware;
  double sunspec = 0.1;
  std::string change_every;
  std::string cadence = "10s";
  std::string at;
  bool gzip = false;
  bool no_etag = false;
  std::string slow, black_hole, error, malformed, reshape, cut;
  std::string devices;
  std::string log;
};

// "10s", "250ms", "5m", "1h".
milliseconds parse_duration(std::string_view text) {
  double value = 0;
  auto const [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view const unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  double const scale = unit == "ms" ? 1 : unit == "s" ? 1e3 : unit == "m" ? 6e4 : unit == "h" ? 3.6e6 : 0;
  if (failed != std::errc() || !(value * scale >= 1 && value * scale < 1e12))
    throw std::invalid_argument(fmt::format("'{}' is not a duration like 250ms, 10s or 5m", text));
  return milliseconds(std::llround(value * scale));
}

// "0.2" or "20%".
double parse_share(std::string_view text) {
  double value = 0;
  auto const [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view const unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (unit == "%") value /= 100;
  if (failed != std::errc() || (!unit.empty() && unit != "%") || !(value >= 0 && value <= 1))
    throw std::invalid_argument(fmt::format("'{}' is not a share from 0 to 1, or from 0% to 100%", text));
  return value;
}

Fault parse_fault(std::string_view name) {
  auto const* found = std::find(std::begin(fault_names), std::end(fault_names), name);
  if (found == std::end(fault_names)) throw std::invalid_argument(fmt::format("'{}' is not a fault", name));
  return static_cast<Fault>(found - std::begin(fault_names));
}

// What happened at one unit. Written by the daemon's threads and read by any, each figure on its own.
struct Unit {
  static constexpr std::size_t recent_count = 8;
  std::atomic<Fault> fault{Fault::none};
  std::atomic<std::int64_t> delay{0};     // of slow answers, ms
  std::atomic<unsigned> error_status{0};  // 0: 500 and 503 in turn
  std::atomic<std::int64_t> newest{0};    // time of the newest reading given out
  std::atomic<std::uint32_t> faulty{0};   // faulty answers so far: which kind is next
  std::atomic<std::uint32_t> polls{0};
  std::atomic<std::int64_t> last_poll{0};  // steady, ms
  std::atomic<std::int64_t> min_gap{0};    // between two polls, ms; 0: not two yet
  std::atomic<std::int64_t> max_gap{0};
  std::array<std::atomic<std::int64_t>, recent_count> recent{};  // wall clock, ms, a ring by polls
  std::array<std::atomic<std::uint32_t>, outcome_count> outcomes{};

  void reset() {
    polls = 0;
    last_poll = min_gap = max_gap = 0;
    for (auto& r : recent) r = 0;
    for (auto& o : outcomes) o = 0;
  }
};

// A request that is or was held has its own; all others share one, which says that their headers were seen (an answer
// from within that first call would end the connection).
struct Request {
  bool gone = false;
};
Request seen;

std::int64_t wall_ms() {
  return std::chrono::duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}
std::int64_t steady_ms() { return std::chrono::duration_cast<milliseconds>(Clock::now().time_since_epoch()).count(); }

struct ResponseDeleter {
  void operator()(MHD_Response* response) const { MHD_destroy_response(response); }
};
using Response = std::unique_ptr<MHD_Response, ResponseDeleter>;

Response copied(std::string_view body) {
  // libmicrohttpd takes void* and, told to copy, does not write to it.
  return Response(MHD_create_response_from_buffer(body.size(), const_cast<char*>(body.data()), MHD_RESPMEM_MUST_COPY));
}

MHD_Result send(MHD_Connection* connection, unsigned status, std::string_view type, std::string_view body) {
  auto const response = copied(body);
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, type.data());
  return MHD_queue_response(connection, status, response.get());
}

// One deflate state per thread: setting one up costs more than compressing a document.
class Gzip {
 public:
  Gzip() {
    if (deflateInit2(&stream_, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
      throw std::bad_alloc();
  }
  ~Gzip() { deflateEnd(&stream_); }
  Gzip(Gzip const&) = delete;
  Gzip& operator=(Gzip const&) = delete;

  void compress(std::string& body) {
    deflateReset(&stream_);
    packed_.resize(deflateBound(&stream_, body.size()));
    stream_.next_in = reinterpret_cast<Bytef*>(body.data());
    stream_.avail_in = static_cast<uInt>(body.size());
    stream_.next_out = reinterpret_cast<Bytef*>(packed_.data());
    stream_.avail_out = static_cast<uInt>(packed_.size());
    deflate(&stream_, Z_FINISH);
    packed_.resize(stream_.total_out);
    body.swap(packed_);
  }

 private:
  z_stream stream_{};
  std::string packed_;
};

class Sim {
 public:
  explicit Sim(Options const& options);
  ~Sim();
  Sim(Sim const&) = delete;
  Sim& operator=(Sim const&) = delete;

  void start();
  [[nodiscard]] unsigned port() const { return port_; }
  void write_devices(std::string const& path) const;

 private:
  static MHD_Result on_request(void* self, MHD_Connection*, char const* url, char const* method, char const* version,
                               char const* upload, std::size_t* upload_size, void** state);
  static void on_completed(void* self, MHD_Connection*, void** state, MHD_RequestTerminationCode code);
  static void on_connection(void* self, MHD_Connection*, void** state, MHD_ConnectionNotificationCode code);

  MHD_Result route(MHD_Connection*, std::string_view url, bool post, void** state);
  MHD_Result unit_request(MHD_Connection*, std::size_t unit, bool history, void** state);
  MHD_Result reading(MHD_Connection*, std::size_t unit, bool late);
  MHD_Result history(MHD_Connection*, std::size_t unit);
  MHD_Result error(MHD_Connection*, std::size_t unit);
  MHD_Result control(MHD_Connection*);
  MHD_Result not_found(MHD_Connection*);
  MHD_Result bad_request(MHD_Connection*, std::string_view why);

  void share_faults(std::vector<std::size_t> const& order);
  std::size_t set_faults(MHD_Connection*);
  void count_poll(Unit& unit);
  void answered(std::size_t unit, Outcome outcome, unsigned status, std::int64_t time);
  [[nodiscard]] std::int64_t now() const { return fixed_now_ ? *fixed_now_ : wall_ms(); }
  std::int64_t next_time(Unit& unit) const;
  [[nodiscard]] bool unchanged(MHD_Connection*, std::string_view etag, std::int64_t time) const;
  [[nodiscard]] std::string fleet_stats() const;
  void append_unit_stats(std::string& out, std::size_t unit) const;

  Options const& options_;
  Fleet fleet_;
  std::vector<Unit> units_;
  std::int64_t change_every_ = 0;  // ms; 0: every answer is new
  std::int64_t cadence_ = 0;
  std::optional<std::int64_t> fixed_now_;
  int log_ = -1;
  std::atomic<std::uint64_t> sequence_{0};
  std::atomic<std::uint64_t> not_found_{0}, bad_requests_{0};
  std::atomic<std::int64_t> open_{0}, open_peak_{0}, accepted_{0};
  HeldConnections held_;
  MHD_Daemon* daemon_ = nullptr;
  unsigned port_ = 0;
};

std::vector<Firmware> chosen_firmware(std::vector<std::string> const& names) {
  // The weights of a grown fleet: the plain shape is the most common.
  if (names.empty())
    return {Firmware::attributes, Firmware::attributes, Firmware::attributes, Firmware::single,
            Firmware::elements,   Firmware::elements,   Firmware::latin1,     Firmware::namespaces};
  std::vector<Firmware> kinds;
  for (auto const& name : names) {
    auto const kind = firmware_named(name);
    if (!kind) throw std::invalid_argument(fmt::format("'{}' is not a firmware", name));
    kinds.push_back(*kind);
  }
  return kinds;
}

Sim::Sim(Options const& options)
    : options_(options),
      fleet_(options.units, options.seed, options.firmware.empty() ? options.sunspec : 0,
             chosen_firmware(options.firmware)),
      units_(options.units) {
  if (!options.change_every.empty()) change_every_ = parse_duration(options.change_every).count();
  cadence_ = parse_duration(options.cadence).count();
  if (!options.at.empty() && !(fixed_now_ = parse_time(options.at)))
    throw std::invalid_argument(fmt::format("'{}' is not a time as in RFC 3339", options.at));
  share_faults(fleet_.shuffled());
  if (!options.log.empty()) {
    log_ = open(options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log_ < 0) throw std::runtime_error(fmt::format("{}: {}", options.log, std::strerror(errno)));
  }
}

Sim::~Sim() {
  held_.release_all();
  if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
  if (log_ >= 0) close(log_);
}

// Each fault takes its share of the units from where the last one ended, so that they never overlap.
void Sim::share_faults(std::vector<std::size_t> const& order) {
  std::size_t next = 0;
  auto const take = [&](Fault fault, std::string const& text, std::int64_t delay = 0) {
    if (text.empty()) return;
    auto const wanted = static_cast<std::size_t>(std::llround(parse_share(text) * static_cast<double>(order.size())));
    if (next + wanted > order.size())
      throw std::invalid_argument("the shares of all faults together are more than the fleet");
    for (std::size_t i = 0; i < wanted; ++i, ++next) {
      units_[order[next]].delay = delay;
      units_[order[next]].fault = fault;
    }
  };
  if (!options_.slow.empty()) {
    auto const colon = options_.slow.find(':');
    if (colon == std::string::npos) throw std::invalid_argument("--slow wants SHARE:DURATION, as in 10%:2s");
    take(Fault::slow, options_.slow.substr(0, colon), parse_duration(options_.slow.substr(colon + 1)).count());
  }
  take(Fault::black_hole, options_.black_hole);
  take(Fault::error, options_.error);
  take(Fault::malformed, options_.malformed);
  take(Fault::reshape, options_.reshape);
  take(Fault::cut, options_.cut);
}

void Sim::start() {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 65536);
  setrlimit(RLIMIT_NOFILE, &files);
  auto const connections = static_cast<unsigned>(files.rlim_cur - std::min<rlim_t>(files.rlim_cur / 2, 64));

  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(options_.port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::vector<MHD_OptionItem> settings{
      {MHD_OPTION_SOCK_ADDR, 0, &address},
      {MHD_OPTION_LISTEN_BACKLOG_SIZE, 4096, nullptr},
      {MHD_OPTION_CONNECTION_LIMIT, static_cast<intptr_t>(connections), nullptr},
      {MHD_OPTION_CONNECTION_MEMORY_LIMIT, 8192, nullptr},
      {MHD_OPTION_NOTIFY_COMPLETED, reinterpret_cast<intptr_t>(&on_completed), this},
      {MHD_OPTION_NOTIFY_CONNECTION, reinterpret_cast<intptr_t>(&on_connection), this},
  };
  if (options_.threads > 1)
    settings.push_back({MHD_OPTION_THREAD_POOL_SIZE, static_cast<intptr_t>(options_.threads), nullptr});
  settings.push_back({MHD_OPTION_END, 0, nullptr});
  daemon_ = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, options_.port,
                             nullptr, nullptr, &on_request, this, MHD_OPTION_ARRAY, settings.data(), MHD_OPTION_END);
  if (daemon_ == nullptr)
    throw std::runtime_error(fmt::format("cannot listen on port {}: {}", options_.port, std::strerror(errno)));
  port_ = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_BIND_PORT)->port;
}

// Renamed into place, so that whoever waits for the file never reads half of it.
void Sim::write_devices(std::string const& path) const {
  std::string text;
  for (std::size_t unit = 0; unit < fleet_.size(); ++unit)
    text += fmt::format("{0} http://127.0.0.1:{1}/bsus/{0}\n", fleet_.id(unit), port_);
  std::string const part = path + ".part";
  std::FILE* file = std::fopen(part.c_str(), "w");
  bool good = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  good = (file != nullptr && std::fclose(file) == 0) && good;
  if (!good || std::rename(part.c_str(), path.c_str()) != 0)
    throw std::runtime_error(fmt::format("{}: {}", path, std::strerror(errno)));
}

void Sim::on_connection(void* self, MHD_Connection*, void**, MHD_ConnectionNotificationCode code) {
  auto& sim = *static_cast<Sim*>(self);
  if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
    --sim.open_;
    return;
  }
  ++sim.accepted_;
  std::int64_t const open = ++sim.open_;
  for (auto peak = sim.open_peak_.load(); peak < open && !sim.open_peak_.compare_exchange_weak(peak, open);) {
  }
}

void Sim::on_completed(void*, MHD_Connection*, void** state, MHD_RequestTerminationCode) {
  if (*state != &seen) delete static_cast<Request*>(*state);
  *state = nullptr;
}

MHD_Result Sim::on_request(void* self, MHD_Connection* connection, char const* url, char const* method, char const*,
                           char const*, std::size_t* upload_size, void** state) {
  auto& sim = *static_cast<Sim*>(self);
  if (*upload_size != 0) {  // a body says nothing here
    *upload_size = 0;
    return MHD_YES;
  }
  if (*state == nullptr) {
    *state = &seen;
    return MHD_YES;
  }
  bool const post = std::string_view(method) == MHD_HTTP_METHOD_POST;
  if (!post && std::string_view(method) != MHD_HTTP_METHOD_GET)
    return send(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "GET or POST\n");
  try {
    return sim.route(connection, url, post, state);
  } catch (std::exception const& e) {  // nothing may pass through the C library below
    return sim.bad_request(connection, e.what());
  }
}

MHD_Result Sim::not_found(MHD_Connection* connection) {
  ++not_found_;
  return send(connection, MHD_HTTP_NOT_FOUND, "text/plain", "not found\n");
}

MHD_Result Sim::bad_request(MHD_Connection* connection, std::string_view why) {
  ++bad_requests_;
  return send(connection, MHD_HTTP_BAD_REQUEST, "text/plain", fmt::format("{}\n", why));
}

MHD_Result Sim::route(MHD_Connection* connection, std::string_view url, bool post, void** state) {
  if (post) return url == "/control" ? control(connection) : not_found(connection);
  if (url.starts_with("/bsus/")) {
    auto id = url.substr(6);
    bool const with_history = id.ends_with("/history");
    if (with_history) id.remove_suffix(8);
    auto const unit = fleet_.find(id);
    return unit ? unit_request(connection, *unit, with_history, state) : not_found(connection);
  }
  if (url == "/bsus") {
    std::string ids;
    for (std::size_t unit = 0; unit < fleet_.size(); ++unit) (ids += fleet_.id(unit)) += '\n';
    return send(connection, MHD_HTTP_OK, "text/plain", ids);
  }
  if (url == "/stats") return send(connection, MHD_HTTP_OK, "application/json", fleet_stats());
  if (url.starts_with("/stats/")) {
    std::string text;
    if (url == "/stats/all") {
      for (std::size_t unit = 0; unit < fleet_.size(); ++unit) append_unit_stats(text, unit);
      return send(connection, MHD_HTTP_OK, "application/x-ndjson", text);
    }
    auto const unit = fleet_.find(url.substr(7));
    if (!unit) return not_found(connection);
    append_unit_stats(text, *unit);
    return send(connection, MHD_HTTP_OK, "application/json", text);
  }
  return not_found(connection);
}

MHD_Result Sim::unit_request(MHD_Connection* connection, std::size_t number, bool with_history, void** state) {
  Unit& unit = units_[number];
  Fault const fault = unit.fault;
  auto* request = static_cast<Request*>(*state);
  if (request == &seen) {
    if (!with_history) count_poll(unit);
    if (fault == Fault::slow || fault == Fault::black_hole) {
      if (fault == Fault::black_hole) ++unit.outcomes[static_cast<std::size_t>(Outcome::black_hole)];
      auto const until = fault == Fault::slow ? Clock::now() + milliseconds(unit.delay) : HeldConnections::never;
      request = new Request;
      *state = request;
      return held_.hold(connection, until, &request->gone) ? MHD_YES : MHD_NO;
    }
  } else if (request->gone) {
    // Gone from a black hole is counted as that already.
    if (fault != Fault::black_hole) ++unit.outcomes[static_cast<std::size_t>(Outcome::abandoned)];
    return MHD_NO;
  }
  if (fault == Fault::error) return error(connection, number);
  return with_history ? history(connection, number) : reading(connection, number, request != &seen);
}

void Sim::count_poll(Unit& unit) {
  auto const poll = unit.polls.fetch_add(1, std::memory_order_relaxed);
  unit.recent[poll % Unit::recent_count].store(wall_ms(), std::memory_order_relaxed);
  std::int64_t const time = steady_ms();
  std::int64_t const before = unit.last_poll.exchange(time, std::memory_order_relaxed);
  if (poll == 0) return;
  // Two threads meet here only if one unit is polled twice at once.
  std::int64_t const gap = time - before;
  if (gap > unit.max_gap) unit.max_gap = gap;
  if (poll == 1 || gap < unit.min_gap) unit.min_gap = gap;
}

void Sim::answered(std::size_t unit, Outcome outcome, unsigned status, std::int64_t time) {
  units_[unit].outcomes[static_cast<std::size_t>(outcome)].fetch_add(1, std::memory_order_relaxed);
  if (log_ < 0) return;
  // One write per line, before the answer leaves: what a client has is in the log, whoever is killed.
  thread_local std::string line;
  line.clear();
  auto const append = [&](std::string_view text) { line += text; };
  append("{\"sequence\":");
  append(fmt::format_int(sequence_.fetch_add(1) + 1).c_str());
  append(",\"unit\":\"");
  append(fleet_.id(unit));
  if (time != 0) {
    append("\",\"time\":\"");
    append_time(line, time);
  }
  append("\",\"status\":");
  append(fmt::format_int(status).c_str());
  append(",\"outcome\":\"");
  append(outcome_names[static_cast<std::size_t>(outcome)]);
  append("\",\"answered\":\"");
  append_time(line, wall_ms());
  append("\"}\n");
  if (write(log_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    // A test that compares with a log that has a hole would blame the wrong program.
    fmt::print(stderr, "bsu-sim: {}: {}\n", options_.log, std::strerror(errno));
    _exit(74);
  }
}

// Strictly later than the unit's last reading, unless values stand for a while.
std::int64_t Sim::next_time(Unit& unit) const {
  std::int64_t const time = now();
  if (change_every_ > 0) return time - time % change_every_;
  std::int64_t before = unit.newest.load(std::memory_order_relaxed);
  std::int64_t next = 0;
  do next = std::max(time, before + 1);
  while (!unit.newest.compare_exchange_weak(before, next, std::memory_order_relaxed));
  return next;
}

std::string_view request_header(MHD_Connection* connection, char const* name) {
  char const* value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

std::string_view argument(MHD_Connection* connection, char const* name) {
  char const* value = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

std::string http_date(std::int64_t time) {
  return fmt::format("{:%a, %d %b %Y %H:%M:%S} GMT", fmt::gmtime(static_cast<std::time_t>(time / 1000)));
}

// RFC 9110, section 13.2.2: If-Modified-Since speaks only where If-None-Match is absent.
bool Sim::unchanged(MHD_Connection* connection, std::string_view etag, std::int64_t time) const {
  auto const tags = request_header(connection, MHD_HTTP_HEADER_IF_NONE_MATCH);
  if (!options_.no_etag && !tags.empty()) return tags == "*" || tags.find(etag) != std::string_view::npos;
  auto const since = request_header(connection, MHD_HTTP_HEADER_IF_MODIFIED_SINCE);
  if (change_every_ < 1000 || since.empty()) return false;
  std::tm parsed{};
  if (strptime(since.data(), "%a, %d %b %Y %H:%M:%S GMT", &parsed) == nullptr) return false;
  return time / 1000 <= timegm(&parsed);
}

// A body that ends in the middle although its length promised more.
struct CutBody {
  std::string text;
  std::size_t end;
};

ssize_t read_cut_body(void* state, std::uint64_t position, char* out, std::size_t max) {
  auto const& body = *static_cast<CutBody*>(state);
  if (position >= body.end) return MHD_CONTENT_READER_END_WITH_ERROR;
  std::size_t const size = std::min(max, body.end - position);
  body.text.copy(out, size, position);
  return static_cast<ssize_t>(size);
}

MHD_Result Sim::reading(MHD_Connection* connection, std::size_t number, bool late) {
  Unit& unit = units_[number];
  Fault const fault = unit.fault;
  std::int64_t const time = next_time(unit);
  bool const healthy = fault == Fault::none || fault == Fault::slow;
  char etag[24];
  *fmt::format_to(etag, "\"{:016x}\"", mix(options_.seed, number, static_cast<std::uint64_t>(time))) = '\0';
  Outcome outcome = late ? Outcome::slow : Outcome::ok;
  std::string const modified = change_every_ >= 1000 ? http_date(time) : std::string();
  auto const label = [&](MHD_Response* response) {
    if (!options_.no_etag) MHD_add_response_header(response, MHD_HTTP_HEADER_ETAG, etag);
    if (!modified.empty()) MHD_add_response_header(response, MHD_HTTP_HEADER_LAST_MODIFIED, modified.c_str());
  };
  if (healthy && unchanged(connection, etag, time)) {
    answered(number, Outcome::not_modified, MHD_HTTP_NOT_MODIFIED, time);
    auto const response = copied({});
    label(response.get());
    return MHD_queue_response(connection, MHD_HTTP_NOT_MODIFIED, response.get());
  }

  thread_local std::string body;
  body.clear();
  Reading const values = fleet_.read(number, time);
  unsigned const turn = fault == Fault::none ? 0 : unit.faulty.fetch_add(1, std::memory_order_relaxed);
  unsigned const first = static_cast<unsigned>(mix(options_.seed, number, 4) % 1024);
  switch (fault) {
    case Fault::malformed:
      outcome = Outcome::malformed;
      fleet_.broken_document(body, number, values, first + turn);
      break;
    case Fault::reshape: {
      outcome = Outcome::reshape;
      auto const shape = (first + turn) % (firmware_count + 1);
      if (shape == firmware_count)
        fleet_.odd_document(body, number, values);
      else
        fleet_.document(body, number, values, static_cast<Firmware>(shape));
      break;
    }
    default:
      fleet_.document(body, number, values, fleet_.firmware(number));
  }
  if (fault == Fault::cut) {
    answered(number, Outcome::cut, MHD_HTTP_OK, time);
    auto* cut = new CutBody{body, body.size() / 2};
    Response const response(MHD_create_response_from_callback(body.size(), 4096, &read_cut_body, cut,
                                                              [](void* p) { delete static_cast<CutBody*>(p); }));
    MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, "application/xml");
    return MHD_queue_response(connection, MHD_HTTP_OK, response.get());
  }
  bool const pack = options_.gzip &&
                    request_header(connection, MHD_HTTP_HEADER_ACCEPT_ENCODING).find("gzip") != std::string_view::npos;
  if (pack) {
    thread_local Gzip gzip;
    gzip.compress(body);
  }
  answered(number, outcome, MHD_HTTP_OK, time);
  auto const response = copied(body);
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, "application/xml");
  if (pack) MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
  if (options_.gzip) MHD_add_response_header(response.get(), MHD_HTTP_HEADER_VARY, "Accept-Encoding");
  label(response.get());
  return MHD_queue_response(connection, MHD_HTTP_OK, response.get());
}

MHD_Result Sim::error(MHD_Connection* connection, std::size_t number) {
  Unit& unit = units_[number];
  unsigned status = unit.error_status;
  if (status == 0)
    status = unit.faulty.fetch_add(1, std::memory_order_relaxed) % 2 == 0 ? MHD_HTTP_INTERNAL_SERVER_ERROR
                                                                          : MHD_HTTP_SERVICE_UNAVAILABLE;
  answered(number, Outcome::error, status, 0);
  auto const response = copied("<error>the unit's controller does not answer</error>\n");
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, "application/xml");
  if (status == MHD_HTTP_SERVICE_UNAVAILABLE || status == MHD_HTTP_TOO_MANY_REQUESTS)
    MHD_add_response_header(response.get(), MHD_HTTP_HEADER_RETRY_AFTER, "1");
  return MHD_queue_response(connection, status, response.get());
}

// Made while it is sent, so that a year of readings costs one block of memory.
struct HistoryBody {
  Fleet const& fleet;
  std::size_t unit;
  std::int64_t next, until, cadence;
  Fault fault;
  std::string ready{};   // made
  std::size_t sent = 0;  // of which this much was taken
  bool ended = false;

  void make_more() {
    ready.clear();
    sent = 0;
    for (; next < until && ready.size() < 16'384; next += cadence)
      Fleet::history_reading(ready, fleet.read(unit, next));
    if (next < until) return;
    ended = true;
    if (fault != Fault::cut && fault != Fault::malformed) Fleet::history_end(ready);
  }
};

ssize_t read_history(void* state, std::uint64_t, char* out, std::size_t max) {
  auto& body = *static_cast<HistoryBody*>(state);
  if (body.sent == body.ready.size() && !body.ended) body.make_more();
  std::size_t const size = std::min(max, body.ready.size() - body.sent);
  if (size == 0) return body.fault == Fault::cut ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
  body.ready.copy(out, size, body.sent);
  body.sent += size;
  return static_cast<ssize_t>(size);
}

MHD_Result Sim::history(MHD_Connection* connection, std::size_t number) {
  auto const since = parse_time(argument(connection, "since"));
  auto const until = parse_time(argument(connection, "until"));
  if (!since || !until) return bad_request(connection, "history wants since= and until= as in RFC 3339");
  if (*until < *since) return bad_request(connection, "until is before since");
  Fault const fault = units_[number].fault;
  Outcome const outcome = fault == Fault::cut         ? Outcome::cut
                          : fault == Fault::malformed ? Outcome::malformed
                                                      : Outcome::history;
  // Readings stand at multiples of the cadence, in [since, until), and none in the future.
  std::int64_t const behind = ((*since % cadence_) + cadence_) % cadence_;
  std::int64_t const first = behind == 0 ? *since : *since - behind + cadence_;
  auto* body = new HistoryBody{fleet_, number, first, std::min(*until, now() + 1), cadence_, fault};
  fleet_.history_begin(body->ready, number, *since, *until);
  answered(number, outcome, MHD_HTTP_OK, 0);
  Response const response(MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 32'768, &read_history, body,
                                                            [](void* p) { delete static_cast<HistoryBody*>(p); }));
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, "application/xml");
  return MHD_queue_response(connection, MHD_HTTP_OK, response.get());
}

std::size_t Sim::set_faults(MHD_Connection* connection) {
  Fault const fault = parse_fault(argument(connection, "fault"));
  auto const duration = argument(connection, "duration");
  std::int64_t const delay = duration.empty() ? 1000 : parse_duration(duration).count();
  auto const status = argument(connection, "status");
  unsigned code = 0;
  if (!status.empty()) {
    std::from_chars(status.data(), status.data() + status.size(), code);
    if (code < 400 || code > 599) throw std::invalid_argument("status is from 400 to 599");
  }
  std::vector<std::size_t> chosen;
  auto names = argument(connection, "unit");
  auto const share = argument(connection, "share");
  if (names.empty() == share.empty()) throw std::invalid_argument("give unit=ID[,ID…], unit=all or share=SHARE");
  if (!share.empty() || names == "all") {
    chosen = fleet_.shuffled();
    if (!share.empty())
      chosen.resize(static_cast<std::size_t>(std::llround(parse_share(share) * static_cast<double>(chosen.size()))));
  } else {
    while (!names.empty()) {
      auto const name = names.substr(0, names.find(','));
      names.remove_prefix(std::min(names.size(), name.size() + 1));
      auto const unit = fleet_.find(name);
      if (!unit) throw std::invalid_argument(fmt::format("'{}' is not a unit", name));
      chosen.push_back(*unit);
    }
  }
  for (auto unit : chosen) {
    units_[unit].delay = delay;
    units_[unit].error_status = code;
    units_[unit].fault = fault;
  }
  return chosen.size();
}

MHD_Result Sim::control(MHD_Connection* connection) {
  std::size_t changed = 0;
  auto const reset = argument(connection, "reset");
  if (!argument(connection, "fault").empty())
    changed = set_faults(connection);
  else if (reset != "stats")
    return bad_request(connection, "give fault=NAME or reset=stats");
  if (reset == "stats") {
    for (auto& unit : units_) unit.reset();
    not_found_ = bad_requests_ = 0;
  }
  return send(connection, MHD_HTTP_OK, "application/json", fmt::format("{{\"changed\":{}}}\n", changed));
}

std::string Sim::fleet_stats() const {
  std::array<std::uint64_t, outcome_count> outcomes{};
  std::array<std::size_t, std::size(fault_names)> faults{};
  std::uint64_t polls = 0;
  std::uint32_t least = UINT32_MAX, most = 0;
  std::int64_t max_gap = 0, max_since = 0;
  std::int64_t const time = steady_ms();
  for (auto const& unit : units_) {
    for (std::size_t i = 0; i < outcome_count; ++i) outcomes[i] += unit.outcomes[i];
    polls += unit.polls;
    Fault const fault = unit.fault;
    ++faults[static_cast<std::size_t>(fault)];
    if (fault != Fault::none) continue;
    least = std::min(least, unit.polls.load());
    most = std::max(most, unit.polls.load());
    max_gap = std::max(max_gap, unit.max_gap.load());
    if (unit.polls > 0) max_since = std::max(max_since, time - unit.last_poll);
  }
  std::string out = fmt::format("{{\"units\":{},\"polls\":{},\"outcomes\":{{", fleet_.size(), polls);
  for (std::size_t i = 0; i < outcome_count; ++i)
    out += fmt::format("{}\"{}\":{}", i == 0 ? "" : ",", outcome_names[i], outcomes[i]);
  out += "},\"faults\":{";
  for (std::size_t i = 0; i < faults.size(); ++i)
    out += fmt::format("{}\"{}\":{}", i == 0 ? "" : ",", fault_names[i], faults[i]);
  out += fmt::format(
      "}},\"healthy\":{{\"units\":{},\"least_polls\":{},\"most_polls\":{},\"max_gap_ms\":{},\"max_since_last_ms\":{}}},"
      "\"not_found\":{},\"bad_requests\":{},\"connections\":{{\"open\":{},\"peak\":{},\"accepted\":{}}},"
      "\"held\":{{\"now\":{},\"peak\":{}}}}}\n",
      faults[0], faults[0] == 0 ? 0 : least, most, max_gap, max_since, not_found_.load(), bad_requests_.load(),
      open_.load(), open_peak_.load(), accepted_.load(), held_.now(), held_.peak());
  return out;
}

void Sim::append_unit_stats(std::string& out, std::size_t number) const {
  Unit const& unit = units_[number];
  std::uint32_t const polls = unit.polls;
  out += fmt::format(
      "{{\"id\":\"{}\",\"firmware\":\"{}\",\"fault\":\"{}\",\"polls\":{},\"min_gap_ms\":{},\"max_gap_ms\":{}",
      fleet_.id(number), name_of(fleet_.firmware(number)), fault_names[static_cast<std::size_t>(unit.fault.load())],
      polls, unit.min_gap.load(), unit.max_gap.load());
  if (polls > 0) out += fmt::format(",\"since_last_ms\":{}", steady_ms() - unit.last_poll);
  out += ",\"last_polls\":[";
  auto const kept = std::min<std::uint32_t>(polls, Unit::recent_count);
  for (std::uint32_t i = polls - kept; i < polls; ++i) {
    out += i == polls - kept ? "\"" : ",\"";
    append_time(out, unit.recent[i % Unit::recent_count]);
    out += '"';
  }
  out += "],\"outcomes\":{";
  for (std::size_t i = 0; i < outcome_count; ++i)
    out += fmt::format("{}\"{}\":{}", i == 0 ? "" : ",", outcome_names[i], unit.outcomes[i].load());
  out += "}}\n";
}

void add_options(CLI::App& app, Options& o) {
  app.description("A fleet of battery storage units on loopback, deterministic by seed, that can be told to fail.");
  app.add_option("--units", o.units, "size of the fleet: bsu-00001 …")
      ->capture_default_str()
      ->check(CLI::Range(1, 9'999'999));
  app.add_option("--seed", o.seed, "another seed, another fleet")->capture_default_str();
  app.add_option("--port", o.port, "0: any that is free")->capture_default_str();
  app.add_option("--threads", o.threads, "threads that answer")->capture_default_str()->check(CLI::Range(1, 16));
  app.add_option("--firmware", o.firmware, "only these: attributes single elements latin1 namespaces sunspec")
      ->delimiter(',');
  app.add_option("--sunspec", o.sunspec, "share that speaks SunSpec Data Exchange, without --firmware")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--change-every", o.change_every,
                 "values stand this long (304 until then); default: each answer is new");
  app.add_option("--cadence", o.cadence, "distance of the readings of the history")->capture_default_str();
  app.add_option("--at", o.at, "the fleet's clock stands at this RFC 3339 time; each answer of a unit is 1 ms later");
  app.add_flag("--gzip", o.gzip, "compress for clients that accept gzip");
  app.add_flag("--no-etag", o.no_etag, "no ETag: with --change-every, Last-Modified alone");
  app.add_option("--devices", o.devices, "write 'id URL' lines here when ready");
  app.add_option("--log", o.log,
                 "append one NDJSON line per answer of a unit: sequence, unit, time of the reading, outcome");
  std::string const faults = "Faults, each for a share of the units (0.2 or 20%), the same ones by seed";
  app.add_option("--slow", o.slow, "SHARE:DURATION, answers late")->group(faults);
  app.add_option("--black-hole", o.black_hole, "accepts and never answers")->group(faults);
  app.add_option("--error", o.error, "500, and 503 with Retry-After, in turn")->group(faults);
  app.add_option("--malformed", o.malformed, "XML that no parser may accept, six kinds in turn")->group(faults);
  app.add_option("--reshape", o.reshape, "good XML, another shape each time")->group(faults);
  app.add_option("--cut", o.cut, "the connection ends in the middle of the body")->group(faults);
  app.footer(
      "GET  /bsus/ID                        a reading, as XML\n"
      "GET  /bsus/ID/history?since=&until=  its readings in [since, until), one <reading> each\n"
      "GET  /bsus                           all ids, one a line\n"
      "GET  /stats  /stats/ID  /stats/all   counters as JSON; all: NDJSON, one line per unit\n"
      "POST "
      "/control?unit=ID[,ID]|all&fault=none|slow|black-hole|error|malformed|reshape|cut[&duration=2s][&status=429]\n"
      "POST /control?share=20%25&fault=…    the same for a share of the units\n"
      "POST /control?reset=stats");
}

int run(Options const& options) {
  // Blocked before any thread starts, so that only sigwait below takes them.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  signal(SIGPIPE, SIG_IGN);

  Sim sim(options);
  sim.start();
  if (!options.devices.empty()) sim.write_devices(options.devices);
  fmt::print("bsu-sim: listening on http://127.0.0.1:{}\n", sim.port());
  std::fflush(stdout);
  int got = 0;
  sigwait(&stop, &got);
  return 0;
}

}  // namespace
}  // namespace inflight::sim

int main(int argc, char** argv) {
  CLI::App app;
  inflight::sim::Options options;
  inflight::sim::add_options(app, options);
  try {
    app.parse(argc, argv);
    return inflight::sim::run(options);
  } catch (CLI::ParseError const& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    fmt::print(stderr, "bsu-sim: {}\n", e.what());
    return 2;
  } catch (std::invalid_argument const& e) {
    fmt::print(stderr, "bsu-sim: {}\n", e.what());
    return 2;
  } catch (std::exception const& e) {
    fmt::print(stderr, "bsu-sim: {}\n", e.what());
    return 1;
  }
}

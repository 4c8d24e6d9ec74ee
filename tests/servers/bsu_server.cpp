#include "tests/servers/bsu_server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <stdexcept>

#include "tests/servers/bsu_bodies.h"
#include "tests/servers/sim_units.h"

namespace inflight::sim {

using Clock = HeldConnections::Clock;
using std::chrono::milliseconds;

namespace {

// A request that is or was held has its own; all others share one, which says that their headers were seen (an answer
// from within that first call would end the connection).
struct Request {
  bool gone = false;
};
Request seen;

MHD_Result send(MHD_Connection* connection, unsigned status, std::string_view type, std::string_view body) {
  auto const response = copied(body);
  MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, type.data());
  return MHD_queue_response(connection, status, response.get());
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

}  // namespace

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
      for (std::size_t unit = 0; unit < fleet_.size(); ++unit) text += unit_stats(unit);
      return send(connection, MHD_HTTP_OK, "application/x-ndjson", text);
    }
    auto const unit = fleet_.find(url.substr(7));
    if (!unit) return not_found(connection);
    return send(connection, MHD_HTTP_OK, "application/json", unit_stats(*unit));
  }
  return not_found(connection);
}

MHD_Result Sim::unit_request(MHD_Connection* connection, std::size_t number, bool with_history, void** state) {
  Unit& unit = units_[number];
  Fault const fault = unit.fault;
  auto* request = static_cast<Request*>(*state);
  if (request == &seen) {
    if (!with_history) unit.count_poll();
    if (fault == Fault::slow || fault == Fault::black_hole) {
      if (fault == Fault::black_hole) unit.count(Outcome::black_hole);
      auto const until = fault == Fault::slow ? Clock::now() + milliseconds(unit.delay) : HeldConnections::never;
      request = new Request;
      *state = request;
      return held_.hold(connection, until, &request->gone) ? MHD_YES : MHD_NO;
    }
  } else if (request->gone) {
    // Gone from a black hole is counted as that already.
    if (fault != Fault::black_hole) unit.count(Outcome::abandoned);
    return MHD_NO;
  }
  if (fault == Fault::error) return error(connection, number);
  return with_history ? history(connection, number) : reading(connection, number, request != &seen);
}

void Sim::answered(std::size_t unit, Outcome outcome, unsigned status, std::int64_t time) {
  units_[unit].count(outcome);
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
    auto const response = cut_off(body);
    MHD_add_response_header(response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, "application/xml");
    return MHD_queue_response(connection, MHD_HTTP_OK, response.get());
  }
  bool const pack = options_.gzip &&
                    request_header(connection, MHD_HTTP_HEADER_ACCEPT_ENCODING).find("gzip") != std::string_view::npos;
  if (pack) compress(body);
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
  HistoryEnd const end = fault == Fault::cut         ? HistoryEnd::cut
                         : fault == Fault::malformed ? HistoryEnd::missing
                                                     : HistoryEnd::good;
  std::string begin;
  fleet_.history_begin(begin, number, *since, *until);
  answered(number, outcome, MHD_HTTP_OK, 0);
  auto const response = history_body(fleet_, number, first, std::min(*until, now() + 1), cadence_, end, begin);
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
  std::string out = "{";
  append_stats(out, units_);
  out += fmt::format(
      ",\"not_found\":{},\"bad_requests\":{},\"connections\":{{\"open\":{},\"peak\":{},\"accepted\":{}}},"
      "\"held\":{{\"now\":{},\"peak\":{}}}}}\n",
      not_found_.load(), bad_requests_.load(), open_.load(), open_peak_.load(), accepted_.load(), held_.now(),
      held_.peak());
  return out;
}

std::string Sim::unit_stats(std::size_t unit) const {
  std::string out;
  append_stats(out, fleet_.id(unit), name_of(fleet_.firmware(unit)), units_[unit]);
  return out;
}

}  // namespace inflight::sim

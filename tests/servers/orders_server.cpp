#include "tests/servers/orders_server.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

namespace inflight::sim {

using nlohmann::json;
using Outcome = OrdersStore::Outcome;

namespace {

constexpr std::string_view kOrders = "/orders";

std::string error_body(std::string_view why) { return std::string(why) + "\n"; }

// A path as it is written; it stays so, as a C string would end at %00. Nothing: it is no good.
std::optional<std::string> decoded(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    std::size_t value = 0;
    for (char const digit : text.substr(i + 1, 2)) {
      std::size_t const found = digits.find(static_cast<char>(digit >= 'A' && digit <= 'F' ? digit + 32 : digit));
      if (found == std::string_view::npos) return std::nullopt;
      value = value * 16 + found;
    }
    if (value == 0) return std::nullopt;
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

std::size_t as_written(void*, MHD_Connection*, char* text) { return std::strlen(text); }

}  // namespace

OrdersServer::OrdersServer(OrdersOptions const& options)
    : options_(options), store_(options.database, options.connections) {
  if (options.conflict != 409 && options.conflict != 412) throw std::invalid_argument("--conflict wants 409 or 412");
}

OrdersServer::~OrdersServer() {
  {
    std::lock_guard const lock(mutex_);
    ending_ = true;
    ending_changed_.notify_all();
  }
  if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
}

void OrdersServer::start() {
  store_.prepare();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(options_.port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  daemon_ =
      MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION, options_.port, nullptr, nullptr,
                       &on_request, this, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_NOTIFY_COMPLETED, &on_completed,
                       this, MHD_OPTION_UNESCAPE_CALLBACK, &as_written, nullptr, MHD_OPTION_LISTEN_BACKLOG_SIZE, 1024U,
                       MHD_OPTION_THREAD_STACK_SIZE, std::size_t{512} << 10, MHD_OPTION_END);
  if (daemon_ == nullptr)
    throw std::runtime_error(fmt::format("cannot listen on port {}: {}", options_.port, std::strerror(errno)));
  port_ = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_BIND_PORT)->port;
}

void OrdersServer::on_completed(void* self, MHD_Connection*, void** state, MHD_RequestTerminationCode) {
  std::unique_ptr<Request> const request(static_cast<Request*>(*state));
  *state = nullptr;
  if (request) static_cast<OrdersServer*>(self)->end(*request, 0);
}

MHD_Result OrdersServer::begin(MHD_Connection*, std::string_view url, std::string const& method, void** state) {
  auto request = std::make_unique<Request>();
  request->method = method;
  if (url.starts_with(kOrders)) {
    request->key = url.substr(kOrders.size());
    request->counted = true;
    std::lock_guard const lock(mutex_);
    ++counters_.requests;
    ++counters_.by_method[method];
    counters_.most = std::max(counters_.most, ++under_way_);
    if (request->key.size() > 1)
      counters_.most_of_a_key = std::max(counters_.most_of_a_key, ++under_way_of_[request->key]);
  }
  *state = request.release();
  return MHD_YES;
}

void OrdersServer::end(Request& request, unsigned status) {
  if (!std::exchange(request.counted, false)) return;
  std::lock_guard const lock(mutex_);
  --under_way_;
  if (auto const found = under_way_of_.find(request.key); found != under_way_of_.end() && --found->second == 0)
    under_way_of_.erase(found);
  ++counters_.by_status[status == 0 ? "none" : std::to_string(status)];
}

MHD_Result OrdersServer::on_request(void* self, MHD_Connection* connection, char const* url, char const* method,
                                    char const*, char const* upload, std::size_t* upload_size, void** state) {
  auto& server = *static_cast<OrdersServer*>(self);
  if (*state == nullptr) return server.begin(connection, url, method, state);
  auto& request = *static_cast<Request*>(*state);
  if (*upload_size != 0) {
    request.too_large |= request.body.size() + *upload_size > server.options_.max_body;
    if (!request.too_large) request.body.append(upload, *upload_size);
    *upload_size = 0;
    return MHD_YES;
  }
  try {
    std::string_view const path = url;
    if (path == kOrders && request.method == "GET") return server.list(connection, request);
    if (path.starts_with("/_")) return server.send(connection, request, server.admin(path, request));
    if (path.starts_with(kOrders) && request.key.size() > 1 && request.key[0] == '/')
      return server.send(connection, request, server.order(connection, request));
    return server.send(connection, request, {404, error_body("there is /orders and /orders/KEY")});
  } catch (std::invalid_argument const& e) {
    return server.send(connection, request, {400, error_body(e.what())});
  } catch (std::exception const& e) {  // nothing may pass through the C library below
    return server.send(connection, request, {500, error_body(e.what())});
  }
}

MHD_Result OrdersServer::send(MHD_Connection* connection, Request& request, Answer const& answer) {
  end(request, answer.close ? 0 : answer.status);
  if (answer.close) return MHD_NO;
  MHD_Response* response =
      MHD_create_response_from_buffer(answer.body.size(), const_cast<char*>(answer.body.data()), MHD_RESPMEM_MUST_COPY);
  if (!answer.body.empty())
    MHD_add_response_header(response, "Content-Type", answer.status < 300 ? "application/json" : "text/plain");
  if (!answer.retry_after.empty()) MHD_add_response_header(response, "Retry-After", answer.retry_after.c_str());
  if (!answer.allow.empty()) MHD_add_response_header(response, "Allow", answer.allow.c_str());
  MHD_Result const queued = MHD_queue_response(connection, answer.status, response);
  MHD_destroy_response(response);
  return queued;
}

void OrdersServer::wait(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  ending_changed_.wait_for(lock, time, [&] { return ending_; });
}

OrdersServer::Answer OrdersServer::no_connection() {
  std::lock_guard const lock(mutex_);
  ++counters_.no_connection;
  return {503, error_body("all connections to the database are in use"), options_.retry_after};
}

OrdersServer::Answer OrdersServer::order(MHD_Connection* connection, Request const& request) {
  std::optional<std::string> key = decoded(std::string_view(request.key).substr(1));
  if (!key) return {400, error_body("the key is not percent-encoded as it should be")};
  if (request.method != "GET" && request.method != "PUT" && request.method != "DELETE")
    return {405, error_body("GET, PUT or DELETE"), "", "GET, PUT, DELETE"};
  auto const failure = rules_.failure(request.method);
  if (failure) {
    std::lock_guard const lock(mutex_);
    ++counters_.failed;
  }
  if (failure && !failure->close_after) {
    Answer answer{failure->status, error_body(failure->message), failure->retry_after};
    answer.close = failure->close_before;
    return answer;
  }
  auto taken = store_.take();
  if (!taken) return no_connection();
  wait(rules_.latency());
  Request named = request;
  named.key = *std::move(key);
  Answer answer = request.method == "GET" ? of(taken->get(named.key)) : write(connection, named, *taken);
  answer.close = failure.has_value();
  return answer;
}

OrdersServer::Answer OrdersServer::write(MHD_Connection* http, Request const& request,
                                         OrdersStore::Connection& connection) {
  std::optional<std::string> version;
  if (!options_.version_header.empty()) {
    char const* const given = MHD_lookup_connection_value(http, MHD_HEADER_KIND, options_.version_header.c_str());
    if (given != nullptr) version = given;
    bool const number = !version || (!version->empty() && version->size() <= 18 &&
                                     version->find_first_not_of("0123456789") == std::string::npos);
    if (!number) return {400, error_body(options_.version_header + " is not a whole number of up to 18 digits")};
  }
  if (request.method == "DELETE") return of(connection.remove(request.key, version));
  if (request.too_large) return {413, error_body(fmt::format("an order has up to {} bytes", options_.max_body))};
  json const document = json::parse(request.body, nullptr, false);
  if (document.is_discarded()) return {400, error_body("the body is not JSON")};
  std::optional<Refusal> refusal = rules_.refusal(document);
  if (std::string fault = fault_of_order(document); !fault.empty()) refusal = Refusal{422, std::move(fault)};
  if (refusal) {
    std::lock_guard const lock(mutex_);
    ++counters_.refused;
    return {refusal->status, error_body(refusal->message)};
  }
  return of(connection.put(request.key, version, request.body));
}

OrdersServer::Answer OrdersServer::of(OrdersStore::Answer const& stored) {
  switch (stored.outcome) {
    case Outcome::created:
      return {201};
    case Outcome::replaced:
    case Outcome::removed:
      return {204};
    case Outcome::absent:
      return {404, error_body("no such order")};
    case Outcome::found:
      return {200, stored.text + "\n"};
    case Outcome::invalid:
      return {422, error_body(stored.text)};
    case Outcome::broken:
      return {500, error_body(stored.text)};
    case Outcome::stale: {
      std::lock_guard const lock(mutex_);
      ++counters_.stale;
      return {options_.conflict, error_body("a newer version is stored")};
    }
    case Outcome::unavailable:
      break;
  }
  std::lock_guard const lock(mutex_);
  ++counters_.unavailable;
  return {503, error_body(stored.text), options_.retry_after};
}

// Each order is a line. What fails on the way ends the answer without its last chunk: it is no whole one.
MHD_Result OrdersServer::list(MHD_Connection* connection, Request& request) {
  auto taken = store_.take();
  if (!taken) return send(connection, request, no_connection());
  if (auto const failed = taken->start_list()) return send(connection, request, of(*failed));
  struct Lines {
    OrdersStore::Connection from;
    std::string line{};
    std::size_t sent = 0;
  };
  auto const read = [](void* state, std::uint64_t, char* to, std::size_t most) -> ssize_t {
    auto& lines = *static_cast<Lines*>(state);
    std::size_t filled = 0;
    while (filled < most) {
      if (lines.sent == lines.line.size()) {
        lines.sent = 0;
        if (lines.from.next(lines.line)) return MHD_CONTENT_READER_END_WITH_ERROR;
        if (lines.line.empty()) break;
        lines.line += '\n';
      }
      std::size_t const size = std::min(most - filled, lines.line.size() - lines.sent);
      std::copy_n(lines.line.data() + lines.sent, size, to + filled);
      lines.sent += size;
      filled += size;
    }
    return filled == 0 ? MHD_CONTENT_READER_END_OF_STREAM : static_cast<ssize_t>(filled);
  };
  MHD_Response* response =
      MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 64 << 10, read, new Lines{*std::move(taken)},
                                        [](void* state) { delete static_cast<Lines*>(state); });
  MHD_add_response_header(response, "Content-Type", "application/x-ndjson");
  end(request, 200);
  MHD_Result const queued = MHD_queue_response(connection, 200, response);
  MHD_destroy_response(response);
  return queued;
}

OrdersServer::Answer OrdersServer::admin(std::string_view url, Request const& request) {
  if (url == "/_rules" && request.method == "GET") return {200, rules_.text() + "\n"};
  if (url == "/_rules" && request.method == "PUT") {
    rules_.replace(request.body);
    return {204};
  }
  if (url == "/_rules" && request.method == "DELETE") {
    rules_.replace("{}");
    return {204};
  }
  if (url == "/_stats" && request.method == "GET") return {200, stats()};
  if (url == "/_stats" && request.method == "DELETE") {
    reset_stats();
    return {204};
  }
  return {404, error_body("there is /_rules and /_stats")};
}

std::string OrdersServer::stats() {
  std::lock_guard const lock(mutex_);
  Counters const& c = counters_;
  json const stats = {{"requests", c.requests},
                      {"by_method", c.by_method},
                      {"by_status", c.by_status},
                      {"at_once", {{"now", under_way_}, {"most", c.most}, {"most_of_a_key", c.most_of_a_key}}},
                      {"connections", {{"now", store_.in_use()}, {"most", store_.peak()}}},
                      {"no_connection", c.no_connection},
                      {"unavailable", c.unavailable},
                      {"refused", c.refused},
                      {"stale", c.stale},
                      {"failed", c.failed}};
  return stats.dump() + "\n";
}

void OrdersServer::reset_stats() {
  std::lock_guard const lock(mutex_);
  counters_ = {};
  counters_.most = under_way_;
  store_.reset_peak();
}

}  // namespace inflight::sim

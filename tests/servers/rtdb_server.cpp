#include "tests/servers/rtdb_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "tests/servers/rtdb_documents.h"
#include "tests/servers/sim_units.h"

namespace inflight::sim {

using namespace std::chrono_literals;
using Steady = std::chrono::steady_clock;

namespace {

constexpr std::array<char const*, 8> kKinds = {"get", "shallow", "query", "put", "patch", "post", "delete", "stream"};

std::optional<std::string> argument(MHD_Connection* connection, char const* name) {
  char const* value = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}
std::string header(MHD_Connection* connection, char const* name) {
  char const* value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  return value == nullptr ? "" : value;
}

std::int64_t wall() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::uint64_t number(std::string const& name, std::string const& text) {
  std::uint64_t value = 0;
  auto const [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size() || value == 0)
    throw std::invalid_argument(name + " must be a positive integer");
  return value;
}

// The same for the same data, as [ref] "Conditional requests" has it; nothing has `null_etag`.
std::string etag_of(Node const* node) {
  if (node == nullptr || node->null()) return "null_etag";
  std::string text;
  append_json(text, *node);
  std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a
  for (char const c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return fmt::format("{:016x}", hash);
}

std::string token_of(MHD_Connection* connection) {
  // [auth]: access_token= or `Authorization: Bearer` for OAuth 2, auth= for id tokens.
  std::string const bearer = header(connection, "Authorization");
  if (bearer.starts_with("Bearer ")) return bearer.substr(7);
  if (auto const token = argument(connection, "access_token")) return *token;
  return argument(connection, "auth").value_or("");
}

std::string error_body(std::string_view why) { return fmt::format("{{\n  \"error\" : {}\n}}\n", json_text(why)); }

std::string slashed(std::span<std::string const> path) {
  std::string text;
  for (auto const& key : path) (text += '/') += key;
  return text.empty() ? "/" : text;
}

bool begins_with(Path const& path, Path const& prefix) {
  return path.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), path.begin());
}

// [ref] "Streaming from the REST API": `event:` and `data:` lines.
std::string event(std::string_view name, std::string_view path, std::string_view data) {
  return fmt::format("event: {}\ndata: {{\"path\":{},\"data\":{}}}\n\n", name, json_text(path), data);
}

std::uint64_t size_of(std::vector<std::pair<std::string const*, Node const*>> const& children) {
  std::string text;
  for (auto const& [key, child] : children) append_json(text += *key, *child);
  return text.size();
}

std::string json_of(Node const* node) {
  std::string text;
  if (node == nullptr) return "null";
  append_json(text, *node);
  return text;
}

}  // namespace

void BusiestSecond::add(std::uint64_t count) {
  if (count == 0) return;
  auto const now = Steady::now();
  for (; !second_.empty() && now - second_.front().first >= 1s; second_.pop_front()) within_ -= second_.front().second;
  second_.emplace_back(now, count);
  peak_ = std::max(peak_, within_ += count);
}

Rtdb::Rtdb(RtdbOptions const& options) : options_(options), keep_alive_(parse_duration(options.keep_alive)) {
  std::string_view names = options_.tokens;
  while (!names.empty()) {
    std::string_view const name = names.substr(0, names.find(','));
    tokens_.emplace(name);
    names.remove_prefix(std::min(names.size(), name.size() + 1));
  }
  load();
}

Rtdb::~Rtdb() {
  {
    std::lock_guard const lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
  if (log_ >= 0) ::close(log_);
}

// The documents, and then what was written to an emulator before this one: a killed one goes on where it was.
void Rtdb::load() {
  Path const at = split_path(options_.collection);
  for (std::uint64_t i = 0; i < options_.documents; ++i) {
    Path path = at;
    path.push_back(options_.flat ? fmt::format("k{:07d}", i) : order_key(options_.seed, i));
    tree_.set(path, options_.flat ? Node{std::to_string(i), {}} : order_document(options_.seed, i));
  }
  if (options_.data.empty()) return;
  std::ifstream file(options_.data);
  std::string line;
  std::uint64_t whole = 0;
  while (std::getline(file, line) && !file.eof()) {
    auto const entry = nlohmann::json::parse(line);
    std::vector<std::pair<Path, Node>> parts;
    for (auto const& [key, value] : entry["parts"].items())
      parts.emplace_back(split_path(key), parse_node(value.dump(), 0));
    store(split_path(entry["path"].get<std::string>()), std::move(parts));
    whole += line.size() + 1;
  }
  log_ = ::open(options_.data.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log_ < 0 || ::ftruncate(log_, static_cast<off_t>(whole)) != 0)  // what is behind was never answered
    throw std::runtime_error(fmt::format("{}: {}", options_.data, std::strerror(errno)));
}

void Rtdb::start() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(options_.port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  daemon_ =
      MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION, options_.port, nullptr, nullptr,
                       &on_request, this, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_NOTIFY_COMPLETED, &on_completed,
                       this, MHD_OPTION_CONNECTION_MEMORY_LIMIT, std::size_t{256} << 10, MHD_OPTION_LISTEN_BACKLOG_SIZE,
                       1024U, MHD_OPTION_THREAD_STACK_SIZE, std::size_t{512} << 10, MHD_OPTION_END);
  if (daemon_ == nullptr)
    throw std::runtime_error(fmt::format("cannot listen on port {}: {}", options_.port, std::strerror(errno)));
  port_ = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_BIND_PORT)->port;
}

void Rtdb::on_completed(void* self, MHD_Connection*, void** state, MHD_RequestTerminationCode) {
  auto& rtdb = *static_cast<Rtdb*>(self);
  auto* const request = static_cast<Request*>(*state);
  if (request == nullptr) return;
  rtdb.ended(*request);
  delete request;
  *state = nullptr;
}

void Rtdb::ended(Request& request) {
  if (!std::exchange(request.counted, false)) return;
  std::lock_guard const lock(mutex_);
  --in_flight_;
}

MHD_Result Rtdb::on_request(void* self, MHD_Connection* connection, char const* url, char const* method, char const*,
                            char const* upload, std::size_t* upload_size, void** state) {
  auto& rtdb = *static_cast<Rtdb*>(self);
  if (*state == nullptr) {
    *state = new Request;
    return MHD_YES;
  }
  auto& request = *static_cast<Request*>(*state);
  if (*upload_size != 0) {
    if (request.body.size() + *upload_size > rtdb.options_.max_write)
      request.too_large = true;
    else
      request.body.append(upload, *upload_size);
    *upload_size = 0;
    return MHD_YES;
  }
  try {
    return rtdb.route(connection, url, method, request);
  } catch (std::invalid_argument const& e) {  // [ref] "Error conditions": 400
    return rtdb.send(connection, request, {400, error_body(e.what())});
  } catch (std::exception const& e) {  // nothing may pass through the C library below
    return rtdb.send(connection, request, {500, error_body(e.what())});
  }
}

MHD_Result Rtdb::send(MHD_Connection* connection, Request& request, Answer const& answer) {
  ended(request);    // before the client can have the answer, and send its next request
  if (answer.cut) {  // half of the body, then the end
    struct Half {
      std::string body;
      int socket;
    };
    auto* half = new Half{answer.body.substr(0, answer.body.size() / 2),
                          MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd};
    auto const read = [](void* of, std::uint64_t at, char* to, std::size_t most) -> ssize_t {
      auto const& h = *static_cast<Half*>(of);
      if (at >= h.body.size()) {
        ::shutdown(h.socket, SHUT_RDWR);
        return MHD_CONTENT_READER_END_WITH_ERROR;
      }
      std::size_t const size = std::min<std::size_t>(most, h.body.size() - at);
      std::copy_n(h.body.begin() + static_cast<std::ptrdiff_t>(at), size, to);
      return static_cast<ssize_t>(size);
    };
    MHD_Response* response = MHD_create_response_from_callback(answer.body.size(), 64 << 10, read, half,
                                                               [](void* of) { delete static_cast<Half*>(of); });
    MHD_Result const queued = MHD_queue_response(connection, answer.status, response);
    MHD_destroy_response(response);
    return queued;
  }
  MHD_Response* response =
      MHD_create_response_from_buffer(answer.body.size(), const_cast<char*>(answer.body.data()), MHD_RESPMEM_MUST_COPY);
  MHD_add_response_header(response, "Content-Type", answer.type.c_str());
  if (!answer.etag.empty()) MHD_add_response_header(response, "ETag", answer.etag.c_str());
  if (!answer.location.empty()) MHD_add_response_header(response, "Location", answer.location.c_str());
  MHD_Result const queued = MHD_queue_response(connection, answer.status, response);
  MHD_destroy_response(response);
  return queued;
}

MHD_Result Rtdb::route(MHD_Connection* connection, std::string_view url, std::string_view method, Request& request) {
  if (url == "/stats") return send(connection, request, {200, stats()});
  if (url == "/control" && method == "POST") return send(connection, request, control(connection));
  // [ref] "API Usage": a path of the database ends in .json.
  if (!url.ends_with(".json")) return send(connection, request, {404, "Not Found\n", "", "", "text/html"});
  return database(connection, url.substr(0, url.size() - 5), method, request);
}

MHD_Result Rtdb::database(MHD_Connection* connection, std::string_view url, std::string_view method, Request& request) {
  // [ref] "Method Override": by a header of a POST, or an argument.
  std::string const other = header(connection, "X-HTTP-Method-Override");
  if (method == "POST" && !other.empty()) method = other;
  bool const streams = method == "GET" && header(connection, "Accept").find("text/event-stream") != std::string::npos;
  Kind const kind = streams                                                  ? stream
                    : method == "PUT"                                        ? put
                    : method == "PATCH"                                      ? patch
                    : method == "POST"                                       ? post
                    : method == "DELETE"                                     ? remove
                    : argument(connection, "shallow").value_or("") == "true" ? shallow
                    : argument(connection, "orderBy")                        ? query
                                                                             : get;
  {
    std::lock_guard const lock(mutex_);
    ++requests_;
    ++by_kind_[kind];
    request_rate_.add(1);
    request.counted = true;
    in_flight_peak_ = std::max(in_flight_peak_, ++in_flight_);
  }
  auto const fault = take_fault(kind);
  bool cut = false;
  if (fault) {
    if (fault->delay > 0) {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::chrono::milliseconds(fault->delay), [&] { return ending_; });
    }
    if (fault->name == "error")
      return send(connection, request,
                  {fault->status == 0 ? 500U : fault->status, error_body("Internal server error.")});
    if (fault->name == "html")
      return send(connection, request,
                  {fault->status == 0 ? 200U : fault->status, "<html>gone fishing</html>", "", "", "text/html"});
    if (fault->name == "close") return MHD_NO;
    if (fault->name == "too-big")
      return send(
          connection, request,
          {400, error_body("Data requested exceeds the maximum size that can be accessed with a single request.")});
    if (fault->name == "redirect") {  // [ref] "Streaming": the client must follow HTTP redirects, 307 above all
      std::string location = fmt::format("http://localhost:{}", port_);
      for (auto const& key : split_path(url)) {
        location += '/';
        for (char const c : key) location += fmt::format("%{:02X}", static_cast<unsigned char>(c));
      }
      location += ".json";
      char before = '?';
      for (char const* name : {"ns", "orderBy", "shallow", "startAt", "startAfter", "endAt", "limitToFirst", "print"}) {
        auto const value = argument(connection, name);
        if (!value) continue;
        location += fmt::format("{}{}=", std::exchange(before, '&'), name);
        for (char const c : *value) location += fmt::format("%{:02X}", static_cast<unsigned char>(c));
      }
      return send(connection, request, {307, "", "", location});
    }
    cut = fault->name == "cut";
  }
  std::string const token = token_of(connection);
  if (std::string const why = refused(token); !why.empty()) return send(connection, request, {401, error_body(why)});
  Path path = split_path(url);
  check_path(path);
  if (streams && cut) {  // within the snapshot
    std::shared_lock const lock(tree_mutex_);
    Answer half{200, event("put", "/", json_of(tree_.find(path)))};
    half.type = "text/event-stream";
    half.cut = true;
    return send(connection, request, half);
  }
  if (streams) return begin_stream(connection, std::move(path), token, request);
  Answer answer;
  if (method == "GET")
    answer = read(connection, path);
  else if (method == "PUT" || method == "PATCH" || method == "POST" || method == "DELETE")
    answer = write(connection, method, std::move(path), request);
  else
    answer = {405, error_body("Method not allowed.")};
  answer.cut = cut;
  return send(connection, request, answer);
}

Rtdb::Answer Rtdb::read(MHD_Connection* connection, Path const& path) {
  Query wanted;
  if (auto const order = argument(connection, "orderBy")) {
    auto const text = nlohmann::json::parse(*order, nullptr, false);
    if (!text.is_string()) throw std::invalid_argument("orderBy must be a valid JSON encoded path");
    wanted.order_by = text.get<std::string>();
  }
  wanted.start_at = argument(connection, "startAt");
  wanted.start_after = argument(connection, "startAfter");
  wanted.end_at = argument(connection, "endAt");
  wanted.end_before = argument(connection, "endBefore");
  wanted.equal_to = argument(connection, "equalTo");
  if (auto const limit = argument(connection, "limitToFirst")) wanted.first = number("limitToFirst", *limit);
  if (auto const limit = argument(connection, "limitToLast")) wanted.last = number("limitToLast", *limit);
  wanted.check();
  bool const only_keys = argument(connection, "shallow").value_or("") == "true";
  // [ref] "shallow": cannot be mixed with any other query parameters.
  if (only_keys && !wanted.order_by.empty())
    throw std::invalid_argument("shallow cannot be mixed with any other query parameters");
  std::string const print = argument(connection, "print").value_or("");

  Answer answer;
  std::uint64_t served = 0;
  bool refused = false;
  {
    std::shared_lock const lock(tree_mutex_);
    Node const* const node = tree_.find(path);
    if (node == nullptr) {
      answer.body = "null";
    } else if (only_keys) {
      append_shallow(answer.body, *node);
    } else if (!wanted.order_by.empty()) {
      Query range = wanted;
      range.first = range.last = 0;
      // Of a collection of very many nodes even two documents are refused (firebase-admin-node#1195).
      refused = options_.max_range != 0 && size_of(select(*node, range)) > options_.max_range;
      Node result;
      for (auto const& [key, child] : select(*node, wanted)) result.children.emplace(*key, *child);
      served = result.children.size();
      append_json(answer.body, result, print == "pretty" ? 0 : -1);
      if (result.children.empty()) answer.body = "{}";
    } else {
      served = path.size() <= split_path(options_.collection).size() ? node->children.size() : 1;
      append_json(answer.body, *node, print == "pretty" ? 0 : -1);
    }
    // [ref] "Conditional requests": on demand; on the whole location only.
    if (header(connection, "X-Firebase-ETag") == "true" && wanted.order_by.empty()) answer.etag = etag_of(node);
  }
  std::uint64_t most = 0;
  {
    std::lock_guard const lock(mutex_);
    most = options_.max_response;
    documents_ += served;
    document_rate_.add(served);
  }
  if (answer.body.size() > most || refused)  // [limits]; to a client of the websocket it is `too_big`
    return {400, error_body("Data requested exceeds the maximum size that can be accessed with a single request.")};
  answer.body += '\n';
  if (print == "silent") answer = {204, "", answer.etag};  // [ref] "print"
  return answer;
}

Rtdb::Answer Rtdb::write(MHD_Connection* connection, std::string_view method, Path path, Request const& request) {
  if (request.too_large)
    return {400, error_body("Data to write exceeds the maximum size that can be modified with a single request.")};
  Answer answer;
  bool const silent = argument(connection, "print").value_or("") == "silent";
  std::string const match = header(connection, "if-match");
  std::int64_t const now = wall();
  std::vector<std::pair<Path, Node>> parts;
  if (method == "POST") {  // [save] "Saving lists of data": a key that grows with time
    std::string name;
    std::uint64_t count = 0;
    {
      std::lock_guard const lock(mutex_);
      count = ++pushes_;
    }
    std::int64_t time = now;
    constexpr std::string_view digits = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
    for (int i = 0; i < 8; ++i, time /= 64) name.insert(name.begin(), digits[static_cast<std::size_t>(time % 64)]);
    for (int i = 0; i < 12; ++i, count /= 64) name.insert(name.begin() + 8, digits[count % 64]);
    path.push_back(name);
    answer.body = fmt::format("{{\"name\":{}}}\n", json_text(name));
  }
  check_path(path);
  if (method == "PATCH")
    parts = parse_update(request.body, now);
  else
    parts.emplace_back(Path{}, method == "DELETE" ? Node{} : parse_node(request.body, now));
  for (auto const& [below, value] : parts) {
    Path whole = path;
    whole.insert(whole.end(), below.begin(), below.end());
    check_path(whole);
  }
  if (answer.body.empty()) {
    if (method == "PATCH") {
      answer.body = "{";
      for (auto const& [below, value] : parts)
        answer.body += fmt::format("{}{}:{}", answer.body.size() > 1 ? "," : "", json_text(slashed(below).substr(1)),
                                   json_of(&value));
      answer.body += "}\n";
    } else {
      answer.body = json_of(&parts[0].second) + "\n";
    }
  }
  {
    std::unique_lock const lock(tree_mutex_);
    if (!match.empty()) {  // [ref] "Conditional requests": 412 with the ETag and the data that are there
      if (method == "PATCH" || method == "POST")
        throw std::invalid_argument("if-match is not supported by this method");
      Node const* const node = tree_.find(path);
      if (etag_of(node) != match) return {412, json_of(node) + "\n", etag_of(node)};
    }
    apply(path, std::move(parts), method == "PATCH");
    if (header(connection, "X-Firebase-ETag") == "true") answer.etag = etag_of(tree_.find(path));
  }
  if (silent) answer = {204, "", answer.etag};
  return answer;
}

void Rtdb::store(Path const& path, std::vector<std::pair<Path, Node>> parts) {
  for (auto& [below, value] : parts) {
    Path whole = path;
    whole.insert(whole.end(), below.begin(), below.end());
    tree_.set(whole, std::move(value));
  }
}

void Rtdb::apply(Path const& path, std::vector<std::pair<Path, Node>> parts, bool update) {
  if (log_ >= 0) {
    std::string line = fmt::format("{{\"path\":{},\"parts\":{{", json_text(slashed(path)));
    for (char const* comma = ""; auto const& [below, value] : parts) {
      line += fmt::format("{}{}:{}", comma, json_text(slashed(below)), json_of(&value));
      comma = ",";
    }
    line += "}}\n";
    if (::write(log_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      fmt::print(stderr, "rtdb-emulator: {}: {}\n", options_.data, std::strerror(errno));
      _exit(74);
    }
  }
  std::vector<Path> changed;
  for (auto const& [below, value] : parts) {
    changed.push_back(path);
    changed.back().insert(changed.back().end(), below.begin(), below.end());
  }
  store(path, std::move(parts));
  tell(path, update, changed);
}

// [ref] "Streaming": `put` replaces what is at its path, `patch` the members that it names, each relative to the
// location that is listened to. One write may be several events where it is seen from below.
void Rtdb::tell(Path const& at, bool update, std::vector<Path> const& changed) {
  std::lock_guard const lock(mutex_);
  for (Stream& one : streams_) {
    if (one.closing) continue;
    if (update && begins_with(at, one.path)) {
      std::string data = "{";
      for (auto const& path : changed) {
        std::span const below = std::span(path).subspan(at.size());
        data += fmt::format("{}{}:{}", data.size() > 1 ? "," : "", json_text(slashed(below).substr(1)),
                            json_of(tree_.find(path)));
      }
      one.queue.push_back(event("patch", slashed(std::span(at).subspan(one.path.size())), data + "}"));
      continue;
    }
    for (auto const& path : changed) {
      if (begins_with(path, one.path))
        one.queue.push_back(event("put", slashed(std::span(path).subspan(one.path.size())), json_of(tree_.find(path))));
      else if (begins_with(one.path, path))
        one.queue.push_back(event("put", "/", json_of(tree_.find(one.path))));
    }
  }
  changed_.notify_all();
}

MHD_Result Rtdb::begin_stream(MHD_Connection* connection, Path path, std::string token, Request& request) {
  Stream* begun = nullptr;
  {
    std::shared_lock const tree_lock(tree_mutex_);
    std::string first = event("put", "/", json_of(tree_.find(path)));
    std::lock_guard const lock(mutex_);
    if (first.size() <= options_.max_response) {
      begun = &streams_.emplace_back();
      begun->path = std::move(path);
      begun->token = std::move(token);
      begun->queue.push_back(std::move(first));
      begun->socket = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
      begun->last = Steady::now();
      ++streams_begun_;
    }
  }
  if (begun == nullptr)
    return send(
        connection, request,
        {400, error_body("Data requested exceeds the maximum size that can be accessed with a single request.")});
  struct Body {
    Rtdb* rtdb;
    Stream* stream;
  };
  MHD_Response* response = MHD_create_response_from_callback(
      MHD_SIZE_UNKNOWN, 64 << 10,
      [](void* of, std::uint64_t, char* to, std::size_t most) -> ssize_t {
        auto const& body = *static_cast<Body*>(of);
        return body.rtdb->stream_bytes(*body.stream, to, most);
      },
      new Body{this, begun},
      [](void* of) {
        auto* const body = static_cast<Body*>(of);
        body->rtdb->end_stream(body->stream);
        delete body;
      });
  MHD_add_response_header(response, "Content-Type", "text/event-stream");
  MHD_add_response_header(response, "Cache-Control", "no-cache");
  MHD_Result const queued = MHD_queue_response(connection, 200, response);
  MHD_destroy_response(response);
  return queued;
}

std::ptrdiff_t Rtdb::stream_bytes(Stream& one, char* to, std::size_t most) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (ending_) return MHD_CONTENT_READER_END_OF_STREAM;
    if (!one.queue.empty() && !one.silent) {
      std::string const& text = one.queue.front();
      std::size_t const size = std::min(most, text.size() - one.sent);
      std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(one.sent), size, to);
      one.sent += size;
      if (one.sent == text.size()) {
        one.queue.pop_front();
        one.sent = 0;
      }
      one.last = Steady::now();
      return static_cast<ssize_t>(size);
    }
    if (one.closing) return MHD_CONTENT_READER_END_OF_STREAM;
    if (Steady::now() - one.last >= keep_alive_ && !one.silent) {
      one.queue.emplace_back("event: keep-alive\ndata: null\n\n");
      continue;
    }
    pollfd hung_up{one.socket, POLLRDHUP, 0};
    if (::poll(&hung_up, 1, 0) > 0 && (hung_up.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0)
      return MHD_CONTENT_READER_END_WITH_ERROR;
    changed_.wait_for(lock, 50ms);
  }
}

void Rtdb::end_stream(Stream* ended) {
  std::lock_guard const lock(mutex_);
  streams_.remove_if([&](Stream const& one) { return &one == ended; });
}

std::string Rtdb::refused(std::string const& token) {
  std::lock_guard const lock(mutex_);
  if (expired_.contains(token)) return "Auth token is expired";  // [ref] "Error conditions": 401
  if (tokens_.empty() || tokens_.contains(token)) return "";
  return token.empty() ? "Permission denied" : "Unauthorized request.";
}

std::optional<Rtdb::Fault> Rtdb::take_fault(Kind kind) {
  std::lock_guard const lock(mutex_);
  for (auto at = faults_.begin(); at != faults_.end(); ++at) {
    if (!at->kind.empty() && at->kind != kKinds[kind]) continue;
    Fault const taken = *at;
    if (at->count > 0 && --at->count == 0) faults_.erase(at);
    ++failures_;
    return taken;
  }
  return std::nullopt;
}

void Rtdb::control_streams(std::string_view what) {
  for (Stream& one : streams_) {
    if (what == "silence") {
      one.silent = true;
    } else if (what == "resume") {
      one.silent = false;
    } else if (what == "cut") {
      ::shutdown(one.socket, SHUT_RDWR);
      one.closing = true;
      one.queue.clear();
      one.sent = 0;
    } else if (what == "cancel") {  // [ref]: the rules no longer allow the read
      one.queue.emplace_back("event: cancel\ndata: null\n\n");
      one.closing = true;
    } else if (what == "auth_revoked") {  // [ref]: the credential is expired or no longer valid
      one.queue.emplace_back("event: auth_revoked\ndata: \"auth token has expired\"\n\n");
      one.closing = true;
    } else {
      throw std::invalid_argument("streams= wants silence, resume, cut, cancel or auth_revoked");
    }
  }
}

Rtdb::Answer Rtdb::control(MHD_Connection* connection) {
  std::lock_guard const lock(mutex_);
  if (auto const name = argument(connection, "fault")) {
    constexpr std::array<std::string_view, 7> names = {"error", "html", "close", "too-big", "redirect", "cut", "slow"};
    Fault fault;
    fault.name = *name;
    fault.kind = argument(connection, "kind").value_or("");
    if (auto const count = argument(connection, "count"))
      fault.count = static_cast<std::int64_t>(number("count", *count));
    if (auto const status = argument(connection, "status"))
      fault.status = static_cast<unsigned>(number("status", *status));
    if (auto const delay = argument(connection, "duration")) fault.delay = parse_duration(*delay).count();
    if (*name == "none")
      faults_.clear();
    else if (std::find(names.begin(), names.end(), *name) == names.end())
      throw std::invalid_argument("fault= wants error, html, close, too-big, redirect, cut, slow or none");
    else
      faults_.push_back(std::move(fault));
  }
  if (auto const what = argument(connection, "streams")) control_streams(*what);
  if (auto const token = argument(connection, "expire")) {  // what Google does an hour after it gave the token
    expired_.insert(*token);
    for (Stream& one : streams_) {
      if (one.token != *token) continue;
      one.queue.emplace_back("event: auth_revoked\ndata: \"auth token has expired\"\n\n");
      one.closing = true;
    }
  }
  if (auto const token = argument(connection, "accept")) tokens_.insert(*token), expired_.erase(*token);
  if (auto const size = argument(connection, "max_response")) options_.max_response = number("max_response", *size);
  if (argument(connection, "reset").value_or("") == "stats") {
    by_kind_ = {};
    requests_ = documents_ = failures_ = streams_begun_ = 0;
    in_flight_peak_ = in_flight_;
    request_rate_.reset();
    document_rate_.reset();
  }
  changed_.notify_all();
  return {200, "{}\n"};
}

std::string Rtdb::stats() {
  std::lock_guard const lock(mutex_);
  std::string requests;
  for (std::size_t i = 0; i < kKinds.size(); ++i)
    requests += fmt::format("{}\"{}\":{}", i == 0 ? "" : ",", kKinds[i], by_kind_[i]);
  return fmt::format(
      "{{\"requests\":{},\"by_kind\":{{{}}},\"documents\":{},\"faults\":{},"
      "\"in_flight\":{{\"now\":{},\"peak\":{}}},\"streams\":{{\"open\":{},\"begun\":{}}},"
      "\"busiest_second\":{{\"requests\":{},\"documents\":{}}}}}\n",
      requests_, requests, documents_, failures_, in_flight_, in_flight_peak_, streams_.size(), streams_begun_,
      request_rate_.peak(), document_rate_.peak());
}

}  // namespace inflight::sim

#include "common/crawl_server.h"

#include <fmt/format.h>
#include <httplib.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <csignal>
#include <map>
#include <thread>
#include <vector>

#include "common/crawl_jobs.h"
#include "common/crawl_run.h"
#include "common/fd_io.h"
#include "common/json_text.h"
#include "common/messages.h"
#include "common/retry.h"
#include "common/stop.h"

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kUndisturbed = seconds(1);  // a collection, before documents interrupt it

struct Address {
  std::string host;
  int port = -1;
};

Address parse_address(std::string const& text) {
  std::size_t const colon = text.rfind(':');
  if (colon == std::string::npos) return {};
  Address address{text.substr(0, colon), -1};
  std::string_view const port = std::string_view(text).substr(colon + 1);
  int number = 0;
  auto const [end, failed] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (failed == std::errc() && end == port.data() + port.size() && number >= 0 && number <= 65535)
    address.port = number;
  if (address.host.starts_with('[') && address.host.ends_with(']'))
    address.host = address.host.substr(1, address.host.size() - 2);
  if (address.host.empty()) address.port = -1;
  return address;
}

bool is_loopback(std::string const& host) {
  if (host == "localhost" || host == "::1") return true;
  return host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos;
}

// The same time whatever is wrong with it.
bool same(std::string_view a, std::string_view b) {
  unsigned char different = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i)
    different |= static_cast<unsigned char>(a[i] ^ (b.empty() ? '\0' : b[i % b.size()]));
  return different == 0;
}

Result<std::string> read_token(std::string const& file) {
  auto text = read_file(file);
  if (!text) return text.status();
  std::string token = std::move(*text);
  while (!token.empty() && (token.back() == '\n' || token.back() == '\r')) token.pop_back();
  if (token.empty() || token.find_first_of(" \t\r\n") != std::string::npos)
    return Status::usage(file + ": is no token: one line without blanks");
  add_secret(token);
  return token;
}

// One part of a URL's path; nothing where it is not well encoded.
std::optional<std::string> decoded(std::string_view part) {
  std::string text;
  for (std::size_t i = 0; i < part.size(); ++i) {
    if (part[i] != '%') {
      text += part[i];
      continue;
    }
    unsigned value = 0;
    char const* const begin = part.data() + i + 1;
    if (i + 2 >= part.size()) return std::nullopt;
    auto const [end, failed] = std::from_chars(begin, begin + 2, value, 16);
    if (failed != std::errc() || end != begin + 2) return std::nullopt;
    text += static_cast<char>(value);
    i += 2;
  }
  return text;
}

struct Answer {
  int status = 200;
  std::string body;
  std::string header{}, value{};
};

Answer refused(int status, std::string const& why, std::string header = {}, std::string value = {}) {
  return {status, fmt::format(R"({{"error":{}}})", json_string(redact(why))), std::move(header), std::move(value)};
}

class Server {
 public:
  Server(Io& io, RtdbCollection const& root, RtdbClient& client, CrawlOptions const& crawl, SourceOptions const& source,
         CrawlServeOptions const& options)
      : io_(io),
        root_(root),
        client_(client),
        crawl_(crawl),
        source_(source),
        options_(options),
        jobs_(io.clock),
        wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  Exit run() {
    auto const lock = lock_file(source_.state + ".serve.lock", Lock::exclusive, false);
    if (!lock) {
      say_error(source_.state + ": another server of these jobs is at work");
      return lock.status().code() == Code::temporary ? Exit::temporary : lock.status().exit();
    }
    Status status = jobs_.open(source_.state, root_.source());
    if (status.ok()) status = sweep();
    if (status.ok() && !options_.token_file.empty()) status = read_token(options_.token_file).status();
    if (!status.ok()) {
      say_error(status.what());
      return status.exit();
    }
    // Not the library's SO_REUSEPORT, with which two servers share a port.
    http_.set_socket_options([](int socket) {
      int const yes = 1;
      (void)::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    http_.set_keep_alive_max_count(1);
    http_.set_payload_max_length(64 << 10);
    http_.set_read_timeout(5);
    http_.set_write_timeout(5);
    http_.new_task_queue = [] { return new httplib::ThreadPool(4); };
    http_.set_pre_routing_handler([this](httplib::Request const& request, httplib::Response& response) {
      Answer const answer = handle(request);
      response.status = answer.status;
      if (!answer.header.empty()) response.set_header(answer.header, answer.value);
      response.set_content(answer.body + "\n", "application/json");
      return httplib::Server::HandlerResponse::Handled;
    });
    Address address = parse_address(options_.address);
    bool const bound = address.port == 0 ? (address.port = http_.bind_to_any_port(address.host)) > 0
                                         : http_.bind_to_port(address.host, address.port);
    if (!bound) {
      say_error(options_.address + ": cannot be listened to: it is in use, or not an address of this machine");
      return Exit::temporary;
    }
    say_info(fmt::format("{}: is served at http://{}:{}", root_.source(),
                         address.host.find(':') == std::string::npos ? address.host : '[' + address.host + ']',
                         address.port));
    std::atomic<bool> over = false;
    std::thread listening([&] {
      (void)http_.listen_after_bind();
      over = true;
    });
    // stop() is nothing to one that has not begun.
    while (!http_.is_running() && !over) std::this_thread::sleep_for(milliseconds(1));
    Exit const exit = work();
    http_.stop();
    listening.join();
    return exit;
  }

 private:
  // ---- requests

  Answer handle(httplib::Request const& request) {
    if (!options_.token_file.empty()) {
      auto const token = read_token(options_.token_file);
      if (!token) return refused(503, "the token cannot be read");
      std::string const given = request.get_header_value("Authorization");
      if (!given.starts_with("Bearer ") || !same(std::string_view(given).substr(7), *token))
        return refused(401, "a bearer token is needed", "WWW-Authenticate", "Bearer");
    }
    std::string_view target = request.target;
    target = target.substr(0, target.find('?'));
    if (target == "/status") {
      if (request.method != "GET") return refused(405, "status is for GET", "Allow", "GET");
      return {200, jobs_.report()};
    }
    if (!target.starts_with("/crawl/"))
      return refused(404, "there are /crawl/COLLECTION, /crawl/COLLECTION/KEY, /status");
    bool const withdraws = request.method == "DELETE";
    if (request.method != "POST" && !withdraws)
      return refused(405, "a crawl is for POST, or DELETE", "Allow", "POST, DELETE");
    target.remove_prefix(std::string_view("/crawl/").size());
    CrawlJob job;
    std::size_t const slash = target.find('/');
    bool const document = slash != std::string_view::npos;
    for (auto [part, to] : {std::pair{target.substr(0, slash), &job.collection},
                            std::pair{document ? target.substr(slash + 1) : std::string_view{}, &job.key}}) {
      if (to == &job.key && !document) break;
      auto text = decoded(part);
      if (!text) return refused(400, fmt::format("{}: is not percent-encoded", part));
      if (std::string const fault = rtdb_key_fault(*text); !fault.empty())
        return refused(400, fmt::format("{}: a key that {}", json_string(*text), fault));
      *to = std::move(*text);
    }
    return withdraws ? withdraw(job) : accept(job);
  }

  static std::string told(CrawlJob const& job) {
    std::string body = fmt::format(R"({{"id":{},"collection":{})", job.id, json_string(job.collection));
    if (!job.key.empty()) body += R"(,"key":)" + json_string(job.key);
    return body;
  }

  static Answer unkept(Status const& status) {
    say_warning(status.what());
    return refused(503, "the jobs cannot be written", "Retry-After", "10");
  }

  Answer accept(CrawlJob& job) {
    auto const added = jobs_.add(job);
    if (!added) return unkept(added.status());
    if (*added == CrawlJobs::Added::full) return refused(503, "too many jobs wait", "Retry-After", "10");
    std::string const body = told(job);
    if (*added == CrawlJobs::Added::busy)
      return {409, body + R"(,"error":"this collection has a job that is not done yet"})"};
    std::uint64_t const one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
    return {202, body + "}"};
  }

  Answer withdraw(CrawlJob& job) {
    auto const withdrawn = jobs_.withdraw(job);
    if (!withdrawn) return unkept(withdrawn.status());
    if (*withdrawn == CrawlJobs::Withdrawn::absent) return refused(404, "there is no such job");
    if (*withdrawn == CrawlJobs::Withdrawn::busy) return refused(409, "this job is under way");
    return {200, told(job) + "}"};
  }

  // ---- jobs

  Exit work() {
    std::map<std::int64_t, Backoff> backoffs;
    while (!stopping()) {
      auto const job = jobs_.begin();
      if (!job) {
        say_error(job.status().what());
        return job.status().exit();
      }
      if (!*job) {
        pollfd wait[] = {{stop_fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
        (void)::poll(wait, 2, 200);
        std::uint64_t count = 0;
        (void)!::read(wake_.get(), &count, sizeof count);
        continue;
      }
      CrawlEnd const end = one(**job);
      if (stopping()) return end.exit == Exit::ok ? stopped() : end.exit;
      Status status;
      if (end.whole) {
        backoffs.erase((*job)->id);
        status = jobs_.done(**job);
        if (status.ok()) status = sweep();
      } else if (end.exit == Exit::ok) {
        status = jobs_.later(**job, "", Duration::zero());
      } else {
        auto& backoff = backoffs.try_emplace((*job)->id, seconds(1), seconds(60)).first->second;
        status = jobs_.later(**job, end.why.empty() ? "failed" : redact(end.why), backoff.next({}));
      }
      if (!status.ok()) {
        say_error(status.what());
        return status.exit();
      }
    }
    return stopped();
  }

  static Exit stopped() { return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated; }

  CrawlEnd one(CrawlJob const& job) {
    CrawlOptions crawl = crawl_;
    SourceOptions source = source_;
    source.state = fmt::format("{}.{}", source_.state, job.id);
    Duration const begun = io_.clock.steady();
    if (!job.key.empty()) crawl.documents = {job.key};
    std::function<bool()> const pause = [&] {
      return job.key.empty() && jobs_.document_waits() && io_.clock.steady() - begun > kUndisturbed;
    };
    return run_crawl(io_, root_.child(job.collection), client_, crawl, source, pause);
  }

  // Removes what belongs to jobs that are done: their numbers are not used again. Dead letters stay.
  Status sweep() {
    std::string const folder = parent_folder(source_.state);
    std::string const base = source_.state.substr(source_.state.rfind('/') + 1) + '.';
    auto const names = list_folder(folder);
    if (!names) return names.status();
    for (std::string const& name : *names) {
      if (!name.starts_with(base) || name.ends_with(".dead.ndjson")) continue;
      std::int64_t id = 0;
      char const* const begin = name.data() + base.size();
      auto const [end, failed] = std::from_chars(begin, name.data() + name.size(), id);
      if (failed != std::errc() || end == begin || (*end != '\0' && *end != '.') || jobs_.known(id)) continue;
      if (Status status = io_.disk.remove(join(folder, name)); !status.ok()) return status;
    }
    return {};
  }

  Io& io_;
  RtdbCollection const& root_;
  RtdbClient& client_;
  CrawlOptions const& crawl_;
  SourceOptions const& source_;
  CrawlServeOptions const& options_;
  CrawlJobs jobs_;
  Fd wake_;
  httplib::Server http_;
};

}  // namespace

void CrawlServeOptions::add_to(Cli& cli) {
  cli.option("--serve", address, "HOST:PORT: take jobs over HTTP; the URL is what collections are below of");
  cli.option("--serve-token-file", token_file, "the bearer token that --serve asks for");
}

std::string CrawlServeOptions::mistake() const {
  if (address.empty()) return token_file.empty() ? "" : "--serve-token-file: goes with --serve";
  Address const parsed = parse_address(address);
  if (parsed.port < 0) return "--serve: HOST:PORT, as 127.0.0.1:8080";
  if (!is_loopback(parsed.host) && token_file.empty())
    return "--serve: others than this machine need a --serve-token-file";
  return "";
}

Exit serve_crawls(Io& io, RtdbCollection const& root, RtdbClient& client, CrawlOptions const& crawl,
                  SourceOptions const& source, CrawlServeOptions const& options) {
  return Server(io, root, client, crawl, source, options).run();
}

}  // namespace inflight

#include "common/http.h"
#include "common/http_transfer.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <thread>

#include "common/handle.h"
#include "common/messages.h"

using namespace inflight;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// Answers each connection's one request with fixed bytes, and keeps what was asked.
class Peer {
 public:
  explicit Peer(std::string answer, int connections = 1) : answer_(std::move(answer)) {
    listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(::listen(listener_.get(), 16) == 0);
    REQUIRE(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, connections] {
      for (int i = 0; i < connections; ++i) serve();
    });
  }
  ~Peer() { join(); }
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/x"; }
  [[nodiscard]] std::string const& asked() const { return asked_; }

 private:
  void serve() {
    Fd const connection(::accept(listener_.get(), nullptr, nullptr));
    std::string request;
    char buffer[4096];
    while (!whole(request)) {
      ssize_t const got = ::read(connection.get(), buffer, sizeof buffer);
      if (got <= 0) break;
      request.append(buffer, static_cast<std::size_t>(got));
    }
    (void)::send(connection.get(), answer_.data(), answer_.size(), MSG_NOSIGNAL);
    asked_ += request;
  }
  static bool whole(std::string const& request) {
    if (request.starts_with("\x16")) return true;  // a TLS handshake
    std::size_t const end = request.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    std::size_t const length = request.find("Content-Length: ");
    return length == std::string::npos || request.size() >= end + 4 + std::stoul(request.substr(length + 16));
  }

  std::string answer_, asked_;
  Fd listener_;
  int port_ = 0;
  std::thread thread_;
};

struct Got {
  HttpCause cause{};
  int status = -1;
  std::string body, error, etag;
  std::optional<Duration> retry_after;
};

Got ask(HttpRequest const& request, HttpOptions const& options) {
  auto client = HttpClient::make(options);
  REQUIRE(client);
  Got got;
  (*client)->start(request, [&](HttpResponse& answer) {
    got = {answer.cause,      answer.status, answer.body, answer.error, std::string(answer.header("ETag")),
           answer.retry_after};
  });
  while ((*client)->in_flight() > 0) REQUIRE((*client)->turn(seconds(1)));
  return got;
}

Got get(std::string const& url, HttpOptions const& options = {}) { return ask({"GET", url, {}, {}}, options); }

// A header file that is gone in the end.
struct HeaderFile {
  std::string path;
  explicit HeaderFile(std::string const& text) {
    char name[] = "/tmp/inflight-headers-XXXXXX";
    Fd const fd(::mkstemp(name));
    path = name;
    std::ofstream(path) << text;
  }
  ~HeaderFile() { std::remove(path.c_str()); }
};

Time const kNow = *parse_rfc3339("2018-07-01T13:00:00Z");

}  // namespace

TEST_CASE("Retry-After is read as seconds") {
  CHECK(parse_retry_after("120", kNow) == Duration(seconds(120)));
  CHECK(parse_retry_after(" 0 ", kNow) == Duration(0));
}

TEST_CASE("Retry-After is read as a date, and one that is past means now") {
  CHECK(parse_retry_after("Sun, 01 Jul 2018 13:02:00 GMT", kNow) == Duration(seconds(120)));
  CHECK(parse_retry_after("Sun, 01 Jul 2018 12:00:00 GMT", kNow) == Duration(0));
}

TEST_CASE("a Retry-After that is neither is none") {
  for (char const* text : {"", " ", "soon", "-5", "1.5 minutes"}) CHECK_FALSE(parse_retry_after(text, kNow));
}

TEST_CASE("the values of a header file are secrets, in whole and behind the scheme") {
  HeaderFile const file("Authorization: Bearer tok-19273\r\n\nAccept: application/xml\n");
  auto const lines = read_header_file(file.path);
  REQUIRE(lines);
  CHECK(*lines == std::vector<std::string>{"Authorization: Bearer tok-19273", "Accept: application/xml"});
  CHECK(redact("it said tok-19273!") == "it said ***!");
  CHECK(redact("application/xml") == "application/xml");
}

TEST_CASE("a malformed header file is told by its line, without its text") {
  for (char const* text : {"A: b\nsecret words\n", "A: b\n: x\n", "A: b\nbad name: x\n", "A: b\nX: a\x01z\n"}) {
    HeaderFile const file(text);
    auto const lines = read_header_file(file.path);
    REQUIRE_FALSE(lines);
    CHECK(lines.status().code() == Code::usage);
    CHECK(lines.status().what() == file.path + ": line 2 is not `Name: value`");
  }
}

TEST_CASE("an answer comes with its headers and body") {
  Peer peer("HTTP/1.1 200 OK\r\nETag: \"7\"\r\nContent-Length: 5\r\n\r\nhello");
  Got const got = get(peer.url());
  CHECK(got.cause == HttpCause::none);
  CHECK(got.status == 200);
  CHECK(got.body == "hello");
  CHECK(got.etag == "\"7\"");
  CHECK(got.error.empty());
}

TEST_CASE("a POST sends its body and headers, those of header files too") {
  HeaderFile const file("X-Key: sesame-1\n");
  Peer peer("HTTP/1.1 204 No Content\r\n\r\n");
  HttpOptions options;
  options.header_files = {file.path};
  std::string const body{'a', '\0', 'b'}, big(100'000, 'x');
  Got const got = ask({"POST", peer.url(), {"Content-Type: text/plain"}, body + big}, options);
  peer.join();
  CHECK(got.status == 204);
  CHECK(peer.asked().starts_with("POST /x HTTP/1.1\r\n"));
  CHECK(peer.asked().find("X-Key: sesame-1\r\n") != std::string::npos);
  CHECK(peer.asked().find("Content-Type: text/plain\r\n") != std::string::npos);
  CHECK(peer.asked().find("Expect") == std::string::npos);
  CHECK(peer.asked().ends_with("\r\n\r\n" + body + big));
}

TEST_CASE("each method is sent as it is, and a GET after it is a GET") {
  HttpOptions options;
  auto client = HttpClient::make(options);
  REQUIRE(client);
  for (char const* method : {"PUT", "DELETE", "GET", "HEAD", "PATCH", "GET"}) {
    Peer peer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    int status = 0;
    (*client)->start({method, peer.url(), {}, {}}, [&](HttpResponse& answer) { status = answer.status; });
    while ((*client)->in_flight() > 0) REQUIRE((*client)->turn(seconds(1)));
    peer.join();
    CHECK(status == 200);
    CHECK(peer.asked().starts_with(std::string(method) + " /x "));
  }
}

TEST_CASE("a status that is no success is a cause, with its body and Retry-After") {
  Peer peer("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nfull");
  Got const got = get(peer.url());
  CHECK(got.cause == HttpCause::status);
  CHECK(got.status == 503);
  CHECK(got.body == "full");
  CHECK(got.retry_after == Duration(seconds(7)));
  CHECK(got.error == peer.url() + ": status 503");
}

TEST_CASE("an answer that ends early is cut") {
  Peer within("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello");
  Got const half = get(within.url());
  CHECK(half.cause == HttpCause::cut);
  CHECK(half.error == within.url() + ": the connection ended within the answer");
  Peer before("");
  CHECK(get(before.url()).cause == HttpCause::cut);
}

TEST_CASE("an answer that is no HTTP is a protocol failure") {
  Peer peer("SSH-2.0-OpenSSH_9.2p1\r\n");
  CHECK(get(peer.url()).cause == HttpCause::protocol);
}

TEST_CASE("a body beyond the cap is refused, one at the cap is not") {
  HttpOptions options;
  options.max_body = 5;
  Peer exact("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
  CHECK(get(exact.url(), options).cause == HttpCause::none);
  Peer more("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!");
  Got const got = get(more.url(), options);
  CHECK(got.cause == HttpCause::too_large);
  CHECK(got.error == more.url() + ": the answer is larger than 5 bytes");
}

TEST_CASE("nobody listening is a connect failure, a name that does not exist a resolve failure") {
  Got const refused = get("http://127.0.0.1:1/x");
  CHECK(refused.cause == HttpCause::connect);
  CHECK(refused.error == "http://127.0.0.1:1/x: Connection refused");
  CHECK(get("http://name.invalid/x").cause == HttpCause::resolve);
}

TEST_CASE("a peer that accepts and is silent is a timeout") {
  Fd const listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::listen(listener.get(), 4) == 0);
  sockaddr_in address{};
  socklen_t size = sizeof address;
  REQUIRE(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  HttpOptions options;
  options.timeout = milliseconds(50);
  std::string const url = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port)) + "/";
  Got const got = get(url, options);
  CHECK(got.cause == HttpCause::timeout);
  CHECK(got.error == url + ": no answer within 50ms");
}

TEST_CASE("plain HTTP where TLS is expected is a TLS failure") {
  Peer peer("HTTP/1.1 400 Bad Request\r\n\r\n");
  std::string url = peer.url();
  url.insert(4, "s");
  CHECK(get(url).cause == HttpCause::tls);
}

TEST_CASE("credentials in a URL are sent, and told to nobody") {
  Peer peer("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
  std::string url = peer.url();
  url.insert(7, "ann:wonder@");
  Got const got = get(url);
  peer.join();
  CHECK(peer.asked().find("Authorization: Basic YW5uOndvbmRlcg==\r\n") != std::string::npos);
  CHECK(got.error == peer.url() + ": status 500");
}

TEST_CASE("a body that is taken as it comes may be of any length, and be refused") {
  std::string const answer = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + std::string(100'000, 'x');
  HttpOptions options;
  options.max_body = 1000;
  for (bool const whole : {true, false}) {
    Peer peer(answer);
    std::size_t taken = 0;
    HttpRequest request{"GET", peer.url(), {}, {}};
    request.on_body = [&](std::string_view bytes) { return (taken += bytes.size()) < 50'000 || whole; };
    Got const got = ask(request, options);
    CHECK(got.cause == (whole ? HttpCause::none : HttpCause::cut));
    CHECK(got.body.empty());
    CHECK((taken == 100'000) == whole);
  }
}

TEST_CASE("the body of an error is not taken for what was asked") {
  Peer peer("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone");
  bool taken = false;
  HttpRequest request{"GET", peer.url(), {}, {}};
  request.on_body = [&](std::string_view) { return taken = true; };
  Got const got = ask(request, {});
  CHECK_FALSE(taken);
  CHECK(got.body == "none");
}

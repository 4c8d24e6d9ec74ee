// A service for benchmarks: answers GET with a document and everything else with 204, each after the same time, and
// with 503 what comes while so many requests are under way. It costs little beside what is measured.
//
//   rest-sim [TAKES_MS [LIMIT]]     prints `listening on URL`
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

namespace {

using Clock = std::chrono::steady_clock;

std::string answer_to(std::string_view request) {
  if (!request.starts_with("GET ")) return "HTTP/1.1 204 No Content\r\n\r\n";
  std::string_view const path = request.substr(4, request.find(' ', 4) - 4);
  std::string const body = R"({"path":")" + std::string(path) + R"(","text":")" + std::string(400, 'x') + "\"}";
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

// The first request of `text` with its body; empty where there is no whole one.
std::string_view first_of(std::string_view text) {
  std::size_t const head = text.find("\r\n\r\n");
  if (head == std::string_view::npos) return {};
  std::size_t body = 0;
  for (std::size_t at = 0; at < head; at = text.find("\r\n", at) + 2) {
    constexpr std::string_view name = "content-length:";
    if (::strncasecmp(text.data() + at, name.data(), name.size()) == 0)
      body = std::strtoul(text.data() + at + name.size(), nullptr, 10);
  }
  return head + 4 + body <= text.size() ? text.substr(0, head + 4 + body) : std::string_view{};
}

}  // namespace

int main(int argc, char** argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  std::signal(SIGPIPE, SIG_IGN);
  auto const takes = std::chrono::milliseconds(argc > 1 ? std::strtol(argv[1], nullptr, 10) : 0);
  std::size_t const limit = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : SIZE_MAX;
  int const listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listener, 1024) != 0) return 1;
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  std::printf("listening on http://127.0.0.1:%d\n", ::ntohs(address.sin_port));
  std::fflush(stdout);

  int const epoll = ::epoll_create1(EPOLL_CLOEXEC);
  auto watch = [&](int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  };
  watch(listener);
  struct Connection {
    std::uint64_t number = 0;
    std::string text;
  };
  struct Held {
    Clock::time_point until;
    int fd = -1;
    std::uint64_t connection = 0;
    std::string answer;
  };
  std::unordered_map<int, Connection> connections;
  std::deque<Held> held;
  std::uint64_t accepted = 0;
  auto say = [](int fd, std::string_view text) { (void)!::write(fd, text.data(), text.size()); };
  for (;;) {
    int wait = -1;
    if (!held.empty()) {
      auto const left = std::chrono::ceil<std::chrono::milliseconds>(held.front().until - Clock::now());
      wait = static_cast<int>(std::max<std::int64_t>(0, left.count()));
    }
    std::array<epoll_event, 64> events{};
    int const count = ::epoll_wait(epoll, events.data(), static_cast<int>(events.size()), wait);
    for (; !held.empty() && held.front().until <= Clock::now(); held.pop_front()) {
      auto const at = connections.find(held.front().fd);
      if (at != connections.end() && at->second.number == held.front().connection)
        say(held.front().fd, held.front().answer);
    }
    for (int i = 0; i < count; ++i) {
      int const fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == listener) {
        int const client = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        int const on = 1;
        ::setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connections[client].number = ++accepted;
        watch(client);
        continue;
      }
      Connection& connection = connections[fd];
      std::array<char, 64 << 10> buffer{};
      ssize_t const got = ::read(fd, buffer.data(), buffer.size());
      if (got <= 0) {
        connections.erase(fd);
        ::close(fd);
        continue;
      }
      connection.text.append(buffer.data(), static_cast<std::size_t>(got));
      for (std::string_view one; !(one = first_of(connection.text)).empty(); connection.text.erase(0, one.size())) {
        if (held.size() >= limit) {
          say(fd, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        } else if (takes.count() == 0) {
          say(fd, answer_to(one));
        } else {
          held.push_back({Clock::now() + takes, fd, connection.number, answer_to(one)});
        }
      }
    }
  }
}

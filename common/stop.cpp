#include "common/stop.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>

namespace inflight {

namespace {

std::atomic<int> g_signal{0};
std::atomic<bool> g_hangup{false};
std::array<int, 2> g_stop{-1, -1};
std::array<int, 2> g_wake{-1, -1};

extern "C" void on_signal(int number) {
  int const saved = errno;
  if (number == SIGTERM || number == SIGINT) {
    int expected = 0;
    if (g_signal.compare_exchange_strong(expected, number)) {
      (void)!::write(g_stop[1], "s", 1);  // never read: the descriptor stays readable
    } else {
      // Whoever asks twice does not want to wait.
      ::signal(number, SIG_DFL);
      ::raise(number);
    }
  } else if (number == SIGHUP) {
    g_hangup = true;
  }
  (void)!::write(g_wake[1], "w", 1);
  errno = saved;
}

}  // namespace

void install_signals() {
  if (g_stop[0] >= 0) return;
  (void)!::pipe2(g_stop.data(), O_CLOEXEC | O_NONBLOCK);
  (void)!::pipe2(g_wake.data(), O_CLOEXEC | O_NONBLOCK);
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (int const number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) ::sigaction(number, &action, nullptr);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, nullptr);
}

int stop_signal() { return g_signal; }
bool take_hangup() { return g_hangup.exchange(false); }
int stop_fd() { return g_stop[0]; }
int wake_fd() { return g_wake[0]; }

void clear_wake() {
  char buffer[64];
  while (::read(g_wake[0], buffer, sizeof buffer) > 0) {
  }
}

void request_stop(int signal) {
  int expected = 0;
  if (g_signal.compare_exchange_strong(expected, signal)) {
    (void)!::write(g_stop[1], "s", 1);
    (void)!::write(g_wake[1], "w", 1);
  }
}

}  // namespace inflight

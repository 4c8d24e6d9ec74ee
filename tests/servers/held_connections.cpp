#include "tests/servers/held_connections.h"

#include <poll.h>

#include <algorithm>
#include <vector>

namespace inflight::sim {

using namespace std::chrono_literals;

HeldConnections::HeldConnections() : thread_([this] { run(); }) {}

HeldConnections::~HeldConnections() {
  release_all();
  thread_.join();
}

bool HeldConnections::hold(MHD_Connection* connection, Clock::time_point until, bool* gone) {
  auto const* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  std::lock_guard const lock(mutex_);
  if (ending_ || info == nullptr) return false;
  MHD_suspend_connection(connection);
  bool const sooner = held_.empty() || until < held_.begin()->first;
  held_.emplace(until, Held{connection, info->connect_fd, gone});
  peak_ = std::max(peak_, held_.size());
  if (sooner) changed_.notify_one();
  return true;
}

void HeldConnections::release_all() {
  std::lock_guard const lock(mutex_);
  ending_ = true;
  for (auto& [until, held] : held_) {
    *held.gone = true;
    MHD_resume_connection(held.connection);
  }
  held_.clear();
  changed_.notify_one();
}

std::size_t HeldConnections::now() const {
  std::lock_guard const lock(mutex_);
  return held_.size();
}

std::size_t HeldConnections::peak() const {
  std::lock_guard const lock(mutex_);
  return peak_;
}

void HeldConnections::run() {
  std::unique_lock lock(mutex_);
  auto next_look = Clock::now();
  while (!ending_) {
    if (held_.empty()) {
      changed_.wait(lock);
      continue;
    }
    changed_.wait_until(lock, std::min(held_.begin()->first, next_look));
    auto const time = Clock::now();
    release_due(time);
    if (time >= next_look) {
      release_hung_up();
      next_look = time + 100ms;
    }
  }
}

void HeldConnections::release_due(Clock::time_point time) {
  while (!held_.empty() && held_.begin()->first <= time) {
    MHD_resume_connection(held_.begin()->second.connection);
    held_.erase(held_.begin());
  }
}

// A suspended connection is not watched by the daemon: without this look, every client that gave up would cost a
// descriptor.
void HeldConnections::release_hung_up() {
  std::vector<pollfd> sockets;
  sockets.reserve(held_.size());
  for (auto const& [until, held] : held_) sockets.push_back({held.socket, POLLRDHUP, 0});
  if (sockets.empty() || poll(sockets.data(), sockets.size(), 0) <= 0) return;
  auto at = held_.begin();
  for (auto const& socket : sockets) {
    if ((socket.revents & (POLLRDHUP | POLLHUP | POLLERR)) == 0) {
      ++at;
      continue;
    }
    *at->second.gone = true;
    MHD_resume_connection(at->second.connection);
    at = held_.erase(at);
  }
}

}  // namespace inflight::sim

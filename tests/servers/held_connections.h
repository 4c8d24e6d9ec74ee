// Connections that get no answer yet, or never: suspended in libmicrohttpd, so that thousands of them cost no thread.
#pragma once

#include <microhttpd.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <map>
#include <mutex>
#include <thread>

namespace inflight::sim {

class HeldConnections {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::time_point never = Clock::time_point::max();

  HeldConnections();
  ~HeldConnections();  // release_all() came before
  HeldConnections(HeldConnections const&) = delete;
  HeldConnections& operator=(HeldConnections const&) = delete;

  // To be called from the access handler, which then returns MHD_YES at once: it is called again when `until` has
  // passed, with *gone false; or when the client has hung up (noticed within a tenth of a second) or the server ends,
  // with *gone true: then it returns MHD_NO. `gone` must live until then. False: the server is ending, nothing is held.
  [[nodiscard]] bool hold(MHD_Connection* connection, Clock::time_point until, bool* gone);

  // Lets go of all and holds no more; before MHD_stop_daemon, which must not find suspended connections.
  void release_all();

  [[nodiscard]] std::size_t now() const;
  [[nodiscard]] std::size_t peak() const;

 private:
  struct Held {
    MHD_Connection* connection;
    int socket;
    bool* gone;
  };
  void run();
  void release_due(Clock::time_point time);
  void release_hung_up();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::multimap<Clock::time_point, Held> held_;
  std::size_t peak_ = 0;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace inflight::sim

// A shell command whose standard output we read: run by `bash -o pipefail -c`, in a process group of its own, with
// nothing on its standard input; its messages go where ours go.
#pragma once

#include <sys/types.h>

#include <mutex>
#include <string>

#include "common/handle.h"
#include "common/status.h"

namespace inflight {

class Command {
 public:
  Command() = default;
  ~Command() { end(); }
  Command(Command const&) = delete;
  Command& operator=(Command const&) = delete;

  [[nodiscard]] Status start(std::string const& line);
  [[nodiscard]] int output() const { return output_.get(); }
  // Ok where it exited with 0. Else Code::temporary says how it ended; Code::stopped: a stop signal came first.
  [[nodiscard]] Status wait();
  // SIGKILL to the group, and collects the shell. From any thread, any number of times.
  void end();

 private:
  std::mutex mutex_;
  pid_t pid_ = 0;  // 0: none, or collected
  bool ended_ = false;
  Fd output_;
};

}  // namespace inflight

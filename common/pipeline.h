// One run of a pipeline: its processes, their descriptors and the lock that shows when the last of them is gone.
//
// The processes get default signal dispositions, a process group of their own, the receipts channel (receipts.h) and a
// lock descriptor. The caller drives it from a poll(2) loop; nothing here blocks.
#pragma once

#include <sys/types.h>

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "common/handle.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct PipelineOptions {
  std::vector<std::string> words;  // one: for `bash -o pipefail -c`; more: a program and its arguments
  std::string lock_path;           // every process of the run holds it; in it stands how to find their group again
  bool channel = true;
  std::string token;   // of this run
  std::string source;  // RECEIPTS_SOURCE
};

class Pipeline {
 public:
  [[nodiscard]] static Result<Pipeline> start(PipelineOptions const& options);
  Pipeline(Pipeline&&) = default;
  Pipeline& operator=(Pipeline&&) = default;

  [[nodiscard]] int input() const { return input_.get(); }
  // Writes what the pipe takes. Code::closed: the first stage reads no more.
  [[nodiscard]] Result<std::size_t> write(std::string_view bytes);
  void close_input() { input_.reset(); }

  [[nodiscard]] int channel() const { return channel_.get(); }
  // Appends whole lines that stages have sent; `ended` when every process has closed the channel. False: nothing new.
  bool read_channel(std::string& lines, bool& ended);

  [[nodiscard]] int errors() const { return errors_.get(); }
  // Passes standard error of the stages on and keeps its last lines.
  void read_errors();
  [[nodiscard]] std::string last_errors() const;

  // Collects what has ended; true when every process of the run is gone.
  [[nodiscard]] bool gone();
  [[nodiscard]] bool leader_ended() const { return leader_ended_; }
  // The exit status as a shell has it (128 + signal), once gone.
  [[nodiscard]] int status() const { return status_; }
  void signal_group(int signal) const;
  // SIGKILL to the group and to what has left it: processes that we or a stage have started and that hold the lock.
  void kill_all() const;
  // Who holds the lock, as `name (pid)`.
  [[nodiscard]] std::vector<std::string> holders() const;

 private:
  Pipeline() = default;

  pid_t leader_ = -1;
  std::string lock_path_;
  Fd input_, channel_, errors_;
  std::string channel_rest_, errors_rest_;
  std::deque<std::string> error_lines_;
  bool leader_ended_ = false, group_ended_ = false;
  int status_ = 0;
};

// Two runs never write side by side: waits until every process of runs before is gone, whose locks have names that
// begin with `lock_path`. After `patience` it names them and sends SIGTERM to the group that the lock file tells, after
// twice that SIGKILL. Code::temporary: there are still some; Code::stopped: a stop signal came.
[[nodiscard]] Status take_over(Clock& clock, std::string const& lock_path, Duration patience);

}  // namespace inflight

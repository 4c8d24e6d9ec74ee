// SIGTERM and SIGINT ask a tool to drain and end; SIGHUP to read its files again. SIGPIPE is ignored, so that a closed
// pipe is a failed write; programs that we start get the default dispositions back (pipeline.h).
#pragma once

namespace inflight {

void install_signals();
// The first of SIGINT and SIGTERM that came, or 0. A second one ends the process at once.
[[nodiscard]] int stop_signal();
[[nodiscard]] inline bool stopping() { return stop_signal() != 0; }
// True once for each SIGHUP.
[[nodiscard]] bool take_hangup();
// Becomes and stays readable when a stop signal came; also wakes (once) on SIGHUP and SIGCHLD: for poll(2).
[[nodiscard]] int stop_fd();
[[nodiscard]] int wake_fd();
void clear_wake();
// Stops as a signal would (used where a thread ends the work of another).
void request_stop(int signal);

}  // namespace inflight

#include "common/command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/stop.h"

namespace inflight {

namespace {
constexpr int kPipeSize = 1 << 20;
}

Status Command::start(std::string const& line) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Status::from_errno("pipe", errno);
  Fd read(fds[0]), write(fds[1]);
  (void)::fcntl(write.get(), F_SETPIPE_SZ, kPipeSize);  // a smaller one is slower, not wrong

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, write.get(), 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);

  std::string words[] = {"bash", "-o", "pipefail", "-c", line};
  char* const argv[] = {words[0].data(), words[1].data(), words[2].data(), words[3].data(), words[4].data(), nullptr};
  std::scoped_lock const lock(mutex_);
  int const error = ended_ ? ECANCELED : ::posix_spawnp(&pid_, "bash", &files, &attributes, argv, environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    pid_ = 0;
    return Status::temporary(fmt::format("bash: {}", std::strerror(error)));
  }
  output_ = std::move(read);
  return {};
}

Status Command::wait() {
  Fd const process([&] {
    std::scoped_lock const lock(mutex_);
    return pid_ == 0 ? -1 : static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0));
  }());
  if (!process) return Status::temporary("was ended");
  pollfd fds[2] = {{process.get(), POLLIN, 0}, {stop_fd(), POLLIN, 0}};
  while (fds[0].revents == 0) {
    if (stopping()) return {Code::stopped, "stopped"};
    ::poll(fds, stop_fd() >= 0 ? 2 : 1, -1);
  }
  std::scoped_lock const lock(mutex_);
  int status = 0;
  if (pid_ == 0 || ::waitpid(pid_, &status, 0) != pid_) return Status::temporary("was ended");
  pid_ = 0;
  if (WIFSIGNALED(status)) return Status::temporary(fmt::format("ended with signal {}", WTERMSIG(status)));
  int const exit = WEXITSTATUS(status);
  return exit == 0 ? Status{} : Status::temporary(fmt::format("ended with exit status {}", exit));
}

void Command::end() {
  std::scoped_lock const lock(mutex_);
  ended_ = true;
  if (pid_ == 0) return;
  ::kill(-pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = 0;
}

}  // namespace inflight

#include "common/pipeline.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>

#include "common/fd_io.h"
#include "common/messages.h"

extern char** environ;

namespace inflight {

namespace {

constexpr int kPipeSize = 256 << 10;

struct Pipe {
  Fd read, write;
};

Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Status::from_errno("pipe", errno);
  (void)::fcntl(fds[1], F_SETPIPE_SZ, kPipeSize);  // a smaller one is slower, not wrong
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

void unblock(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }
void inherit(int fd) { ::fcntl(fd, F_SETFD, 0); }

std::string boot_id() {
  auto text = read_file("/proc/sys/kernel/random/boot_id");
  return text ? text->substr(0, text->find('\n')) : "?";
}

// Empty where there is no such process.
std::string start_of(pid_t pid) {
  auto stat = read_file(fmt::format("/proc/{}/stat", pid));
  if (!stat) return {};
  std::size_t at = stat->rfind(')');  // the name before it may hold anything
  for (int field = 2; at != std::string::npos && field < 22; ++field) at = stat->find(' ', at + 1);
  if (at == std::string::npos) return {};
  return stat->substr(at + 1, stat->find(' ', at + 1) - at - 1) + " " + boot_id();
}

// In the child, between fork and exec: system calls only.
[[noreturn]] void become(char* const* argv, char* const* envp, int in, int err, int exec_error) {
  ::setpgid(0, 0);
  for (int number = 1; number < 32; ++number) {
    if (number != SIGKILL && number != SIGSTOP) ::signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::dup2(in, 0);
  ::dup2(err, 2);
  ::execvpe(argv[0], argv, envp);
  int const error = errno;
  (void)!::write(exec_error, &error, sizeof error);
  ::_exit(error == ENOENT ? 127 : 126);
}

}  // namespace

Result<Pipeline> Pipeline::start(PipelineOptions const& options) {
  // Stages whose parents die come to us, so that none is overlooked.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  Pipeline run;
  run.lock_path_ = options.lock_path;
  Fd lock;
  if (!options.lock_path.empty()) {
    auto held = lock_file(options.lock_path, Lock::exclusive, false);
    if (!held) return held.status();
    lock = std::move(*held);
    inherit(lock.get());
  }
  auto input = make_pipe();
  auto errors = make_pipe();
  auto exec_error = make_pipe();
  auto channel = make_pipe();
  for (auto* pipe : {&input, &errors, &exec_error, &channel}) {
    if (!*pipe) return pipe->status();
  }

  std::vector<std::string> words = options.words;
  if (words.size() == 1) words = {"bash", "-o", "pipefail", "-c", words[0]};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with("RECEIPTS_")) variables.emplace_back(*entry);
  }
  if (options.channel) {
    struct stat info {};
    if (::fstat(channel->write.get(), &info) != 0) return Status::from_errno("receipts channel", errno);
    inherit(channel->write.get());
    variables.push_back(
        fmt::format("RECEIPTS_FD={}:{}:{}:{}", channel->write.get(), info.st_dev, info.st_ino, options.token));
    variables.push_back("RECEIPTS_SOURCE=" + options.source);
  }
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);

  pid_t const child = ::fork();
  if (child < 0) return Status::from_errno("fork", errno);
  if (child == 0) become(argv.data(), envp.data(), input->read.get(), errors->write.get(), exec_error->write.get());
  ::setpgid(child, child);  // both do it: whoever is first
  run.leader_ = child;
  if (lock) {
    // Not synced: after a power failure nobody is there to be found.
    std::string const mark = fmt::format("{} {}\n", child, start_of(child));
    if (::ftruncate(lock.get(), 0) == 0) (void)!::pwrite(lock.get(), mark.data(), mark.size(), 0);
  }
  exec_error->write.reset();
  int error = 0;
  if (::read(exec_error->read.get(), &error, sizeof error) == sizeof error) {
    say_error(fmt::format("{}: {}", words[0], std::strerror(error)));
  }
  run.input_ = std::move(input->write);
  run.errors_ = std::move(errors->read);
  unblock(run.input_.get());
  unblock(run.errors_.get());
  if (options.channel) {
    run.channel_ = std::move(channel->read);
    unblock(run.channel_.get());
  }
  return run;
}

Result<std::size_t> Pipeline::write(std::string_view bytes) {
  for (;;) {
    ssize_t const n = ::write(input_.get(), bytes.data(), bytes.size());
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno == EAGAIN) return std::size_t{0};
    if (errno != EINTR) return Status::from_errno("pipeline", errno);
  }
}

bool Pipeline::read_channel(std::string& lines, bool& ended) {
  char buffer[65536];
  std::size_t const before = channel_rest_.size();
  ended = false;
  for (;;) {
    ssize_t const n = ::read(channel_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    ended = n == 0;
    if (n <= 0) break;
    channel_rest_.append(buffer, static_cast<std::size_t>(n));
    if (channel_rest_.size() > (1 << 20)) break;
  }
  bool const more = channel_rest_.size() > before;
  std::size_t const end = channel_rest_.rfind('\n');
  if (end == std::string::npos) return more;
  lines.append(channel_rest_, 0, end + 1);
  channel_rest_.erase(0, end + 1);
  return more;
}

void Pipeline::read_errors() {
  char buffer[16384];
  for (;;) {
    ssize_t const n = ::read(errors_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errors_.reset();
    if (n <= 0) break;
    std::string_view const text(buffer, static_cast<std::size_t>(n));
    (void)write_all(STDERR_FILENO, redact(text), "standard error");
    errors_rest_.append(text);
    for (std::size_t end = 0; (end = errors_rest_.find('\n')) != std::string::npos; errors_rest_.erase(0, end + 1)) {
      error_lines_.push_back(errors_rest_.substr(0, std::min<std::size_t>(end, 300)));
      if (error_lines_.size() > 3) error_lines_.pop_front();
    }
    if (errors_rest_.size() > 4096) errors_rest_.resize(300);
  }
}

std::string Pipeline::last_errors() const {
  std::string text;
  for (std::string const& line : error_lines_) text += (text.empty() ? "" : " / ") + line;
  return text;
}

bool Pipeline::gone() {
  for (;;) {
    int status = 0;
    pid_t const pid = ::waitpid(-leader_, &status, WNOHANG);
    if (pid <= 0) break;
    if (pid != leader_) continue;
    leader_ended_ = true;
    status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  if (!leader_ended_) return false;
  if (::kill(-leader_, 0) == 0 || errno == EPERM) return false;
  return lock_path_.empty() || !run_lock_held(lock_path_);
}

void Pipeline::signal_group(int signal) const { ::kill(-leader_, signal); }

std::vector<std::string> Pipeline::holders() const {
  return lock_path_.empty() ? std::vector<std::string>{} : who_has_open(lock_path_);
}

bool run_lock_held(std::string const& path) {
  if (!exists(path)) return false;
  auto held = lock_file(path, Lock::exclusive, false);
  return !held && held.status().code() == Code::temporary;
}

void signal_recorded_group(std::string const& lock_path, int signal) {
  auto text = read_file(lock_path);
  if (!text) return;
  char* end = nullptr;
  auto const group = static_cast<pid_t>(std::strtol(text->c_str(), &end, 10));
  if (group <= 1 || *end != ' ') return;
  std::string const started(end + 1, text->find_last_not_of('\n') + 1 - static_cast<std::size_t>(end + 1 - text->c_str()));
  // The leader may have ended before its children: then the boot tells; a reused leader is told by its start.
  std::string const now = start_of(group);
  if (now.empty() ? started.ends_with(boot_id()) : now == started) ::kill(-group, signal);
}

}  // namespace inflight

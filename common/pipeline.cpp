#include "common/pipeline.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>

#include "common/fd_io.h"
#include "common/messages.h"
#include "common/stop.h"
#include "common/units.h"

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

// Fields of /proc/PID/stat; `start` is empty where there is no such process, or only what is left of it.
struct ProcessStat {
  pid_t parent = 0, group = 0;
  std::string name, start;
};

ProcessStat stat_of(std::string const& pid) {
  ProcessStat process;
  auto stat = read_file("/proc/" + pid + "/stat");
  if (!stat) return process;
  std::size_t const open = stat->find('('), close = stat->rfind(')');  // the name between them may hold anything
  if (open == std::string::npos || close == std::string::npos) return process;
  process.name = stat->substr(open + 1, close - open - 1);
  std::string_view rest(*stat);
  rest.remove_prefix(close + 1);
  for (int field = 3; field <= 22 && rest.size() > 1; ++field) {
    rest.remove_prefix(1);
    std::string const word(rest.substr(0, rest.find(' ')));
    rest.remove_prefix(std::min(rest.size(), word.size()));
    if (field == 3 && (word == "Z" || word == "X")) return process;
    if (field == 4) process.parent = static_cast<pid_t>(std::strtol(word.c_str(), nullptr, 10));
    if (field == 5) process.group = static_cast<pid_t>(std::strtol(word.c_str(), nullptr, 10));
    if (field == 22) process.start = word;
  }
  return process;
}

// How a process group can be found again by a later start of the same line, in spite of reused process ids. It stands
// in the lock file before the first stage runs: `GROUP START BOOT`.
struct GroupMark {
  pid_t group = 0;
  std::string start, boot;
};

GroupMark read_mark(std::string const& path) {
  GroupMark mark;
  auto text = read_file(path);
  if (!text) return mark;
  std::size_t const first = text->find(' '), second = text->find(' ', first + 1), end = text->find('\n');
  if (end == std::string::npos || second >= end) return mark;
  mark.group = static_cast<pid_t>(std::strtol(text->c_str(), nullptr, 10));
  mark.start = text->substr(first + 1, second - first - 1);
  mark.boot = text->substr(second + 1, end - second - 1);
  return mark;
}

Status write_mark(int lock, pid_t group, std::string const& path) {
  std::string const text = fmt::format("{} {} {}\n", group, stat_of(std::to_string(group)).start, boot_id());
  if (::ftruncate(lock, 0) != 0) return Status::from_errno(path, errno);
  return real_disk().write_at(lock, text, 0, path);  // no sync: processes do not outlive the machine
}

// The processes of the marked group.
std::vector<std::string> members(GroupMark const& mark) {
  std::vector<std::string> found;
  if (mark.group <= 1 || ::kill(-mark.group, 0) != 0 || mark.boot != boot_id()) return found;
  ProcessStat const leader = stat_of(std::to_string(mark.group));
  if (!leader.start.empty() && leader.start != mark.start) return found;  // the number is somebody else's now
  auto processes = list_folder("/proc");
  if (!processes) return found;
  for (std::string const& pid : *processes) {
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    ProcessStat const process = stat_of(pid);
    if (!process.start.empty() && process.group == mark.group)
      found.push_back(fmt::format("{} ({})", process.name, pid));
  }
  return found;
}

// The groups of the runs of this process.
std::set<pid_t>& groups() {
  static std::set<pid_t> instance;
  return instance;
}

// What a stage started in a group of its own comes to us when its parent ends (see start()), and nobody else would
// collect it.
void collect_strays() {
  for (;;) {
    siginfo_t ended{};
    if (::waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid == 0) return;
    if (groups().contains(::getpgid(ended.si_pid))) return;  // its run collects it before long
    if (::waitpid(ended.si_pid, nullptr, WNOHANG) <= 0) return;
  }
}

// In the child, between fork and exec: system calls only.
[[noreturn]] void become(char* const* argv, char* const* envp, int in, int err, int exec_error, int go) {
  ::setpgid(0, 0);
  // Nothing runs that is not yet recorded: the parent may die here.
  char word = 0;
  while (::read(go, &word, 1) < 0 && errno == EINTR) {
  }
  if (word == 0) ::_exit(75);
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
  auto go = make_pipe();
  for (auto* pipe : {&input, &errors, &exec_error, &channel, &go}) {
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
  if (child == 0) {
    ::close(go->write.get());
    become(argv.data(), envp.data(), input->read.get(), errors->write.get(), exec_error->write.get(), go->read.get());
  }
  ::setpgid(child, child);  // both do it: whoever is first
  run.leader_ = child;
  groups().insert(child);
  if (lock) {
    if (Status status = write_mark(lock.get(), child, options.lock_path); !status.ok()) {
      go->write.reset();
      ::waitpid(child, nullptr, 0);
      groups().erase(child);
      return status;
    }
  }
  (void)!::write(go->write.get(), "g", 1);
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
    if (channel_rest_.size() > (1 << 20)) {
      if (channel_rest_.find('\n') == std::string::npos) channel_rest_.clear();  // no stage of ours writes such a line
      break;
    }
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
  collect_strays();
  if (!leader_ended_) return false;
  // Once empty, the group's number may become somebody else's.
  if (!group_ended_) group_ended_ = ::kill(-leader_, 0) != 0 && errno != EPERM;
  if (!group_ended_) return false;
  groups().erase(leader_);
  return lock_path_.empty() || !lock_held(lock_path_);
}

void Pipeline::signal_group(int signal) const {
  if (!group_ended_) ::kill(-leader_, signal);
}

void Pipeline::kill_all() const {
  signal_group(SIGKILL);
  if (lock_path_.empty()) return;
  for (pid_t const holder : pids_with_open(lock_path_)) {
    // Orphans of the run are our children (PR_SET_CHILD_SUBREAPER); whoever else opens the file is not.
    pid_t ancestor = holder;
    while (ancestor > 1 && ancestor != ::getpid()) ancestor = stat_of(std::to_string(ancestor)).parent;
    if (ancestor == ::getpid() && holder != ancestor) ::kill(holder, SIGKILL);
  }
}

std::vector<std::string> Pipeline::holders() const {
  return lock_path_.empty() ? std::vector<std::string>{} : who_has_open(lock_path_);
}

namespace {

// Whether some process of a run before is still there: it holds the lock or is of the group that the lock file names.
bool run_alive(std::string const& lock_path) { return lock_held(lock_path) || !members(read_mark(lock_path)).empty(); }

void signal_run(std::string const& lock_path, int signal) {
  GroupMark const mark = read_mark(lock_path);
  if (!members(mark).empty()) ::kill(-mark.group, signal);
}

// As `name (pid), name (pid)`.
std::string who_runs(std::string const& lock_path) {
  std::vector<std::string> who = who_has_open(lock_path);
  for (std::string& process : members(read_mark(lock_path))) {
    if (std::find(who.begin(), who.end(), process) == who.end()) who.push_back(std::move(process));
  }
  return fmt::format("{}", fmt::join(who, ", "));
}

Status wait_for_run(Clock& clock, std::string const& lock_path, Duration patience) {
  Duration const begin = clock.steady();
  for (int signals = 0; run_alive(lock_path);) {
    if (stopping()) return {Code::stopped, "stopped"};
    if (clock.steady() - begin > patience * (signals + 1)) {
      std::string const who = who_runs(lock_path);
      if (signals == 2) return Status::temporary(fmt::format("the pipeline of a run before is still at work: {}", who));
      say_warning(fmt::format("the pipeline of a run before is still at work after {}: {}; ending it",
                              format_duration(patience), who));
      signal_run(lock_path, signals == 0 ? SIGTERM : SIGKILL);
      ++signals;
    }
    pollfd stop{stop_fd(), POLLIN, 0};
    ::poll(&stop, 1, 20);
  }
  return {};
}

}  // namespace

Status take_over(Clock& clock, std::string const& lock_path, Duration patience) {
  std::string const folder = parent_folder(lock_path);
  auto names = list_folder(folder);
  if (!names) return names.status();
  std::string const base = lock_path.substr(lock_path.rfind('/') + 1);
  for (std::string const& name : *names) {
    if (!name.starts_with(base)) continue;
    if (Status status = wait_for_run(clock, join(folder, name), patience); !status.ok()) return status;
  }
  return {};
}

}  // namespace inflight

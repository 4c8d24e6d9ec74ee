#include "common/metrics.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>
#include <thread>
#include <utility>

#include "common/messages.h"
#include "common/units.h"

namespace inflight {

Counters& counters() {
  static Counters instance;
  return instance;
}

void expect_bytes_of(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return;
  off_t const begin = ::lseek(fd, 0, SEEK_CUR);
  if (begin >= 0 && info.st_size > begin) counters().expected_bytes = static_cast<std::uint64_t>(info.st_size - begin);
}

namespace {

// A label's value, as the text format has it.
std::string label(std::string_view text) {
  std::string out;
  for (char const c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

// The file's name without folder and ending: collectors read many files, whose samples must differ.
std::string name_of(std::string_view file) {
  file.remove_prefix(file.rfind('/') + 1);
  std::size_t const dot = file.rfind('.');
  return std::string(file.substr(0, dot == 0 ? std::string_view::npos : dot));
}

}  // namespace

struct Progress::State {
  CommonOptions options;
  bool line = false;
  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;
  bool told = false;  // that the file cannot be written
  std::thread thread;
  std::uint64_t last_records = 0, last_bytes = 0;
  Duration last_at{}, started{};

  void draw() {
    Counters& c = counters();
    Duration const now = system_clock().steady();
    double const seconds = std::max(0.001, std::chrono::duration<double>(now - last_at).count());
    std::uint64_t const records = c.records, bytes = c.bytes;
    double const rate = static_cast<double>(records - last_records) / seconds;
    std::string text = fmt::format("{}: {} records, {:.0f}/s, {}/s", tool_name(), records, rate,
                                   format_size(static_cast<double>(bytes - last_bytes) / seconds));
    if (c.lag_ns >= 0) text += fmt::format(", lag {:.1f} s", static_cast<double>(c.lag_ns) / 1e9);
    text += fmt::format(", rejected {}", c.rejected.load());
    if (c.restarts > 0) text += fmt::format(", restarts {}", c.restarts.load());
    double const done = c.expected_records > 0 ? static_cast<double>(records) / static_cast<double>(c.expected_records)
                        : c.expected_bytes > 0 ? static_cast<double>(bytes) / static_cast<double>(c.expected_bytes)
                                               : 1;
    if (done > 0 && done < 1) {
      auto const left = std::chrono::duration<double>(now - started) * ((1 - done) / done);
      text += fmt::format(", {} to go", format_duration(std::chrono::ceil<std::chrono::seconds>(left)));
    }
    last_records = records, last_bytes = bytes, last_at = now;
    if (::isatty(STDERR_FILENO) == 1) {
      set_status_line(text);
    } else {
      say_info(text.substr(tool_name().size() + 2));
    }
  }

  void write_file() {
    Counters& c = counters();
    std::string text;
    std::string const labels =
        fmt::format("tool=\"{}\",name=\"{}\"", label(tool_name()), label(name_of(options.metrics_file)));
    auto add = [&](char const* name, char const* type, char const* help, double value) {
      text += fmt::format("# HELP inflight_{0} {1}\n# TYPE inflight_{0} {2}\ninflight_{0}{{{3}}} {4:.17g}\n", name,
                          help, type, labels, value);
    };
    add("records_total", "counter", "Records taken in.", static_cast<double>(c.records));
    add("bytes_total", "counter", "Bytes taken in.", static_cast<double>(c.bytes));
    add("settled_total", "counter", "Records stored, passed on or settled.", static_cast<double>(c.settled));
    add("rejected_total", "counter", "Records rejected.", static_cast<double>(c.rejected));
    add("dropped_total", "counter", "Records left out on purpose.", static_cast<double>(c.dropped));
    add("retries_total", "counter", "Attempts at a destination that were repeated.", static_cast<double>(c.retries));
    add("restarts_total", "counter", "Pipelines started again.", static_cast<double>(c.restarts));
    if (c.lag_ns >= 0) {
      add("lag_seconds", "gauge", "Age of the oldest unsettled event.", static_cast<double>(c.lag_ns) / 1e9);
    }
    std::string const temporary = fmt::format("{}.{}.tmp", options.metrics_file, ::getpid());
    std::ofstream file(temporary);
    file << text;
    file.close();  // not durable on purpose: it is out of date in a second
    if (file && std::rename(temporary.c_str(), options.metrics_file.c_str()) == 0) return;
    int const error = errno;
    (void)std::remove(temporary.c_str());
    if (!std::exchange(told, true))
      say_warning(fmt::format("--metrics {}: {}", options.metrics_file, std::strerror(error)));
  }

  void run() {
    std::unique_lock lock(mutex);
    while (!wake.wait_for(lock, std::chrono::seconds(1), [this] { return stop; })) {
      if (line) draw();
      if (!options.metrics_file.empty()) write_file();
    }
  }
};

Progress::Progress(CommonOptions const& options) : state_(std::make_unique<State>()) {
  state_->options = options;
  state_->line = options.progress || ::isatty(STDERR_FILENO) == 1;
  state_->last_at = state_->started = system_clock().steady();
  if (state_->line || !options.metrics_file.empty()) state_->thread = std::thread([this] { state_->run(); });
}

Progress::~Progress() {
  if (!state_->thread.joinable()) return;
  {
    std::lock_guard const lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_one();
  state_->thread.join();
  set_status_line("");
  if (!state_->options.metrics_file.empty()) state_->write_file();
}

}  // namespace inflight

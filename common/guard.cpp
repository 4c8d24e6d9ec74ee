#include "common/guard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "common/handle.h"
#include "common/messages.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX says that a program declares it

namespace inflight {

namespace {

constexpr std::size_t kWindow = 40;  // samples that are looked at
constexpr std::size_t kEnough = 10;  // fresh ones before the rate grows
constexpr std::size_t kFew = 20;
constexpr double kRoom = 0.75;       // of the target; between it and the target the rate stays
constexpr double kDeepest = 0.3;     // a cut leaves at least this
constexpr double kShallowest = 0.9;  // and at most this,
constexpr double kFall = 0.1;        // or, after others that were not enough, the power of it, but at least this
constexpr double kNear = 0.85;       // of the rate that was too high: up to here half of the way is one step
constexpr double kSlower = 1.5;      // what doubling becomes where the target is near
constexpr double kStep = 0.02;       // of the rate that was too high: the first step from there
constexpr double kFaster = 1.25;     // each is longer than the one before, up to
constexpr double kLongest = 0.25;    // of the rate
constexpr double kBeyond = 1.05;     // times the rate that was too high, at no more than
constexpr double kIdle = 0.5;        // of the target: others have gone, it is too high no more
constexpr double kUsed = 0.7;        // of the rate must be used for it to grow
constexpr Duration kSettle = std::chrono::milliseconds(500);
constexpr Duration kSlow = std::chrono::milliseconds(250);
constexpr Duration kPatience = std::chrono::seconds(5);  // with a probe, at least

double seconds_of(Duration duration) { return std::chrono::duration<double>(duration).count(); }

bool take_number(std::string_view text, double& number) {
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(number);
}

}  // namespace

Result<Target> parse_target(std::string_view text) {
  auto const wrong = [&] {
    return Status::usage(fmt::format("'{}' is not a target: p95=50ms, errors=1%, value=100", text));
  };
  std::size_t const equals = text.find('=');
  if (equals == std::string_view::npos) return wrong();
  std::string_view const name = text.substr(0, equals);
  std::string_view value = text.substr(equals + 1);
  Target target;
  if (name == "errors") {
    target.of = Target::Of::errors;
    if (!value.ends_with('%')) return wrong();
    value.remove_suffix(1);
    if (!take_number(value, target.most) || target.most <= 0 || target.most > 100) return wrong();
    target.most /= 100;
  } else if (name == "value") {
    target.of = Target::Of::value;
    if (!take_number(value, target.most) || target.most <= 0) return wrong();
  } else {
    auto const limit = parse_duration(value);
    if (!name.starts_with('p') || !take_number(name.substr(1), target.percentile) || target.percentile <= 0 ||
        target.percentile > 100 || !limit || *limit <= Duration::zero()) {
      return wrong();
    }
    target.percentile /= 100;
    target.most = seconds_of(*limit);
  }
  return target;
}

// ---- the rate

Aimd::Aimd(std::vector<Target> targets, double start, double most)
    : targets_(std::move(targets)), rate_(std::max(kLeast, start)), most_(most) {
  if (most_ > 0) rate_ = std::min(rate_, most_);
}

double Aimd::load(Target const& target) const {
  if (samples_.empty()) return 0;
  auto const count = static_cast<double>(samples_.size());
  if (target.of == Target::Of::errors) {
    auto const failed = std::count_if(samples_.begin(), samples_.end(), [](Sample const& s) { return s.failed; });
    return static_cast<double>(failed) / std::max(count, static_cast<double>(kFew)) / target.most;
  }
  std::vector<double> seen;
  for (Sample const& sample : samples_) {
    if (sample.failed || (target.of == Target::Of::value && !sample.value)) {
      seen.push_back(HUGE_VAL);  // what does not answer is slower than any answer
    } else {
      seen.push_back(target.of == Target::Of::value ? *sample.value : sample.seconds);
    }
  }
  if (target.of == Target::Of::value) return seen.back() / target.most;
  std::sort(seen.begin(), seen.end());
  // How far it is exceeded: those above it say so, the percentile only begins to when others have come at once.
  auto const above = std::upper_bound(seen.begin(), seen.end(), target.most);
  if (exceeds(target)) return above[std::distance(above, seen.end()) / 2] / target.most;
  auto const rank = static_cast<std::size_t>(std::ceil(target.percentile * count));
  return seen[std::min(seen.size(), std::max<std::size_t>(rank, 1)) - 1] / target.most;
}

void Aimd::add(Sample const& sample, std::uint64_t passed, Duration now) {
  if (!since_) since_ = now;
  passed_ += passed;
  if (settles_ && now < *settles_) return;
  settles_.reset();
  samples_.push_back(sample);
  if (samples_.size() > kWindow) samples_.pop_front();
  ++fresh_;
  double load_now = 0;
  bool over = false;
  for (Target const& target : targets_) {
    load_now = std::max(load_now, load(target));
    over = over || exceeds(target);
  }
  if (over) {
    cut(std::max(load_now, 1.0), now);
  } else if (fresh_ >= (too_high_ == 0 || rate_ < too_high_ * kNear ? kEnough : kFew)) {
    grow(load_now, now);
  }
}

// A single slow answer, or failure, among few says little: as many are allowed as among kFew.
bool Aimd::exceeds(Target const& target) const {
  if (target.of == Target::Of::value) return load(target) > 1;
  bool const errors = target.of == Target::Of::errors;
  auto const bad = std::count_if(samples_.begin(), samples_.end(), [&](Sample const& sample) {
    return sample.failed || (!errors && sample.seconds > target.most);
  });
  double const share = errors ? target.most : 1 - target.percentile;
  return static_cast<double>(bad) > share * static_cast<double>(std::max(samples_.size(), kFew)) + 1e-9;
}

void Aimd::cut(double load_now, Duration now) {
  too_high_ = rate_;
  step_ = std::max(kLeast, rate_ * kStep);
  double const one = std::clamp(1 / load_now, kDeepest, kShallowest);
  rate_ = std::max(kLeast, rate_ * std::max(kFall, std::pow(one, ++cuts_)));
  samples_.clear();
  settles_ = now + kSettle;
  fresh_ = passed_ = 0;
  since_ = now;
}

void Aimd::grow(double load_now, Duration now) {
  double const used = static_cast<double>(passed_) / std::max(1e-3, seconds_of(now - *since_));
  if (load_now < kRoom && used >= rate_ * kUsed) {
    if (rate_ >= too_high_ * kBeyond && load_now < kIdle) too_high_ = 0;
    if (too_high_ == 0) {
      rate_ *= std::clamp(kRoom / load_now, kSlower, 2.0);
    } else if (rate_ < too_high_ * kNear) {
      rate_ += std::max(step_, (too_high_ * kNear - rate_) / 2);
    } else {
      rate_ += step_;
      step_ = std::min(step_ * kFaster, std::max(kLeast, rate_ * kLongest));
    }
    if (most_ > 0) rate_ = std::min(rate_, most_);
    samples_.clear();
  }
  fresh_ = passed_ = 0;
  since_ = now;
  cuts_ = 0;
}

// ---- probes

// Where only the time counts, an answer that is slow beyond doubt is not waited for: it would delay the cut.
Duration Guard::patience(Options const& options) {
  double most = 0;
  for (Target const& target : options.targets) {
    if (target.of != Target::Of::latency) return kPatience;
    most = std::max(most, target.most);
  }
  auto const slow = Duration{static_cast<std::int64_t>(4e9 * most)};
  return std::clamp<Duration>(slow, kSlow, kPatience);
}

Guard::Guard(Options const& options, Clock& clock, std::unique_ptr<HttpClient> client)
    : options_(options),
      clock_(clock),
      client_(std::move(client)),
      patience_(patience(options)),
      aimd_(options.targets, options.start, options.most),
      rate_(aimd_.rate()),
      thread_([this] { run(); }) {}

Result<std::unique_ptr<Guard>> Guard::start(Options const& options, Clock& clock) {
  std::unique_ptr<HttpClient> client;
  if (options.probe.starts_with("http://") || options.probe.starts_with("https://")) {
    HttpOptions http;
    http.timeout = patience(options);
    http.connect_timeout = http.timeout;
    auto made = HttpClient::make(http, clock);
    if (!made) return made.status();
    client = std::move(*made);
  }
  return std::unique_ptr<Guard>(new Guard(options, clock, std::move(client)));
}

Guard::~Guard() {
  ends_ = true;
  thread_.join();
}

void Guard::run() {
  bool failing = false;
  while (!ends_) {
    Duration const began = clock_.steady();
    Sample const sample = ask();
    if (ends_) return;
    if (sample.failed && !failing) say_warning("--guard: the live system does not answer: going slowly");
    failing = sample.failed;
    aimd_.add(sample, passed_.exchange(0), clock_.steady());
    rate_ = aimd_.rate();
    while (!ends_ && clock_.steady() - began < options_.every) {
      std::this_thread::sleep_for(
          std::min<Duration>(options_.every - (clock_.steady() - began), std::chrono::milliseconds(50)));
    }
  }
}

Sample Guard::ask() { return client_ ? fetch() : call(); }

Sample Guard::fetch() {
  Sample sample;
  bool done = false;
  Duration const began = clock_.steady();
  HttpRequest request;
  request.url = options_.probe;
  client_->start(std::move(request), [&](HttpResponse& response) {
    bool const slow = response.cause == HttpCause::timeout && patience_ < kPatience;
    sample.failed = response.cause != HttpCause::none && !slow;
    if (double number = 0; take_number(std::string_view(response.body).substr(0, response.body.find('\n')), number))
      sample.value = number;
    done = true;
  });
  while (!done && !ends_) {
    if (!client_->turn(std::chrono::milliseconds(100)).ok()) break;
  }
  sample.failed = sample.failed || !done;
  sample.seconds = seconds_of(clock_.steady() - began);
  return sample;
}

// The command has neither the receipts channel nor its name: it is no stage.
Sample Guard::call() {
  Sample sample;
  sample.failed = true;
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return sample;
  Fd const read(fds[0]);
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
  std::vector<char*> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (std::strncmp(*variable, "RECEIPTS_FD=", 12) != 0) environment.push_back(*variable);
  }
  environment.push_back(nullptr);
  if (char const* const channel = std::getenv("RECEIPTS_FD"); channel != nullptr) {
    ::posix_spawn_file_actions_addclose(&actions, static_cast<int>(std::strtol(channel, nullptr, 10)));
  }
  sigset_t signals;
  ::sigfillset(&signals);
  ::posix_spawnattr_setsigdefault(&attributes, &signals);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  std::string shell = "bash", option = "-c", command = options_.probe;
  char* const words[] = {shell.data(), option.data(), command.data(), nullptr};
  pid_t child = 0;
  Duration const began = clock_.steady();
  int const error = ::posix_spawnp(&child, "bash", &actions, &attributes, words, environment.data());
  ::close(fds[1]);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) return sample;
  std::string said;
  bool ended = false;
  while (!ended && !ends_ && clock_.steady() - began < patience_) {
    pollfd wait{read.get(), POLLIN, 0};
    if (::poll(&wait, 1, 50) <= 0) continue;
    char buffer[4096];
    ssize_t const n = ::read(read.get(), buffer, sizeof buffer);
    ended = n <= 0;
    if (n > 0 && said.size() < sizeof buffer) said.append(buffer, static_cast<std::size_t>(n));
  }
  if (!ended) ::kill(-child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  sample.seconds = seconds_of(clock_.steady() - began);
  sample.failed = ended ? status != 0 : patience_ == kPatience;
  std::string_view text = std::string_view(said).substr(0, said.find('\n'));
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  if (double number = 0; take_number(text, number)) sample.value = number;
  return sample;
}

}  // namespace inflight

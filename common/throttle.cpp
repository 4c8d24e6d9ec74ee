#include "common/throttle.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/fd_io.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/record.h"
#include "common/stop.h"

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t kBuffer = 1 << 20;
constexpr std::size_t kAhead = 64 << 10;  // read at once where a limit holds records up
constexpr std::size_t kAheadSlowly = 4 << 10;
constexpr Duration kLook = milliseconds(200);        // at the control file and the guard
constexpr Duration kTell = seconds(45);              // below consume's --settle, above its --takeover
constexpr Duration kWorthKeeping = milliseconds(1);  // a start takes longer
constexpr Duration kRestart = seconds(1);

// Eight bytes at a time: the passing itself takes no longer than looking at each.
std::uint64_t count_lines(std::string_view text) {
  constexpr std::uint64_t ones = 0x0101010101010101, low = 0x7f7f7f7f7f7f7f7f;
  std::uint64_t count = 0;
  while (text.size() >= 8) {
    std::size_t const words = std::min<std::size_t>(text.size() / 8, 255);  // more would overflow a byte
    std::uint64_t sums = 0;
    for (std::size_t i = 0; i < words; ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, text.data() + i * 8, 8);
      word ^= ones * '\n';
      sums += ~(((word & low) + low) | word | low) >> 7;
    }
    constexpr std::uint64_t pairs = 0x00ff00ff00ff00ff;
    count += ((sums & pairs) + (sums >> 8 & pairs)) * 0x0001000100010001 >> 48;
    text.remove_prefix(words * 8);
  }
  return count + static_cast<std::uint64_t>(std::count(text.begin(), text.end(), '\n'));
}

class Throttle {
 public:
  Throttle(Io& io, ThrottleOptions const& options, Guard* guard)
      : io_(io), options_(options), guard_(guard), buffer_(kBuffer), pacer_(options.limits, io.clock.steady()) {
    last_passed_ = last_told_ = io.clock.steady();
  }

  Exit run() {
    (void)::prctl(PR_SET_TIMERSLACK, 1);
    Status status = open_state();
    if (status.ok()) status = pump();
    if (status.code() == Code::closed) return Exit::ok;
    if (!status.ok()) {
      say_error(status.what());
      return status.exit();
    }
    if (stopping()) return stop_signal() == 2 ? Exit::interrupted : Exit::terminated;
    return Exit::ok;
  }

 private:
  [[nodiscard]] std::string_view held() const { return {buffer_.data() + begin_, end_ - begin_}; }
  // Of what is held: whole lines, and the part of one that is too long.
  [[nodiscard]] std::size_t ready() const {
    return whole_ > begin_ ? whole_ : end_ - begin_ >= kBuffer - 1 ? end_ : begin_;
  }

  Status pump() {
    for (;;) {
      if (Status status = look(); !status.ok()) return status;
      if (ready() > begin_) {
        Status const status = pacer_.limits().none() ? pass(ready()) : pass_due();
        if (!status.ok()) return status;
      } else if (at_end_ || stopping()) {
        break;
      } else if (Status status = fill(); !status.ok()) {
        return status;
      }
    }
    if (begin_ == end_ || !at_end_) return {};
    if (io_.receipts.active()) {
      return Status::defect(fmt::format("line {} ends in the middle: the stage before {} was killed",
                                        counters().records + 1, tool_name()));
    }
    buffer_[end_++] = '\n';
    whole_ = end_;
    while (begin_ < end_) {
      if (Status status = pass_due(); !status.ok()) return status;
    }
    return {};
  }

  // ---- in

  // How much to read at once: what we hold has to pass before we can end.
  [[nodiscard]] std::size_t ahead() const {
    Pacer::Limits const& limits = pacer_.limits();
    if (limits.none()) return kBuffer;
    bool const slow = limits.paused || limits.min_interval >= milliseconds(1) ||
                      (limits.records > 0 && limits.records <= 1000) || (limits.bytes > 0 && limits.bytes <= 1e6);
    return slow ? kAheadSlowly : kAhead;
  }

  Status fill() {
    if (begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      whole_ = begin_ = 0;
    }
    pollfd wait[2] = {{io_.in, POLLIN, 0}, {stop_fd(), POLLIN, 0}};
    int found = ::poll(wait, 2, 0);
    if (found == 0) {
      found = ::poll(wait, 2, options_.control.empty() && guard_ == nullptr ? -1 : 200);
      pacer_.idle(io_.clock.steady());
      last_passed_ = io_.clock.steady();  // nothing waits for us
    }
    if (found < 0 && errno != EINTR) return Status::from_errno("standard input", errno);
    if (found <= 0 || wait[1].revents != 0) return {};
    std::size_t const room = kBuffer - end_ - 1;  // for a newline
    ssize_t const n = ::read(io_.in, buffer_.data() + end_, std::min(room, ahead()));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return {};
    if (n < 0) {
      Status const failed = Status::from_errno("standard input", errno);
      return failed.code() == Code::usage ? Status::defect(failed.what()) : failed;
    }
    at_end_ = n == 0;
    auto const* newline = static_cast<char const*>(::memrchr(buffer_.data() + end_, '\n', static_cast<std::size_t>(n)));
    end_ += static_cast<std::size_t>(n);
    counters().bytes += static_cast<std::uint64_t>(n);
    if (newline != nullptr) whole_ = static_cast<std::size_t>(newline - buffer_.data()) + 1;
    return {};
  }

  // ---- out

  Status pass(std::size_t to) {
    std::string_view const text(buffer_.data() + begin_, to - begin_);
    in_line_ = text.back() != '\n';
    std::uint64_t const lines = count_lines(text);
    Status status = io_.out.lines(text);
    if (status.ok()) status = io_.out.flush();
    begin_ = to;
    counters().records += lines;
    counters().settled += lines;
    if (guard_ != nullptr) guard_->passed(lines);
    return status;
  }

  // What may pass now, or waits for it.
  Status pass_due() {
    Duration const now = io_.clock.steady();
    if (Duration const due = pacer_.due(); due > now && !in_line_) {
      return wait(due == Pacer::kNever ? due : std::max(due, now + pacer_.grain()));
    }
    std::size_t const end = ready();
    std::size_t to = begin_;
    while (to < end && (in_line_ || pacer_.due() <= now)) {
      char const* const from = buffer_.data() + to;
      auto const* newline = static_cast<char const*>(std::memchr(from, '\n', end - to));
      std::size_t const size = newline == nullptr ? end - to : static_cast<std::size_t>(newline - from) + 1;
      in_line_ ? pacer_.more(size) : pacer_.passes(now, size);
      in_line_ = newline == nullptr;
      to += size;
      if (pacer_.limits().min_interval > Duration::zero()) break;
    }
    if (Status status = keep_state(now); !status.ok()) return status;
    Status const status = pass(to);
    last_passed_ = io_.clock.steady();
    pacer_.written(last_passed_);
    return status;
  }

  // Until `due`, or something is to be looked at.
  Status wait(Duration due) {
    Duration const now = io_.clock.steady();
    if (stopping() && due == Pacer::kNever) {
      return Status::temporary("stopped while it is paused: what has been read is not passed on");
    }
    if (io_.receipts.active() && now - last_passed_ > seconds(1) && io_.receipts.abandoned()) {
      return Status::temporary("receipts channel: nobody reads it any more");
    }
    if (Status status = tell(now); !status.ok()) return status;
    Duration const most = options_.control.empty() && guard_ == nullptr ? Duration(seconds(1)) : kLook;
    Duration const length = std::min(due - now, most);
    timespec const time{length.count() / 1'000'000'000, length.count() % 1'000'000'000};
    pollfd stop{stop_fd(), POLLIN, 0};
    (void)::ppoll(&stop, stopping() ? 0 : 1, &time, nullptr);
    return {};
  }

  // Without a word from us a source takes what we hold up for lost.
  Status tell(Duration now) {
    if (!io_.receipts.active() || now - last_passed_ < kTell || now - last_told_ < kTell) return {};
    last_told_ = now;
    PositionList const positions = positions_of_line(io_.receipts, held().substr(0, held().find('\n')));
    return positions.empty() ? io_.receipts.waiting("a limit of throttle") : io_.receipts.held(positions);
  }

  // ---- limits that change

  Status look() {
    if (options_.control.empty() && guard_ == nullptr) return {};
    Duration const now = io_.clock.steady();
    if (looked_ && now - *looked_ < kLook) return {};
    looked_ = now;
    if (!options_.control.empty()) read_control();
    Pacer::Limits limits = controlled_.value_or(options_.limits);
    if (guard_ != nullptr)
      limits.records = limits.records > 0 ? std::min(limits.records, guard_->rate()) : guard_->rate();
    if (!(limits == pacer_.limits())) pacer_.set(limits, now);
    return {};
  }

  void read_control() {
    struct stat info {};
    std::string seen;
    if (::stat(options_.control.c_str(), &info) == 0) {
      seen = fmt::format("{} {} {} {}", info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    }
    if (seen == control_seen_) return;
    control_seen_ = seen;
    if (seen.empty()) {
      controlled_.reset();
      return;
    }
    auto const text = read_file(options_.control);
    Pacer::Limits limits = options_.limits;
    Status const status = text ? Pacer::read(*text, limits) : text.status();
    if (status.ok()) {
      controlled_ = limits;
    } else {
      say_warning(fmt::format("--control: {}: {}; going on as before", options_.control, status.what()));
    }
  }

  // ---- the time before which nothing passes, across starts

  Status open_state() {
    if (options_.state.empty()) return {};
    if (Status status = make_folders(io_.disk, parent_folder(options_.state)); !status.ok()) return status;
    auto file = io_.disk.open(options_.state, O_RDWR | O_CREAT);
    if (!file) return file.status();
    state_ = std::move(*file);
    char text[32] = {};
    auto const size = read_at(state_.get(), text, sizeof text - 1, 0, options_.state);
    if (!size) return size.status();
    Duration const now = io_.clock.steady();
    std::string_view const kept(text, *size);
    auto const due = parse_rfc3339(kept.substr(0, kept.find_first_of(" \n")));
    if (!due) return {};
    // The last write of whoever was killed may have ended later than it planned to: after this nothing can be too soon.
    Duration const least = std::min<Duration>(options_.limits.min_interval, kRestart);
    pacer_.not_before(std::max(now + (*due - io_.clock.now()), now + least), now);
    return {};
  }

  Status keep_state(Duration now) {
    if (!state_) return {};
    Duration const due = std::max(pacer_.due(), now + pacer_.limits().min_interval);
    if (due - now < kWorthKeeping) return {};
    std::string text = format_rfc3339(io_.clock.now() + (due - now));
    text.resize(30, ' ');
    text.push_back('\n');
    return io_.disk.write_at(state_.get(), text, 0, options_.state);
  }

  Io& io_;
  ThrottleOptions const& options_;
  Guard* guard_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0, whole_ = 0, end_ = 0;  // whole lines end at whole_
  bool at_end_ = false;
  bool in_line_ = false;  // a part of the line at begin_ has passed
  Pacer pacer_;
  Duration last_passed_, last_told_;
  std::optional<Duration> looked_;
  std::string control_seen_;
  std::optional<Pacer::Limits> controlled_;
  Fd state_;
};

}  // namespace

PositionList positions_of_line(Receipts const& receipts, std::string_view line) {
  PositionList list;
  std::string copy(line);
  RecordParser parser;
  Record record;
  std::vector<Position> positions;
  if (parser.parse_padded(copy, record).ok() && receipts.positions_of(record.attribute("delivery").raw, positions)) {
    list.add(positions);
  }
  return list;
}

Exit run_throttle(Io& io, ThrottleOptions const& options, Guard* guard) { return Throttle(io, options, guard).run(); }

}  // namespace inflight

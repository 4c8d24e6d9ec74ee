#include "common/reader.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "common/stop.h"

namespace inflight {

namespace {
constexpr std::size_t kBuffer = 256 << 10;
constexpr std::size_t kMostAhead = 4 << 20;
constexpr std::size_t kShown = 4096;  // of a line that is too long
}  // namespace

Reader::Reader(int fd, std::string name, std::uint64_t max_record, bool heed_stop)
    : fd_(fd), name_(std::move(name)), max_record_(max_record), heed_stop_(heed_stop) {
  resize(kBuffer);
}

void Reader::resize(std::size_t capacity) {
  void* const moved = std::realloc(buffer_.get(), capacity + kRecordPadding);
  if (moved == nullptr) throw std::bad_alloc();
  (void)buffer_.release();
  buffer_.reset(static_cast<char*>(moved));
  capacity_ = capacity;
}

bool Reader::ready() const { return std::memchr(buffer_.get() + begin_, '\n', end_ - begin_) != nullptr; }

bool Reader::take(Line& line) {
  char* const from = buffer_.get() + begin_;
  auto const* newline = static_cast<char const*>(std::memchr(buffer_.get() + scanned_, '\n', end_ - scanned_));
  std::size_t size = 0;
  if (newline != nullptr) {
    size = static_cast<std::size_t>(newline - from);
  } else {
    scanned_ = end_;
    if (!eof_ || (begin_ == end_ && passed_over_ == 0)) return false;
    size = end_ - begin_;
  }
  line.number = ++number_;
  line.terminated = newline != nullptr;
  line.size = size + passed_over_;
  line.too_long = line.size > max_record_;
  line.begin = from;
  line.text = {from, line.too_long ? std::min(size, kShown) : size};
  passed_over_ = 0;
  begin_ += size + (newline != nullptr ? 1 : 0);
  scanned_ = begin_;
  return true;
}

void Reader::make_room() {
  std::size_t const held = end_ - begin_;
  if (held > max_record_ || passed_over_ > 0) {
    // Too long: its beginning is kept to be shown, what follows is passed over until its newline.
    std::size_t const keep = std::min(held, kShown);
    passed_over_ += held - keep;
    end_ = scanned_ = begin_ + keep;
  }
  release();
  if (capacity_ - end_ < kBuffer / 4) resize(std::min<std::size_t>(capacity_ * 2, end_ + kMostAhead));
}

void Reader::release() {
  if (begin_ > 0) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    scanned_ -= begin_;
    begin_ = 0;
  }
  std::size_t const wanted = std::max(kBuffer, end_ + kBuffer / 2);
  if (capacity_ > 4 * kBuffer && wanted < capacity_ / 2) resize(wanted);
}

Result<Reader::Wait> Reader::next(Line& line, std::optional<Duration> timeout) {
  Duration const deadline = timeout ? system_clock().steady() + *timeout : Duration::max();
  while (!take(line)) {
    if (eof_) return Wait::end;
    pollfd wait[2] = {{fd_, POLLIN, 0}, {stop_fd(), POLLIN, 0}};
    nfds_t const count = heed_stop_ && stop_fd() >= 0 ? 2 : 1;
    int ready = ::poll(wait, count, 0);
    if (ready == 0 && idle_) {
      if (Status status = idle_(); !status.ok()) return status;
    }
    while (ready <= 0) {
      int ms = -1;
      if (timeout) {
        Duration const left = deadline - system_clock().steady();
        if (left <= Duration::zero()) return Wait::timeout;
        ms = static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
      }
      ready = ::poll(wait, count, ms);
      if (ready < 0 && errno != EINTR) return Status::from_errno(name_, errno);
    }
    if (count == 2 && wait[1].revents != 0) return Wait::stopped;
    make_room();
    ssize_t const n = ::read(fd_, buffer_.get() + end_, capacity_ - end_);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return Status::from_errno(name_, errno);
    eof_ = n == 0;
    end_ += static_cast<std::size_t>(n);
    bytes_ += static_cast<std::uint64_t>(n);
  }
  return Wait::line;
}

Result<bool> read_some(int fd, std::string const& name, std::string& bytes, std::function<Status()> const& idle) {
  for (;;) {
    pollfd wait[2] = {{fd, POLLIN, 0}, {stop_fd(), POLLIN, 0}};
    nfds_t const count = stop_fd() >= 0 ? 2 : 1;
    int ready = ::poll(wait, count, 0);
    if (ready == 0) {
      if (Status status = idle(); !status.ok()) return status;
      ready = ::poll(wait, count, -1);
    }
    if (ready < 0 && errno != EINTR) return Status::from_errno(name, errno);
    if (count == 2 && wait[1].revents != 0) return Status(Code::stopped, name + ": stopped");
    if (ready <= 0) continue;
    bytes.resize(kBuffer);
    ssize_t const n = ::read(fd, bytes.data(), bytes.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return Status::from_errno(name, errno);
    bytes.resize(static_cast<std::size_t>(n));
    return n > 0;
  }
}

}  // namespace inflight

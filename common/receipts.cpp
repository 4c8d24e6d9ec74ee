#include "common/receipts.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdlib>

#include "common/messages.h"
#include "common/record.h"

namespace inflight {

namespace {

bool take_number(std::string_view& text, std::uint64_t& number) {
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end == text.data()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

// `/1`, `/3.`, `/2./1`
bool take_pieces(std::string_view& text, std::string_view& pieces) {
  char const* const begin = text.data();
  while (text.starts_with('/')) {
    text.remove_prefix(1);
    std::uint64_t number = 0;
    if (!take_number(text, number) || number == 0) return false;
    if (text.starts_with('.')) text.remove_prefix(1);
  }
  pieces = {begin, static_cast<std::size_t>(text.data() - begin)};
  return true;
}

}  // namespace

bool parse_positions(std::string_view text, std::vector<Position>& positions) {
  do {
    Position position;
    if (!take_number(text, position.first)) return false;
    position.last = position.first;
    if (text.starts_with('-')) {
      text.remove_prefix(1);
      if (!take_number(text, position.last) || position.last < position.first) return false;
    } else if (!take_pieces(text, position.pieces)) {
      return false;
    }
    positions.push_back(position);
    if (text.empty()) return true;
  } while (text.starts_with(',') && (text.remove_prefix(1), true));
  return false;
}

void Ranges::add(std::uint64_t first, std::uint64_t last) {
  auto next = ranges_.upper_bound(first);
  if (next != ranges_.begin()) {
    auto before = std::prev(next);
    if (before->second >= first || before->second + 1 == first) {
      if (before->second >= last) return;
      first = before->first;
      count_ -= before->second - before->first + 1;
      next = ranges_.erase(before);
    }
  }
  while (next != ranges_.end() && (next->first <= last || next->first == last + 1)) {
    last = std::max(last, next->second);
    count_ -= next->second - next->first + 1;
    next = ranges_.erase(next);
  }
  ranges_.emplace_hint(next, first, last);
  count_ += last - first + 1;
}

void Ranges::remove_below(std::uint64_t position) {
  while (!ranges_.empty() && ranges_.begin()->first < position) {
    auto const [first, last] = *ranges_.begin();
    ranges_.erase(ranges_.begin());
    count_ -= std::min(last + 1, position) - first;
    if (last >= position) ranges_.emplace(position, last);
  }
}

void Ranges::remove(std::uint64_t first, std::uint64_t last) {
  auto next = ranges_.upper_bound(first);
  if (next != ranges_.begin() && std::prev(next)->second >= first) --next;
  while (next != ranges_.end() && next->first <= last) {
    auto const [from, to] = *next;
    next = ranges_.erase(next);
    count_ -= to - from + 1;
    if (from < first) {
      ranges_.emplace(from, first - 1);
      count_ += first - from;
    }
    if (to > last) {
      next = ranges_.emplace(last + 1, to).first;
      count_ += to - last;
    }
  }
}

std::uint64_t Ranges::next_missing(std::uint64_t position) const {
  auto next = ranges_.upper_bound(position);
  if (next == ranges_.begin()) return position;
  std::uint64_t const last = std::prev(next)->second;
  return last >= position ? last + 1 : position;
}

bool Ranges::contains(std::uint64_t position) const {
  auto next = ranges_.upper_bound(position);
  return next != ranges_.begin() && std::prev(next)->second >= position;
}

std::string Ranges::text() const {
  std::string out;
  for (auto const& [first, last] : ranges_) {
    if (!out.empty()) out += ',';
    out += first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
  }
  return out;
}

void PositionList::add(std::span<Position const> positions) {
  for (Position const& position : positions) {
    if (position.pieces.empty()) {
      whole_.add(position.first, position.last);
    } else {
      pieces_.push_back(fmt::format("{}{}", position.first, position.pieces));
    }
  }
}

void PositionList::add(PositionList const& other) {
  for (auto const& [first, last] : other.whole_.map()) whole_.add(first, last);
  pieces_.insert(pieces_.end(), other.pieces_.begin(), other.pieces_.end());
}

void PositionList::clear() {
  whole_.clear();
  pieces_.clear();
}

std::vector<std::string> PositionList::texts(std::size_t limit) const {
  std::vector<std::string> texts;
  auto add = [&](std::string_view item) {
    if (texts.empty() || texts.back().size() + 1 + item.size() > limit) {
      texts.emplace_back(item);
    } else {
      texts.back().append(1, ',').append(item);
    }
  };
  for (auto const& [first, last] : whole_.map()) {
    add(first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last));
  }
  for (std::string const& piece : pieces_) add(piece);
  return texts;
}

Result<Receipts> Receipts::open() {
  Receipts receipts;
  char const* const text = std::getenv("RECEIPTS_FD");
  if (text == nullptr || *text == '\0') return receipts;
  std::string_view rest = text;
  std::uint64_t numbers[3] = {};
  bool good = true;
  for (auto& number : numbers) {
    good = good && take_number(rest, number) && rest.starts_with(':');
    if (good) rest.remove_prefix(1);
  }
  struct stat info {};
  if (!good || rest.empty()) return Status::usage(fmt::format("RECEIPTS_FD={}: not FD:DEVICE:INODE:TOKEN", text));
  if (::fstat(static_cast<int>(numbers[0]), &info) != 0 || info.st_dev != numbers[1] || info.st_ino != numbers[2]) {
    return Status::usage(fmt::format(
        "descriptor {} is not the receipts channel: a program before {} closes descriptors that it inherits",
        numbers[0], tool_name()));
  }
  receipts.fd_ = static_cast<int>(numbers[0]);
  receipts.token_ = rest;
  if (char const* source = std::getenv("RECEIPTS_SOURCE")) receipts.source_ = source;
  return receipts;
}

bool Receipts::positions_of(std::string_view raw, std::vector<Position>& positions) const {
  positions.clear();
  if (raw.size() < token_.size() + 4 || raw.front() != '"' || raw.back() != '"') return false;
  raw = raw.substr(1, raw.size() - 2);
  if (!raw.starts_with(token_) || raw[token_.size()] != ':') return false;
  return parse_positions(raw.substr(token_.size() + 1), positions);
}

Status Receipts::announce(std::string_view sink) {
  return send(fmt::format(R"({{"sink":{},"pid":{}}})", json_string(sink), ::getpid()));
}

Status Receipts::settle(PositionList const& positions, std::string_view status, std::string_view reason) {
  if (!active()) return {};
  std::string tail =
      fmt::format(R"(","status":"{}","by":{})", status, json_string(fmt::format("{}[{}]", tool_name(), ::getpid())));
  if (!reason.empty()) {
    std::string text = json_string(redact(reason));
    if (text.size() > 1024) text = json_string(redact(reason).substr(0, 480) + "…");
    tail += R"(,"reason":)" + text;
  }
  tail += '}';
  for (std::string const& list : positions.texts(PIPE_BUF - tail.size() - token_.size() - 32)) {
    if (Status sent = send(fmt::format(R"({{"delivery":"{}:{}{})", token_, list, tail)); !sent.ok()) return sent;
  }
  return {};
}

Status Receipts::waiting(std::string_view why) {
  return send(fmt::format(R"({{"waiting":{},"by":"{}"}})", json_string(redact(why).substr(0, 480)), tool_name()));
}

Status Receipts::exit(int code) { return send(fmt::format(R"({{"exit":{},"by":"{}"}})", code, tool_name())); }

bool Receipts::abandoned() const {
  if (!active()) return false;
  pollfd channel{fd_, 0, 0};
  return ::poll(&channel, 1, 0) > 0 && (channel.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
}

Status Receipts::send(std::string const& line) {
  if (!active()) return {};
  std::string const text = line + "\n";
  for (;;) {
    // One write(2), which the kernel keeps whole up to PIPE_BUF: several stages share the channel.
    ssize_t const n = ::write(fd_, text.data(), text.size());
    if (n == static_cast<ssize_t>(text.size())) return {};
    if (n >= 0) return Status::defect("the receipts channel took half a line");
    if (errno == EAGAIN) {
      pollfd wait{fd_, POLLOUT, 0};
      ::poll(&wait, 1, -1);
    } else if (errno != EINTR) {
      std::string const what = Status::from_errno("receipts channel", errno).what();
      return errno == EPIPE ? Status::temporary(what) : Status::defect(what);
    }
  }
}

}  // namespace inflight

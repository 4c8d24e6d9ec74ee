#include "common/dead_letter.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>

#include "common/messages.h"
#include "common/path.h"
#include "common/reader.h"
#include "common/record.h"

namespace inflight {

namespace {

std::string base64(std::string_view bytes) {
  static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    auto at = [&](std::size_t k) { return k < bytes.size() ? static_cast<unsigned char>(bytes[k]) : 0U; };
    unsigned const group = at(i) << 16 | at(i + 1) << 8 | at(i + 2);
    for (unsigned k = 0; k < 4; ++k) out += i + k > bytes.size() ? '=' : digits[group >> (18 - 6 * k) & 63];
  }
  return out;
}

constexpr std::size_t kWriteTogether = 1 << 20;

bool is_record(std::string& text) {
  RecordParser parser;
  Record record;
  return parser.parse_padded(text, record).ok() && is_json(text);
}

// Takes the number behind `label` from the front of a line of our own.
bool take(std::string_view& text, std::string_view label, std::uint64_t& number) {
  if (!text.starts_with(label)) return false;
  auto const [end, error] = std::from_chars(text.data() + label.size(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

bool is_utf8(std::string_view text) { return json_string(text).find("\xef\xbf\xbd") == std::string::npos; }

// A letter's line up to its event, and what the event is there. `other` holds it where it is not written as it is.
struct Parts {
  std::string front, other;
  std::string_view event;
  [[nodiscard]] std::size_t size() const { return front.size() + event.size() + 1; }
};

Parts parts_of(DeadLetter& letter, bool plain_pipe) {
  Parts parts;
  std::string& out = parts.front;
  out = fmt::format("{{\"{}\":{}", plain_pipe ? "line" : "position", letter.position);
  if (!plain_pipe) out += fmt::format(",\"attempt\":{}", letter.attempt);
  out += fmt::format(",\"time\":\"{}\",\"by\":{},\"reason\":{}", format_rfc3339(letter.time), json_string(letter.by),
                     json_string(redact(letter.reason)));
  if (!letter.mark.empty()) out.append(",\"mark\":").append(json_string(letter.mark));
  if (is_record(letter.event)) {
    out += ",\"event\":";
    parts.event = letter.event;
    return parts;
  }
  if (is_utf8(letter.event)) {
    out += ",\"text\":";
    parts.other = json_string(letter.event);
  } else {
    out += ",\"text_base64\":";
    parts.other = '"' + base64(letter.event) + '"';
  }
  parts.event = parts.other;
  return parts;
}

}  // namespace

std::string to_line(DeadLetter letter, bool plain_pipe) {
  Parts parts = parts_of(letter, plain_pipe);
  parts.front.reserve(parts.size());
  parts.front.append(parts.event).push_back('}');
  return std::move(parts.front);
}

Result<DeadLetter> parse_dead_letter(std::string line) {
  RecordParser parser;
  Record record;
  if (Status status = parser.parse_padded(line, record); !status.ok()) return status;
  DeadLetter letter;
  std::string scratch;
  auto number = [&](char const* name) -> std::uint64_t {
    Value const value = record.attribute(name);
    return value.kind == Value::Kind::number ? std::strtoull(std::string(value.raw).c_str(), nullptr, 10) : 0;
  };
  if (!record.attribute("position")) return Status::rejected("not a dead letter: no position");
  letter.position = number("position");
  letter.attempt = number("attempt");
  letter.time = parse_rfc3339(record.text("time", scratch)).value_or(Time{});
  letter.by = record.text("by", scratch);
  letter.reason = record.text("reason", scratch);
  letter.mark = record.text("mark", scratch);
  Value const event = record.attribute("event");
  if (!event) {
    letter.event = record.text("text", scratch);
    return letter;
  }
  line.resize(static_cast<std::size_t>(event.raw.data() + event.raw.size() - line.data()));
  line.erase(0, line.size() - event.raw.size());
  letter.event = std::move(line);
  return letter;
}

Status DeadLetters::scan() {
  Reader reader(fd_.get(), path_, std::uint64_t{1} << 32, false);
  Line line;
  for (;;) {
    auto got = reader.next(line);
    if (!got) return got.status();
    if (*got != Reader::Wait::line || !line.terminated) return {};  // torn by a crash: never acknowledged
    std::uint64_t const begin = size_;
    size_ += line.size + 1;
    std::string_view text = line.text;
    std::uint64_t position = 0, attempt = 0;
    if (take(text, R"({"position":)", position) && take(text, R"(,"attempt":)", attempt)) {
      Entry& entry = entries_[position];
      if (!entry.open) ++open_count_;
      entry = {begin, line.size, attempt, true, begin};
    } else if (take(text, R"({"closed":)", position)) {
      Entry& entry = entries_[position];
      if (entry.open) --open_count_;
      entry.open = false;
      entry.told = begin;
    } else {
      return Status::defect(fmt::format("{}: damaged at byte {}", path_, begin));
    }
  }
}

Result<DeadLetters> DeadLetters::open(Disk& disk, std::string const& path) {
  DeadLetters letters;
  letters.disk_ = &disk;
  letters.path_ = path;
  if (!exists(path)) {  // made with the first letter; that it can be is known before an event is taken
    if (::access(parent_folder(path).c_str(), W_OK | X_OK) != 0) return Status::from_errno(path, errno);
    return letters;
  }
  auto fd = disk.open(path, O_RDWR);
  if (!fd) return fd.status();
  letters.fd_ = std::move(*fd);
  if (Status status = letters.scan(); !status.ok()) return status;
  // A torn last line is written again.
  if (Status status = disk.truncate(letters.fd_.get(), letters.size_, path); !status.ok()) return status;
  return letters;
}

Result<DeadLetters> DeadLetters::view(std::string const& path) {
  DeadLetters letters;
  letters.path_ = path;
  if (!exists(path)) return letters;
  auto fd = real_disk().open(path, O_RDONLY);
  if (!fd) return fd.status();
  letters.fd_ = std::move(*fd);
  if (Status status = letters.scan(); !status.ok()) return status;
  return letters;
}

Result<std::uint64_t> DeadLetters::end(std::string const& path) {
  if (!exists(path)) return std::uint64_t{0};
  auto const fd = real_disk().open(path, O_RDONLY);
  if (!fd) return fd.status();
  auto end = file_size(fd->get(), path);
  std::string tail;
  while (end && *end > 0) {  // behind the last newline: a line that is torn is cut off
    tail.resize(std::min<std::uint64_t>(*end, 64 << 10));
    auto const got = read_at(fd->get(), tail.data(), tail.size(), *end - tail.size(), path);
    if (!got) return got.status();
    std::size_t const newline = tail.rfind('\n');
    if (newline != std::string::npos) return *end - tail.size() + newline + 1;
    *end -= tail.size();
  }
  return end;
}

Status DeadLetters::ready_to_append() {
  if (!fd_) {
    auto fd = disk_->open(path_, O_RDWR | O_CREAT);
    if (!fd) return fd.status();
    fd_ = std::move(*fd);
  }
  // Of size 0: made just now, or by one that was killed before its name was durable.
  return size_ == 0 ? disk_->sync_folder(parent_folder(path_)) : Status{};
}

// What was written behind size_, with `status`, up to `end`.
Status DeadLetters::end_append(Status status, std::uint64_t end) {
  if (status.ok()) status = disk_->sync(fd_.get(), path_);
  if (!status.ok()) {
    (void)disk_->truncate(fd_.get(), size_, path_);
    return status;
  }
  size_ = end;
  return {};
}

Status DeadLetters::append(std::span<DeadLetter> letters) {
  std::string lines;
  std::uint64_t end = size_;  // of what is written
  Status status;
  auto write = [&](std::string_view bytes) {
    if (status.ok()) status = disk_->write_at(fd_.get(), bytes, end, path_);
    end += bytes.size();
  };
  std::vector<std::pair<std::uint64_t, Entry>> added;
  for (DeadLetter& letter : letters) {
    auto const known = entries_.find(letter.position);
    if (known != entries_.end() && known->second.attempt >= letter.attempt) continue;
    if (added.empty()) {
      if (Status ready = ready_to_append(); !ready.ok()) return ready;
    }
    Parts const parts = parts_of(letter, false);
    added.push_back({letter.position, {end + lines.size(), parts.size(), letter.attempt, true, end + lines.size()}});
    lines += parts.front;
    if (parts.event.size() > kWriteTogether) {  // of what is long there is no copy
      write(lines);
      lines.clear();
      write(parts.event);
    } else {
      lines += parts.event;
    }
    lines += "}\n";
  }
  if (added.empty()) return {};
  write(lines);
  if (status = end_append(std::move(status), end); !status.ok()) return status;
  for (auto const& [position, entry] : added) {
    Entry& known = entries_[position];
    if (!known.open) ++open_count_;
    known = entry;
  }
  return {};
}

Status DeadLetters::close(std::span<std::uint64_t const> positions) {
  std::string lines;
  std::vector<std::pair<Entry*, std::uint64_t>> closed;
  for (std::uint64_t const position : positions) {
    auto const known = entries_.find(position);
    if (known == entries_.end() || !known->second.open) continue;
    closed.emplace_back(&known->second, size_ + lines.size());
    lines += fmt::format("{{\"closed\":{},\"attempt\":{}}}\n", position, known->second.attempt);
  }
  if (lines.empty()) return {};
  if (Status status = ready_to_append(); !status.ok()) return status;
  Status const written = disk_->write_at(fd_.get(), lines, size_, path_);
  if (Status status = end_append(written, size_ + lines.size()); !status.ok()) return status;
  for (auto const& [entry, told] : closed) {
    if (entry->open) --open_count_;
    entry->open = false;
    entry->told = told;
  }
  return {};
}

Result<DeadLetter> DeadLetters::read(Entry const& entry) const {
  std::string line;
  line.reserve(entry.size + kRecordPadding);
  line.resize(entry.size);
  auto got = read_at(fd_.get(), line.data(), line.size(), entry.offset, path_);
  if (!got) return got.status();
  return parse_dead_letter(std::move(line));
}

Status RejectFile::reject(std::uint64_t line, std::string_view text, std::string_view reason) {
  ++count_;
  if (path_.empty()) {
    say_error(fmt::format("line {}: {}", line, reason));
    return {};
  }
  if (!fd_) {
    auto fd = real_disk().open(path_, O_WRONLY | O_CREAT | O_APPEND);
    if (!fd) return fd.status();
    fd_ = std::move(*fd);
    if (Status status = end_half_line(); !status.ok()) return status;
  }
  DeadLetter letter{line, 1, system_clock().now(), tool_name(), std::string(reason), std::string(text)};
  std::string out = to_line(std::move(letter), true);
  return write_all(fd_.get(), out.append("\n"), path_);
}

// What one that was killed left must not swallow the letter behind it. A terminal or a pipe has no size.
Status RejectFile::end_half_line() {
  auto const size = file_size(fd_.get(), path_);
  if (!size || *size == 0) return size.status();
  auto const reading = real_disk().open(path_, O_RDONLY);
  if (!reading) return {};
  char last = '\n';
  if (auto got = read_at(reading->get(), &last, 1, *size - 1, path_); !got) return got.status();
  return last == '\n' ? Status{} : write_all(fd_.get(), "\n", path_);
}

Status RejectFile::finish() {
  if (!fd_) return {};
  if (Status status = real_disk().sync(fd_.get(), path_); !status.ok()) return status;
  return real_disk().sync_folder(parent_folder(path_));
}

}  // namespace inflight

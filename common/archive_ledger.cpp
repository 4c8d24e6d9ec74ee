#include "common/archive_ledger.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "common/messages.h"
#include "common/xxh.h"

namespace inflight {

namespace {

constexpr std::uint64_t kSpan = 262'144;  // positions below the highest whose records are known
constexpr std::uint64_t kMaxKeys = 1 << 20;
constexpr std::string_view kEntryTag = "IFLE";
constexpr std::size_t kEntryHead = 16;

template <typename T>
void put_number(std::string& out, T number) {
  for (std::size_t i = 0; i < sizeof number; ++i) out += static_cast<char>(number >> 8 * i & 0xff);
}

template <typename T>
T get_number(std::string_view from) {
  T number = 0;
  for (std::size_t i = 0; i < sizeof number; ++i)
    number |= static_cast<T>(static_cast<unsigned char>(from[i])) << 8 * i;
  return number;
}

bool parse(std::string_view payload, ArchiveLedger::Completed& completed) {
  if (payload.size() < 4) return false;
  auto const length = get_number<std::uint32_t>(payload);
  if (length > payload.size() - 4 || (payload.size() - 4 - length) % 16 != 0) return false;
  auto const json = nlohmann::json::parse(payload.substr(4, length), nullptr, false);
  if (!json.is_object()) return false;
  completed.number = json.value("number", std::uint64_t{0});
  completed.key = json.value("key", "");
  completed.source = json.value("source", "");
  for (payload.remove_prefix(4 + length); !payload.empty(); payload.remove_prefix(16)) {
    completed.keys.push_back({get_number<std::uint64_t>(payload), get_number<std::uint64_t>(payload.substr(8))});
  }
  return true;
}

}  // namespace

Status ArchiveLedger::open(std::function<void(Completed const&)> const& each) {
  auto fd = disk_->open(path_, O_RDWR | O_CREAT);
  if (!fd) return fd.status();
  fd_ = std::move(*fd);
  auto bytes = read_all(fd_.get(), path_);
  if (!bytes) return bytes.status();
  std::string_view rest = *bytes;
  while (rest.size() >= kEntryHead && rest.starts_with(kEntryTag)) {
    auto const size = get_number<std::uint32_t>(rest.substr(4));
    if (size > rest.size() - kEntryHead) break;
    std::string_view const payload = rest.substr(kEntryHead, size);
    Completed completed;
    if (get_number<std::uint64_t>(rest.substr(8)) != hash64(payload) || !parse(payload, completed)) {
      say_warning(
          fmt::format("{}: damaged at byte {}: what was put since is not known, and may be put twice", path_, size_));
      break;
    }
    note(completed, kEntryHead + size);
    each(completed);
    rest.remove_prefix(kEntryHead + size);
  }
  if (rest.empty()) return {};
  return disk_->truncate(fd_.get(), size_, path_);
}

Status ArchiveLedger::append(Completed const& completed) {
  nlohmann::ordered_json const json = {
      {"number", completed.number}, {"key", completed.key}, {"source", completed.source}};
  std::string const text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string payload;
  payload.reserve(4 + text.size() + completed.keys.size() * 16);
  put_number(payload, static_cast<std::uint32_t>(text.size()));
  payload += text;
  for (Key const& key : completed.keys) put_number(payload, key.position), put_number(payload, key.hash);
  std::string bytes(kEntryTag);
  put_number(bytes, static_cast<std::uint32_t>(payload.size()));
  put_number(bytes, hash64(payload));
  bytes += payload;
  if (Status status = disk_->write_at(fd_.get(), bytes, size_, path_); !status.ok()) return status;
  if (Status status = disk_->sync(fd_.get(), path_); !status.ok()) return status;
  note(completed, bytes.size());
  return {};
}

Status ArchiveLedger::compact() {
  std::map<std::string, std::uint64_t> highest;
  for (Entry const& entry : entries_) highest[entry.source] = std::max(highest[entry.source], entry.highest);
  std::uint64_t keys = 0, bytes = 0;
  std::deque<Entry> kept;
  for (std::size_t i = entries_.size(); i-- > 0;) {
    Entry const& entry = entries_[i];
    bool const newest = kept.empty();
    if (!newest && (entry.keys == 0 || entry.highest + kSpan < highest[entry.source] || keys > kMaxKeys)) continue;
    keys += entry.keys;
    bytes += entry.size;
    kept.push_front(entry);
  }
  if (size_ < (64 << 10) || bytes > size_ / 2) return {};
  std::string live;
  live.reserve(bytes);
  for (Entry& entry : kept) {
    std::string text(entry.size, '\0');
    auto got = read_at(fd_.get(), text.data(), text.size(), entry.offset, path_);
    if (!got) return got.status();
    entry.offset = live.size();
    live += text;
  }
  if (Status status = replace_file(*disk_, path_, live); !status.ok()) return status;
  auto fd = disk_->open(path_, O_RDWR);
  if (!fd) return Status::defect(fd.status().what());
  fd_ = std::move(*fd);
  size_ = live.size();
  entries_ = std::move(kept);
  return {};
}

void ArchiveLedger::note(Completed const& completed, std::uint64_t size) {
  Entry entry{completed.number, size_, size, completed.keys.size(), 0, completed.source};
  for (Key const& key : completed.keys) entry.highest = std::max(entry.highest, key.position);
  entries_.push_back(std::move(entry));
  size_ += size;
  next_ = std::max(next_, completed.number + 1);
}

}  // namespace inflight

#include "common/replays.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/messages.h"
#include "common/record.h"

namespace inflight {

using nlohmann::ordered_json;

bool is_stale(DeadLetter& letter, std::uint64_t kept) {
  if (letter.position >= kept) return false;
  RecordParser parser;
  Record event;
  if (!parser.parse_padded(letter.event, event).ok()) return true;
  return !event.attribute("dataref") || event.attribute("data") || event.attribute("data_base64");
}

Status Replays::request(Disk& disk, std::map<std::uint64_t, DeadLetters::Entry> const& letters, bool stale_ok) const {
  auto fd = lock_file(path_, Lock::exclusive, true);
  if (!fd) return fd.status();
  auto size = file_size(fd->get(), path_);
  if (!size) return size.status();
  std::string lines(*size == 0 ? 0 : 1, '\n');  // ends what one that was killed left
  for (auto const& [position, entry] : letters) {
    lines +=
        fmt::format("{{\"replay\":{},\"attempt\":{}{}}}\n", position, entry.attempt, stale_ok ? ",\"stale\":true" : "");
  }
  if (Status status = disk.write_at(fd->get(), lines, *size, path_); !status.ok()) return status;
  if (Status status = disk.sync(fd->get(), path_); !status.ok()) return status;
  return disk.sync_folder(parent_folder(path_));
}

bool Replays::pending() const {
  if (!exists(path_)) return false;
  auto const fd = real_disk().open(path_, O_RDONLY);
  auto const size = fd ? file_size(fd->get(), path_) : Result<std::uint64_t>(0);
  return size && *size > merged_;
}

Status Replays::merge(Disk& disk, Ledger& ledger, std::uint64_t kept) {
  if (!exists(path_)) return {};
  auto fd = lock_file(path_, Lock::exclusive, true);
  if (!fd) return fd.status();
  auto size = file_size(fd->get(), path_);
  if (!size || *size <= merged_) return size.status();
  std::string text(*size - merged_, '\0');
  if (auto got = read_at(fd->get(), text.data(), text.size(), merged_, path_); !got) return got.status();
  std::uint64_t stale = 0;
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    ordered_json const request = ordered_json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                                     text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!request.is_object()) continue;
    std::uint64_t const position = request.value("replay", UINT64_MAX);
    auto const known = ledger.letters().entries().find(position);
    if (known == ledger.letters().entries().end() ||
        known->second.attempt != request.value("attempt", std::uint64_t{0}))
      continue;
    if (position < kept && known->second.open && !request.value("stale", false)) {
      auto letter = ledger.letters().read(known->second);
      if (!letter) return letter.status();
      if (is_stale(*letter, kept)) {
        ++stale;
        continue;
      }
    }
    ledger.reopen(position);
  }
  if (stale > 0) {
    say_warning(fmt::format("{}: {} letters stay: newer events of their keys may be gone (--stale-ok)", path_, stale));
  }
  bool const nothing_left = merged_ == 0 && ledger.reopened().empty();
  merged_ += begin;
  if (!nothing_left) return {};
  merged_ = 0;
  return disk.truncate(fd->get(), 0, path_);
}

}  // namespace inflight

#include "common/key_order.h"

#include <algorithm>
#include <functional>
#include <unordered_set>

namespace inflight {

std::string_view KeyOrder::key_of(std::string_view line) {
  forget_long(buffer_);
  buffer_.reserve(line.size() + kRecordPadding);
  buffer_.assign(line);
  if (!parser_.parse_padded(buffer_, record_).ok()) return {};
  return record_.partition_key(scratch_);
}

bool KeyOrder::is_ours(std::string_view key) const {
  return copies_ <= 1 || std::hash<std::string_view>{}(key) % copies_ == index_;
}

Result<Ranges> KeyOrder::take_back(EventReader& events, Ledger& ledger, Ranges const& open, std::uint64_t end) {
  Ranges taken;
  if (open.empty()) return taken;
  end = std::min(end, ledger.reached());
  std::unordered_set<std::string> keys;
  EventReader::Event event;
  for (std::uint64_t p = open.map().begin()->first; p < end;) {
    auto got = events.read(p, event);
    if (!got) return got.status();
    if (*got != EventReader::Got::event || event.position >= end) break;
    p = event.position + 1;
    std::string_view const key = key_of(event.line);
    if (key.empty()) continue;
    if (!ledger.settled(event.position)) {
      if (open.contains(event.position) && is_ours(key)) keys.emplace(key);
    } else if (keys.contains(std::string(key)) && !ledger.has_open_letter(event.position)) {
      ledger.unsettle(event.position);
      taken.add(event.position, event.position);
    }
  }
  if (!taken.empty()) {
    if (Status status = ledger.save(); !status.ok()) return status;
  }
  return taken;
}

}  // namespace inflight

#include "common/journal_doubles.h"

#include <xxhash.h>

#include <bit>

namespace inflight::journal {

// What is left of the ring is room for a usual batch.
Doubles::Doubles() : table_(2 * std::bit_ceil(kWindow)), order_(std::bit_ceil(kWindow)) {}

bool Doubles::add(std::string_view line) {
  XXH128_hash_t const sum = XXH3_128bits(line.data(), line.size());
  Hash const hash{sum.low64, sum.high64};
  std::size_t slot = find(hash);
  if (table_[slot] != 0) return false;
  if (next_ - oldest_ == order_.size()) {
    grow();
    slot = find(hash);
  }
  put(slot, next_);
  order(next_++) = hash;
  return true;
}

void Doubles::keep() {
  kept_ = next_;
  while (next_ - oldest_ > kWindow) erase(order(oldest_++));
}

void Doubles::undo() {
  while (next_ > kept_) erase(order(--next_));
}

std::size_t Doubles::find(Hash const& hash) const {
  std::size_t slot = home(hash);
  while (table_[slot] != 0 && at(slot) != hash) slot = (slot + 1) & (table_.size() - 1);
  return slot;
}

void Doubles::erase(Hash const& hash) {
  std::size_t const mask = table_.size() - 1;
  std::size_t hole = find(hash);
  // What stands behind the hole moves into it unless it would then stand before its home.
  for (std::size_t slot = (hole + 1) & mask; table_[slot] != 0; slot = (slot + 1) & mask) {
    if (((slot - home(at(slot))) & mask) < ((slot - hole) & mask)) continue;
    table_[hole] = table_[slot];
    hole = slot;
  }
  table_[hole] = 0;
}

void Doubles::grow() {
  std::vector<Hash> ring(order_.size() * 2);
  for (std::uint64_t n = oldest_; n < next_; ++n) ring[n & (ring.size() - 1)] = order(n);
  order_.swap(ring);
  table_.assign(order_.size() * 2, 0);
  for (std::uint64_t n = oldest_; n < next_; ++n) put(find(order(n)), n);
}

}  // namespace inflight::journal

#include "common/xxh.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

#include "common/handle.h"

namespace inflight {

std::uint64_t hash64(std::string_view bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::pair<std::uint64_t, std::uint64_t> hash128(std::string_view bytes) {
  XXH128_hash_t const hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

struct ContentDigest::State {
  Handle<XXH3_state_t, XXH3_freeState> digest{XXH3_createState()};
};

ContentDigest::ContentDigest() : state_(std::make_unique<State>()) {
  if (!state_->digest) throw std::bad_alloc();
  XXH3_128bits_reset(state_->digest.get());
}
ContentDigest::~ContentDigest() = default;

void ContentDigest::update(std::string_view bytes) {
  XXH3_128bits_update(state_->digest.get(), bytes.data(), bytes.size());
}

std::string ContentDigest::text() const {
  XXH128_hash_t const hash = XXH3_128bits_digest(state_->digest.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace inflight

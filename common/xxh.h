// XXH3, as the layouts of archives and their ledgers name it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace inflight {

[[nodiscard]] std::uint64_t hash64(std::string_view bytes, std::uint64_t seed = 0);
[[nodiscard]] std::pair<std::uint64_t, std::uint64_t> hash128(std::string_view bytes);

// XXH3-128 of what comes piece by piece.
class ContentDigest {
 public:
  ContentDigest();
  ~ContentDigest();
  void update(std::string_view bytes);
  [[nodiscard]] std::string text() const;  // 32 hexadecimal digits, canonical order

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace inflight

// Orders to fill rtdb-emulator with: nested documents, the same ones by seed.
#pragma once

#include <cstdint>

#include "tests/servers/rtdb_tree.h"

namespace inflight::sim {

// Document `number` of a collection of orders: customer, address, lines, amounts in cents, flags, and what is often
// missing.
[[nodiscard]] Node order_document(std::uint64_t seed, std::uint64_t number);
// Its key: of 20 characters that grow, as push ids do; every 50th has characters that must be escaped in URLs.
[[nodiscard]] std::string order_key(std::uint64_t seed, std::uint64_t number);

}  // namespace inflight::sim

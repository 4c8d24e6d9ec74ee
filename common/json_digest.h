// A digest of a JSON document that says the same of the same data: whatever the order of members and the blanks between
// them, and whether keys 0, 1, … came as an object or as an array. 16 bytes; a null has all zeros.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace inflight {

// nullopt: it is no JSON.
[[nodiscard]] std::optional<std::string> json_digest(std::string_view json);

}  // namespace inflight

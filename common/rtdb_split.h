// Where a collection of a Firebase Realtime Database is to be cut when it gives not even one document from some key on:
// the range of keys is narrowed character by character, as nothing but queries by range tells its keys then.
//
// Order of keys: rtdb.h.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/status.h"

namespace inflight {

// The lowest key that may come after this one.
[[nodiscard]] std::string rtdb_key_after(std::string_view key);

// The lowest key K for which `refused` holds of all from K on, and of none before: where the database gives no more
// than `from`..K. An empty `from` is the beginning. It is taken for granted that the range without an end is refused;
// about nine questions for each character in which K differs from `from`. What a question fails with ends the search.
[[nodiscard]] Result<std::string> rtdb_first_refused(
    std::string_view from, std::function<Result<bool>(std::string const& end)> const& refused);

}  // namespace inflight

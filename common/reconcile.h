// Two streams of records compared by key.  Manual: man/reconcile.1
//
// The left side is what should be, the right side what is. Both are read whole before anything is said, and only what
// both have told completely is compared. In constant memory: both are sorted (spill.h) and merged.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/reconcile_side.h"
#include "common/time.h"

namespace inflight {

struct Difference {
  enum class Kind { missing, extra, different, duplicated_left, duplicated_right } kind = Kind::missing;
  std::string key;   // a JSON array, canonical
  std::string what;  // `/power: 12.5 on the left, 12.6 on the right`, or how often it stands there; else empty
};
[[nodiscard]] std::string_view name_of(Difference::Kind kind);

struct ReconcileResult {
  struct Side {
    std::uint64_t records = 0, keys = 0;
    std::uint64_t duplicated = 0;  // keys that stand there more than once
    SideDigest digest;
  };
  Side left, right;  // as they were first read
  std::uint64_t equal = 0, missing = 0, extra = 0, different = 0;
  std::optional<std::uint64_t> rechecked;  // keys that were read again; those that differ no more are `settled`
  std::uint64_t settled = 0;

  // Every key on both sides with the same values, and once.
  [[nodiscard]] bool same() const { return missing + extra + different + left.duplicated + right.duplicated == 0; }
};

// Runs both commands, and calls `tell` for each difference, in an order that depends on nothing but the keys. With
// `recheck` it waits, runs them again, and tells only of the keys that differ both times.
// Code::temporary: there is no verdict, and why. What `tell` returns other than ok ends it.
[[nodiscard]] Result<ReconcileResult> reconcile(ReconcileOptions const& options,
                                                std::function<Status(Difference const&)> const& tell);

// What differs between two canonical texts, field by field, the first few of them. `root` stands before each path.
[[nodiscard]] std::string describe_difference(ReconcileSide::Text const& left, ReconcileSide::Text const& right,
                                              std::string_view root);

}  // namespace inflight

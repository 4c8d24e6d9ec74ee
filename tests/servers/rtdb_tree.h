// The data of rtdb-emulator: a tree of keys and scalars in the order that the Realtime Database has, JSON in and out,
// and queries over one node's children.
//
// Order of keys and of values: https://firebase.google.com/docs/database/rest/retrieve-data ("How query data is
// ordered"); details that the page leaves open are those of Google's own engine (rtdb_query_test.py).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace inflight::sim {

// Keys that are 32-bit integers come first, by number; all others by their UTF-16 code units.
[[nodiscard]] int compare_keys(std::string_view a, std::string_view b);
struct KeyOrder {
  using is_transparent = void;
  bool operator()(std::string_view a, std::string_view b) const { return compare_keys(a, b) < 0; }
};

using Path = std::vector<std::string>;
// Of a URL's path without `.json`, already decoded; empty parts are left out.
[[nodiscard]] Path split_path(std::string_view text);

struct Node {
  std::string scalar;  // as JSON; empty: an object, or nothing
  std::map<std::string, Node, KeyOrder> children;

  [[nodiscard]] bool null() const { return scalar.empty() && children.empty(); }
  [[nodiscard]] Node const* find(std::span<std::string const> path) const;
  // Writes there (a null removes); an emptied node is gone, as is a scalar that was on the way.
  void set(std::span<std::string const> path, Node value);
};

// Throws std::invalid_argument with the reason. `now` is for {".sv":"timestamp"}, in milliseconds.
[[nodiscard]] Node parse_node(std::string_view json, std::int64_t now);
// The members of an object, by their (perhaps nested) paths: the body of a PATCH.
[[nodiscard]] std::vector<std::pair<Path, Node>> parse_update(std::string_view json, std::int64_t now);
void check_path(Path const& path);

// Most keys from 0 on: an array (https://firebase.blog/posts/2014/04/best-practices-arrays-in-firebase).
void append_json(std::string& out, Node const& node, int indent = -1);
void append_shallow(std::string& out, Node const& node);
[[nodiscard]] std::string json_text(std::string_view text);  // quoted

struct Query {
  std::string order_by;  // `$key`, `$value` or a child's path; empty: no query
  std::optional<std::string> start_at, start_after, end_at, end_before, equal_to;  // as JSON
  std::uint64_t first = 0, last = 0;                                               // limits; 0: none
  // Throws std::invalid_argument.
  void check() const;
};
// The children that it selects, in its order.
[[nodiscard]] std::vector<std::pair<std::string const*, Node const*>> select(Node const& node, Query const& query);

}  // namespace inflight::sim

#include "tests/servers/rtdb_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace inflight::sim {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kLongestKey = 768;  // https://firebase.google.com/docs/database/usage/limits
constexpr std::size_t kDeepest = 32;

std::optional<std::int64_t> integer_key(std::string_view key) {
  std::string_view digits = key;
  bool const negative = digits.starts_with('-');
  if (negative) digits.remove_prefix(1);
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  digits.remove_prefix(std::min(digits.find_first_not_of('0'), digits.size() - 1));
  if (digits.size() > 10) return std::nullopt;
  std::int64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (negative) value = -value;
  if (value < INT32_MIN || value > INT32_MAX) return std::nullopt;
  return value;
}

// UTF-8 by the code units of UTF-16: what lies beyond the basic plane comes before U+E000.
int compare_text(std::string_view a, std::string_view b) {
  auto const [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (x == a.end() || y == b.end()) return x == a.end() ? (y == b.end() ? 0 : -1) : 1;
  auto const unit = [](char c) {
    auto const byte = static_cast<unsigned char>(c);
    return byte >= 0xf0 ? byte - 2 : byte >= 0xee ? byte + 5 : static_cast<int>(byte);
  };
  return unit(*x) < unit(*y) ? -1 : 1;
}

void check_key(std::string_view key) {
  bool const control =
      std::any_of(key.begin(), key.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  if (key.empty() || key.size() > kLongestKey || control || key.find_first_of(".$#[]/") != std::string_view::npos)
    throw std::invalid_argument(
        "Invalid data; couldn't parse JSON object. Are you sending a JSON object with valid key names?");
}

Node from_json(Json const& json, std::int64_t now, std::size_t depth) {
  Node node;
  if (depth > kDeepest) throw std::invalid_argument("Invalid data; the tree is deeper than 32 levels");
  if (json.is_null()) return node;
  if (json.is_array()) {
    for (std::size_t i = 0; i < json.size(); ++i) {
      Node child = from_json(json[i], now, depth + 1);
      if (!child.null()) node.children.emplace(std::to_string(i), std::move(child));
    }
    return node;
  }
  if (json.is_object()) {
    if (auto const sv = json.find(".sv"); sv != json.end()) {
      if (*sv != "timestamp") throw std::invalid_argument("Invalid server value");
      node.scalar = std::to_string(now);
      return node;
    }
    if (auto const value = json.find(".value"); value != json.end()) return from_json(*value, now, depth);
    for (auto const& [key, value] : json.items()) {
      if (key == ".priority") continue;
      check_key(key);
      Node child = from_json(value, now, depth + 1);
      if (!child.null()) node.children.emplace(key, std::move(child));
    }
    return node;
  }
  double number = 0;
  if (json.is_number_float() && (number = json.get<double>(), std::trunc(number) == number) && std::abs(number) < 1e15)
    node.scalar = fmt::format("{:.0f}", number);
  else
    node.scalar = json.dump();
  return node;
}

Json parsed(std::string_view text) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) throw std::invalid_argument("Invalid data; couldn't parse JSON object, array, or value.");
  return json;
}

// Null before false, true, numbers, strings, objects.
struct Rank {
  int kind = 0;
  double number = 0;
  std::string text{};
};

Rank rank_of(std::string_view scalar, bool object) {
  if (object) return {5};
  if (scalar.empty() || scalar == "null") return {0};
  if (scalar == "false") return {1};
  if (scalar == "true") return {2};
  if (scalar.front() == '"') return {4, 0, Json::parse(scalar).get<std::string>()};
  return {3, Json::parse(scalar).get<double>()};
}
Rank rank_of(Node const* node) {
  return node == nullptr ? Rank{} : rank_of(node->scalar, node->scalar.empty() && !node->children.empty());
}
int compare(Rank const& a, Rank const& b) {
  if (a.kind != b.kind) return a.kind < b.kind ? -1 : 1;
  if (a.kind == 3) return a.number < b.number ? -1 : a.number > b.number ? 1 : 0;
  return a.kind == 4 ? compare_text(a.text, b.text) : 0;
}

bool is_array(Node const& node) {
  std::int64_t highest = -1;
  for (auto const& [key, child] : node.children) {
    auto const number = integer_key(key);
    if (!number || *number < 0 || std::to_string(*number) != key) return false;
    highest = std::max(highest, *number);
  }
  return highest >= 0 && static_cast<std::int64_t>(node.children.size()) * 2 > highest + 1;
}

}  // namespace

int compare_keys(std::string_view a, std::string_view b) {
  if (a == b) return 0;
  auto const x = integer_key(a), y = integer_key(b);
  if (x && y) return *x != *y ? (*x < *y ? -1 : 1) : a.size() != b.size() ? (a.size() < b.size() ? -1 : 1) : 0;
  if (x || y) return x ? -1 : 1;
  return compare_text(a, b);
}

Path split_path(std::string_view text) {
  Path path;
  while (!text.empty()) {
    std::string_view const part = text.substr(0, text.find('/'));
    if (!part.empty()) path.emplace_back(part);
    text.remove_prefix(std::min(text.size(), part.size() + 1));
  }
  return path;
}

void check_path(Path const& path) {
  if (path.size() > kDeepest) throw std::invalid_argument("Invalid path: deeper than 32 levels");
  for (auto const& key : path) {
    try {
      check_key(key);
    } catch (std::invalid_argument const&) {
      throw std::invalid_argument("Invalid path: Invalid token in path");
    }
  }
}

Node const* Node::find(std::span<std::string const> path) const {
  Node const* at = this;
  for (auto const& key : path) {
    auto const child = at->children.find(key);
    if (child == at->children.end()) return nullptr;
    at = &child->second;
  }
  return at;
}

void Node::set(std::span<std::string const> path, Node value) {
  if (path.empty()) {
    *this = std::move(value);
    return;
  }
  if (!value.null()) scalar.clear();
  auto child = children.find(path.front());
  if (child == children.end()) {
    if (value.null()) return;
    child = children.emplace(path.front(), Node()).first;
  }
  child->second.set(path.subspan(1), std::move(value));
  if (child->second.null()) children.erase(child);
}

Node parse_node(std::string_view json, std::int64_t now) { return from_json(parsed(json), now, 0); }

std::vector<std::pair<Path, Node>> parse_update(std::string_view text, std::int64_t now) {
  Json const json = parsed(text);
  if (!json.is_object()) throw std::invalid_argument("Invalid data; couldn't parse JSON object.");
  std::vector<std::pair<Path, Node>> update;
  for (auto const& [key, value] : json.items()) {
    Path path = split_path(key);
    if (path.empty()) throw std::invalid_argument("Invalid data; an empty path in an update");
    for (auto const& part : path) check_key(part);
    update.emplace_back(std::move(path), from_json(value, now, 1));
  }
  return update;
}

std::string json_text(std::string_view text) { return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace); }

void append_json(std::string& out, Node const& node, int indent) {
  if (node.children.empty()) {
    out += node.scalar.empty() ? "null" : node.scalar;
    return;
  }
  bool const array = is_array(node);
  int const inner = indent < 0 ? -1 : indent + 2;
  auto const line = [&](int width) {
    if (indent >= 0) (out += '\n').append(static_cast<std::size_t>(width), ' ');
  };
  out += array ? '[' : '{';
  std::int64_t next = 0;
  bool first = true;
  for (auto const& [key, child] : node.children) {
    if (array) {
      for (std::int64_t const at = *integer_key(key); next < at; ++next, first = false) out += first ? "null" : ",null";
      ++next;
    }
    if (!first) out += ',';
    first = false;
    line(inner);
    if (!array) (out += json_text(key)) += indent < 0 ? ":" : " : ";
    append_json(out, child, inner);
  }
  line(indent);
  out += array ? ']' : '}';
}

void append_shallow(std::string& out, Node const& node) {
  if (node.children.empty()) return append_json(out, node);
  char before = '{';
  for (auto const& [key, child] : node.children) {
    ((out += before) += json_text(key)) += ':';
    out += child.children.empty() ? child.scalar : "true";
    before = ',';
  }
  out += '}';
}

void Query::check() const {
  bool const ranged = start_at || start_after || end_at || end_before || equal_to || first != 0 || last != 0;
  if (order_by.empty()) {
    if (ranged) throw std::invalid_argument("orderBy must be defined when other query parameters are defined");
    return;
  }
  if (first != 0 && last != 0) throw std::invalid_argument("limitToFirst and limitToLast may not be used together");
  if (equal_to && (start_at || start_after || end_at || end_before))
    throw std::invalid_argument("equalTo cannot be specified in addition to startAfter, startAt, endAt, or endBefore");
  if ((start_at && start_after) || (end_at && end_before))
    throw std::invalid_argument("startAt and startAfter, endAt and endBefore may not be used together");
  for (auto const* bound : {&start_at, &start_after, &end_at, &end_before, &equal_to}) {
    if (!*bound) continue;
    Json const value = Json::parse(**bound, nullptr, false);
    if (value.is_discarded() || value.is_structured())
      throw std::invalid_argument("Constraint index field must be a JSON primitive");
    if (order_by == "$key" && !value.is_string())
      throw std::invalid_argument("Invalid query: a bound of orderBy=\"$key\" must be a string");
  }
}

std::vector<std::pair<std::string const*, Node const*>> select(Node const& node, Query const& query) {
  struct Found {
    std::string const* key;
    Node const* child;
    Rank rank;
  };
  bool const by_key = query.order_by == "$key";
  Path const path = by_key || query.order_by == "$value" ? Path{} : split_path(query.order_by);
  auto const bound = [&](std::optional<std::string> const& value) -> std::optional<Rank> {
    if (!value) return std::nullopt;
    return rank_of(Json::parse(*value).dump(), false);
  };
  auto const start_at = bound(query.equal_to ? query.equal_to : query.start_at), start_after = bound(query.start_after);
  auto const end_at = bound(query.equal_to ? query.equal_to : query.end_at), end_before = bound(query.end_before);
  std::vector<std::pair<std::string const*, Node const*>> out;
  auto const limit = [&] {
    auto const most = static_cast<std::size_t>(query.first != 0 ? query.first : query.last);
    if (most == 0 || out.size() <= most) return;
    if (query.last != 0) out.erase(out.begin(), out.end() - static_cast<std::ptrdiff_t>(most));
    out.resize(most);
  };
  if (by_key) {  // the children stand in this order
    auto at = start_at      ? node.children.lower_bound(start_at->text)
              : start_after ? node.children.upper_bound(start_after->text)
                            : node.children.begin();
    for (; at != node.children.end() && (query.first == 0 || out.size() < query.first); ++at) {
      if (end_at && compare_keys(at->first, end_at->text) > 0) break;
      if (end_before && compare_keys(at->first, end_before->text) >= 0) break;
      out.emplace_back(&at->first, &at->second);
    }
    limit();
    return out;
  }
  std::vector<Found> found;
  for (auto const& [key, child] : node.children) {
    Rank rank = rank_of(child.find(path));
    if (start_at && compare(rank, *start_at) < 0) continue;
    if (start_after && compare(rank, *start_after) <= 0) continue;
    if (end_at && compare(rank, *end_at) > 0) continue;
    if (end_before && compare(rank, *end_before) >= 0) continue;
    found.push_back({&key, &child, std::move(rank)});
  }
  std::stable_sort(found.begin(), found.end(),
                   [](Found const& a, Found const& b) { return compare(a.rank, b.rank) < 0; });
  for (auto const& one : found) out.emplace_back(one.key, one.child);
  limit();
  return out;
}

}  // namespace inflight::sim

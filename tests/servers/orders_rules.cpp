#include "tests/servers/orders_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <climits>
#include <set>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "tests/servers/sim_units.h"

namespace inflight::sim {

using nlohmann::json;

namespace {

bool whole(json const& value, std::int64_t least, std::int64_t most) {
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) return false;
  return value.is_number_integer() && value.get<std::int64_t>() >= least && value.get<std::int64_t>() <= most;
}

struct Member {
  std::string_view name;
  bool needed;
  bool (*good)(json const& value);
  std::string_view wants;
};

bool text(json const& value) { return value.is_string(); }
bool some_text(json const& value) { return value.is_string() && !value.get_ref<std::string const&>().empty(); }

constexpr std::array<Member, 11> kOrder = {{
    {"number", true, [](json const& v) { return whole(v, 0, INT64_MAX); }, "a whole number"},
    {"status", true, some_text, "a text"},
    {"lines", true, [](json const& v) { return v.is_array(); }, "an array"},
    {"created", false, [](json const& v) { return whole(v, INT64_MIN, INT64_MAX); }, "a whole number"},
    {"customer", false, text, "a text"},
    {"email", false, text, "a text"},
    {"city", false, text, "a text"},
    {"zip", false, text, "a text"},
    {"note", false, text, "a text"},
    {"total", false, [](json const& v) { return v.is_number(); }, "a number"},
    {"gift", false, [](json const& v) { return v.is_boolean(); }, "true or false"},
}};
constexpr std::array<Member, 3> kLine = {{
    {"sku", true, some_text, "a text"},
    {"quantity", true, [](json const& v) { return whole(v, 1, INT_MAX); }, "a whole number from 1 on"},
    {"cents", true, [](json const& v) { return whole(v, 0, INT64_MAX); }, "a whole number from 0 on"},
}};

std::string fault_of(json const& object, std::span<Member const> members) {
  for (Member const& member : members) {
    auto const found = object.find(member.name);
    if (found == object.end() && member.needed) return fmt::format("{} is missing", member.name);
    if (found != object.end() && !member.good(*found)) return fmt::format("{} is not {}", member.name, member.wants);
  }
  for (auto const& item : object.items()) {
    std::string const& name = item.key();
    if (std::none_of(members.begin(), members.end(), [&](Member const& member) { return member.name == name; }))
      return fmt::format("{} is nothing that an order has", json(name).dump());
  }
  return "";
}

// Whether anything at this path is as `good` says.
template <typename Good>
bool any_at(json const& value, std::span<std::string const> path, Good const& good) {
  if (path.empty()) return good(value);
  if (path[0] == "*" && value.is_array())
    return std::any_of(value.begin(), value.end(),
                       [&](json const& each) { return any_at(each, path.subspan(1), good); });
  auto const found = value.is_object() ? value.find(path[0]) : value.end();
  return found != value.end() && any_at(*found, path.subspan(1), good);
}

void only(json const& rule, std::set<std::string> const& names) {
  if (!rule.is_object()) throw std::invalid_argument("a rule is an object");
  for (auto const& [name, value] : rule.items()) {
    if (!names.contains(name)) throw std::invalid_argument(fmt::format("no rule has a member {}", json(name).dump()));
  }
}

}  // namespace

std::string fault_of_order(json const& order) {
  if (!order.is_object()) return "an order is an object";
  if (std::string fault = fault_of(order, kOrder); !fault.empty()) return fault;
  for (json const& line : order["lines"]) {
    if (!line.is_object()) return "a line is not an object";
    if (std::string fault = fault_of(line, kLine); !fault.empty()) return "of a line, " + fault;
  }
  return "";
}

OrdersRules::Fail OrdersRules::parse_fail(json const& rule) {
  only(rule, {"status", "method", "every", "count", "for", "retry_after", "close", "message"});
  Fail fail;
  fail.failure.status = rule.value("status", 503U);
  fail.failure.retry_after = rule.value("retry_after", "");
  fail.failure.message = rule.value("message", "told to fail");
  fail.method = rule.value("method", "");
  fail.every = rule.value("every", std::uint64_t{1});
  fail.left = rule.value("count", UINT64_MAX);
  if (rule.contains("for")) fail.until = Clock::now() + parse_duration(rule["for"].get<std::string>());
  std::string const close = rule.value("close", "");
  fail.failure.close_before = close == "before";
  fail.failure.close_after = close == "after";
  if (!close.empty() && close != "before" && close != "after")
    throw std::invalid_argument(R"("close" is "before" or "after")");
  if (fail.every == 0) throw std::invalid_argument(R"("every" is 1 or more)");
  if (fail.failure.status < 400 || fail.failure.status > 599)
    throw std::invalid_argument(R"(the "status" of a failure is 400 to 599)");
  return fail;
}

OrdersRules::Refuse OrdersRules::parse_refuse(json const& rule) {
  only(rule, {"field", "value", "status", "message"});
  Refuse refuse;
  std::string const field = rule.at("field").get<std::string>();
  if (!field.starts_with('/')) throw std::invalid_argument(R"("field" begins with /)");
  for (std::size_t at = 0; at < field.size();) {
    std::size_t const end = std::min(field.find('/', at + 1), field.size());
    refuse.path.push_back(field.substr(at + 1, end - at - 1));
    at = end;
  }
  if (rule.contains("value")) refuse.value = rule["value"];
  refuse.refusal.status = rule.value("status", 422U);
  refuse.refusal.message = rule.value("message", field + " is refused");
  if (refuse.refusal.status < 400 || refuse.refusal.status > 499)
    throw std::invalid_argument(R"(the "status" of a refusal is 400 to 499)");
  return refuse;
}

void OrdersRules::replace(std::string const& text) try {
  json const rules = json::parse(text);
  only(rules, {"latency", "refuse", "fail"});
  std::chrono::milliseconds latency{};
  std::vector<Fail> fails;
  std::vector<Refuse> refusals;
  if (std::string const given = rules.value("latency", ""); !given.empty()) latency = parse_duration(given);
  for (json const& rule : rules.value("fail", json::array())) fails.push_back(parse_fail(rule));
  for (json const& rule : rules.value("refuse", json::array())) refusals.push_back(parse_refuse(rule));
  std::lock_guard const lock(mutex_);
  text_ = rules.dump();
  latency_ = latency;
  fails_ = std::move(fails);
  refusals_ = std::move(refusals);
} catch (json::exception const& e) {
  throw std::invalid_argument(e.what());
}

std::string OrdersRules::text() {
  std::lock_guard const lock(mutex_);
  return text_;
}

std::chrono::milliseconds OrdersRules::latency() {
  std::lock_guard const lock(mutex_);
  return latency_;
}

std::optional<OrdersRules::Failure> OrdersRules::failure(std::string const& method) {
  std::lock_guard const lock(mutex_);
  Clock::time_point const now = Clock::now();
  for (Fail& fail : fails_) {
    if ((!fail.method.empty() && fail.method != method) || fail.left == 0 || now >= fail.until) continue;
    if (++fail.seen % fail.every != 0) continue;
    --fail.left;
    return fail.failure;
  }
  return std::nullopt;
}

std::optional<Refusal> OrdersRules::refusal(json const& order) {
  std::lock_guard const lock(mutex_);
  for (Refuse const& refuse : refusals_) {
    if (any_at(order, refuse.path, [&](json const& value) { return !refuse.value || value == *refuse.value; }))
      return refuse.refusal;
  }
  return std::nullopt;
}

}  // namespace inflight::sim

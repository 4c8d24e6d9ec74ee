#include "tests/servers/rtdb_documents.h"

#include <fmt/format.h>

#include <array>

namespace inflight::sim {

namespace {

// splitmix64
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

Node scalar(std::string text) { return {std::move(text), {}}; }
Node text(std::string_view value) { return scalar(json_text(value)); }

}  // namespace

std::string order_key(std::uint64_t seed, std::uint64_t number) {
  constexpr std::array<char const*, 4> odd = {" of %", "+50%25", "&a=b?c", "✓😀"};
  std::string key = fmt::format("-L{:08d}{:010x}", number, mixed(seed * 31 + number) >> 24);
  if (number % 50 == 49) key += odd[number / 50 % odd.size()];
  return key;
}

Node order_document(std::uint64_t seed, std::uint64_t number) {
  constexpr std::array<char const*, 6> names = {"Ada", "Grace", "Jürgen", "Zoë", "佐藤", "O'Neil \"Bob\""};
  constexpr std::array<char const*, 4> states = {"new", "paid", "shipped", "returned"};
  std::uint64_t state = mixed(seed ^ (number * 0x100000001b3));
  auto const next = [&](std::uint64_t below) { return (state = mixed(state)) % below; };
  Node order;
  order.children["number"] = scalar(std::to_string(number));
  order.children["status"] = text(states[next(states.size())]);
  order.children["created"] = scalar(std::to_string(1'500'000'000'000 + number * 60'000 + next(60'000)));
  Node& customer = order.children["customer"];
  customer.children["name"] = text(names[next(names.size())]);
  customer.children["email"] = text(fmt::format("c{}@example.com", next(5000)));
  Node& address = customer.children["address"];
  address.children["city"] = text(fmt::format("City {}", next(300)));
  address.children["zip"] = text(fmt::format("{:05d}", next(100'000)));
  std::uint64_t total = 0;
  for (std::uint64_t i = 0, lines = 1 + next(5); i < lines; ++i) {
    Node& line = order.children["lines"].children[std::to_string(i)];
    std::uint64_t const quantity = 1 + next(9), cents = 99 + next(20'000);
    line.children["sku"] = text(fmt::format("SKU-{:04d}", next(2000)));
    line.children["quantity"] = scalar(std::to_string(quantity));
    line.children["cents"] = scalar(std::to_string(cents));
    total += quantity * cents;
  }
  order.children["total"] = scalar(fmt::format("{}", static_cast<double>(total) / 100));
  if (next(3) == 0) order.children["gift"] = scalar("true");
  if (next(4) == 0) order.children["note"] = text("ring twice\nthen wait");
  return order;
}

}  // namespace inflight::sim

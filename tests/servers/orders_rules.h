// What orders-api demands of a document, and how it has been told to fail.
//
// The rules are one JSON object, which a PUT to /_rules replaces as a whole; all members may be left out:
//   {"latency": "20ms",                        each request of an order takes as long, with its database connection
//    "refuse": [{"field": "/status",           of a document that has this value, or any where `value` is left out;
//                "value": "returned",          `/lines/*/sku` is of each line
//                "status": 422, "message": "…"}],
//    "fail": [{"status": 503,                  all requests, or those of one "method"; each n-th with "every": n;
//              "count": 100, "for": "2s",      until so many have failed, or the time is over, from the PUT on
//              "retry_after": "1",             "close": "before" or "after" the commit, in place of an answer
//              "message": "…"}]}
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace inflight::sim {

struct Refusal {
  unsigned status = 422;
  std::string message;
};

// Why this is no order: {"number": 17, "status": "paid", "lines": [{"sku": "A-1", "quantity": 2, "cents": 1250}, …]},
// with `created` (a whole number), `total` (a number), `gift` (a flag), and the texts `customer`, `email`, `city`,
// `zip` and `note`, which may be left out. Empty: it is one.
[[nodiscard]] std::string fault_of_order(nlohmann::json const& order);

class OrdersRules {
 public:
  struct Failure {
    unsigned status = 503;
    std::string retry_after, message;
    bool close_before = false, close_after = false;
  };

  // Throws std::invalid_argument.
  void replace(std::string const& json);
  [[nodiscard]] std::string text();
  [[nodiscard]] std::chrono::milliseconds latency();
  [[nodiscard]] std::optional<Failure> failure(std::string const& method);
  [[nodiscard]] std::optional<Refusal> refusal(nlohmann::json const& order);

 private:
  using Clock = std::chrono::steady_clock;
  struct Fail {
    Failure failure;
    std::string method;  // empty: all
    std::uint64_t every = 1, seen = 0, left = UINT64_MAX;
    Clock::time_point until = Clock::time_point::max();
  };
  struct Refuse {
    std::vector<std::string> path;
    std::optional<nlohmann::json> value;
    Refusal refusal;
  };
  static Fail parse_fail(nlohmann::json const& rule);
  static Refuse parse_refuse(nlohmann::json const& rule);

  std::mutex mutex_;
  std::string text_ = "{}";
  std::chrono::milliseconds latency_{};
  std::vector<Fail> fails_;
  std::vector<Refuse> refusals_;
};

}  // namespace inflight::sim

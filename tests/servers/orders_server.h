// The HTTP side of orders-api: one resource per order, /orders/KEY, and what is counted of the requests.
#pragma once

#include <microhttpd.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "tests/servers/orders_rules.h"
#include "tests/servers/orders_store.h"

namespace inflight::sim {

struct OrdersOptions {
  std::uint16_t port = 0;
  std::string database;         // libpq's URI; empty: as PG* variables say
  std::size_t connections = 5;  // to the database, at most
  std::string version_header;   // empty: requests have no version
  unsigned conflict = 409;      // of a write that is older than what is stored
  std::string retry_after = "1";
  std::size_t max_body = 1 << 20;  // bytes
};

class OrdersServer {
 public:
  explicit OrdersServer(OrdersOptions const& options);
  ~OrdersServer();
  OrdersServer(OrdersServer const&) = delete;
  OrdersServer& operator=(OrdersServer const&) = delete;

  void start();
  [[nodiscard]] unsigned port() const { return port_; }

 private:
  struct Request {
    std::string method, key, body;
    bool too_large = false;
    bool counted = false;  // among those that are under way
  };
  struct Answer {
    unsigned status = 200;
    std::string body{};
    std::string retry_after{};
    std::string allow{};
    bool close = false;
  };
  struct Counters {
    std::uint64_t requests = 0, no_connection = 0, unavailable = 0, refused = 0, stale = 0, failed = 0;
    std::map<std::string, std::uint64_t> by_method, by_status;
    std::size_t most = 0, most_of_a_key = 0;
  };

  static MHD_Result on_request(void* self, MHD_Connection*, char const* url, char const* method, char const* version,
                               char const* upload, std::size_t* upload_size, void** state);
  static void on_completed(void* self, MHD_Connection*, void** state, MHD_RequestTerminationCode code);

  MHD_Result begin(MHD_Connection*, std::string_view url, std::string const& method, void** state);
  MHD_Result list(MHD_Connection*, Request& request);
  Answer admin(std::string_view url, Request const& request);
  Answer order(MHD_Connection*, Request const& request);
  Answer write(MHD_Connection*, Request const& request, OrdersStore::Connection& connection);
  Answer of(OrdersStore::Answer const& stored);
  Answer no_connection();
  MHD_Result send(MHD_Connection*, Request& request, Answer const& answer);
  void wait(std::chrono::milliseconds time);
  // The request is no more under way: before its answer leaves, so that the client's next one is not counted beside it.
  void end(Request& request, unsigned status);
  [[nodiscard]] std::string stats();
  void reset_stats();

  OrdersOptions options_;
  OrdersStore store_;
  OrdersRules rules_;
  std::mutex mutex_;  // of all that follows
  std::condition_variable ending_changed_;
  bool ending_ = false;
  std::size_t under_way_ = 0;
  std::map<std::string, std::size_t> under_way_of_;
  Counters counters_;
  MHD_Daemon* daemon_ = nullptr;
  unsigned port_ = 0;
};

}  // namespace inflight::sim

// The tables of orders-api in a PostgreSQL, and the few connections that it has to them.
//
//   orders          a row per order
//   order_lines     its lines, child rows
//   order_versions  the highest version that was written for a key, also of one that is deleted: a tombstone
//
// A write locks its key's row in order_versions first, so that writes of a key are one after the other, and an older
// version is seen whatever else is under way. Each write is one transaction.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/pg.h"

namespace inflight::sim {

class OrdersStore {
 public:
  enum class Outcome { created, replaced, removed, absent, stale, found, invalid, unavailable, broken };
  struct Answer {
    Outcome outcome;
    std::string text{};  // of `found` the order as JSON; else why
  };

  // One of the connections, given back in the end.
  class Connection {
   public:
    Connection(OrdersStore& store, Pg pg) : store_(&store), pg_(std::move(pg)) {}
    Connection(Connection&& other) noexcept : store_(std::exchange(other.store_, nullptr)), pg_(std::move(other.pg_)) {}
    Connection& operator=(Connection&&) = delete;
    ~Connection() {
      if (store_ != nullptr) store_->give_back(std::move(pg_));
    }

    // Without a version the write is of the version that is there. Returns after the commit.
    [[nodiscard]] Answer put(std::string const& key, std::optional<std::string> const& version,
                             std::string const& document);
    [[nodiscard]] Answer remove(std::string const& key, std::optional<std::string> const& version);
    [[nodiscard]] Answer get(std::string const& key);
    // All orders, as JSON, by the bytes of their keys. next() is empty after the last one; an Answer says why there is
    // no more.
    [[nodiscard]] std::optional<Answer> start_list();
    [[nodiscard]] std::optional<Answer> next(std::string& order);

   private:
    std::optional<Answer> connect();
    Answer call(std::string const& function, std::vector<std::string> const& parameters);
    static Answer failure(Status const& status);

    OrdersStore* store_;
    Pg pg_;
  };

  // `url` as libpq has it; empty: what PG* variables say. Throws std::invalid_argument.
  OrdersStore(std::string url, std::size_t connections);

  // Makes the tables, if the server is there: one that is not may come later. Throws std::invalid_argument where
  // waiting does not help.
  void prepare();
  // Nothing while all are taken: nobody waits for one.
  [[nodiscard]] std::optional<Connection> take();

  [[nodiscard]] std::size_t in_use();
  [[nodiscard]] std::size_t peak();
  void reset_peak();

 private:
  void give_back(Pg pg);

  std::string url_;
  std::mutex mutex_;
  std::vector<Pg> idle_;
  std::size_t in_use_ = 0, peak_ = 0;
  std::size_t const connections_;
  bool prepared_ = false;
};

}  // namespace inflight::sim

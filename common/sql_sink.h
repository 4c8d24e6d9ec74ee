// The sink of a database's tables: batches as transactions, over one connection or several at once.  Manual:
// man/sql-write.1
//
// With several, a batch is cut by key, and each part of it is a transaction of its own; the next batch begins when all
// are done. So rows of one key are never under way twice, and follow each other.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/sink.h"
#include "common/sql.h"
#include "common/status.h"

namespace inflight {

// One connection, and what it does with its records of a batch.
class SqlLane {
 public:
  explicit SqlLane(SqlWriter writer) : writer_(std::move(writer)) {}
  [[nodiscard]] SqlWriter& writer() { return writer_; }

  // Those that `mine` names, in its order. What is wrong with a single row leaves the others alone; outcomes are told
  // after the commit. Where the database names a row at fault, the batch goes on in smaller ones, which grow again
  // while all is well: a row costs two transactions, however many are bad.
  [[nodiscard]] Status deliver(std::span<SinkRecord const> batch, std::vector<std::size_t> mine, Outcomes& outcomes);

  Duration closed_until{};  // the server has no connection for it: the others do its work
  std::vector<std::size_t> mine;
  std::vector<unsigned> parts;
  Status status;

 private:
  Status store(std::span<SinkRecord const> batch, std::size_t from, std::size_t to, std::vector<std::string>& faults,
               std::optional<std::size_t>& blamed);
  void sort(std::span<SinkRecord const> batch);

  SqlWriter writer_;
  std::vector<std::size_t> order_;  // in which they are written
  bool sorted_ = false;
  std::vector<std::size_t> written_;  // by calls of writer_.write(): the place in order_
  std::string keys_;
  std::vector<std::size_t> ends_;  // of each record's key in keys_
};

class SqlSink final : public Sink {
 public:
  static constexpr std::size_t kMostLanes = 16;

  // Code::usage: the options are wrong.
  [[nodiscard]] static Result<std::unique_ptr<SqlSink>> make(SqlOptions const& options, std::size_t max_in_flight,
                                                             Clock& clock);

  Status connect() override { return lanes_[0]->writer().connect(); }
  bool keeps() const override { return lanes_[0]->writer().packs(); }
  Status keep(Record const& record, std::string& kept) override { return lanes_[0]->writer().pack(record, kept); }
  Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) override;
  Status show(SinkRecord const& record, std::string& out) override {
    return lanes_[0]->writer().show(record.record, out);
  }

 private:
  explicit SqlSink(Clock& clock) : clock_(clock) {}
  // Which records each lane has; false where the rows must stay in one transaction.
  Result<bool> share_out(std::span<SinkRecord const> batch);

  Clock& clock_;
  std::vector<std::unique_ptr<SqlLane>> lanes_;
  std::vector<SqlLane*> open_;
};

}  // namespace inflight

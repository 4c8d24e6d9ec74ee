// The sink of a database's tables: batches as transactions, over one connection or several at once.  Manual:
// man/sql-write.1
//
// With several, the rows of a batch are shared out by key, those of each connection are a transaction of their own, and
// the next batch begins when all are done: rows of one key follow each other.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/sink.h"
#include "common/sql.h"
#include "common/status.h"

namespace inflight {

// One connection, and its records of a batch.
class SqlLane {
 public:
  explicit SqlLane(SqlWriter made) : writer(std::move(made)) {}

  // Makes the first connection, or one that was lost.
  [[nodiscard]] Status open();
  void clear() { order_.clear(); }
  void add(std::size_t record) { order_.push_back(record); }
  [[nodiscard]] bool empty() const { return order_.empty(); }
  // Those that were added. What is wrong with a single row leaves the others alone; outcomes are told after the commit.
  // Where the database names a row at fault, the batch goes on in smaller ones, which grow again while all is well: a
  // row costs two transactions, however many are bad.
  [[nodiscard]] Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes);

  SqlWriter writer;
  Duration closed_until{};  // there was no connection for it: the others do its work
  Status status;            // of the last batch

 private:
  Status store(std::span<SinkRecord const> batch, std::size_t from, std::size_t to, std::optional<std::size_t>& blamed);
  void sort(std::span<SinkRecord const> batch);

  bool opened_ = false;
  std::vector<std::size_t> order_;    // in which records are written
  std::vector<std::string> faults_;   // of each in order_
  std::vector<std::size_t> written_;  // by calls of writer.write(): the place in order_
  std::string keys_;
  std::vector<std::size_t> ends_;  // of each record's key in keys_
};

class SqlSink final : public Sink {
 public:
  static constexpr std::size_t kMostLanes = 16;

  // Code::usage: the options are wrong.
  [[nodiscard]] static Result<std::unique_ptr<SqlSink>> make(SqlOptions const& options, std::size_t max_in_flight,
                                                             Clock& clock);

  Status connect() override { return open(1); }
  bool keeps() const override { return lanes_[0]->writer.packs(); }
  Status keep(Record const& record, std::string& kept) override { return lanes_[0]->writer.pack(record, kept); }
  Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) override;
  Status show(SinkRecord const& record, std::string& out) override {
    return lanes_[0]->writer.show(record.record, out);
  }

 private:
  explicit SqlSink(Clock& clock) : clock_(clock) {}
  Status open(std::size_t wanted);
  bool share_out(std::span<SinkRecord const> batch);

  Clock& clock_;
  std::vector<std::unique_ptr<SqlLane>> lanes_;
  std::vector<SqlLane*> order_;  // in which they are opened
  std::vector<SqlLane*> open_;   // for the batch at hand
  bool fenced_ = false;          // no transaction is left of an earlier run, or of a lost connection
};

}  // namespace inflight

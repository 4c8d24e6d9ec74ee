// Records into the tables of a database.
//
// A row is what the options make of a record (sql_row.h); the tables are those that are there, or that may be made
// (sql_table.h); an engine stores (sql_engine.h).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/record.h"
#include "common/sql_row.h"
#include "common/status.h"

namespace inflight {

class SqlWriter {
 public:
  // Opens nothing. Code::usage: the options are wrong.
  [[nodiscard]] static Result<SqlWriter> make(SqlOptions const& options);
  SqlWriter(SqlWriter&&) noexcept;
  ~SqlWriter();

  [[nodiscard]] Status connect();
  [[nodiscard]] bool connected();

  // SqlEngine's, for several writers of the same options. Code::usage: there can only be one.
  [[nodiscard]] Status shareable() const;
  [[nodiscard]] bool part_key(std::string_view packed, std::string& key);
  [[nodiscard]] Status fence();
  void share(bool among_several);

  // Where the options name columns, a record can be packed into few bytes before it is written. pack() and show() may
  // be called by another thread than the rest.
  [[nodiscard]] bool packs() const;
  [[nodiscard]] Status pack(Record const& record, std::string& packed);

  // One transaction: begin, write each, commit. After any failure but Code::rejected of write(): rollback. What is
  // written stays valid until commit() or rollback().
  [[nodiscard]] Status begin();
  [[nodiscard]] Status write(Record const& record);
  [[nodiscard]] Status write(std::string_view packed);
  // Appends the bytes by which the rows of a transaction are best sorted, so that neighbours fall on the same page;
  // rows of equal bytes must keep their order. False where the order of rows may matter (foreign keys, triggers, other
  // unique columns, keys that compare otherwise than by their bytes): then none is to be changed.
  [[nodiscard]] bool sort_key(std::string_view packed, std::string& key);
  [[nodiscard]] Status commit();
  // After a commit() that was rejected: which call of write() in this transaction, counted from 0, is at fault, where
  // that is known.
  [[nodiscard]] std::optional<std::size_t> blamed() const;
  void rollback();

  // What write() would do, as one line of JSON.
  [[nodiscard]] Status show(Record const& record, std::string& out);

 private:
  struct State;
  explicit SqlWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inflight

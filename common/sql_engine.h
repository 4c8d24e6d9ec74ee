// What a database must do for SqlWriter (sql.h).
//
// An engine is one database's client library behind a narrow interface (sql_sqlite.cpp; the library's header stands
// nowhere else). It knows rows and transactions, and nothing of records. SQLite's stores each row in write(); that of
// PostgreSQL (sql_postgres.cpp) collects them and stores all in commit(). A row that it can blame is rejected by
// write(), a batch in which one is at fault by commit(): which one, says blamed() or finds the sink loop out.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/json_text.h"
#include "common/status.h"

namespace inflight {

// What a column holds, or what `--column name=PATH:type` makes of a value.
enum class SqlType : char { any, text, integer, real, boolean, time, json };
// `text`, `int`, `float`, `bool`, `time`, `json`; any: none of them.
[[nodiscard]] SqlType sql_type(std::string_view name);

struct SqlColumn {
  std::string name;
  SqlType holds = SqlType::any;  // as declared; any: whatever comes, as it comes
  SqlType as = SqlType::any;     // what a value must be; any: as the column has it
};

// A table as one stream of rows writes it.
struct SqlTable {
  std::string name;
  std::vector<SqlColumn> columns;  // those that are written
  std::vector<std::size_t> key;    // among the columns; empty: rows are appended
  enum class Conflict { update, ignore, newer } conflict = Conflict::update;
  std::size_t version = 0;  // of Conflict::newer: the column that is compared
  // On conflict a column that a row does not name gets its DEFAULT; otherwise it stays as it is.
  bool whole = false;
  bool remove_nul = false;         // \u0000 is removed from a text; otherwise the row is rejected
  bool round_time = false;         // a time of more digits than a column has is rounded; otherwise the row is rejected
  std::shared_ptr<void> prepared;  // the engine's; reset it when something above has changed
};

// Code::temporary: busy, disk full, waits help. Code::usage: what only the operator can mend. Code::rejected: this
// row's fault, and the transaction goes on; from commit(): one of its rows is at fault.
class SqlEngine {
 public:
  virtual ~SqlEngine() = default;
  [[nodiscard]] virtual Status connect() = 0;
  // Whether it need not be called again; begin() would.
  [[nodiscard]] virtual bool connected() { return true; }

  // Several engines of one writer may store the rows of a batch at the same time, each those of other keys. part_key()
  // appends bytes by which they are shared out: rows of equal keys have the same. False: they must stay in one
  // transaction. share() says whether the transactions from here on may be under way beside others of the writer;
  // before the first that are, and after any that was lost, fence() waits until none is left.
  [[nodiscard]] virtual bool part_key(SqlTable const& table, std::span<Value const> values, std::string& key) {
    (void)table, (void)values, (void)key;
    return false;
  }
  [[nodiscard]] virtual Status fence() { return {}; }
  virtual void share(bool among_several) { (void)among_several; }

  struct Found {
    std::vector<SqlColumn> columns;  // that can be written
    std::vector<std::string> primary_key;
    bool grows = false;  // made by create() with the same mark: its columns are all ours
    // The order of rows of different keys is all the same to it: no trigger, foreign key or second unique index; and
    // texts of a key are equal only where all of their bytes are.
    bool unordered = false;
  };
  [[nodiscard]] virtual Result<std::optional<Found>> find(std::string const& table, std::string const& mark) = 0;
  // Whether a table may be made unasked: nothing is there yet, or only what create() made with the same mark.
  [[nodiscard]] virtual Result<bool> fresh(std::string const& mark) = 0;

  // `changed`: the database's tables are no longer those of the last transaction, or it was rolled back and what it had
  // made is gone with it.
  [[nodiscard]] virtual Status begin(bool& changed) = 0;
  [[nodiscard]] virtual Status create(SqlTable const& table, std::string const& mark) = 0;
  [[nodiscard]] virtual Status add_column(std::string const& table, SqlColumn const& column) = 0;
  // values[i] is for columns[i], as JSON has it; none: the row does not name it. The key's are there. They stay valid
  // until commit() or rollback().
  [[nodiscard]] virtual Status write(SqlTable& table, std::span<Value const> values) = 0;
  // Deletes by key; with Conflict::newer, and a version given, only what is not newer.
  [[nodiscard]] virtual Status remove(SqlTable& table, std::span<Value const> values) = 0;
  // Durable when it returns ok.
  [[nodiscard]] virtual Status commit() = 0;
  // After a commit() that was rejected: which of the transaction's calls of write() and remove(), counted from 0, is at
  // fault, where that is known.
  [[nodiscard]] virtual std::optional<std::size_t> blamed() const { return {}; }
  virtual void rollback() = 0;
};
[[nodiscard]] std::unique_ptr<SqlEngine> sqlite_engine(std::string const& file);
// `writer`: who writes, the same when it is started again; empty: nobody in particular. Transactions of one writer
// follow each other, also one that a killed predecessor has left behind in the server.
[[nodiscard]] Result<std::unique_ptr<SqlEngine>> postgres_engine(std::string const& url, std::string const& writer);

}  // namespace inflight

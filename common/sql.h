// Records into rows: which table, which columns, which key; and the engine that stores them.
//
// An engine is one database's client library behind a narrow interface (sql_sqlite.cpp; the library's header stands
// nowhere else). It knows rows and transactions, and nothing of records, which are the writer's.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/path.h"
#include "common/record.h"
#include "common/status.h"

namespace inflight {

// What a column holds, or what `--column name=PATH:type` makes of a value.
enum class SqlType : char { any, text, integer, real, boolean, json };
// `text`, `int`, `float`, `bool`, `json`; any: none of them.
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
  std::shared_ptr<void> prepared;  // the engine's; reset it when something above has changed
};

// Code::temporary: busy, disk full, waits help. Code::usage: what only the operator can mend. Code::rejected: this
// row's fault, and the transaction goes on; from commit(): one of its rows is at fault.
class SqlEngine {
 public:
  virtual ~SqlEngine() = default;
  [[nodiscard]] virtual Status connect() = 0;

  struct Found {
    std::vector<SqlColumn> columns;  // that can be written
    std::vector<std::string> primary_key;
    bool grows = false;  // made by create() with the same mark: its columns are all ours
  };
  [[nodiscard]] virtual Result<std::optional<Found>> find(std::string const& table, std::string const& mark) = 0;
  // Whether a table may be made unasked: nothing is there yet, or only what create() made with the same mark.
  [[nodiscard]] virtual Result<bool> fresh(std::string const& mark) = 0;

  // `changed`: the database's tables are no longer those of the last transaction.
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
  virtual void rollback() = 0;
};
[[nodiscard]] std::unique_ptr<SqlEngine> sqlite_engine(std::string const& file);

struct SqlOptions {
  std::string url;
  std::string table = "record";
  std::vector<std::string> columns;
  std::string key;
  std::string on_conflict = "update";
  std::string nul = "reject";
  bool create = false;
};

class SqlWriter {
 public:
  // Opens nothing. Code::usage: the options are wrong.
  [[nodiscard]] static Result<SqlWriter> make(SqlOptions const& options);
  SqlWriter(SqlWriter&&) noexcept;
  ~SqlWriter();

  [[nodiscard]] Status connect();
  // One transaction: begin, write each, commit. After any failure but Code::rejected of write(): rollback.
  [[nodiscard]] Status begin();
  [[nodiscard]] Status write(Record const& record);
  // The text by which the rows of a batch are best sorted, so that neighbours fall on the same page; those of one key
  // keep their order. Empty where the order of rows may matter to the table (foreign keys, triggers, other unique
  // columns).
  [[nodiscard]] std::string_view sort_key(Record const& record, std::string& scratch);
  [[nodiscard]] Status commit();
  void rollback();
  // What write() would do, as one line of JSON.
  [[nodiscard]] Status show(Record const& record, std::string& out);

 private:
  struct State;
  explicit SqlWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inflight

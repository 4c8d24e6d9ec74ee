// The tables of a database as the rows of sql-write find, make and widen them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/sql_engine.h"
#include "common/sql_row.h"
#include "common/status.h"

namespace inflight {

// One table, and what a row says of each of its columns.
class RowTable {
 public:
  SqlTable sql;
  std::vector<Value> values;  // of the row at hand, by sql.columns
  bool unordered = false;     // SqlEngine::Found
  // Which column of the mapping this one is, where that has columns.
  [[nodiscard]] std::size_t from_mapping(std::size_t column) const { return from_[column]; }

 private:
  friend class SqlTables;
  struct Hint {
    std::string name;
    std::size_t column = 0;
  };
  void add(SqlColumn column);
  [[nodiscard]] std::optional<std::size_t> column(std::string_view name) const;

  bool grows_ = false;
  std::vector<std::size_t> from_;                         // of --column: which one columns[i] is
  std::vector<std::size_t> without_;                      // those of --column that this table has no column for
  std::unordered_map<std::string, std::size_t> by_name_;  // folded
  std::vector<Hint> hints_;  // what the fields of the record before were: most often it is the same again
};

class SqlTables {
 public:
  SqlTables(SqlEngine& engine, SqlMapping const& mapping);

  // After the engine has connected. A mistake in the command shows here where the table is known: Code::usage.
  [[nodiscard]] Status begin();
  // The database is no longer what it was: everything is looked up anew.
  void forget() { tables_.clear(); }

  // The table of a row, its values filled; made or widened where it may be. Nothing where there is none to delete from.
  [[nodiscard]] Result<RowTable*> take(RowReader const& row);
  // A table as it is; nothing where it is not there and may be made.
  [[nodiscard]] Result<RowTable*> open(std::string const& name);

 private:
  Result<RowTable*> make(RowReader const& row);
  Status take_columns(RowTable& table, std::vector<SqlColumn> const& there);
  Status finish(RowTable& table, std::vector<std::string> const& wanted);
  Status fill(RowTable& table, RowReader const& row);
  Status fill_by_name(RowTable& table, RowReader const& row);
  Status add_column(RowTable& table, std::string_view column, Value const& value, SqlType as);
  void put(RowTable& table, std::size_t column, FieldValue const& field);

  SqlEngine& engine_;
  SqlMapping const& mapping_;
  std::string mark_;
  bool may_create_ = false;
  std::map<std::string, RowTable> tables_;
};

}  // namespace inflight

// What the options of sql-write say a row is, and the values of a record that make one.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/fields.h"
#include "common/path.h"
#include "common/record.h"
#include "common/sql_engine.h"
#include "common/status.h"

namespace inflight {

struct SqlOptions {
  std::string url;
  std::string table = "record";
  std::vector<std::string> columns;
  std::string key;
  std::string on_conflict = "update";
  std::string nul = "reject";
  bool create = false;
  bool round_time = false;
  std::string writer;  // who writes, the same when it is started again; empty: nobody in particular
};

// Options as they are meant; `columns` empty: what a record has is matched with what the table has.
struct SqlMapping {
  std::string url;
  std::string table;       // or its template
  bool template_ = false;  // each record names its own
  bool create = false;
  bool remove_nul = false;
  bool round_time = false;
  std::vector<SqlColumn> columns;
  std::vector<Path> paths;       // of columns
  std::vector<std::string> key;  // names of columns; empty: the table's primary key
  std::string version;           // of Conflict::newer
  SqlTable::Conflict conflict = SqlTable::Conflict::update;

  // Code::usage: the options are wrong.
  [[nodiscard]] static Result<SqlMapping> parse(SqlOptions const& options);
};

// Two names that differ in case only are one column.
[[nodiscard]] std::string folded(std::string_view name);
// A list of names with commas between them.
[[nodiscard]] std::vector<std::string> split_names(std::string_view list);
// Neither missing nor null.
[[nodiscard]] inline bool present(Value const& value) { return value && value.kind != Value::Kind::null; }

// One per thread.
class RowReader {
 public:
  explicit RowReader(SqlMapping const& mapping);

  // What a record says; valid while it is, and until the next call. Code::rejected: its own fault.
  [[nodiscard]] Status read(Record const& record);
  [[nodiscard]] std::string const& table() const { return table_; }
  [[nodiscard]] bool deletion() const { return deletion_; }
  // values[i] is for columns[i] of the mapping; empty where that has none.
  [[nodiscard]] std::vector<Value> const& values() const { return values_; }
  // All that the record has; empty where the mapping has columns.
  [[nodiscard]] std::vector<FieldValue> const& fields() const { return fields_; }

  // The same in few bytes, only where the mapping has columns: unpack() is as good as read().
  [[nodiscard]] Status pack(Record const& record, std::string& packed);
  void unpack(std::string_view packed);

 private:
  SqlMapping const& mapping_;
  Template name_;
  std::optional<Selector> selector_;
  Fields reader_;
  std::string table_;
  bool deletion_ = false;
  std::vector<Value> values_;
  std::vector<FieldValue> fields_;
};

}  // namespace inflight

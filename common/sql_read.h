// The rows of a table or query, one after the other in the order of a key, each as a line of JSON.
//
// Numbers have the digits that the database has, times the text that it gives them (PostgreSQL: as row_to_json() does,
// in UTC). Memory does not grow with the number of rows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/keyed_rows.h"
#include "common/status.h"

namespace inflight {

struct SqlReadOptions {
  std::string url;
  std::string table, query;  // one of them
  std::string columns;       // of either, separated by commas; empty: all
  std::string key;           // the same; empty: the table's primary key
};

class SqlRows : public KeyedRows {
 public:
  // Opens nothing. Code::usage: the options are wrong.
  [[nodiscard]] static Result<std::unique_ptr<SqlRows>> make(SqlReadOptions const& options);
};

// The engines; names are split at commas.
struct SqlSelection {
  std::string table, query;
  std::vector<std::string> columns, key;
};
[[nodiscard]] std::unique_ptr<SqlRows> sqlite_rows(std::string const& file, SqlSelection selection);
[[nodiscard]] Result<std::unique_ptr<SqlRows>> postgres_rows(std::string const& url, SqlSelection selection);

}  // namespace inflight

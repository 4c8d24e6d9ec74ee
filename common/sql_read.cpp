#include "common/sql_read.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/messages.h"
#include "common/sql_row.h"

namespace inflight {

Result<std::unique_ptr<SqlRows>> SqlRows::make(SqlReadOptions const& options) {
  if (options.table.empty() == options.query.empty()) return Status::usage("give either --table or --query");
  if (!options.query.empty() && options.key.empty())
    return Status::usage("--query needs a --key, in whose order its rows come");
  SqlSelection selection{options.table, options.query, split_names(options.columns), split_names(options.key)};
  if (options.url.starts_with("sqlite:")) {
    if (options.url.size() == 7) return Status::usage("sqlite: without a file: sqlite:FILE");
    return sqlite_rows(options.url.substr(7), std::move(selection));
  }
  if (options.url.starts_with("postgresql:") || options.url.starts_with("postgres:"))
    return postgres_rows(options.url, std::move(selection));
  return Status::usage(fmt::format("{}: not a database: sqlite:FILE or postgresql://…", redact(options.url)));
}

}  // namespace inflight

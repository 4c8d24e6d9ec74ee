// What PostgreSQL's catalog says of a table that is written to
// (https://www.postgresql.org/docs/15/catalogs.html).
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/pg.h"
#include "common/pg_text.h"
#include "common/sql_engine.h"
#include "common/status.h"

namespace inflight {

struct PgColumn {
  std::string name, declared, collation, initial;  // `initial`: an expression, or empty
  PgType type;
  SqlType holds = SqlType::any;
  bool whole_text = false;  // text and whole numbers that are equal only where they are written alike
  bool required = false;    // NOT NULL
};

struct PgCheck {
  std::string name, definition;
  std::vector<std::string> columns;
};

struct PgTable {
  std::string id, full_name, name;
  std::string version;            // another one when somebody has changed the table
  std::vector<PgColumn> columns;  // that can be written
  std::vector<PgCheck> checks;    // over them
  std::set<std::string> parents;  // ids of those that it refers to
  std::vector<std::string> primary_key;
  bool triggers = false;
  bool unlogged = false;
  bool marked = false;  // its comment is the mark
  // The order of rows of different keys is all the same to it: no trigger, rule or policy, one unique index, no
  // reference to itself; its partitions included.
  bool unordered = false;

  [[nodiscard]] PgColumn const* column(std::string_view wanted) const;
};

// `schema.name` as its parts, the first one empty where there is none.
[[nodiscard]] std::pair<std::string, std::string> pg_table_name(std::string const& table);

// Nothing where there is no such table. A name with a dot is first looked for as a whole.
[[nodiscard]] Result<std::shared_ptr<PgTable>> read_pg_table(Pg& pg, std::string const& table, std::string const& mark);
// PgTable::version as of now.
[[nodiscard]] Result<std::string> read_pg_version(Pg& pg, std::string const& id);

}  // namespace inflight

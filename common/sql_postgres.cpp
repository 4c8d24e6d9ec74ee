#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <unordered_map>

#include "common/messages.h"
#include "common/pg.h"
#include "common/pg_text.h"
#include "common/record.h"
#include "common/sql_engine.h"
#include "common/sql_value.h"

namespace inflight {

namespace {

// What the catalog says of a column and of a table.
struct PgColumn {
  std::string name, declared, collation, initial;  // `initial`: an expression, or empty
  PgType type;
  SqlType holds = SqlType::any;
  bool whole_text = false;  // values are equal only where their bytes are: text, whole numbers
  bool required = false;    // NOT NULL
};

struct PgCheck {
  std::string name, definition;
  std::vector<std::string> columns;
};

struct PgTable {
  std::string id, full_name, name;
  std::string version;  // another one when somebody has changed the table
  std::vector<PgColumn> columns;
  std::vector<PgCheck> checks;
  std::set<std::string> parents;  // ids of those that it refers to
  bool triggers = false;

  [[nodiscard]] PgColumn const* column(std::string_view wanted) const {
    auto const found =
        std::find_if(columns.begin(), columns.end(), [&](PgColumn const& c) { return c.name == wanted; });
    return found == columns.end() ? nullptr : &*found;
  }
};

PgType type_of(std::string_view name, bool array, int modifier) {
  PgType type;
  type.array = array;
  if (name == "bool") type.kind = PgKind::boolean;
  if (name == "int2" || name == "int4" || name == "int8") type.kind = PgKind::integer;
  if (name == "float8") type.kind = PgKind::real;
  if (name == "numeric") type.kind = PgKind::numeric;
  if (name == "timestamp") type.kind = PgKind::time;
  if (name == "timestamptz") type.kind = PgKind::zoned_time;
  if (name == "json" || name == "jsonb") type.kind = PgKind::json;
  if ((type.kind == PgKind::time || type.kind == PgKind::zoned_time) && modifier >= 0) type.digits = modifier;
  return type;
}

SqlType holds(PgType const& type) {
  if (type.array) return SqlType::any;
  switch (type.kind) {
    case PgKind::boolean:
      return SqlType::boolean;
    case PgKind::integer:
    case PgKind::numeric:
      return SqlType::integer;
    case PgKind::real:
      return SqlType::real;
    case PgKind::time:
    case PgKind::zoned_time:
      return SqlType::time;
    case PgKind::json:
      return SqlType::json;
    default:
      return SqlType::text;
  }
}

// Of a column that is made. A number that nobody has declared may have digits and a point that the first one lacks.
char const* declared(SqlColumn const& column) {
  switch (column.holds) {
    case SqlType::integer:
      return column.as == SqlType::integer ? "bigint" : "numeric";
    case SqlType::real:
      return column.as == SqlType::real ? "double precision" : "numeric";
    case SqlType::boolean:
      return "boolean";
    case SqlType::time:
      return "timestamp with time zone";
    case SqlType::json:
      return "jsonb";
    default:
      return "text";
  }
}

// ---- the rows of a transaction

// Rows that name the same columns, in the text format of COPY.
struct Shape {
  std::vector<std::size_t> columns;  // of the SqlTable
  std::string data;
  std::vector<std::size_t> rows;  // which calls they were
};

// What one statement stores or removes. Rows of equal keys are there in their order; it leaves the last one, or which
// the conflict rule prefers.
struct Group {
  enum class Kind { store, remove, remove_older } kind = Kind::store;
  std::map<std::vector<char>, Shape> shapes;  // by which columns are named
};

struct TableRows {
  SqlTable* sql = nullptr;
  std::shared_ptr<PgTable const> table;
  std::vector<Group> groups;                          // in the order in which they are carried out
  std::unordered_map<std::string, std::size_t> last;  // a key, and the last group after the first that it is in
};

constexpr std::string_view kOrdinal = "inflight ordinal";  // a column of temporary tables

class Postgres final : public SqlEngine {
 public:
  Postgres(Pg pg, std::string writer) : pg_(std::move(pg)), writer_(std::move(writer)) {}

  Status connect() override {
    known_.clear();
    if (Status status = pg_.connect(); !status.ok()) return status;
    return look();
  }

  Result<std::optional<Found>> find(std::string const& table, std::string const& mark) override {
    auto read = read_table(table, mark);
    if (!read) return read.status();
    if (read->table == nullptr) return std::optional<Found>{};
    Found found;
    for (PgColumn const& column : read->table->columns)
      found.columns.push_back({column.name, column.holds, SqlType::any});
    found.primary_key = std::move(read->primary_key);
    found.grows = read->grows;
    known_[table] = std::move(read->table);
    return std::optional(std::move(found));
  }

  // An empty database is nobody's invitation, as an empty file is: somebody has made it for something.
  Result<bool> fresh(std::string const& mark) override {
    auto rows = pg_.query(
        "SELECT 1 FROM pg_description WHERE classoid='pg_class'::regclass AND objsubid=0 AND description=$1", {mark});
    if (!rows) return rows.status();
    return !rows->empty();
  }

  Status begin(bool& changed) override {
    tables_.clear();
    rows_ = 0;
    blamed_.reset();
    changed = std::exchange(changed_, false);
    if (pg_.connected() && !pg_.in_transaction()) return {};
    changed = true;
    return connect();
  }

  Status create(SqlTable const& table, std::string const& mark) override {
    auto const [schema, name] = split(table.name);
    std::string const full = schema.empty() ? pg_name(name) : pg_name(schema) + "." + pg_name(name);
    std::string sql = fmt::format("BEGIN; CREATE TABLE {}(", full);
    for (std::size_t i = 0; i < table.columns.size(); ++i)
      sql += fmt::format("{}{} {}", i == 0 ? "" : ", ", pg_name(table.columns[i].name), declared(table.columns[i]));
    if (!table.key.empty()) {
      sql += ", PRIMARY KEY(";
      for (std::size_t const column : table.key)
        sql += fmt::format("{}{}", column == table.key.front() ? "" : ",", pg_name(table.columns[column].name));
      sql += ")";
    }
    return define(sql + fmt::format("); COMMENT ON TABLE {} IS {}; COMMIT", full, pg_literal(mark)));
  }

  Status add_column(std::string const& table, SqlColumn const& column) override {
    return define(fmt::format("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}", known_.at(table)->full_name,
                              pg_name(column.name), declared(column)));
  }

  Status write(SqlTable& table, std::span<Value const> values) override {
    TableRows& rows = rows_of(table);
    // Where it makes no difference whether a row names a column, all rows have one shape.
    bool const whole = table.whole || table.key.empty() || table.conflict == SqlTable::Conflict::ignore;
    shape_.assign(values.size(), 0);
    for (std::size_t i = 0; i < values.size(); ++i) {
      PgColumn const* const column = column_of(rows, i);
      shape_[i] = values[i] || (whole && column->initial.empty()) ? 1 : 0;
    }
    return put(rows, Group::Kind::store, whole, values);
  }

  Status remove(SqlTable& table, std::span<Value const> values) override {
    Value const& version = values[table.version];
    bool const versioned = table.conflict == SqlTable::Conflict::newer && version && version.kind != Value::Kind::null;
    shape_.assign(values.size(), 0);
    for (std::size_t const column : table.key) shape_[column] = 1;
    if (versioned) shape_[table.version] = 1;
    return put(rows_of(table), versioned ? Group::Kind::remove_older : Group::Kind::remove, true, values);
  }

  // One transaction. What is sent first, and answered, makes sure that nothing of it can be carried out after a
  // successor's: the lock is held when the statements leave, or they never leave.
  Status commit() override {
    std::string sql =
        "BEGIN; SET LOCAL TimeZone TO 'UTC'; SET LOCAL tcp_keepalives_idle TO 30; SET LOCAL tcp_keepalives_interval TO "
        "10;"
        "SET LOCAL tcp_keepalives_count TO 3;"
        "SELECT set_config('synchronous_commit','on',true) WHERE current_setting('synchronous_commit')='off';"
        "SELECT set_config('work_mem','32MB',true) WHERE pg_size_bytes(current_setting('work_mem'))<33554432;";
    std::string store;
    number_ = 0;
    for (TableRows& rows : in_order()) {
      for (Group& group : rows.groups) {
        if (Status status = copy(rows, group, sql, store); !status.ok()) return told(std::move(status));
      }
    }
    if (number_ == 0) return {};  // no row was good
    if (Status status = lock(); !status.ok()) return told(std::move(status));
    Status status = pg_.execute(store + "COMMIT");
    if (status.ok() && pg_.tag() != "COMMIT")
      status = Status::defect(fmt::format("{}: ended with {}", pg_.name(), pg_.tag()));
    forget_rows();
    return told(std::move(status));
  }

  std::optional<std::size_t> blamed() const override { return blamed_; }

  void rollback() override {
    forget_rows();
    if (!pg_.in_transaction()) return;
    if (!pg_.execute("ROLLBACK").ok() || pg_.in_transaction()) pg_.close();
  }

 private:
  // ---- what is there

  // `schema.name`, unless there is a table of that whole name.
  static std::pair<std::string, std::string> split(std::string const& table) {
    std::size_t const dot = table.find('.');
    if (dot == std::string::npos || dot == 0 || dot + 1 == table.size()) return {"", table};
    return {table.substr(0, dot), table.substr(dot + 1)};
  }

  // What the server says of itself that its operator should know.
  Status look() {
    if (std::exchange(looked_, true)) return {};
    auto rows = pg_.query("SELECT current_setting('fsync')", {});
    if (!rows) return looked_ = false, rows.status();
    if (rows->at(0).at(0) == "off")
      say_warning(fmt::format("{}: fsync is off: what it forgets in a crash is not delivered again", pg_.name()));
    return {};
  }

  struct Read {
    std::shared_ptr<PgTable> table;
    std::vector<std::string> primary_key;
    bool grows = false;
  };

  Result<Read> read_table(std::string const& table, std::string const& mark) {
    Read read;
    std::string const sql =
        "SELECT c.oid, n.nspname, c.relname, c.relpersistence, coalesce(obj_description(c.oid,'pg_class'),'')=$3,"
        " EXISTS(SELECT 1 FROM pg_trigger WHERE tgrelid=c.oid AND NOT tgisinternal),"
        " (SELECT string_agg(confrelid::text,' ') FROM pg_constraint WHERE conrelid=c.oid AND contype='f')"
        " FROM pg_class c JOIN pg_namespace n ON n.oid=c.relnamespace"
        " WHERE c.relname=$1 AND CASE WHEN $2='' THEN pg_table_is_visible(c.oid) ELSE n.nspname=$2 END AND c.relkind "
        "IN ('r','p','f','v')";
    auto tables = pg_.query(sql, {table, "", mark});
    if (tables && tables->empty()) {
      if (auto const [schema, name] = split(table); !schema.empty()) tables = pg_.query(sql, {name, schema, mark});
    }
    if (!tables) return tables.status();
    if (tables->empty()) return read;
    Pg::Row const& row = tables->front();
    read.table = std::make_shared<PgTable>();
    PgTable& found = *read.table;
    found.id = *row[0], found.name = *row[2];
    found.full_name = pg_name(*row[1]) + "." + pg_name(found.name);
    read.grows = row[4] == "t";
    found.triggers = row[5] == "t";
    for (std::string_view ids = row[6] ? std::string_view(*row[6]) : ""; !ids.empty();) {
      std::size_t const blank = std::min(ids.find(' '), ids.size());
      found.parents.emplace(ids.substr(0, blank));
      ids.remove_prefix(std::min(blank + 1, ids.size()));
    }
    if (row[3] == "u" && told_.insert(table).second)
      say_warning(fmt::format("{}: table {} is unlogged: what it forgets in a crash is not delivered again", pg_.name(),
                              table));
    auto version = version_of_table(found.id);
    if (!version) return version.status();
    found.version = std::move(*version);
    if (Status status = read_columns(found); !status.ok()) return status;
    auto key = pg_.query(
        "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum,n)"
        " JOIN pg_attribute a ON a.attrelid=i.indrelid AND a.attnum=k.attnum WHERE i.indrelid=$1::oid AND "
        "i.indisprimary ORDER BY k.n",
        {found.id});
    if (!key) return key.status();
    for (Pg::Row const& column : *key) read.primary_key.push_back(*column[0]);
    return read;
  }

  // Those that can be written, and the checks over them.
  Status read_columns(PgTable& table) {
    auto rows = pg_.query(
        "SELECT a.attname, format_type(a.atttypid,a.atttypmod), coalesce(e.typname,b.typname), e.typname IS NOT NULL, "
        "a.atttypmod,"
        " a.attnotnull, CASE WHEN a.attidentity='d' THEN"
        "  "
        "format('nextval(%L::regclass)',pg_get_serial_sequence(quote_ident(n.nspname)||'.'||quote_ident(c.relname),a."
        "attname))"
        "  ELSE pg_get_expr(d.adbin,d.adrelid) END,"
        " quote_ident(cn.nspname)||'.'||quote_ident(co.collname), coalesce(co.collisdeterministic,true)"
        " FROM pg_attribute a JOIN pg_class c ON c.oid=a.attrelid JOIN pg_namespace n ON n.oid=c.relnamespace"
        " JOIN pg_type t ON t.oid=a.atttypid JOIN pg_type b ON b.oid=CASE WHEN t.typtype='d' THEN t.typbasetype ELSE "
        "t.oid END"
        " LEFT JOIN pg_type e ON e.oid=b.typelem AND b.typcategory='A'"
        " LEFT JOIN pg_attrdef d ON d.adrelid=a.attrelid AND d.adnum=a.attnum"
        " LEFT JOIN pg_collation co ON co.oid=a.attcollation LEFT JOIN pg_namespace cn ON cn.oid=co.collnamespace"
        " WHERE a.attrelid=$1::oid AND a.attnum>0 AND NOT a.attisdropped AND a.attgenerated='' AND a.attidentity<>'a' "
        "ORDER BY a.attnum",
        {table.id});
    if (!rows) return rows.status();
    for (Pg::Row const& row : *rows) {
      PgColumn column;
      column.name = *row[0], column.declared = *row[1];
      column.type = type_of(*row[2], row[3] == "t", static_cast<int>(std::strtol(row[4]->c_str(), nullptr, 10)));
      column.holds = holds(column.type);
      column.required = row[5] == "t";
      column.initial = row[6].value_or("");
      column.collation = row[7].value_or("");
      bool const is_text = *row[2] == "text" || *row[2] == "varchar";
      column.whole_text = !column.type.array && row[8] == "t" && (is_text || column.type.kind == PgKind::integer);
      table.columns.push_back(std::move(column));
    }
    auto checks = pg_.query(
        "SELECT k.conname, pg_get_constraintdef(k.oid), a.attname FROM pg_constraint k"
        " JOIN pg_attribute a ON a.attrelid=k.conrelid AND a.attnum=ANY(k.conkey)"
        " WHERE k.conrelid=$1::oid AND k.contype='c' AND k.convalidated ORDER BY k.oid",
        {table.id});
    if (!checks) return checks.status();
    for (Pg::Row const& row : *checks) {
      if (table.checks.empty() || table.checks.back().name != *row[0]) table.checks.push_back({*row[0], *row[1], {}});
      table.checks.back().columns.push_back(*row[2]);
    }
    return {};
  }

  // A table that somebody makes at the same time is one that is there: look again. A name that the record brought may
  // be none that can be: its fault.
  Status define(std::string const& sql) {
    if (sql.find('\0') != std::string::npos) return Status::rejected("a name with \\u0000 cannot be a column");
    Status status = pg_.execute(sql);
    if (status.ok()) return status;
    PgError const error = pg_.error();
    if (pg_.in_transaction() && !pg_.execute("ROLLBACK").ok()) pg_.close();
    if (error.state == "42P07" || error.state == "23505") return Status::temporary(status.what());
    if (error.state == "42701" || error.state == "42622" || error.state == "42602")
      return Status::rejected(error.message);
    return status;
  }

  // ---- rows

  TableRows& rows_of(SqlTable& table) {
    auto const found =
        std::find_if(tables_.begin(), tables_.end(), [&](TableRows const& rows) { return rows.sql == &table; });
    if (found == tables_.end()) {
      TableRows rows;
      rows.sql = &table;
      rows.table = known_.at(table.name);
      tables_.push_back(std::move(rows));
      return tables_.back();
    }
    if (found->table != known_.at(table.name)) found->table = known_.at(table.name);  // it has got a column
    return *found;
  }

  static PgColumn const* column_of(TableRows const& rows, std::size_t column) {
    return rows.table->column(rows.sql->columns[column].name);
  }

  // Appends the row to the group that it belongs to: a later one than all that have rows of its key.
  Status put(TableRows& rows, Group::Kind kind, bool any_shape, std::span<Value const> values) {
    SqlTable const& table = *rows.sql;
    std::size_t const call = rows_++;
    line_.clear();
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (shape_[i] == 0) continue;
      if (!values[i]) {
        line_ += "\\N";
      } else if (Status status = append_pg_text(line_, column_of(rows, i)->type, table.columns[i], values[i],
                                                {table.remove_nul, table.round_time});
                 !status.ok()) {
        return status.at(table.columns[i].name);
      }
      line_ += '\t';
    }
    Group& group = group_for(rows, kind, any_shape, values);
    auto [shape, added] = group.shapes.try_emplace(shape_);
    if (added) {
      for (std::size_t i = 0; i < shape_.size(); ++i) {
        if (shape_[i] != 0) shape->second.columns.push_back(i);
      }
    }
    fmt::format_to(std::back_inserter(line_), "{}\n", call);
    shape->second.data += line_;
    shape->second.rows.push_back(call);
    return {};
  }

  Group& group_for(TableRows& rows, Group::Kind kind, bool any_shape, std::span<Value const> values) {
    SqlTable const& table = *rows.sql;
    auto fits = [&](Group const& group) { return group.kind == kind && (any_shape || group.shapes.contains(shape_)); };
    auto add = [&]() -> Group& {
      rows.groups.push_back({kind, {}});
      return rows.groups.back();
    };
    if (rows.groups.empty()) return add();
    if (rows.groups.size() == 1 && fits(rows.groups[0])) return rows.groups[0];
    if (table.key.empty()) {
      auto const found = std::find_if(rows.groups.begin(), rows.groups.end(), fits);
      return found == rows.groups.end() ? add() : *found;
    }
    // Only the bytes of such keys tell whether two are the same; otherwise any may be.
    std::string key;
    bool certain = true;
    for (std::size_t const column : table.key) {
      certain = certain && column_of(rows, column)->whole_text;
      std::string text;
      certain = certain &&
                append_pg_text(text, column_of(rows, column)->type, {}, values[column], {table.remove_nul, true}).ok();
      key += text + '\t';
    }
    std::size_t first = rows.groups.size() - 1;
    if (certain) {
      auto const known = rows.last.find(key);
      first = known == rows.last.end() ? 0 : known->second;
    }
    for (std::size_t i = first; i < rows.groups.size(); ++i) {
      if (!fits(rows.groups[i])) continue;
      if (i > 0 && certain) rows.last[key] = i;
      return rows.groups[i];
    }
    if (certain) rows.last[key] = rows.groups.size();
    return add();
  }

  void forget_rows() {
    tables_.clear();
    forget_long(line_);
  }

  // Parents before their children; where only rows are removed, after them. Otherwise by name: two writers take locks
  // in one order.
  std::vector<std::reference_wrapper<TableRows>> in_order() {
    std::vector<std::reference_wrapper<TableRows>> left(tables_.begin(), tables_.end()), ordered;
    std::sort(left.begin(), left.end(),
              [](TableRows const& a, TableRows const& b) { return a.table->full_name < b.table->full_name; });
    while (!left.empty()) {
      auto const waits = [&](TableRows const& rows) {
        return std::any_of(left.begin(), left.end(), [&](TableRows const& other) {
          return other.table->id != rows.table->id && rows.table->parents.contains(other.table->id);
        });
      };
      auto next = std::find_if(left.begin(), left.end(), [&](TableRows const& rows) { return !waits(rows); });
      if (next == left.end()) next = left.begin();  // a circle
      ordered.push_back(*next);
      left.erase(next);
    }
    bool const removes = std::all_of(tables_.begin(), tables_.end(), [](TableRows const& rows) {
      return std::all_of(rows.groups.begin(), rows.groups.end(),
                         [](Group const& g) { return g.kind != Group::Kind::store; });
    });
    if (removes) std::reverse(ordered.begin(), ordered.end());
    return ordered;
  }

  // ---- statements

  // Copies a group into a temporary table of its own, and adds to `store` what is to be done with it. `sql` goes before
  // the first statement.
  Status copy(TableRows const& rows, Group const& group, std::string& sql, std::string& store) {
    SqlTable const& table = *rows.sql;
    // It has the name of the table, which the server's messages then say.
    std::string const name =
        group.shapes.empty() || &group == &rows.groups.front() ? rows.table->name : fmt::format("inflight {}", number_);
    std::string const temporary = "pg_temp." + pg_name(name);
    std::vector<std::size_t> columns;
    for (std::size_t i = 0; i < table.columns.size(); ++i) {
      bool const used = group.kind == Group::Kind::store &&
                        (table.whole || table.key.empty() || table.conflict == SqlTable::Conflict::ignore);
      if (used || std::any_of(group.shapes.begin(), group.shapes.end(),
                              [&](auto const& shape) { return i < shape.first.size() && shape.first[i] != 0; }))
        columns.push_back(i);
    }
    sql += fmt::format("CREATE TEMPORARY TABLE {}({}) ON COMMIT DROP;", temporary, definition(rows, group, columns));
    for (auto const& [present, shape] : group.shapes) {
      std::string names;
      for (std::size_t const column : shape.columns) names += pg_name(table.columns[column].name) + ",";
      Status status =
          pg_.copy_in(fmt::format("{}COPY {}({}{}) FROM STDIN", sql, temporary, names, pg_name(kOrdinal)), shape.data);
      sql.clear();
      if (!status.ok()) {
        blame(name, shape);
        return status;
      }
    }
    store += group.kind == Group::Kind::store ? insertion(rows, temporary, columns) : removal(rows, group, temporary);
    ++number_;
    return {};
  }

  // What a single row can be blamed for is in the temporary table too: COPY says which row it is. Where triggers may
  // mend a row first, only its types are.
  static std::string definition(TableRows const& rows, Group const& group, std::vector<std::size_t> const& columns) {
    std::string sql;
    bool const stores = group.kind == Group::Kind::store;
    auto copied = [&](std::string_view name) {
      return std::any_of(columns.begin(), columns.end(),
                         [&](std::size_t c) { return rows.sql->columns[c].name == name; });
    };
    for (std::size_t const i : columns) {
      PgColumn const& column = *column_of(rows, i);
      sql += fmt::format("{} {}", pg_name(column.name), column.declared);
      if (!column.collation.empty()) sql += " COLLATE " + column.collation;
      if (stores && !column.initial.empty()) sql += fmt::format(" DEFAULT {}", column.initial);
      if (stores && column.required && !rows.table->triggers) sql += " NOT NULL";
      sql += ',';
    }
    if (stores && !rows.table->triggers) {
      for (PgCheck const& check : rows.table->checks) {
        if (std::all_of(check.columns.begin(), check.columns.end(), copied))
          sql += fmt::format("CONSTRAINT {} {},", pg_name(check.name), check.definition);
      }
    }
    return sql + fmt::format("{} bigint", pg_name(kOrdinal));
  }

  static std::string list(TableRows const& rows, std::vector<std::size_t> const& columns,
                          std::string_view prefix = "") {
    std::string sql;
    for (std::size_t const column : columns)
      sql += fmt::format("{}{}{}", sql.empty() ? "" : ",", prefix, pg_name(rows.sql->columns[column].name));
    return sql;
  }

  static std::string insertion(TableRows const& rows, std::string const& temporary,
                               std::vector<std::size_t> const& columns) {
    SqlTable const& table = *rows.sql;
    std::string const names = list(rows, columns);
    std::string const into = fmt::format("INSERT INTO {} AS stored({}) ", rows.table->full_name, names);
    if (table.key.empty())
      return into + fmt::format("SELECT {} FROM {} ORDER BY {};", names, temporary, pg_name(kOrdinal));
    std::string const key = list(rows, table.key);
    std::string sql =
        into + fmt::format("SELECT DISTINCT ON({}) {} FROM {} given ORDER BY {}{},{} {} ON CONFLICT({}) DO ", key,
                           names, temporary, key, newest_first(rows), pg_name(kOrdinal),
                           table.conflict == SqlTable::Conflict::ignore ? "ASC" : "DESC", key);
    std::string sets;
    for (std::size_t const column : columns) {
      if (std::find(table.key.begin(), table.key.end(), column) != table.key.end()) continue;
      std::string const name = pg_name(table.columns[column].name);
      sets += fmt::format("{}{}=excluded.{}", sets.empty() ? "" : ",", name, name);
    }
    if (table.conflict == SqlTable::Conflict::ignore || sets.empty()) return sql + "NOTHING;";
    sql += "UPDATE SET " + sets;
    if (table.conflict == SqlTable::Conflict::newer) sql += " WHERE " + not_older(rows, "excluded");
    return sql + ';';
  }

  static std::string removal(TableRows const& rows, Group const& group, std::string const& temporary) {
    SqlTable const& table = *rows.sql;
    std::string sql = fmt::format("DELETE FROM {} stored USING {} given WHERE ", rows.table->full_name, temporary);
    for (std::size_t const column : table.key) {
      std::string const name = pg_name(table.columns[column].name);
      sql += fmt::format("{}stored.{}=given.{}", column == table.key.front() ? "" : " AND ", name, name);
    }
    if (group.kind == Group::Kind::remove_older) sql += " AND " + not_older(rows, "given");
    return sql + ';';
  }

  // ---- which of two versions is newer

  // Of a text: times as times, whatever their zone and digits, numbers as numbers, the rest by bytes, as
  // compare_versions() does; each part in the type that orders it.
  static std::vector<std::string> version_of(std::string const& text) {
    std::string const time = fmt::format(
        "({} ~ '^\\d{{4}}-\\d\\d-\\d\\d[Tt ]\\d\\d:\\d\\d:\\d\\d(\\.\\d{{1,9}})?([Zz]|[-+]\\d\\d:\\d\\d)$')", text);
    std::string const number = fmt::format("({} ~ '^-?\\d+(\\.\\d+)?([eE][-+]?\\d{{1,3}})?$')", text);
    return {
        fmt::format("CASE WHEN {} THEN regexp_replace({},'\\.\\d+','')::timestamptz ELSE '-infinity' END", time, text),
        fmt::format(
            "CASE WHEN {} THEN rpad(coalesce(substring({} from '\\.(\\d+)'),''),9,'0') ELSE '' END COLLATE \"C\"", time,
            text),
        fmt::format("CASE WHEN {} THEN {}::numeric ELSE '-1e1000' END", number, text),
        fmt::format("CASE WHEN {} OR {} THEN '' ELSE coalesce({},'') END COLLATE \"C\"", time, number, text),
    };
  }

  static bool version_is_text(TableRows const& rows) {
    PgColumn const& column = *column_of(rows, rows.sql->version);
    return column.type.kind == PgKind::text && !column.type.array && column.whole_text;
  }

  static std::string newest_first(TableRows const& rows) {
    if (rows.sql->conflict != SqlTable::Conflict::newer) return "";
    std::string const version = pg_name(rows.sql->columns[rows.sql->version].name);
    if (!version_is_text(rows)) return fmt::format(",{} DESC NULLS LAST", version);
    std::string sql;
    for (std::string const& part : version_of(version)) sql += fmt::format(",{} DESC", part);
    return sql;
  }

  static std::string not_older(TableRows const& rows, std::string_view than) {
    std::string const version = pg_name(rows.sql->columns[rows.sql->version].name);
    std::string const ours = fmt::format("{}.{}", than, version), theirs = "stored." + version;
    if (!version_is_text(rows)) return fmt::format("({} IS NULL OR {}>={})", theirs, ours, theirs);
    return fmt::format("({} IS NULL OR ROW({})>=ROW({}))", theirs, fmt::join(version_of(ours), ","),
                       fmt::join(version_of(theirs), ","));
  }

  // ---- carrying out

  // A transaction that a killed run of this writer has left in the server holds it, and may still commit: then its rows
  // are older than ours. It ends by itself when the server finds its client gone.
  Status lock() {
    if (writer_.empty()) return {};
    std::string const sql = fmt::format(
        "SET LOCAL lock_timeout TO '20s'; SELECT pg_advisory_xact_lock(hashtextextended({},0)); SET LOCAL lock_timeout "
        "TO DEFAULT",
        pg_literal("inflight " + writer_));
    Status status = pg_.execute(sql);
    if (pg_.error().state == "55P03" && !status.ok())
      return Status::temporary(
          fmt::format("{}: a transaction that an earlier run has left behind is still open", pg_.name()));
    return status;
  }

  // COPY names the row by its line: `COPY reading, line 3, column power: "much"`, in the server's language.
  void blame(std::string const& name, Shape const& shape) {
    PgError const& error = pg_.error();
    std::string const begin = fmt::format("COPY {}, ", name);
    std::size_t at = error.context.find(begin);
    if (at == std::string::npos) return;
    std::string_view text = std::string_view(error.context).substr(at + begin.size());
    text.remove_prefix(std::min(text.find_first_of("0123456789:\n"), text.size()));
    std::size_t line = 0;
    std::size_t digits = 0;
    for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; ++digits)
      line = line * 10 + static_cast<std::size_t>(text[digits] - '0');
    if (line == 0 || line > shape.rows.size()) return;
    blamed_ = shape.rows[line - 1];
    text.remove_prefix(digits);
    if (!text.starts_with(", ")) return;
    text.remove_prefix(std::min(text.find(' ', 2), text.size() - 1) + 1);
    column_at_fault_ = std::string(text.substr(0, text.find(": ")));
  }

  // A statement that was cancelled may have been too much at once. What a row violates may be no rule of the table any
  // more.
  Status told(Status status) {
    std::string const column = std::exchange(column_at_fault_, "");
    if (status.ok()) return status;
    if (status.code() != Code::rejected) blamed_.reset();
    changed_ = !blamed_;
    if (pg_.error().state == "57014" && rows_ > 1) return Status::rejected(status.what());
    if (!column.empty()) status = status.at(column);
    if (!blamed_) return status;
    rollback();
    for (auto const& [name, table] : known_) {
      auto version = version_of_table(table->id);
      if (!version) return blamed_.reset(), version.status();
      if (*version == table->version) continue;
      changed_ = true;
      blamed_.reset();
      return Status::temporary(fmt::format("{}: table {} has been changed", pg_.name(), name));
    }
    return status;
  }

  Result<std::string> version_of_table(std::string const& id) {
    auto rows = pg_.query(
        "SELECT string_agg(v,',' ORDER BY v) FROM (SELECT 'a'||attnum||' '||xmin FROM pg_attribute WHERE "
        "attrelid=$1::oid"
        " UNION ALL SELECT 'c'||oid||' '||xmin FROM pg_constraint WHERE conrelid=$1::oid"
        " UNION ALL SELECT 'd'||oid||' '||xmin FROM pg_attrdef WHERE adrelid=$1::oid"
        " UNION ALL SELECT 't'||oid||' '||xmin FROM pg_trigger WHERE tgrelid=$1::oid) of(v)",
        {id});
    if (!rows) return rows.status();
    return rows->at(0).at(0).value_or("");
  }

  Pg pg_;
  std::string writer_;
  bool looked_ = false;   // and told
  bool changed_ = false;  // begin() is to say so
  std::set<std::string> told_;
  std::map<std::string, std::shared_ptr<PgTable const>> known_;  // by the name that a row gives it

  // of a transaction
  std::vector<TableRows> tables_;
  std::size_t rows_ = 0;
  std::size_t number_ = 0;  // of temporary tables
  std::optional<std::size_t> blamed_;
  std::string column_at_fault_;

  std::vector<char> shape_;  // of the row at hand
  std::string line_;
};

}  // namespace

Result<std::unique_ptr<SqlEngine>> postgres_engine(std::string const& url, std::string const& writer) {
  auto pg = Pg::make(url);
  if (!pg) return pg.status();
  return std::unique_ptr<SqlEngine>(std::make_unique<Postgres>(std::move(*pg), writer));
}

}  // namespace inflight

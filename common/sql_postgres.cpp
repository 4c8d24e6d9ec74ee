#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/messages.h"
#include "common/pg.h"
#include "common/pg_catalog.h"
#include "common/pg_rows.h"
#include "common/sql_engine.h"

namespace inflight {

namespace {

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

class Postgres final : public SqlEngine {
 public:
  Postgres(Pg pg, std::string writer) : pg_(std::move(pg)), writer_(std::move(writer)) {}

  Status connect() override {
    known_.clear();
    if (Status status = pg_.connect(); !status.ok()) return status;
    return look();
  }

  bool connected() override { return pg_.connected() && !pg_.in_transaction(); }

  bool part_key(SqlTable const& table, std::span<Value const> values, std::string& key) override {
    PgTable const& there = *known_.at(table.name);
    bool any = false;
    for (std::size_t const i : table.key) {
      PgColumn const& column = *there.column(table.columns[i].name);
      if (!column.whole_text) continue;
      any = true;
      if (!append_key_text(key, column, table.columns[i], values[i], table.remove_nul)) return false;
    }
    if (any && there.unordered) return true;
    say_warning_once(
        fmt::format("{}: the order of rows may matter to table {}: one connection is used", pg_.name(), table.name));
    return false;
  }

  Status fence() override {
    Status status = pg_.execute("BEGIN");
    if (status.ok()) status = lock(false);
    rollback();
    return status;
  }

  void share(bool among_several) override { shared_ = among_several; }

  Result<std::optional<Found>> find(std::string const& table, std::string const& mark) override {
    auto read = read_pg_table(pg_, table, mark);
    if (!read) return read.status();
    if (*read == nullptr) return std::optional<Found>{};
    PgTable const& there = **read;
    if (there.unlogged)
      say_warning_once(fmt::format("{}: table {} is unlogged: what it forgets in a crash is not delivered again",
                                   pg_.name(), table));
    Found found;
    for (PgColumn const& column : there.columns) found.columns.push_back({column.name, column.holds, SqlType::any});
    found.primary_key = there.primary_key;
    found.grows = there.marked;
    known_[table] = std::move(*read);
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
    if (connected()) return {};
    changed = true;
    return connect();
  }

  Status create(SqlTable const& table, std::string const& mark) override {
    auto const [schema, name] = pg_table_name(table.name);
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
    return rows_of(table).store(rows_++, values);
  }

  Status remove(SqlTable& table, std::span<Value const> values) override {
    return rows_of(table).remove(rows_++, values);
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
    for (PgRows& rows : in_order(tables_)) {
      for (PgRows::Group const& group : rows.groups) {
        if (Status status = copy(rows, group, sql, store); !status.ok()) return told(std::move(status));
      }
    }
    if (number_ == 0) return {};  // no row was good
    if (Status status = lock(shared_); !status.ok()) return told(std::move(status));
    Status status = pg_.execute(store + "COMMIT");
    if (status.ok() && pg_.tag() != "COMMIT")
      status = Status::defect(fmt::format("{}: ended with {}", pg_.name(), pg_.tag()));
    tables_.clear();
    return told(std::move(status));
  }

  std::optional<std::size_t> blamed() const override { return blamed_; }

  void rollback() override {
    tables_.clear();
    if (!pg_.in_transaction()) return;
    if (!pg_.execute("ROLLBACK").ok() || pg_.in_transaction()) pg_.close();
  }

 private:
  // ---- what is there

  // What the server says of itself that its operator should know.
  Status look() {
    if (std::exchange(looked_, true)) return {};
    auto rows = pg_.query("SELECT current_setting('fsync')", {});
    if (!rows) return looked_ = false, rows.status();
    if (rows->at(0).at(0) == "off")
      say_warning_once(fmt::format("{}: fsync is off: what it forgets in a crash is not delivered again", pg_.name()));
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

  PgRows& rows_of(SqlTable& table) {
    auto const found =
        std::find_if(tables_.begin(), tables_.end(), [&](PgRows const& rows) { return rows.sql == &table; });
    if (found == tables_.end()) {
      PgRows rows;
      rows.sql = &table;
      rows.table = known_.at(table.name);
      tables_.push_back(std::move(rows));
      return tables_.back();
    }
    if (found->table != known_.at(table.name)) found->table = known_.at(table.name);  // it has got a column
    return *found;
  }

  // ---- statements

  // Copies a group into a temporary table of its own, and adds to `store` what is to be done with it. `sql` goes before
  // the first statement.
  Status copy(PgRows const& rows, PgRows::Group const& group, std::string& sql, std::string& store) {
    // It has the name of the table, which the server's messages then say.
    std::string const name =
        group.shapes.empty() || &group == &rows.groups.front() ? rows.table->name : fmt::format("inflight {}", number_);
    std::string const temporary = "pg_temp." + pg_name(name);
    sql += fmt::format("CREATE TEMPORARY TABLE {}({}) ON COMMIT DROP;", temporary, rows.definition(group));
    for (auto const& [present, shape] : group.shapes) {
      Status status = pg_.copy_in(sql + rows.copy(shape, temporary), shape.data);
      sql.clear();
      if (!status.ok()) {
        blame(name, shape);
        return status;
      }
    }
    store += rows.carry_out(group, temporary);
    ++number_;
    return {};
  }

  // ---- carrying out

  // A transaction that a killed run of this writer has left in the server holds it, and may still commit: then its rows
  // are older than ours. It ends by itself when the server finds its client gone.
  Status lock(bool shared) {
    if (writer_.empty()) return {};
    std::string const sql = fmt::format(
        "SET LOCAL lock_timeout TO '20s'; SELECT pg_advisory_xact_lock{}(hashtextextended({},0)); SET LOCAL "
        "lock_timeout TO DEFAULT",
        shared ? "_shared" : "", pg_literal("inflight " + writer_));
    Status status = pg_.execute(sql);
    if (pg_.error().state == "55P03" && !status.ok())
      return Status::temporary(
          fmt::format("{}: a transaction that an earlier run has left behind is still open", pg_.name()));
    return status;
  }

  // COPY names the row by its line: `COPY reading, line 3, column power: "much"`, in the server's language.
  void blame(std::string const& name, PgRows::Shape const& shape) {
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
      auto version = read_pg_version(pg_, table->id);
      if (!version) return blamed_.reset(), version.status();
      if (*version == table->version) continue;
      changed_ = true;
      blamed_.reset();
      return Status::temporary(fmt::format("{}: table {} has been changed", pg_.name(), name));
    }
    return status;
  }

  Pg pg_;
  std::string writer_;
  bool looked_ = false;                                          // and told
  bool changed_ = false;                                         // begin() is to say so
  bool shared_ = false;                                          // share()
  std::map<std::string, std::shared_ptr<PgTable const>> known_;  // by the name that a row gives it

  // of a transaction
  std::vector<PgRows> tables_;
  std::size_t rows_ = 0;
  std::size_t number_ = 0;  // of temporary tables
  std::optional<std::size_t> blamed_;
  std::string column_at_fault_;
};

}  // namespace

Result<std::unique_ptr<SqlEngine>> postgres_engine(std::string const& url, std::string const& writer) {
  auto pg = Pg::make(url);
  if (!pg) return pg.status();
  return std::unique_ptr<SqlEngine>(std::make_unique<Postgres>(std::move(*pg), writer));
}

}  // namespace inflight

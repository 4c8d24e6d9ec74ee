#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "common/handle.h"
#include "common/record.h"
#include "common/sql_engine.h"
#include "common/sql_value.h"

namespace inflight {

namespace {

using Statement = Handle<sqlite3_stmt, sqlite3_finalize>;

std::string quoted(std::string_view name) {
  std::string out = "\"";
  for (char const c : name) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

// https://sqlite.org/datatype3.html, 3.1
SqlType holds(std::string_view declared) {
  std::string type(declared);
  for (char& c : type) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  auto has = [&](char const* part) { return type.find(part) != std::string::npos; };
  if (has("INT")) return SqlType::integer;
  if (has("CHAR") || has("CLOB") || has("TEXT")) return SqlType::text;
  if (has("BLOB") || type.empty() || type == "ANY") return SqlType::any;
  if (has("REAL") || has("FLOA") || has("DOUB")) return SqlType::real;
  return SqlType::integer;  // NUMERIC
}

char const* declared(SqlType type) {
  switch (type) {
    case SqlType::integer:
    case SqlType::boolean:
      return " INTEGER";
    case SqlType::real:
      return " REAL";
    case SqlType::any:
      return "";
    default:
      return " TEXT";
  }
}

// ---- which of two versions is newer

std::string_view text_of(sqlite3_value* value) {
  auto const* const text = reinterpret_cast<char const*>(sqlite3_value_text(value));
  return text == nullptr ? std::string_view{}
                         : std::string_view(text, static_cast<std::size_t>(sqlite3_value_bytes(value)));
}

// NULL is older than all.
void order_function(sqlite3_context* context, int, sqlite3_value** values) {
  bool const null[2] = {sqlite3_value_type(values[0]) == SQLITE_NULL, sqlite3_value_type(values[1]) == SQLITE_NULL};
  sqlite3_result_int(context, null[0] || null[1] ? int(null[1]) - int(null[0])
                                                 : compare_versions(text_of(values[0]), text_of(values[1])));
}

// ---- the engine

struct Plan {
  std::vector<char> present;       // which columns the rows of this statement name
  std::vector<std::size_t> bound;  // parameter i+1 is this column
  Statement statement;
};

struct Prepared {
  std::map<std::vector<char>, Plan> plans;  // by `present`: a stream has a few shapes of rows
  Plan* last = nullptr;
  Plan removal, versioned_removal;
};

constexpr std::size_t kMostPlans = 200;
constexpr char const* kCache = "PRAGMA cache_size=-16384";
constexpr char const* kSmallCache = "PRAGMA cache_size=-2048";

class Sqlite final : public SqlEngine {
 public:
  explicit Sqlite(std::string file) : file_(std::move(file)) {}

  Status connect() override {
    sqlite3* opened = nullptr;
    int const code = sqlite3_open_v2(file_.c_str(), &opened,
                                     SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
    db_.reset(opened);
    if (code != SQLITE_OK) return failure(code);
    sqlite3_extended_result_codes(opened, 1);
    sqlite3_busy_timeout(opened, 2000);
    sqlite3_create_function_v2(opened, "inflight_order", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC, nullptr, order_function,
                               nullptr, nullptr, nullptr);
    // The larger cache and the rarer checkpoints are for rows that fall all over a large table.
    for (char const* const sql : {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON",
                                  kCache, "PRAGMA wal_autocheckpoint=40000", "PRAGMA temp_store=MEMORY"}) {
      if (Status status = execute(sql); !status.ok()) return status;
    }
    return {};
  }

  Result<std::optional<Found>> find(std::string const& table, std::string const& mark) override {
    Found found;
    auto columns = prepare("SELECT name,type,pk FROM pragma_table_xinfo(?1) WHERE hidden=0");
    if (!columns) return columns.status();
    bind_text(columns->get(), 1, table);
    std::map<int, std::string> key;
    int code = SQLITE_OK;
    while ((code = sqlite3_step(columns->get())) == SQLITE_ROW) {
      std::string name(column_text(columns->get(), 0));
      if (int const place = sqlite3_column_int(columns->get(), 2); place > 0) key[place] = name;
      found.columns.push_back({std::move(name), holds(column_text(columns->get(), 1)), SqlType::any});
    }
    if (code != SQLITE_DONE) return failure(code);
    if (found.columns.empty()) return std::optional<Found>{};
    for (auto& [place, name] : key) found.primary_key.push_back(std::move(name));
    auto marked =
        count("SELECT count(*) FROM sqlite_schema WHERE type='table' AND lower(name)=lower(?1) AND instr(sql,?2)>0",
              table, comment(mark));
    if (!marked) return marked.status();
    found.grows = *marked > 0;
    // Triggers; references from and to it; unique indexes, the key's among them, and texts in them that compare
    // otherwise.
    auto const rules = count(
        "SELECT (SELECT count(*) FROM sqlite_schema WHERE type='trigger' AND lower(tbl_name)=lower(?1))"
        "+(SELECT count(*) FROM sqlite_schema s JOIN pragma_foreign_key_list(s.name) f"
        "  WHERE lower(f.\"table\")=lower(?1) OR lower(s.name)=lower(?1))"
        "+(SELECT count(*) FROM pragma_index_list(?1) l JOIN pragma_index_xinfo(l.name) x"
        "  WHERE l.\"unique\"=1 AND x.key=1 AND x.coll<>'BINARY')"
        "+max(0,(SELECT count(*) FROM pragma_index_list(?1) WHERE \"unique\"=1)"
        "       +(SELECT count(*)>0 FROM pragma_table_xinfo(?1) WHERE pk>0"
        "         AND NOT EXISTS(SELECT 1 FROM pragma_index_list(?1) WHERE origin='pk'))-1) WHERE ?2=?2",
        table, "");
    if (!rules) return rules.status();
    found.unordered = *rules == 0;
    return std::optional(std::move(found));
  }

  Result<bool> fresh(std::string const& mark) override {
    auto tables = count("SELECT count(*) FROM sqlite_schema WHERE ?1=?1 AND ?2=?2", "", "");
    if (!tables) return tables.status();
    auto marked = count("SELECT count(*) FROM sqlite_schema WHERE ?1=?1 AND instr(sql,?2)>0", "", comment(mark));
    if (!marked) return marked.status();
    return *tables == 0 || *marked > 0;
  }

  Status begin(bool& changed) override {
    lost_.clear();
    if (Status status = execute("BEGIN IMMEDIATE"); !status.ok()) return status;
    auto version = count("SELECT schema_version FROM pragma_schema_version WHERE ?1=?1 AND ?2=?2", "", "");
    if (!version) {
      rollback();
      return version.status();
    }
    changed = *version != schema_version_;
    schema_version_ = *version;
    return {};
  }

  Status create(SqlTable const& table, std::string const& mark) override {
    std::string sql = fmt::format("CREATE TABLE {}({}", quoted(table.name), comment(mark));
    bool first = true;
    for (std::size_t i = 0; i < table.columns.size(); ++i) {
      bool const in_key = std::find(table.key.begin(), table.key.end(), i) != table.key.end();
      sql += fmt::format("{}\n  {}{}{}", first ? "" : ",", quoted(table.columns[i].name),
                         declared(table.columns[i].holds), in_key ? " NOT NULL" : "");
      first = false;
    }
    if (!table.key.empty()) sql += fmt::format(",\n  PRIMARY KEY({})", key_list(table));
    sql += table.key.empty() ? "\n)" : "\n) WITHOUT ROWID";
    return define(sql);
  }

  Status add_column(std::string const& table, SqlColumn const& column) override {
    return define(
        fmt::format("ALTER TABLE {} ADD COLUMN {}{}", quoted(table), quoted(column.name), declared(column.holds)));
  }

  Status write(SqlTable& table, std::span<Value const> values) override {
    if (!lost_.empty()) return Status::rejected(lost_);
    Prepared& prepared = prepared_for(table);
    if (prepared.last == nullptr || !same_shape(prepared.last->present, values)) {
      auto plan = plan_for(table, prepared, values);
      if (!plan) return plan.status();
      prepared.last = *plan;
    }
    return run(table, *prepared.last, values);
  }

  Status remove(SqlTable& table, std::span<Value const> values) override {
    if (!lost_.empty()) return Status::rejected(lost_);
    Prepared& prepared = prepared_for(table);
    Value const& version = values[table.version];
    bool const versioned = table.conflict == SqlTable::Conflict::newer && version && version.kind != Value::Kind::null;
    Plan& plan = versioned ? prepared.versioned_removal : prepared.removal;
    if (!plan.statement) {
      std::string sql = fmt::format("DELETE FROM {} WHERE ", quoted(table.name));
      plan.bound = table.key;
      for (std::size_t i = 0; i < table.key.size(); ++i) {
        sql += fmt::format("{}{}=?{}", i == 0 ? "" : " AND ", quoted(table.columns[table.key[i]].name), i + 1);
      }
      if (versioned) {
        plan.bound.push_back(table.version);
        sql +=
            fmt::format(" AND inflight_order(?{},{})>=0", plan.bound.size(), quoted(table.columns[table.version].name));
      }
      auto statement = prepare(sql, SQLITE_PREPARE_PERSISTENT);
      if (!statement) return statement.status();
      plan.statement = std::move(*statement);
    }
    return run(table, plan, values);
  }

  Status commit() override {
    if (!lost_.empty()) return Status::rejected(lost_);
    return execute("COMMIT");
  }

  void rollback() override {
    schema_version_ = -1;
    if (db_ && sqlite3_get_autocommit(db_.get()) == 0) (void)execute("ROLLBACK");
  }

 private:
  static std::string comment(std::string mark) {
    for (std::size_t end = 0; (end = mark.find("*/", end)) != std::string::npos;) mark.replace(end, 2, "* /");
    return fmt::format("/* {} */", mark);
  }

  static std::string key_list(SqlTable const& table) {
    std::string list;
    for (std::size_t const column : table.key)
      list += fmt::format("{}{}", list.empty() ? "" : ",", quoted(table.columns[column].name));
    return list;
  }

  static std::string_view column_text(sqlite3_stmt* statement, int column) {
    auto const* const text = reinterpret_cast<char const*>(sqlite3_column_text(statement, column));
    return text == nullptr ? std::string_view{} : std::string_view(text);
  }

  static void bind_text(sqlite3_stmt* statement, int at, std::string_view text) {
    sqlite3_bind_text64(statement, at, text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8);
  }

  // What a result code means for us; https://sqlite.org/rescode.html
  Status failure(int code, bool of_row = false) {
    std::string what = fmt::format("sqlite:{}: {}", file_, db_ ? sqlite3_errmsg(db_.get()) : sqlite3_errstr(code));
    switch (code & 0xff) {
      case SQLITE_CONSTRAINT:
      case SQLITE_MISMATCH:
      case SQLITE_TOOBIG:
      case SQLITE_RANGE:
        return Status::rejected(sqlite3_errmsg(db_.get()));
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
      case SQLITE_PROTOCOL:
      case SQLITE_NOMEM:
      case SQLITE_INTERRUPT:
      case SQLITE_SCHEMA:
        return Status::temporary(std::move(what));
      case SQLITE_FULL:
      case SQLITE_IOERR:
        if (int const error = sqlite3_system_errno(db_.get()); error != 0)
          what += fmt::format(": {}", std::strerror(error));
        return Status::temporary(std::move(what));
      case SQLITE_CANTOPEN:
        if (int const error = db_ ? sqlite3_system_errno(db_.get()) : 0; error != 0)
          what += fmt::format(": {}", std::strerror(error));
        return Status::usage(std::move(what));
      case SQLITE_READONLY:
      case SQLITE_NOTADB:
      case SQLITE_PERM:
      case SQLITE_AUTH:
        return Status::usage(std::move(what));
      case SQLITE_ERROR:
        // In a statement that could be prepared it comes of the values: malformed JSON in a CHECK, an overflow in a
        // trigger.
        return of_row ? Status::rejected(sqlite3_errmsg(db_.get())) : Status::usage(std::move(what));
      default:
        return Status::defect(std::move(what));
    }
  }

  Status execute(char const* sql) {
    int const code = sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr);
    return code == SQLITE_OK ? Status{} : failure(code);
  }

  // Too many columns, a name that SQLite reserves: the record's fault, which brought the name.
  Status define(std::string const& sql) {
    if (sql.find('\0') != std::string::npos) return Status::rejected("a name with \\u0000 cannot be a column");
    int const code = sqlite3_exec(db_.get(), sql.c_str(), nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) return failure(code, true);
    auto version = count("SELECT schema_version FROM pragma_schema_version WHERE ?1=?1 AND ?2=?2", "", "");
    if (version) schema_version_ = *version;
    return version.status();
  }

  Result<Statement> prepare(std::string const& sql, unsigned flags = 0) {
    sqlite3_stmt* statement = nullptr;
    int const code =
        sqlite3_prepare_v3(db_.get(), sql.c_str(), static_cast<int>(sql.size()), flags, &statement, nullptr);
    if (code != SQLITE_OK) return failure(code);
    return Statement(statement);
  }

  Result<std::int64_t> count(char const* sql, std::string_view first, std::string_view second) {
    auto statement = prepare(sql);
    if (!statement) return statement.status();
    bind_text(statement->get(), 1, first);
    bind_text(statement->get(), 2, second);
    int const code = sqlite3_step(statement->get());
    if (code != SQLITE_ROW) return failure(code);
    return std::int64_t{sqlite3_column_int64(statement->get(), 0)};
  }

  static Prepared& prepared_for(SqlTable& table) {
    if (!table.prepared) table.prepared = std::make_shared<Prepared>();
    return *static_cast<Prepared*>(table.prepared.get());
  }

  static bool same_shape(std::vector<char> const& shape, std::span<Value const> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (bool(values[i]) != (shape[i] != 0)) return false;
    }
    return true;
  }

  Result<Plan*> plan_for(SqlTable const& table, Prepared& prepared, std::span<Value const> values) {
    std::vector<char> shape(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) shape[i] = values[i] ? 1 : 0;
    if (auto const known = prepared.plans.find(shape); known != prepared.plans.end()) return &known->second;
    if (prepared.plans.size() >= kMostPlans) prepared.plans.clear(), prepared.last = nullptr;

    Plan plan;
    std::string names, marks, sets;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      std::string const name = quoted(table.columns[i].name);
      if (shape[i] != 0) {
        plan.bound.push_back(i);
        names += fmt::format("{}{}", names.empty() ? "" : ",", name);
        marks += fmt::format("{}?{}", marks.empty() ? "" : ",", plan.bound.size());
      }
      bool const in_key = std::find(table.key.begin(), table.key.end(), i) != table.key.end();
      if (!in_key && (shape[i] != 0 || table.whole))
        sets += fmt::format("{}{}=excluded.{}", sets.empty() ? "" : ",", name, name);
    }
    std::string sql = fmt::format("INSERT INTO {}({}) VALUES({})", quoted(table.name), names, marks);
    if (!table.key.empty()) {
      sql += fmt::format(" ON CONFLICT({}) DO ", key_list(table));
      if (table.conflict == SqlTable::Conflict::ignore || sets.empty()) {
        sql += "NOTHING";
      } else {
        sql += "UPDATE SET " + sets;
        if (table.conflict == SqlTable::Conflict::newer) {
          std::string const version = quoted(table.columns[table.version].name);
          sql += fmt::format(" WHERE inflight_order(excluded.{0},{1}.{0})>=0", version, quoted(table.name));
        }
      }
    }
    auto statement = prepare(sql, SQLITE_PREPARE_PERSISTENT);
    if (!statement) return statement.status();
    plan.statement = std::move(*statement);
    plan.present = shape;
    return &prepared.plans.emplace(std::move(shape), std::move(plan)).first->second;
  }

  Status run(SqlTable const& table, Plan& plan, std::span<Value const> values) {
    sqlite3_stmt* const statement = plan.statement.get();
    if (scratch_.size() < plan.bound.size()) scratch_.resize(plan.bound.size());
    std::size_t size = 0;
    for (std::size_t i = 0; i < plan.bound.size(); ++i) {
      SqlColumn const& column = table.columns[plan.bound[i]];
      SqlValue value;
      if (Status status = convert(column, values[plan.bound[i]], table.remove_nul, scratch_[i], value); !status.ok())
        return status.at(column.name);
      bind(statement, static_cast<int>(i) + 1, value);
      size += value.text.size();
    }
    if (size <= kLongRecord) return step(table, statement);
    // SQLite holds two such rows besides: what is written and what it is compared with.
    (void)execute(kSmallCache);
    Status status = step(table, statement);
    (void)execute(kCache);
    return status;
  }

  Status step(SqlTable const& table, sqlite3_stmt* statement) {
    int const stepped = sqlite3_step(statement);
    if (stepped == SQLITE_DONE) {
      sqlite3_reset(statement);
      return {};
    }
    Status status = failure(stepped, true);
    sqlite3_reset(statement);
    if ((stepped & 0xff) == SQLITE_MISMATCH)
      status = status.at(table.columns[table.key.empty() ? 0 : table.key[0]].name);
    // A constraint or trigger of the table may end the whole transaction: what came before is undone, too.
    if (status.code() == Code::rejected && sqlite3_get_autocommit(db_.get()) != 0) lost_ = status.what();
    return status;
  }

  // Without copying: values and scratch outlive the step.
  static void bind(sqlite3_stmt* statement, int at, SqlValue const& value) {
    switch (value.kind) {
      case SqlValue::Kind::null:
        sqlite3_bind_null(statement, at);
        break;
      case SqlValue::Kind::integer:
        sqlite3_bind_int64(statement, at, value.integer);
        break;
      case SqlValue::Kind::real:
        sqlite3_bind_double(statement, at, value.real);
        break;
      case SqlValue::Kind::text:
        bind_text(statement, at, value.text);
        break;
    }
  }

  std::string file_;
  Handle<sqlite3, sqlite3_close_v2> db_;
  std::int64_t schema_version_ = -1;
  std::string lost_;                  // why the transaction has ended by itself
  std::vector<std::string> scratch_;  // a text whose escapes had to be resolved, by parameter
};

}  // namespace

std::unique_ptr<SqlEngine> sqlite_engine(std::string const& file) { return std::make_unique<Sqlite>(file); }

}  // namespace inflight

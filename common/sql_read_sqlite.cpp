#include <fmt/format.h>
#include <sqlite3.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "common/handle.h"
#include "common/json_text.h"
#include "common/pg.h"
#include "common/sql_read.h"

namespace inflight {

namespace {

class SqliteRows final : public SqlRows {
 public:
  SqliteRows(std::string file, SqlSelection selection) : file_(std::move(file)), selection_(std::move(selection)) {}

  Status start(std::string const& after) override {
    statement_.reset();
    sqlite3* opened = nullptr;
    int const code = sqlite3_open_v2(file_.c_str(), &opened, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, nullptr);
    db_.reset(opened);
    if (code != SQLITE_OK) return failure(code);
    sqlite3_busy_timeout(opened, 2000);
    if (selection_.key.empty()) {
      if (Status status = look_up_key(); !status.ok()) return status;
    }
    auto const values = after.empty() ? nlohmann::json() : nlohmann::json::parse(after, nullptr, false);
    if (!after.empty() && (!values.is_array() || values.size() != selection_.key.size()))
      return Status::usage(fmt::format("the state is of another --key: {}", after));
    std::string key, places, columns;
    for (std::string const& column : selection_.key) {
      key += fmt::format("{}r.{}", key.empty() ? "" : ",", pg_name(column));
      places += places.empty() ? "?" : ",?";
    }
    for (std::string const& column : selection_.columns) columns += fmt::format(",r.{}", pg_name(column));
    std::string const from =
        selection_.table.empty() ? fmt::format("({}\n)", selection_.query) : pg_name(selection_.table);
    std::string const sql = fmt::format("SELECT {}{} FROM {} r{} ORDER BY {}", key, columns.empty() ? ",r.*" : columns,
                                        from, after.empty() ? "" : fmt::format(" WHERE ({})>=({})", key, places), key);
    sqlite3_stmt* statement = nullptr;
    int const prepared = sqlite3_prepare_v2(opened, sql.c_str(), -1, &statement, nullptr);
    statement_.reset(statement);
    if (prepared != SQLITE_OK) return failure(prepared);
    names_.clear();
    for (int i = 0; i < sqlite3_column_count(statement); ++i) {
      std::string const name = sqlite3_column_name(statement, i);
      if (i < static_cast<int>(selection_.key.size())) continue;
      names_.push_back(json_string(name));
    }
    for (int i = 0; i < static_cast<int>(values.is_array() ? values.size() : 0); ++i) {
      auto const& value = values[static_cast<std::size_t>(i)];
      if (value.is_number_integer()) {
        sqlite3_bind_int64(statement, i + 1, value.get<std::int64_t>());
      } else if (value.is_number()) {
        sqlite3_bind_double(statement, i + 1, value.get<double>());
      } else if (value.is_string()) {
        auto const text = value.get<std::string>();
        sqlite3_bind_text(statement, i + 1, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
      }
    }
    return {};
  }

  Result<bool> next(std::string& line, std::string& key) override {
    sqlite3_stmt* const row = statement_.get();
    int const code = sqlite3_step(row);
    if (code == SQLITE_DONE) return false;
    if (code != SQLITE_ROW) return failure(code);
    int const keys = static_cast<int>(selection_.key.size());
    key = "[";
    for (int i = 0; i < keys; ++i) {
      if (sqlite3_column_type(row, i) == SQLITE_NULL)
        return Status::usage(fmt::format("sqlite:{}: a NULL in {}, which is to be a key", file_,
                                         selection_.key[static_cast<std::size_t>(i)]));
      if (i > 0) key += ',';
      append(key, row, i);
    }
    key += ']';
    line = "{";
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (i > 0) line += ',';
      line += names_[i];
      line += ':';
      append(line, row, keys + static_cast<int>(i));
    }
    line += '}';
    return true;
  }

 private:
  static void append(std::string& out, sqlite3_stmt* row, int column) {
    switch (sqlite3_column_type(row, column)) {
      case SQLITE_NULL:
        out += "null";
        break;
      case SQLITE_INTEGER:
        fmt::format_to(std::back_inserter(out), "{}", std::int64_t{sqlite3_column_int64(row, column)});
        break;
      case SQLITE_FLOAT: {
        double const real = sqlite3_column_double(row, column);
        std::string text = fmt::format("{}", real);
        if (!std::isfinite(real)) text = json_string(real > 0 ? "Infinity" : "-Infinity");
        if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
        out += text;
        break;
      }
      default:
        append_quoted(out, {static_cast<char const*>(sqlite3_column_blob(row, column)),
                            static_cast<std::size_t>(sqlite3_column_bytes(row, column))});
    }
  }

  Status look_up_key() {
    sqlite3_stmt* statement = nullptr;
    int const code = sqlite3_prepare_v2(db_.get(), "SELECT name,pk FROM pragma_table_info(?1) WHERE pk>0 ORDER BY pk",
                                        -1, &statement, nullptr);
    Handle<sqlite3_stmt, sqlite3_finalize> const held(statement);
    if (code != SQLITE_OK) return failure(code);
    sqlite3_bind_text(statement, 1, selection_.table.data(), static_cast<int>(selection_.table.size()), SQLITE_STATIC);
    while (sqlite3_step(statement) == SQLITE_ROW)
      selection_.key.emplace_back(reinterpret_cast<char const*>(sqlite3_column_text(statement, 0)));
    if (selection_.key.empty())
      return Status::usage(
          fmt::format("sqlite:{}: no table {} with a primary key: --key says in what order its rows come", file_,
                      selection_.table));
    return {};
  }

  Status failure(int code) {
    std::string what = fmt::format("sqlite:{}: {}", file_, db_ ? sqlite3_errmsg(db_.get()) : sqlite3_errstr(code));
    switch (code & 0xff) {
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
      case SQLITE_PROTOCOL:
      case SQLITE_NOMEM:
      case SQLITE_SCHEMA:
        return Status::temporary(std::move(what));
      case SQLITE_CORRUPT:
      case SQLITE_IOERR:
        return Status::defect(std::move(what));
      default:
        return Status::usage(std::move(what));
    }
  }

  std::string file_;
  SqlSelection selection_;
  Handle<sqlite3, sqlite3_close_v2> db_;
  Handle<sqlite3_stmt, sqlite3_finalize> statement_;
  std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<SqlRows> sqlite_rows(std::string const& file, SqlSelection selection) {
  return std::make_unique<SqliteRows>(file, std::move(selection));
}

}  // namespace inflight

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/pg.h"
#include "common/sql_read.h"

namespace inflight {

namespace {

class PostgresRows final : public SqlRows {
 public:
  PostgresRows(Pg pg, SqlSelection selection) : pg_(std::move(pg)), selection_(std::move(selection)) {}

  // One statement, whose rows come as they are asked for; a lock or a snapshot is kept no longer than it.
  Status start(std::string const& after) override {
    if (Status status = pg_.connect(); !status.ok()) return status;
    if (from_.empty()) {
      if (Status status = look_up(); !status.ok()) return status;
    }
    std::vector<std::string> parameters;
    std::string key, texts, places;
    for (std::string const& column : selection_.key) {
      key += fmt::format("{}r.{}", key.empty() ? "" : ",", pg_name(column));
      texts += fmt::format(",r.{}::text", pg_name(column));
    }
    if (!after.empty()) {
      auto const values = nlohmann::json::parse(after, nullptr, false);
      if (!values.is_array() || values.size() != selection_.key.size())
        return Status::usage(fmt::format("the state is of another --key: {}", after));
      for (auto const& value : values) {
        parameters.push_back(value.is_string() ? value.get<std::string>() : value.dump());
        places += fmt::format("{}${}", places.empty() ? "" : ",", parameters.size());
      }
    }
    if (Status status = pg_.execute("BEGIN READ ONLY; SET LOCAL TimeZone TO 'UTC'; SET LOCAL extra_float_digits TO 1");
        !status.ok()) {
      return status;
    }
    // NULLs come last, and are neither behind a key nor before it.
    std::string const where = after.empty() ? "" : fmt::format(" WHERE ({})>=({}){}", key, places, or_null_);
    return operators(
        pg_.start(fmt::format("SELECT row_to_json(o){} FROM {} r CROSS JOIN LATERAL (SELECT {}) o{} ORDER BY {}", texts,
                              from_, output(), where, key),
                  parameters));
  }

  Result<bool> next(std::string& line, std::string& key) override {
    auto more = pg_.next_row(fields_);
    if (!more) return operators(more.status());
    if (!*more) {
      if (Status status = pg_.execute("COMMIT"); !status.ok()) return status;
      pg_.close();
      return false;
    }
    line = fields_[0].value_or("{}");
    std::replace(line.begin(), line.end(), '\n', ' ');  // of a column of type json, as it was written
    std::replace(line.begin(), line.end(), '\r', ' ');
    nlohmann::json values = nlohmann::json::array();
    for (std::size_t i = 0; i < selection_.key.size(); ++i) {
      if (!fields_[i + 1]) {
        return Status::usage(fmt::format("{}: a NULL in {}, which is to be a key", pg_.name(), selection_.key[i]));
      }
      values.push_back(*fields_[i + 1]);
    }
    key = values.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return true;
  }

 private:
  // A value is nobody's fault here but the query's.
  static Status operators(Status const& status) {
    return status.code() == Code::rejected ? Status::usage(status.what()) : status;
  }

  [[nodiscard]] std::string output() const {
    if (selection_.columns.empty()) return "r.*";
    std::string list;
    for (std::string const& column : selection_.columns)
      list += fmt::format("{}r.{}", list.empty() ? "" : ",", pg_name(column));
    return list;
  }

  Status look_up() {
    or_null_.clear();
    for (std::string const& column : selection_.key) or_null_ += fmt::format(" OR r.{} IS NULL", pg_name(column));
    if (selection_.table.empty()) {
      from_ = fmt::format("({}\n)", selection_.query);
      return {};
    }
    std::string const sql =
        "SELECT c.oid, quote_ident(n.nspname)||'.'||quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON "
        "n.oid=c.relnamespace"
        " WHERE c.relname=$1 AND CASE WHEN $2='' THEN pg_table_is_visible(c.oid) ELSE n.nspname=$2 END AND c.relkind "
        "IN ('r','p','f','v','m')";
    std::string const& table = selection_.table;
    auto found = pg_.query(sql, {table, ""});
    if (std::size_t const dot = table.find('.'); found && found->empty() && dot != std::string::npos)
      found = pg_.query(sql, {table.substr(dot + 1), table.substr(0, dot)});
    if (!found) return found.status();
    if (found->empty()) return Status::usage(fmt::format("{}: no such table: {}", pg_.name(), table));
    if (selection_.key.empty()) {
      auto key = pg_.query(
          "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum,n)"
          " JOIN pg_attribute a ON a.attrelid=i.indrelid AND a.attnum=k.attnum WHERE i.indrelid=$1::oid AND "
          "i.indisprimary ORDER BY k.n",
          {*found->front()[0]});
      if (!key) return key.status();
      for (Pg::Row const& column : *key) selection_.key.push_back(*column[0]);
      if (selection_.key.empty())
        return Status::usage(
            fmt::format("{}: table {} has no primary key: --key says in what order its rows come", pg_.name(), table));
    }
    from_ = *found->front()[1];
    return {};
  }

  Pg pg_;
  SqlSelection selection_;
  std::string from_;
  std::string or_null_;  // in the condition of a key that may hold NULLs, as a primary key does not
  std::vector<std::optional<std::string_view>> fields_;
};

}  // namespace

Result<std::unique_ptr<SqlRows>> postgres_rows(std::string const& url, SqlSelection selection) {
  auto pg = Pg::make(url);
  if (!pg) return pg.status();
  return std::unique_ptr<SqlRows>(std::make_unique<PostgresRows>(std::move(*pg), std::move(selection)));
}

}  // namespace inflight

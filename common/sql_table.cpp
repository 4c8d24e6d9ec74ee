#include "common/sql_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/messages.h"
#include "common/sql_value.h"
#include "common/time.h"

namespace inflight {

namespace {

bool is_event_time(std::string_view attribute, Value const& value) {
  std::string scratch;
  return (attribute == "time" || attribute == "recordedtime") && parse_rfc3339(unquote(value.raw, scratch));
}
}  // namespace

void RowTable::add(SqlColumn column) {
  by_name_.emplace(folded(column.name), sql.columns.size());
  by_name_.insert_or_assign(column.name,
                            sql.columns.size());  // two may differ in case only, where the engine tells them apart
  sql.columns.push_back(std::move(column));
  sql.prepared.reset();
  hints_.clear();
}

std::optional<std::size_t> RowTable::column(std::string_view name) const {
  auto found = by_name_.find(std::string(name));
  if (found == by_name_.end()) found = by_name_.find(folded(name));
  return found == by_name_.end() ? std::nullopt : std::optional(found->second);
}

SqlTables::SqlTables(SqlEngine& engine, SqlMapping const& mapping)
    : engine_(engine),
      mapping_(mapping),
      mark_(fmt::format("made by sql-write --table {}: new keys add columns", mapping.table)) {}

Status SqlTables::begin() {
  may_create_ = mapping_.create;
  if (!may_create_) {
    auto fresh = engine_.fresh(mark_);
    if (!fresh) return fresh.status();
    may_create_ = *fresh;
  }
  return mapping_.template_ ? Status{} : open(mapping_.table).status();
}

Result<RowTable*> SqlTables::take(RowReader const& row) {
  auto table = open(row.table());
  if (table && *table == nullptr && !row.deletion()) table = make(row);
  if (!table || *table == nullptr) return table;
  if (Status status = fill(**table, row); !status.ok()) return status;
  return table;
}

Result<RowTable*> SqlTables::open(std::string const& name) {
  if (auto const known = tables_.find(name); known != tables_.end()) return &known->second;
  auto found = engine_.find(name, mark_);
  if (!found) return found.status();
  if (!*found) {
    if (may_create_) return static_cast<RowTable*>(nullptr);
    return Status::usage(fmt::format("{}: no such table: {} (--create makes it)", mapping_.url, name));
  }
  RowTable table;
  table.sql.name = name;
  table.grows_ = (*found)->grows || mapping_.create;
  table.unordered = (*found)->unordered;
  table.sql.whole = (*found)->grows || !mapping_.columns.empty();
  if (mapping_.columns.empty()) {
    for (SqlColumn& column : (*found)->columns) table.add(std::move(column));
  } else if (Status status = take_columns(table, (*found)->columns); !status.ok()) {
    return status;
  }
  std::vector<std::string> const& wanted = mapping_.key.empty() ? (*found)->primary_key : mapping_.key;
  if (Status status = finish(table, wanted); !status.ok()) return status;
  return &tables_.emplace(name, std::move(table)).first->second;
}

Status SqlTables::take_columns(RowTable& table, std::vector<SqlColumn> const& there) {
  for (std::size_t i = 0; i < mapping_.columns.size(); ++i) {
    SqlColumn const& column = mapping_.columns[i];
    auto same =
        std::find_if(there.begin(), there.end(), [&](SqlColumn const& other) { return other.name == column.name; });
    if (same == there.end()) {
      same = std::find_if(there.begin(), there.end(),
                          [&](SqlColumn const& other) { return folded(other.name) == folded(column.name); });
    }
    if (same != there.end()) {
      table.from_.push_back(i);
      table.add({same->name, same->holds, column.as});
    } else if (!table.grows_ && !mapping_.template_) {
      return Status::usage(fmt::format("{}: table {} has no column {}", mapping_.url, table.sql.name, column.name));
    } else {
      table.without_.push_back(i);
    }
  }
  return {};
}

Status SqlTables::finish(RowTable& table, std::vector<std::string> const& wanted) {
  table.sql.remove_nul = mapping_.remove_nul;
  table.sql.round_time = mapping_.round_time;
  table.sql.conflict = mapping_.conflict;
  for (std::string const& column : wanted) {
    auto const index = table.column(column);
    if (index) {
      table.sql.key.push_back(*index);
    } else if (!mapping_.key.empty()) {
      return Status::usage(fmt::format("--key {}: table {} has no such column", column, table.sql.name));
    } else {
      table.sql.key.clear();  // a key that no column of ours fills: a number that the database gives
      break;
    }
  }
  if (!mapping_.version.empty()) {
    auto const index = table.column(mapping_.version);
    if (!index) {
      return Status::usage(
          fmt::format("--on-conflict newer:{}: table {} has no such column", mapping_.version, table.sql.name));
    }
    table.sql.version = *index;
  }
  if (table.sql.key.empty()) say_warning_once("no --key: a record written twice stands twice");
  return {};
}

Result<RowTable*> SqlTables::make(RowReader const& row) {
  RowTable table;
  table.sql.name = row.table();
  table.grows_ = table.sql.whole = true;
  std::vector<std::string> wanted = mapping_.key;
  for (std::size_t i = 0; i < mapping_.columns.size(); ++i) {
    SqlColumn const& column = mapping_.columns[i];
    SqlType type = column.as == SqlType::any ? sql_type_for(row.values()[i]) : column.as;
    Path const& path = mapping_.paths[i];
    if (column.as == SqlType::any && !path.in_data() && is_event_time(path.text(), row.values()[i]))
      type = SqlType::time;
    table.from_.push_back(i);
    table.add({column.name, type, column.as});
  }
  if (mapping_.columns.empty()) {
    bool event = false;
    for (FieldValue const& field : row.fields()) {
      event = event || field.attribute;
      bool const named =
          field.name == mapping_.version || std::find(wanted.begin(), wanted.end(), field.name) != wanted.end();
      if (field.attribute && !named && !Fields::usual(field.name)) continue;
      if (present(field.value) && !table.column(field.name))
        table.add(
            {std::string(field.name),
             field.attribute && is_event_time(field.name, field.value) ? SqlType::time : sql_type_for(field.value),
             SqlType::any});
    }
    if (wanted.empty() && event) wanted = {"source", "id"};
    for (std::string const& column : wanted) {
      if (!table.column(column)) return Status::rejected(fmt::format("no value for the key column {}", column));
    }
    if (!mapping_.version.empty() && !table.column(mapping_.version))
      return Status::rejected(fmt::format("no value for {}, which newer: compares", mapping_.version));
  }
  if (table.sql.columns.empty()) return Status::rejected("nothing in this record can be a column");
  if (wanted.empty() && table.column("source") && table.column("id")) wanted = {"source", "id"};
  if (Status status = finish(table, wanted); !status.ok()) return status;
  if (Status status = engine_.create(table.sql, mark_); !status.ok()) return status;
  auto found = engine_.find(table.sql.name, mark_);  // as the database has understood it
  if (!found) return found.status();
  if (!*found)
    return Status::defect(fmt::format("{}: table {} was made and is not there", mapping_.url, table.sql.name));
  for (SqlColumn& column : table.sql.columns) {
    for (SqlColumn const& there : (*found)->columns) {
      if (there.name == column.name) column.holds = there.holds;
    }
  }
  table.unordered = (*found)->unordered;
  return &tables_.insert_or_assign(row.table(), std::move(table)).first->second;
}

Status SqlTables::add_column(RowTable& table, std::string_view column, Value const& value, SqlType as) {
  SqlColumn added{std::string(column), as == SqlType::any ? sql_type_for(value) : as, as};
  if (Status status = engine_.add_column(table.sql.name, added); !status.ok()) return status;
  auto found = engine_.find(table.sql.name, mark_);
  if (!found) return found.status();
  for (SqlColumn const& there : *found ? (*found)->columns : std::vector<SqlColumn>{}) {
    if (there.name == column) added.holds = there.holds;
  }
  table.add(std::move(added));
  return {};
}

Status SqlTables::fill(RowTable& table, RowReader const& row) {
  table.values.assign(table.sql.columns.size(), {});
  if (mapping_.columns.empty()) return fill_by_name(table, row);
  for (std::size_t i = 0; i < table.from_.size(); ++i) table.values[i] = row.values()[table.from_[i]];
  for (std::size_t i = 0; i < table.without_.size(); ++i) {
    std::size_t const at = table.without_[i];
    SqlColumn const& column = mapping_.columns[at];
    if (!present(row.values()[at]) || row.deletion()) continue;
    if (!table.grows_)
      return Status::usage(fmt::format("{}: table {} has no column {}", mapping_.url, table.sql.name, column.name));
    if (Status status = add_column(table, column.name, row.values()[at], column.as); !status.ok()) return status;
    table.from_.push_back(at);
    table.values.push_back(row.values()[at]);
    table.without_.erase(table.without_.begin() + static_cast<std::ptrdiff_t>(i--));
  }
  return {};
}

Status SqlTables::fill_by_name(RowTable& table, RowReader const& row) {
  for (std::size_t i = 0; i < row.fields().size(); ++i) {
    FieldValue const& field = row.fields()[i];
    if (i < table.hints_.size() && table.hints_[i].name == field.name) {
      put(table, table.hints_[i].column, field);
      continue;
    }
    auto column = table.column(field.name);
    if (!column && present(field.value) && (!field.attribute || Fields::usual(field.name)) && !row.deletion()) {
      if (!table.grows_) {
        if (!field.attribute)
          say_warning_once(fmt::format("table {} has no column {}: left out", table.sql.name, field.name));
      } else {
        if (Status status = add_column(table, field.name, field.value, SqlType::any); !status.ok()) return status;
        table.values.emplace_back();
        column = table.sql.columns.size() - 1;
      }
    }
    if (!column) continue;
    if (table.hints_.size() == i) table.hints_.push_back({std::string(field.name), *column});
    if (i < table.hints_.size()) table.hints_[i] = {std::string(field.name), *column};
    put(table, *column, field);
  }
  return {};
}

void SqlTables::put(RowTable& table, std::size_t column, FieldValue const& field) {
  if (table.values[column]) {
    say_warning_once(
        fmt::format("two keys of a record are column {} of table {}: the last one counts", field.name, table.sql.name));
  }
  table.values[column] = field.value;
}

}  // namespace inflight

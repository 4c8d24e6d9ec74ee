#include "common/sql.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <unordered_map>

#include "common/fields.h"
#include "common/messages.h"

namespace inflight {

namespace {

constexpr std::array<std::pair<std::string_view, SqlType>, 5> kTypes = {{{"text", SqlType::text},
                                                                         {"int", SqlType::integer},
                                                                         {"float", SqlType::real},
                                                                         {"bool", SqlType::boolean},
                                                                         {"json", SqlType::json}}};

// Two names that differ in case only are one column.
std::string folded(std::string_view name) {
  std::string out(name);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

// The type of a column that is made for this value.
SqlType type_for(Value const& value) {
  switch (value.kind) {
    case Value::Kind::boolean:
      return SqlType::boolean;
    case Value::Kind::number:
      if (value.raw.find_first_of(".eE") != std::string_view::npos) return SqlType::real;
      return value.raw.size() < 19 ? SqlType::integer : SqlType::text;  // beyond 64 bits only text keeps the digits
    case Value::Kind::none:
    case Value::Kind::null:
      return SqlType::any;
    default:
      return SqlType::text;
  }
}

bool present(Value const& value) { return value && value.kind != Value::Kind::null; }

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> names;
  while (!list.empty()) {
    std::size_t const comma = std::min(list.find(','), list.size());
    names.emplace_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return names;
}

struct Table {
  SqlTable sql;
  bool grows = false;
  bool ours = false;                                     // made by us, with no constraint but the key
  std::vector<std::size_t> from;                         // of --column: which one columns[i] is
  std::vector<std::size_t> without;                      // those of --column that this table has no column for
  std::unordered_map<std::string, std::size_t> by_name;  // folded
  std::vector<Value> values;

  struct Hint {
    std::string name;
    std::size_t column = 0;
  };
  std::vector<Hint> hints;  // what the fields of the record before were: most often it is the same again

  void add(SqlColumn column) {
    by_name.emplace(folded(column.name), sql.columns.size());
    sql.columns.push_back(std::move(column));
    sql.prepared.reset();
    hints.clear();
  }
  [[nodiscard]] std::optional<std::size_t> column(std::string_view name) const {
    auto const found = by_name.find(folded(name));
    return found == by_name.end() ? std::nullopt : std::optional(found->second);
  }
};

}  // namespace

SqlType sql_type(std::string_view name) {
  auto const* const found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](auto const& type) { return type.first == name; });
  return found == kTypes.end() ? SqlType::any : found->second;
}

struct SqlWriter::State {
  SqlOptions options;
  std::unique_ptr<SqlEngine> engine;
  std::optional<Template> name_template;
  std::string mark;
  std::vector<SqlColumn> columns;  // of --column
  std::optional<Selector> selector;
  std::vector<Path> key_paths;
  std::optional<Selector> key_selector;
  std::vector<Value> key_values;
  std::vector<std::string> key;
  std::string version;  // column of newer:
  SqlTable::Conflict conflict = SqlTable::Conflict::update;
  bool may_create = false;

  std::map<std::string, Table> tables;
  std::string name;  // of the table at hand
  std::vector<Value> selected;
  Fields reader;
  std::vector<FieldValue> fields;
  std::set<std::string> told;

  // Says a thing once.
  void tell(std::string const& what) {
    if (told.size() < 1000 && told.insert(what).second) say_warning(what);
  }

  Status parse() {
    if (options.url.starts_with("sqlite:")) {
      std::string const file = options.url.substr(7);
      if (file.empty()) return Status::usage("sqlite: without a file: sqlite:FILE");
      engine = sqlite_engine(file);
    } else if (options.url.starts_with("postgresql:") || options.url.starts_with("postgres:")) {
      return Status::usage(
          fmt::format("{}: PostgreSQL is not built in yet; there is sqlite:FILE", redact(options.url)));
    } else {
      return Status::usage(fmt::format("{}: not a database: sqlite:FILE", redact(options.url)));
    }
    auto parsed = Template::parse(options.table);
    if (!parsed) return parsed.status().at("--table");
    if (options.table.empty()) return Status::usage("--table: empty");
    name_template = std::move(*parsed);
    mark = fmt::format("made by sql-write --table {}: new keys add columns", options.table);
    std::vector<Path> paths;
    std::set<std::string> names;
    for (std::string const& text : options.columns) {
      std::size_t const equals = text.find('=');
      if (equals == 0 || equals == std::string::npos)
        return Status::usage(fmt::format("--column {}: not name=PATH[:type]", text));
      SqlColumn column{text.substr(0, equals), SqlType::any, SqlType::any};
      std::string path = text.substr(equals + 1);
      // A path may hold colons (XML namespaces): only a type behind the last one is a type.
      if (std::size_t const colon = path.rfind(':'); colon != std::string::npos) {
        column.as = sql_type(std::string_view(path).substr(colon + 1));
        if (column.as != SqlType::any) path.resize(colon);
      }
      auto parsed_path = Path::parse(path);
      if (!parsed_path) return parsed_path.status().at("--column " + text);
      if (!names.insert(folded(column.name)).second)
        return Status::usage(fmt::format("--column {} stands twice", column.name));
      paths.push_back(std::move(*parsed_path));
      columns.push_back(std::move(column));
    }
    if (!columns.empty()) selector.emplace(paths);
    key = split(options.key);
    for (std::string const& column : key) {
      for (std::size_t i = 0; i < columns.size(); ++i) {
        if (folded(columns[i].name) == folded(column)) key_paths.push_back(paths[i]);
      }
    }
    if (!key_paths.empty()) key_selector.emplace(key_paths);
    if (options.on_conflict == "ignore") {
      conflict = SqlTable::Conflict::ignore;
    } else if (options.on_conflict.starts_with("newer:") && options.on_conflict.size() > 6) {
      conflict = SqlTable::Conflict::newer;
      version = options.on_conflict.substr(6);
    } else if (options.on_conflict != "update") {
      return Status::usage(fmt::format("--on-conflict {}: not update, ignore or newer:COLUMN", options.on_conflict));
    }
    for (std::string const& column : key) {
      if (!columns.empty() && !names.contains(folded(column)))
        return Status::usage(fmt::format("--key {}: no --column names it", column));
    }
    if (!version.empty() && !columns.empty() && !names.contains(folded(version))) {
      return Status::usage(fmt::format("--on-conflict newer:{}: no --column names it", version));
    }
    return {};
  }

  Status connect() {
    if (Status status = engine->connect(); !status.ok()) return status;
    may_create = options.create;
    if (!may_create) {
      auto fresh = engine->fresh(mark);
      if (!fresh) return fresh.status();
      may_create = *fresh;
    }
    if (!name_template->constant()) return {};
    name = options.table;  // a mistake in the command shows before the first record
    auto table = open_table();
    return table.status();
  }

  // ---- tables

  // The table `name`; nothing where it is not there and may be made.
  Result<Table*> open_table() {
    if (auto const known = tables.find(name); known != tables.end()) return &known->second;
    auto found = engine->find(name, mark);
    if (!found) return found.status();
    if (!*found) {
      if (may_create) return static_cast<Table*>(nullptr);
      return Status::usage(fmt::format("{}: no such table: {} (--create makes it)", options.url, name));
    }
    Table table;
    table.grows = (*found)->grows || options.create;
    table.ours = (*found)->grows;
    table.sql.whole = (*found)->grows || !columns.empty();
    if (columns.empty()) {
      for (SqlColumn& column : (*found)->columns) table.add(std::move(column));
    } else if (Status status = take_columns(table, (*found)->columns); !status.ok()) {
      return status;
    }
    std::vector<std::string> const& wanted = key.empty() ? (*found)->primary_key : key;
    if (Status status = finish(table, wanted); !status.ok()) return status;
    return &tables.emplace(name, std::move(table)).first->second;
  }

  Status take_columns(Table& table, std::vector<SqlColumn> const& there) {
    for (std::size_t i = 0; i < columns.size(); ++i) {
      auto const same = std::find_if(there.begin(), there.end(), [&](SqlColumn const& column) {
        return folded(column.name) == folded(columns[i].name);
      });
      if (same != there.end()) {
        table.from.push_back(i);
        table.add({same->name, same->holds, columns[i].as});
      } else if (!table.grows && name_template->constant()) {
        return Status::usage(fmt::format("{}: table {} has no column {}", options.url, name, columns[i].name));
      } else {
        table.without.push_back(i);
      }
    }
    return {};
  }

  Status finish(Table& table, std::vector<std::string> const& wanted) {
    table.sql.name = name;
    table.sql.remove_nul = options.nul == "remove";
    table.sql.conflict = conflict;
    for (std::string const& column : wanted) {
      auto const index = table.column(column);
      if (index) {
        table.sql.key.push_back(*index);
      } else if (!key.empty()) {
        return Status::usage(fmt::format("--key {}: table {} has no such column", column, name));
      } else {
        table.sql.key.clear();  // a key that no column of ours fills: a number that the database gives
        break;
      }
    }
    if (!version.empty()) {
      auto const index = table.column(version);
      if (!index)
        return Status::usage(fmt::format("--on-conflict newer:{}: table {} has no such column", version, name));
      table.sql.version = *index;
    }
    if (table.sql.key.empty()) tell("no --key: a record written twice stands twice");
    return {};
  }

  // Makes the table for the record whose values are in `selected` or `fields`.
  Result<Table*> make_table() {
    Table table;
    table.grows = table.ours = table.sql.whole = true;
    std::vector<std::string> wanted = key;
    if (!columns.empty()) {
      for (std::size_t i = 0; i < columns.size(); ++i) {
        SqlType const type = columns[i].as == SqlType::any ? type_for(selected[i]) : columns[i].as;
        table.from.push_back(i);
        table.add({columns[i].name, type, columns[i].as});
      }
    } else {
      for (FieldValue const& field : fields) {
        bool const named = field.name == version || std::find(key.begin(), key.end(), field.name) != key.end();
        if (field.attribute && !named && !Fields::usual(field.name)) continue;
        if (present(field.value) && !table.column(field.name))
          table.add({std::string(field.name), type_for(field.value), SqlType::any});
      }
      bool const event =
          std::any_of(fields.begin(), fields.end(), [](FieldValue const& field) { return field.attribute; });
      if (wanted.empty() && event) wanted = {"source", "id"};
      for (std::string const& column : wanted) {
        if (!table.column(column)) return Status::rejected(fmt::format("no value for the key column {}", column));
      }
      if (!version.empty() && !table.column(version))
        return Status::rejected(fmt::format("no value for {}, which newer: compares", version));
    }
    if (table.sql.columns.empty()) return Status::rejected("nothing in this record can be a column");
    if (wanted.empty() && table.column("source") && table.column("id")) wanted = {"source", "id"};
    if (Status status = finish(table, wanted); !status.ok()) return status;
    if (Status status = engine->create(table.sql, mark); !status.ok()) return status;
    auto found = engine->find(name, mark);  // as the database has understood it
    if (!found) return found.status();
    if (!*found) return Status::defect(fmt::format("{}: table {} was made and is not there", options.url, name));
    for (SqlColumn& column : table.sql.columns) {
      for (SqlColumn const& there : (*found)->columns) {
        if (there.name == column.name) column.holds = there.holds;
      }
    }
    return &tables.insert_or_assign(name, std::move(table)).first->second;
  }

  Status add_column(Table& table, std::string_view column, Value const& value, SqlType as) const {
    SqlType const type = as == SqlType::any ? type_for(value) : as;
    if (Status status = engine->add_column(name, {std::string(column), type, as}); !status.ok()) return status;
    auto found = engine->find(name, mark);
    if (!found) return found.status();
    SqlColumn added{std::string(column), type, as};
    for (SqlColumn const& there : *found ? (*found)->columns : std::vector<SqlColumn>{}) {
      if (there.name == column) added.holds = there.holds;
    }
    table.add(std::move(added));
    return {};
  }

  // ---- rows

  Status read(Record const& record) {
    if (!columns.empty()) return selector->select(record, selected);
    return reader.read(record, fields);
  }

  Status name_table(Record const& record) {
    if (name_template->constant()) return {};
    name.clear();
    return name_template->expand(record, name);
  }

  // What the record says of each column of the table, into table.values.
  Status fill(Table& table, bool deletion) {
    table.values.assign(table.sql.columns.size(), {});
    if (!columns.empty()) {
      for (std::size_t i = 0; i < table.from.size(); ++i) table.values[i] = selected[table.from[i]];
      for (std::size_t i = 0; i < table.without.size(); ++i) {
        std::size_t const column = table.without[i];
        if (!present(selected[column]) || deletion) continue;
        if (!table.grows)
          return Status::usage(fmt::format("{}: table {} has no column {}", options.url, name, columns[column].name));
        if (Status status = add_column(table, columns[column].name, selected[column], columns[column].as); !status.ok())
          return status;
        table.from.push_back(column);
        table.values.push_back(selected[column]);
        table.without.erase(table.without.begin() + static_cast<std::ptrdiff_t>(i--));
      }
      return {};
    }
    for (std::size_t i = 0; i < fields.size(); ++i) {
      FieldValue const& field = fields[i];
      if (i < table.hints.size() && table.hints[i].name == field.name) {
        put(table, table.hints[i].column, field);
        continue;
      }
      auto column = table.column(field.name);
      if (!column && present(field.value) && (!field.attribute || Fields::usual(field.name)) && !deletion) {
        if (!table.grows) {
          if (!field.attribute) tell(fmt::format("table {} has no column {}: left out", name, field.name));
        } else {
          if (Status status = add_column(table, field.name, field.value, SqlType::any); !status.ok()) return status;
          table.values.emplace_back();
          column = table.sql.columns.size() - 1;
        }
      }
      if (!column) continue;
      if (table.hints.size() == i) table.hints.push_back({std::string(field.name), *column});
      if (i < table.hints.size()) table.hints[i] = {std::string(field.name), *column};
      put(table, *column, field);
    }
    return {};
  }

  void put(Table& table, std::size_t column, FieldValue const& field) {
    if (table.values[column])
      tell(fmt::format("two keys of a record are column {} of table {}: the last one counts", field.name, name));
    table.values[column] = field.value;
  }

  Status write(Record const& record) {
    if (Status status = read(record); !status.ok()) return status;
    if (Status status = name_table(record); !status.ok()) return status;
    bool const deletion = record.is_deletion();
    auto opened = open_table();
    if (opened && *opened == nullptr) {
      if (deletion) return {};
      opened = make_table();
    }
    if (!opened) return opened.status();
    Table& table = **opened;
    if (Status status = fill(table, deletion); !status.ok()) return status;
    for (std::size_t const column : table.sql.key) {
      if (!present(table.values[column])) {
        return Status::rejected(fmt::format("no value for the key column {}", table.sql.columns[column].name));
      }
    }
    if (deletion) {
      if (table.sql.key.empty()) return Status::rejected("a deletion, and no --key says of what");
      if (key.empty()) tell("deletions go by the table's key; name another one with --key");
      return engine->remove(table.sql, table.values);
    }
    if (conflict == SqlTable::Conflict::newer && !present(table.values[table.sql.version])) {
      return Status::rejected(fmt::format("no value for {}, which newer: compares", version));
    }
    if (std::none_of(table.values.begin(), table.values.end(), [](Value const& value) { return bool(value); })) {
      return Status::rejected(fmt::format("no key of this record is a column of table {}", name));
    }
    return engine->write(table.sql, table.values);
  }

  // Only in a table that we have made, which has no constraint but its key.
  std::string_view sort_key(Record const& record, std::string& scratch) {
    scratch.clear();
    if (columns.empty() || key_paths.empty() || !name_template->constant()) return {};
    auto const table = tables.find(options.table);
    if (table == tables.end() || !table->second.ours) return {};
    if (!key_selector->select(record, key_values).ok()) return {};
    for (Value const& value : key_values) scratch.append(value.raw).append(1, '\x1f');
    return scratch;
  }

  Status show(Record const& record, std::string& out) {
    if (Status status = read(record); !status.ok()) return status;
    name = options.table;
    if (Status status = name_table(record); !status.ok()) return status;
    bool const deletion = record.is_deletion();
    out = fmt::format("{{\"table\":{},\"{}\":{{", json_string(name), deletion ? "delete" : "row");
    bool first = true;
    auto add = [&](std::string_view column, Value const& value) {
      if (!value || (deletion && !key.empty() && std::find(key.begin(), key.end(), column) == key.end())) return;
      if (!first) out += ',';
      first = false;
      append_quoted(out, column);
      out.append(1, ':').append(value.raw);
    };
    for (std::size_t i = 0; i < columns.size(); ++i) add(columns[i].name, selected[i]);
    if (columns.empty()) {
      for (FieldValue const& field : fields) {
        if (!field.attribute || Fields::usual(field.name)) add(field.name, field.value);
      }
    }
    out += "}}";
    return {};
  }
};

SqlWriter::SqlWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SqlWriter::SqlWriter(SqlWriter&&) noexcept = default;
SqlWriter::~SqlWriter() = default;

Result<SqlWriter> SqlWriter::make(SqlOptions const& options) {
  auto state = std::make_unique<State>();
  state->options = options;
  if (Status status = state->parse(); !status.ok()) return status;
  return SqlWriter(std::move(state));
}

Status SqlWriter::connect() { return state_->connect(); }

Status SqlWriter::begin() {
  bool changed = false;
  Status status = state_->engine->begin(changed);
  if (changed) state_->tables.clear();
  return status;
}

Status SqlWriter::write(Record const& record) { return state_->write(record); }
std::string_view SqlWriter::sort_key(Record const& record, std::string& scratch) {
  return state_->sort_key(record, scratch);
}
Status SqlWriter::commit() { return state_->engine->commit(); }

void SqlWriter::rollback() {
  state_->tables.clear();  // what this transaction has made is gone with it
  state_->engine->rollback();
}

Status SqlWriter::show(Record const& record, std::string& out) { return state_->show(record, out); }

}  // namespace inflight

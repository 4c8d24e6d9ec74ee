#include "common/sql.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "common/messages.h"
#include "common/sql_engine.h"
#include "common/sql_table.h"
#include "common/sql_value.h"

namespace inflight {

namespace {

Result<std::unique_ptr<SqlEngine>> engine_of(SqlOptions const& options) {
  std::string const& url = options.url;
  if (url.starts_with("sqlite:")) {
    std::string const file = url.substr(7);
    if (file.empty()) return Status::usage("sqlite: without a file: sqlite:FILE");
    return sqlite_engine(file);
  }
  if (url.starts_with("postgresql:") || url.starts_with("postgres:")) {
    return postgres_engine(url, options.writer.empty() ? "" : fmt::format("{}\n{}", options.writer, options.table));
  }
  return Status::usage(fmt::format("{}: not a database: sqlite:FILE or postgresql://…", redact(url)));
}

}  // namespace

struct SqlWriter::State {
  State(SqlMapping m, std::unique_ptr<SqlEngine> e)
      : mapping(std::move(m)), engine(std::move(e)), tables(*engine, mapping), reader(mapping), packer(mapping) {}

  SqlMapping mapping;
  std::unique_ptr<SqlEngine> engine;
  SqlTables tables;
  RowReader reader;
  RowReader packer;                 // of the other thread
  std::string scratch;              // of one value
  std::size_t calls = 0;            // of write() in this transaction
  std::vector<std::size_t> passed;  // to the engine: which of them

  Status write() {
    Status status = write_row();
    ++calls;
    return status;
  }

  template <typename Action>
  Status pass(Action action) {
    passed.push_back(calls);
    return action();
  }

  Status write_row() {
    auto taken = tables.take(reader);
    if (!taken) return taken.status();
    if (*taken == nullptr) return {};  // nothing to delete from
    RowTable& table = **taken;
    for (std::size_t const column : table.sql.key) {
      if (!present(table.values[column]))
        return Status::rejected(fmt::format("no value for the key column {}", table.sql.columns[column].name));
    }
    if (reader.deletion()) {
      if (table.sql.key.empty()) return Status::rejected("a deletion, and no --key says of what");
      if (mapping.key.empty()) say_warning_once("deletions go by the table's key; name another one with --key");
      return pass([&] { return engine->remove(table.sql, table.values); });
    }
    if (mapping.conflict == SqlTable::Conflict::newer && !present(table.values[table.sql.version]))
      return Status::rejected(fmt::format("no value for {}, which newer: compares", mapping.version));
    if (std::none_of(table.values.begin(), table.values.end(), [](Value const& value) { return bool(value); }))
      return Status::rejected(fmt::format("no key of this record is a column of table {}", table.sql.name));
    return pass([&] { return engine->write(table.sql, table.values); });
  }

  bool sort_key(std::string_view packed, std::string& key) {
    if (mapping.template_) return false;
    auto const opened = tables.open(mapping.table);
    RowTable const* const table = opened ? *opened : nullptr;
    if (table == nullptr || !table->unordered || table->sql.key.empty()) return false;
    reader.unpack(packed);
    for (std::size_t const column : table->sql.key) {
      SqlColumn const& of_key = table->sql.columns[column];
      SqlValue value;
      Value const& raw = reader.values()[table->from_mapping(column)];
      if (!present(raw) || !convert(of_key, raw, mapping.remove_nul, scratch, value).ok()) return false;
      // Only where the database takes it as it is: in a column of numbers ' 1' becomes 1.
      if (value.kind == SqlValue::Kind::text && of_key.holds == SqlType::text) {
        key.append(value.text).append(1, '\0');
      } else if (value.kind == SqlValue::Kind::integer && of_key.holds == SqlType::integer) {
        auto const bits = static_cast<std::uint64_t>(value.integer) ^ (std::uint64_t{1} << 63);
        for (int shift = 56; shift >= 0; shift -= 8) key += static_cast<char>(bits >> shift & 0xff);
      } else {
        return false;  // 1 and 1.0 are the same key
      }
    }
    return true;
  }

  bool part_key(std::string_view packed, std::string& key) {
    auto const opened = tables.open(mapping.table);
    RowTable* const table = opened ? *opened : nullptr;
    if (table == nullptr || table->sql.key.empty()) return false;
    reader.unpack(packed);
    table->values.assign(table->sql.columns.size(), {});
    for (std::size_t const column : table->sql.key)
      table->values[column] = reader.values()[table->from_mapping(column)];
    return engine->part_key(table->sql, table->values, key);
  }

  Status show(Record const& record, std::string& out) {
    RowReader& row = packer;
    if (Status status = row.read(record); !status.ok()) return status;
    out = fmt::format("{{\"table\":{},\"{}\":{{", json_string(row.table()), row.deletion() ? "delete" : "row");
    std::vector<std::string> const& key = mapping.key;
    bool first = true;
    auto add = [&](std::string_view column, Value const& value) {
      bool const hidden = row.deletion() && !key.empty() && std::find(key.begin(), key.end(), column) == key.end();
      if (!value || hidden) return;
      if (!first) out += ',';
      first = false;
      append_quoted(out, column);
      out.append(1, ':').append(value.raw);
    };
    for (std::size_t i = 0; i < mapping.columns.size(); ++i) add(mapping.columns[i].name, row.values()[i]);
    for (FieldValue const& field : row.fields()) {
      if (!field.attribute || Fields::usual(field.name)) add(field.name, field.value);
    }
    out += "}}";
    return {};
  }
};

SqlWriter::SqlWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SqlWriter::SqlWriter(SqlWriter&&) noexcept = default;
SqlWriter::~SqlWriter() = default;

Result<SqlWriter> SqlWriter::make(SqlOptions const& options) {
  auto engine = engine_of(options);
  if (!engine) return engine.status();
  auto mapping = SqlMapping::parse(options);
  if (!mapping) return mapping.status();
  return SqlWriter(std::make_unique<State>(std::move(*mapping), std::move(*engine)));
}

Status SqlWriter::connect() {
  if (Status status = state_->engine->connect(); !status.ok()) return status;
  state_->tables.forget();
  return state_->tables.begin();
}

bool SqlWriter::connected() { return state_->engine->connected(); }

Status SqlWriter::shareable() const {
  SqlMapping const& mapping = state_->mapping;
  if (mapping.url.starts_with("sqlite:")) return Status::usage("SQLite has one writer at a time");
  if (mapping.columns.empty()) return Status::usage("it needs --column, which says where a record has its key");
  if (mapping.template_) return Status::usage("rows of several tables keep their order: --table must name one");
  return {};
}

bool SqlWriter::part_key(std::string_view packed, std::string& key) { return state_->part_key(packed, key); }
Status SqlWriter::fence() { return state_->engine->fence(); }
void SqlWriter::share(bool among_several) { state_->engine->share(among_several); }

bool SqlWriter::packs() const { return !state_->mapping.columns.empty(); }
Status SqlWriter::pack(Record const& record, std::string& packed) { return state_->packer.pack(record, packed); }

Status SqlWriter::begin() {
  bool changed = false;
  state_->calls = 0;
  state_->passed.clear();
  Status status = state_->engine->begin(changed);
  if (changed) state_->tables.forget();
  return status;
}

Status SqlWriter::write(Record const& record) {
  if (Status status = state_->reader.read(record); !status.ok()) {
    ++state_->calls;
    return status;
  }
  return state_->write();
}

Status SqlWriter::write(std::string_view packed) {
  state_->reader.unpack(packed);
  return state_->write();
}

bool SqlWriter::sort_key(std::string_view packed, std::string& key) { return state_->sort_key(packed, key); }
Status SqlWriter::commit() { return state_->engine->commit(); }

std::optional<std::size_t> SqlWriter::blamed() const {
  auto const which = state_->engine->blamed();
  return which && *which < state_->passed.size() ? std::optional(state_->passed[*which]) : std::nullopt;
}

void SqlWriter::rollback() { state_->engine->rollback(); }

Status SqlWriter::show(Record const& record, std::string& out) { return state_->show(record, out); }

}  // namespace inflight

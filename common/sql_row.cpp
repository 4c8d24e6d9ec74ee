#include "common/sql_row.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/messages.h"
#include "common/sql_value.h"

namespace inflight {

std::vector<std::string> split_names(std::string_view list) {
  std::vector<std::string> names;
  while (!list.empty()) {
    std::size_t const comma = std::min(list.find(','), list.size());
    names.emplace_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return names;
}

std::string folded(std::string_view name) {
  std::string out(name);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

Result<SqlMapping> SqlMapping::parse(SqlOptions const& options) {
  SqlMapping mapping;
  mapping.url = redact(options.url);
  mapping.table = options.table;
  mapping.create = options.create;
  mapping.remove_nul = options.nul == "remove";
  mapping.round_time = options.round_time;
  auto name = Template::parse(options.table);
  if (!name) return name.status().at("--table");
  if (options.table.empty()) return Status::usage("--table: empty");
  mapping.template_ = !name->constant();
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
    auto parsed = Path::parse(path);
    if (!parsed) return parsed.status().at("--column " + text);
    if (!names.insert(folded(column.name)).second)
      return Status::usage(fmt::format("--column {} stands twice", column.name));
    mapping.paths.push_back(std::move(*parsed));
    mapping.columns.push_back(std::move(column));
  }
  if (options.on_conflict == "ignore") {
    mapping.conflict = SqlTable::Conflict::ignore;
  } else if (options.on_conflict.starts_with("newer:") && options.on_conflict.size() > 6) {
    mapping.conflict = SqlTable::Conflict::newer;
    mapping.version = options.on_conflict.substr(6);
  } else if (options.on_conflict != "update") {
    return Status::usage(fmt::format("--on-conflict {}: not update, ignore or newer:COLUMN", options.on_conflict));
  }
  mapping.key = split_names(options.key);
  for (std::string const& column : mapping.key) {
    if (!names.empty() && !names.contains(folded(column)))
      return Status::usage(fmt::format("--key {}: no --column names it", column));
  }
  if (!mapping.version.empty() && !names.empty() && !names.contains(folded(mapping.version)))
    return Status::usage(fmt::format("--on-conflict newer:{}: no --column names it", mapping.version));
  return mapping;
}

RowReader::RowReader(SqlMapping const& mapping) : mapping_(mapping) {
  if (auto name = Template::parse(mapping.table); name) name_ = std::move(*name);
  if (!mapping.columns.empty()) selector_.emplace(mapping.paths);
  if (!mapping.template_) table_ = mapping.table;
}

Status RowReader::read(Record const& record) {
  deletion_ = record.is_deletion();
  Status status = selector_ ? selector_->select(record, values_) : reader_.read(record, fields_);
  if (!status.ok() || !mapping_.template_) return status;
  table_.clear();
  return name_.expand(record, table_);
}

// `d` or `r`, the table where each record names its own, and the values as written, each with a newline behind it: a
// line has none inside.
Status RowReader::pack(Record const& record, std::string& packed) {
  if (Status status = read(record); !status.ok()) return status;
  if (table_.find('\n') != std::string::npos) return Status::rejected("a table's name with a newline");
  packed = deletion_ ? 'd' : 'r';
  if (mapping_.template_) packed.append(table_).append(1, '\n');
  std::size_t size = packed.size();
  for (Value const& value : values_) size += value.raw.size() + 1;
  packed.reserve(size);
  for (Value const& value : values_) packed.append(value.raw).append(1, '\n');
  return {};
}

void RowReader::unpack(std::string_view packed) {
  deletion_ = packed.front() == 'd';
  packed.remove_prefix(1);
  auto take = [&] {
    std::size_t const end = packed.find('\n');
    std::string_view const item = packed.substr(0, end);
    packed.remove_prefix(end + 1);
    return item;
  };
  if (mapping_.template_) table_ = take();
  values_.clear();
  for (std::size_t i = 0; i < mapping_.columns.size(); ++i) {
    std::string_view const raw = take();
    values_.push_back(raw.empty() ? Value{} : Value{raw, kind_of(raw)});
  }
}

}  // namespace inflight

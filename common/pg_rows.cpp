#include "common/pg_rows.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace inflight {

namespace {

constexpr std::string_view kOrdinal = "inflight ordinal";  // a column of temporary tables

// Of a text: times as times, whatever their zone and digits, numbers as numbers, the rest by bytes, as
// compare_versions() does; each part in the type that orders it.
std::vector<std::string> version_of(std::string const& text) {
  std::string const time = fmt::format(
      "({} ~ '^\\d{{4}}-\\d\\d-\\d\\d[Tt ]\\d\\d:\\d\\d:\\d\\d(\\.\\d{{1,9}})?([Zz]|[-+]\\d\\d:\\d\\d)$')", text);
  std::string const number = fmt::format("({} ~ '^-?\\d+(\\.\\d+)?([eE][-+]?\\d{{1,3}})?$')", text);
  return {
      fmt::format("CASE WHEN {} THEN regexp_replace({},'\\.\\d+','')::timestamptz ELSE '-infinity' END", time, text),
      fmt::format("CASE WHEN {} THEN rpad(coalesce(substring({} from '\\.(\\d+)'),''),9,'0') ELSE '' END COLLATE \"C\"",
                  time, text),
      fmt::format("CASE WHEN {} THEN {}::numeric ELSE '-1e1000' END", number, text),
      fmt::format("CASE WHEN {} OR {} THEN '' ELSE coalesce({},'') END COLLATE \"C\"", time, number, text),
  };
}

}  // namespace

// ---- collecting

// Where it makes no difference whether a row names a column, all rows have one shape.
bool PgRows::one_shape() const { return sql->whole || sql->key.empty() || sql->conflict == SqlTable::Conflict::ignore; }

Status PgRows::store(std::size_t call, std::span<Value const> values) {
  shape_.assign(values.size(), 0);
  for (std::size_t i = 0; i < values.size(); ++i)
    shape_[i] = values[i] || (one_shape() && column(i).initial.empty()) ? 1 : 0;
  return put(call, Group::Kind::store, one_shape(), values);
}

Status PgRows::remove(std::size_t call, std::span<Value const> values) {
  Value const& version = values[sql->version];
  bool const versioned = sql->conflict == SqlTable::Conflict::newer && version && version.kind != Value::Kind::null;
  shape_.assign(values.size(), 0);
  for (std::size_t const i : sql->key) shape_[i] = 1;
  if (versioned) shape_[sql->version] = 1;
  return put(call, versioned ? Group::Kind::remove_older : Group::Kind::remove, true, values);
}

Status PgRows::put(std::size_t call, Group::Kind kind, bool any_shape, std::span<Value const> values) {
  line_.clear();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (shape_[i] == 0) continue;
    if (!values[i]) {
      line_ += "\\N";
    } else if (Status status = append_pg_text(line_, column(i).type, sql->columns[i], values[i],
                                              {sql->remove_nul, sql->round_time});
               !status.ok()) {
      return status.at(sql->columns[i].name);
    }
    line_ += '\t';
  }
  Group& group = group_for(kind, any_shape, values);
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

PgRows::Group& PgRows::group_for(Group::Kind kind, bool any_shape, std::span<Value const> values) {
  auto fits = [&](Group const& group) { return group.kind == kind && (any_shape || group.shapes.contains(shape_)); };
  auto add = [&]() -> Group& {
    groups.push_back({kind, {}});
    return groups.back();
  };
  if (groups.empty()) return add();
  if (groups.size() == 1 && fits(groups[0])) return groups[0];
  if (sql->key.empty()) {
    auto const found = std::find_if(groups.begin(), groups.end(), fits);
    return found == groups.end() ? add() : *found;
  }
  // Only the bytes of such keys tell whether two are the same; otherwise any may be.
  std::string key;
  bool certain = true;
  for (std::size_t const i : sql->key) {
    certain =
        certain && column(i).whole_text && append_key_text(key, column(i), sql->columns[i], values[i], sql->remove_nul);
  }
  std::size_t into = groups.size() - 1;
  if (certain) {
    auto const known = last_.find(key);
    into = std::max(uncertain_, known == last_.end() ? 0 : known->second);
  }
  while (into < groups.size() && !fits(groups[into])) ++into;
  if (into == groups.size()) groups.push_back({kind, {}});
  if (!certain) {
    uncertain_ = into;
  } else if (into > 0) {
    last_[key] = into;
  }
  return groups[into];
}

bool append_key_text(std::string& key, PgColumn const& column, SqlColumn const& as, Value const& value,
                     bool remove_nul) {
  std::string text;
  if (!append_pg_text(text, column.type, as, value, {remove_nul, true}).ok()) text.clear();  // it will be rejected
  if (column.type.kind == PgKind::integer) {
    std::string_view const digits = std::string_view(text).substr(text.starts_with('-') ? 1 : 0);
    bool const usual = !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos &&
                       (digits[0] != '0' || text == "0");
    if (!usual) return false;
  }
  key += text + '\t';
  return true;
}

std::vector<std::reference_wrapper<PgRows>> in_order(std::vector<PgRows>& tables) {
  std::vector<std::reference_wrapper<PgRows>> left(tables.begin(), tables.end()), ordered;
  std::sort(left.begin(), left.end(),
            [](PgRows const& a, PgRows const& b) { return a.table->full_name < b.table->full_name; });
  while (!left.empty()) {
    auto const waits = [&](PgRows const& rows) {
      return std::any_of(left.begin(), left.end(), [&](PgRows const& other) {
        return other.table->id != rows.table->id && rows.table->parents.contains(other.table->id);
      });
    };
    auto next = std::find_if(left.begin(), left.end(), [&](PgRows const& rows) { return !waits(rows); });
    if (next == left.end()) next = left.begin();  // a circle
    ordered.push_back(*next);
    left.erase(next);
  }
  bool const removes = std::all_of(tables.begin(), tables.end(), [](PgRows const& rows) {
    return std::all_of(rows.groups.begin(), rows.groups.end(),
                       [](PgRows::Group const& g) { return g.kind != PgRows::Group::Kind::store; });
  });
  if (removes) std::reverse(ordered.begin(), ordered.end());
  return ordered;
}

// ---- statements

std::vector<std::size_t> PgRows::columns_of(Group const& group) const {
  std::vector<std::size_t> columns;
  for (std::size_t i = 0; i < sql->columns.size(); ++i) {
    bool const used = group.kind == Group::Kind::store && one_shape();
    if (used || std::any_of(group.shapes.begin(), group.shapes.end(),
                            [&](auto const& shape) { return i < shape.first.size() && shape.first[i] != 0; }))
      columns.push_back(i);
  }
  return columns;
}

std::string PgRows::definition(Group const& group) const {
  std::vector<std::size_t> const columns = columns_of(group);
  std::string text;
  bool const stores = group.kind == Group::Kind::store;
  auto copied = [&](std::string_view name) {
    return std::any_of(columns.begin(), columns.end(), [&](std::size_t c) { return sql->columns[c].name == name; });
  };
  for (std::size_t const i : columns) {
    PgColumn const& one = column(i);
    text += fmt::format("{} {}", pg_name(one.name), one.declared);
    if (!one.collation.empty()) text += " COLLATE " + one.collation;
    if (stores && !one.initial.empty()) text += fmt::format(" DEFAULT {}", one.initial);
    if (stores && one.required && !table->triggers) text += " NOT NULL";
    text += ',';
  }
  if (stores && !table->triggers) {
    for (PgCheck const& check : table->checks) {
      if (std::all_of(check.columns.begin(), check.columns.end(), copied))
        text += fmt::format("CONSTRAINT {} {},", pg_name(check.name), check.definition);
    }
  }
  return text + fmt::format("{} bigint", pg_name(kOrdinal));
}

std::string PgRows::copy(Shape const& shape, std::string const& temporary) const {
  std::string const named = names(shape.columns);
  return fmt::format("COPY {}({}{}{}) FROM STDIN", temporary, named, named.empty() ? "" : ",", pg_name(kOrdinal));
}

std::string PgRows::carry_out(Group const& group, std::string const& temporary) const {
  return group.kind == Group::Kind::store ? insertion(group, temporary) : removal(group, temporary);
}

std::string PgRows::names(std::vector<std::size_t> const& columns) const {
  std::string text;
  for (std::size_t const i : columns)
    text += fmt::format("{}{}", text.empty() ? "" : ",", pg_name(sql->columns[i].name));
  return text;
}

std::string PgRows::insertion(Group const& group, std::string const& temporary) const {
  std::vector<std::size_t> const columns = columns_of(group);
  std::string const all = names(columns);
  std::string const into = fmt::format("INSERT INTO {} AS stored({}) ", table->full_name, all);
  if (sql->key.empty()) return into + fmt::format("SELECT {} FROM {} ORDER BY {};", all, temporary, pg_name(kOrdinal));
  std::string const key = names(sql->key);
  std::string text =
      into + fmt::format("SELECT DISTINCT ON({}) {} FROM {} given ORDER BY {}{},{} {} ON CONFLICT({}) DO ", key, all,
                         temporary, key, newest_first(), pg_name(kOrdinal),
                         sql->conflict == SqlTable::Conflict::ignore ? "ASC" : "DESC", key);
  std::string sets;
  for (std::size_t const column : columns) {
    if (std::find(sql->key.begin(), sql->key.end(), column) != sql->key.end()) continue;
    std::string const name = pg_name(sql->columns[column].name);
    sets += fmt::format("{}{}=excluded.{}", sets.empty() ? "" : ",", name, name);
  }
  if (sql->conflict == SqlTable::Conflict::ignore || sets.empty()) return text + "NOTHING;";
  text += "UPDATE SET " + sets;
  if (sql->conflict == SqlTable::Conflict::newer) text += " WHERE " + not_older("excluded");
  return text + ';';
}

std::string PgRows::removal(Group const& group, std::string const& temporary) const {
  std::string text = fmt::format("DELETE FROM {} stored USING {} given WHERE ", table->full_name, temporary);
  for (std::size_t const column : sql->key) {
    std::string const name = pg_name(sql->columns[column].name);
    text += fmt::format("{}stored.{}=given.{}", column == sql->key.front() ? "" : " AND ", name, name);
  }
  if (group.kind == Group::Kind::remove_older) text += " AND " + not_older("given");
  return text + ';';
}

bool PgRows::version_is_text() const {
  PgColumn const& version = column(sql->version);
  return version.type.kind == PgKind::text && !version.type.array && version.whole_text;
}

std::string PgRows::newest_first() const {
  if (sql->conflict != SqlTable::Conflict::newer) return "";
  std::string const version = pg_name(sql->columns[sql->version].name);
  if (!version_is_text()) return fmt::format(",{} DESC NULLS LAST", version);
  std::string text;
  for (std::string const& part : version_of(version)) text += fmt::format(",{} DESC", part);
  return text;
}

std::string PgRows::not_older(std::string_view than) const {
  std::string const version = pg_name(sql->columns[sql->version].name);
  std::string const ours = fmt::format("{}.{}", than, version), theirs = "stored." + version;
  if (!version_is_text()) return fmt::format("({} IS NULL OR {}>={})", theirs, ours, theirs);
  return fmt::format("({} IS NULL OR ROW({})>=ROW({}))", theirs, fmt::join(version_of(ours), ","),
                     fmt::join(version_of(theirs), ","));
}

}  // namespace inflight

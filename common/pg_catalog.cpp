#include "common/pg_catalog.h"

#include <algorithm>
#include <cstdlib>

namespace inflight {

namespace {

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

// Those that can be written, and the checks over them.
Status read_columns(Pg& pg, PgTable& table) {
  auto rows = pg.query(
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
    // varchar(3) cuts blanks off.
    bool const is_text = *row[2] == "text" || column.declared == "character varying";
    column.whole_text = !column.type.array && row[8] == "t" && (is_text || column.type.kind == PgKind::integer);
    table.columns.push_back(std::move(column));
  }
  auto checks = pg.query(
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

}  // namespace

PgColumn const* PgTable::column(std::string_view wanted) const {
  auto const found = std::find_if(columns.begin(), columns.end(), [&](PgColumn const& c) { return c.name == wanted; });
  return found == columns.end() ? nullptr : &*found;
}

std::pair<std::string, std::string> pg_table_name(std::string const& table) {
  std::size_t const dot = table.find('.');
  if (dot == std::string::npos || dot == 0 || dot + 1 == table.size()) return {"", table};
  return {table.substr(0, dot), table.substr(dot + 1)};
}

Result<std::shared_ptr<PgTable>> read_pg_table(Pg& pg, std::string const& table, std::string const& mark) {
  std::string const sql =
      "SELECT c.oid, n.nspname, c.relname, c.relpersistence, coalesce(obj_description(c.oid,'pg_class'),'')=$3,"
      " EXISTS(SELECT 1 FROM pg_trigger WHERE tgrelid=c.oid AND NOT tgisinternal),"
      " (SELECT string_agg(confrelid::text,' ') FROM pg_constraint WHERE conrelid=c.oid AND contype='f'),"
      " c.relkind IN ('r','p') AND NOT c.relrowsecurity AND NOT c.relhasrules"
      " AND (WITH parts(part) AS (SELECT c.oid UNION SELECT relid::oid FROM pg_partition_tree(c.oid))"
      "  SELECT NOT EXISTS(SELECT 1 FROM parts JOIN pg_trigger ON tgrelid=part WHERE NOT tgisinternal)"
      "  AND NOT EXISTS(SELECT 1 FROM parts JOIN pg_constraint ON conrelid=part WHERE contype='f' AND confrelid IN "
      "(SELECT part FROM parts))"
      "  AND 1>=(SELECT count(*) FROM parts JOIN pg_index i ON i.indrelid=part WHERE (i.indisunique OR "
      "i.indisexclusion)"
      "   AND NOT EXISTS(SELECT 1 FROM pg_inherits WHERE inhrelid=i.indexrelid)))"
      " FROM pg_class c JOIN pg_namespace n ON n.oid=c.relnamespace"
      " WHERE c.relname=$1 AND CASE WHEN $2='' THEN pg_table_is_visible(c.oid) ELSE n.nspname=$2 END AND c.relkind "
      "IN ('r','p','f','v')";
  auto tables = pg.query(sql, {table, "", mark});
  if (tables && tables->empty()) {
    if (auto const [schema, name] = pg_table_name(table); !schema.empty()) tables = pg.query(sql, {name, schema, mark});
  }
  if (!tables) return tables.status();
  if (tables->empty()) return std::shared_ptr<PgTable>();
  Pg::Row const& row = tables->front();
  auto const made = std::make_shared<PgTable>();
  PgTable& found = *made;
  found.id = *row[0], found.name = *row[2];
  found.full_name = pg_name(*row[1]) + "." + pg_name(found.name);
  found.marked = row[4] == "t";
  found.triggers = row[5] == "t";
  for (std::string_view ids = row[6] ? std::string_view(*row[6]) : ""; !ids.empty();) {
    std::size_t const blank = std::min(ids.find(' '), ids.size());
    found.parents.emplace(ids.substr(0, blank));
    ids.remove_prefix(std::min(blank + 1, ids.size()));
  }
  found.unlogged = row[3] == "u";
  found.unordered = row[7] == "t";
  auto version = read_pg_version(pg, found.id);
  if (!version) return version.status();
  found.version = std::move(*version);
  if (Status status = read_columns(pg, found); !status.ok()) return status;
  auto key = pg.query(
      "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum,n)"
      " JOIN pg_attribute a ON a.attrelid=i.indrelid AND a.attnum=k.attnum WHERE i.indrelid=$1::oid AND "
      "i.indisprimary ORDER BY k.n",
      {found.id});
  if (!key) return key.status();
  for (Pg::Row const& column : *key) found.primary_key.push_back(*column[0]);
  return made;
}

Result<std::string> read_pg_version(Pg& pg, std::string const& id) {
  auto rows = pg.query(
      "SELECT string_agg(v,',' ORDER BY v) FROM (SELECT 'a'||attnum||' '||xmin FROM pg_attribute WHERE "
      "attrelid=$1::oid"
      " UNION ALL SELECT 'c'||oid||' '||xmin FROM pg_constraint WHERE conrelid=$1::oid"
      " UNION ALL SELECT 'd'||oid||' '||xmin FROM pg_attrdef WHERE adrelid=$1::oid"
      " UNION ALL SELECT 't'||oid||' '||xmin FROM pg_trigger WHERE tgrelid=$1::oid) of(v)",
      {id});
  if (!rows) return rows.status();
  return rows->at(0).at(0).value_or("");
}

}  // namespace inflight

// What a value of JSON is in the text format of COPY, for a column of PostgreSQL
// (https://www.postgresql.org/docs/15/sql-copy.html, Text Format).
#pragma once

#include <string>
#include <string_view>

#include "common/json_text.h"
#include "common/sql_engine.h"
#include "common/status.h"

namespace inflight {

enum class PgKind : char { text, boolean, integer, real, numeric, time, zoned_time, json };

struct PgType {
  PgKind kind = PgKind::text;
  bool array = false;  // of these
  int digits = 6;      // of a time: how many of a second it holds
};

struct PgTextOptions {
  bool remove_nul = false;
  bool round_time = false;
};

// Appends it. The digits are those of the record, and what is no such thing is left to the server to refuse, in its
// words; Code::rejected where it would not refuse but lose: digits of a whole number, of a second, a zone, \u0000.
[[nodiscard]] Status append_pg_text(std::string& out, PgType const& type, SqlColumn const& column, Value const& value,
                                    PgTextOptions const& options);

}  // namespace inflight

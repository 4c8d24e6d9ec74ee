// What a value of JSON is in a column of a table, to the last digit; and which of two versions is the newer one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/json_text.h"
#include "common/sql_engine.h"
#include "common/status.h"

namespace inflight {

// Of a column that is made for this value.
[[nodiscard]] SqlType sql_type_for(Value const& value);

struct SqlValue {
  enum class Kind : char { null, integer, real, text } kind = Kind::null;
  std::int64_t integer = 0;  // booleans are 0 and 1
  double real = 0;
  std::string_view text;
};

// Code::rejected: the column cannot hold it, or not without loss. `scratch` holds a text whose escapes had to be
// resolved; else the text is the value's own.
[[nodiscard]] Status convert(SqlColumn const& column, Value const& value, bool remove_nul, std::string& scratch,
                             SqlValue& out);

// Negative: a is older than b. Times as times (whatever their zone and digits), numbers as numbers, the rest by bytes.
[[nodiscard]] int compare_versions(std::string_view a, std::string_view b);

}  // namespace inflight

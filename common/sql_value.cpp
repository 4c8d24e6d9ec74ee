#include "common/sql_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "common/time.h"

namespace inflight {

namespace {

constexpr std::array<std::pair<std::string_view, SqlType>, 6> kTypes = {{{"text", SqlType::text},
                                                                         {"int", SqlType::integer},
                                                                         {"float", SqlType::real},
                                                                         {"bool", SqlType::boolean},
                                                                         {"time", SqlType::time},
                                                                         {"json", SqlType::json}}};

std::optional<std::int64_t> whole_number(std::string_view text) {
  std::int64_t number = 0;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<double> number(std::string_view text) {
  double value = 0;
  if (text.empty() || text.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool is_exact(std::int64_t whole) {
  auto const real = static_cast<double>(whole);
  return real < 0x1p63 && static_cast<std::int64_t>(real) == whole;
}

template <typename T>
int compare(T const& a, T const& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

}  // namespace

SqlType sql_type(std::string_view name) {
  auto const* const found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](auto const& type) { return type.first == name; });
  return found == kTypes.end() ? SqlType::any : found->second;
}

SqlType sql_type_for(Value const& value) {
  switch (value.kind) {
    case Value::Kind::boolean:
      return SqlType::boolean;
    case Value::Kind::number:
      if (value.raw.find_first_of(".eE") != std::string_view::npos) return SqlType::real;
      return whole_number(value.raw) ? SqlType::integer : SqlType::text;  // beyond 64 bits only text keeps the digits
    case Value::Kind::none:
    case Value::Kind::null:
      return SqlType::any;
    case Value::Kind::array:
    case Value::Kind::object:
      return SqlType::json;
    default:
      return SqlType::text;
  }
}

int compare_versions(std::string_view a, std::string_view b) {
  if (auto const x = parse_rfc3339(a), y = parse_rfc3339(b); x && y) return compare(*x, *y);
  if (auto const x = whole_number(a), y = whole_number(b); x && y) return compare(*x, *y);
  if (auto const x = number(a), y = number(b); x && y) return compare(*x, *y);
  return compare(a, b);
}

Status convert(SqlColumn const& column, Value const& value, bool remove_nul, std::string& scratch, SqlValue& out) {
  auto text = [&](std::string_view chars) {
    out.kind = SqlValue::Kind::text, out.text = chars;
    return Status{};
  };
  auto integer = [&](std::int64_t whole) {
    out.kind = SqlValue::Kind::integer, out.integer = whole;
    return Status{};
  };
  auto real_number = [&](double real) {
    out.kind = SqlValue::Kind::real, out.real = real;
    return Status{};
  };
  auto wrong = [&](char const* what) { return Status::rejected(fmt::format("{} {}", value.raw.substr(0, 100), what)); };
  if (value.kind == Value::Kind::null) {
    out.kind = SqlValue::Kind::null;
    return {};
  }
  if (column.as == SqlType::json) return text(value.raw);
  std::string_view chars = unquote(value.raw, scratch);
  if (value.kind == Value::Kind::string && chars.data() == scratch.data() &&
      chars.find('\0') != std::string_view::npos) {
    if (!remove_nul) return Status::rejected("\\u0000 in a text (--nul remove takes it out)");
    std::erase(scratch, '\0');
    chars = scratch;
  }
  bool const is_text = column.as == SqlType::text || (column.as == SqlType::any && column.holds == SqlType::text);
  if (is_text || value.kind == Value::Kind::object || value.kind == Value::Kind::array) {
    if (!is_text && column.as != SqlType::any) return wrong("is no scalar");
    return text(chars);
  }
  bool const truth = chars == "true";
  switch (column.as) {
    case SqlType::boolean:
      if (truth || chars == "1") return integer(1);
      if (chars == "false" || chars == "0") return integer(0);
      return wrong("is not a bool");
    case SqlType::integer:
      if (auto const whole = whole_number(chars)) return integer(*whole);
      return wrong("is not a 64-bit integer");
    case SqlType::real:
      if (auto const real = number(chars)) return real_number(*real);
      return wrong("is not a float");
    case SqlType::time:
      if (parse_rfc3339(chars)) return text(chars);
      return wrong("is not a time (RFC 3339)");
    default:
      break;
  }
  // As the column has it.
  if (value.kind == Value::Kind::boolean) return integer(truth ? 1 : 0);
  bool const numeric = column.holds == SqlType::integer || column.holds == SqlType::real;
  if (value.kind == Value::Kind::string && !numeric) return text(chars);
  if (auto const whole = whole_number(chars)) {
    if (column.holds == SqlType::real && !is_exact(*whole)) return wrong("loses digits in a column of floats");
    return integer(*whole);
  }
  if (auto const real = number(chars)) {
    // Without point and exponent it is an integer beyond 64 bits.
    if (chars.find_first_of(".eE") == std::string_view::npos) {
      return numeric ? wrong("is beyond 64 bits (a text column keeps its digits)") : text(chars);
    }
    return real_number(*real);
  }
  return value.kind == Value::Kind::number ? wrong("is beyond what a double holds") : text(chars);
}

}  // namespace inflight

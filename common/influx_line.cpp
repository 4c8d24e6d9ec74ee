#include "common/influx_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "common/json_text.h"

namespace inflight {

namespace {

constexpr std::int64_t kLastTime = 9'223'372'036'854'775'806;  // and, negated, the first: 1677-09-21 to 2262-04-11
constexpr std::size_t kLongestSeries = 65'535;
constexpr std::size_t kMostNames = 10'000;  // a stream whose keys never repeat must not fill the memory
constexpr std::array<std::int64_t, 4> kUnits = {1, 1'000, 1'000'000, 1'000'000'000};

enum class Place { measurement, tag, field };

// Appends a measurement, the name or value of a tag, or the name of a field; false where no line can hold it.
bool append_name(std::string& line, std::string_view text, Place place) {
  if (text.empty() || text.back() == '\\') return false;
  // Where a part of the line begins, tabs are passed over; a line that begins so is a comment.
  if (text.front() == '\t' && place != Place::tag) return false;
  if (text.front() == '#' && place == Place::measurement) return false;
  if (text.find_first_of(std::string_view("\n\r\0", 3)) != std::string_view::npos) return false;
  char before = '\0';
  for (char const c : text) {
    bool const special = c == ',' || c == ' ' || (c == '=' && place != Place::measurement);
    // Escaped, it would read as an escaped backslash and a bare separator: parsers differ about it, and 1.6 with
    // itself.
    if (special && before == '\\') return false;
    if (special) line += '\\';
    line += before = c;
  }
  return true;
}

Status not_a_name(std::string_view what, std::string_view name) {
  return Status::rejected(
      fmt::format("{} {} cannot be written: empty, a line break, NUL or leading tab in it, or a "
                  "backslash at its end",
                  what, json_string(name.substr(0, 100))));
}

// Appends a JSON string, escapes and all, as a field's text; nothing of its size is held beside it, since it may be
// long.
bool append_text(std::string& line, std::string_view raw) {
  raw = raw.substr(1, raw.size() - 2);
  line.reserve(line.size() + raw.size() + 64);
  line += '"';
  while (!raw.empty()) {
    std::size_t const escape = std::min(raw.find('\\'), raw.size());
    line.append(raw.substr(0, escape));
    raw.remove_prefix(escape);
    if (raw.size() < 2) break;
    char const c = raw[1];
    std::size_t size = 2;
    if (c == '"' || c == '\\') {
      line.append(raw.substr(0, 2));  // the same in both
    } else {
      if (c == 'u') size = std::min<std::size_t>(6, raw.size());
      if (size == 6 && raw.size() >= 12 && raw[6] == '\\' && raw[7] == 'u' && (raw[2] == 'd' || raw[2] == 'D'))
        size = 12;
      std::string character;
      if (!append_unquoted(character, fmt::format("\"{}\"", raw.substr(0, size)))) return false;
      for (char const part : character) {
        if (part == '"' || part == '\\') line += '\\';
        line += part;
      }
    }
    raw.remove_prefix(size);
  }
  if (!raw.empty()) return false;
  line += '"';
  return true;
}

template <typename Number>
std::errc parse(std::string_view text, Number& number) {
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end != text.data() + text.size() ? std::errc::invalid_argument : error;
}

bool is_exact(std::string_view integer) {
  std::int64_t number = 0;
  if (parse(integer, number) != std::errc{}) return false;
  auto const real = static_cast<double>(number);
  return real < 0x1p63 && static_cast<std::int64_t>(real) == number;
}

bool present(Value const& value) { return value && value.kind != Value::Kind::null; }

// `PATH:suffix` where `known` knows the suffix; a path may have colons of its own (XML namespaces).
template <typename Known>
std::string_view cut_suffix(std::string_view& text, Known known) {
  std::size_t const colon = text.rfind(':');
  if (colon == std::string_view::npos || !known(text.substr(colon + 1))) return {};
  std::string_view const suffix = text.substr(colon + 1);
  text = text.substr(0, colon);
  return suffix;
}

constexpr std::array<std::string_view, 6> kTypes = {"", "float", "int", "uint", "string", "bool"};
constexpr std::array<std::string_view, 5> kFormats = {"rfc3339", "unix", "unixms", "unixus", "unixns"};

template <std::size_t N>
std::size_t index_in(std::array<std::string_view, N> const& names, std::string_view name) {
  return static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

}  // namespace

Result<std::vector<std::pair<InfluxLine::Column, Path>>> InfluxLine::columns(InfluxLineOptions const& options,
                                                                             bool tags) {
  std::vector<std::pair<Column, Path>> found;
  bool subject = tags && !options.no_subject;
  for (std::string const& text : tags ? options.tags : options.fields) {
    std::string const option = fmt::format("{} {}", tags ? "--tag" : "--field", text);
    std::size_t const equals = text.find('=');
    if (equals == 0 || equals == std::string::npos)
      return Status::usage(fmt::format("{}: not name=PATH{}", option, tags ? "" : "[:type]"));
    Column column;
    column.name = text.substr(0, equals);
    std::string_view path = std::string_view(text).substr(equals + 1);
    if (!tags) {
      std::string_view const type = cut_suffix(
          path, [](std::string_view name) { return !name.empty() && index_in(kTypes, name) < kTypes.size(); });
      column.type = static_cast<Type>(index_in(kTypes, type));
    }
    if (column.type == Type::whole && !options.unsigned_integers)
      return Status::usage(option + ": InfluxDB 1 has no unsigned integers");
    // A tag `time` is refused by the engine; a field of this name vanishes in silence.
    if (column.name == "time" || (tags && (column.name == "_field" || column.name == "_measurement")))
      return Status::usage(fmt::format("{}: {} is a name that InfluxDB keeps for itself", option, column.name));
    if (!append_name(column.key, column.name, tags ? Place::tag : Place::field))
      return Status::usage(not_a_name("the name", column.name).at(option).what());
    auto parsed = Path::parse(path);
    if (!parsed) return parsed.status().at(option);
    subject = subject && parsed->text() != "subject";
    column.hash = std::hash<std::string_view>{}(column.name);
    found.emplace_back(std::move(column), std::move(*parsed));
  }
  if (subject) {
    if (auto path = Path::parse("subject"); path) found.emplace_back(Column{"subject", "subject"}, std::move(*path));
  }
  // The engine is quickest with tags in the order of their names.
  if (tags)
    std::sort(found.begin(), found.end(), [](auto const& a, auto const& b) { return a.first.name < b.first.name; });
  return found;
}

Result<std::unique_ptr<InfluxLine>> InfluxLine::make(InfluxLineOptions const& options) {
  auto tags = columns(options, true);
  if (!tags) return tags.status();
  auto fields = columns(options, false);
  if (!fields) return fields.status();
  std::set<std::string> names;
  for (auto const* list : {&*tags, &*fields}) {
    for (auto const& [column, path] : *list) {
      if (!names.insert(column.name).second)
        return Status::usage(fmt::format("{} is the name of two tags or fields", column.name));
    }
  }

  std::vector<Path> paths;
  std::string_view timestamp = options.timestamp;
  std::string_view const format =
      cut_suffix(timestamp, [](std::string_view name) { return index_in(kFormats, name) < kFormats.size(); });
  auto when = Path::parse(timestamp);
  if (!when) return when.status().at("--timestamp");
  paths.push_back(std::move(*when));

  std::string_view what = options.measurement;
  bool const braces = what.size() > 2 && what.front() == '{' && what.back() == '}';
  bool const is_path = braces || what.starts_with('/');
  if (is_path) {
    auto path = Path::parse(braces ? what.substr(1, what.size() - 2) : what);
    if (!path) return path.status().at("--measurement");
    paths.push_back(std::move(*path));
  }
  for (auto const* list : {&*tags, &*fields}) {
    for (auto const& [column, path] : *list) paths.push_back(path);
  }

  std::unique_ptr<InfluxLine> made(new InfluxLine(options, paths));
  InfluxLine& line = *made;
  if (auto parsed = TimeFormat::parse(format.empty() ? "rfc3339" : format); parsed) line.format_ = *parsed;
  line.measurement_is_path_ = is_path;
  if (!is_path && !append_name(line.measurement_, what, Place::measurement))
    return Status::usage(not_a_name("--measurement", what).what());
  for (auto& [column, path] : *tags) line.tags_.push_back(std::move(column));
  for (auto& [column, path] : *fields) line.fields_.push_back(std::move(column));
  line.first_tag_ = is_path ? 2 : 1;
  line.first_field_ = line.first_tag_ + line.tags_.size();
  return made;
}

InfluxLine::InfluxLine(InfluxLineOptions options, std::vector<Path> const& paths)
    : options_(std::move(options)), selector_(paths) {}

Status InfluxLine::write(Record const& record, std::string& line, InfluxPoint& point, bool& blank) {
  std::size_t const before = line.size();
  blank = false;
  Status status = begin(record, line);
  point.series = static_cast<std::uint32_t>(line.size() - before);
  if (status.ok() && point.series > kLongestSeries)
    status = Status::rejected(fmt::format("measurement and tags of {} bytes, over {}", point.series, kLongestSeries));
  if (status.ok()) {
    status = write_fields(record, line, point);
    blank = status.ok() && written_.empty();
    if (blank) status = Status::rejected("no field: nothing in this record is a value");
    if (blank && !fields_.empty())
      status = Status::rejected("no field: this record has none of those that --field names");
  }
  if (status.ok()) {
    point.time = static_cast<std::uint32_t>(line.size() - before + 1);
    status = write_time(line);
  }
  if (!status.ok()) line.resize(before);
  return status;
}

Status InfluxLine::begin(Record const& record, std::string& line) {
  if (record.is_deletion()) return Status::rejected("a deletion: points are not deleted");
  if (Status status = selector_.select(record, values_); !status.ok()) return status;
  if (!measurement_is_path_) {
    line += measurement_;
  } else {
    Value const& value = values_[1];
    if (!present(value) || value.kind == Value::Kind::object || value.kind == Value::Kind::array)
      return Status::rejected(fmt::format("no measurement: --measurement {} names none", options_.measurement));
    std::string_view const name = unquote(value.raw, scratch_);
    if (!append_name(line, name, Place::measurement)) return not_a_name("the measurement", name);
  }
  return write_tags(line);
}

Status InfluxLine::write_tags(std::string& line) {
  for (std::size_t i = 0; i < tags_.size(); ++i) {
    Value const& value = values_[first_tag_ + i];
    if (!present(value)) continue;
    if (value.kind == Value::Kind::object || value.kind == Value::Kind::array)
      return Status::rejected(fmt::format("tag {}: is no scalar", tags_[i].name));
    std::string_view const text = unquote(value.raw, scratch_);
    if (text.empty()) continue;  // to the engine, no tag
    line.append(1, ',').append(tags_[i].key).append(1, '=');
    if (!append_name(line, text, Place::tag)) return not_a_name(fmt::format("tag {}:", tags_[i].name), text);
  }
  return {};
}

// A tag, the time or the measurement: what is that is no field as well.
bool InfluxLine::is_taken(Value const& value) const {
  return std::any_of(values_.begin(), values_.end(), [&](Value const& v) { return v.raw.data() == value.raw.data(); });
}

InfluxLine::Column const& InfluxLine::column_of(std::string_view name) {
  std::string found(name);
  if (auto const known = by_name_.find(found); known != by_name_.end()) return known->second;
  bool const taken =
      name == "time" || std::any_of(tags_.begin(), tags_.end(), [&](Column const& tag) { return tag.name == name; });
  if (taken) return column_of(found.insert(0, "data_"));
  Column column;
  column.name = name;
  if (!append_name(column.key, column.name, Place::field)) column.key.clear();
  column.hash = std::hash<std::string_view>{}(column.name);
  return by_name_.emplace(std::move(found), std::move(column)).first->second;
}

Status InfluxLine::write_fields(Record const& record, std::string& line, InfluxPoint& point) {
  written_.clear();
  point.names = 0;
  char separator = ' ';
  auto const write_one = [&](Column const& column, Value const& value) {
    if (column.key.empty()) return not_a_name("the field", column.name);
    line.append(1, separator).append(column.key).append(1, '=');
    separator = ',';
    point.names += column.hash;  // in any order
    written_.push_back(&column);
    return write_value(column, value, line);
  };
  if (!fields_.empty()) {
    for (std::size_t i = 0; i < fields_.size(); ++i) {
      Value const& value = values_[first_field_ + i];
      if (!present(value)) continue;
      if (Status status = write_one(fields_[i], value); !status.ok()) return status;
    }
    return {};
  }
  if (by_name_.size() > kMostNames) by_name_.clear(), hints_.clear();
  if (Status status = reader_.read(record, found_); !status.ok()) return status;
  for (std::size_t i = 0; i < found_.size(); ++i) {
    FieldValue const& field = found_[i];
    if (field.attribute || !present(field.value) || is_taken(field.value)) continue;
    if (i >= hints_.size()) hints_.resize(i + 1);
    if (hints_[i].second == nullptr || hints_[i].first.data() != field.name.data() || hints_[i].first != field.name)
      hints_[i] = {field.name, &column_of(field.name)};
    Column const& column = *hints_[i].second;
    if (std::find(written_.begin(), written_.end(), &column) != written_.end())
      return Status::rejected(fmt::format("two values are the field {} (--field tells them apart)", column.name));
    if (Status status = write_one(column, field.value); !status.ok()) return status;
  }
  return {};
}

Status InfluxLine::write_value(Column const& column, Value const& value, std::string& line) {
  auto const wrong = [&](char const* what) {
    return Status::rejected(fmt::format("field {}: {} {}", column.name, value.raw.substr(0, 100), what));
  };
  if (value.kind == Value::Kind::object || value.kind == Value::Kind::array) return wrong("is no scalar");
  bool const is_text = value.kind == Value::Kind::string;
  if (is_text && (column.type == Type::any || column.type == Type::text))
    return append_text(line, value.raw) ? Status{} : wrong("is not JSON");
  std::string_view const text = unquote(value.raw, scratch_);
  switch (column.type) {
    case Type::text:
      line.append(1, '"').append(text).append(1, '"');
      return {};
    case Type::any:
      if (value.kind == Value::Kind::number) return write_number(column, value, text, line);
      line += text;
      return {};
    case Type::boolean:
      if (text != "true" && text != "false" && text != "1" && text != "0") return wrong("is not a bool");
      line += text == "true" || text == "1" ? "true" : "false";
      return {};
    default:
      return write_number(column, value, text, line);
  }
}

Status InfluxLine::write_number(Column const& column, Value const& value, std::string_view text,
                                std::string& line) const {
  auto const wrong = [&](char const* what) {
    return Status::rejected(fmt::format("field {}: {} {}", column.name, value.raw.substr(0, 100), what));
  };
  std::int64_t integer = 0;
  std::uint64_t whole = 0;
  double real = 0;
  switch (column.type) {
    case Type::integer:
      if (parse(text, integer) != std::errc{}) return wrong("is not a 64-bit integer");
      fmt::format_to(std::back_inserter(line), "{}i", integer);
      return {};
    case Type::whole:
      if (parse(text, whole) != std::errc{}) return wrong("is not an unsigned 64-bit integer");
      fmt::format_to(std::back_inserter(line), "{}u", whole);
      return {};
    default:
      break;
  }
  if (value.kind == Value::Kind::string && !is_json_number(text)) return wrong("is not a number");
  bool const plain = text.find_first_of(".eE") == std::string_view::npos;
  if (text.size() > 15) {  // shorter ones without exponent fit
    if (parse(text, real) != std::errc{}) return wrong("is beyond what a double holds");
    if (plain && column.type == Type::any && !is_exact(text))
      return wrong("loses digits as a float: declare it with --field name=PATH:int, :string, or :float");
  } else if (!plain && parse(text, real) != std::errc{}) {
    return wrong("is beyond what a double holds");
  }
  line += text;
  return {};
}

Status InfluxLine::write_time(std::string& line) {
  Value const& value = values_[0];
  if (!present(value)) {
    return Status::rejected(
        fmt::format("no time: it has no {} (--timestamp names another; the engine's own would differ each time)",
                    options_.timestamp));
  }
  std::optional<Time> const time = format_.read(unquote(value.raw, scratch_));
  if (!time || time->ns > kLastTime || time->ns < -kLastTime) {
    return Status::rejected(
        fmt::format("time {} is none that InfluxDB can hold: {}, 1677-09-21 to 2262-04-11", value.raw.substr(0, 100),
                    options_.timestamp.find(":unix") == std::string::npos ? "RFC 3339" : "a count"));
  }
  std::int64_t const unit = kUnits[static_cast<std::size_t>(options_.precision)];
  std::int64_t count = time->ns / unit;
  std::int64_t const rest = time->ns % unit;
  if (rest != 0 && !options_.round_time)
    return Status::rejected(fmt::format("time {} is finer than --precision (--round-time cuts it)", value.raw));
  if (rest < 0 && count > -(kLastTime / unit)) --count;  // rounds down, but not out of the range
  fmt::format_to(std::back_inserter(line), " {}", count);
  return {};
}

}  // namespace inflight

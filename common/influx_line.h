// Records as points of InfluxDB, in line protocol (docs.influxdata.com, "Line protocol reference"; what 1.6 makes of
// each byte was asked of it):
//
//   measurement,tag=value,tag=value field=value,field=value time
//
// What a line cannot hold is rejected, never changed: a newline in a tag, a backslash at the end of a name or tag, a
// measurement that begins like a comment, a number beyond its type, a time beyond the engine's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/fields.h"
#include "common/path.h"
#include "common/record.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

enum class InfluxPrecision : char { ns, us, ms, s };

struct InfluxLineOptions {
  std::string measurement = "record";
  std::vector<std::string> tags;    // name=PATH
  std::vector<std::string> fields;  // name=PATH[:type]; empty: all scalars of the data
  std::string timestamp = "time";   // PATH[:format]
  InfluxPrecision precision = InfluxPrecision::ns;
  bool no_subject = false;
  bool round_time = false;
  bool unsigned_integers = true;  // the engine has them (not 1.x)
};

// Where things stand in a line. Two points of equal series and time are one to the engine.
struct InfluxPoint {
  std::uint32_t series = 0;  // length of measurement and tags
  std::uint32_t time = 0;    // where the time begins
  std::uint64_t names = 0;   // a hash of the names of its fields
};

class InfluxLine {
 public:
  // Code::usage: the options are wrong.
  [[nodiscard]] static Result<std::unique_ptr<InfluxLine>> make(InfluxLineOptions const& options);

  // Appends the record's line, without newline. Code::rejected: the record's own fault, and `line` is as it was;
  // `blank` then says whether all that it lacks is a field.
  [[nodiscard]] Status write(Record const& record, std::string& line, InfluxPoint& point, bool& blank);

 private:
  enum class Type : char { any, real, integer, whole, text, boolean };  // whole: unsigned
  struct Column {
    std::string key;  // escaped
    std::string name;
    Type type = Type::any;
    std::uint64_t hash = 0;
  };
  InfluxLine(InfluxLineOptions options, std::vector<Path> const& paths);
  static Result<std::vector<std::pair<Column, Path>>> columns(InfluxLineOptions const& options, bool tags);

  Status begin(Record const& record, std::string& line);
  Status write_tags(std::string& line);
  Status write_fields(Record const& record, std::string& line, InfluxPoint& point);
  Status write_time(std::string& line);
  Status write_value(Column const& column, Value const& value, std::string& line);
  Status write_number(Column const& column, Value const& value, std::string_view text, std::string& line) const;
  [[nodiscard]] bool is_taken(Value const& value) const;
  Column const& column_of(std::string_view name);

  InfluxLineOptions options_;
  TimeFormat format_;
  bool measurement_is_path_ = false;
  std::string measurement_;  // escaped, where all records have the same
  std::vector<Column> tags_, fields_;
  Selector selector_;          // of what follows, in this order
  std::vector<Value> values_;  // time, measurement if it is a path, tags, fields
  std::size_t first_tag_ = 0, first_field_ = 0;

  Fields reader_;  // where no option names fields
  std::vector<FieldValue> found_;
  std::vector<std::pair<std::string_view, Column const*>> hints_;  // of the record before, most often the same again
  std::unordered_map<std::string, Column> by_name_;
  std::vector<Column const*> written_;  // fields of the record at hand
  std::string scratch_;
};

}  // namespace inflight

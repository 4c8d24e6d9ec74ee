#include "common/influx_answer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/json_text.h"

namespace inflight {

namespace {

// Of
// {"results":[{"statement_id":0,"series":[{"name":"m","columns":[…],"values":[[…],…],"partial":true}],"partial":true}]}
// the depth of members, as JsonSplitter counts.
constexpr std::size_t kTop = 1, kResult = 2, kOfResult = 3, kSeries = 4, kOfSeries = 5, kRow = 6;

// The values of an array of scalars, as they are written; false where it is none.
bool split(std::string_view array, std::vector<std::string_view>& values) {
  values.clear();
  if (array.size() < 2 || array.front() != '[') return false;
  for (std::size_t i = 1; i < array.size() - 1;) {
    if (array[i] == ' ') {
      ++i;
      continue;
    }
    std::size_t const begin = i;
    if (array[i] == '"') {
      for (++i; i < array.size() && array[i] != '"'; ++i) i += array[i] == '\\' ? 1 : 0;
      ++i;
    } else {
      while (i < array.size() - 1 && array[i] != ',') ++i;
    }
    if (i >= array.size()) return false;
    values.push_back(array.substr(begin, i - begin));
    if (!is_json_scalar(values.back()) || (array[i] != ',' && i != array.size() - 1)) return false;
    ++i;
  }
  return true;
}

}  // namespace

Status InfluxAnswerReader::feed(std::string_view bytes) {
  while (!bytes.empty()) {
    std::size_t const end = std::min(bytes.find('\n'), bytes.size());
    if (end > 0) {
      if (!begun_) more_ = false;
      begun_ = true;
      if (Status status = splitter_.feed(bytes.substr(0, end)); !status.ok()) return status;
    }
    if (end == bytes.size()) return {};
    bytes.remove_prefix(end + 1);
    if (begun_) {
      if (Status status = splitter_.finish(); !status.ok()) return status;
    }
    begun_ = false;
  }
  return {};
}

Status InfluxAnswerReader::finish() {
  if (begun_) {
    if (Status status = splitter_.finish(); !status.ok()) return status;
  }
  return more_ ? Status::temporary("the answer was cut short") : Status{};
}

bool InfluxAnswerReader::descend(std::size_t depth, std::string_view key) {
  if (depth == kSeries) {
    columns_.clear();
    tags_.clear();
    series_ = false;
  }
  return (depth == kTop && key == "results") || depth == kResult || (depth == kOfResult && key == "series") ||
         depth == kSeries || (depth == kOfSeries && key == "values");
}

Status InfluxAnswerReader::member(std::size_t depth, std::string_view key, std::string_view value, bool whole) {
  if (!whole) return Status::usage("a row, or the names of its columns, of more than 16 MiB");
  if (depth == kRow) {
    if (!split(value, values_) || values_.size() != columns_.size()) return Status::usage("a row that is none");
    if (!series_) {
      if (Status status = rows_.series(columns_, tags_); !status.ok()) return status;
      series_ = true;
    }
    return rows_.row(values_);
  }
  if ((depth == kTop || depth == kOfResult) && key == "error" && error_.empty()) {
    if (!append_unquoted(error_, value)) error_ = value;
  } else if ((depth == kOfResult || depth == kOfSeries) && key == "partial") {
    more_ = more_ || value == "true";
  } else if (depth == kOfSeries && (key == "columns" || key == "tags")) {
    auto const json = nlohmann::json::parse(value, nullptr, false);
    if (key == "columns") {
      for (auto const& column : json) columns_.push_back(column.is_string() ? column.get<std::string>() : "");
    } else {
      for (auto const& [name, text] : json.items()) tags_.emplace_back(name, text.dump());
    }
  } else if (depth == kOfResult && key == "statement_id" && value != "0") {
    return Status::usage("one SELECT at a time");
  }
  return {};
}

}  // namespace inflight

#include "common/repair_event.h"

#include <fmt/format.h>

#include "common/json_text.h"

namespace inflight {

Result<RepairEvents> RepairEvents::make(std::string const& kinds, std::string const& dataref,
                                        std::vector<Path> const& key, Time now) {
  RepairEvents events;
  for (std::size_t begin = 0; begin < kinds.size() || (begin > 0 && begin == kinds.size());) {
    std::size_t const end = std::min(kinds.find(',', begin), kinds.size());
    std::string_view const kind = std::string_view(kinds).substr(begin, end - begin);
    if (kind != "missing" && kind != "different")
      return Status::usage(fmt::format("--emit '{}': missing, different, or both joined by a comma", kind));
    (kind == "missing" ? events.missing_ : events.different_) = true;
    begin = end + 1;
  }
  for (Path const& path : key) events.is_time_.push_back(path.text() == "time");
  events.now_ = format_rfc3339(now);
  if (dataref.empty()) return events;
  auto parsed = Template::parse(dataref);
  if (!parsed) return parsed.status().at("--dataref");
  events.dataref_ = std::move(*parsed);
  Difference sample{Difference::Kind::missing, "[", ""};
  for (std::size_t i = 0; i < key.size(); ++i)
    sample.key += fmt::format("{}\"{}\"", i == 0 ? "" : ",", events.is_time_[i] ? events.now_ : "x");
  sample.key += ']';
  auto tried = events.make(sample);
  if (!tried) return Status::usage(fmt::format("--dataref: {}", tried.status().what()));
  return events;
}

bool RepairEvents::wants(Difference::Kind kind) const {
  return (kind == Difference::Kind::missing && missing_) || (kind == Difference::Kind::different && different_);
}

Result<std::string> RepairEvents::make(Difference const& difference) {
  std::string parts = fmt::format("{{\"key\":{}}}", difference.key);
  std::vector<Path> paths;
  for (std::size_t i = 0; i < is_time_.size(); ++i) paths.push_back(*Path::parse(fmt::format("/key/{}", i)));
  Record record;
  std::vector<Value> values;
  if (Status status = parser_.parse_padded(parts, record); !status.ok()) return status;
  if (Status status = Selector(paths).select(record, values); !status.ok()) return status;
  std::string subject, time, scratch;
  bool first = true;
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::string_view const text = unquote(values[i].raw, scratch);
    if (is_time_[i] && parse_rfc3339(text)) {
      time = text;
      continue;
    }
    if (!first) subject += ',';
    first = false;
    subject += text;
  }
  if (first) subject = time;
  std::string const id = fmt::format("{}/{}/{}", name_of(difference.kind), difference.key, now_);
  std::string line =
      fmt::format(R"({{"specversion":"1.0","id":{},"source":"reconcile","type":"reconcile.{}","subject":{})",
                  json_string(id), name_of(difference.kind), json_string(subject));
  if (!time.empty()) line += fmt::format(R"(,"time":{})", json_string(time));
  line += fmt::format(R"(,"recordedtime":"{}"}})", now_);
  if (!dataref_) return line;
  if (Status status = parser_.parse_padded(line, record); !status.ok()) return status;
  std::string dataref;
  if (Status status = dataref_->expand(record, dataref); !status.ok())
    return Status::temporary(fmt::format("--dataref: {}", status.what()));
  line.pop_back();
  return fmt::format(R"({},"dataref":{}}})", line, json_string(dataref));
}

}  // namespace inflight

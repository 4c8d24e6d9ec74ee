// What --time and --subject take from a payload: an event's attributes, found by JSON Pointers into the converted data.
#pragma once

#include <optional>
#include <string>

#include "common/path.h"
#include "common/status.h"
#include "common/time.h"
#include "common/xml_json.h"

namespace inflight {

class XmlAttributes {
 public:
  // Empty paths are not asked for. Code::usage: one is none, or into no data; a time format that does not exist.
  [[nodiscard]] static Result<XmlAttributes> make(std::string const& time, std::string const& time_format,
                                                  std::string const& subject);

  // Of the record at hand. Code::rejected: what was asked for is not there, or no time of the format.
  [[nodiscard]] Status read(XmlJson const& xml);

  // JSON strings; empty where they were not asked for. The time is RFC 3339, in UTC.
  [[nodiscard]] std::string const& time() const { return time_; }
  [[nodiscard]] std::string const& subject() const { return subject_; }

 private:
  std::optional<Path> time_path_, subject_path_;
  TimeFormat format_;
  std::string time_, subject_, scratch_;
};

}  // namespace inflight

#include "common/xml_attributes.h"

#include <fmt/format.h>

#include "common/json_text.h"

namespace inflight {

namespace {

Status parse_pointer(std::string const& text, char const* option, std::optional<Path>& path) {
  if (text.empty()) return {};
  auto parsed = Path::parse(text);
  if (!parsed) return parsed.status().at(option);
  if (!parsed->in_data()) {
    return Status::usage(fmt::format("{} '{}': give a JSON Pointer into the converted data, /bsu/@id", option, text));
  }
  path = *parsed;
  return {};
}

}  // namespace

Result<XmlAttributes> XmlAttributes::make(std::string const& time, std::string const& time_format,
                                          std::string const& subject) {
  XmlAttributes made;
  auto format = TimeFormat::parse(time_format);
  if (!format) return format.status().at("--time-format");
  made.format_ = *format;
  if (Status status = parse_pointer(time, "--time", made.time_path_); !status.ok()) return status;
  if (Status status = parse_pointer(subject, "--subject", made.subject_path_); !status.ok()) return status;
  return made;
}

Status XmlAttributes::read(XmlJson const& xml) {
  if (subject_path_ && !xml.find(*subject_path_, subject_))
    return Status::rejected(fmt::format("--subject {} names nothing here", subject_path_->text()));
  if (!time_path_) return {};
  std::string const& path = time_path_->text();
  if (!xml.find(*time_path_, time_)) return Status::rejected(fmt::format("--time {} names nothing here", path));
  std::string_view const text = unquote(time_, scratch_);
  auto const at = format_.read(text);
  if (!at) return Status::rejected(fmt::format("--time {}: '{:.60}' is not of the --time-format", path, text));
  time_ = json_string(format_rfc3339(*at));
  return {};
}

}  // namespace inflight

// XML files become bare records on standard output: one each, or one for each element of --each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/io.h"
#include "common/status.h"
#include "common/xml_attributes.h"
#include "common/xml_json.h"

namespace inflight {

// `-` among the files is standard input. A record, or the rest of a file, that is rejected is a message with its line,
// and what follows it goes on; then the status is Exit::rejected. A time and a subject become members of the record.
// `max_record` bounds a record as text and as JSON, and one tag, comment or CDATA section, in bytes.
[[nodiscard]] Exit convert_xml_files(Io& io, std::vector<std::string> const& files, XmlJson& xml,
                                     XmlAttributes& attributes, std::uint64_t max_record);

}  // namespace inflight

// The points of a measurement, in the order of time and tags, or the rows of a SELECT, over InfluxQL.
//
// Memory grows with the points of one and the same time, not with those of the measurement.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/http_message.h"
#include "common/influx_api.h"
#include "common/keyed_rows.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct InfluxReadOptions {
  std::string url;
  std::string measurement, query;  // one of them
  std::string columns;             // of the measurement, separated by commas; empty: all
  std::vector<std::string> tags;   // name=value: only points with these
  std::optional<Time> from, to;    // half-open
  InfluxCredentials credentials;
};

class InfluxRows : public KeyedRows {
 public:
  // Opens nothing. Code::usage: the options are wrong.
  [[nodiscard]] static Result<std::unique_ptr<InfluxRows>> make(InfluxReadOptions const& options,
                                                                HttpOptions const& http);
  // Which next() has given.
  [[nodiscard]] virtual std::uint64_t rows() const = 0;
};

}  // namespace inflight

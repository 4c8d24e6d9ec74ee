// InfluxDB's three generations of write requests: where they go, what they are signed with, and what their answers
// mean; and where queries go. Opens nothing.
//
//   http://host:8086?db=NAME[&rp=NAME]             1.x, POST /write
//   http://host:8086?bucket=NAME[&org=NAME]        2.x, POST /api/v2/write
//   http://host:8181/api/v3/write_lp?db=NAME       3.x
//
// An endpoint may stand in the URL of the others, too; what stands before it is a proxy's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/http_message.h"
#include "common/influx_line.h"
#include "common/status.h"

namespace inflight {

struct InfluxTarget {
  int version = 1;
  std::string url;     // with precision and all
  std::string shown;   // in messages
  bool local = false;  // on this machine

  // Code::usage: none that can be written to; a secret in it is never shown.
  [[nodiscard]] static Result<InfluxTarget> parse(std::string const& url, InfluxPrecision precision);
  // The same for InfluxQL, at /query of 1.x, which 2.x and 3.x have as well: `url` asks for times in nanoseconds and an
  // answer in chunks.
  [[nodiscard]] static Result<InfluxTarget> parse_query(std::string const& url);
};

struct InfluxCredentials {
  std::string user;           // INFLUX_USERNAME
  std::string password_file;  // INFLUX_PASSWORD
  std::string token_file;     // INFLUX_TOKEN, before it INFLUXDB3_AUTH_TOKEN where 3.x is written to

  // `Authorization: …` or nothing; what is secret in it is registered as such (messages.h). Code::usage: a file cannot
  // be read, or half of what is needed is there.
  [[nodiscard]] Result<std::vector<std::string>> headers(InfluxTarget const& target) const;
};

// What became of a request.
struct InfluxAnswer {
  enum class Kind {
    stored,
    refused,    // one or more points are at fault, by the server's words; others may be stored or not
    listed,     // 3.x: these lines are at fault, the others are stored
    doubtful,   // refused, and nothing shows whether it is the points' fault
    too_large,  // the body is
    cut,        // no answer came; a smaller body may be answered
    failed,     // `status`: temporary, or usage where it is the operator's
  };
  Kind kind = Kind::failed;
  std::string reason;         // the server's words, without its frame
  std::uint64_t dropped = 0;  // of refused, 1.x and 2.x: points that were parsed and not stored; 0: not told
  std::vector<std::pair<std::size_t, std::string>> lines;  // of listed, from 0, with reasons
  Status status;                                           // `URL: why`
};
// The server's words as they fit into a line of ours.
[[nodiscard]] std::string influx_words(std::string_view text);

// `points`: how many lines the request had.
[[nodiscard]] InfluxAnswer judge(InfluxTarget const& target, HttpResponse const& response, std::size_t points);

}  // namespace inflight

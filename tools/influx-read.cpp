// influx-read: write the points of a measurement as records, in the order of time and tags.  Manual: man/influx-read.1
#include <fmt/format.h>

#include <utility>

#include "common/influx_read.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/row_source.h"
#include "common/tool_main.h"
#include "common/url.h"

namespace {

using namespace inflight;

// What positions of the state belong to.
std::string identity_of(InfluxReadOptions const& options) {
  std::string text = fmt::format("influx-read {} {}", public_url(options.url), options.measurement + options.query);
  if (options.from) text += " from " + format_rfc3339(*options.from);
  if (options.to) text += " to " + format_rfc3339(*options.to);
  for (std::string const& tag : options.tags) text += " " + tag;
  return text;
}

Exit run(Cli& cli, Io& io) {
  InfluxReadOptions options;
  SourceOptions source;
  Duration give_up{}, timeout = std::chrono::minutes(1);
  cli.purpose("Write the points of a measurement as records, in the order of time and tags.",
              {"influx-read http://influx:8086?db=bsu --measurement reading --columns subject,time",
               "influx-read http://influx:8086?db=bsu --measurement reading --state points.state -- \\\n"
               "      'sql-write sqlite:points.db --create --key subject,time --table reading'"});
  cli.positional("URL", options.url, "http://HOST:PORT?db=NAME");
  cli.option("--measurement", options.measurement, "whose points are written");
  cli.option("--query", options.query, "or the rows of a SELECT of InfluxQL");
  cli.option("--from", options.from, "points from this time on");
  cli.option("--to", options.to, "points before this time");
  cli.option("--tag", options.tags, "name=value: only points with this tag; may be repeated");
  cli.option("--columns", options.columns, "tags and fields that are written, e.g. subject,time; by default all");
  cli.option("--user", options.credentials.user, "user name (default: INFLUX_USERNAME)");
  cli.option("--password-file", options.credentials.password_file, "file with the password (default: INFLUX_PASSWORD)");
  cli.option("--token-file", options.credentials.token_file, "file with the token (default: INFLUX_TOKEN)");
  cli.option("--timeout", timeout, "an answer is lost when nothing of it comes for so long");
  cli.option("--give-up", give_up, "exit 75 when InfluxDB fails for so long (without a pipeline: 10m, else never)");
  source.add_to(cli, true);
  if (auto stop = cli.parse()) return *stop;
  if (timeout < std::chrono::seconds(1)) return cli.wrong("--timeout: at least 1s");
  if (!options.query.empty() && !source.state.empty())
    return cli.wrong("--state belongs to --measurement: the rows of a query have no key to go on behind");
  HttpOptions http;
  http.max_in_flight = 2;
  http.timeout = std::chrono::hours(24 * 20);  // an answer may be long; silence may not
  http.connect_timeout = std::min<Duration>(timeout, std::chrono::seconds(10));
  http.stall = timeout;
  auto rows = InfluxRows::make(options, http);
  if (!rows) return cli.wrong(rows.status().what());
  if (options.from && options.to && *options.from == *options.to) {
    say_info(fmt::format("the range is empty: {} to {}", format_rfc3339(*options.from), format_rfc3339(*options.to)));
    return Exit::ok;
  }
  give_up = give_up_of(give_up, source);
  source.marks = options.query.empty();
  source.identity = identity_of(options);
  Progress const progress(cli.common());
  bool anew = true;
  Exit const exit = run_source(io, source, [&](Outlet& outlet) {
    anew = outlet.mark().empty();
    Status status = read_rows(io, **rows, public_url(options.url), give_up, outlet);
    if (status.ok() && anew && (*rows)->rows() == 0) say_info(fmt::format("{}: no points", public_url(options.url)));
    return status;
  });
  return exit;
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

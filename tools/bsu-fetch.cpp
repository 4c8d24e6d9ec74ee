// bsu-fetch: poll many units over HTTP, one event per answer, its payload untouched.  Manual: man/bsu-fetch.1
#include <fmt/format.h>

#include "common/fleet.h"
#include "common/http.h"
#include "common/metrics.h"
#include "common/poller.h"
#include "common/source.h"
#include "common/tool_main.h"
#include "common/url.h"

namespace {

using namespace inflight;

struct Options {
  std::string devices, url, ids;
  std::optional<Time> to;
  PollOptions poll;
  HttpOptions http;
  SourceOptions source;
};

// The units, each with `{since}` in its URL if, and only if, history is fetched.
Result<std::vector<FleetUnit>> read_fleet(Options const& o) {
  auto fleet = o.devices.empty() ? read_ids(o.ids, o.url) : read_devices(o.devices);
  if (!fleet) return fleet;
  for (FleetUnit const& unit : *fleet) {
    bool const since = unit.url.find("{since}") != std::string::npos;
    bool const until = unit.url.find("{until}") != std::string::npos;
    if (since != o.poll.history() || (until && !since)) {
      return Status::usage(fmt::format("{}: {{since}} in its URL and --from belong together", unit.id));
    }
  }
  return fleet;
}

// What is wrong with the options taken together, if anything.
std::string mistake(Options const& o) {
  if (o.devices.empty() == (o.url.empty() && o.ids.empty())) return "give either --devices, or --url and --ids";
  if (o.url.empty() != o.ids.empty()) return "--url and --ids belong together";
  if (!o.url.empty() && o.url.find("{id}") == std::string::npos) return "--url: has no {id} in it";
  if (public_url(o.url) != o.url) return "--url: secrets belong into a --header-file, or the URLs into --devices";
  if ((o.poll.every > Duration::zero()) + o.poll.once + o.poll.history() != 1)
    return "give one of --every, --once and --from";
  if (!o.poll.history() && (o.to || o.poll.step > Duration::zero())) return "--to and --step belong to --from";
  if (o.poll.history() && o.poll.to <= *o.poll.from) return "--to is not after --from";
  return "";
}

Exit run(Cli& cli, Io& io) {
  Options options;
  cli.purpose("Poll many units over HTTP and write one event per answer, its payload untouched.",
              {"bsu-fetch --devices fleet.txt --once | xml2json | sql-write sqlite:fleet.db",
               "bsu-fetch --devices fleet.txt --every 10s -- publish fleet/"});
  cli.option("--devices", options.devices, "file of `id URL` lines, or of {\"id\":…,\"url\":…}; read again on SIGHUP");
  cli.option("--url", options.url, "URL of every unit, e.g. https://api/bsus/{id}; with --ids");
  cli.option("--ids", options.ids, "file of ids, one a line; read again on SIGHUP");
  cli.option("--every", options.poll.every, "poll each unit once in this time, evenly spread");
  cli.flag("--once", options.poll.once, "poll each unit once and end");
  cli.option("--from", options.poll.from, "fetch history since then, into {since} and {until} of the URL");
  cli.option("--to", options.to, "until then (default: now)");
  cli.option("--step", options.poll.step, "in steps of this length (default: one step)");
  cli.flag("--emit-failures", options.poll.emit_failures, "an event of type bsu.unreachable for each poll that failed");
  options.http.add_to(cli);
  options.source.add_to(cli, false);
  if (auto stop = cli.parse()) return *stop;

  options.poll.to = options.to.value_or(io.clock.now());
  if (std::string const wrong = mistake(options); !wrong.empty()) return cli.wrong(wrong);
  if (options.poll.step <= Duration::zero()) options.poll.step = options.poll.to - options.poll.from.value_or(Time{});
  options.poll.limit = options.source.limit;
  options.poll.max_record = options.http.max_body;
  options.poll.read_fleet = [&] { return read_fleet(options); };
  auto fleet = options.poll.read_fleet();
  if (!fleet) return cli.wrong(fleet.status().what());
  auto http = HttpClient::make(options.http, io.clock);
  if (!http) return cli.wrong(http.status().what());
  options.poll.slots = (*http)->max_in_flight();
  Progress const progress(cli.common());
  return run_source(io, options.source,
                    [&](Outlet& outlet) { return poll_fleet(io, options.poll, *fleet, **http, outlet); });
}

}  // namespace

int main(int argc, char** argv) { return tool_main(argc, argv, run); }

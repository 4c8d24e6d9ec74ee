// throttle: pass records on no faster than a limit, or than a live system beside them bears.  Manual: man/throttle.1
#include "common/throttle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/digest.h"
#include "common/metrics.h"
#include "common/state_folder.h"
#include "common/tool_main.h"

namespace {

using inflight::Exit;
using inflight::Pacer;
using inflight::Status;

struct Options {
  inflight::Duration min_interval{};
  std::vector<std::string> rates;
  std::string burst;
  inflight::ThrottleOptions throttle;
  std::string probe;
  std::vector<std::string> targets;
  inflight::Rate start{10, false};
  inflight::Duration every = std::chrono::milliseconds(100);
};

Status read_limits(Options const& options, Pacer::Limits& limits) {
  limits.min_interval = options.min_interval;
  for (std::string const& text : options.rates) {
    auto const rate = inflight::parse_rate(text);
    if (!rate) return rate.status();
    (rate->bytes ? limits.bytes : limits.records) = rate->per_second;
  }
  if (options.burst.empty()) return {};
  auto const burst = inflight::parse_size(options.burst);
  if (!burst) return burst.status();
  bool const bytes = options.burst.find('B') != std::string::npos;
  (bytes ? limits.burst_bytes : limits.burst_records) = static_cast<double>(*burst);
  return {};
}

// A source starts us again with a clock that went on: each throttle of a pipeline has its own.
std::string default_state(Options const& options, std::string const& source) {
  std::string const folder = inflight::state_folder();
  if (source.empty() || folder.empty()) return "";
  std::string const who = fmt::format("{}\n{}\n{}\n{}\n{}", source, options.min_interval.count(),
                                      fmt::join(options.rates, " "), options.throttle.control, options.probe);
  return fmt::format("{}/throttle/{}", folder, inflight::to_hex(inflight::sha256(who)).substr(0, 16));
}

Exit run(inflight::Cli& cli, inflight::Io& io) {
  Options options;
  cli.purpose("Pass records on no faster than a limit, or than a live system bears.",
              {"consume fleet/ --as slow -- 'throttle --min-interval 25ms | xml2json | sql-write sqlite:fleet.db'",
               "throttle --rate 40/s --control rate.txt < events.ndjson | publish fleet/"});
  cli.option("--min-interval", options.min_interval, "no two records are closer than this");
  cli.option("--rate", options.rates, "at most so many records (40/s) or bytes (5MiB/s); both may be given");
  cli.option("--burst", options.burst, "records (10) or bytes (1MiB) that may pass at once after idling");
  cli.option("--control", options.throttle.control, "a file that changes the limits while they hold");
  cli.option("--guard", options.probe, "an URL or a command that shows how a live system fares");
  cli.option("--target", options.targets, "what must hold of it: p95=50ms, errors=1% or value=100 (may be repeated)");
  cli.option("--guard-every", options.every, "between two looks at it");
  cli.option("--start-rate", options.start, "where the guard begins");
  cli.option("--state", options.throttle.state, "keep the time of the next record here, for the next start");
  if (auto stop = cli.parse()) return *stop;
  if (Status status = read_limits(options, options.throttle.limits); !status.ok()) return cli.wrong(status.what());
  if (options.probe.empty() != options.targets.empty()) return cli.wrong("--guard and --target go together");
  if (options.start.bytes) return cli.wrong("--start-rate is of records");
  bool const limited = !options.throttle.limits.none() || !options.throttle.control.empty() || !options.probe.empty();
  if (limited && options.throttle.state.empty() && io.receipts.active()) {
    options.throttle.state = default_state(options, io.receipts.source());
  }
  inflight::Guard::Options guard{
      options.probe, {}, options.every, options.start.per_second, options.throttle.limits.records};
  for (std::string const& text : options.targets) {
    auto const target = inflight::parse_target(text);
    if (!target) return cli.wrong(target.status().what());
    guard.targets.push_back(*target);
  }
  inflight::Progress const progress(cli.common());
  if (guard.probe.empty()) return inflight::run_throttle(io, options.throttle, nullptr);
  auto started = inflight::Guard::start(guard, io.clock);
  if (!started) return cli.wrong(started.status().what());
  return inflight::run_throttle(io, options.throttle, started->get());
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

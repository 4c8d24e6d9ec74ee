// bsu-sim: a fleet of battery storage units that answers XML over HTTP, well or badly, as told.  Help: bsu-sim --help
#include <CLI/CLI.hpp>
#include <functional>

#include "tests/servers/bsu_options.h"
#include "tests/servers/bsu_past.h"
#include "tests/servers/bsu_server.h"
#include "tests/servers/sim_main.h"

namespace inflight::sim {
namespace {

void add_options(CLI::App& app, Options& o) {
  app.description("A fleet of battery storage units on loopback, deterministic by seed, that can be told to fail.");
  app.add_option("--units", o.units, "size of the fleet: bsu-00001 …")
      ->capture_default_str()
      ->check(CLI::Range(1, 9'999'999));
  app.add_option("--seed", o.seed, "another seed, another fleet")->capture_default_str();
  app.add_option("--port", o.port, "0: any that is free")->capture_default_str();
  app.add_option("--threads", o.threads, "threads that answer")->capture_default_str()->check(CLI::Range(1, 16));
  app.add_option("--firmware", o.firmware, "only these: attributes single elements latin1 namespaces sunspec")
      ->delimiter(',');
  app.add_option("--sunspec", o.sunspec, "share that speaks SunSpec Data Exchange, without --firmware")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--change-every", o.change_every,
                 "values stand this long (304 until then); default: each answer is new");
  app.add_option("--cadence", o.cadence, "distance of the readings of the history, and of the past")
      ->capture_default_str();
  app.add_option("--at", o.at, "the fleet's clock stands at this RFC 3339 time; each answer of a unit is 1 ms later");
  auto* from = app.add_option(
      "--from", o.from,
      "serve nobody: write the past from this RFC 3339 time on to standard output, as the events of bsu-fetch");
  app.add_option("--to", o.to, "the end of that past; default: now")->needs(from);
  app.add_flag("--gzip", o.gzip, "compress for clients that accept gzip");
  app.add_flag("--no-etag", o.no_etag, "no ETag: with --change-every, Last-Modified alone");
  app.add_option("--devices", o.devices, "write 'id URL' lines here when ready");
  app.add_option("--log", o.log,
                 "append one NDJSON line per answer of a unit: sequence, unit, time of the reading, outcome");
  std::string const faults = "Faults, each for a share of the units (0.2 or 20%), the same ones by seed";
  app.add_option("--slow", o.slow, "SHARE:DURATION, answers late")->group(faults);
  app.add_option("--black-hole", o.black_hole, "accepts and never answers")->group(faults);
  app.add_option("--error", o.error, "500, and 503 with Retry-After, in turn")->group(faults);
  app.add_option("--malformed", o.malformed, "XML that no parser may accept, six kinds in turn")->group(faults);
  app.add_option("--reshape", o.reshape, "good XML, another shape each time")->group(faults);
  app.add_option("--cut", o.cut, "the connection ends in the middle of the body")->group(faults);
  app.footer(
      "GET  /bsus/ID                        a reading, as XML\n"
      "GET  /bsus/ID/history?since=&until=  its readings in [since, until), one <reading> each\n"
      "GET  /bsus                           all ids, one a line\n"
      "GET  /stats  /stats/ID  /stats/all   counters as JSON; all: NDJSON, one line per unit\n"
      "POST "
      "/control?unit=ID[,ID]|all&fault=none|slow|black-hole|error|malformed|reshape|cut[&duration=2s][&status=429]\n"
      "POST /control?share=20%25&fault=…    the same for a share of the units\n"
      "POST /control?reset=stats");
}

}  // namespace
}  // namespace inflight::sim

int main(int argc, char** argv) {
  inflight::sim::Options options;
  auto const add = [&](CLI::App& app) { inflight::sim::add_options(app, options); };
  return inflight::sim::sim_main(argc, argv, "bsu-sim", add,
                                 [&](std::function<void(unsigned port)> const& until_stopped) {
                                   if (!options.from.empty()) return inflight::sim::write_past(options);
                                   inflight::sim::Sim sim(options);
                                   sim.start();
                                   if (!options.devices.empty()) sim.write_devices(options.devices);
                                   until_stopped(sim.port());
                                 });
}

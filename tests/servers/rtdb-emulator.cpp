// rtdb-emulator: the REST API of the Firebase Realtime Database on loopback, which can be told to fail.  Help:
// rtdb-emulator --help
#include <CLI/CLI.hpp>
#include <functional>

#include "tests/servers/rtdb_server.h"
#include "tests/servers/sim_main.h"

namespace inflight::sim {
namespace {

void add_options(CLI::App& app, RtdbOptions& o) {
  app.description(
      "The REST API of the Firebase Realtime Database on loopback, deterministic by seed, that can be told to fail.");
  app.add_option("--port", o.port, "0: any that is free")->capture_default_str();
  app.add_option("--documents", o.documents, "fill the collection with so many orders")->capture_default_str();
  app.add_option("--collection", o.collection, "its path")->capture_default_str();
  app.add_option("--seed", o.seed, "another seed, other documents")->capture_default_str();
  app.add_flag("--flat", o.flat, "the documents are numbers under keys k0000000 …");
  app.add_option("--data", o.data, "file that keeps all writes, read again at the next start");
  app.add_option("--keep-alive", o.keep_alive, "of streams")->capture_default_str();
  app.add_option("--max-response", o.max_response, "bytes; beyond, an answer is too big")->capture_default_str();
  app.add_option("--max-range", o.max_range, "bytes between a query's bounds that are too many; 0: none")
      ->capture_default_str();
  app.add_option("--max-write", o.max_write, "bytes")->capture_default_str();
  app.add_option("--tokens", o.tokens, "accept only these, by commas (default: no token is asked for)");
  app.footer(
      "/PATH.json      as https://firebase.google.com/docs/reference/rest/database has it, without rules, indexes,\n"
      "                priorities, JSONP and streams of queries; orderBy needs no index\n"
      "GET  /stats     counters as JSON: requests by kind, in flight, documents served, streams, the busiest second\n"
      "POST /control?fault=error|html|close|too-big|redirect|cut|slow|none[&kind=get|shallow|query|put|…|stream]\n"
      "              [&count=N][&status=503][&duration=2s]\n"
      "POST /control?streams=silence|resume|cut|cancel|auth_revoked\n"
      "POST /control?expire=TOKEN   POST /control?accept=TOKEN   POST /control?max_response=BYTES\n"
      "POST /control?reset=stats");
}

}  // namespace
}  // namespace inflight::sim

int main(int argc, char** argv) {
  inflight::sim::RtdbOptions options;
  auto const add = [&](CLI::App& app) { inflight::sim::add_options(app, options); };
  return inflight::sim::sim_main(argc, argv, "rtdb-emulator", add,
                                 [&](std::function<void(unsigned port)> const& until_stopped) {
                                   inflight::sim::Rtdb rtdb(options);
                                   rtdb.start();
                                   until_stopped(rtdb.port());
                                 });
}

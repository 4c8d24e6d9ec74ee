// rtdb-emulator: the REST API of the Firebase Realtime Database on loopback, which can be told to fail.  Help:
// rtdb-emulator --help
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdio>
#include <stdexcept>

#include "tests/servers/rtdb_server.h"

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

int run(RtdbOptions const& options) {
  // Blocked before any thread starts, so that only sigwait below takes them.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  signal(SIGPIPE, SIG_IGN);

  Rtdb rtdb(options);
  rtdb.start();
  fmt::print("rtdb-emulator: listening on http://127.0.0.1:{}\n", rtdb.port());
  std::fflush(stdout);
  int got = 0;
  sigwait(&stop, &got);
  return 0;
}

}  // namespace
}  // namespace inflight::sim

int main(int argc, char** argv) {
  CLI::App app;
  inflight::sim::RtdbOptions options;
  inflight::sim::add_options(app, options);
  try {
    app.parse(argc, argv);
    return inflight::sim::run(options);
  } catch (CLI::ParseError const& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    fmt::print(stderr, "rtdb-emulator: {}\n", e.what());
    return 2;
  } catch (std::invalid_argument const& e) {
    fmt::print(stderr, "rtdb-emulator: {}\n", e.what());
    return 2;
  } catch (std::exception const& e) {
    fmt::print(stderr, "rtdb-emulator: {}\n", e.what());
    return 1;
  }
}

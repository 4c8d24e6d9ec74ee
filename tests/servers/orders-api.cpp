// orders-api: a small REST service of orders on a PostgreSQL, which can be told to fail.  Help: orders-api --help
#include <CLI/CLI.hpp>
#include <functional>

#include "common/messages.h"
#include "tests/servers/orders_server.h"
#include "tests/servers/sim_main.h"

namespace inflight::sim {
namespace {

void add_options(CLI::App& app, OrdersOptions& o) {
  app.description(
      "A small REST service of orders on a PostgreSQL, with a hard limit on its connections, that can be told to "
      "fail.");
  app.add_option("database", o.database, "postgresql://… (default: as PG* variables say; the password in PGPASSWORD)");
  app.add_option("--port", o.port, "0: any that is free")->capture_default_str();
  app.add_option("--connections", o.connections, "to the database, at most; beyond, 503")->capture_default_str();
  app.add_option("--version-header", o.version_header,
                 "refuse a write whose number in this header is less than stored");
  app.add_option("--conflict", o.conflict, "the status of such a write, 409 or 412")->capture_default_str();
  app.add_option("--retry-after", o.retry_after, "of a 503, in seconds")->capture_default_str();
  app.add_option("--max-body", o.max_body, "bytes")->capture_default_str();
  app.footer(
      "PUT    /orders/KEY   "
      "{\"number\":17,\"status\":\"paid\",\"lines\":[{\"sku\":\"A-1\",\"quantity\":2,\"cents\":1250}]}: 201, 204\n"
      "                     and perhaps created, customer, email, city, zip, total, gift, note\n"
      "DELETE /orders/KEY   204, 404\n"
      "GET    /orders/KEY   200, 404\n"
      "GET    /orders       all of them, a line each, by the bytes of their keys\n"
      "A write that is no good: 400, 413, 422. One that is older than what is stored: --conflict. The database is "
      "away,\n"
      "or all connections are in use: 503. A 2xx is given after the commit.\n"
      "PUT    /_rules       {\"latency\":\"20ms\", "
      "\"refuse\":[{\"field\":\"/status\",\"value\":\"lost\",\"message\":\"…\"}],\n"
      "                     "
      "\"fail\":[{\"status\":503,\"method\":\"PUT\",\"every\":10,\"count\":100,\"for\":\"2s\",\"retry_after\":\"1\"},\n"
      "                             {\"close\":\"after\",\"count\":1}]}    GET shows, DELETE ends them\n"
      "GET    /_stats       counters as JSON; DELETE resets them");
}

}  // namespace
}  // namespace inflight::sim

int main(int argc, char** argv) {
  inflight::sim::OrdersOptions options;
  inflight::set_tool_name("orders-api");  // as the database's pg_stat_activity has it
  auto const add = [&](CLI::App& app) { inflight::sim::add_options(app, options); };
  return inflight::sim::sim_main(argc, argv, "orders-api", add,
                                 [&](std::function<void(unsigned port)> const& until_stopped) {
                                   inflight::sim::OrdersServer server(options);
                                   server.start();
                                   until_stopped(server.port());
                                 });
}

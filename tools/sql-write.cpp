// sql-write: store records as rows of a table.  Manual: man/sql-write.1
#include "common/metrics.h"
#include "common/sink_loop.h"
#include "common/sql_sink.h"
#include "common/tool_main.h"

namespace {

inflight::Exit run(inflight::Cli& cli, inflight::Io& io) {
  inflight::SqlOptions options;
  inflight::SinkOptions sink_options;
  std::size_t max_in_flight = 1;
  // Rows that fall all over a large table touch fewer pages in larger transactions. Under a source they stay well below
  // its --window, which a transaction holds up.
  sink_options.batch_records = io.receipts.active() ? 25'000 : 100'000;
  sink_options.batch_bytes = 16 << 20;
  cli.purpose(
      "Store records as rows of a table; a row that is there already is updated.",
      {"bsu-fetch --devices fleet.txt --once | xml2json | sql-write sqlite:fleet.db",
       "consume fleet/ --as data -- 'xml2json | sql-write sqlite:fleet.db --table reading --key subject,time \\\n"
       "      --column subject=subject --column time=time --column power=/bsu/power:float --create'"});
  cli.positional("DATABASE", options.url,
                 "sqlite:FILE or postgresql://[USER@]HOST[:PORT]/NAME (a password is in PGPASSWORD or ~/.pgpass)");
  cli.option("--table", options.table, "the table, or a template such as {type}: each record names its own");
  cli.option(
      "--column", options.columns,
      "name=PATH[:text|int|float|bool|time|json], may be repeated; without any: attributes and keys that match the "
      "table's columns");
  cli.option("--key", options.key,
             "columns that tell rows apart, e.g. subject,time; without it the table's primary key");
  cli.option("--on-conflict", options.on_conflict, "a row of this key is there: update, ignore, or newer:COLUMN");
  cli.flag("--create", options.create, "make the table and columns that are missing (a new file gets them unasked)");
  cli.flag("--round-time", options.round_time,
           "round a time that has more digits than its column holds, rather than reject its row");
  cli.choice("--nul", options.nul, {"reject", "remove"}, "what to do with \\u0000 in a text");
  cli.option("--max-in-flight", max_in_flight, "connections to PostgreSQL at a time, each with rows of other keys");
  sink_options.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  options.writer = io.receipts.source();
  auto sink = inflight::SqlSink::make(options, max_in_flight, io.clock);
  if (!sink) return cli.wrong(sink.status().what());
  inflight::Progress const progress(cli.common());
  return inflight::run_sink(io, **sink, sink_options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

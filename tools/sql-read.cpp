// sql-read: write the rows of a table or query as records, in the order of a key.  Manual: man/sql-read.1
#include <fmt/format.h>

#include "common/metrics.h"
#include "common/row_source.h"
#include "common/sql_read.h"
#include "common/tool_main.h"
#include "common/url.h"

namespace {

using namespace inflight;

Exit run(Cli& cli, Io& io) {
  SqlReadOptions options;
  SourceOptions source;
  Duration give_up{};
  cli.purpose("Write the rows of a table or query as records, in the order of a key.",
              {"sql-read sqlite:fleet.db --table record --columns subject,recordedtime",
               "sql-read postgresql://old/fleet --table reading --state reading.state -- \\\n"
               "      'sql-write postgresql://new/fleet --table reading'"});
  cli.positional("DATABASE", options.url,
                 "sqlite:FILE or postgresql://[USER@]HOST[:PORT]/NAME (a password is in PGPASSWORD or ~/.pgpass)");
  cli.option("--table", options.table, "the table");
  cli.option("--query", options.query, "or a SELECT");
  cli.option("--columns", options.columns, "those that are written, e.g. subject,time; by default all");
  cli.option("--key", options.key, "columns that tell rows apart and order them; by default the table's primary key");
  cli.option("--give-up", give_up, "exit 75 when the database fails for so long (without a pipeline: 10m, else never)");
  source.add_to(cli, true);
  if (auto stop = cli.parse()) return *stop;
  auto rows = SqlRows::make(options);
  if (!rows) return cli.wrong(rows.status().what());
  give_up = give_up_of(give_up, source);
  source.marks = true;
  source.identity =
      fmt::format("sql-read {} {} by {}", public_url(options.url), options.table + options.query, options.key);
  Progress const progress(cli.common());
  return run_source(io, source,
                    [&](Outlet& outlet) { return read_rows(io, **rows, public_url(options.url), give_up, outlet); });
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

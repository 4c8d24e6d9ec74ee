// sql-read: write the rows of a table or query as records, in the order of a key.  Manual: man/sql-read.1
#include <fmt/format.h>

#include <poll.h>

#include <utility>

#include "common/messages.h"
#include "common/metrics.h"
#include "common/retry.h"
#include "common/source.h"
#include "common/sql_read.h"
#include "common/stop.h"
#include "common/tool_main.h"
#include "common/url.h"

namespace {

using namespace inflight;

// All rows, again and again from behind the last one where the database fails for a while.
class Reading {
 public:
  Reading(Io& io, SqlRows& rows, std::string name, Duration give_up)
      : io_(io), rows_(rows), name_(std::move(name)), give_up_(give_up) {}

  Status run(Outlet& outlet) {
    after_ = outlet.mark();
    for (;;) {
      Status status = read(outlet);
      if (status.code() != Code::temporary) return status;
      if (status = wait(status.what()); !status.ok()) return status;
    }
  }

 private:
  Status read(Outlet& outlet) {
    std::string const done = after_;
    if (Status status = rows_.start(done); !status.ok()) return status;
    std::string line, key;
    for (bool skipped = false;;) {
      auto more = rows_.next(line, key);
      if (!more) return more.status();
      if (!*more) return {};
      if (key == done && !std::exchange(skipped, true)) continue;
      if (key == done || key == after_) return Status::usage(fmt::format("{}: two rows of key {}", name_, key));
      if (Status status = outlet.put(line, key); !status.ok()) return status;
      after_ = key;
      failing_since_.reset();
      if (stopping()) return {Code::stopped, "stopped"};
    }
  }

  Status wait(std::string const& why) {
    if (!failing_since_) {
      failing_since_ = io_.clock.steady();
      backoff_.reset();
      say_warning("waiting: " + why);
    }
    if (give_up_ > Duration::zero() && io_.clock.steady() - *failing_since_ > give_up_)
      return Status::temporary("gave up: " + why);
    pollfd stop{stop_fd(), POLLIN, 0};
    (void)::poll(&stop, 1, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(backoff_.next()).count()));
    return stopping() ? Status{Code::stopped, why} : Status{};
  }

  Io& io_;
  SqlRows& rows_;
  std::string name_;  // of the database
  Duration give_up_;
  std::string after_;  // the key of the last row
  std::optional<Duration> failing_since_;
  Backoff backoff_{std::chrono::milliseconds(100), std::chrono::seconds(30)};
};

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
  if (give_up <= Duration::zero() && source.delivery.pipeline.empty()) give_up = std::chrono::minutes(10);
  source.marks = true;
  source.identity =
      fmt::format("sql-read {} {} by {}", public_url(options.url), options.table + options.query, options.key);
  Progress const progress(cli.common());
  Reading reading(io, **rows, public_url(options.url), give_up);
  return run_source(io, source, [&](Outlet& outlet) { return reading.run(outlet); });
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

// reconcile: compare two streams of records by key, and say whether they are equal.  Manual: man/reconcile.1
#include <fmt/format.h>

#include <algorithm>

#include "common/fd_io.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/reconcile_report.h"
#include "common/repair_event.h"
#include "common/stop.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

constexpr std::uint64_t kLeastMemory = 1 << 20;

struct Options {
  ReconcileOptions reconcile;
  std::string key, precision = "ns", emit, dataref, exchange, as, report;
  std::vector<std::string> fields;
  std::uint64_t show = 10;
  bool report_commands = false, quiet = false;
};

// What is wrong with them, if anything.
Status take_options(Options& o) {
  auto key = Path::parse_list(o.key);
  if (!key) return key.status().at("--key");
  o.reconcile.key = std::move(*key);
  for (std::string const& list : o.fields) {
    auto fields = Path::parse_list(list);
    if (!fields) return fields.status().at("--field");
    o.reconcile.fields.insert(o.reconcile.fields.end(), fields->begin(), fields->end());
  }
  using namespace std::chrono_literals;
  Duration& precision = o.reconcile.canonical.precision;
  precision = o.precision == "s" ? 1s : o.precision == "ms" ? 1ms : o.precision == "us" ? Duration(1us) : Duration(1ns);
  if (o.reconcile.memory < kLeastMemory) return Status::usage("--memory: at least 1MiB");
  if (o.exchange.empty() != o.as.empty()) return Status::usage("--exchange and --as belong together");
  if (!o.dataref.empty() && o.emit.empty()) return Status::usage("--dataref belongs to --emit");
  return check_temporary_folder(o.reconcile.temporary).at("--tmp");
}

Exit failed(Status const& status) {
  if (status.code() == Code::stopped) return stop_signal() == 2 ? Exit::interrupted : Exit::terminated;
  say_error(status.code() == Code::temporary ? "no verdict: " + status.what() : status.what());
  return status.exit();
}

Exit compare(Io& io, Options const& o, RepairEvents& repairs) {
  // A report of an earlier run must not be taken for one of this.
  std::string const json = o.report + ".json", text = o.report + ".txt";
  for (std::string const& path : {json, text}) {
    if (o.report.empty()) break;
    if (Status status = io.disk.remove(path); !status.ok()) return failed(status);
  }
  if (!o.exchange.empty()) {
    if (auto backlog = read_backlog(io.clock, o.exchange, o.as); !backlog) return failed(backlog.status());
  }
  ReconcileReport report(o.reconcile, o.show, o.report_commands);
  bool reader_gone = false;
  auto result = reconcile(o.reconcile, [&](Difference const& difference) {
    if (report.add(difference) && !o.quiet) say_info(to_message(difference));
    if (!repairs.wants(difference.kind) || reader_gone) return Status{};
    auto event = repairs.make(difference);
    if (!event) return event.status();
    Status status = io.out.line(*event);
    reader_gone = status.code() == Code::closed;
    return reader_gone ? Status{} : status;
  });
  if (!result) return failed(result.status());
  if (Status status = io.out.flush(); !status.ok() && status.code() != Code::closed) return failed(status);
  std::optional<Backlogged> backlog;
  if (!o.exchange.empty()) {
    auto read = read_backlog(io.clock, o.exchange, o.as);
    if (!read) return failed(read.status());
    backlog = *read;
  }
  report.set(*result, backlog);
  if (!o.report.empty()) {
    for (auto const& [path, content] : {std::pair(json, report.json()), {text, report.text()}}) {
      if (Status status = replace_file(io.disk, path, content); !status.ok()) return failed(status);
    }
  }
  if (!o.quiet) say_info(report.summary());
  return result->same() ? Exit::ok : Exit::rejected;
}

Exit run(Cli& cli, Io& io) {
  Options options;
  ReconcileOptions& reconcile = options.reconcile;
  cli.purpose("Compare two streams of records by key; the exit status says whether they are equal.",
              {"reconcile --key id --field subject --left 's3-archive get archive/' \\\n"
               "      --right 'sqlite3 -json fleet.db \"select * from record\" | jq -c .[]'",
               "reconcile --key subject --left 'zcat old.ndjson.gz' --right 'gunzip < old.ndjson.gz' --report july"});
  cli.required("--key", options.key, "paths that name a record, joined by commas: subject,time");
  cli.required("--left", reconcile.left, "command that writes the records that should be there");
  cli.required("--right", reconcile.right, "command that writes the records that are there");
  cli.option("--field", options.fields,
             "compare what is at this path (may be repeated, or joined by commas); without any: all of the data");
  cli.choice("--precision", options.precision, {"ns", "us", "ms", "s"}, "cut times to this before they are compared");
  cli.flag("--ignore-null", reconcile.canonical.ignore_null, "a member that is null is as one that is not there");
  cli.flag("--allow-empty", reconcile.allow_empty, "two sides without a record are equal");
  cli.option("--recheck", reconcile.recheck, "wait, read both sides again, and tell only what differs both times");
  cli.option("--emit", options.emit, "missing, different or both, joined by a comma: write an id-only event of each");
  cli.option("--dataref", options.dataref, "template of their dataref, https://api/orders/{subject}");
  cli.option("--exchange", options.exchange, "count what is pending and dead-lettered in this exchange");
  cli.option("--as", options.as, "for this subscriber");
  cli.option("--report", options.report, "write a report to FILE.json and FILE.txt");
  cli.flag("--report-commands", options.report_commands, "the commands stand in the report");
  cli.option("--show", options.show, "tell so many differences of each kind");
  cli.flag("--quiet", options.quiet, "tell neither differences nor the summary");
  cli.size("--memory", reconcile.memory, "beyond this, sort on disk");
  cli.option("--tmp", reconcile.temporary, "folder for temporary files (default: TMPDIR, or /tmp)");
  cli.size("--max-record", reconcile.max_record, "a longer line is no record");
  if (auto stop = cli.parse()) return *stop;
  if (Status status = take_options(options); !status.ok()) return cli.wrong(status.what());
  auto repairs = RepairEvents::make(options.emit, options.dataref, reconcile.key, io.clock.now());
  if (!repairs) return cli.wrong(repairs.status().what());
  Progress const progress(cli.common());
  return compare(io, options, *repairs);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

// s3-archive: keep events in immutable compressed objects by hour, and read them back.  Manual: man/s3-archive.1
#include <fmt/format.h>

#include <csignal>

#include "common/archive_check.h"
#include "common/archive_get.h"
#include "common/archive_sink.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/open_store.h"
#include "common/sink_loop.h"
#include "common/source.h"
#include "common/stop.h"
#include "common/tool_main.h"

namespace {

using inflight::Exit;
using inflight::Io;
using inflight::ObjectStore;
using inflight::Status;

struct Options {
  std::string command;
  std::string archive;
  inflight::StoreOptions store;
  inflight::ArchivePutOptions put;
  inflight::SinkOptions sink;
  inflight::ArchiveQuery query;
  std::string ranges;
  inflight::Duration slack = std::chrono::minutes(5);
  inflight::SourceOptions source;
  bool json = false;
};

Exit failed(Status const& status) {
  inflight::say_error(status.what());
  return status.exit();
}

Exit stopped() { return inflight::stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated; }

// Of ls and verify: how many objects are damaged.
Exit checked(inflight::Result<std::uint64_t> const& damaged) {
  Status const& status = damaged.status();
  if (status.code() == inflight::Code::stopped) return stopped();
  if (!status.ok() && status.code() != inflight::Code::closed) return failed(status);
  return damaged && *damaged > 0 ? Exit::rejected : Exit::ok;
}

Exit put(Io& io, Options& options) {
  options.store.puts = true;
  inflight::ArchiveSink sink(io, options.archive, options.store, options.put);
  Exit const exit = inflight::run_sink(io, sink, options.sink);
  return sink.comes_too_early() ? Exit::temporary : exit;
}

Exit get(Io& io, ObjectStore& store, Options& options) {
  if (!options.source.state.empty()) {
    if (Status status = inflight::pin_query(io.disk, options.source.state + ".objects", store, options.query);
        !status.ok()) {
      return failed(status);
    }
  }
  options.source.identity = "archive " + options.archive;
  inflight::ArchiveFound found;
  bool whole = false;
  Exit const exit = inflight::run_source(io, options.source, [&](inflight::Outlet& outlet) {
    // What was in order before a damage is good: it is written.
    auto emit = [&](std::string_view line) -> Status {
      if (inflight::stopping()) return {inflight::Code::stopped, ""};
      return outlet.put(line);
    };
    Status const status = inflight::archive_get(store, options.query, emit, found);
    whole = status.ok();
    return status;
  });
  if (std::string const what = not_found(options.query, found); whole && !what.empty())
    inflight::say_info(fmt::format("{}: {}", options.archive, what));
  return exit;
}

Exit list(Io& io, ObjectStore& store, Options const& options) {
  auto status = inflight::archive_list(store, options.query, options.json,
                                       [&](std::string_view line) { return io.out.line(line); });
  if (Status flushed = io.out.flush(); !flushed.ok() && status.ok()) status = flushed;
  return checked(status);
}

// For get, ls and verify.
Exit read(Io& io, Options& options) {
  if (!options.ranges.empty()) {
    Status const status = inflight::read_ranges(io.disk, options.ranges, io.in, options.slack, options.query);
    if (!status.ok()) return status.code() == inflight::Code::stopped ? stopped() : failed(status);
  }
  auto opened = inflight::open_object_store(io.disk, io.clock, options.archive, options.store);
  if (!opened) return failed(opened.status());
  ObjectStore& store = **opened;
  if (options.command == "ls") return list(io, store, options);
  if (options.command == "verify") return checked(inflight::archive_verify(store, options.query));
  return get(io, store, options);
}

// An option of another command is a slip of the hand.
std::string misplaced(Options const& options) {
  inflight::ArchivePutOptions const fallback;
  inflight::S3Options const s3;
  auto const& put = options.put;
  bool const puts = !put.spool.empty() || put.max_records != fallback.max_records ||
                    put.max_bytes != fallback.max_bytes || put.max_age != fallback.max_age ||
                    put.level != fallback.level || options.sink.dry_run || options.store.s3.multipart != s3.multipart;
  bool const range = options.query.from || options.query.to;
  bool const subject = !options.query.subjects.empty() || !options.ranges.empty();
  std::string const& command = options.command;
  if (command != "put" && puts) return "takes no option of put";
  if (command == "put" && range) return "takes neither --from nor --to";
  if (command != "get" && (subject || options.source.limit > 0)) return "takes neither --subject, --ranges nor --limit";
  if (command != "ls" && options.json) return "takes no --json";
  if (options.ranges.empty() && options.slack != Options().slack) return "takes --slack with --ranges only";
  return "";
}

Exit run(inflight::Cli& cli, Io& io) {
  Options options;
  cli.purpose("keep events in immutable compressed objects by hour, and read them back: put, get, ls, verify",
              {"consume fleet/ --as backfill -- s3-archive put s3://bsu-archive/raw",
               "s3-archive get archive/ --from 2018-07-01 --state july.state -- 'xml2json | sql-write sqlite:july.db'",
               "s3-archive get archive/ --from yesterday --subject bsu-00017 | jq .data",
               "find-gaps --every 10s < series.ndjson | s3-archive get archive/ --ranges - | xml2json",
               "s3-archive verify archive/ --from yesterday"});
  cli.positional("command", options.command, "put, get, ls or verify");
  cli.positional("archive", options.archive, "the archive: s3://BUCKET/PREFIX, or path of a directory");
  cli.choice("--addressing", options.store.s3.addressing, {"auto", "path", "virtual"},
             "S3: where the bucket's name stands in a URL");
  cli.option("--timeout", options.store.s3.timeout, "S3: try a request again that moves no byte for so long");
  cli.option("--spool", options.put.spool,
             "put: folder for what is under way (default: in the archive, or of S3 where state is kept)");
  cli.option("--max-records", options.put.max_records,
             "put: close an object of so many records; below a source, that came since it was opened");
  cli.size("--max-bytes", options.put.max_bytes, "put: close an object that holds so many bytes of records");
  cli.option("--max-age", options.put.max_age, "put: close an object so long after it was opened");
  cli.option("--level", options.put.level, "put: level of compression of zstd, 1 to 19");
  cli.option("--from", options.query.from, "get, ls, verify: records from this recordedtime on");
  cli.option("--to", options.query.to, "get, ls, verify: records before this recordedtime");
  cli.option("--subject", options.query.subjects, "get: only records of this subject; may be repeated");
  cli.option("--ranges", options.ranges,
             "get: only these ranges, as find-gaps writes them: a file, or - for standard input");
  cli.option("--slack", options.slack, "get: widen ranges, which are of event time, by so much at both ends");
  cli.size("--multipart", options.store.s3.multipart, "put, S3: send what is larger in parts");
  options.source.add_to(cli, true);
  cli.flag("--json", options.json, "ls: one JSON object a line");
  options.sink.add_to(cli, false, false);
  if (auto stop = cli.parse()) return *stop;
  options.sink.dead_letters = options.source.dead_letters;
  std::string const& command = options.command;
  if (command != "get" && (!options.source.delivery.pipeline.empty() || !options.source.state.empty())) {
    return cli.wrong(fmt::format("{} takes neither -- PIPELINE nor --state", command));
  }
  if (command != "put" && command != "get" && command != "ls" && command != "verify") {
    return cli.wrong(fmt::format("{}: not a command: put, get, ls or verify", command));
  }
  if (std::string const what = misplaced(options); !what.empty()) return cli.wrong(fmt::format("{} {}", command, what));
  if (options.query.from && options.query.to && *options.query.from > *options.query.to)
    return cli.wrong(fmt::format("--from {} is after --to {}", inflight::format_rfc3339(*options.query.from),
                                 inflight::format_rfc3339(*options.query.to)));
  if (options.put.level < 1 || options.put.level > 19) return cli.wrong("--level: 1 to 19");
  if (options.put.max_records == 0) return cli.wrong("--max-records: at least 1");
  if (options.put.max_bytes == 0 || options.put.max_bytes > (1 << 30)) return cli.wrong("--max-bytes: 1 to 1GiB");
  if (options.store.s3.multipart < (5 << 20)) return cli.wrong("--multipart: at least 5MiB");
  if (options.store.s3.timeout < std::chrono::seconds(1)) return cli.wrong("--timeout: at least 1s");
  inflight::Progress const progress(cli.common());
  return command == "put" ? put(io, options) : read(io, options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

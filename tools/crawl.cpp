// crawl: one event per document of a Firebase collection, in the order of keys.  Manual: man/crawl.1
#include <fmt/format.h>

#include "common/crawl_list.h"
#include "common/crawler.h"
#include "common/fd_io.h"
#include "common/json_text.h"
#include "common/ledger.h"
#include "common/listen_state.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/rtdb.h"
#include "common/source.h"
#include "common/stop.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

struct Options {
  std::string url, after;
  CrawlOptions crawl;
  RtdbOptions rtdb;
  SourceOptions source;
};

// What is wrong with the options taken together, if anything.
std::string mistake(Options const& o) {
  bool const piped = !o.source.delivery.pipeline.empty();
  if (!o.source.state.empty() && !piped)
    return "--state belongs to -- PIPELINE: nobody tells what has become of a line";
  if (!o.source.state.empty() && o.crawl.with_data) return "--with-data and --state: a state holds keys, not documents";
  if (!o.source.state.empty() && !o.crawl.documents.empty()) return "--doc needs no --state";
  if (o.crawl.rate.bytes) return "--rate: of documents, as 100/s";
  if (!o.crawl.documents.empty() && (!o.crawl.start_after.empty() || !o.crawl.end_at.empty()))
    return "--doc goes with neither --start-after nor --end-at";
  std::vector<std::string> keys = o.crawl.documents;
  for (auto const& bound : {o.crawl.start_after, o.crawl.end_at}) {
    if (!bound.empty()) keys.push_back(bound);
  }
  for (auto const& key : keys) {
    if (std::string const fault = rtdb_key_fault(key); !fault.empty())
      return fmt::format("{}: a key that {}", json_string(key), fault);
  }
  return "";
}

Exit run(Cli& cli, Io& io) {
  Options options;
  options.crawl.max_record = kMaxRecord;
  cli.purpose(
      "Walk a collection of a Firebase Realtime Database and write one event per document, in the order of keys.",
      {"crawl https://shop.firebaseio.com/orders --with-data --limit 20 | jq .data",
       "crawl https://shop.firebaseio.com/orders --state orders.crawl -- publish orders/"});
  cli.positional("URL", options.url, "of the collection, e.g. https://shop.firebaseio.com/orders");
  cli.option("--start-after", options.crawl.start_after, "begin behind this key");
  cli.option("--end-at", options.crawl.end_at, "end with this key");
  cli.option("--doc", options.crawl.documents, "only the document of this key; may be repeated");
  cli.option("--rate", options.crawl.rate, "read, or write, no more documents than this, as 100/s");
  cli.flag("--with-data", options.crawl.with_data, "the documents too, not only what names them");
  cli.size("--max-record", options.crawl.max_record, "a larger document stays where it is");
  cli.option("--after", options.after, "state of a listen: begin only when its baseline is durable");
  options.rtdb.add_to(cli);
  options.source.add_to(cli, true);
  if (auto stop = cli.parse()) return *stop;

  if (std::string const wrong = mistake(options); !wrong.empty()) return cli.wrong(wrong);
  options.crawl.limit = options.source.limit;
  auto const collection = RtdbCollection::parse(options.url);
  if (!collection) return cli.wrong(collection.status().what());
  auto client = RtdbClient::make(options.rtdb, *collection, io.clock);
  if (!client) return cli.wrong(client.status().what());
  if (!options.after.empty()) {
    if (Status status = check_baseline(options.after, collection->source()); !status.ok()) {
      say_error(status.what());
      return status.exit();
    }
  }
  std::string const what = fmt::format("{} from {} to {}", collection->source(), json_string(options.crawl.start_after),
                                       json_string(options.crawl.end_at));
  CrawlList list;
  if (options.source.delivery.pipeline.empty()) {
    if (Status status = list.open("", what, io.clock.now()); !status.ok()) {
      say_error(status.what());
      return status.exit();
    }
  }
  options.source.prepare = [&](SourceOptions& source) {
    std::string const keys = source.state.empty() ? "" : source.state + ".keys";
    if (!keys.empty() && !exists(source.state)) {
      if (Status status = SqliteFile::remove(keys); !status.ok()) return status;
    } else if (!keys.empty() && !exists(keys)) {
      auto const state = view_ledger(source.state);
      if (!state || !state->complete)
        return Status::usage(fmt::format("{}: is gone: remove {} to crawl anew", keys, source.state));
      source.identity = state->source;
      return Status{};
    }
    Status status = list.open(keys, what, io.clock.now());
    source.identity = fmt::format("crawl of {} {}", what, list.id());
    return status;
  };
  Progress const progress(cli.common());
  CrawlReport report;
  bool ended = false;
  Exit const exit = run_source(io, options.source, [&](Outlet& outlet) {
    Status status = crawl(io, *collection, **client, options.crawl, list, outlet, report);
    ended = status.ok() || (status.code() == Code::stopped && !stopping());
    return status;
  });
  if (exit != Exit::ok || !ended) return exit;
  // With a state, all that it lists, whichever run has written it.
  if (!options.source.state.empty() && list.whole()) {
    report.count = list.count();
    if (auto first = list.first()) report.first = *first;
    if (auto last = list.last()) report.last = *last;
  }
  say_info(report.count == 0 ? fmt::format("{}: no keys", collection->name())
                             : fmt::format("{}: {} keys, first {}, last {}", collection->name(), report.count,
                                           json_string(report.first), json_string(report.last)));
  return exit;
}

}  // namespace

int main(int argc, char** argv) { return tool_main(argc, argv, run); }

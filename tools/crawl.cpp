// crawl: one event per document of a Firebase collection, in the order of keys.  Manual: man/crawl.1
#include <fmt/format.h>

#include "common/crawl_run.h"
#include "common/crawl_server.h"
#include "common/json_text.h"
#include "common/listen_state.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/rtdb.h"
#include "common/source.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

struct Options {
  std::string url, after;
  CrawlOptions crawl;
  RtdbOptions rtdb;
  SourceOptions source;
  CrawlServeOptions serve;
};

// What is wrong with the options taken together, if anything.
std::string mistake(Options const& o) {
  bool const piped = !o.source.delivery.pipeline.empty();
  if (std::string const wrong = o.serve.mistake(); !wrong.empty()) return wrong;
  if (!o.serve.address.empty()) {
    if (!piped || o.source.state.empty()) return "--serve: needs --state and -- PIPELINE";
    if (!o.crawl.start_after.empty() || !o.crawl.end_at.empty() || !o.crawl.documents.empty() || !o.after.empty() ||
        o.source.limit != 0 || !o.source.dead_letters.empty())
      return "--serve: a job is a whole collection or a document, with letters of its own";
  }
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
       "crawl https://shop.firebaseio.com/orders --state orders.crawl -- publish orders/",
       "crawl https://shop.firebaseio.com --serve 127.0.0.1:8080 --state jobs -- publish orders/"});
  cli.positional("URL", options.url, "of the collection, e.g. https://shop.firebaseio.com/orders");
  cli.option("--start-after", options.crawl.start_after, "begin behind this key");
  cli.option("--end-at", options.crawl.end_at, "end with this key");
  cli.option("--doc", options.crawl.documents, "only the document of this key; may be repeated");
  cli.option("--rate", options.crawl.rate, "read, or write, no more documents than this, as 100/s");
  cli.flag("--with-data", options.crawl.with_data, "the documents too, not only what names them");
  cli.size("--max-record", options.crawl.max_record, "a larger document stays where it is");
  cli.option("--after", options.after, "state of a listen: begin only when its baseline is durable");
  options.serve.add_to(cli);
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
  Progress const progress(cli.common());
  if (!options.serve.address.empty())
    return serve_crawls(io, *collection, **client, options.crawl, options.source, options.serve);
  return run_crawl(io, *collection, **client, options.crawl, options.source).exit;
}

}  // namespace

int main(int argc, char** argv) { return tool_main(argc, argv, run); }

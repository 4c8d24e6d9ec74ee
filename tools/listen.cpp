// listen: one event per changed document of a Firebase collection.  Manual: man/listen.1
#include <fmt/format.h>

#include "common/fd_io.h"
#include "common/listen_state.h"
#include "common/listener.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/rtdb.h"
#include "common/source.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

struct Options {
  std::string url, exchange;
  std::vector<std::string> subscribers;
  ListenOptions listen;
  RtdbOptions rtdb;
  SourceOptions source;
};

// A file beside the state without which it says nothing.
Status open_state(Options const& options, RtdbCollection const& collection, SourceOptions& source, ListenState& state) {
  std::string const path = source.state.empty() ? "" : listen_documents(source.state);
  std::string const anew = fmt::format(
      "what has changed meanwhile is not known: remove {}*, listen again, and then crawl anew", options.source.state);
  if (!path.empty() && exists(source.state) && !exists(path))
    return Status::usage(fmt::format("{}: is gone; {}", path, anew));
  Status status = state.open(path, collection.source());
  if (status.code() == Code::defect) return Status::defect(fmt::format("{}; {}", status.what(), anew));
  source.identity = fmt::format("listen to {} {}", collection.source(), state.id());
  return status;
}

Status take_fetches(Options& options) {
  if (options.exchange.empty() != options.subscribers.empty())
    return Status::usage("--exchange and --as belong together");
  if (options.exchange.empty()) return {};
  if (Status status = check_exchange_name(options.exchange); !status.ok()) return status.at("--exchange");
  for (std::string const& name : options.subscribers) {
    if (Status status = check_subscriber_name(name); !status.ok()) return status.at("--as");
    options.listen.fetches.emplace_back(options.exchange, name);
  }
  return {};
}

Exit run(Cli& cli, Io& io) {
  Options options;
  cli.purpose(
      "Follow the changes of a collection of a Firebase Realtime Database and write one event per changed document.",
      {"listen https://shop.firebaseio.com/orders --limit 10 | jq -r .subject",
       "listen https://shop.firebaseio.com/orders --state orders.listen --exchange orders/ --as etl -- publish "
       "orders/"});
  cli.positional("URL", options.url, "of the collection, e.g. https://shop.firebaseio.com/orders");
  cli.option("--silence", options.listen.silence, "connect again when not even a keep-alive has come for so long");
  cli.option("--exchange", options.exchange, "tell again what may have been fetched from it while nobody listened");
  cli.option("--as", options.subscribers, "by this subscriber (may be repeated)");
  options.rtdb.add_to(cli);
  options.source.add_to(cli, true);
  if (auto stop = cli.parse()) return *stop;

  options.listen.limit = options.source.limit;
  bool const piped = !options.source.delivery.pipeline.empty();
  if (!options.source.state.empty() && !piped)
    return cli.wrong("--state belongs to -- PIPELINE: nobody tells what has become of a line");
  if (options.listen.silence <= Duration::zero()) return cli.wrong("--silence: more than 0s");
  if (Status status = take_fetches(options); !status.ok()) return cli.wrong(status.what());
  auto const collection = RtdbCollection::parse(options.url);
  if (!collection) return cli.wrong(collection.status().what());
  auto client = RtdbClient::make(options.rtdb, *collection, io.clock);
  if (!client) return cli.wrong(client.status().what());
  ListenState state(io.clock);
  options.source.prepare = [&](SourceOptions& source) { return open_state(options, *collection, source, state); };
  if (!piped) {
    if (Status status = open_state(options, *collection, options.source, state); !status.ok()) {
      say_error(status.what());
      return status.exit();
    }
  }
  Progress const progress(cli.common());
  return run_source(io, options.source,
                    [&](Outlet& outlet) { return listen(io, *collection, **client, options.listen, state, outlet); });
}

}  // namespace

int main(int argc, char** argv) { return tool_main(argc, argv, run); }

// One crawl from its list of keys to the last receipt, as the line of a shell or a job of a server.
#pragma once

#include <functional>
#include <string>

#include "common/crawler.h"
#include "common/io.h"
#include "common/source.h"
#include "common/status.h"

namespace inflight {

struct CrawlEnd {
  Exit exit = Exit::ok;
  bool whole = false;  // all is told, and settled where there is a pipeline
  std::string why{};   // what the database, or this machine, failed with
};

// `pause`: asked before each event; true ends the run early, and the same state goes on.
[[nodiscard]] CrawlEnd run_crawl(Io& io, RtdbCollection const& collection, RtdbClient& client,
                                 CrawlOptions const& options, SourceOptions source,
                                 std::function<bool()> const& pause = {});

}  // namespace inflight

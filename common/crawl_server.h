// crawl --serve: jobs come over HTTP, are kept, and run one after another into the same pipeline.  Manual: man/crawl.1
#pragma once

#include <string>

#include "common/cli.h"
#include "common/crawler.h"
#include "common/io.h"
#include "common/source.h"

namespace inflight {

struct CrawlServeOptions {
  std::string address;     // HOST:PORT
  std::string token_file;  // of those who ask

  // --serve --serve-token-file
  void add_to(Cli& cli);
  [[nodiscard]] std::string mistake() const;
};

// Until a stop signal, or until the pipeline is told to be wrong. `root` is what collections are below of.
[[nodiscard]] Exit serve_crawls(Io& io, RtdbCollection const& root, RtdbClient& client, CrawlOptions const& crawl,
                                SourceOptions const& source, CrawlServeOptions const& options);

}  // namespace inflight

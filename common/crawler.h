// Walks a collection of a Firebase Realtime Database in the order of its keys: one event per document.
//
// `shallow=true` gives all keys at once and costs the database no document, but in no order that is promised
// (retrieve-data, "shallow"): they are sorted on disk. Pages by orderBy="$key" come in order, with the documents in
// them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/crawl_list.h"
#include "common/io.h"
#include "common/rtdb.h"
#include "common/source.h"

namespace inflight {

struct CrawlOptions {
  std::string start_after, end_at;
  std::vector<std::string> documents;  // only these, asked for by name
  Rate rate;                           // documents read, or with shallow=true events, per second; 0: no limit
  bool with_data = false;
  std::uint64_t limit = 0;
  std::uint64_t max_record = 0;
};

struct CrawlReport {
  std::uint64_t count = 0;
  std::string first, last;
};

[[nodiscard]] Status crawl(Io& io, RtdbCollection const& collection, RtdbClient& client, CrawlOptions const& options,
                           CrawlList& list, Outlet& outlet, CrawlReport& report);

}  // namespace inflight

// The jobs that a crawl's server has accepted, durable before it says so, until they are done.
//
// Those of one document go before those of collections. May be used by several threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "common/sqlite_file.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct CrawlJob {
  std::int64_t id = 0;
  std::string collection, key;  // key: of its only document; empty: all
  Time accepted;
};

class CrawlJobs {
 public:
  explicit CrawlJobs(Clock& clock) : clock_(clock) {}
  // Those that were under way when the last process ended come first.
  [[nodiscard]] Status open(std::string const& path, std::string const& source);

  // accepted: durable. joined: an equal job has not begun yet. busy: the collection's job is not done yet. full: too
  // many wait.
  enum class Added { accepted, joined, busy, full };
  [[nodiscard]] Result<Added> add(CrawlJob& job);

  // Takes back what has not begun, or failed. busy: it is under way. absent: there is no such job.
  enum class Withdrawn { withdrawn, busy, absent };
  [[nodiscard]] Result<Withdrawn> withdraw(CrawlJob& job);

  // The next that is due; it is under way then.
  [[nodiscard]] Result<std::optional<CrawlJob>> begin();
  [[nodiscard]] Status done(CrawlJob const& job);
  // It has to be begun again, not before `delay`. `why` empty: no failure.
  [[nodiscard]] Status later(CrawlJob const& job, std::string const& why, Duration delay);
  [[nodiscard]] bool document_waits() const { return documents_due_ > 0; }
  [[nodiscard]] bool known(std::int64_t id) const;

  [[nodiscard]] std::string report() const;  // as JSON

 private:
  struct Entry {
    CrawlJob job;
    bool running = false;
    std::uint64_t failures = 0;
    std::string why;
    Duration due{};
  };
  Status set_running(Entry& entry, bool running);

  Clock& clock_;
  mutable std::mutex mutex_;
  SqliteFile file_;
  SqliteStatement insert_, remove_, run_;
  std::map<std::int64_t, Entry> jobs_;  // by id
  std::uint64_t done_ = 0;
  std::atomic<std::uint64_t> documents_due_ = 0;  // that have not failed yet
};

}  // namespace inflight

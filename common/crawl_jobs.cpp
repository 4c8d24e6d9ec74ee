#include "common/crawl_jobs.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/json_text.h"

namespace inflight {

namespace {

constexpr std::size_t kMostJobs = 10'000;
constexpr std::size_t kTold = 100;  // in a report

}  // namespace

Status CrawlJobs::open(std::string const& path, std::string const& source) {
  if (Status status = file_.open(path, SqliteFile::How::appended); !status.ok()) return status;
  for (char const* sql :
       {"CREATE TABLE IF NOT EXISTS about(source TEXT)",
        "CREATE TABLE IF NOT EXISTS jobs(id INTEGER PRIMARY KEY AUTOINCREMENT, collection BLOB, key BLOB, accepted "
        "INTEGER, running INTEGER)"}) {
    if (Status status = file_.execute(sql); !status.ok()) return status;
  }
  SqliteStatement about, name, all;
  for (auto [sql, statement] :
       {std::pair{"INSERT INTO jobs(collection,key,accepted,running) VALUES(?1,?2,?3,0)", &insert_},
        std::pair{"DELETE FROM jobs WHERE id=?1", &remove_}, std::pair{"UPDATE jobs SET running=?2 WHERE id=?1", &run_},
        std::pair{"SELECT source FROM about", &about}, std::pair{"INSERT INTO about VALUES(?1)", &name},
        std::pair{"SELECT id,collection,key,accepted,running FROM jobs", &all}}) {
    if (Status status = file_.prepare(sql, *statement); !status.ok()) return status;
  }
  auto const row = about.step();
  if (!row) return row.status();
  if (!*row) {
    if (Status status = name.bind(1, source).run(); !status.ok()) return status;
  } else if (about.bytes(0) != source) {
    return Status::usage(fmt::format("{}: has jobs of {}, not of {}", path, about.bytes(0), source));
  }
  for (;;) {
    auto const more = all.step();
    if (!more) return more.status();
    if (!*more) return {};
    CrawlJob job{all.integer(0), std::string(all.bytes(1)), std::string(all.bytes(2)), Time{all.integer(3)}};
    Entry entry;
    entry.running = all.integer(4) != 0;
    if (!job.key.empty()) ++documents_due_;
    entry.job = std::move(job);
    jobs_.emplace(entry.job.id, std::move(entry));
  }
}

Result<CrawlJobs::Added> CrawlJobs::add(CrawlJob& job) {
  std::lock_guard const lock(mutex_);
  for (auto const& [id, entry] : jobs_) {
    if (entry.job.collection != job.collection || entry.job.key != job.key) continue;
    if (job.key.empty() || !entry.running) {
      job = entry.job;
      return job.key.empty() ? Added::busy : Added::joined;
    }
  }
  if (jobs_.size() >= kMostJobs) return Added::full;
  job.accepted = clock_.now();
  if (Status status = insert_.bind(1, job.collection).bind(2, job.key).bind(3, job.accepted.ns).run(); !status.ok())
    return status;
  job.id = file_.last_id();
  Entry entry;
  entry.job = job;
  jobs_.emplace(job.id, std::move(entry));
  if (!job.key.empty()) ++documents_due_;
  return Added::accepted;
}

Result<CrawlJobs::Withdrawn> CrawlJobs::withdraw(CrawlJob& job) {
  std::lock_guard const lock(mutex_);
  auto const is_it = [&](auto const& of) {
    return of.second.job.collection == job.collection && of.second.job.key == job.key;
  };
  // A document may have two: one that is under way, and one that has not begun.
  auto at = std::find_if(jobs_.begin(), jobs_.end(), [&](auto const& of) { return is_it(of) && !of.second.running; });
  if (at == jobs_.end()) return std::any_of(jobs_.begin(), jobs_.end(), is_it) ? Withdrawn::busy : Withdrawn::absent;
  job = at->second.job;
  if (Status status = remove_.bind(1, job.id).run(); !status.ok()) return status;
  if (!job.key.empty() && at->second.failures == 0 && documents_due_ > 0) --documents_due_;
  jobs_.erase(at);
  return Withdrawn::withdrawn;
}

Status CrawlJobs::set_running(Entry& entry, bool running) {
  if (entry.running == running) return {};
  if (Status status = run_.bind(1, entry.job.id).bind(2, std::int64_t{running}).run(); !status.ok()) return status;
  entry.running = running;
  return {};
}

Result<std::optional<CrawlJob>> CrawlJobs::begin() {
  std::lock_guard const lock(mutex_);
  Duration const now = clock_.steady();
  Entry* best = nullptr;
  auto const rank = [](Entry const& entry) { return entry.running ? 0 : !entry.job.key.empty() ? 1 : 2; };
  for (auto& [id, entry] : jobs_) {
    if (entry.due <= now && (best == nullptr || rank(entry) < rank(*best))) best = &entry;
  }
  if (best == nullptr) return std::optional<CrawlJob>();
  if (Status status = set_running(*best, true); !status.ok()) return status;
  if (!best->job.key.empty() && best->failures == 0 && documents_due_ > 0) --documents_due_;
  return std::optional(best->job);
}

Status CrawlJobs::done(CrawlJob const& job) {
  std::lock_guard const lock(mutex_);
  if (Status status = remove_.bind(1, job.id).run(); !status.ok()) return status;
  jobs_.erase(job.id);
  ++done_;
  return {};
}

Status CrawlJobs::later(CrawlJob const& job, std::string const& why, Duration delay) {
  std::lock_guard const lock(mutex_);
  Entry& entry = jobs_.at(job.id);
  if (!why.empty()) ++entry.failures;
  entry.why = why;
  entry.due = clock_.steady() + delay;
  return set_running(entry, false);
}

bool CrawlJobs::known(std::int64_t id) const {
  std::lock_guard const lock(mutex_);
  return jobs_.contains(id);
}

std::string CrawlJobs::report() const {
  std::lock_guard const lock(mutex_);
  std::string waiting, running = "null";
  std::size_t count = 0, told = 0;
  for (auto const& [id, entry] : jobs_) {
    std::string text = fmt::format(R"({{"id":{},"collection":{})", id, json_string(entry.job.collection));
    if (!entry.job.key.empty()) text += R"(,"key":)" + json_string(entry.job.key);
    text += fmt::format(R"(,"accepted":"{}")", format_rfc3339(entry.job.accepted));
    if (entry.failures > 0) text += fmt::format(R"(,"failures":{},"error":{})", entry.failures, json_string(entry.why));
    text += '}';
    if (entry.running) {
      running = std::move(text);
    } else if (++count, told < kTold) {
      waiting += (told++ == 0 ? "" : ",") + text;
    }
  }
  return fmt::format(R"({{"running":{},"waiting":{},"next":[{}],"done":{}}})", running, count, waiting, done_);
}

}  // namespace inflight

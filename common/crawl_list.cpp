#include "common/crawl_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "common/rtdb.h"

namespace inflight {

namespace {

constexpr std::int64_t kRead = 1000;
std::string const kDocument = "document ";

}  // namespace

Status CrawlList::open(std::string const& path, std::string const& what, Time now) {
  if (Status status = file_.open(path, SqliteFile::How::rewritten); !status.ok()) return status;
  for (char const* sql :
       {"CREATE TABLE IF NOT EXISTS about(name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS keys(sort BLOB PRIMARY KEY, key BLOB, listed INTEGER) WITHOUT ROWID"}) {
    if (Status status = file_.execute(sql); !status.ok()) return status;
  }
  SqliteStatement about;
  for (auto [sql, statement] :
       {std::pair{"INSERT OR IGNORE INTO keys VALUES(?1,?2,?3)", &insert_},
        std::pair{"SELECT sort,key,listed FROM keys WHERE sort>?1 ORDER BY sort LIMIT ?2", &page_},
        std::pair{"INSERT OR REPLACE INTO about VALUES(?1,?2)", &set_},
        std::pair{"SELECT name,value FROM about", &about}}) {
    if (Status status = file_.prepare(sql, *statement); !status.ok()) return status;
  }
  std::string listed;
  for (;;) {
    auto const row = about.step();
    if (!row) return row.status();
    if (!*row) break;
    std::string_view const name = about.bytes(0);
    if (name == "what") listed = about.bytes(1);
    if (name == "id") id_ = about.bytes(1);
    if (name == "paged") paged_ = about.bytes(1) == "1";
    if (name == "whole") whole_ = about.bytes(1) == "1";
  }
  if (id_.empty()) {
    id_ = fmt::format("{}-{:08x}", format_rfc3339(now), std::random_device{}());
    if (Status status = set("id", id_); !status.ok()) return status;
    if (Status status = set("what", what); !status.ok()) return status;
  } else if (listed != what) {
    return Status::usage(fmt::format("{}: lists {}, not {}", path, listed, what));
  }
  SqliteStatement counting;
  if (Status status = file_.prepare("SELECT count(*) FROM keys", counting); !status.ok()) return status;
  auto const counted = counting.step();
  if (!counted) return counted.status();
  count_ = static_cast<std::uint64_t>(counting.integer(0));
  return {};
}

Status CrawlList::set(std::string_view name, std::string_view value) { return set_.bind(1, name).bind(2, value).run(); }

Status CrawlList::begin(bool paged, Time now) {
  listed_ = now;
  if (Status status = file_.execute("BEGIN IMMEDIATE"); !status.ok()) return status;
  paged_ = paged;
  return set("paged", paged ? "1" : "0");
}

Status CrawlList::add(std::string_view key) {
  std::string const sort = rtdb_sort_key(key);
  return insert_.bind(1, sort).bind(2, key).bind(3, listed_.ns).run();
}

Status CrawlList::clear() { return file_.execute("DELETE FROM keys"); }

Status CrawlList::commit(bool whole) {
  SqliteStatement counting;
  if (Status status = file_.prepare("SELECT count(*) FROM keys", counting); !status.ok()) return status;
  auto const counted = counting.step();
  if (!counted) return counted.status();
  count_ = static_cast<std::uint64_t>(counting.integer(0));
  counting.reset();
  if (whole) {
    if (Status status = set("whole", "1"); !status.ok()) return status;
  }
  if (Status status = file_.execute("COMMIT"); !status.ok()) return status;
  whole_ = whole;
  return {};
}

Result<std::optional<CrawlList::Found>> CrawlList::found(std::string_view key) {
  SqliteStatement statement;
  if (Status status = file_.prepare("SELECT value FROM about WHERE name=?1", statement); !status.ok()) return status;
  std::string const name = kDocument + std::string(key);
  auto const row = statement.bind(1, name).step();
  if (!row) return row.status();
  if (!*row) return std::optional<Found>();
  std::string_view const value = statement.bytes(0);
  auto const looked = parse_rfc3339(value.substr(1));
  if (!looked) return Status::defect("the list of keys has a time that is none");
  return std::optional(Found{value.front() == '-', *looked});
}

Status CrawlList::find(std::string_view key, Found const& found) {
  std::string const name = kDocument + std::string(key);
  return set(name, (found.gone ? "-" : "+") + format_rfc3339(found.looked));
}

Result<std::string> CrawlList::end(char const* sql) {
  SqliteStatement statement;
  if (Status status = file_.prepare(sql, statement); !status.ok()) return status;
  auto const row = statement.step();
  if (!row) return row.status();
  return *row ? std::string(statement.bytes(0)) : std::string();
}

Result<std::string> CrawlList::first() { return end("SELECT key FROM keys ORDER BY sort LIMIT 1"); }
Result<std::string> CrawlList::last() { return end("SELECT key FROM keys ORDER BY sort DESC LIMIT 1"); }

Status CrawlList::seek(std::uint64_t position) {
  at_.clear();
  read_.clear();
  if (position == 0) return {};
  SqliteStatement statement;
  if (Status status = file_.prepare("SELECT sort FROM keys ORDER BY sort LIMIT 1 OFFSET ?1", statement); !status.ok())
    return status;
  auto const row = statement.bind(1, static_cast<std::int64_t>(position - 1)).step();
  if (!row) return row.status();
  if (!*row) return Status::defect("the list of keys is shorter than its state says");
  at_ = statement.bytes(0);
  return {};
}

Result<bool> CrawlList::next(Entry& entry) {
  if (read_.empty()) {
    page_.bind(1, at_).bind(2, kRead);
    std::string newest;
    for (;;) {
      auto const row = page_.step();
      if (!row) return row.status();
      if (!*row) break;
      newest = page_.bytes(0);
      read_.push_back({std::string(page_.bytes(1)), Time{page_.integer(2)}});
    }
    if (read_.empty()) return false;
    at_ = std::move(newest);
  }
  entry = std::move(read_.front());
  read_.pop_front();
  return true;
}

}  // namespace inflight

// The keys of a collection as a crawl found them, in their order, on disk. A key's place in it is its event's position:
// what has been listed stays as it is, so that a position means the same key whenever the line is started again.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/sqlite_file.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

class CrawlList {
 public:
  // Goes on with what is there. Empty path: a private file. Code::usage: it lists something else.
  [[nodiscard]] Status open(std::string const& path, std::string const& what, Time now);

  [[nodiscard]] std::string const& id() const { return id_; }  // of this crawl
  // Whether nothing is to be added any more.
  [[nodiscard]] bool whole() const { return whole_; }
  // How it was begun: page by page in the order of keys, or all at once in any order. Durable once something is added.
  [[nodiscard]] bool paged() const { return paged_; }

  struct Entry {
    std::string key;
    Time listed;
  };

  // Adds keys between begin() and commit(), which makes them durable. Twice the same is the same.
  [[nodiscard]] Status begin(bool paged, Time now);
  [[nodiscard]] Status add(std::string_view key);
  [[nodiscard]] Status clear();
  [[nodiscard]] Status commit(bool whole);

  // What a document that was asked for by its name was found to be: that stays so, as its event does.
  struct Found {
    bool gone = false;
    Time looked;
  };
  [[nodiscard]] Result<std::optional<Found>> found(std::string_view key);
  [[nodiscard]] Status find(std::string_view key, Found const& found);

  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] Result<std::string> first();
  [[nodiscard]] Result<std::string> last();

  // Reads in order, from a position on. False: no more for now.
  [[nodiscard]] Status seek(std::uint64_t position);
  [[nodiscard]] Result<bool> next(Entry& entry);

 private:
  [[nodiscard]] Result<std::string> end(char const* sql);
  [[nodiscard]] Status set(std::string_view name, std::string_view value);

  SqliteFile file_;
  SqliteStatement insert_, page_, set_;
  std::string id_;
  bool whole_ = false, paged_ = false;
  std::uint64_t count_ = 0;
  std::string at_;  // sort key of the last one that was read
  Time listed_;
  std::deque<Entry> read_;
};

}  // namespace inflight

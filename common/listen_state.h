// What listen knows of a collection, on disk: a digest of each document, and the changes that nobody has acknowledged
// yet. Both change in one transaction: a document whose digest has moved on is pending until its event is settled,
// whatever is killed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/sqlite_file.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

class ListenState {
 public:
  struct Pending {
    std::uint64_t position = 0;
    std::string key;
    bool deleted = false;
    Time recorded;
  };

  explicit ListenState(Clock& clock) : clock_(&clock) {}
  // Empty path: a private file. Code::usage: it is another collection's.
  [[nodiscard]] Status open(std::string const& path, std::string const& source);
  [[nodiscard]] std::string const& id() const { return id_; }
  // Whether a whole snapshot has been taken: from then on changes are noticed, and made pending.
  [[nodiscard]] bool has_baseline() const { return baseline_; }

  // What is seen goes into a transaction, durable with commit(). What fails takes back all of it: a digest never moves
  // on without its mark, and the next snapshot tells again.
  [[nodiscard]] bool dirty() const { return dirty_; }
  [[nodiscard]] Status commit();

  // All documents, one by one, between these; what was not seen is deleted then. The first one is the baseline.
  [[nodiscard]] Status begin_snapshot();
  [[nodiscard]] Status end_snapshot();
  void cut_snapshot();  // the connection is gone: what was not seen is not deleted
  [[nodiscard]] bool in_snapshot() const { return snapshot_; }
  [[nodiscard]] std::uint64_t seen_count() const { return seen_count_; }

  // A whole document; an empty digest: it cannot be told whether it is another one.
  [[nodiscard]] Status saw(std::string_view key, std::string_view digest);
  // A part of it has changed: what the whole is now, the next snapshot tells.
  [[nodiscard]] Status saw_part(std::string_view key);
  [[nodiscard]] Status saw_deletion(std::string_view key);

  // It may have been fetched when nobody saw what it was: pending, though its digest has not changed.
  [[nodiscard]] Status doubt(std::string_view key);
  // The mark (fetches.h) of a moment until which all that the database did was seen; empty: none.
  [[nodiscard]] Result<std::string> seen_until(std::string const& subscriber);
  [[nodiscard]] Status set_seen_until(std::string const& subscriber, std::string const& mark);

  // The first ones from a position on.
  [[nodiscard]] Result<std::vector<Pending>> pending(std::uint64_t from, std::uint64_t most);
  // Those from here on have not been put out: another change of the same document joins one of them.
  void put_out(std::uint64_t next) { next_ = std::max(next_, next); }
  [[nodiscard]] Status settled(std::uint64_t cursor);

 private:
  struct Known {
    std::int64_t number = 0;
    std::string digest;
  };
  Status begin();
  // `status`, and nothing is left of the transaction where it is a failure.
  Status whole(Status status);
  Status note(std::string_view key, std::string_view digest);
  Status note_deletion(std::string_view key);
  Status note_rest();
  Result<std::optional<Known>> find(std::string_view key);
  Status pend(std::string_view key, bool deleted);
  void mark(std::int64_t number);

  Clock* clock_;
  SqliteFile file_;
  SqliteStatement find_, insert_, update_, erase_, joined_, rejoin_, pend_, pending_, settle_, unseen_;
  std::string id_;
  bool baseline_ = false, dirty_ = false, snapshot_ = false;
  std::vector<bool> seen_;  // by a document's number
  std::uint64_t seen_count_ = 0, next_ = 0;
};

// Code::temporary: that listen has not taken its baseline yet; Code::usage: it listens to something else.
[[nodiscard]] Status check_baseline(std::string const& state, std::string const& source);
[[nodiscard]] std::string listen_documents(std::string const& state);  // the file beside a listen's state

}  // namespace inflight

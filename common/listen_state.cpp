#include "common/listen_state.h"

#include <fmt/format.h>

#include <random>
#include <utility>

#include "common/fd_io.h"

namespace inflight {

namespace {

constexpr std::int64_t kUnseen = 1000;

// name, value
Result<std::string> about(SqliteFile& file, std::string_view name) {
  SqliteStatement statement;
  if (Status status = file.prepare("SELECT value FROM about WHERE name=?1", statement); !status.ok()) return status;
  auto const row = statement.bind(1, name).step();
  if (!row) return row.status();
  return *row ? std::string(statement.bytes(0)) : std::string();
}

}  // namespace

std::string listen_documents(std::string const& state) { return state + ".docs"; }

Status check_baseline(std::string const& state, std::string const& source) {
  std::string const path = listen_documents(state);
  Status const none =
      Status::temporary(state + ": that listen has no baseline yet: a change between the two would be lost");
  if (!exists(path)) return none;
  SqliteFile file;
  if (Status status = file.open(path, SqliteFile::How::read); !status.ok()) return status;
  auto const listened = about(file, "source");
  if (!listened) return none;  // it has just been made
  if (!listened->empty() && *listened != source)
    return Status::usage(fmt::format("{}: listens to {}, not {}", state, *listened, source));
  auto const baseline = about(file, "baseline");
  if (!baseline) return baseline.status();
  return *baseline == "1" ? Status{} : none;
}

Status ListenState::open(std::string const& path, std::string const& source) {
  if (Status status = file_.open(path, SqliteFile::How::appended); !status.ok()) return status;
  for (char const* sql :
       {"CREATE TABLE IF NOT EXISTS about(name BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS documents(number INTEGER PRIMARY KEY, key BLOB UNIQUE, digest BLOB)",
        "CREATE TABLE IF NOT EXISTS pending(position INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB,"
        " deleted INTEGER, recorded INTEGER)",
        "CREATE INDEX IF NOT EXISTS pending_key ON pending(key)"}) {
    if (Status status = file_.execute(sql); !status.ok()) return status;
  }
  SqliteStatement set;
  for (auto [sql, statement] :
       {std::pair{"SELECT number,digest FROM documents WHERE key=?1", &find_},
        std::pair{"INSERT INTO documents(key,digest) VALUES(?1,?2)", &insert_},
        std::pair{"UPDATE documents SET digest=?2 WHERE number=?1", &update_},
        std::pair{"DELETE FROM documents WHERE number=?1", &erase_},
        std::pair{"SELECT position FROM pending WHERE key=?1 AND position>=?2 LIMIT 1", &joined_},
        std::pair{"UPDATE pending SET deleted=?2,recorded=?3 WHERE position=?1", &rejoin_},
        std::pair{"INSERT INTO pending(key,deleted,recorded) VALUES(?1,?2,?3)", &pend_},
        std::pair{"SELECT position,key,deleted,recorded FROM pending WHERE position>=?1 ORDER BY position LIMIT ?2",
                  &pending_},
        std::pair{"DELETE FROM pending WHERE position<?1", &settle_},
        std::pair{"SELECT number,key FROM documents WHERE number>?1 ORDER BY number LIMIT ?2", &unseen_},
        std::pair{"INSERT INTO about VALUES(?1,?2)", &set}}) {
    if (Status status = file_.prepare(sql, *statement); !status.ok()) return status;
  }
  auto const listened = about(file_, "source");
  if (!listened) return listened.status();
  if (!listened->empty() && *listened != source)
    return Status::usage(fmt::format("{}: listens to {}, not {}", path, *listened, source));
  if (listened->empty()) {
    std::string const id = fmt::format("{}-{:08x}", format_rfc3339(clock_->now()), std::random_device{}());
    if (Status status = begin(); !status.ok()) return status;
    if (Status status = set.bind(1, std::string_view("id")).bind(2, id).run(); !status.ok()) return status;
    if (Status status = set.bind(1, std::string_view("source")).bind(2, source).run(); !status.ok()) return status;
    if (Status status = commit(); !status.ok()) return status;
  }
  // What a run before has put out is not joined: its event may be read again, word by word, as one that was there
  // before the change.
  SqliteStatement highest;
  if (Status status = file_.prepare("SELECT seq FROM sqlite_sequence WHERE name='pending'", highest); !status.ok())
    return status;
  auto const row = highest.step();
  if (!row) return row.status();
  if (*row) next_ = static_cast<std::uint64_t>(highest.integer(0)) + 1;
  auto const id = about(file_, "id");
  if (!id) return id.status();
  id_ = *id;
  auto const baseline = about(file_, "baseline");
  if (!baseline) return baseline.status();
  baseline_ = *baseline == "1";
  return {};
}

Status ListenState::begin() {
  if (dirty_) return {};
  Status status = file_.execute("BEGIN IMMEDIATE");
  dirty_ = status.ok();
  return status;
}

Status ListenState::whole(Status status) {
  if (status.ok()) return status;
  file_.rollback();
  dirty_ = false;
  return status;
}

Status ListenState::commit() {
  if (!dirty_) return {};
  Status status = whole(file_.execute("COMMIT"));
  dirty_ = false;
  return status;
}

Status ListenState::begin_snapshot() {
  snapshot_ = true;
  seen_.clear();
  seen_count_ = 0;
  if (baseline_) return {};
  if (Status status = begin(); !status.ok()) return status;
  return whole(file_.execute("DELETE FROM documents"));  // of a snapshot that was cut
}

void ListenState::cut_snapshot() {
  snapshot_ = false;
  std::vector<bool>().swap(seen_);
}

void ListenState::mark(std::int64_t number) {
  if (!snapshot_) return;
  auto const index = static_cast<std::size_t>(number);
  if (index >= seen_.size()) seen_.resize(index + index / 2 + 64);
  seen_[index] = true;
  ++seen_count_;
}

Result<std::optional<ListenState::Known>> ListenState::find(std::string_view key) {
  auto const row = find_.bind(1, key).step();
  if (!row) return row.status();
  if (!*row) return std::optional<Known>{};
  Known known{find_.integer(0), std::string(find_.bytes(1))};
  find_.reset();
  return std::optional(std::move(known));
}

Status ListenState::saw(std::string_view key, std::string_view digest) { return whole(note(key, digest)); }

Status ListenState::saw_part(std::string_view key) { return saw(key, {}); }

Status ListenState::saw_deletion(std::string_view key) { return whole(note_deletion(key)); }

Status ListenState::doubt(std::string_view key) {
  auto const known = find(key);
  if (!known) return known.status();
  if (Status status = begin(); !status.ok()) return status;
  return whole(pend(key, !*known));
}

Result<std::string> ListenState::seen_until(std::string const& subscriber) {
  return about(file_, "seen until " + subscriber);
}

Status ListenState::set_seen_until(std::string const& subscriber, std::string const& mark) {
  std::string const name = "seen until " + subscriber;
  SqliteStatement set;
  if (Status status = begin(); !status.ok()) return status;
  Status status = file_.prepare("INSERT OR REPLACE INTO about VALUES(?1,?2)", set);
  if (status.ok()) status = set.bind(1, std::string_view(name)).bind(2, std::string_view(mark)).run();
  return whole(std::move(status));
}

Status ListenState::note(std::string_view key, std::string_view digest) {
  auto const known = find(key);
  if (!known) return known.status();
  if (*known && !digest.empty() && (*known)->digest == digest) {
    mark((*known)->number);
    return {};
  }
  if (Status status = begin(); !status.ok()) return status;
  if (*known) {
    mark((*known)->number);
    if (Status status = update_.bind(1, (*known)->number).bind(2, digest).run(); !status.ok()) return status;
  } else {
    if (Status status = insert_.bind(1, key).bind(2, digest).run(); !status.ok()) return status;
    mark(file_.last_id());
  }
  return baseline_ ? pend(key, false) : Status{};
}

Status ListenState::note_deletion(std::string_view key) {
  auto const known = find(key);
  if (!known) return known.status();
  if (Status status = begin(); !status.ok()) return status;
  if (*known) {
    if (Status status = erase_.bind(1, (*known)->number).run(); !status.ok()) return status;
  }
  return baseline_ ? pend(key, true) : Status{};
}

Status ListenState::end_snapshot() { return whole(note_rest()); }

Status ListenState::note_rest() {
  std::int64_t at = 0;
  for (bool more = baseline_; more;) {
    std::vector<std::pair<std::int64_t, std::string>> gone;
    unseen_.bind(1, at).bind(2, kUnseen);
    more = false;
    for (;;) {
      auto const row = unseen_.step();
      if (!row) return row.status();
      if (!*row) break;
      more = true;
      at = unseen_.integer(0);
      auto const index = static_cast<std::size_t>(at);
      if (index >= seen_.size() || !seen_[index]) gone.emplace_back(at, unseen_.bytes(1));
    }
    for (auto const& [number, key] : gone) {
      if (Status status = note_deletion(key); !status.ok()) return status;
    }
  }
  cut_snapshot();
  if (baseline_) return {};
  if (Status status = begin(); !status.ok()) return status;
  if (Status status = file_.execute("INSERT OR REPLACE INTO about VALUES(CAST('baseline' AS BLOB),CAST('1' AS BLOB))");
      !status.ok())
    return status;
  if (Status status = commit(); !status.ok()) return status;
  baseline_ = true;
  return {};
}

Status ListenState::pend(std::string_view key, bool deleted) {
  auto const joined = joined_.bind(1, key).bind(2, static_cast<std::int64_t>(next_)).step();
  if (!joined) return joined.status();
  if (*joined) {
    std::int64_t const position = joined_.integer(0);
    joined_.reset();
    return rejoin_.bind(1, position).bind(2, std::int64_t{deleted}).bind(3, clock_->now().ns).run();
  }
  return pend_.bind(1, key).bind(2, std::int64_t{deleted}).bind(3, clock_->now().ns).run();
}

Result<std::vector<ListenState::Pending>> ListenState::pending(std::uint64_t from, std::uint64_t most) {
  std::vector<Pending> out;
  pending_.bind(1, static_cast<std::int64_t>(from)).bind(2, static_cast<std::int64_t>(most));
  for (;;) {
    auto const row = pending_.step();
    if (!row) return row.status();
    if (!*row) return out;
    out.push_back({static_cast<std::uint64_t>(pending_.integer(0)), std::string(pending_.bytes(1)),
                   pending_.integer(2) != 0, Time{pending_.integer(3)}});
  }
}

Status ListenState::settled(std::uint64_t cursor) {
  if (Status status = begin(); !status.ok()) return status;
  return whole(settle_.bind(1, static_cast<std::int64_t>(cursor)).run());
}

}  // namespace inflight

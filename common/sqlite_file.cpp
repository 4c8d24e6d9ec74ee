#include "common/sqlite_file.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <cstring>

#include "common/fd_io.h"
#include "common/handle.h"

namespace inflight {

struct SqliteFile::State {
  std::string path;
  Handle<sqlite3, sqlite3_close_v2> db{};
};

struct SqliteStatement::State {
  std::string path;
  sqlite3* db = nullptr;
  Handle<sqlite3_stmt, sqlite3_finalize> statement{};
};

namespace {

// https://sqlite.org/rescode.html
Status failure(std::string const& path, sqlite3* db, int code) {
  std::string what = fmt::format("{}: {}", path, db != nullptr ? sqlite3_errmsg(db) : sqlite3_errstr(code));
  int const error = db != nullptr ? sqlite3_system_errno(db) : 0;
  switch (code & 0xff) {
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
    case SQLITE_FULL:
      if (error != 0) return Status::from_errno(path, error);
      return Status::temporary(std::move(what));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_NOMEM:
      return Status::temporary(std::move(what));
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return Status::usage(std::move(what));
    default:
      return Status::defect(std::move(what));
  }
}

}  // namespace

SqliteStatement::SqliteStatement() = default;
SqliteStatement::~SqliteStatement() = default;
SqliteStatement::SqliteStatement(SqliteStatement&&) noexcept = default;
SqliteStatement& SqliteStatement::operator=(SqliteStatement&&) noexcept = default;

SqliteStatement& SqliteStatement::bind(int at, std::int64_t value) {
  sqlite3_bind_int64(state_->statement.get(), at, value);
  return *this;
}

SqliteStatement& SqliteStatement::bind(int at, std::string_view bytes) {
  // Not a null pointer, which would be NULL.
  sqlite3_bind_blob64(state_->statement.get(), at, bytes.empty() ? "" : bytes.data(), bytes.size(), SQLITE_STATIC);
  return *this;
}

Result<bool> SqliteStatement::step() {
  int const code = sqlite3_step(state_->statement.get());
  if (code == SQLITE_ROW) return true;
  sqlite3_reset(state_->statement.get());
  if (code == SQLITE_DONE) return false;
  return failure(state_->path, state_->db, code);
}

Status SqliteStatement::run() {
  auto row = step();
  reset();
  return row.status();
}

void SqliteStatement::reset() { sqlite3_reset(state_->statement.get()); }

std::int64_t SqliteStatement::integer(int column) const {
  return sqlite3_column_int64(state_->statement.get(), column);
}

std::string_view SqliteStatement::bytes(int column) const {
  auto const* const data = static_cast<char const*>(sqlite3_column_blob(state_->statement.get(), column));
  auto const size = static_cast<std::size_t>(sqlite3_column_bytes(state_->statement.get(), column));
  return data == nullptr ? std::string_view{} : std::string_view(data, size);
}

SqliteFile::SqliteFile() : state_(std::make_unique<State>()) {}
SqliteFile::~SqliteFile() = default;

Status SqliteFile::open(std::string const& path, How how) {
  state_->path = path.empty() ? "temporary file" : path;
  sqlite3* opened = nullptr;
  int const flags = how == How::read ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  int const code = sqlite3_open_v2(path.c_str(), &opened, flags | SQLITE_OPEN_NOMUTEX, nullptr);
  state_->db.reset(opened);
  if (code != SQLITE_OK) return failure(state_->path, opened, code);
  sqlite3_extended_result_codes(opened, 1);
  sqlite3_busy_timeout(opened, 10'000);
  if (Status status = execute("PRAGMA cache_size=-8192"); !status.ok()) return status;
  if (how == How::read) return execute("SELECT count(*) FROM sqlite_schema");
  if (path.empty()) return execute("PRAGMA synchronous=OFF");
  return execute(how == How::appended ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"
                                      : "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA");
}

Status SqliteFile::execute(char const* sql) {
  int const code = sqlite3_exec(state_->db.get(), sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? Status{} : failure(state_->path, state_->db.get(), code);
}

Status SqliteFile::prepare(char const* sql, SqliteStatement& statement) {
  sqlite3_stmt* prepared = nullptr;
  int const code = sqlite3_prepare_v3(state_->db.get(), sql, -1, SQLITE_PREPARE_PERSISTENT, &prepared, nullptr);
  if (code != SQLITE_OK) return failure(state_->path, state_->db.get(), code);
  statement.state_ = std::make_unique<SqliteStatement::State>();
  statement.state_->path = state_->path;
  statement.state_->db = state_->db.get();
  statement.state_->statement.reset(prepared);
  return {};
}

std::int64_t SqliteFile::last_id() const { return sqlite3_last_insert_rowid(state_->db.get()); }

void SqliteFile::rollback() {
  if (sqlite3_get_autocommit(state_->db.get()) == 0) (void)execute("ROLLBACK");
}

Status SqliteFile::remove(std::string const& path) {
  for (char const* suffix : {"", "-wal", "-shm", "-journal"}) {
    if (Status status = real_disk().remove(path + suffix); !status.ok()) return status;
  }
  return {};
}

}  // namespace inflight

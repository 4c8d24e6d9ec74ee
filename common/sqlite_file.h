// A SQLite file as a tool's own state: what must survive a crash and be found again among a million, in bounded memory.
// (Databases that users see are sql_engine.h's.)
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"

namespace inflight {

class SqliteFile;

// A prepared statement. What step() returned as bytes is valid until the next step() or reset().
class SqliteStatement {
 public:
  SqliteStatement();
  ~SqliteStatement();
  SqliteStatement(SqliteStatement&&) noexcept;
  SqliteStatement& operator=(SqliteStatement&&) noexcept;

  // Parameters from 1 on; bytes are not copied and must live until the last step().
  SqliteStatement& bind(int at, std::int64_t value);
  SqliteStatement& bind(int at, std::string_view bytes);
  // True: there is a row. After the last one it is reset.
  [[nodiscard]] Result<bool> step();
  // For a statement without rows.
  [[nodiscard]] Status run();
  void reset();
  [[nodiscard]] std::int64_t integer(int column) const;
  [[nodiscard]] std::string_view bytes(int column) const;

 private:
  friend class SqliteFile;
  struct State;
  std::unique_ptr<State> state_;
};

class SqliteFile {
 public:
  enum class How {
    rewritten,  // few large transactions
    appended,   // many small ones (write-ahead log)
    read        // only to look; it must be there
  };
  SqliteFile();
  ~SqliteFile();
  // Empty path: a private file that is gone when this is. Commits are durable. Code::defect: it is damaged, or no such
  // file.
  [[nodiscard]] Status open(std::string const& path, How how);
  [[nodiscard]] Status execute(char const* sql);
  [[nodiscard]] Status prepare(char const* sql, SqliteStatement& statement);
  [[nodiscard]] std::int64_t last_id() const;
  // Takes back a transaction that has begun, unless SQLite has (a full disk may make it).
  void rollback();

  // Removes such a file with what SQLite keeps beside it.
  [[nodiscard]] static Status remove(std::string const& path);

 private:
  friend class SqliteStatement;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inflight

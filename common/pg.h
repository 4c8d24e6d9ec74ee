// One connection to a PostgreSQL, or to a PgBouncer before it: nothing here outlives a transaction (no SET, no named
// statement).
//
// Destinations are libpq's URIs (https://www.postgresql.org/docs/15/libpq-connect.html#LIBPQ-CONNSTRING); PG*
// variables, .pgpass and service files are libpq's too. Where nobody says anything of sslmode, a host other than this
// machine must show a certificate that is valid for it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/units.h"

namespace inflight {

// What the server said of a statement that failed.
struct PgError {
  std::string state;    // SQLSTATE; empty: the connection is lost
  std::string message;  // the primary one, with the detail behind it
  std::string context;
};

class Pg {
 public:
  using Field = std::optional<std::string>;  // none: NULL
  using Row = std::vector<Field>;

  // Opens nothing. Code::usage: no URI of libpq's, or a password in it.
  [[nodiscard]] static Result<Pg> make(std::string const& url);
  Pg(Pg&&) noexcept;
  ~Pg();

  // As messages name it, without user and password.
  [[nodiscard]] std::string const& name() const;

  // A new connection. Code::temporary: not there, starting up, too many clients. Code::usage: a wrong password, no such
  // database or role, a certificate that is not trusted.
  [[nodiscard]] Status connect();
  // Also notices that the server has closed an idle one.
  [[nodiscard]] bool connected();
  void close();

  // Each may be several statements. Code::rejected: a value is at fault, or a constraint or trigger has refused it
  // (SQLSTATE classes 22, 23 and their kind). Code::usage: permission, a table or column that is not there.
  // Code::temporary: all that waiting may mend, a lost connection too: then nobody knows what was done.
  [[nodiscard]] Status execute(std::string const& sql);
  // With parameters $1, $2 … as text.
  [[nodiscard]] Result<std::vector<Row>> query(std::string const& sql, std::vector<std::string> const& parameters);
  // Statements the last of which is COPY … FROM STDIN, and its data.
  [[nodiscard]] Status copy_in(std::string const& sql, std::string_view data);
  // One statement whose rows come one by one. next_row() is false after the last; none may be left behind but by
  // close().
  [[nodiscard]] Status start(std::string const& sql, std::vector<std::string> const& parameters);
  [[nodiscard]] Result<bool> next_row(std::vector<std::optional<std::string_view>>& fields);
  [[nodiscard]] std::vector<std::string> const& field_names() const;  // of the statement that was started

  // Of what failed last.
  [[nodiscard]] PgError const& error() const;
  // `COMMIT` where what was executed last has ended so.
  [[nodiscard]] std::string const& tag() const;
  [[nodiscard]] bool in_transaction() const;

 private:
  struct State;
  explicit Pg(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// An identifier in its quotes, and a text in its.
[[nodiscard]] std::string pg_name(std::string_view name);
[[nodiscard]] std::string pg_literal(std::string_view text);

}  // namespace inflight

#include "common/pg.h"

#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "common/handle.h"
#include "common/messages.h"
#include "common/time.h"
#include "common/url.h"

namespace inflight {

namespace {

using Answer = Handle<PGresult, PQclear>;

std::string variable(char const* name) {
  char const* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string first_line(std::string_view text) { return std::string(text.substr(0, text.find('\n'))); }

bool has(std::string_view text, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view part) { return text.find(part) != std::string_view::npos; });
}

// https://www.postgresql.org/docs/15/errcodes-appendix.html
Code code_of(std::string_view state, std::string_view message) {
  auto is = [&](std::initializer_list<std::string_view> prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return state.starts_with(p); });
  };
  // A row that a policy refuses has the code of a missing permission.
  if (state == "42501" && has(message, {"row-level security policy"})) return Code::rejected;
  // Data, integrity, triggers and other routines (RAISE EXCEPTION), WITH CHECK, limits such as an index row's size; two
  // rows of a statement that are one for a collation.
  if (is({"21", "22", "23", "27", "38", "39", "44", "54", "P0"})) return Code::rejected;
  // Authorisation, a database or schema that is not there, names and permissions, what the server cannot do.
  if (is({"28", "3D", "3F", "42", "0A"})) return Code::usage;
  // Of PgBouncer, which has this one code for most.
  if (state == "08P01" &&
      has(message, {"no such database", "no such user", "authentication failed", "unsupported startup parameter"}))
    return Code::usage;
  return Code::temporary;
}

// The error of a connection has no fields, but in the verbose form its code: `…: FATAL:  28P01: password …\nLOCATION:
// …`.
std::string take_state(std::string& message) {
  for (std::size_t at = 0; (at = message.find(":  ", at)) != std::string::npos; ++at) {
    std::string_view const state = std::string_view(message).substr(at + 3, 5);
    bool const good = state.size() == 5 && message.compare(at + 8, 2, ": ") == 0 &&
                      std::all_of(state.begin(), state.end(),
                                  [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'); });
    if (!good) continue;
    std::string const found(state);
    message.erase(at + 3, 7);
    return found;
  }
  return "";
}

Code code_of_connecting(std::string_view state, std::string_view message) {
  if (!state.empty()) {
    Code const code = code_of(state, message);
    return code == Code::rejected ? Code::temporary : code;
  }
  if (has(message, {"SYSCALL"})) return Code::temporary;
  bool const ours =
      has(message, {"no password supplied", "SSL", "certificate", "invalid ", "authentication method",
                    "Name or service not known", "No address associated", "definition of service", "requires"});
  return ours ? Code::usage : Code::temporary;
}

// ---- where to, and how

// Whether all of these hosts (comma-separated, as libpq has them) are this machine.
bool is_local(std::string_view hosts) {
  while (true) {
    std::size_t const comma = std::min(hosts.find(','), hosts.size());
    std::string_view const host = hosts.substr(0, comma);
    bool const local = host.empty() || host[0] == '/' || host[0] == '@' || host == "localhost" || host == "::1" ||
                       host.starts_with("127.");
    if (!local) return false;
    if (comma == hosts.size()) return true;
    hosts.remove_prefix(comma + 1);
  }
}

// The certificates that curl would trust.
std::string trusted() {
  if (std::string file = variable("SSL_CERT_FILE"); !file.empty()) return file;
  for (char const* const file :
       {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}) {
    if (::access(file, R_OK) == 0) return file;
  }
  return "";
}

struct Parameters {
  std::vector<std::string> names, values;

  void add(std::string name, std::string value) {
    names.push_back(std::move(name));
    values.push_back(std::move(value));
  }
};

bool names_password(std::string_view url) {
  std::size_t const question = std::min(url.find('?'), url.size());
  std::size_t const begin = url.find("://");
  std::string_view authority = url.substr(begin == std::string_view::npos ? 0 : begin + 3);
  authority = authority.substr(0, authority.find_first_of("/?"));
  std::size_t const at = authority.rfind('@');
  if (at != std::string_view::npos && authority.substr(0, at).find(':') != std::string_view::npos) return true;
  return has(url.substr(question), {"password="});
}

void ignore_notice(void*, PGresult const*) {}

constexpr Duration kPatience = std::chrono::seconds(15);  // to connect, where connect_timeout does not say otherwise

}  // namespace

struct Pg::State {
  std::string url, name;
  Parameters parameters;
  Duration patience = kPatience;
  Handle<PGconn, PQfinish> connection;
  PgError error;
  std::string tag;
  Answer row;
  std::vector<std::string> names;

  // What is not in the URI or the environment.
  Status set_defaults() {
    char* wrong = nullptr;
    Handle<PQconninfoOption, PQconninfoFree> const options(PQconninfoParse(url.c_str(), &wrong));
    if (!options) {
      std::string const why = wrong == nullptr ? "out of memory" : first_line(wrong);
      PQfreemem(wrong);
      return Status::usage(fmt::format("{}: {}", name, why));
    }
    auto value = [&](std::string_view keyword, char const* variable_name) {
      for (PQconninfoOption const* option = options.get(); option->keyword != nullptr; ++option) {
        if (option->keyword == keyword && option->val != nullptr) return std::string(option->val);
      }
      return variable_name == nullptr ? "" : variable(variable_name);
    };
    // libpq gives up when a server is silent for as long as this, and not after hours.
    for (auto const& [keyword, given] : {std::pair{"keepalives_idle", "30"},
                                         {"keepalives_interval", "10"},
                                         {"keepalives_count", "3"},
                                         {"tcp_user_timeout", "60000"}}) {
      parameters.add(keyword, given);
    }
    parameters.add("fallback_application_name", tool_name());
    if (std::string const timeout = value("connect_timeout", "PGCONNECT_TIMEOUT"); !timeout.empty()) {
      long const seconds = std::strtol(timeout.c_str(), nullptr, 10);
      if (seconds > 0) patience = std::chrono::seconds(std::max(seconds, 2L));
    }
    // A service file says for itself how it is reached.
    if (value("service", "PGSERVICE").empty()) {
      std::string mode = value("sslmode", "PGSSLMODE");
      std::string hosts = value("host", "PGHOST");
      if (hosts.empty()) hosts = value("hostaddr", "PGHOSTADDR");
      if (mode.empty() && !is_local(hosts)) parameters.add("sslmode", mode = "verify-full");
      std::string const home = variable("HOME") + "/.postgresql/root.crt";
      if (mode.starts_with("verify-") && value("sslrootcert", "PGSSLROOTCERT").empty() &&
          ::access(home.c_str(), F_OK) != 0) {
        if (std::string const file = trusted(); !file.empty()) parameters.add("sslrootcert", file);
      }
    }
    parameters.add("dbname", url);  // overrules what stands before it
    parameters.add("client_encoding", "UTF8");
    return {};
  }

  Status refused() {
    std::string message = PQerrorMessage(connection.get());
    connection.reset();
    // Of several addresses each has its lines; the last attempt is the one to tell.
    std::string const state = take_state(message);
    error = {state, first_line(message), ""};
    Code const code = code_of_connecting(state, message);
    std::string what = fmt::format("{}: {}", name, error.message);
    if (has(message, {"server does not support SSL"}))
      what += "; over a network TLS is asked for unless sslmode says otherwise (sslmode=disable)";
    return {code, std::move(what)};
  }

  Status connect() {
    connection.reset();
    row.reset();
    std::vector<char const*> names_of, values_of;
    for (std::size_t i = 0; i < parameters.names.size(); ++i) {
      names_of.push_back(parameters.names[i].c_str());
      values_of.push_back(parameters.values[i].c_str());
    }
    names_of.push_back(nullptr), values_of.push_back(nullptr);
    connection.reset(PQconnectStartParams(names_of.data(), values_of.data(), 1));
    if (!connection) return Status::temporary(fmt::format("{}: out of memory", name));
    PQsetErrorVerbosity(connection.get(), PQERRORS_VERBOSE);
    Duration const until = system_clock().steady() + patience;
    for (PostgresPollingStatusType wants = PGRES_POLLING_WRITING; PQstatus(connection.get()) != CONNECTION_BAD;) {
      Duration const left = until - system_clock().steady();
      if (left <= Duration::zero()) {
        connection.reset();
        return Status::temporary(fmt::format("{}: no connection within {}", name, format_duration(patience)));
      }
      pollfd fd{PQsocket(connection.get()), static_cast<short>(wants == PGRES_POLLING_READING ? POLLIN : POLLOUT), 0};
      auto const ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1;
      if (::poll(&fd, 1, static_cast<int>(ms)) <= 0) continue;
      wants = PQconnectPoll(connection.get());
      if (wants == PGRES_POLLING_OK) break;
      if (wants == PGRES_POLLING_FAILED) return refused();
    }
    if (PQstatus(connection.get()) != CONNECTION_OK) return refused();
    PQsetErrorVerbosity(connection.get(), PQERRORS_DEFAULT);
    PQsetNoticeReceiver(connection.get(), ignore_notice, nullptr);
    (void)PQsetnonblocking(connection.get(), 0);
    return {};
  }

  Status lost() {
    std::string const why = connection ? first_line(PQerrorMessage(connection.get())) : "not connected";
    error = {"", why, ""};
    return Status::temporary(fmt::format("{}: {}", name, why.empty() ? "connection lost" : why));
  }

  Status failure(PGresult const* answer) {
    auto field = [&](int code) {
      char const* const text = answer == nullptr ? nullptr : PQresultErrorField(answer, code);
      return std::string(text == nullptr ? "" : text);
    };
    std::string state = field(PG_DIAG_SQLSTATE);
    if (state.empty()) return lost();
    std::string message = field(PG_DIAG_MESSAGE_PRIMARY);
    if (std::string const detail = field(PG_DIAG_MESSAGE_DETAIL); !detail.empty()) message += ": " + detail;
    error = {std::move(state), std::move(message), field(PG_DIAG_CONTEXT)};
    Code const code = code_of(error.state, error.message);
    // A row's fault goes into its dead letter, in the server's own words.
    return {code, code == Code::rejected ? error.message : fmt::format("{}: {}", name, error.message)};
  }

  // All results of what was sent, the last or failed one told.
  Status finish() {
    Status status;
    tag.clear();
    while (Answer const answer{connection ? PQgetResult(connection.get()) : nullptr}) {
      ExecStatusType const kind = PQresultStatus(answer.get());
      if (kind == PGRES_COMMAND_OK || kind == PGRES_TUPLES_OK) {
        tag = PQcmdStatus(answer.get());
      } else if (kind == PGRES_COPY_IN || kind == PGRES_COPY_OUT) {
        break;
      } else if (status.ok()) {
        status = failure(answer.get());
      }
    }
    if (status.ok() && (!connection || PQstatus(connection.get()) == CONNECTION_BAD)) return lost();
    return status;
  }

  Status send(std::string const& sql, std::vector<std::string> const& values) {
    error = {};
    std::vector<char const*> texts;
    for (std::string const& value : values) texts.push_back(value.c_str());
    int const sent = !connection      ? 0
                     : values.empty() ? PQsendQuery(connection.get(), sql.c_str())
                                      : PQsendQueryParams(connection.get(), sql.c_str(), static_cast<int>(texts.size()),
                                                          nullptr, texts.data(), nullptr, nullptr, 0);
    return sent == 1 ? Status{} : lost();
  }
};

Pg::Pg(std::unique_ptr<State> state) : state_(std::move(state)) {}
Pg::Pg(Pg&&) noexcept = default;
Pg::~Pg() = default;

Result<Pg> Pg::make(std::string const& url) {
  if (names_password(url))
    return Status::usage("a password does not belong on a command line: PGPASSWORD, or better ~/.pgpass");
  auto state = std::make_unique<State>();
  state->url = url == "postgresql:" || url == "postgres:" ? url + "//" : url;
  state->name = public_url(url.substr(0, url.find('?')));
  if (Status status = state->set_defaults(); !status.ok()) return status;
  return Pg(std::move(state));
}

std::string const& Pg::name() const { return state_->name; }
Status Pg::connect() { return state_->connect(); }
void Pg::close() {
  state_->row.reset();
  state_->connection.reset();
}

bool Pg::connected() {
  PGconn* const connection = state_->connection.get();
  if (connection == nullptr || PQstatus(connection) != CONNECTION_OK) return false;
  pollfd fd{PQsocket(connection), POLLIN, 0};
  if (::poll(&fd, 1, 0) == 1 && PQconsumeInput(connection) == 0) return false;
  return PQstatus(connection) == CONNECTION_OK;
}

Status Pg::execute(std::string const& sql) {
  if (Status status = state_->send(sql, {}); !status.ok()) return status;
  return state_->finish();
}

Result<std::vector<Pg::Row>> Pg::query(std::string const& sql, std::vector<std::string> const& parameters) {
  if (Status status = start(sql, parameters); !status.ok()) return status;
  std::vector<Row> rows;
  std::vector<std::optional<std::string_view>> fields;
  for (;;) {
    auto more = next_row(fields);
    if (!more) return more.status();
    if (!*more) return rows;
    Row& row = rows.emplace_back();
    for (auto const& field : fields) row.push_back(field ? Field(std::string(*field)) : Field());
  }
}

Status Pg::copy_in(std::string const& sql, std::string_view data) {
  if (Status status = state_->send(sql, {}); !status.ok()) return status;
  PGconn* const connection = state_->connection.get();
  for (;;) {
    Answer const answer(PQgetResult(connection));
    ExecStatusType const kind = answer ? PQresultStatus(answer.get()) : PGRES_FATAL_ERROR;
    if (kind == PGRES_COPY_IN) break;
    if (kind == PGRES_COMMAND_OK || kind == PGRES_TUPLES_OK) continue;
    Status status = state_->failure(answer.get());
    (void)state_->finish();
    return status;
  }
  constexpr std::size_t kPiece = 256 << 10;
  for (std::size_t at = 0; at < data.size(); at += kPiece) {
    std::string_view const piece = data.substr(at, kPiece);
    if (PQputCopyData(connection, piece.data(), static_cast<int>(piece.size())) != 1) break;  // finish() says why
  }
  if (PQputCopyEnd(connection, nullptr) != 1 && PQstatus(connection) == CONNECTION_BAD) return state_->lost();
  return state_->finish();
}

Status Pg::start(std::string const& sql, std::vector<std::string> const& parameters) {
  if (Status status = state_->send(sql, parameters); !status.ok()) return status;
  state_->names.clear();
  if (PQsetSingleRowMode(state_->connection.get()) != 1) return state_->lost();
  return {};
}

Result<bool> Pg::next_row(std::vector<std::optional<std::string_view>>& fields) {
  State& state = *state_;
  fields.clear();
  for (;;) {
    state.row.reset(state.connection ? PQgetResult(state.connection.get()) : nullptr);
    if (!state.row) {
      if (!state.connection || PQstatus(state.connection.get()) == CONNECTION_BAD) return state.lost();
      return false;
    }
    PGresult const* const row = state.row.get();
    ExecStatusType const kind = PQresultStatus(row);
    if (kind != PGRES_SINGLE_TUPLE && kind != PGRES_TUPLES_OK && kind != PGRES_COMMAND_OK) {
      Status status = state.failure(row);
      (void)state.finish();
      return status;
    }
    if (state.names.empty()) {
      for (int i = 0; i < PQnfields(row); ++i) state.names.emplace_back(PQfname(row, i));
    }
    if (kind != PGRES_SINGLE_TUPLE) continue;
    for (int i = 0; i < PQnfields(row); ++i) {
      fields.push_back(PQgetisnull(row, 0, i) != 0
                           ? std::optional<std::string_view>()
                           : std::string_view(PQgetvalue(row, 0, i), static_cast<std::size_t>(PQgetlength(row, 0, i))));
    }
    return true;
  }
}

std::vector<std::string> const& Pg::field_names() const { return state_->names; }
PgError const& Pg::error() const { return state_->error; }
std::string const& Pg::tag() const { return state_->tag; }
bool Pg::in_transaction() const {
  return state_->connection && PQtransactionStatus(state_->connection.get()) != PQTRANS_IDLE;
}

std::string pg_name(std::string_view name) {
  std::string out = "\"";
  for (char const c : name) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

// E'…' says the same whatever standard_conforming_strings is.
std::string pg_literal(std::string_view text) {
  std::string out = "E'";
  for (char const c : text) {
    if (c == '\'' || c == '\\') out += c;
    out += c;
  }
  return out + '\'';
}

}  // namespace inflight

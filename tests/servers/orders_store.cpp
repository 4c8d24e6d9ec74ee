#include "tests/servers/orders_store.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace inflight::sim {

namespace {

// A function's statements each see what was committed before them, and so also what the writer before had written that
// held the lock.
constexpr char const* kSchema = R"sql(
BEGIN;
SELECT pg_advisory_xact_lock(19700101);
CREATE TABLE IF NOT EXISTS order_versions (key text COLLATE "C" PRIMARY KEY, version bigint NOT NULL);
CREATE TABLE IF NOT EXISTS orders (key text COLLATE "C" PRIMARY KEY, number bigint NOT NULL, status text NOT NULL,
  created bigint, customer text, email text, city text, zip text, total numeric, gift boolean, note text);
CREATE TABLE IF NOT EXISTS order_lines (key text COLLATE "C" REFERENCES orders ON DELETE CASCADE, line integer,
  sku text NOT NULL, quantity integer NOT NULL, cents bigint NOT NULL, PRIMARY KEY (key, line));

CREATE OR REPLACE FUNCTION order_advance(the_key text, the_version bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO order_versions AS known VALUES (the_key, coalesce(the_version, 0))
    ON CONFLICT (key) DO UPDATE SET version = coalesce(the_version, known.version)
    WHERE the_version IS NULL OR known.version <= the_version;
  RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION order_put(the_key text, the_version bigint, document jsonb) RETURNS text LANGUAGE plpgsql
AS $$
DECLARE there boolean;
BEGIN
  IF NOT order_advance(the_key, the_version) THEN RETURN 'stale'; END IF;
  DELETE FROM orders WHERE key = the_key;
  there := FOUND;
  INSERT INTO orders SELECT the_key, d.* FROM jsonb_to_record(document) AS d(number bigint, status text,
    created bigint, customer text, email text, city text, zip text, total numeric, gift boolean, note text);
  INSERT INTO order_lines SELECT the_key, each.n, l.* FROM jsonb_array_elements(document->'lines')
    WITH ORDINALITY AS each(line, n), jsonb_to_record(each.line) AS l(sku text, quantity integer, cents bigint);
  RETURN CASE WHEN there THEN 'replaced' ELSE 'created' END;
END $$;

CREATE OR REPLACE FUNCTION order_delete(the_key text, the_version bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF NOT order_advance(the_key, the_version) THEN RETURN 'stale'; END IF;
  DELETE FROM orders WHERE key = the_key;
  RETURN CASE WHEN FOUND THEN 'removed' ELSE 'absent' END;
END $$;
COMMIT;
)sql";

constexpr char const* kSelect =
    "SELECT json_strip_nulls(json_build_object('key', o.key, 'number', number, 'status', status, 'created', created,"
    " 'customer', customer, 'email', email, 'city', city, 'zip', zip, 'total', total, 'gift', gift, 'note', note,"
    " 'lines', (SELECT coalesce(json_agg(json_build_object('sku', sku, 'quantity', quantity, 'cents', cents)"
    " ORDER BY line), '[]') FROM order_lines l WHERE l.key = o.key))) FROM orders o";

}  // namespace

using Answer = OrdersStore::Answer;
using Outcome = OrdersStore::Outcome;

Answer OrdersStore::Connection::failure(Status const& status) {
  return {status.code() == Code::rejected    ? Outcome::invalid
          : status.code() == Code::temporary ? Outcome::unavailable
                                             : Outcome::broken,
          status.what()};
}

std::optional<Answer> OrdersStore::Connection::connect() {
  if (pg_.connected()) return std::nullopt;
  Status status = pg_.connect();
  bool prepared = false;
  {
    std::lock_guard const lock(store_->mutex_);
    prepared = store_->prepared_;
  }
  if (status.ok() && !prepared) {
    status = pg_.execute(kSchema);
    std::lock_guard const lock(store_->mutex_);
    store_->prepared_ = status.ok();
  }
  if (status.ok()) return std::nullopt;
  pg_.close();
  return failure(status);
}

Answer OrdersStore::Connection::call(std::string const& function, std::vector<std::string> const& parameters) {
  if (auto refused = connect()) return *std::move(refused);
  auto const rows = pg_.query("SELECT " + function, parameters);
  if (!rows) {
    if (rows.status().code() != Code::rejected) pg_.close();
    return failure(rows.status());
  }
  std::string const what = rows->at(0).at(0).value_or("");
  for (auto const& [name, outcome] : {std::pair{"created", Outcome::created}, std::pair{"replaced", Outcome::replaced},
                                      std::pair{"removed", Outcome::removed}, std::pair{"absent", Outcome::absent},
                                      std::pair{"stale", Outcome::stale}}) {
    if (what == name) return {outcome};
  }
  return {Outcome::broken, what};
}

// Parameters are never NULL: no version is the empty text.
Answer OrdersStore::Connection::put(std::string const& key, std::optional<std::string> const& version,
                                    std::string const& document) {
  return call("order_put($1, nullif($2, '')::bigint, $3::jsonb)", {key, version.value_or(""), document});
}

Answer OrdersStore::Connection::remove(std::string const& key, std::optional<std::string> const& version) {
  return call("order_delete($1, nullif($2, '')::bigint)", {key, version.value_or("")});
}

Answer OrdersStore::Connection::get(std::string const& key) {
  if (auto refused = connect()) return *std::move(refused);
  auto const rows = pg_.query(std::string(kSelect) + " WHERE o.key = $1", {key});
  if (!rows) {
    if (rows.status().code() != Code::rejected) pg_.close();
    return failure(rows.status());
  }
  if (rows->empty()) return {Outcome::absent};
  return {Outcome::found, rows->at(0).at(0).value_or("")};
}

std::optional<Answer> OrdersStore::Connection::start_list() {
  if (auto refused = connect()) return refused;
  if (Status const status = pg_.start(std::string(kSelect) + " ORDER BY o.key", {}); !status.ok()) {
    pg_.close();
    return failure(status);
  }
  return std::nullopt;
}

std::optional<Answer> OrdersStore::Connection::next(std::string& order) {
  order.clear();
  std::vector<std::optional<std::string_view>> fields;
  auto const more = pg_.next_row(fields);
  if (!more) {
    pg_.close();
    return failure(more.status());
  }
  if (*more) order = fields.at(0).value_or("");
  return std::nullopt;
}

OrdersStore::OrdersStore(std::string url, std::size_t connections)
    : url_(url.empty() ? "postgresql:" : std::move(url)), connections_(connections) {
  if (connections == 0) throw std::invalid_argument("--connections wants at least one");
  if (auto const pg = Pg::make(url_); !pg) throw std::invalid_argument(pg.status().what());
}

void OrdersStore::prepare() {
  Pg pg = std::move(*Pg::make(url_));
  Status status = pg.connect();
  if (status.ok()) status = pg.execute(kSchema);
  if (!status.ok() && status.code() != Code::temporary) throw std::invalid_argument(status.what());
  std::lock_guard const lock(mutex_);
  prepared_ = status.ok();
  if (prepared_) idle_.push_back(std::move(pg));
}

std::optional<OrdersStore::Connection> OrdersStore::take() {
  std::lock_guard const lock(mutex_);
  if (in_use_ == connections_) return std::nullopt;
  peak_ = std::max(peak_, ++in_use_);
  if (idle_.empty()) return std::optional<Connection>(std::in_place, *this, std::move(*Pg::make(url_)));
  Pg pg = std::move(idle_.back());
  idle_.pop_back();
  return std::optional<Connection>(std::in_place, *this, std::move(pg));
}

void OrdersStore::give_back(Pg pg) {
  if (pg.in_transaction()) pg.close();  // a list that was not read to its end
  std::lock_guard const lock(mutex_);
  --in_use_;
  idle_.push_back(std::move(pg));
}

std::size_t OrdersStore::in_use() {
  std::lock_guard const lock(mutex_);
  return in_use_;
}
std::size_t OrdersStore::peak() {
  std::lock_guard const lock(mutex_);
  return peak_;
}
void OrdersStore::reset_peak() {
  std::lock_guard const lock(mutex_);
  peak_ = in_use_;
}

}  // namespace inflight::sim

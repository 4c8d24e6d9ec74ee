// The rows of one transaction into PostgreSQL, in the text format of COPY, and the statements that store them from the
// temporary tables into which they are copied.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/json_text.h"
#include "common/pg_catalog.h"
#include "common/sql_engine.h"
#include "common/status.h"

namespace inflight {

struct PgRows {
  // Rows that name the same columns.
  struct Shape {
    std::vector<std::size_t> columns;  // of the SqlTable
    std::string data;
    std::vector<std::size_t> rows;  // which calls they were
  };
  // What one statement stores or removes. Rows of equal keys are there in their order; it leaves the last one, or which
  // the conflict rule prefers.
  struct Group {
    enum class Kind { store, remove, remove_older } kind = Kind::store;
    std::map<std::vector<char>, Shape> shapes;  // by which columns are named
  };

  SqlTable* sql = nullptr;
  std::shared_ptr<PgTable const> table;
  std::vector<Group> groups;  // in the order in which they are carried out

  // Append the row of a call to the group that it belongs to: a later one than all that have rows of its key.
  // Code::rejected: what it would lose.
  [[nodiscard]] Status store(std::size_t call, std::span<Value const> values);
  [[nodiscard]] Status remove(std::size_t call, std::span<Value const> values);

  // The columns that a group's temporary table has, and its definition. What a single row can be blamed for is in it
  // too: COPY says which row it is. Where triggers may mend a row first, only its types are.
  [[nodiscard]] std::vector<std::size_t> columns_of(Group const& group) const;
  [[nodiscard]] std::string definition(Group const& group) const;
  // COPY … FROM STDIN of a shape's data.
  [[nodiscard]] std::string copy(Shape const& shape, std::string const& temporary) const;
  // What is then to be done with it.
  [[nodiscard]] std::string carry_out(Group const& group, std::string const& temporary) const;

 private:
  [[nodiscard]] bool one_shape() const;
  [[nodiscard]] PgColumn const& column(std::size_t i) const { return *table->column(sql->columns[i].name); }
  [[nodiscard]] std::string names(std::vector<std::size_t> const& columns) const;
  Status put(std::size_t call, Group::Kind kind, bool any_shape, std::span<Value const> values);
  Group& group_for(Group::Kind kind, bool any_shape, std::span<Value const> values);
  [[nodiscard]] std::string insertion(Group const& group, std::string const& temporary) const;
  [[nodiscard]] std::string removal(Group const& group, std::string const& temporary) const;
  [[nodiscard]] bool version_is_text() const;
  [[nodiscard]] std::string newest_first() const;
  [[nodiscard]] std::string not_older(std::string_view than) const;

  std::unordered_map<std::string, std::size_t> last_;  // a key, and the last group after the first that it is in
  std::size_t uncertain_ = 0;                          // the last group with a row whose key may be any
  std::vector<char> shape_;                            // of the row at hand
  std::string line_;
};

// Appends what equal values of a column that has PgColumn::whole_text have in common, and no others. False: it cannot
// be told, of a whole number that is written in an unusual way.
[[nodiscard]] bool append_key_text(std::string& key, PgColumn const& column, SqlColumn const& as, Value const& value,
                                   bool remove_nul);

// Parents before their children; where only rows are removed, after them. Otherwise by name: two writers take locks in
// one order.
[[nodiscard]] std::vector<std::reference_wrapper<PgRows>> in_order(std::vector<PgRows>& tables);

}  // namespace inflight

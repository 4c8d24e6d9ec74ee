// The rows of a database, one after the other in the order of a key, each as a line of JSON.
#pragma once

#include <string>

#include "common/status.h"

namespace inflight {

class KeyedRows {
 public:
  virtual ~KeyedRows() = default;
  // Connects, and begins with the rows of this key (as next() gave it), which are also those whose key is the same to
  // the database though not to the letter, or behind it; empty: with the first row. Code::temporary: not there, busy.
  // Code::usage: no such table or column, no permission, no key.
  [[nodiscard]] virtual Status start(std::string const& after) = 0;
  // False after the last row. Code::temporary: start again at the last one. Code::usage: a NULL is in the key.
  [[nodiscard]] virtual Result<bool> next(std::string& line, std::string& key) = 0;
};

}  // namespace inflight

// What InfluxDB answers to a query of InfluxQL with chunked=true: documents of JSON, one a line, each with some rows.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/json_splitter.h"
#include "common/status.h"

namespace inflight {

// Takes the answer in pieces, in bounded memory.
class InfluxAnswerReader final : private JsonSplitter::Handler {
 public:
  class Rows {
   public:
    virtual ~Rows() = default;
    // Before the rows of a series; `tags`, of a GROUP BY, as JSON strings.
    [[nodiscard]] virtual Status series(std::vector<std::string> const& columns,
                                        std::vector<std::pair<std::string, std::string>> const& tags) = 0;
    // As many values as there are columns, as they are written.
    [[nodiscard]] virtual Status row(std::vector<std::string_view> const& values) = 0;
  };

  explicit InfluxAnswerReader(Rows& rows) : rows_(rows), splitter_(*this, 16 << 20) {}

  [[nodiscard]] Status feed(std::string_view bytes);
  // Behind the last piece. Code::temporary: it is not whole.
  [[nodiscard]] Status finish();
  // What the server says went wrong, in the middle of an answer of status 200; empty: nothing.
  [[nodiscard]] std::string const& error() const { return error_; }

 private:
  Status member(std::size_t depth, std::string_view key, std::string_view value, bool whole) override;
  bool descend(std::size_t depth, std::string_view key) override;

  Rows& rows_;
  JsonSplitter splitter_;
  bool begun_ = false;   // in the middle of a document
  bool more_ = true;     // another document must follow
  bool series_ = false;  // told of the series at hand
  std::vector<std::string> columns_;
  std::vector<std::pair<std::string, std::string>> tags_;
  std::vector<std::string_view> values_;
  std::string error_;
};

}  // namespace inflight

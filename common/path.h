// Values inside records: named by paths, found many at once, flattened, put into templates.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/record.h"
#include "common/status.h"

namespace inflight {

// Whether it is one JSON value, to its last byte.
[[nodiscard]] bool is_json(std::string_view text);

// Which value an option names: an attribute (`subject`; of a bare record a top-level member), or a JSON Pointer (RFC
// 6901) into the data (`/bsu/power/#text`).
class Path {
 public:
  [[nodiscard]] static Result<Path> parse(std::string_view text);
  // Several, joined by commas.
  [[nodiscard]] static Result<std::vector<Path>> parse_list(std::string_view text);
  [[nodiscard]] bool in_data() const { return in_data_; }
  [[nodiscard]] std::vector<std::string> const& steps() const { return steps_; }
  [[nodiscard]] std::string const& text() const { return text_; }

 private:
  std::string text_;
  std::vector<std::string> steps_;
  bool in_data_ = false;
};

// Finds many paths in one pass over a record.
class Selector {
 public:
  explicit Selector(std::vector<Path> const& paths);
  ~Selector();
  Selector(Selector&&) noexcept;
  // values[i] is what paths[i] names, or none. Code::rejected where the data is not JSON.
  [[nodiscard]] Status select(Record const& record, std::vector<Value>& values);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// Calls visit(path, value) for each scalar of a JSON text, `path` the steps joined by `separator`, arrays by index.
// Code::rejected where it is not JSON.
class Flattener {
 public:
  Flattener();
  ~Flattener();
  using Visit = void (*)(void* context, std::string_view path, Value value);
  [[nodiscard]] Status flatten(std::string_view json, char separator, Visit visit, void* context);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// An RFC 6570 template (levels 1 and 2, and `{/json/pointer}` into the data): `orders/{subject}`, `{+subject}`
// unencoded.
class Template {
 public:
  [[nodiscard]] static Result<Template> parse(std::string_view text);
  // Code::rejected where a named value is missing or no scalar.
  [[nodiscard]] Status expand(Record const& record, std::string& out);
  [[nodiscard]] bool constant() const { return parts_.size() <= 1 && (parts_.empty() || parts_[0].literal); }

 private:
  struct Part {
    std::string text;
    bool literal = true;
    bool encode = true;
  };
  std::vector<Part> parts_;
  std::shared_ptr<Selector> selector_;
};

}  // namespace inflight

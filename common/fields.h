// The fields of a record that a sink writes where no option names any: the event's attributes, and the scalars of its
// data.
//
// A scalar's name is its path, joined with `_`, without the root element (an object that is the data's only member),
// without
// `@` before a step and without `#text`: {"bsu":{"@id":"7","cell":[{"v":3.2}]}} has `id` and `cell_0_v`. In an event a
// name that is an attribute's (source, id, subject, time, recordedtime) keeps its root: `bsu_id`, or `data_id` where
// there is none.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/path.h"
#include "common/record.h"
#include "common/status.h"

namespace inflight {

struct FieldValue {
  std::string_view name;   // valid as long as the Fields
  Value value;             // a scalar, as written
  bool attribute = false;  // of the event, not of its data
};

class Fields {
 public:
  // Code::rejected where the data is not JSON. Data that is a scalar itself is the field `data`.
  [[nodiscard]] Status read(Record const& record, std::vector<FieldValue>& fields);

  // Whether an event's attribute is one of those that a sink stores unasked.
  [[nodiscard]] static bool usual(std::string_view attribute);

 private:
  std::string_view name_of(std::string_view path, bool rooted, bool event);

  struct Part {
    std::size_t begin = 0, size = 0;
    Value value;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  struct Known {
    std::string path;
    std::string_view name;
  };
  Flattener flattener_;
  std::string paths_;  // of the record at hand
  std::vector<Part> parts_;
  std::vector<Known> last_;  // names of the record before, which most often has the same paths in the same order
  bool last_rooted_ = false, last_event_ = false;
  std::unordered_map<std::string, std::string, Hash, std::equal_to<>>
      names_;  // by path, prefixed with what else decides
};

}  // namespace inflight

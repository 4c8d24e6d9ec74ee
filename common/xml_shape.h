// The shape that options declare for what is converted: --type and --array, by paths of elements.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/path.h"
#include "common/status.h"

namespace inflight {

enum class XmlType : std::uint8_t { none, integer, real, boolean };
[[nodiscard]] std::string_view name_of(XmlType type);  // int, float, bool

// `/fleet/bsu`: steps that are names. Code::usage, told with the option.
[[nodiscard]] Result<Path> element_path(std::string_view text, char const* option);

// Paths begin at the record's element, and end in it, in `@attribute` or in `#text`. A place is a step of one of them.
class XmlShape {
 public:
  using Place = std::uint32_t;
  static constexpr Place kNothing = 0, kRoot = 1;  // nothing is declared here; above the record's element

  // Of `PATH=int|float|bool` and of paths. Code::usage: one of them is no such thing.
  [[nodiscard]] static Result<XmlShape> make(std::vector<std::string> const& types,
                                             std::vector<std::string> const& arrays);

  // The step PREFIXname below a place.
  [[nodiscard]] Place below(Place place, std::string_view prefix, std::string_view name) const {
    for (Place const child : steps_[place].below) {
      std::string_view const step = steps_[child].name;
      if (step.size() == prefix.size() + name.size() && step.starts_with(prefix) && step.ends_with(name)) return child;
    }
    return kNothing;
  }
  [[nodiscard]] XmlType type(Place place) const { return steps_[place].type; }
  [[nodiscard]] bool is_array(Place place) const { return steps_[place].array; }

 private:
  struct Step {
    std::string name;
    XmlType type = XmlType::none;
    bool array = false;
    std::vector<Place> below;
  };
  Step& plant(Path const& path);

  std::vector<Step> steps_{2};
};

// Writes `text`, a value escaped for JSON, as a value of JSON of this type; digits stay as written, but for what JSON
// has no word for (+1, 007, .5, 5.). `infer`: without a type, what JSON would read as a number, true or false is one.
// At `to` there is room for 4 bytes more than `text` has. False: it is not of the type.
[[nodiscard]] bool put_value(char*& to, std::string_view text, XmlType type, bool infer);

}  // namespace inflight

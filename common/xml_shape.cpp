#include "common/xml_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/json_text.h"

namespace inflight {

namespace {

constexpr std::string_view kTypes[] = {"", "int", "float", "bool"};

void put(char*& to, std::string_view text) {
  std::memcpy(to, text.data(), text.size());
  to += text.size();
}

}  // namespace

std::string_view name_of(XmlType type) { return kTypes[static_cast<std::size_t>(type)]; }

Result<Path> element_path(std::string_view text, char const* option) {
  auto path = Path::parse(text);
  if (!path) return path.status().at(option);
  bool const steps_named =
      std::none_of(path->steps().begin(), path->steps().end(), [](std::string const& s) { return s.empty(); });
  if (!path->in_data() || !steps_named)
    return Status::usage(fmt::format("{} '{}': a path is /element/element", option, text));
  return path;
}

XmlShape::Step& XmlShape::plant(Path const& path) {
  Place at = kRoot;
  for (std::string const& step : path.steps()) {
    Place next = below(at, "", step);
    if (next == kNothing) {
      next = static_cast<Place>(steps_.size());
      steps_[at].below.push_back(next);
      steps_.push_back({step, XmlType::none, false, {}});
    }
    at = next;
  }
  return steps_[at];
}

Result<XmlShape> XmlShape::make(std::vector<std::string> const& types, std::vector<std::string> const& arrays) {
  XmlShape shape;
  for (std::string const& text : types) {
    std::size_t const equals = text.rfind('=');
    auto const* const type = equals == std::string::npos
                                 ? std::end(kTypes)
                                 : std::find(std::begin(kTypes) + 1, std::end(kTypes), text.substr(equals + 1));
    if (type == std::end(kTypes))
      return Status::usage(fmt::format("--type '{}': give PATH=int, PATH=float or PATH=bool", text));
    auto path = element_path(std::string_view(text).substr(0, equals), "--type");
    if (!path) return path.status();
    shape.plant(*path).type = static_cast<XmlType>(type - std::begin(kTypes));
  }
  for (std::string const& text : arrays) {
    auto path = element_path(text, "--array");
    if (!path) return path.status();
    shape.plant(*path).array = true;
  }
  return shape;
}

bool put_value(char*& to, std::string_view text, XmlType type, bool infer) {
  if (type == XmlType::none) {
    if (infer && (is_json_number(text) || text == "true" || text == "false")) return put(to, text), true;
    *to++ = '"';
    put(to, text);
    *to++ = '"';
    return true;
  }
  if (text.empty()) return put(to, "null"), true;
  if (type == XmlType::boolean) {
    bool const yes = text == "true" || text == "1";
    if (!yes && text != "false" && text != "0") return false;
    return put(to, yes ? "true" : "false"), true;
  }
  std::size_t const from = text[0] == '-' || text[0] == '+' ? 1 : 0;
  std::size_t const integer = std::min(text.find_first_not_of("0123456789", from), text.size());
  std::string_view digits = text.substr(from, integer - from);
  std::string_view rest = text.substr(integer);
  while (digits.size() > 1 && digits[0] == '0') digits.remove_prefix(1);
  bool const fraction = rest.size() > 1 && rest[0] == '.' && rest[1] >= '0' && rest[1] <= '9';
  if (digits.empty() && !(fraction && type == XmlType::real)) return false;
  char* const before = to;
  if (text[0] == '-') put(to, "-");
  put(to, digits.empty() ? "0" : digits);
  if (rest.starts_with('.') && !fraction) rest.remove_prefix(1);
  put(to, rest);
  std::string_view const number(before, static_cast<std::size_t>(to - before));
  if (is_json_number(number) && (type == XmlType::real || integer == text.size())) return true;
  to = before;
  return false;
}

}  // namespace inflight

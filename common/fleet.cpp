#include "common/fleet.h"

#include <fmt/format.h>
#include <unistd.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "common/fd_io.h"
#include "common/record.h"
#include "common/url.h"

namespace inflight {

namespace {

using Words = std::vector<std::string_view>;

Words words_of(std::string_view line) {
  Words words;
  for (std::size_t begin = 0; (begin = line.find_first_not_of(" \t\r", begin)) != std::string_view::npos;) {
    std::size_t const end = std::min(line.find_first_of(" \t\r", begin), line.size());
    words.push_back(line.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

// Fills a unit from a line, or says what the line should have been.
using ParseLine = std::function<std::string(std::string_view line, Words const& words, FleetUnit& unit)>;

// Only who it is, of any file that names units.
std::string parse_name(std::string_view line, Words const& words, FleetUnit& unit) {
  if (!words[0].starts_with('{')) {
    unit.id = words[0];
    return words.size() <= 2 ? "" : "is neither an id nor `id URL`";
  }
  auto const json = nlohmann::json::parse(line, nullptr, false);
  for (char const* name : {"id", "subject"}) {
    if (!json.is_object() || !json.contains(name)) continue;
    if (json[name].is_string()) unit.id = json[name];
    if (json[name].is_number()) unit.id = json[name].dump();
    if (!unit.id.empty()) return "";
  }
  return R"(has no "id" or "subject")";
}

std::string parse_device(std::string_view line, Words const& words, FleetUnit& unit) {
  if (words[0].starts_with('{')) {
    auto const json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("id") || !json.contains("url") || !json["id"].is_string() ||
        !json["url"].is_string()) {
      return R"(is not {"id":"…","url":"…"})";
    }
    unit = {json["id"], json["url"]};
    return unit.id.empty() ? "has an empty id" : "";
  }
  if (words.size() != 2) return "is not `id URL`";
  unit = {std::string(words[0]), std::string(words[1])};
  return "";
}

Result<std::vector<FleetUnit>> read_units(std::string const& path, ParseLine const& parse, bool polled = true) {
  auto text = path == "-" ? read_all(STDIN_FILENO, "standard input") : read_file(path);
  if (!text) return text.status();
  std::vector<FleetUnit> units;
  std::unordered_map<std::string, std::size_t> lines;
  std::size_t number = 0;
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";  // some editors begin a file with it
  for (std::size_t begin = text->starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0; begin < text->size();) {
    std::size_t const end = std::min(text->find('\n', begin), text->size());
    std::string_view const line = std::string_view(*text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    Words const words = words_of(line);
    if (words.empty() || words[0].starts_with('#')) continue;
    FleetUnit unit;
    std::string wrong = parse(line, words, unit);
    if (wrong.empty()) unit.url = expand(std::move(unit.url), "id", unit.id);
    if (wrong.empty() && polled && !is_http_url(unit.url)) wrong = "has no http or https URL";
    if (wrong.empty() && !(valid_utf8(unit.id) && valid_utf8(unit.url))) wrong = "is not UTF-8";
    if (wrong.empty()) {
      auto const [first, fresh] = lines.emplace(unit.id, number);
      if (!fresh) wrong = fmt::format("repeats the id of line {}", first->second);
    }
    if (!wrong.empty())
      return Status::usage(fmt::format("{}: line {} {}: {}", path, number, wrong, line.substr(0, 200)));
    units.push_back(std::move(unit));
  }
  if (units.empty()) return Status::usage(fmt::format("{}: names no unit", path));
  return units;
}

}  // namespace

Result<std::vector<FleetUnit>> read_devices(std::string const& path) { return read_units(path, parse_device); }

Result<std::vector<FleetUnit>> read_ids(std::string const& path, std::string const& url) {
  return read_units(path, [&url](std::string_view, Words const& words, FleetUnit& unit) {
    unit = {std::string(words[0]), url};
    return words.size() == 1 ? "" : "is not one id";
  });
}

Result<std::vector<std::string>> read_unit_names(std::string const& path) {
  auto units = read_units(path, parse_name, false);
  if (!units) return units.status();
  std::vector<std::string> names;
  for (FleetUnit& unit : *units) names.push_back(std::move(unit.id));
  return names;
}

}  // namespace inflight

#include "common/fields.h"

#include <algorithm>
#include <array>

namespace inflight {

namespace {

constexpr char kSeparator = '\x1f';
constexpr std::array<std::string_view, 5> kUsual = {"source", "id", "subject", "time", "recordedtime"};
constexpr std::size_t kMostNames = 10000;  // a stream whose keys never repeat must not fill the memory

// The beginning of `{"root":{`, in what the flattener has found to be JSON.
bool begins_with_object_in_object(std::string_view json) {
  auto skip_space = [&] { json.remove_prefix(std::min(json.find_first_not_of(" \t\r\n"), json.size())); };
  json.remove_prefix(1);
  skip_space();
  if (!json.starts_with('"')) return false;
  std::size_t quote = 1;
  while (quote < json.size() && json[quote] != '"') quote += json[quote] == '\\' ? 2 : 1;
  json.remove_prefix(std::min(quote + 1, json.size()));
  skip_space();
  if (!json.starts_with(':')) return false;
  json.remove_prefix(1);
  skip_space();
  return json.starts_with('{');
}

}  // namespace

bool Fields::usual(std::string_view attribute) {
  return std::find(kUsual.begin(), kUsual.end(), attribute) != kUsual.end();
}

std::string_view Fields::name_of(std::string_view path, bool rooted, bool event) {
  std::string key(path);
  key += rooted ? (event ? 'E' : 'R') : (event ? 'e' : 'r');
  if (auto const known = names_.find(key); known != names_.end()) return known->second;
  std::string name, root = "data";
  for (std::size_t begin = 0, step = 0; begin <= path.size(); ++step) {
    std::size_t const end = std::min(path.find(kSeparator, begin), path.size());
    std::string_view text = path.substr(begin, end - begin);
    begin = end + 1;
    if (step == 0 && rooted) {
      root = text;
      continue;
    }
    if (text == "#text") continue;
    if (text.starts_with('@')) text.remove_prefix(1);
    if (!name.empty()) name += '_';
    name += text;
  }
  if (name.empty()) name = root;
  if (event && usual(name)) name.insert(0, root + "_");
  return names_.emplace(std::move(key), std::move(name)).first->second;
}

Status Fields::read(Record const& record, std::vector<FieldValue>& fields) {
  fields.clear();
  if (names_.size() > kMostNames) names_.clear(), last_.clear();
  bool const event = record.is_event();
  if (event) {
    for (Record::Field const& field : record.fields()) {
      if (field.name == "data" || field.name == "data_base64" || field.name == "specversion" ||
          field.name == "delivery")
        continue;
      fields.push_back({field.name, {field.value, kind_of(field.value)}, true});
    }
  }
  Value const data = record.data();
  if (!data) {
    if (Value const bytes = record.attribute("data_base64")) fields.push_back({"data_base64", bytes, false});
    return {};
  }
  paths_.clear();
  parts_.clear();
  auto const visit = [](void* self, std::string_view path, Value value) {
    auto& fields_of = *static_cast<Fields*>(self);
    fields_of.parts_.push_back({fields_of.paths_.size(), path.size(), value});
    fields_of.paths_ += path;
  };
  if (Status status = flattener_.flatten(data.raw, kSeparator, visit, this); !status.ok()) return status;

  auto const path_of = [&](Part const& part) { return std::string_view(paths_).substr(part.begin, part.size); };
  bool rooted = !parts_.empty() && data.kind == Value::Kind::object && begins_with_object_in_object(data.raw);
  if (rooted) {
    std::string_view const first = path_of(parts_[0]);
    std::string_view const root = first.substr(0, first.find(kSeparator) + 1);
    rooted = !root.empty() && std::all_of(parts_.begin(), parts_.end(),
                                          [&](Part const& part) { return path_of(part).starts_with(root); });
  }
  if (rooted != last_rooted_ || event != last_event_) last_.clear();
  last_rooted_ = rooted, last_event_ = event;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    std::string_view const path = path_of(parts_[i]);
    if (i >= last_.size()) last_.push_back({std::string(path), name_of(path, rooted, event)});
    if (last_[i].path != path) last_[i] = {std::string(path), name_of(path, rooted, event)};
    fields.push_back({last_[i].name, parts_[i].value, false});
  }
  return {};
}

}  // namespace inflight

#include "common/record.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>

namespace inflight {

namespace {

using simdjson::ondemand::json_type;

std::string_view trimmed(std::string_view raw) {
  while (!raw.empty() && (raw.back() == ' ' || raw.back() == '\t' || raw.back() == '\n' || raw.back() == '\r')) {
    raw.remove_suffix(1);
  }
  return raw;
}

// The value's bytes; the document moves on behind it.
simdjson::error_code raw_of(simdjson::ondemand::value value, std::string_view& raw) {
  json_type type{};
  if (auto error = value.type().get(type)) return error;
  if (type == json_type::object) {
    simdjson::ondemand::object object;
    if (auto error = value.get_object().get(object)) return error;
    auto const error = object.raw_json().get(raw);
    raw = trimmed(raw);
    return error;
  }
  if (type == json_type::array) {
    simdjson::ondemand::array array;
    if (auto error = value.get_array().get(array)) return error;
    auto const error = array.raw_json().get(raw);
    raw = trimmed(raw);
    return error;
  }
  raw = trimmed(value.raw_json_token());
  return raw.empty() ? simdjson::TAPE_ERROR : simdjson::SUCCESS;
}
Status reject(simdjson::error_code error, std::string_view what) {
  return Status::rejected(fmt::format("{}: {}", what, simdjson::error_message(error)));
}
}  // namespace

Value Record::attribute(std::string_view name) const {
  for (std::size_t i = fields_.size(); i-- > 0;) {
    if (same_text(fields_[i].name, name)) return {fields_[i].value, kind_of(fields_[i].value)};
  }
  return {};
}

std::string_view Record::text(std::string_view name, std::string& scratch) const {
  Value const value = attribute(name);
  if (!value || value.kind == Value::Kind::null) return {};
  return unquote(value.raw, scratch);
}

Value Record::data() const {
  if (is_event_) return attribute("data");
  return {line_, Value::Kind::object};
}

std::string_view Record::partition_key(std::string& scratch) const {
  std::string_view const key = text("partitionkey", scratch);
  return key.empty() ? text("subject", scratch) : key;
}

bool Record::is_deletion() const {
  if (!is_event_) return false;
  Value const type = attribute("type");
  if (type.kind != Value::Kind::string || !type.raw.ends_with("deleted\"")) return false;
  Value const data = attribute("data");
  return (!data || data.kind == Value::Kind::null) && !attribute("data_base64");
}

void Record::write(std::string& out, std::span<Edit const> edits) const {
  auto edit_of = [&](std::string_view name) -> Edit const* {
    for (Edit const& edit : edits) {
      if (same_text(name, edit.name)) return &edit;
    }
    return nullptr;
  };
  out += '{';
  bool first = true;
  auto separate = [&] {
    if (!first) out += ',';
    first = false;
  };
  std::uint64_t written = 0;  // edits that have taken the place of an attribute
  std::size_t run_begin = 0;  // fields that stay are copied in one piece
  std::size_t run_end = 0;
  auto copy_run = [&] {
    if (run_end > run_begin) separate(), out.append(line_, run_begin, run_end - run_begin);
    run_begin = run_end = 0;
  };
  for (Field const& field : fields_) {
    Edit const* edit = edit_of(field.name);
    if (edit == nullptr) {
      if (run_end == 0) run_begin = field.begin;
      run_end = field.end;
      continue;
    }
    copy_run();
    std::uint64_t const bit = std::uint64_t{1} << (edit - edits.data());
    if (!edit->raw || (written & bit) != 0) continue;
    separate();
    out.append(line_, field.begin, static_cast<std::size_t>(field.value.data() - line_.data()) - field.begin);
    out.append(*edit->raw);
    written |= bit;
  }
  copy_run();
  for (std::size_t i = 0; i < edits.size(); ++i) {
    if (!edits[i].raw || (written & (std::uint64_t{1} << i)) != 0) continue;
    separate();
    append_quoted(out, edits[i].name);
    out += ':';
    out.append(*edits[i].raw);
  }
  out += '}';
}

std::string Record::without(std::string_view name) const {
  std::string out;
  Edit const edit{name, std::nullopt};
  write(out, {&edit, 1});
  return out;
}

struct RecordParser::State {
  simdjson::ondemand::parser parser;
};

RecordParser::RecordParser() : state_(std::make_unique<State>()) {}
RecordParser::~RecordParser() = default;
RecordParser::RecordParser(RecordParser&&) noexcept = default;

Status RecordParser::parse_padded(std::string& line, Record& record) {
  std::size_t const size = line.size();
  line.reserve(size + kRecordPadding);
  line.append(kRecordPadding, ' ');
  Status status = parse({line.data(), size}, record);
  line.resize(size);
  return status;
}

Status RecordParser::parse(std::string_view line, Record& record) {
  record.line_ = line;
  record.fields_.clear();
  record.is_event_ = false;
  if (line.find_first_not_of(" \t\r") == std::string_view::npos)
    return Status::rejected("an empty line is not a record");
  simdjson::ondemand::document document;
  if (auto error = state_->parser.iterate(line.data(), line.size(), line.size() + kRecordPadding).get(document)) {
    return reject(error, "not JSON");
  }
  simdjson::ondemand::object object;
  if (auto error = document.get_object().get(object)) {
    return error == simdjson::INCORRECT_TYPE ? Status::rejected("a record is a JSON object, this is something else")
                                             : reject(error, "not JSON");
  }
  for (auto item : object) {
    simdjson::ondemand::field field;
    if (auto error = std::move(item).get(field)) return reject(error, "not JSON");
    char const* const begin = field.key().raw() - 1;  // its quote
    std::string_view raw;
    simdjson::ondemand::value value = field.value();
    json_type type{};
    if (auto error = value.type().get(type)) return reject(error, "not JSON");
    if (auto error = raw_of(value, raw)) return reject(error, "not JSON");
    if (type != json_type::object && type != json_type::array && !is_json_scalar(raw)) {
      return Status::rejected(fmt::format("not JSON: byte {} is no value", raw.data() - line.data()));
    }
    // The key ends at the quote before the colon before the value.
    char const* key_end = raw.data() - 1;
    while (*key_end != ':') --key_end;
    while (*key_end != '"') --key_end;
    record.fields_.push_back({{begin + 1, static_cast<std::size_t>(key_end - begin - 1)},
                              raw,
                              static_cast<std::uint32_t>(begin - line.data()),
                              static_cast<std::uint32_t>(raw.data() + raw.size() - line.data())});
    if (record.fields_.back().name == "specversion") record.is_event_ = true;
    if (record.fields_.size() > kMaxMembers)
      return Status::rejected(fmt::format("a record of more than {} members", kMaxMembers));
  }
  if (document.current_location().error() == simdjson::SUCCESS)
    return Status::rejected("not JSON: something follows the object");
  return {};
}

}  // namespace inflight

#include "common/reconcile_side.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <cstring>

#include "common/json_text.h"
#include "common/record_input.h"

namespace inflight {

namespace {

std::vector<Path> joined(std::vector<Path> paths, std::vector<Path> const& more) {
  paths.insert(paths.end(), more.begin(), more.end());
  return paths;
}

}  // namespace

void SideDigest::add(std::uint64_t more_high, std::uint64_t more_low) {
  low += more_low;
  high += more_high + (low < more_low ? 1 : 0);
}

std::string SideDigest::text() const { return fmt::format("{:016x}{:016x}", high, low); }

ReconcileSide::ReconcileSide(std::string name, std::string command, ReconcileOptions const& options)
    : name_(std::move(name)),
      line_(std::move(command)),
      options_(options),
      canonical_(options.canonical),
      selector_(joined(options.key, options.fields)),
      texts_(options.temporary),
      sort_(options.temporary, options.memory / 2) {
  for (Path const& path : options.fields) field_names_.push_back(json_string(path.text()));
  for (Path const& path : options.key) {
    if (!path.in_data()) key_names_.push_back(json_string(path.text()));
  }
}

Status ReconcileSide::read() {
  if (Status status = command_.start(line_); !status.ok()) return status.at(name_);
  Reader reader(command_.output(), name_, options_.max_record);
  Line line;
  Status status = read_records(
      reader, line, options_.max_record, [this](Record const& record) { return add(record); },
      [](Status const& wrong) { return wrong; });
  if (status.code() == Code::stopped) return status;
  // What is cut off in the middle of a line is told as what cut it off.
  if (status.ok() || (status.code() == Code::rejected && !line.terminated)) {
    if (Status ended = command_.wait(); !ended.ok())
      return ended.code() == Code::stopped ? ended : ended.at(fmt::format("{}: '{}'", name_, line_));
  }
  if (status.code() == Code::rejected)
    return Status::temporary(fmt::format("{}: line {}: {}", name_, line.number, status.what()));
  return status.ok() ? sort_.sort() : status;
}

Status ReconcileSide::add(Record const& record) {
  if (Status status = selector_.select(record, selected_); !status.ok()) return status;
  text_ = '[';
  for (std::size_t i = 0; i < options_.key.size(); ++i) {
    Value const& value = selected_[i];
    if (!value || value.kind == Value::Kind::null)
      return Status::rejected(fmt::format("{} of the key is {}", options_.key[i].text(), value ? "null" : "not there"));
    if (!canonical_.append(text_, value.raw))
      return Status::rejected(fmt::format("{} of the key is not JSON", options_.key[i].text()));
    text_ += ',';
  }
  text_.back() = ']';
  std::size_t const key = text_.size();
  text_ += '\t';
  if (Status status = options_.fields.empty() ? append_data(record) : append_fields(); !status.ok()) return status;

  XXH128_hash_t const of_key = XXH3_128bits(text_.data(), key);
  XXH128_hash_t const of_all = XXH3_128bits(text_.data(), text_.size());
  digest_.add(of_all.high64, of_all.low64);
  if (Status status = sort_.add({of_key.high64, of_key.low64, of_all.low64, texts_.size()}); !status.ok())
    return status;
  std::size_t const values = text_.size() - key - 1;
  std::uint32_t const sizes[2] = {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(values)};
  header_.assign(sizeof sizes, '\0');
  std::memcpy(header_.data(), sizes, sizeof sizes);
  if (Status status = texts_.append(header_); !status.ok()) return status;
  if (Status status = texts_.append({text_.data(), key}); !status.ok()) return status;
  Status const kept = texts_.append({text_.data() + key + 1, std::min(values, kKept)});
  if (kept.ok()) ++records_;
  forget_long(text_);
  return kept;
}

Status ReconcileSide::append_fields() {
  text_ += '{';
  for (std::size_t i = 0; i < field_names_.size(); ++i) {
    Value const& value = selected_[options_.key.size() + i];
    if (!value || (options_.canonical.ignore_null && value.kind == Value::Kind::null)) continue;
    text_ += field_names_[i];
    text_ += ':';
    if (!canonical_.append(text_, value.raw))
      return Status::rejected(fmt::format("{} is not JSON", options_.fields[i].text()));
    text_ += ',';
  }
  if (text_.back() == ',') text_.pop_back();
  text_ += '}';
  return {};
}

Status ReconcileSide::append_data(Record const& record) {
  Value const data = record.data();
  if (data) {
    // Of a bare record the key is a part of its data; an event has it beside them.
    auto const without = record.is_event() ? std::span<std::string const>{} : std::span<std::string const>(key_names_);
    return canonical_.append(text_, data.raw, without) ? Status{} : Status::rejected("data is not JSON");
  }
  Value const base64 = record.attribute("data_base64");
  if (!base64) {
    text_ += "null";
    return {};
  }
  text_ += "{\"data_base64\":";
  if (!canonical_.append(text_, base64.raw)) return Status::rejected("data_base64 is not JSON");
  text_ += '}';
  return {};
}

Result<ReconcileSide::Text> ReconcileSide::text(std::uint64_t at) const {
  std::uint32_t sizes[2] = {0, 0};
  char header[sizeof sizes];
  if (Status status = texts_.read(header, sizeof header, at); !status.ok()) return status;
  std::memcpy(sizes, header, sizeof sizes);
  Text text;
  text.whole = sizes[1] <= kKept;
  text.key.resize(sizes[0]);
  text.values.resize(std::min<std::size_t>(sizes[1], kKept));
  if (Status status = texts_.read(text.key.data(), text.key.size(), at + sizeof header); !status.ok()) return status;
  if (Status status = texts_.read(text.values.data(), text.values.size(), at + sizeof header + text.key.size());
      !status.ok())
    return status;
  return text;
}

}  // namespace inflight

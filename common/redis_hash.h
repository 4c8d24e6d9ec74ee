// Records as Redis hashes: the fields of each key's newest record, written by a script that refuses older ones.
//
// A hash has the fields of its newest record, `updated_at` (the time of that record) and, for each field,
// `changed_at:FIELD` (that of the record that changed it last): RFC 3339 in UTC with nine digits of a second, always
// 30 bytes, so that bytes compare as times do. KEY:deleted has the time at which the key was deleted.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/fields.h"
#include "common/path.h"
#include "common/record.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct RedisHashOptions {
  std::string key;                  // a template
  std::vector<std::string> fields;  // name=PATH; none: the scalars of the data
  std::string newer_by = "time";    // the path of the time by which records are newer or older
  Duration max_future = std::chrono::hours(1);
  Duration expire{};            // of a key after its last record; zero: never
  Duration remember_deleted{};  // how long a deletion's time is kept; zero: for ever
  std::string publish;          // a template of the channel that changes are told on; empty: none
};

class RedisHash {
 public:
  // Code::usage: the options are wrong.
  [[nodiscard]] static Result<RedisHash> make(RedisHashOptions const& options);

  // What must be loaded into the server before a command is sent; and the names that it gives them, before any
  // command().
  static constexpr std::size_t kScripts = 2;
  [[nodiscard]] static std::string_view script(std::size_t i);
  void loaded(std::size_t i, std::string_view sha) { shas_[i] = sha; }

  // The one command (redis.h) that stores a record; its reply is a number, or an error. Code::rejected: the record's
  // own fault.
  [[nodiscard]] Status command(Record const& record, Time now, std::string& out);
  // What that would store, as one line of JSON.
  [[nodiscard]] Status show(Record const& record, Time now, std::string& out);

 private:
  // What a record says: its key, time and channel, and its fields.
  struct Row {
    std::string key, time, channel;
    bool deletion = false;
    std::vector<std::pair<std::string_view, Value>> fields;  // with a value
    std::vector<std::string_view> gone;                      // of --field, and not in the record
  };
  RedisHash() = default;
  Status read(Record const& record, Time now);
  Status read_fields(Record const& record);
  Status append_value(std::string& out, Value const& value);

  Template key_, channel_;
  std::vector<std::string> names_;
  std::vector<Path> paths_;
  std::optional<Selector> selector_;  // of names_, and then of the time
  Path newer_by_;
  Duration max_future_{};
  std::string expire_, remember_deleted_;
  bool publishes_ = false;
  std::string shas_[kScripts];

  std::unique_ptr<Fields> reader_;
  std::vector<FieldValue> found_;
  std::unordered_map<std::string_view, std::size_t>
      by_name_;  // of a record's fields, where they have names of their own
  std::vector<Value> values_;
  std::string scratch_;
  Row row_;
};

}  // namespace inflight

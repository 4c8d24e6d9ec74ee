#include "common/redis_hash.h"

#include <fmt/format.h>

#include <set>
#include <utility>

#include "common/redis.h"
#include "common/sql_row.h"

namespace inflight {

namespace {

constexpr std::string_view kUpdated = "updated_at", kChanged = "changed_at:";

// KEYS: the hash, and where the time of its deletion stands.
// ARGV: time, milliseconds to live (0: for ever), channel (empty: none), 1 where fields that are not named go, how many
// fields have a value, how many have none; then updated_at, the names of both, and the values.
// Answers 0 (older than what is there), 1 (nothing has changed) or 2. Its writes come last, and those that a server out
// of memory refuses come first of these: a script that fails has written nothing. HLEN is asked after them, when all
// that is named is there.
constexpr std::string_view kStore = R"(
local key, at, n, m = KEYS[1], ARGV[1], tonumber(ARGV[5]), tonumber(ARGV[6])
local had, last = {}, 7 + n + m
if last < 1000 then
  had = redis.call('HMGET', key, unpack(ARGV, 7, last))
else
  for first = 7, last, 1000 do
    for _, value in ipairs(redis.call('HMGET', key, unpack(ARGV, first, math.min(first + 999, last)))) do
      had[#had + 1] = value
    end
  end
end
local stored, deleted = had[1], false
if stored then
  if #stored ~= 30 then return redis.error_reply('REJECTED updated_at of ' .. key .. ' is of somebody else') end
  if stored > at then return 0 end
else
  deleted = redis.call('GET', KEYS[2])
  if deleted and deleted > at then return 0 end
end
local put, away, told = {}, {}, {}
if stored ~= at then put[1], put[2] = 'updated_at', at end
for i = 1, n do
  local name, value = ARGV[7 + i], ARGV[last + i]
  if had[1 + i] ~= value then
    local k = #put
    put[k + 1], put[k + 2], put[k + 3], put[k + 4] = name, value, 'changed_at:' .. name, at
    told[#told + 1] = name
    told[#told + 1] = value
  end
end
local function remove(name)
  away[#away + 1] = name
  away[#away + 1] = 'changed_at:' .. name
end
for i = 1, m do
  if had[1 + n + i] then remove(ARGV[7 + n + i]) end
end
for first = 1, #put, 1000 do
  redis.call('HSET', key, unpack(put, first, math.min(first + 999, #put)))
end
if ARGV[4] == '1' and stored and redis.call('HLEN', key) > 1 + 2 * n then
  local named = {}
  for i = 1, n do named[ARGV[7 + i]] = true end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if field:sub(1, 11) == 'changed_at:' and not named[field:sub(12)] then remove(field:sub(12)) end
  end
end
for first = 1, #away, 1000 do
  redis.call('HDEL', key, unpack(away, first, math.min(first + 999, #away)))
end
if deleted then redis.call('DEL', KEYS[2]) end
if ARGV[2] ~= '0' then redis.call('PEXPIRE', key, ARGV[2]) end
if #told == 0 and #away == 0 then return 1 end
if ARGV[3] ~= '' then
  local parts = {}
  for i = 1, #told, 2 do parts[#parts + 1] = cjson.encode(told[i]) .. ':' .. cjson.encode(told[i + 1]) end
  for i = 1, #away, 2 do parts[#parts + 1] = cjson.encode(away[i]) .. ':null' end
  redis.call('PUBLISH', ARGV[3], '{"key":' .. cjson.encode(key) .. ',"updated_at":"' .. at .. '","changed":{' ..
             table.concat(parts, ',') .. '}}')
end
return 2
)";

// KEYS as above. ARGV: time, milliseconds for which it is remembered (0: for ever), channel.
constexpr std::string_view kDelete = R"(
local key, at = KEYS[1], ARGV[1]
local stored = redis.call('HGET', key, 'updated_at')
if stored and #stored ~= 30 then return redis.error_reply('REJECTED updated_at of ' .. key .. ' is of somebody else') end
local deleted = redis.call('GET', KEYS[2])
if (stored and stored > at) or (deleted and deleted > at) then return 0 end
if ARGV[2] == '0' then redis.call('SET', KEYS[2], at) else redis.call('SET', KEYS[2], at, 'PX', ARGV[2]) end
if redis.call('DEL', key) == 0 then return 1 end
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], '{"key":' .. cjson.encode(key) .. ',"updated_at":"' .. at .. '","deleted":true}')
end
return 2
)";

std::string fixed_width(Time time) {
  std::string text = format_rfc3339(time);
  text.pop_back();
  if (text.size() == 19) text += '.';
  text.append(29 - text.size(), '0').append(1, 'Z');
  return text;
}

bool ours(std::string_view name) { return name == kUpdated || name.starts_with(kChanged); }

std::string milliseconds(Duration duration) {
  return fmt::to_string(std::chrono::ceil<std::chrono::milliseconds>(duration).count());
}

}  // namespace

std::string_view RedisHash::script(std::size_t i) { return i == 0 ? kStore : kDelete; }

Result<RedisHash> RedisHash::make(RedisHashOptions const& options) {
  RedisHash hash;
  auto key = Template::parse(options.key);
  if (!key) return key.status().at("--key");
  if (options.key.empty()) return Status::usage("--key: empty");
  hash.key_ = std::move(*key);
  auto channel = Template::parse(options.publish);
  if (!channel) return channel.status().at("--publish");
  hash.channel_ = std::move(*channel);
  hash.publishes_ = !options.publish.empty();
  std::set<std::string> names;
  for (std::string const& text : options.fields) {
    std::size_t const equals = text.find('=');
    if (equals == 0 || equals == std::string::npos)
      return Status::usage(fmt::format("--field {}: not name=PATH", text));
    std::string name = text.substr(0, equals);
    if (ours(name)) return Status::usage(fmt::format("--field {}: the name is kept for times", text));
    if (!names.insert(name).second) return Status::usage(fmt::format("--field {} stands twice", name));
    auto path = Path::parse(text.substr(equals + 1));
    if (!path) return path.status().at("--field " + text);
    hash.names_.push_back(std::move(name));
    hash.paths_.push_back(std::move(*path));
  }
  auto newer_by = Path::parse(options.newer_by);
  if (!newer_by) return newer_by.status().at("--newer-by");
  hash.newer_by_ = *newer_by;
  std::vector<Path> paths = hash.paths_;
  paths.push_back(*newer_by);
  hash.selector_.emplace(paths);
  hash.reader_ = std::make_unique<Fields>();
  hash.max_future_ = options.max_future;
  hash.expire_ = milliseconds(options.expire);
  hash.remember_deleted_ = milliseconds(options.remember_deleted);
  return hash;
}

Status RedisHash::read(Record const& record, Time now) {
  row_.key.clear(), row_.channel.clear(), row_.fields.clear(), row_.gone.clear();
  row_.deletion = record.is_deletion();
  if (Status status = key_.expand(record, row_.key); !status.ok()) return status.at("--key");
  if (row_.key.empty()) return Status::rejected("--key makes an empty key of it");
  if (publishes_) {
    if (Status status = channel_.expand(record, row_.channel); !status.ok()) return status.at("--publish");
  }
  if (Status status = selector_->select(record, values_); !status.ok()) return status;
  // A deletion has no data: its time is the event's.
  bool const fallback = row_.deletion && newer_by_.in_data();
  Value const raw = fallback ? record.attribute("time") : values_.back();
  std::string_view const name = fallback ? std::string_view("time") : std::string_view(newer_by_.text());
  if (!raw || raw.kind == Value::Kind::null)
    return Status::rejected(fmt::format("it has no {}, by which records are newer or older (--newer-by)", name));
  auto const time = raw.kind == Value::Kind::string ? parse_rfc3339(unquote(raw.raw, scratch_)) : std::nullopt;
  if (!time)
    return Status::rejected(fmt::format("{} is {}, not a time as RFC 3339 has it", name, raw.raw.substr(0, 100)));
  if (max_future_ > Duration::zero() && *time > now + max_future_) {
    return Status::rejected(fmt::format("{} {} is more than {} ahead of this machine's clock (--max-future)", name,
                                        format_rfc3339(*time), format_duration(max_future_)));
  }
  row_.time = fixed_width(*time);
  return row_.deletion ? Status{} : read_fields(record);
}

Status RedisHash::read_fields(Record const& record) {
  if (!names_.empty()) {
    bool any = false;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      any = any || bool(values_[i]);
      if (present(values_[i])) {
        row_.fields.emplace_back(names_[i], values_[i]);
      } else {
        row_.gone.push_back(names_[i]);
      }
    }
    return any ? Status{} : Status::rejected("it has nothing that --field names");
  }
  if (Status status = reader_->read(record, found_); !status.ok()) return status;
  by_name_.clear();
  for (FieldValue const& field : found_) {
    if (field.attribute || !present(field.value)) continue;
    if (ours(field.name)) {
      return Status::rejected(
          fmt::format("the name of its field {} is kept for times (--field gives it another one)", field.name));
    }
    auto const [known, fresh] = by_name_.emplace(field.name, row_.fields.size());
    if (fresh) {
      row_.fields.emplace_back(field.name, field.value);
    } else {
      row_.fields[known->second].second = field.value;
    }
  }
  return row_.fields.empty() ? Status::rejected("it has no field") : Status{};
}

// A string's text, anything else as it is written.
Status RedisHash::append_value(std::string& out, Value const& value) {
  std::string_view text = value.raw;
  if (value.kind == Value::Kind::string) {
    text = text.substr(1, text.size() - 2);
    if (text.find('\\') != std::string_view::npos) {
      scratch_.clear();
      if (!append_unquoted(scratch_, value.raw)) return Status::rejected("a text with an escape that is none");
      text = scratch_;
    }
  }
  append_redis_word(out, text);
  if (text.data() == scratch_.data()) forget_long(scratch_);
  return {};
}

Status RedisHash::command(Record const& record, Time now, std::string& out) {
  if (Status status = read(record, now); !status.ok()) return status;
  std::size_t const n = row_.fields.size(), m = row_.gone.size();
  append_redis_count(out, row_.deletion ? 8 : 12 + n + m + n);
  append_redis_word(out, "EVALSHA");
  append_redis_word(out, shas_[row_.deletion ? 1 : 0]);
  append_redis_word(out, "2");
  append_redis_word(out, row_.key);
  append_redis_word(out, row_.key + ":deleted");
  append_redis_word(out, row_.time);
  append_redis_word(out, row_.deletion ? remember_deleted_ : expire_);
  append_redis_word(out, row_.channel);
  if (row_.deletion) return {};
  append_redis_word(out, names_.empty() ? "1" : "0");
  append_redis_word(out, fmt::format_int(n).c_str());
  append_redis_word(out, fmt::format_int(m).c_str());
  append_redis_word(out, kUpdated);
  std::size_t size = out.size();
  for (auto const& [name, value] : row_.fields) size += name.size() + value.raw.size() + 40;
  out.reserve(size);
  for (auto const& [name, value] : row_.fields) append_redis_word(out, name);
  for (std::string_view const name : row_.gone) append_redis_word(out, name);
  for (auto const& [name, value] : row_.fields) {
    if (Status status = append_value(out, value); !status.ok()) return status;
  }
  return {};
}

Status RedisHash::show(Record const& record, Time now, std::string& out) {
  if (Status status = read(record, now); !status.ok()) return status;
  out = fmt::format("{{\"key\":{},\"updated_at\":\"{}\"", json_string(row_.key), row_.time);
  if (row_.deletion) {
    out += ",\"delete\":true}";
    return {};
  }
  out += ",\"fields\":{";
  bool first = true;
  for (auto const& [name, value] : row_.fields) {
    if (!std::exchange(first, false)) out += ',';
    append_quoted(out, name);
    out += ':';
    if (value.kind == Value::Kind::string) {
      out += value.raw;
    } else {
      append_quoted(out, value.raw);
    }
  }
  out += "}}";
  return {};
}

}  // namespace inflight

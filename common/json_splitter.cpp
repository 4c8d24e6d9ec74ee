#include "common/json_splitter.h"

#include <fmt/format.h>

#include "common/json_text.h"

namespace inflight {

namespace {

constexpr std::uint64_t kLongestKey = 64 << 10;  // as it is written

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

}  // namespace

void JsonSplitter::reset() {
  state_ = State::value;
  frames_.clear();
  key_.clear();
  value_.clear();
  at_ = 0;
}

Status JsonSplitter::wrong(char c) const {
  return Status::usage(c >= 0x20 && c < 0x7f ? fmt::format("no JSON: '{}' at byte {}", c, at_)
                                             : fmt::format("no JSON at byte {}", at_));
}

Status JsonSplitter::feed(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    if (state_ == State::captured) {
      bool ended = false;
      std::size_t const size = capture(bytes.substr(i), ended);
      i += size;
      at_ += size;
      if (!ended) return {};
      if (Status status = captured(); !status.ok()) return status;
      continue;
    }
    bool again = false;
    if (!is_blank(bytes[i])) {
      if (Status status = step(bytes[i], again); !status.ok()) return status;
    }
    if (again) continue;
    ++i;
    ++at_;
  }
  return {};
}

// `again`: the character belongs to what has begun.
Status JsonSplitter::step(char c, bool& again) {
  switch (state_) {
    case State::value:
      if (c == ']' && !frames_.empty() && frames_.back().array && frames_.back().index == 0) {
        frames_.pop_back();
        state_ = frames_.empty() ? State::done : State::after;
        return {};
      }
      return begin_value(c, again);
    case State::key_or_end:
      if (c == '}') {
        frames_.pop_back();
        state_ = frames_.empty() ? State::done : State::after;
        return {};
      }
      [[fallthrough]];
    case State::key:
      if (c != '"') return wrong(c);
      is_key_ = true;
      return begin_value(c, again);
    case State::colon:
      if (c != ':') return wrong(c);
      state_ = State::value;
      return {};
    case State::after: {
      Frame& frame = frames_.back();
      if (c == ',') {
        state_ = frame.array ? State::value : State::key;
        ++frame.index;
        if (frame.array) key_ = std::to_string(frame.index);
        return {};
      }
      if (c != (frame.array ? ']' : '}')) return wrong(c);
      frames_.pop_back();
      state_ = frames_.empty() ? State::done : State::after;
      return {};
    }
    default:
      return wrong(c);
  }
}

Status JsonSplitter::begin_value(char c, bool& again) {
  bool const container = c == '{' || c == '[';
  if (!is_key_ && container && (frames_.empty() || handler_.descend(frames_.size(), key_))) {
    frames_.push_back({c == '[', 0});
    if (c == '[') key_.assign(1, '0');
    state_ = c == '[' ? State::value : State::key_or_end;
    again = false;
    return {};
  }
  again = true;
  if (!container && c != '"' && c != '-' && (c < '0' || c > '9') && c != 't' && c != 'f' && c != 'n') return wrong(c);
  value_.clear();
  whole_ = true;
  nesting_ = 0;
  in_string_ = escaped_ = false;
  scalar_ = !container && c != '"';
  state_ = State::captured;
  return {};
}

// How much of it belongs to the value; `ended` where that is all of the value.
std::size_t JsonSplitter::capture(std::string_view bytes, bool& ended) {
  std::size_t i = 0;
  if (scalar_) {
    while (i < bytes.size() && bytes[i] != ',' && bytes[i] != '}' && bytes[i] != ']' && !is_blank(bytes[i])) ++i;
    ended = i < bytes.size();
    append(bytes.substr(0, i));
    return i;
  }
  for (; i < bytes.size() && !ended; ++i) {
    char const c = bytes[i];
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
        ended = nesting_ == 0;
      }
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      ++nesting_;
    } else if (c == '}' || c == ']') {
      ended = --nesting_ == 0;
    }
  }
  append(bytes.substr(0, i));
  return i;
}

void JsonSplitter::append(std::string_view bytes) {
  if (value_.size() + bytes.size() > (is_key_ ? kLongestKey : max_value_)) whole_ = false;
  if (whole_) value_ += bytes;
}

Status JsonSplitter::captured() {
  if (is_key_) {
    is_key_ = false;
    state_ = State::colon;
    key_.clear();
    return whole_ && append_unquoted(key_, value_) ? Status{}
                                                   : Status::usage(fmt::format("no JSON: a key at byte {}", at_));
  }
  if (scalar_ && !is_json_scalar(value_)) return Status::usage(fmt::format("no JSON: a value before byte {}", at_));
  std::size_t const depth = frames_.size();
  state_ = depth == 0 ? State::done : State::after;
  Status status = handler_.member(depth, depth == 0 ? std::string_view{} : key_, value_, whole_);
  if (value_.capacity() > (1 << 20)) std::string().swap(value_);
  return status;
}

Status JsonSplitter::finish() {
  Status status;
  if (state_ == State::captured && scalar_ && frames_.empty() && !is_key_) status = captured();
  if (status.ok() && state_ != State::done) status = Status::temporary("the answer ended within a JSON text");
  reset();
  return status;
}

}  // namespace inflight

#include "common/path.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace inflight {

Result<Path> Path::parse(std::string_view text) {
  Path path;
  path.text_ = text;
  if (text.empty()) return Status::usage("an empty path: give an attribute (subject) or a JSON Pointer (/bsu/power)");
  if (text[0] != '/') {
    path.steps_.emplace_back(text);
    return path;
  }
  path.in_data_ = true;
  for (std::size_t begin = 1; begin <= text.size();) {
    std::size_t const end = std::min(text.find('/', begin), text.size());
    std::string step;
    for (std::size_t i = begin; i < end; ++i) {
      if (text[i] == '~' && i + 1 < end && (text[i + 1] == '0' || text[i + 1] == '1')) {
        step += text[++i] == '0' ? '~' : '/';
      } else if (text[i] == '~') {
        return Status::usage(fmt::format("'{}' is not a JSON Pointer: ~ is written ~0", text));
      } else {
        step += text[i];
      }
    }
    path.steps_.push_back(std::move(step));
    begin = end + 1;
  }
  return path;
}

Result<std::vector<Path>> Path::parse_list(std::string_view text) {
  std::vector<Path> paths;
  for (std::size_t begin = 0; begin <= text.size();) {
    std::size_t const end = std::min(text.find(',', begin), text.size());
    auto path = parse(text.substr(begin, end - begin));
    if (!path) return path.status();
    paths.push_back(std::move(*path));
    begin = end + 1;
  }
  return paths;
}

namespace {

// The paths as a tree, so that one pass over the data meets each wanted value once.
struct Node {
  std::string step;
  std::vector<std::size_t> wanted;  // indexes of the paths that end here
  std::vector<Node> children;
};

void plant(Node& root, std::vector<std::string> const& steps, std::size_t index) {
  Node* node = &root;
  for (std::string const& step : steps) {
    auto found = std::find_if(node->children.begin(), node->children.end(),
                              [&](Node const& child) { return child.step == step; });
    if (found == node->children.end()) {
      node->children.push_back({step, {}, {}});
      found = node->children.end() - 1;
    }
    node = &*found;
  }
  node->wanted.push_back(index);
}

// Which of the 64 bytes at `at` are `c`, with the bits of `fold` set in each before.
std::uint64_t equal_bytes(char const* at, char c, char fold) {
  std::uint64_t mask = 0;
#ifdef __SSE2__
  using Bytes = char __attribute__((vector_size(16)));
  for (unsigned i = 0; i < 4; ++i) {
    Bytes bytes;
    std::memcpy(&bytes, at + 16 * i, sizeof bytes);
    bytes |= fold;
    auto const equal = static_cast<Bytes>(bytes == c);
    mask |= static_cast<std::uint64_t>(static_cast<std::uint16_t>(__builtin_ia32_pmovmskb128(equal))) << (16 * i);
  }
#else
  for (unsigned i = 0; i < 64; ++i) mask |= std::uint64_t{(at[i] | fold) == c} << i;
#endif
  return mask;
}

// A value inside a text that simdjson has indexed, walked with our own small scanner: one pass, nothing allocated.
class Walk {
 public:
  explicit Walk(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  void space() {
    while (at_ < end_ && *at_ <= ' ' && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
  }
  bool accept(char c) {
    space();
    if (at_ >= end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  // The string at hand, with its quotes; empty where there is none.
  std::string_view string() {
    space();
    if (at_ >= end_ || *at_ != '"') return {};
    char const* const begin = at_++;
    // Most strings are a few bytes long: a call of memchr costs more than they do.
    for (char const* const near = end_ - at_ > 24 ? at_ + 24 : end_; at_ < near && *at_ != '\\'; ++at_) {
      if (*at_ == '"') return {begin, static_cast<std::size_t>(++at_ - begin)};
    }
    for (;;) {
      auto const* quote = static_cast<char const*>(std::memchr(at_, '"', static_cast<std::size_t>(end_ - at_)));
      if (quote == nullptr) return {};
      char const* slash = quote;
      while (slash > begin && slash[-1] == '\\') --slash;
      at_ = quote + 1;
      if ((quote - slash) % 2 == 0) return {begin, static_cast<std::size_t>(at_ - begin)};
    }
  }
  std::string_view scalar() {
    space();
    if (at_ < end_ && *at_ == '"') return string();
    char const* const begin = at_;
    while (at_ < end_ && *at_ != ',' && *at_ != '}' && *at_ != ']' && *at_ != ' ' && *at_ != '\n' && *at_ != '\t' &&
           *at_ != '\r') {
      ++at_;
    }
    std::string_view const raw(begin, static_cast<std::size_t>(at_ - begin));
    return is_json_scalar(raw) ? raw : std::string_view{};
  }
  // Any value; empty where it is not JSON or nested too deep.
  std::string_view skip(int depth = 0) {
    space();
    char const* const begin = at_;
    if (depth > 1000 || at_ >= end_) return {};
    if (*at_ == '{' || *at_ == '[') {
      bool const object = *at_ == '{';
      char const close = object ? '}' : ']';
      ++at_;
      if (accept(close)) return since(begin);
      do {
        if (object && (string().empty() || !accept(':'))) return {};
        if (skip(depth + 1).empty()) return {};
      } while (accept(','));
      return accept(close) ? since(begin) : std::string_view{};
    }
    return scalar();
  }
  // Any value that nobody reads: like simdjson, this only looks for where it ends. Reads up to 64 bytes behind the
  // text.
  std::string_view pass() {
    space();
    if (at_ >= end_ || (*at_ != '{' && *at_ != '[')) return scalar();
    char const* const begin = at_;
    std::uint64_t depth = 0, inside_before = 0;
    for (; at_ < end_; at_ += 64) {
      if (equal_bytes(at_, '\\', 0) != 0) return at_ = begin, skip();
      std::uint64_t inside = equal_bytes(at_, '"', 0);  // of strings: set from a quote up to before the next
      for (unsigned shift = 1; shift < 64; shift *= 2) inside ^= inside << shift;
      inside ^= inside_before;
      inside_before = std::uint64_t{0} - (inside >> 63);
      std::uint64_t const opening = equal_bytes(at_, '{', 0x20) & ~inside;  // [ and { differ in this bit
      std::uint64_t const closing = equal_bytes(at_, '}', 0x20) & ~inside;
      auto const closed = static_cast<std::uint64_t>(std::popcount(closing));
      if (depth > closed) {
        depth += static_cast<std::uint64_t>(std::popcount(opening)) - closed;
        continue;
      }
      for (std::uint64_t both = opening | closing; both != 0; both &= both - 1) {
        bool const opens = (opening & both & (0 - both)) != 0;
        if (opens) {
          ++depth;
        } else if (--depth == 0) {
          at_ += std::countr_zero(both) + 1;
          return at_ <= end_ ? since(begin) : std::string_view{};
        }
      }
    }
    return {};
  }
  [[nodiscard]] char peek() {
    space();
    return at_ < end_ ? *at_ : '\0';
  }
  [[nodiscard]] char const* at() const { return at_; }
  [[nodiscard]] std::string_view since(char const* begin) const {
    return {begin, static_cast<std::size_t>(at_ - begin)};
  }

 private:
  char const* at_;
  char const* end_;
};

}  // namespace

bool is_json(std::string_view text) {
  if (!has_valid_escapes(text)) return false;
  Walk walk(text);
  if (walk.skip().empty()) return false;
  walk.space();
  return walk.at() == text.data() + text.size();
}

namespace {

bool select_in(Walk& walk, Node const& node, std::vector<Value>& values, int depth = 0) {
  char const* const begin = (walk.space(), walk.at());
  char const open = walk.peek();
  bool good = depth < 1000;
  if (!node.children.empty() && open == '{') {
    walk.accept('{');
    if (!walk.accept('}')) {
      do {
        std::string_view const key = walk.string();
        good = good && !key.empty() && walk.accept(':');
        if (!good) return false;
        std::string_view const name = key.substr(1, key.size() - 2);
        auto const child = std::find_if(node.children.begin(), node.children.end(),
                                        [&](Node const& candidate) { return same_text(name, candidate.step); });
        good = child == node.children.end() ? !walk.pass().empty() : select_in(walk, *child, values, depth + 1);
      } while (good && walk.accept(','));
      good = good && walk.accept('}');
    }
  } else if (!node.children.empty() && open == '[') {
    walk.accept('[');
    if (!walk.accept(']')) {
      std::size_t index = 0;
      do {
        std::string const name = std::to_string(index++);
        auto const child = std::find_if(node.children.begin(), node.children.end(),
                                        [&](Node const& candidate) { return candidate.step == name; });
        good = child == node.children.end() ? !walk.pass().empty() : select_in(walk, *child, values, depth + 1);
      } while (good && walk.accept(','));
      good = good && walk.accept(']');
    }
  } else {
    good = good && !(node.wanted.empty() ? walk.pass() : walk.skip(depth)).empty();
  }
  if (!good) return false;
  for (std::size_t const index : node.wanted) {
    std::string_view const raw = walk.since(begin);
    values[index] = {raw, kind_of(raw)};
  }
  return true;
}

}  // namespace

struct Selector::State {
  std::size_t count = 0;
  std::vector<std::pair<std::size_t, std::string>> attributes;
  Node data;
};

Selector::Selector(std::vector<Path> const& paths) : state_(std::make_unique<State>()) {
  state_->count = paths.size();
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (paths[i].in_data()) {
      plant(state_->data, paths[i].steps(), i);
    } else {
      state_->attributes.emplace_back(i, paths[i].text());
    }
  }
}
Selector::~Selector() = default;
Selector::Selector(Selector&&) noexcept = default;

Status Selector::select(Record const& record, std::vector<Value>& values) {
  values.assign(state_->count, {});
  for (auto const& [index, name] : state_->attributes) values[index] = record.attribute(name);
  if (state_->data.children.empty()) return {};
  Value const data = record.data();
  if (!data) return {};
  Walk walk(data.raw);
  if (!select_in(walk, state_->data, values)) {
    return Status::rejected(fmt::format("data is not JSON: byte {}", walk.at() - record.line().data()));
  }
  return {};
}

struct Flattener::State {
  std::string path;
  char separator = '_';
  Visit visit = nullptr;
  void* context = nullptr;

  bool flatten(Walk& walk, int depth) {
    char const open = walk.peek();
    if (depth > 1000) return false;
    if (open != '{' && open != '[') {
      std::string_view const raw = walk.scalar();
      if (raw.empty()) return false;
      visit(context, path, {raw, kind_of(raw)});
      return true;
    }
    char const close = open == '{' ? '}' : ']';
    walk.accept(open);
    if (walk.accept(close)) return true;
    std::size_t const length = path.size();
    std::string scratch;
    std::size_t index = 0;
    do {
      if (!path.empty()) path += separator;
      if (open == '{') {
        std::string_view const key = walk.string();
        if (key.empty() || !walk.accept(':')) return false;
        path += unquote(key, scratch);
      } else {
        path += std::to_string(index++);
      }
      if (!flatten(walk, depth + 1)) return false;
      path.resize(length);
    } while (walk.accept(','));
    return walk.accept(close);
  }
};

Flattener::Flattener() : state_(std::make_unique<State>()) {}
Flattener::~Flattener() = default;

Status Flattener::flatten(std::string_view json, char separator, Visit visit, void* context) {
  *state_ = {{}, separator, visit, context};
  Walk walk(json);
  if (!state_->flatten(walk, 0)) {
    return Status::rejected(fmt::format("data is not JSON: byte {} of it", walk.at() - json.data()));
  }
  return {};
}

Result<Template> Template::parse(std::string_view text) {
  Template result;
  std::string_view const whole = text;
  std::vector<Path> paths;
  while (!text.empty()) {
    std::size_t const open = text.find('{');
    if (open != 0) {
      result.parts_.push_back({std::string(text.substr(0, open)), true, false});
      text.remove_prefix(std::min(open, text.size()));
      continue;
    }
    std::size_t const close = text.find('}');
    if (close == std::string_view::npos) return Status::usage(fmt::format("'{}': a {{ without its }}", text));
    std::string_view name = text.substr(1, close - 1);
    bool const reserved = name.starts_with('+');
    if (reserved) name.remove_prefix(1);
    // RFC 6570's other operators and modifiers would be taken for a part of the name.
    if (!name.starts_with('/') && name.find_first_of("#.;?&=,!@|*:") != std::string_view::npos) {
      return Status::usage(fmt::format(
          "'{}': {{{}}} is of RFC 6570, but not of what is understood here: {{name}}, {{+name}}, {{/json/pointer}}",
          whole, name));
    }
    auto path = Path::parse(name);
    if (!path) return path.status();
    paths.push_back(*path);
    result.parts_.push_back({std::string(name), false, !reserved});
    text.remove_prefix(close + 1);
  }
  result.selector_ = std::make_shared<Selector>(paths);
  return result;
}

Status Template::expand(Record const& record, std::string& out) {
  std::vector<Value> values;
  if (Status status = selector_->select(record, values); !status.ok()) return status;
  std::size_t next = 0;
  std::string scratch;
  for (Part const& part : parts_) {
    if (part.literal) {
      out += part.text;
      continue;
    }
    Value const value = values[next++];
    if (!value || value.kind == Value::Kind::null || value.kind == Value::Kind::object ||
        value.kind == Value::Kind::array) {
      return Status::rejected(
          fmt::format("{{{}}} names {}", part.text, value ? "no scalar" : "nothing in this record"));
    }
    std::string_view const text = unquote(value.raw, scratch);
    auto hex = [&](std::size_t k) {
      return k < text.size() && std::isxdigit(static_cast<unsigned char>(text[k])) != 0;
    };
    for (std::size_t i = 0; i < text.size(); ++i) {
      char const c = text[i];
      bool const unreserved = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                              c == '.' || c == '_' || c == '~';
      bool const reserved = !part.encode && (std::string_view(":/?#[]@!$&'()*+,;=").find(c) != std::string_view::npos ||
                                             (c == '%' && hex(i + 1) && hex(i + 2)));  // encoded already
      if (unreserved || reserved) {
        out += c;
      } else {
        fmt::format_to(std::back_inserter(out), "%{:02X}", static_cast<unsigned char>(c));
      }
    }
  }
  return {};
}

}  // namespace inflight

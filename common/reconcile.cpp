#include "common/reconcile.h"

#include <fmt/format.h>
#include <poll.h>

#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>

#include "common/stop.h"

namespace inflight {

namespace {

constexpr std::size_t kMostFields = 3;   // of one difference that are told
constexpr std::size_t kMostShown = 100;  // bytes of a value

using Kind = Difference::Kind;
using Tell = std::function<Status(Difference const&)>;

bool inside_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// From `from` on as much as is shown of a value, in whole characters.
std::string shown(std::string_view text, std::size_t from = 0) {
  while (from < text.size() && inside_character(text[from])) ++from;
  text.remove_prefix(std::min(from, text.size()));
  if (text.size() <= kMostShown) return std::string(text);
  std::size_t end = kMostShown;
  while (end > 0 && inside_character(text[end])) --end;
  return fmt::format("{}...", text.substr(0, end));
}

// A side as the merge sees it: the entry at hand, if there is one.
class Cursor {
 public:
  explicit Cursor(ReconcileSide& side) : side_(side) {}
  [[nodiscard]] Status advance() {
    auto more = side_.next(entry_);
    if (!more) return more.status();
    there_ = *more;
    return {};
  }
  [[nodiscard]] bool there() const { return there_; }
  [[nodiscard]] ReconcileEntry const& entry() const { return entry_; }
  [[nodiscard]] bool is_at(ReconcileEntry const& of) const {
    return there_ && entry_.key_high == of.key_high && entry_.key_low == of.key_low;
  }
  [[nodiscard]] ReconcileSide const& side() const { return side_; }

 private:
  ReconcileSide& side_;
  ReconcileEntry entry_;
  bool there_ = false;
};

// What the two sides have of one key.
struct Group {
  std::uint64_t left = 0, right = 0;                   // records
  std::optional<std::uint64_t> only_left, only_right;  // the text of values that the other side has not
  std::uint64_t at_left = 0, at_right = 0;             // some text of each
};

Status take_group(Cursor& left, Cursor& right, Group& group) {
  ReconcileEntry const key =
      !right.there() || (left.there() && left.entry() < right.entry()) ? left.entry() : right.entry();
  while (left.is_at(key) || right.is_at(key)) {
    std::uint64_t const values = !right.is_at(key) || (left.is_at(key) && left.entry().values < right.entry().values)
                                     ? left.entry().values
                                     : right.entry().values;
    bool in_left = false, in_right = false;
    for (; left.is_at(key) && left.entry().values == values; in_left = true, ++group.left) {
      group.at_left = left.entry().at;
      if (Status status = left.advance(); !status.ok()) return status;
    }
    for (; right.is_at(key) && right.entry().values == values; in_right = true, ++group.right) {
      group.at_right = right.entry().at;
      if (Status status = right.advance(); !status.ok()) return status;
    }
    if (in_left && !in_right && !group.only_left) group.only_left = group.at_left;
    if (in_right && !in_left && !group.only_right) group.only_right = group.at_right;
  }
  return {};
}

// Two sides, read at the same time.
struct Sides {
  explicit Sides(ReconcileOptions const& options)
      : left("left", options.left, options), right("right", options.right, options) {}

  // Where one fails the other one is ended: there is nothing to prove any more.
  Status read(bool allow_empty) {
    std::mutex mutex;
    Status first;
    auto read_one = [&](ReconcileSide& side, ReconcileSide& other) {
      Status status;
      try {
        status = side.read();
      } catch (std::bad_alloc const&) {
        status = Status::temporary("out of memory");
      }
      if (status.ok()) return;
      {
        std::scoped_lock const lock(mutex);
        if (first.ok()) first = status;
      }
      other.end();
    };
    {
      std::jthread const beside([&] { read_one(left, right); });
      read_one(right, left);
    }
    if (stopping()) return {Code::stopped, "stopped"};
    if (first.ok() && left.records() + right.records() == 0 && !allow_empty)
      return Status::temporary("both sides are empty (--allow-empty where that may be)");
    return first;
  }

  ReconcileSide left, right;
};

// The keys that differed in a first reading, in order.
class Suspects {
 public:
  explicit Suspects(std::string folder) : file_(std::move(folder)) {}
  [[nodiscard]] Status add(ReconcileEntry const& key) {
    ++count_;
    std::uint64_t const words[2] = {key.key_high, key.key_low};
    return file_.append({reinterpret_cast<char const*>(words), sizeof words});  // NOLINT
  }
  // Whether this key is one; asked in ascending order.
  [[nodiscard]] Result<bool> has(ReconcileEntry const& key) {
    for (;;) {
      if (next_ == count_ * sizeof at_ && passed_) return false;
      if (passed_) {
        if (Status status = file_.read(reinterpret_cast<char*>(at_), sizeof at_, next_); !status.ok())  // NOLINT
          return status;
        next_ += sizeof at_;
        passed_ = false;
      }
      auto const wanted = std::tie(key.key_high, key.key_low);
      auto const here = std::tie(at_[0], at_[1]);
      if (wanted < here) return false;
      passed_ = true;
      if (wanted == here) return true;
    }
  }
  [[nodiscard]] std::uint64_t count() const { return count_; }

 private:
  SpillFile file_;
  std::uint64_t count_ = 0, next_ = 0;
  std::uint64_t at_[2] = {0, 0};
  bool passed_ = true;
};

class Comparison {
 public:
  Comparison(ReconcileOptions const& options, Tell const& tell)
      : options_(options), tell_(tell), suspects_(options.temporary) {}

  Result<ReconcileResult> run() {
    bool const again = options_.recheck > Duration::zero();
    if (Status status = read(false, again); !status.ok()) return status;
    if (again && suspects_.count() > 0) {
      pollfd stop{stop_fd(), POLLIN, 0};
      auto const wait = std::chrono::ceil<std::chrono::milliseconds>(options_.recheck).count();
      Duration const until = system_clock().steady() + options_.recheck;
      for (auto left = wait; left > 0 && !stopping();
           left = std::chrono::ceil<std::chrono::milliseconds>(until - system_clock().steady()).count())
        ::poll(&stop, 1, static_cast<int>(std::min<std::int64_t>(left, 1 << 30)));
      if (stopping()) return Status{Code::stopped, "stopped"};
      result_.rechecked = suspects_.count();
      result_.settled = suspects_.count();
      result_.missing = result_.extra = result_.different = 0;
      result_.left.duplicated = result_.right.duplicated = 0;
      if (Status status = read(true, false); !status.ok()) return status;
    } else if (again) {
      result_.rechecked = 0;
    }
    return result_;
  }

 private:
  // `second`: only suspects count. `only_look`: what differs becomes a suspect, and is not told yet.
  Status read(bool second, bool only_look) {
    Sides sides(options_);
    if (Status status = sides.read(options_.allow_empty); !status.ok()) return status;
    Cursor left(sides.left), right(sides.right);
    for (Cursor* side : {&left, &right}) {
      if (Status status = side->advance(); !status.ok()) return status;
    }
    while (left.there() || right.there()) {
      if (stopping()) return {Code::stopped, "stopped"};
      ReconcileEntry const key =
          !right.there() || (left.there() && left.entry() < right.entry()) ? left.entry() : right.entry();
      Group group;
      if (Status status = take_group(left, right, group); !status.ok()) return status;
      if (!second) {
        result_.left.keys += group.left > 0 ? 1 : 0;
        result_.right.keys += group.right > 0 ? 1 : 0;
      }
      bool const same = group.left == 1 && group.right == 1 && !group.only_left;
      if (same) {
        result_.equal += second ? 0 : 1;
        continue;
      }
      if (second) {
        auto suspect = suspects_.has(key);
        if (!suspect) return suspect.status();
        if (!*suspect) continue;
      }
      if (Status status = judge(sides, group, key, second, only_look); !status.ok()) return status;
    }
    if (!second) {
      result_.left.records = sides.left.records(), result_.left.digest = sides.left.digest();
      result_.right.records = sides.right.records(), result_.right.digest = sides.right.digest();
    }
    return {};
  }

  Status judge(Sides const& sides, Group const& group, ReconcileEntry const& key, bool second, bool only_look) {
    std::vector<Kind> kinds;
    if (group.right == 0) {
      ++result_.missing, kinds.push_back(Kind::missing);
    } else if (group.left == 0) {
      ++result_.extra, kinds.push_back(Kind::extra);
    } else if (group.only_left || group.only_right) {
      ++result_.different, kinds.push_back(Kind::different);
    } else if (!second) {
      ++result_.equal;
    }
    if (group.left > 1) ++result_.left.duplicated, kinds.push_back(Kind::duplicated_left);
    if (group.right > 1) ++result_.right.duplicated, kinds.push_back(Kind::duplicated_right);
    if (kinds.empty()) return {};
    if (only_look) return suspects_.add(key);
    if (second) --result_.settled;
    auto left = text(sides.left, group.left, group.only_left.value_or(group.at_left));
    auto right = text(sides.right, group.right, group.only_right.value_or(group.at_right));
    if (!left) return left.status();
    if (!right) return right.status();
    for (Kind const kind : kinds) {
      Difference difference{kind, group.left > 0 ? left->key : right->key, ""};
      if (kind == Kind::different)
        difference.what = describe_difference(*left, *right, options_.fields.empty() ? "/" : "");
      if (kind == Kind::duplicated_left) difference.what = fmt::format("{} times on the left", group.left);
      if (kind == Kind::duplicated_right) difference.what = fmt::format("{} times on the right", group.right);
      if (Status status = tell_(difference); !status.ok()) return status;
    }
    return {};
  }

  static Result<ReconcileSide::Text> text(ReconcileSide const& side, std::uint64_t records, std::uint64_t at) {
    if (records == 0) return ReconcileSide::Text{};
    return side.text(at);
  }

  ReconcileOptions const& options_;
  Tell const& tell_;
  Suspects suspects_;
  ReconcileResult result_;
};

using Leaves = std::map<std::string, std::string>;

bool flatten(std::string const& values, Leaves& leaves) {
  Flattener flattener;
  auto const visit = [](void* context, std::string_view path, Value value) {
    static_cast<Leaves*>(context)->emplace(path, value.raw);
  };
  return flattener.flatten(values, '/', visit, &leaves).ok();
}

}  // namespace

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::missing:
      return "missing";
    case Kind::extra:
      return "extra";
    case Kind::different:
      return "different";
    default:
      return "duplicated";
  }
}

std::string describe_difference(ReconcileSide::Text const& left, ReconcileSide::Text const& right,
                                std::string_view root) {
  Leaves a, b;
  std::vector<std::string> parts;
  std::size_t more = 0;
  auto differs = [&](std::string_view path, std::string_view x, std::string_view y) {
    if (parts.size() == kMostFields) {
      ++more;
    } else {
      parts.push_back(fmt::format("{}{}: {} on the left, {} on the right", root, path, shown(x), shown(y)));
    }
  };
  if (left.whole && right.whole && flatten(left.values, a) && flatten(right.values, b)) {
    for (auto const& [path, value] : a) {
      auto const other = b.find(path);
      if (other == b.end() || other->second != value) differs(path, value, other == b.end() ? "none" : other->second);
    }
    for (auto const& [path, value] : b) {
      if (!a.contains(path)) differs(path, "none", value);
    }
  }
  if (parts.empty()) {  // long values, or [] and {}
    auto const first =
        std::mismatch(left.values.begin(), left.values.end(), right.values.begin(), right.values.end()).first;
    auto const same = static_cast<std::size_t>(first - left.values.begin());
    if (same >= ReconcileSide::kKept) return fmt::format("behind their first {} bytes", same);
    std::size_t const from = same < kMostShown / 2 ? 0 : same - kMostShown / 2;
    return fmt::format("byte {}: {} on the left, {} on the right", same, shown(left.values, from),
                       shown(right.values, from));
  }
  return fmt::format("{}{}", fmt::join(parts, "; "), more == 0 ? "" : fmt::format("; and {} more", more));
}

Result<ReconcileResult> reconcile(ReconcileOptions const& options, Tell const& tell) {
  return Comparison(options, tell).run();
}

}  // namespace inflight

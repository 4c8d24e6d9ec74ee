#include "common/archive_get.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <queue>
#include <set>

#include "common/archive.h"
#include "common/messages.h"
#include "common/record.h"
#include "common/spill.h"

namespace inflight {

namespace {

constexpr std::size_t kBlock = 1 << 20;
constexpr std::size_t kAlone = 20 << 20;   // an object that nothing else competes with is sorted in pieces of this size
constexpr std::size_t kCrowded = 8 << 20;  // and in these, written to a file, where others hold more than kOthers
constexpr std::size_t kOthers = 10 << 20;
constexpr std::size_t kFileBuffer = 64 << 10;

struct Item {
  Time time;
  std::string_view line;  // kRecordPadding bytes follow
  bool identified = false;
};

// Items in order.
class Run {
 public:
  virtual ~Run() = default;
  // Moves to the next item, which is valid until the next call; false at the end.
  [[nodiscard]] virtual Result<bool> next() = 0;
  // Before it there may be nothing of the item but its time: many runs stand at a long one.
  [[nodiscard]] virtual Status load() { return {}; }
  [[nodiscard]] Item const& item() const { return item_; }

 protected:
  Item item_;
};

// In blocks that are freed as soon as nothing of them is left.
class MemoryRun final : public Run {
 public:
  explicit MemoryRun(std::size_t& memory) : memory_(memory) {}
  ~MemoryRun() override {
    for (Block const& block : blocks_) memory_ -= block.size;
    memory_ -= counted_;
  }

  // A place for one line; keep() makes it an item.
  char* place(std::size_t size) {
    if (blocks_.empty() || blocks_.back().size - blocks_.back().used < size + kRecordPadding) {
      Block block;
      block.size = std::max(kBlock, size + kRecordPadding);
      block.bytes = std::make_unique<char[]>(block.size);
      memory_ += block.size;
      blocks_.push_back(std::move(block));
    }
    return blocks_.back().bytes.get() + blocks_.back().used;
  }
  void keep(Time time, std::size_t size, bool identified) {
    Block& block = blocks_.back();
    entries_.push_back({time, static_cast<std::uint32_t>(blocks_.size() - 1), static_cast<std::uint32_t>(block.used),
                        static_cast<std::uint32_t>(size), identified});
    block.used += size;
    ++block.lines;
    bytes_ += size + sizeof(Entry);
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] bool empty() const { return entries_.empty(); }

  void sort() {
    auto const earlier = [](Entry const& a, Entry const& b) { return a.time < b.time; };
    if (!std::is_sorted(entries_.begin(), entries_.end(), earlier))
      std::stable_sort(entries_.begin(), entries_.end(), earlier);
    counted_ = entries_.capacity() * sizeof(Entry);
    memory_ += counted_;
  }

  Result<bool> next() override {
    if (next_ > 0) {
      Block& block = blocks_[entries_[next_ - 1].block];
      if (--block.lines == 0) {
        block.bytes.reset();
        memory_ -= block.size;
        block.size = 0;
      }
    }
    if (next_ == entries_.size()) return false;
    Entry const& entry = entries_[next_++];
    item_ = {entry.time, {blocks_[entry.block].bytes.get() + entry.offset, entry.size}, entry.identified};
    return true;
  }

 private:
  struct Block {
    std::unique_ptr<char[]> bytes;
    std::size_t size = 0, used = 0, lines = 0;
  };
  struct Entry {
    Time time;
    std::uint32_t block, offset, size;
    bool identified;
  };
  std::size_t& memory_;
  std::size_t bytes_ = 0, counted_ = 0, next_ = 0;
  std::vector<Block> blocks_;
  std::vector<Entry> entries_;
};

// In a temporary file.
class FileRun final : public Run {
 public:
  static Result<std::unique_ptr<Run>> write(Run& from) {
    auto run = std::make_unique<FileRun>();
    for (;;) {
      auto more = from.next();
      if (!more) return more.status();
      if (!*more) break;
      Head const head{from.item().time.ns, static_cast<std::uint32_t>(from.item().line.size()), from.item().identified};
      Status status = run->file_.append({reinterpret_cast<char const*>(&head), sizeof head});
      if (status.ok()) status = run->file_.append(from.item().line);
      if (!status.ok()) return status;
    }
    if (Status status = run->file_.flush(); !status.ok()) return status;
    return std::unique_ptr<Run>(std::move(run));
  }

  Result<bool> next() override {
    Head head{};
    if (auto there = need(sizeof head); !there || !*there) return there;
    std::memcpy(&head, buffer_.data() + begin_, sizeof head);
    begin_ += sizeof head;
    size_ = head.size;
    item_ = {Time{head.time}, {}, head.identified != 0};
    return true;
  }

  Status load() override {
    auto there = need(size_);
    if (!there) return there.status();
    if (!*there) return Status::defect("a temporary file ends within a record");
    item_.line = {buffer_.data() + begin_, size_};
    begin_ += size_;
    return {};
  }

 private:
  struct Head {
    std::int64_t time;
    std::uint32_t size, identified;
  };

  // Whether so many bytes are in the buffer now; false at the end of the file.
  Result<bool> need(std::size_t size) {
    if (end_ - begin_ >= size) return true;
    if (begin_ > 0) std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    buffer_.resize(std::max({size, kFileBuffer, end_}) + kRecordPadding);
    if (buffer_.capacity() > kLongRecord) buffer_.shrink_to_fit();
    auto const more = static_cast<std::size_t>(
        std::min<std::uint64_t>(buffer_.size() - kRecordPadding - end_, file_.size() - offset_));
    if (Status status = file_.read(buffer_.data() + end_, more, offset_); !status.ok()) return status;
    offset_ += more;
    end_ += more;
    return end_ >= size;
  }

  SpillFile file_{temporary_folder()};
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;
  std::size_t size_ = 0;  // of the item's line
  std::uint64_t offset_ = 0;
};

class Getter {
 public:
  Getter(ObjectStore& store, ArchiveQuery const& query, std::function<Status(std::string_view)> const& emit)
      : store_(store), query_(query), emit_(emit) {}

  // All objects of one hour.
  Status hour(std::int64_t hour, std::vector<ObjectStore::Object> const& objects) {
    hour_begin_ = begin_of_hour(hour);
    struct Candidate {
      ObjectStore::Object object;
      ObjectSummary summary;
    };
    std::vector<Candidate> candidates;
    for (auto const& object : objects) {
      auto summary = read_summary(store_, object);
      if (!summary) return summary.status();
      if ((query_.from && summary->last < *query_.from) || (query_.to && summary->first >= *query_.to)) continue;
      candidates.push_back({object, *summary});
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](Candidate const& a, Candidate const& b) { return a.summary.first < b.summary.first; });
    std::size_t next = 0;
    while (next < candidates.size() || !heap_.empty()) {
      // Whatever may hold something earlier than the next item must be open.
      while (next < candidates.size() && (heap_.empty() || candidates[next].summary.first <= heap_.top().time)) {
        if (Status status = load(candidates[next].object, candidates[next].summary); !status.ok()) return status;
        ++next;
      }
      if (heap_.empty()) continue;
      Head const head = heap_.top();
      heap_.pop();
      if (Status status = head.run->second->load(); !status.ok()) return status;
      if (Status status = emit(head.run->second->item()); !status.ok()) return status;
      if (Status status = advance(head.run); !status.ok()) return status;
    }
    return {};
  }

 private:
  // Runs in the order in which equal times are emitted: by the object's key, then by place in it.
  using Order = std::pair<std::string, std::size_t>;
  using Runs = std::map<Order, std::unique_ptr<Run>>;
  struct Head {
    Time time;
    Runs::iterator run;
    bool operator<(Head const& other) const {  // of the heap: the top is the greatest
      return time != other.time ? time > other.time : run->first > other.run->first;
    }
  };

  Status load(ObjectStore::Object const& object, ObjectSummary const& summary) {
    bool const crowded = memory_ > kOthers;
    std::size_t const limit = crowded ? kCrowded : kAlone;
    std::vector<std::unique_ptr<Run>> runs;
    auto part = std::make_unique<MemoryRun>(memory_);
    std::string carry;  // a line of which the end has not come
    Status failed;
    auto to_file = [&]() -> Status {
      part->sort();
      auto file = FileRun::write(*part);
      if (!file) return file.status();
      runs.push_back(std::move(*file));
      part = std::make_unique<MemoryRun>(memory_);
      return {};
    };
    auto take_line = [&](std::string_view line) {
      if (failed.ok() && part->bytes() + line.size() > std::max(limit, line.size())) failed = to_file();
      if (failed.ok()) failed = add(*part, line);
      if (failed.ok() && part->bytes() >= limit) failed = to_file();
    };
    Status status = read_object(store_, object, summary, [&](std::string_view bytes) {
      for (std::size_t end = bytes.find('\n'); end != std::string_view::npos; end = bytes.find('\n')) {
        if (carry.empty()) {
          take_line(bytes.substr(0, end));
        } else {
          carry.append(bytes.substr(0, end));
          take_line(carry);
          carry.clear();
          forget_long(carry);
        }
        bytes.remove_prefix(end + 1);
      }
      carry.append(bytes);
    });
    if (!status.ok()) return status;
    if (!failed.ok()) return {failed.code(), fmt::format("{}: {}", store_.name(object.key), failed.what())};
    part->sort();
    if (part->empty() || (!crowded && runs.empty())) {
      runs.push_back(std::move(part));
    } else {
      auto file = FileRun::write(*part);
      if (!file) return file.status();
      runs.push_back(std::move(*file));
    }
    for (std::size_t i = 0; i < runs.size(); ++i) {
      auto const at = runs_.emplace(Order{object.key, i}, std::move(runs[i])).first;
      if (Status advanced = advance(at); !advanced.ok()) return advanced;
    }
    return {};
  }

  // Takes a line in where the query wants it.
  Status add(MemoryRun& run, std::string_view line) {
    char* const at = run.place(line.size());
    std::memcpy(at, line.data(), line.size());
    if (Status status = parser_.parse({at, line.size()}, record_); !status.ok()) return Status::defect(status.what());
    Time const time = archive_time(record_).value_or(hour_begin_);
    if ((query_.from && time < *query_.from) || (query_.to && time >= *query_.to)) return {};
    if (!query_.subjects.empty()) {
      auto const subject = record_.text("subject", scratch_);
      if (std::find(query_.subjects.begin(), query_.subjects.end(), subject) == query_.subjects.end()) return {};
    }
    run.keep(time, line.size(), record_.is_event() && record_.attribute("id") && record_.attribute("source"));
    return {};
  }

  Status advance(Runs::iterator run) {
    auto more = run->second->next();
    if (!more) return more.status();
    if (*more) {
      heap_.push({run->second->item().time, run});
    } else {
      runs_.erase(run);
    }
    return {};
  }

  // Doubles have the same bytes, so the same time: they are neighbours.
  Status emit(Item const& item) {
    if (item.identified) {
      if (item.time != now_) seen_.clear();
      now_ = item.time;
      if (!seen_.insert(hash128(item.line)).second) return {};
    }
    return emit_(item.line);
  }

  ObjectStore& store_;
  ArchiveQuery const& query_;
  std::function<Status(std::string_view)> const& emit_;
  Time hour_begin_;
  std::size_t memory_ = 0;
  Runs runs_;
  std::priority_queue<Head> heap_;
  Time now_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen_;
  RecordParser parser_;
  Record record_;
  std::string scratch_;
};

}  // namespace

Status visit_objects(ObjectStore& store, ArchiveQuery const& query,
                     std::function<Status(ObjectStore::Object const&)> const& visit) {
  std::string const from = query.from ? hour_folder(hour_of(*query.from)) : "";
  return store.list(from, [&](ObjectStore::Object const& object) -> Result<bool> {
    auto const hour = hour_of_key(object.key);
    if (!hour) return true;
    if (query.to && begin_of_hour(*hour) >= *query.to) return false;
    if (query.pinned && !query.objects.contains(object.key)) return true;
    if (Status status = visit(object); !status.ok()) return status;
    return true;
  });
}

// Positions are ordinals of what all of its objects hold: without one of them they would name other events.
static Status read_pin(std::string const& path, ObjectStore& store, ArchiveQuery& query) {
  auto text = read_file(path);
  if (!text) return text.status();
  ArchiveQuery pinned;
  try {
    auto const pin = nlohmann::json::parse(*text);
    if (pin.at("subjects") != nlohmann::json(query.subjects)) {
      return Status::usage(path + ": was made for other subjects; remove it and the state to begin anew");
    }
    pinned.objects = pin.at("objects").get<std::set<std::string>>();
    pinned.from = parse_rfc3339(pin.at("from").get<std::string>());
    pinned.to = parse_rfc3339(pin.at("to").get<std::string>());
  } catch (nlohmann::json::exception const&) {
    return Status::defect(path + ": damaged, no list of objects");
  }
  if (pinned.from != query.from || pinned.to != query.to) {
    auto const written = [](std::optional<Time> const& time) { return time ? format_rfc3339(*time) : "(open)"; };
    say_warning(fmt::format("{}: goes on from {} to {}, as it was begun; remove it and the state to begin anew", path,
                            written(pinned.from), written(pinned.to)));
  }
  query.from = pinned.from;
  query.to = pinned.to;
  query.objects = std::move(pinned.objects);
  query.pinned = true;
  std::set<std::string> missing = query.objects;
  Status const listed = visit_objects(store, query, [&](ObjectStore::Object const& object) {
    missing.erase(object.key);
    return Status{};
  });
  if (!listed.ok() || missing.empty()) return listed;
  return Status::usage(
      fmt::format("{}: {} is gone ({} of {} objects are): put it back, or remove this file and the state to begin anew",
                  path, store.name(*missing.begin()), missing.size(), query.objects.size()));
}

Status pin_query(Disk& disk, std::string const& path, ObjectStore& store, ArchiveQuery& query) {
  if (exists(path)) return read_pin(path, store, query);
  Status const listed = visit_objects(store, query, [&](ObjectStore::Object const& object) {
    query.objects.insert(object.key);
    return Status{};
  });
  if (!listed.ok()) return listed;
  query.pinned = true;
  nlohmann::json const pin = {{"from", query.from ? format_rfc3339(*query.from) : ""},
                              {"to", query.to ? format_rfc3339(*query.to) : ""},
                              {"subjects", query.subjects},
                              {"objects", query.objects}};
  return replace_file(disk, path, pin.dump() + "\n");
}

Status archive_get(ObjectStore& store, ArchiveQuery const& query, std::function<Status(std::string_view)> const& emit) {
  Getter getter(store, query, emit);
  std::vector<ObjectStore::Object> objects;
  auto finish_hour = [&] {
    Status status;
    if (!objects.empty()) status = getter.hour(*hour_of_key(objects[0].key), objects);
    objects.clear();
    return status;
  };
  Status status = visit_objects(store, query, [&](ObjectStore::Object const& object) {
    Status finished;
    if (!objects.empty() && hour_of_key(objects[0].key) != hour_of_key(object.key)) finished = finish_hour();
    objects.push_back(object);
    return finished;
  });
  return status.ok() ? finish_hour() : status;
}

}  // namespace inflight

#include "common/archive_get.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <queue>
#include <span>
#include <utility>
#include <vector>

#include "common/archive_index.h"
#include "common/line_blocks.h"
#include "common/messages.h"
#include "common/record.h"
#include "common/spill.h"
#include "common/xxh.h"

namespace inflight {

namespace {

constexpr std::size_t kAlone = 20 << 20;   // an object that nothing else competes with is sorted in pieces of this size
constexpr std::size_t kCrowded = 8 << 20;  // and in these, written to a file, where others hold more than kOthers
constexpr std::size_t kOthers = 10 << 20;
constexpr std::size_t kGroups = 32'000;  // of what an index says, of all objects of an hour: about 4 MiB
constexpr std::size_t kUuid = 36;
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

class MemoryRun final : public Run {
 public:
  explicit MemoryRun(std::size_t& memory) : memory_(memory), lines_(memory) {}
  ~MemoryRun() override { memory_ -= counted_; }

  void add(Time time, std::string_view line, bool identified) {
    entries_.push_back({time, lines_.add(line), identified});
  }
  [[nodiscard]] std::size_t bytes() const { return lines_.bytes() + entries_.size() * sizeof(Entry); }
  [[nodiscard]] bool empty() const { return entries_.empty(); }

  void sort() {
    auto const earlier = [](Entry const& a, Entry const& b) { return a.time < b.time; };
    if (!std::is_sorted(entries_.begin(), entries_.end(), earlier))
      std::stable_sort(entries_.begin(), entries_.end(), earlier);
    counted_ = entries_.capacity() * sizeof(Entry);
    memory_ += counted_;
  }

  Result<bool> next() override {
    if (next_ > 0) lines_.release(entries_[next_ - 1].line);
    if (next_ == entries_.size()) return false;
    Entry const& entry = entries_[next_++];
    item_ = {entry.time, lines_.text(entry.line), entry.identified};
    return true;
  }

 private:
  struct Entry {
    Time time;
    LineBlocks::Line line;
    bool identified;
  };
  std::size_t& memory_;
  std::size_t counted_ = 0, next_ = 0;
  LineBlocks lines_;
  std::vector<Entry> entries_;
};

// As many files as may be: there may be more runs than are open by default.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

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
  Getter(ObjectStore& store, ArchiveQuery const& query, std::function<Status(std::string_view)> const& emit,
         ArchiveFound& found)
      : store_(store), query_(query), emit_(emit), found_(found) {
    raise_descriptor_limit();
  }

  // All objects of one hour.
  Status hour(std::vector<ObjectStore::Object> const& objects) {
    std::vector<Candidate> candidates;
    std::size_t ahead = 0;
    groups_ = 0;
    for (auto const& object : objects) {
      while (ahead < objects.size()) {
        auto const range = summary_range(objects[ahead]);
        if (!store_.expect(objects[ahead].key, range.offset, range.size)) break;
        ++ahead;
      }
      auto candidate = look_at(object);
      if (!candidate) return candidate.status();
      if (*candidate) candidates.push_back(std::move(**candidate));
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](Candidate const& a, Candidate const& b) { return a.summary.first < b.summary.first; });
    // Frames are asked for before they are read, across objects.
    std::vector<std::pair<std::string const*, ArchiveFrame const*>> frames;
    for (Candidate const& candidate : candidates) {
      if (!candidate.frames) continue;
      for (ArchiveFrame const& frame : *candidate.frames) frames.emplace_back(&candidate.object.key, &frame);
    }
    frames_ahead_ = frames;
    std::size_t next = 0;
    while (next < candidates.size() || !heap_.empty()) {
      // Whatever may hold something earlier than the next item must be open.
      while (next < candidates.size() && (heap_.empty() || candidates[next].summary.first <= heap_.top().time)) {
        if (Status status = load(candidates[next]); !status.ok()) return status;
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
  struct Candidate {
    ObjectStore::Object object;
    ObjectSummary summary;
    std::optional<std::vector<ArchiveFrame>> frames;  // that may hold something; none: all of it is read
    bool places = false;                              // there is nothing of these but where they are
  };

  Result<std::vector<ArchiveFrame>> wanted_frames(ObjectStore::Object const& object, ObjectSummary const& summary) {
    return read_index(store_, object, summary, [this](ArchiveFrame const& frame) {
      return std::any_of(frame.groups.begin(), frame.groups.end(),
                         [this](ArchiveGroup const& group) { return query_.may_want(group); });
    });
  }

  // Each is archived under a prefix of its own, or two fleets become one. What a journal's source calls itself is its
  // UUID, a dot and the subscriber.
  void tell_exchanges(std::string const& source) {
    std::string const exchange = source.substr(0, source.find('.') == kUuid ? kUuid : source.size());
    if (exchange.empty() || several_ || exchange == exchange_) return;
    several_ = !exchange_.empty();
    if (several_) {
      say_warning(fmt::format("{}: holds events of more than one exchange, {} and {}: those of all are written",
                              store_.name(""), exchange_, exchange));
    }
    exchange_ = exchange;
  }

  // Nothing where nothing of the object can be wanted.
  Result<std::optional<Candidate>> look_at(ObjectStore::Object const& object) {
    auto summary = read_summary(store_, object);
    if (!summary) return summary.status();
    if ((query_.from && summary->last < *query_.from) || (query_.to && summary->first >= *query_.to))
      return std::optional<Candidate>();
    tell_exchanges(summary->source);
    Candidate candidate{object, std::move(*summary), {}, false};
    if (query_.by_subject() && candidate.summary.index) {
      auto frames = wanted_frames(object, candidate.summary);
      if (!frames) return frames.status();
      if (frames->empty()) return std::optional<Candidate>();
      candidate.frames = std::move(*frames);
      // A fleet's ranges want most groups of most objects: what does not fit is read again.
      std::size_t groups = 0;
      for (ArchiveFrame const& frame : *candidate.frames) groups += frame.groups.size();
      candidate.places = groups_ + groups > kGroups;
      if (candidate.places) {
        for (ArchiveFrame& frame : *candidate.frames) frame.groups = {};
      } else {
        groups_ += groups;
      }
    }
    return std::optional<Candidate>(std::move(candidate));
  }

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

  // Takes in of an object what the query wants, as runs.
  Status load(Candidate const& candidate) {
    std::string const& key = candidate.object.key;
    bool const crowded = memory_ > kOthers;
    std::size_t const limit = crowded ? kCrowded : kAlone;
    std::vector<std::unique_ptr<Run>> runs;
    auto part = std::make_unique<MemoryRun>(memory_);
    auto to_file = [&]() -> Status {
      part->sort();
      auto file = FileRun::write(*part);
      if (!file) return file.status();
      runs.push_back(std::move(*file));
      part = std::make_unique<MemoryRun>(memory_);
      return {};
    };
    Status status = read_wanted(candidate, [&](Record const& record, Time time) -> Status {
      std::string_view const line = record.line();
      if (part->bytes() + line.size() > std::max(limit, line.size())) {
        if (Status failed = to_file(); !failed.ok()) return failed.at(store_.name(key));
      }
      part->add(time, line, record.is_event() && record.attribute("id") && record.attribute("source"));
      return {};
    });
    if (!status.ok()) return status;
    if (!part->empty() && (crowded || !runs.empty())) {
      if (status = to_file(); !status.ok()) return status.at(store_.name(key));
    }
    part->sort();
    if (!part->empty()) runs.push_back(std::move(part));
    for (std::size_t i = 0; i < runs.size(); ++i) {
      auto const at = runs_.emplace(Order{key, i}, std::move(runs[i])).first;
      if (Status advanced = advance(at); !advanced.ok()) return advanced;
    }
    return {};
  }

  using Take = std::function<Status(Record const&, Time)>;

  Status read_wanted(Candidate const& candidate, Take const& take) {
    auto take_wanted = [&](Record const& record, Time time) -> Status {
      return wants(record, time) ? take(record, time) : Status{};
    };
    if (!candidate.frames) return read_records_of(store_, candidate.object, candidate.summary, take_wanted);
    std::vector<ArchiveFrame> again;
    if (candidate.places) {
      auto frames = wanted_frames(candidate.object, candidate.summary);
      if (!frames) return frames.status();
      again = std::move(*frames);
    }
    for (ArchiveFrame const& frame : candidate.places ? again : *candidate.frames) {
      for (; !frames_ahead_.empty(); frames_ahead_ = frames_ahead_.subspan(1)) {
        auto const& [key, next] = frames_ahead_.front();
        if (!store_.expect(*key, next->offset, next->size)) break;
      }
      if (Status status = read_frame(store_, candidate.object, frame, take_wanted); !status.ok()) return status;
    }
    return {};
  }

  bool wants(Record const& record, Time time) {
    std::string_view const subject = query_.by_subject() ? record.text("subject", scratch_) : "";
    if (!query_.wants(subject, time)) return false;
    ++found_.records;
    if (query_.by_subject() && !found_.subjects.contains(subject)) found_.subjects.emplace(subject);
    return true;
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
  ArchiveFound& found_;
  std::size_t memory_ = 0;
  std::size_t groups_ = 0;  // of the candidates
  std::string exchange_;
  bool several_ = false;  // of these, and it was told
  Runs runs_;
  std::span<std::pair<std::string const*, ArchiveFrame const*> const> frames_ahead_;  // that nobody was asked for yet
  std::priority_queue<Head> heap_;
  Time now_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen_;
  std::string scratch_;
};

}  // namespace

std::string not_found(ArchiveQuery const& query, ArchiveFound const& found) {
  std::vector<std::string> missing = query.subjects;
  if (query.ranges) {
    missing.clear();
    for (auto const& [subject, ranges] : *query.ranges) missing.push_back(subject);
    if (missing.empty()) return "";
  }
  std::size_t const asked = missing.size();
  std::erase_if(missing, [&](std::string const& subject) { return found.subjects.contains(subject); });
  std::string const what = query.text();
  if (found.records == 0) return what.empty() ? "" : "no records" + what;
  if (missing.empty()) return "";
  return fmt::format("no records of {} of {} subjects, such as {}", missing.size(), asked, missing.front());
}

Status archive_get(ObjectStore& store, ArchiveQuery const& query, std::function<Status(std::string_view)> const& emit,
                   ArchiveFound& found) {
  Getter getter(store, query, emit, found);
  std::vector<ObjectStore::Object> objects;
  auto finish_hour = [&] {
    Status status;
    if (!objects.empty()) status = getter.hour(objects);
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

#include "common/archive_put.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/archive_encoder.h"
#include "common/archive_index.h"
#include "common/archive_ledger.h"
#include "common/directory_store.h"
#include "common/xxh.h"

namespace inflight {

namespace {

constexpr std::size_t kOpen = 256;          // objects at once
constexpr std::size_t kStretch = 24 << 20;  // memory of lines that are grouped together
constexpr std::size_t kWaiting = 32 << 20;  // and of all objects: the longest then makes its frames before its time
constexpr std::size_t kIndexed = 8 << 20;   // of the index of all objects: the longest is closed
// Objects that are closed and not put yet: with the one that is filled, fewer records than a source's window holds.
constexpr std::size_t kBehind = 1;

// A source's name as part of a file's name.
std::string encoded(std::string_view source) {
  std::string out;
  for (char const c : source) {
    bool const plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                       c == '-' || (c == '.' && !out.empty());
    if (plain) {
      out += c;
    } else {
      fmt::format_to(std::back_inserter(out), "%{:02X}", static_cast<unsigned char>(c));
    }
  }
  // A file's name has at most 255 bytes.
  return out.size() <= 150 ? out : fmt::format("{}~{:016x}", out.substr(0, 133), hash64(source));
}

using Key = ArchiveLedger::Key;

// An object on its way: its steps are repeatable, each is taken when those before it are done.
struct OpenObject {
  enum class Stage { written, synced, recorded };
  OpenObject(FrameCompressor& compressor, std::function<void(OpenObject&)> ready)
      : encoder(compressor, [this, act = std::move(ready)] { act(*this); }) {}

  Stage stage = Stage::written;
  std::uint64_t number = 0;
  std::string path;  // in the spool
  Fd fd;
  std::uint64_t written = 0;
  std::int64_t hour = 0;
  std::uint64_t opened_at = 0;  // in records taken
  Duration opened{};
  ObjectEncoder encoder;
  PositionList positions;
  std::uint64_t first = 0, last = 0;
  bool in_order = true;  // one record per position, each higher than the one before
  std::vector<Key> keys;
  std::string key;
};

}  // namespace

struct Archiver::State {
  State(Disk& d, Clock& c, ObjectStore& s, ArchivePutOptions const& o, std::string from, std::string folder)
      : disk(d),
        clock(c),
        store(s),
        options(o),
        source(std::move(from)),
        spool(std::move(folder)),
        ledger(d, join(spool, "ledger")),
        compressor(static_cast<int>(o.level)) {}

  Disk& disk;
  Clock& clock;
  ObjectStore& store;
  ArchivePutOptions const& options;
  std::string source;
  std::string spool;
  Fd lock;
  ArchiveLedger ledger;
  FrameCompressor compressor;
  std::uint64_t next_number = 1;
  std::vector<Key> known;                                                     // of earlier runs, sorted
  std::vector<bool> come_back;                                                // which of them were delivered again
  std::list<OpenObject> open;                                                 // oldest first
  std::unordered_map<std::int64_t, std::list<OpenObject>::iterator> by_hour;  // of these
  std::list<OpenObject> closing;
  std::size_t waiting = 0;  // bytes of lines that are in no frame yet, of those open
  bool was_cut = false;     // since the index was looked at
  bool unwritten = false;   // the disk was full, and a frame of one of them waits for it
  PositionList stored;
  std::uint64_t taken = 0;
  std::optional<std::uint64_t> highest;  // position taken
  std::map<std::string, std::uint64_t> same_content;
  std::vector<Position> parsed;
  // Of closing.front(): which object, ledger and store are then the other thread's. The last member: it is waited for
  // before the others go.
  std::future<Status> putting;

  // A ledger speaks of one store: by another's, what never was put into this one would count as stored.
  Status check_identity() {
    std::string const identity = store.identity(), path = join(spool, "archive");
    std::string there;
    if (exists(path)) {
      auto text = read_file(path);
      if (!text) return text.status();
      there = text->substr(0, text->find('\n'));
    } else if (identity.empty() || !exists(join(spool, "ledger"))) {
      there = identity;
    }
    if (there != identity) {
      return Status::usage(fmt::format("{}: is the spool of {}", spool, there.empty() ? "a directory" : there));
    }
    return identity.empty() || exists(path) ? Status{} : replace_file(disk, path, identity + "\n");
  }

  Status recover() {
    std::map<std::string, std::string> completed;  // file -> key
    Status status = ledger.open([&](ArchiveLedger::Completed const& entry) {
      completed[fmt::format("{}.open", entry.number)] = entry.key;
      if (entry.source == source && !source.empty()) known.insert(known.end(), entry.keys.begin(), entry.keys.end());
    });
    if (!status.ok()) return status;
    next_number = ledger.next_number();
    std::sort(known.begin(), known.end());
    come_back.assign(known.size(), false);
    auto names = list_folder(spool);
    if (!names) return names.status();
    for (std::string const& name : *names) {
      if (!name.ends_with(".open") && !name.ends_with(".tmp")) continue;
      std::string const path = join(spool, name);
      if (auto const at = completed.find(name); at != completed.end()) {
        if (status = put(at->second, path); !status.ok()) return status;
      }
      if (status = disk.remove(path); !status.ok()) return status;
    }
    if (status = ledger.compact(); status.code() == Code::defect) return status;
    return disk.sync_folder(spool);
  }

  Status put(std::string const& key, std::string const& path) {
    auto outcome = store.put(key, path);
    if (!outcome) return outcome.status();
    if (*outcome != ObjectStore::Put::different) return {};
    // The same lines compressed in another way are the same content.
    auto same = same_lines(key, path);
    if (!same) return same.status();
    if (*same) return {};
    return Status::defect(fmt::format("{}: exists with other content; it is left as it is, and {} waits in the spool",
                                      store.name(key), path));
  }

  Result<bool> same_lines(std::string const& key, std::string const& path) {
    auto there = store.find(key);
    if (!there) return there.status();
    auto local = open_directory_store(disk, spool, false);
    if (!local) return local.status();
    std::string const name = path.substr(path.rfind('/') + 1);
    auto here = (*local)->find(name);
    if (!here) return here.status();
    if (!*there || !*here) return false;
    auto left = sum_of_lines(**local, **here);
    if (!left) return left.status();
    auto right = sum_of_lines(store, **there);
    // Only what is damaged is another content; what could not be read may be any.
    if (!right && right.status().code() != Code::defect) return right.status();
    return right && *right == *left;
  }

  // The same for the same lines in whatever order: where a stretch ended depends on what else was open.
  static Result<std::pair<std::uint64_t, std::uint64_t>> sum_of_lines(ObjectStore& from,
                                                                      ObjectStore::Object const& object) {
    auto summary = read_summary(from, object);
    if (!summary) return summary.status();
    std::pair<std::uint64_t, std::uint64_t> sum{0, 0};
    Status const status = read_records_of(from, object, *summary, [&](Record const& record, Time) {
      auto const hash = hash128(record.line());
      sum.first += hash.first;
      sum.second += hash.second;
      return Status{};
    });
    if (!status.ok()) return status;
    return sum;
  }

  // ---- taking

  // Which of the known records this is: known.size() if none.
  std::size_t find_known(Key const& key) const {
    auto const range = std::equal_range(known.begin(), known.end(), key);
    for (auto at = range.first; at != range.second; ++at) {
      auto const index = static_cast<std::size_t>(at - known.begin());
      if (!come_back[index]) return index;
    }
    return known.size();
  }
  bool position_is_known(std::uint64_t position) const {
    auto const at = std::lower_bound(known.begin(), known.end(), Key{position, 0});
    return at != known.end() && at->position == position;
  }

  Result<Taken> add(Record const& record, std::string_view delivery) {
    parsed.clear();
    bool const positioned = !source.empty() && parse_positions(delivery, parsed) && !parsed.empty();
    Key key;
    if (positioned) {
      key.position = parsed[0].first;
      for (Position const& position : parsed) key.position = std::min(key.position, position.first);
      key.hash = hash64(record.line(), hash64(delivery));
      if (!known.empty()) {
        if (auto const at = find_known(key); at != known.size()) {
          come_back[at] = true;
          return Taken::stored;
        }
      }
    }
    if (Status status = close_overtaken(); !status.ok()) return status;
    auto const time = archive_time(record);
    std::int64_t const hour = hour_of(time.value_or(clock.now()));
    auto at = by_hour.find(hour);
    // Before one is opened: with a failure here it would stay empty, and might be put so.
    if (Status status = make_room(at == by_hour.end() ? nullptr : &*at->second); !status.ok()) return status;
    if (at == by_hour.end()) {
      if (open.size() == kOpen) {
        close(open.begin());
        if (Status status = advance(false); !status.ok()) return status;
      }
      if (Status status = open_object(hour); !status.ok()) return status;
      at = by_hour.find(hour);
    }
    OpenObject& object = *at->second;
    auto const subject = archive_subject(record);
    ArchiveGroup::Span span{key.position, key.position};
    for (Position const& position : parsed) span.highest = std::max(span.highest, position.last);
    waiting -= object.encoder.waiting();
    object.encoder.add(
        {record.line(), time.value_or(begin_of_hour(hour)), subject, positioned ? std::optional(span) : std::nullopt});
    waiting += object.encoder.waiting();
    was_cut = was_cut || record.line().size() >= ObjectEncoder::kAlone;
    ++taken;
    if (!positioned && !delivery.empty()) (void)parse_positions(delivery, parsed);
    object.positions.add(parsed);
    if (positioned) {
      bool const one = parsed.size() == 1 && parsed[0].pieces.empty() && parsed[0].first == parsed[0].last;
      if (!one || (highest && key.position <= *highest) || position_is_known(key.position)) object.in_order = false;
      object.first = object.keys.empty() ? key.position : std::min(object.first, key.position);
      object.last = std::max(object.last, span.highest);
      highest = std::max(highest.value_or(0), span.highest);
      object.keys.push_back(key);
    }
    // Without positions no window is held up by an hour of which few records come.
    bool const full = object.encoder.summary().bytes >= options.max_bytes ||
                      (source.empty() && object.encoder.summary().records >= options.max_records);
    if (full) {
      close(at->second);
    } else if (std::exchange(was_cut, false)) {
      close_indexed();
    }
    return Taken::held;
  }

  Status open_object(std::int64_t hour) {
    std::list<OpenObject> made;
    OpenObject& object = made.emplace_back(compressor, [this](OpenObject& ready) {
      if (!flush(ready).ok()) unwritten = true;
    });
    object.number = next_number;
    object.path = join(spool, fmt::format("{}.open", object.number));
    auto fd = disk.open(object.path, O_WRONLY | O_CREAT | O_TRUNC);
    if (!fd) return fd.status();
    ++next_number;
    object.fd = std::move(*fd);
    object.hour = hour;
    object.opened_at = taken;
    object.opened = clock.steady();
    open.splice(open.end(), made);
    by_hour[hour] = std::prev(open.end());
    return {};
  }

  // So that one more line may wait in this object, or in one that is to be opened.
  Status make_room(OpenObject* object) {
    if (Status status = write_rest(); !status.ok()) return status;
    if (object != nullptr && object->encoder.waiting() >= kStretch) {
      cut(*object);
    } else if (waiting >= kWaiting) {
      cut(*std::max_element(open.begin(), open.end(), [](OpenObject const& a, OpenObject const& b) {
        return a.encoder.waiting() < b.encoder.waiting();
      }));
    }
    return write_rest();
  }

  void cut(OpenObject& object) {
    waiting -= object.encoder.waiting();
    object.encoder.cut();
    waiting += object.encoder.waiting();
    was_cut = true;
  }

  Status write_rest() {
    for (auto at = open.begin(); unwritten && at != open.end(); ++at) {
      if (Status status = flush(*at); !status.ok()) return status;
    }
    unwritten = false;
    return {};
  }

  // ---- closing

  void close(std::list<OpenObject>::iterator object) {
    waiting -= object->encoder.waiting();
    by_hour.erase(object->hour);
    end(*object);
    closing.splice(closing.end(), open, object);
  }

  // What many objects of many subjects have of an index is bounded too.
  void close_indexed() {
    auto const indexed = [](OpenObject const& object) { return object.encoder.indexed(); };
    std::size_t sum = 0;
    for (OpenObject const& object : open) sum += indexed(object);
    if (sum > kIndexed) {
      close(std::max_element(open.begin(), open.end(), [&](auto& a, auto& b) { return indexed(a) < indexed(b); }));
    }
  }

  // Those that as many records have passed as one may hold.
  Status close_overtaken() {
    if (source.empty() || open.empty() || taken - open.front().opened_at < options.max_records) return advance(false);
    while (!open.empty() && taken - open.front().opened_at >= options.max_records) close(open.begin());
    return advance(false);
  }

  Status close_due(bool final) {
    while (!open.empty() && (final || clock.steady() - open.front().opened >= options.max_age)) close(open.begin());
    Status status = close_overtaken();
    return status.ok() && final ? advance(true) : status;
  }

  // Puts what is closed, one after the other: into a remote store while more is taken, as long as few wait.
  Status advance(bool all) {
    while (!closing.empty()) {
      if (!putting.valid()) {
        putting = std::async(store.remote() ? std::launch::async : std::launch::deferred,
                             [this, &object = closing.front()] { return complete(object); });
      }
      bool const may_wait = !all && closing.size() <= kBehind;
      if (may_wait && putting.wait_for(Duration::zero()) == std::future_status::timeout) return {};
      if (Status status = putting.get(); !status.ok()) return status;
      stored.add(closing.front().positions);
      closing.pop_front();
    }
    return {};
  }

  Status flush(OpenObject& object) {
    std::string& pending = object.encoder.pending();
    if (pending.empty()) return {};
    if (Status status = disk.write_at(object.fd.get(), pending, object.written, object.path); !status.ok())
      return status;
    object.written += pending.size();
    pending.clear();
    return {};
  }

  void end(OpenObject& object) {
    std::string positions = fmt::format(
        "{}", fmt::join(source.empty() ? std::vector<std::string>() : object.positions.texts(1 << 30), ","));
    ObjectSummary const& summary = object.encoder.finish(source, std::move(positions));
    object.key = hour_folder(object.hour) + name_of(object, summary.digest) + ".ndjson.zst";
  }

  Status complete(OpenObject& object) {
    using Stage = OpenObject::Stage;
    if (object.stage == Stage::written) {
      if (Status status = flush(object); !status.ok()) return status;
      if (Status status = disk.sync(object.fd.get(), object.path); !status.ok()) return status;
      if (Status status = disk.sync_folder(spool); !status.ok()) return status;
      object.fd.reset();
      object.stage = Stage::synced;
    }
    if (object.stage == Stage::synced) {
      if (Status status = ledger.append({object.number, object.key, source, object.keys}); !status.ok()) return status;
      object.stage = Stage::recorded;
    }
    if (Status status = put(object.key, object.path); !status.ok()) return status;
    if (Status status = disk.remove(object.path); !status.ok()) return status;
    // A ledger that stays long is no failure of what was put.
    Status const compacted = ledger.compact();
    return compacted.code() == Code::defect ? compacted : Status();
  }

  std::string name_of(OpenObject const& object, std::string const& digest) {
    if (source.empty()) {
      std::uint64_t const times = ++same_content[hour_folder(object.hour) + digest];
      return times == 1 ? digest : fmt::format("{}-{}", digest, times);
    }
    std::string const name = fmt::format("{}-{}-{}", encoded(source), object.first, object.last);
    // The number too: equal lines that came twice on purpose make equal objects.
    return object.in_order ? name : fmt::format("{}-{}-{}", name, digest.substr(0, 16), object.number);
  }
};

Archiver::Archiver(std::unique_ptr<State> state) : state_(std::move(state)) {}
Archiver::~Archiver() = default;

Result<Archiver::Spool> Archiver::lock_spool(Disk& disk, ObjectStore& store, std::string const& source,
                                             ArchivePutOptions const& options) {
  std::string path = options.spool, spools;
  if (path.empty()) {
    auto folder = store.spools();
    if (!folder) return folder.status();
    spools = std::move(*folder);
  }
  for (unsigned n = 1;; ++n) {
    // Without a source there is no subscriber: each of the runs that are at work takes a spool that nobody holds.
    bool const shared = options.spool.empty() && source.empty();
    if (options.spool.empty()) path = join(spools, shared ? fmt::format("pipe.{}", n) : encoded(source));
    if (Status status = make_folders(disk, path); !status.ok()) return status;
    std::string const lock = join(path, "lock");
    auto held = lock_file(lock, Lock::exclusive, false);
    if (held) return Spool{path, std::move(*held)};
    if (held.status().code() != Code::temporary) return held.status();
    if (!shared) return Status::temporary(fmt::format("{}: held by {}", path, fmt::join(who_has_open(lock), ", ")));
  }
}

Result<std::unique_ptr<Archiver>> Archiver::open(Disk& disk, Clock& clock, ObjectStore& store, Spool spool,
                                                 std::string const& source, ArchivePutOptions const& options) {
  auto state = std::make_unique<State>(disk, clock, store, options, source, std::move(spool.path));
  state->lock = std::move(spool.lock);
  if (Status status = state->check_identity(); !status.ok()) return status;
  if (Status status = state->recover(); !status.ok()) return status;
  return std::unique_ptr<Archiver>(new Archiver(std::move(state)));
}

Result<std::unique_ptr<Archiver>> Archiver::open(Disk& disk, Clock& clock, ObjectStore& store,
                                                 std::string const& source, ArchivePutOptions const& options) {
  auto spool = lock_spool(disk, store, source, options);
  if (!spool) return spool.status();
  return open(disk, clock, store, std::move(*spool), source, options);
}

Result<Archiver::Taken> Archiver::add(Record const& record, std::string_view delivery) {
  return state_->add(record, delivery);
}

Status Archiver::settle(bool final, PositionList& stored) {
  Status status = state_->close_due(final);
  stored.add(state_->stored);
  state_->stored.clear();
  return status;
}

}  // namespace inflight

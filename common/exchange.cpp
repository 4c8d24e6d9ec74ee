#include "common/exchange.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/messages.h"

namespace inflight {

namespace {

using nlohmann::ordered_json;

constexpr std::uint64_t kReserve = 4 << 20;
constexpr std::uint64_t kReservePart = 256 << 10;

// What a subscriber that is killed may deliver again, beyond its window, lies well within the lines by which an exchange
// behind it knows its doubles.
constexpr std::uint64_t kUnsaved = 25'000;
constexpr std::uint64_t kUnsavedBytes = 32 << 20;

std::string reserve_path(std::string const& exchange) { return join(exchange, "reserve"); }

struct SubscriberSettings {
  bool optional = false;
};

SubscriberSettings read_settings(SubscriberFiles const& files) {
  auto text = read_file(files.settings());
  if (!text) return {};
  ordered_json const json = ordered_json::parse(*text, nullptr, false);
  return {json.is_object() && json.value("optional", false)};
}

// Positions that were damaged, or removed before an optional subscriber read them. A hole may have been met again, and
// larger.
Ranges read_holes(SubscriberFiles const& files) {
  auto text = read_file(files.holes());
  Ranges lost;
  if (!text) return lost;
  for (std::size_t begin = 0, end = 0; (end = text->find('\n', begin)) != std::string::npos; begin = end + 1) {
    ordered_json const hole = ordered_json::parse(text->substr(begin, end - begin), nullptr, false);
    if (!hole.is_object()) continue;
    std::uint64_t const first = hole.value("first", std::uint64_t{0}), last = hole.value("end", std::uint64_t{0});
    if (last > first) lost.add(first, last - 1);
  }
  return lost;
}

class JournalEvents final : public EventReader {
 public:
  JournalEvents(SubscriberFiles const& files, Ledger const& ledger, bool optional, bool skip_damage, std::uint64_t end,
                std::uint64_t& bytes_read, Clock& clock, Disk& disk)
      : files_(files),
        ledger_(ledger),
        bytes_read_(bytes_read),
        optional_(optional),
        skip_damage_(skip_damage),
        end_(end),
        clock_(clock),
        disk_(disk) {}

  Result<Got> read(std::uint64_t position, Event& event) override {
    if (position >= end_) return Got::end;
    // An event that is being replayed may be gone from the journal: its letter holds it.
    auto const letter = ledger_.letters().entries().find(position);
    if (letter != ledger_.letters().entries().end()) {
      auto read = ledger_.letters().read(letter->second);
      if (!read) return read.status();
      letter_ = *read;
      event = {position, letter_.event, letter_.time};
      return Got::event;
    }
    auto got = next_at(position);
    if (!got && got.status().code() == Code::usage) {
      auto kept = pass_over_removed(position, got.status());
      return kept ? read(*kept, event) : kept.status();
    }
    if (!got && skip_damage_ && got.status().code() == Code::defect) {
      auto damage = reader_->skip_damage();
      if (!damage) return damage.status();
      if (Status recorded = record_hole(damage->first, damage->end, damage->why); !recorded.ok()) return recorded;
      return read(damage->end, event);
    }
    if (!got) return got.status();
    if (!*got) return Got::none;
    event = {(*got)->position, (*got)->line, (*got)->committed};
    bytes_read_ += event.line.size();
    return event.position < end_ ? Got::event : Got::end;
  }

 private:
  Result<std::optional<JournalReader::Event>> next_at(std::uint64_t position) {
    if (!reader_) {
      auto opened = JournalReader::open(files_.exchange(), position);
      if (!opened) return opened.status();
      reader_ = std::move(*opened);
    } else if (reader_->position() != position) {
      if (Status status = reader_->seek(position); !status.ok()) return status;
    }
    return reader_->next();
  }

  // The journal keeps `position` no more: where to go on. What is settled is nobody's loss.
  Result<std::uint64_t> pass_over_removed(std::uint64_t position, Status const& why) {
    auto span = journal_span(files_.exchange());
    if (!span || position >= span->first) return why;
    std::uint64_t kept = span->first;
    auto const letter = ledger_.letters().entries().lower_bound(position);
    if (letter != ledger_.letters().entries().end()) kept = std::min(kept, letter->first);
    std::uint64_t const wanted = ledger_.next_unsettled(position);
    if (wanted >= kept) return kept;
    if (!optional_) return why.at(fmt::format("subscriber {}", files_.name()));
    // Parked: the exchange needed the room.
    if (Status recorded = record_hole(wanted, kept, "removed while parked"); !recorded.ok()) return recorded;
    return kept;
  }

  // What is lost is recorded, listed, and can be filled from the archive.
  Status record_hole(std::uint64_t first, std::uint64_t end, std::string const& why) {
    ordered_json const hole = {
        {"first", first}, {"end", end}, {"why", why}, {"recorded", format_rfc3339(clock_.now())}};
    std::string const line = hole.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
    // Each lane, and each start until the cursor is saved behind it, meets the same hole.
    auto known = read_file(files_.holes());
    if (known && known->find(fmt::format("{{\"first\":{},\"end\":{},", first, end)) != std::string::npos) return {};
    say_error(fmt::format("{}: {} loses events {} to {}: {}", files_.exchange(), files_.name(), first, end - 1, why));
    auto fd = disk_.open(files_.holes(), O_WRONLY | O_CREAT | O_APPEND);
    if (!fd) return fd.status();
    if (Status written = write_all(fd->get(), line, files_.holes()); !written.ok()) return written;
    return disk_.sync(fd->get(), files_.holes());
  }

  SubscriberFiles files_;
  Ledger const& ledger_;
  std::uint64_t& bytes_read_;
  DeadLetter letter_;
  bool optional_, skip_damage_;
  std::uint64_t end_;
  Clock& clock_;
  Disk& disk_;
  std::optional<JournalReader> reader_;
};

Result<std::vector<std::string>> subscriber_names(std::string const& exchange) {
  return list_folder(join(exchange, "subscribers"));
}

std::string laggard(Clock& clock, std::string const& exchange) {
  auto subscribers = list_subscribers(clock, exchange);
  if (!subscribers || subscribers->empty()) return "no subscriber reads it";
  auto const slowest = std::min_element(subscribers->begin(), subscribers->end(), [](auto const& a, auto const& b) {
    return std::pair(a.optional, a.cursor) < std::pair(b.optional, b.cursor);  // nobody waits for an optional one
  });
  return fmt::format("subscriber {} lags by {} events", slowest->name, slowest->behind);
}

}  // namespace

Status check_exchange_name(std::string const& exchange) {
  if (exchange.find("://") == std::string::npos) return {};
  return Status::usage(fmt::format("{}: this build serves journals only: name a folder", redact(exchange)));
}

Status check_subscriber_name(std::string const& name) {
  if (!name.empty() && name[0] != '.' && name.size() <= 200 &&
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
          std::string::npos) {
    return {};
  }
  return Status::usage(
      fmt::format("'{}' is no subscriber's name: letters, digits, '.', '_' and '-', no '.' in front", name));
}

SubscriberFiles::SubscriberFiles(std::string exchange, std::string name)
    : exchange_(std::move(exchange)), name_(std::move(name)), folder_(join(join(exchange_, "subscribers"), name_)) {}

bool SubscriberFiles::exists() const { return inflight::exists(state()); }

Result<Fd> SubscriberFiles::take() const {
  for (int i = 0;; ++i) {
    auto lock = lock_file(this->lock(), Lock::exclusive, false);
    if (lock || lock.status().code() != Code::temporary) return lock;
    std::string who;
    for (std::string const& process : who_has_open(this->lock())) who += (who.empty() ? "" : ", ") + process;
    // A process that was just killed holds its locks for some milliseconds, when it can be named no more; --list, which
    // looks whether it is held, for less.
    if ((who.empty() && i < 100) || i < 3) {
      ::usleep(50'000);
      continue;
    }
    return Status::temporary(
        fmt::format("{}: {} is already run by {}", exchange_, name_, who.empty() ? "another process" : who));
  }
}

Status register_subscriber(Disk& disk, Clock& clock, SubscriberFiles const& files, std::string const& from,
                           bool optional) {
  if (Status status = check_subscriber_name(files.name()); !status.ok()) return status;
  if (files.exists()) return {};
  auto span = journal_span(files.exchange());
  if (!span) return span.status();
  std::uint64_t first = span->first;
  if (from == "latest") {
    first = span->end;
  } else if (from != "earliest" && from.find_first_not_of("0123456789") == std::string::npos && !from.empty() &&
             from.size() < 19) {
    first = std::stoull(from);
    if (first < span->first || first > span->end) {
      return Status::usage(fmt::format("--from {}: {} keeps {} to {}", from, files.exchange(), span->first, span->end));
    }
  } else if (from != "earliest") {
    auto time = parse_when(from, clock.now());
    if (!time) return time.status().at("--from");
    auto position = journal_position_at(files.exchange(), *time);
    if (!position) return position.status();
    first = *position;
  }
  auto identity = exchange_identity(files.exchange());
  if (!identity) return identity.status();
  auto with_room = [&](auto write) {
    Status status = write();
    while (status.code() == Code::temporary && use_reserve(disk, files.exchange())) status = write();
    return status;
  };
  Status status = with_room([&] { return make_folders(disk, files.folder()); });
  if (!status.ok()) return status;
  auto lock = files.take();
  if (!lock) return lock.status();
  if (files.exists()) return {};  // another process was faster
  ordered_json const settings = {{"optional", optional}, {"from", from}, {"created", format_rfc3339(clock.now())}};
  return with_room([&]() -> Status {
    if (Status written = replace_file(disk, files.settings(), settings.dump() + "\n"); !written.ok()) return written;
    auto ledger = Ledger::open(disk, clock, files.state(), files.letters(), *identity, first);
    if (!ledger) return ledger.status();
    return (*ledger)->save();
  });
}

Result<std::unique_ptr<Ledger>> open_ledger(Disk& disk, Clock& clock, SubscriberFiles const& files) {
  auto identity = exchange_identity(files.exchange());
  if (!identity) return identity.status();
  auto ledger = Ledger::open(disk, clock, files.state(), files.letters(), *identity, 0);
  if (ledger) (*ledger)->on_full([&disk, exchange = files.exchange()] { return use_reserve(disk, exchange); });
  return ledger;
}

Result<std::vector<Subscriber>> list_subscribers(Clock& clock, std::string const& exchange) {
  auto span = journal_span(exchange);
  if (!span) return span.status();
  auto names = subscriber_names(exchange);
  if (!names) return names.status();
  std::vector<Subscriber> subscribers;
  for (std::string const& name : *names) {
    SubscriberFiles const files(exchange, name);
    if (!files.exists()) continue;
    auto view = view_ledger(files.state());
    if (!view && !files.exists()) continue;  // it was just removed
    if (!view) return view.status();
    Subscriber subscriber;
    subscriber.name = name;
    subscriber.cursor = view->cursor;
    subscriber.behind = span->end - std::min(span->end, view->cursor + view->settled.count());
    subscriber.optional = read_settings(files).optional;
    subscriber.note = view->note;
    auto letters = DeadLetters::view(files.letters());
    if (!letters) return letters.status();
    subscriber.dead = letters->open_count();
    // A letter that is being replayed holds its event; what else the journal keeps no more is lost.
    Ranges lost = read_holes(files);
    for (auto const& [position, entry] : letters->entries()) view->settled.add(position, position);
    for (std::uint64_t p = view->settled.next_missing(view->cursor); p < span->first;
         p = view->settled.next_missing(p)) {
      auto const next = view->settled.map().upper_bound(p);
      std::uint64_t const end = next == view->settled.map().end() ? span->first : std::min(span->first, next->first);
      lost.add(p, end - 1);
      p = end;
    }
    subscriber.lost = lost.count();
    subscriber.running = lock_held(files.lock());
    if (subscriber.behind > 0) {
      auto reader = JournalReader::open(exchange, view->settled.next_missing(std::max(view->cursor, span->first)));
      if (reader) {
        auto event = reader->next();
        if (event && *event) subscriber.lag = std::max(Duration::zero(), clock.now() - (*event)->committed);
      }
    }
    subscribers.push_back(std::move(subscriber));
  }
  return subscribers;
}

Status remove_subscriber(Disk& disk, SubscriberFiles const& files) {
  if (Status status = check_subscriber_name(files.name()); !status.ok()) return status;
  if (!files.exists()) return Status::usage(fmt::format("{} has no subscriber {}", files.exchange(), files.name()));
  auto lock = files.take();
  if (!lock) return lock.status();
  // The state last: as long as it stands there is a subscriber, and removing it again finishes what a crash cut short.
  for (std::string const& path : {files.letters(), files.replays(), files.holes(), files.settings(), files.state(),
                                  files.run_lock(), files.lock()}) {
    if (Status status = disk.remove(path); !status.ok()) return status;
  }
  auto rest = list_folder(files.folder());
  if (rest) {
    for (std::string const& name : *rest) (void)disk.remove(join(files.folder(), name));
  }
  if (::rmdir(files.folder().c_str()) != 0) return Status::from_errno(files.folder(), errno);
  return disk.sync_folder(parent_folder(files.folder()));
}

Status keep_reserve(Disk& disk, std::string const& exchange) {
  std::string const path = reserve_path(exchange);
  auto fd = disk.open(path, O_RDWR | O_CREAT);
  if (!fd) return fd.status();
  auto const size = file_size(fd->get(), path);
  if (!size) return size.status();
  if (*size >= kReserve) return {};
  Status const full = Status::temporary(
      fmt::format("{}: no room on the disk but for cursors and dead letters: {}", exchange, std::strerror(ENOSPC)));
  // Asked first, so that trying does not take what a subscriber is about to need.
  struct statvfs room {};
  if (::fstatvfs(fd->get(), &room) == 0 && room.f_blocks > 0 &&
      std::uint64_t{room.f_bavail} * room.f_frsize < kReserve - *size + kReservePart) {
    return full;
  }
  int const error = ::posix_fallocate(fd->get(), 0, static_cast<off_t>(kReserve));
  if (error == 0) return {};
  (void)disk.truncate(fd->get(), *size, path);
  return error == ENOSPC ? full : Status::from_errno(path, error);
}

bool use_reserve(Disk& disk, std::string const& exchange) {
  std::string const path = reserve_path(exchange);
  auto fd = disk.open(path, O_RDWR);
  if (!fd) return false;
  auto const size = file_size(fd->get(), path);
  if (!size || *size == 0) return false;
  return disk.truncate(fd->get(), *size - std::min(*size, kReservePart), path).ok();
}

Status maintain_exchange(Disk& disk, Clock& clock, std::string const& exchange) {
  auto info = journal_info(exchange);
  auto span = journal_span(exchange);
  auto names = subscriber_names(exchange);
  for (Status const& status : {info.status(), span.status(), names.status()}) {
    if (!status.ok()) return status;
  }
  std::uint64_t all = span->end, mandatory = span->end;
  bool any = false;
  for (std::string const& name : *names) {
    SubscriberFiles const files(exchange, name);
    auto view = view_ledger(files.state());
    if (!view) {
      if (files.exists()) return view.status();
      continue;
    }
    any = true;
    all = std::min(all, view->cursor);
    if (!read_settings(files).optional) mandatory = std::min(mandatory, view->cursor);
  }
  if (!any) all = mandatory = 0;  // whoever comes first is to find everything
  if (auto removed = journal_remove(disk, exchange, all, clock.now() - info->settings.keep); !removed)
    return removed.status();
  (void)keep_reserve(disk, exchange);  // whoever wants to append asks again
  std::uint64_t const limit = info->settings.max_disk;
  if (limit == 0) return {};
  span = journal_span(exchange);
  for (std::uint64_t const position : {all, mandatory}) {
    if (!span) return span.status();
    if (span->bytes <= limit) break;
    if (auto removed = journal_remove(disk, exchange, position, clock.now(), limit); !removed) return removed.status();
    span = journal_span(exchange);
  }
  if (!span) return span.status();
  if (static_cast<double>(span->bytes) <= 0.8 * static_cast<double>(limit)) return {};
  static std::optional<Duration> warned;  // once a minute is enough for everybody
  bool const full = span->bytes > limit, warn = !warned || clock.steady() - *warned > std::chrono::minutes(1);
  if (!full && !warn) return {};
  std::string const usage =
      fmt::format("{}: {} of max-disk {} used, {}", exchange, format_size(static_cast<double>(span->bytes)),
                  format_size(static_cast<double>(limit)), laggard(clock, exchange));
  if (full) return Status::temporary("full: " + usage);
  warned = clock.steady();
  say_warning(usage);
  return {};
}

Result<std::string> exchange_identity(std::string const& exchange) {
  auto info = journal_info(exchange);
  if (!info) return info.status();
  return "journal-" + info->id;
}

Status request_replays(Disk& disk, SubscriberFiles const& files,
                       std::map<std::uint64_t, DeadLetters::Entry> const& letters) {
  auto fd = lock_file(files.replays(), Lock::exclusive, true);
  if (!fd) return fd.status();
  auto size = file_size(fd->get(), files.replays());
  if (!size) return size.status();
  std::string lines(*size == 0 ? 0 : 1, '\n');  // ends what one that was killed left
  for (auto const& [position, entry] : letters) {
    lines += fmt::format("{{\"replay\":{},\"attempt\":{}}}\n", position, entry.attempt);
  }
  if (Status status = disk.write_at(fd->get(), lines, *size, files.replays()); !status.ok()) return status;
  if (Status status = disk.sync(fd->get(), files.replays()); !status.ok()) return status;
  return disk.sync_folder(files.folder());
}

// A request counts for the attempt that it names: one that was served, before a crash or after, is passed over.
Status JournalSource::merge_replays() {
  if (only_ || !exists(files_.replays())) return {};
  auto fd = lock_file(files_.replays(), Lock::exclusive, true);
  if (!fd) return fd.status();
  auto size = file_size(fd->get(), files_.replays());
  if (!size || *size <= merged_) return size.status();
  std::string text(*size - merged_, '\0');
  if (auto got = read_at(fd->get(), text.data(), text.size(), merged_, files_.replays()); !got) return got.status();
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    ordered_json const request = ordered_json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                                     text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!request.is_object()) continue;
    std::uint64_t const position = request.value("replay", UINT64_MAX);
    auto const known = ledger_.letters().entries().find(position);
    if (known == ledger_.letters().entries().end() ||
        known->second.attempt != request.value("attempt", std::uint64_t{0}))
      continue;
    ledger_.reopen(position);
  }
  bool const nothing_left = merged_ == 0 && ledger_.reopened().empty();
  merged_ += begin;
  if (!nothing_left) return {};
  merged_ = 0;
  return io_.disk.truncate(fd->get(), 0, files_.replays());
}

Result<std::unique_ptr<JournalSource>> JournalSource::open(Io& io, SubscriberFiles const& files, Ledger& ledger,
                                                           std::uint64_t limit,
                                                           std::map<std::uint64_t, DeadLetters::Entry> const* only) {
  auto identity = exchange_identity(files.exchange());
  if (!identity) return identity.status();
  if (Status status = journal_recover(io.disk, files.exchange()); !status.ok()) return status;
  auto watch = journal_watch(files.exchange());
  if (!watch) return watch.status();
  std::unique_ptr<JournalSource> source(new JournalSource(io, files, ledger));
  source->identity_ = *identity + "." + files.name();  // a sink's own state (a spool) is a subscriber's
  source->watch_ = std::move(*watch);
  source->optional_ = read_settings(files).optional;
  if (limit > 0) source->end_ = ledger.cursor() + limit;
  source->only_ = only != nullptr;
  if (only != nullptr) {
    for (auto const& [position, entry] : *only) ledger.reopen(position);
  }
  if (Status status = source->merge_replays(); !status.ok()) return status;
  (void)ledger.take_reopened();
  return source;
}

Result<std::unique_ptr<EventReader>> JournalSource::reader() {
  return std::unique_ptr<EventReader>(
      std::make_unique<JournalEvents>(files_, ledger_, optional_, skip_damage_, end_, bytes_read_, io_.clock, io_.disk));
}

void JournalSource::settled(std::uint64_t cursor) {
  bool const due = cursor > ledger_.saved_cursor() + kUnsaved || bytes_read_ > bytes_saved_ + kUnsavedBytes;
  if (!due || !saved_.ok()) return;
  saved_ = ledger_.save();
  bytes_saved_ = bytes_read_;
}

void JournalSource::clear_wait() {
  char buffer[4096];
  while (::read(watch_.get(), buffer, sizeof buffer) > 0) {
  }
}

Status JournalSource::tick() {
  if (!saved_.ok()) return std::exchange(saved_, Status{});
  if (Status status = merge_replays(); !status.ok()) return status;
  Duration const now = io_.clock.steady();
  if (maintained_ != Duration{} && now - maintained_ < std::chrono::minutes(1)) return {};
  maintained_ = now;
  Status const status = maintain_exchange(io_.disk, io_.clock, files_.exchange());
  if (!status.ok()) say_warning(status.what());  // not in our way: it is the publisher who waits
  return {};
}

}  // namespace inflight

#include "common/exchange.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/holes.h"
#include "common/messages.h"
#include "common/reserve.h"
#include "common/units.h"

namespace inflight {

namespace {

using nlohmann::ordered_json;

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

bool SubscriberFiles::optional() const {
  auto const text = read_file(settings());
  if (!text) return false;
  ordered_json const json = ordered_json::parse(*text, nullptr, false);
  return json.is_object() && json.value("optional", false);
}

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
  Status const status = with_reserve(disk, files.exchange(), [&] { return make_folders(disk, files.folder()); });
  if (!status.ok()) return status;
  auto lock = files.take();
  if (!lock) return lock.status();
  if (files.exists()) return {};  // another process was faster
  ordered_json const settings = {{"optional", optional}, {"from", from}, {"created", format_rfc3339(clock.now())}};
  return with_reserve(disk, files.exchange(), [&]() -> Status {
    if (Status written = replace_file(disk, files.settings(), settings.dump() + "\n"); !written.ok()) return written;
    auto ledger = Ledger::open(disk, clock, files.state(), files.letters(), *identity, first);
    if (!ledger) return ledger.status();
    (*ledger)->keep_reach();
    return (*ledger)->save();
  });
}

Status set_optional(Disk& disk, SubscriberFiles const& files, bool optional) {
  if (files.optional() == optional) return {};
  if (!optional) {
    auto const span = journal_span(files.exchange());
    auto const view = view_ledger(files.state());
    if (!span) return span.status();
    if (!view) return view.status();
    if (view->cursor < span->first) {
      return Status::usage(
          fmt::format("{}: events were removed that {} has not read: it must run until it has told what it lost",
                      files.exchange(), files.name()));
    }
  }
  auto const text = read_file(files.settings());
  if (!text) return text.status();
  ordered_json settings = ordered_json::parse(*text, nullptr, false);
  if (!settings.is_object()) return Status::defect(fmt::format("{}: not JSON", files.settings()));
  settings["optional"] = optional;
  return with_reserve(disk, files.exchange(),
                      [&] { return replace_file(disk, files.settings(), settings.dump() + "\n"); });
}

Result<std::unique_ptr<Ledger>> open_ledger(Disk& disk, Clock& clock, SubscriberFiles const& files) {
  auto identity = exchange_identity(files.exchange());
  if (!identity) return identity.status();
  auto names = list_folder(files.folder());
  if (!names) return names.status();
  for (std::string const& name : *names) {  // what a killed process left of a replacement
    if (!name.ends_with(".tmp")) continue;
    if (Status status = disk.remove(join(files.folder(), name)); !status.ok()) return status;
  }
  auto ledger = Ledger::open(disk, clock, files.state(), files.letters(), *identity, 0);
  if (!ledger) return ledger;
  (*ledger)->on_full([&disk, exchange = files.exchange()] { return use_reserve(disk, exchange); });
  (*ledger)->keep_reach();
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
    Subscriber subscriber;
    subscriber.name = name;
    if (!view) {  // where it stands nobody knows: as if it had settled nothing
      subscriber.note = view.status().what();
      view = LedgerView{};
      view->cursor = span->first;
    }
    subscriber.cursor = view->cursor;
    subscriber.behind = span->end - std::min(span->end, view->cursor + view->settled.count());
    subscriber.optional = files.optional();
    if (subscriber.note.empty()) subscriber.note = view->note;
    auto letters = DeadLetters::view(files.letters());
    if (!letters) return letters.status();
    subscriber.dead = letters->open_count();
    // A letter that is being replayed holds its event; what else the journal keeps no more is lost.
    Ranges lost = read_holes(files.holes());
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

Status maintain_exchange(Disk& disk, Clock& clock, std::string const& exchange) {
  auto info = journal_info(exchange);
  auto span = journal_span(exchange);
  auto names = subscriber_names(exchange);
  for (Status const& status : {info.status(), span.status(), names.status()}) {
    if (!status.ok()) return status;
  }
  std::uint64_t all = span->end, mandatory = span->end;
  bool any = false;
  std::string damaged;
  for (std::string const& name : *names) {
    SubscriberFiles const files(exchange, name);
    auto view = view_ledger(files.state());
    if (!view && !files.exists()) continue;
    if (!view) {  // one that is damaged stops nobody else; what it may still want stays
      damaged = view.status().what();
      view = LedgerView{};
    }
    any = true;
    all = std::min(all, view->cursor);
    if (!files.optional()) mandatory = std::min(mandatory, view->cursor);
  }
  if (!any) all = mandatory = 0;  // whoever comes first is to find everything
  if (auto removed = journal_remove(disk, exchange, all, clock.now() - info->settings.keep); !removed)
    return removed.status();
  (void)keep_reserve(disk, exchange);     // whoever wants to append asks again
  static std::optional<Duration> warned;  // once a minute is enough for everybody
  bool const warn = !warned || clock.steady() - *warned > std::chrono::minutes(1);
  if (!damaged.empty() && warn) {
    warned = clock.steady();
    say_warning(damaged);
  }
  std::uint64_t const limit = info->settings.max_disk;
  if (limit == 0) return {};
  span = journal_span(exchange);
  std::uint64_t const high = limit - limit / 5;  // what is settled goes from here on: it is not to be warned of
  for (auto const& [position, enough] : {std::pair(all, high), std::pair(mandatory, limit)}) {
    if (!span) return span.status();
    if (span->bytes <= enough) break;
    if (auto removed = journal_remove(disk, exchange, position, clock.now(), enough); !removed) return removed.status();
    span = journal_span(exchange);
  }
  if (!span) return span.status();
  if (span->bytes <= high) return {};
  bool const full = span->bytes > limit;
  if (!full && !warn) return {};
  std::string const usage =
      fmt::format("{}: {} of max-disk {} used, {}", exchange, format_size(static_cast<double>(span->bytes)),
                  format_size(static_cast<double>(limit)), laggard(clock, exchange));
  if (full) return Status::temporary("full: " + usage);
  warned = clock.steady();
  say_warning(usage);
  return {};
}

Result<SettingsChange> SettingsChange::parse(std::vector<std::string> const& words) {
  SettingsChange change;
  for (std::string const& word : words) {
    std::size_t const equals = word.find('=');
    std::string const name = word.substr(0, equals);
    std::string const value = equals == std::string::npos ? "" : word.substr(equals + 1);
    Status status;
    if (name == "keep") {
      auto duration = parse_duration(value);
      status = duration.status();
      if (duration) change.keep_ = *duration;
    } else if (name == "max-disk" || name == "segment") {
      auto size = parse_size(value);
      status = size.status();
      if (size) (name == "segment" ? change.segment_ : change.max_disk_) = *size;
    } else {
      status = Status::usage("one of keep=DURATION, max-disk=SIZE, segment=SIZE");
    }
    if (!status.ok()) return Status::usage(fmt::format("--set {}: {}", word, status.what()));
  }
  if (change.segment_ == 0) return Status::usage("--set: segment=0: a segment has a size");
  return change;
}

Status SettingsChange::apply(Disk& disk, std::string const& exchange) const {
  auto info = journal_create(disk, exchange);
  if (!info) return info.status();
  JournalSettings settings = info->settings;
  settings.keep = keep_.value_or(settings.keep);
  settings.max_disk = max_disk_.value_or(settings.max_disk);
  settings.segment_bytes = segment_.value_or(settings.segment_bytes);
  // Only whole segments are removed: one as large as the budget would leave no room behind it.
  if (std::uint64_t const most = std::max<std::uint64_t>(settings.max_disk / 4, 1);
      settings.max_disk != 0 && settings.segment_bytes > most) {
    if (segment_) {
      return Status::usage(
          fmt::format("--set: segment={}: at most a quarter of max-disk={}", *segment_, settings.max_disk));
    }
    settings.segment_bytes = most;
  }
  return journal_set(disk, exchange, settings);
}

Result<std::string> exchange_identity(std::string const& exchange) {
  auto info = journal_info(exchange);
  if (!info) return info.status();
  return "journal-" + info->id;
}

}  // namespace inflight

// The events of a journal for one subscriber (common/exchange.h): what was removed or is damaged passed over where that
// is wanted, letters that are replayed among them.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/exchange.h"
#include "common/holes.h"
#include "common/messages.h"

namespace inflight {
namespace {

class JournalEvents final : public EventReader {
 public:
  JournalEvents(SubscriberFiles const& files, Ledger const& ledger, bool optional, bool skip_damage, std::uint64_t end,
                Clock& clock, Disk& disk)
      : files_(files),
        ledger_(ledger),
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
      letter_ = {};  // a long one is not to stand beside the next
      auto read = ledger_.letters().read(letter->second);
      if (!read) return read.status();
      letter_ = std::move(*read);
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
      if (Status recorded = lose(damage->first, damage->end, damage->why); !recorded.ok()) return recorded;
      return read(damage->end, event);
    }
    if (!got) return got.status();
    if (!*got) return Got::none;
    event = {(*got)->position, (*got)->line, (*got)->committed};
    return event.position < end_ ? Got::event : Got::end;
  }

  void release() override {
    reader_.reset();
    letter_ = {};
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
    if (Status recorded = lose(wanted, kept, "removed while parked"); !recorded.ok()) return recorded;
    return kept;
  }

  // What is lost is recorded, listed, and can be filled from the archive.
  Status lose(std::uint64_t first, std::uint64_t end, std::string const& why) {
    auto const is_new = record_hole(disk_, files_.holes(), first, end, why, clock_.now());
    if (!is_new) return is_new.status();
    if (*is_new)
      say_error(fmt::format("{}: {} loses events {} to {}: {}", files_.exchange(), files_.name(), first, end - 1, why));
    return {};
  }

  SubscriberFiles files_;
  Ledger const& ledger_;
  DeadLetter letter_;
  bool optional_, skip_damage_;
  std::uint64_t end_;
  Clock& clock_;
  Disk& disk_;
  std::optional<JournalReader> reader_;
};

}  // namespace

Status JournalSource::merge_replays() {
  if (only_ || !replays_.pending()) return {};
  auto const span = journal_span(files_.exchange());
  if (!span) return span.status();
  return replays_.merge(io_.disk, ledger_, span->first);
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
  source->optional_ = files.optional();
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
      std::make_unique<JournalEvents>(files_, ledger_, optional_, skip_damage_, end_, io_.clock, io_.disk));
}

void JournalSource::clear_wait() {
  char buffer[4096];
  while (::read(watch_.get(), buffer, sizeof buffer) > 0) {
  }
}

Status JournalSource::tick() {
  if (Status status = merge_replays(); !status.ok()) return status;
  Duration const now = io_.clock.steady();
  if (maintained_ != Duration{} && now - maintained_ < std::chrono::minutes(1)) return {};
  maintained_ = now;
  Status const status = maintain_exchange(io_.disk, io_.clock, files_.exchange());
  if (!status.ok()) say_warning(status.what());  // not in our way: it is the publisher who waits
  return {};
}

}  // namespace inflight

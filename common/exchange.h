// The exchange: what `publish` fills and `consume` empties, each subscriber at its own pace.  Manual: man/exchange.7
//
// An exchange is named by a folder (the journal, embedded) or a URL (brokers: their place is open_exchange_name()). A
// subscriber is a folder in the journal: subscribers/NAME/ with its state, locks and dead letters.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/delivery.h"
#include "common/journal.h"
#include "common/ledger.h"
#include "common/replays.h"

namespace inflight {

// Code::usage for a name that no engine here serves (amqp://, pubsub://).
[[nodiscard]] Status check_exchange_name(std::string const& exchange);
// Code::usage for what is no subscriber's name, a path above all.
[[nodiscard]] Status check_subscriber_name(std::string const& name);

struct Subscriber {
  std::string name;
  std::uint64_t cursor = 0;
  std::uint64_t behind = 0;     // events unsettled
  std::optional<Duration> lag;  // age of the oldest of them
  std::uint64_t dead = 0;       // open dead letters
  std::uint64_t lost = 0;       // positions that were removed before it could read them (parked)
  bool optional = false;
  bool running = false;
  std::string note;  // why nothing moves
};

// The files of one subscriber.
class SubscriberFiles {
 public:
  SubscriberFiles(std::string exchange, std::string name);
  [[nodiscard]] std::string const& folder() const { return folder_; }
  [[nodiscard]] std::string state() const { return folder_ + "/state.json"; }
  [[nodiscard]] std::string settings() const { return folder_ + "/subscriber.json"; }
  [[nodiscard]] std::string lock() const { return folder_ + "/lock"; }
  [[nodiscard]] std::string run_lock() const { return folder_ + "/run.lock"; }
  [[nodiscard]] std::string letters() const { return folder_ + "/dead.ndjson"; }
  [[nodiscard]] std::string replays() const { return folder_ + "/replay.ndjson"; }
  [[nodiscard]] std::string holes() const { return folder_ + "/holes.ndjson"; }
  [[nodiscard]] bool exists() const;
  [[nodiscard]] bool optional() const;  // as its settings say
  [[nodiscard]] std::string const& exchange() const { return exchange_; }
  [[nodiscard]] std::string const& name() const { return name_; }
  // Held by whoever runs for this subscriber. Code::temporary names the process that has it.
  [[nodiscard]] Result<Fd> take() const;

 private:
  std::string exchange_, name_, folder_;
};

// Makes the subscriber where it is not there, its cursor at `from` (earliest, latest, a time, a position).
[[nodiscard]] Status register_subscriber(Disk& disk, Clock& clock, SubscriberFiles const& files,
                                         std::string const& from, bool optional);
// Lets one that is there be optional from now on, or not; it may run meanwhile. Code::usage where it is not to be
// optional any more, yet has still to come to a hole.
[[nodiscard]] Status set_optional(Disk& disk, SubscriberFiles const& files, bool optional);
// For who holds take().
[[nodiscard]] Result<std::unique_ptr<Ledger>> open_ledger(Disk& disk, Clock& clock, SubscriberFiles const& files);
[[nodiscard]] Result<std::vector<Subscriber>> list_subscribers(Clock& clock, std::string const& exchange);
// Ends a subscriber: its state and dead letters are gone.
[[nodiscard]] Status remove_subscriber(Disk& disk, SubscriberFiles const& files);

// Removes what every subscriber has settled and --keep has passed. From 80 % of --max-disk on: what is settled; above
// it: what only optional subscribers still want (they are parked). Code::temporary when the exchange is full all the
// same; says which subscriber lags when more than 80 % remain.
[[nodiscard]] Status maintain_exchange(Disk& disk, Clock& clock, std::string const& exchange);

// What `publish --set` changes: keep=DURATION, max-disk=SIZE, segment=SIZE.
class SettingsChange {
 public:
  // Code::usage names the word that is wrong.
  [[nodiscard]] static Result<SettingsChange> parse(std::vector<std::string> const& words);
  // Makes the exchange where it is not there. Code::usage where the settings do not go together.
  [[nodiscard]] Status apply(Disk& disk, std::string const& exchange) const;

 private:
  std::optional<Duration> keep_;
  std::optional<std::uint64_t> max_disk_, segment_;
};

// What positions belong to: the same for every reader, and when a line is started again.
[[nodiscard]] Result<std::string> exchange_identity(std::string const& exchange);

// The events of a journal for delivery.
class JournalSource final : public EventSource {
 public:
  // `limit`: at most so many new events. Replays that were asked for are merged into the ledger, now and as they come;
  // where `only` is given, these letters are, and no others.
  static Result<std::unique_ptr<JournalSource>> open(Io& io, SubscriberFiles const& files, Ledger& ledger,
                                                     std::uint64_t limit,
                                                     std::map<std::uint64_t, DeadLetters::Entry> const* only = nullptr);
  // No event from this position on.
  void end_at(std::uint64_t position) { end_ = position; }
  // Passes over damaged batches of the journal: what is lost is recorded. Without it damage ends the reading.
  void skip_damage() { skip_damage_ = true; }
  [[nodiscard]] std::string identity() const override { return identity_; }
  [[nodiscard]] Result<std::unique_ptr<EventReader>> reader() override;
  [[nodiscard]] int wait_fd() override { return watch_.get(); }
  void clear_wait() override;
  [[nodiscard]] Status tick() override;

 private:
  JournalSource(Io& io, SubscriberFiles files, Ledger& ledger)
      : io_(io), files_(std::move(files)), ledger_(ledger), replays_(files_.replays()) {}

  [[nodiscard]] Status merge_replays();

  Io& io_;
  SubscriberFiles files_;
  Ledger& ledger_;
  Replays replays_;
  std::string identity_;
  Fd watch_;
  std::uint64_t end_ = UINT64_MAX;  // --limit: no event from here on
  bool optional_ = false, skip_damage_ = false, only_ = false;
  Duration maintained_{};
};

}  // namespace inflight

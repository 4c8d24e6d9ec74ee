#include "common/delivery.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <unordered_set>

#include "common/fd_io.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/pipeline.h"
#include "common/record.h"
#include "common/retry.h"
#include "common/stop.h"

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t kBuffer = 256 << 10;
constexpr std::uint64_t kLettersInARow = 10;
constexpr std::uint64_t kFirstGroup = 16;
constexpr Duration kGiveUp = std::chrono::minutes(10);       // with --until-empty
constexpr Duration kStallWaiting = std::chrono::minutes(2);  // a stage that waits says so at least every minute

std::string make_token() {
  static constexpr char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::random_device random;
  std::string token = "k";
  for (int i = 0; i < 9; ++i) token += digits[random() % 36];
  return token;
}

std::string status_text(int status) {
  if (status > 128 && status < 128 + 32) {
    return fmt::format("exit {} (SIG{})", status, ::sigabbrev_np(status - 128));
  }
  return fmt::format("exit {}", status);
}

// The keys of events, for what must stay in order.
class Keys {
 public:
  std::string_view of(std::string_view line) {
    buffer_.assign(line);
    buffer_.resize(line.size() + kRecordPadding);
    if (!parser_.parse({buffer_.data(), line.size()}, record_).ok()) return {};
    return record_.partition_key(scratch_);
  }

 private:
  RecordParser parser_;
  Record record_;
  std::string buffer_, scratch_;
};

// What a run delivers.
struct Plan {
  enum class Kind { all, some, lone, vanished, probe };
  Kind kind = Kind::all;
  Ranges only;                  // some: these
  std::uint64_t limit = 0;      // at most so many events; 0: no limit
  std::uint64_t suspended = 0;  // probe: not this one
};

}  // namespace

// One copy of the pipeline and the events that are its.
class Lane {
 public:
  Lane(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options, std::uint64_t index)
      : io_(io),
        source_(source),
        ledger_(ledger),
        options_(options),
        index_(index),
        scan_(ledger.cursor()),
        high_(ledger.reached()) {
    if (!ledger.was_clean()) ramp_ = 1;  // it may be an event that takes us down: begin in small groups
  }

  // Only lane 0 takes over: at the start no other has a run.
  Status open() {
    auto reader = source_.reader();
    auto letters = source_.reader();
    if (!reader) return reader.status();
    if (!letters) return letters.status();
    reader_ = std::move(*reader);
    letter_reader_ = std::move(*letters);
    if (index_ == 0) {
      if (Status status = take_over(); !status.ok()) return status;
    }
    // What a killed run delivered behind an event that is unsettled now follows it again.
    return follow_again(unsettled_before(high_));
  }

  // Events below the cursor were taken back: this run ends, the next one passes over them.
  void begin_anew() {
    anew_ = true;
    high_ = std::max(high_, ledger_.reached());
    input_open_ = false;
    // What this run delivered of them before says nothing of their delivery to come.
    for (std::uint64_t const position : ledger_.reopened()) delivered_.remove(position, position);
  }

  void add_fds(std::vector<pollfd>& fds) const {
    if (!run_) return;
    if (run_->input() >= 0 && pending_at_ < pending_.size()) fds.push_back({run_->input(), POLLOUT, 0});
    if (run_->channel() >= 0 && !channel_ended_) fds.push_back({run_->channel(), POLLIN, 0});
    if (run_->errors() >= 0) fds.push_back({run_->errors(), POLLIN, 0});
  }

  // Does what can be done without waiting.
  Status step(bool winding_up) {
    Duration const now = io_.clock.steady();
    if (run_) {
      if (Status status = listen(); !status.ok()) return status;
      if (Status status = feed(); !status.ok()) return status;
      forget_settled();
      if (input_open_) decide_end(winding_up);
      guard(winding_up);
      if (!input_open_ && pending_at_ == pending_.size()) run_->close_input();
      bool const quiet = channel_ended_ || run_->channel() < 0;
      if (quiet || killed_at_ || now - last_gone_check_ > milliseconds(100)) {
        last_gone_check_ = now;
        if (run_->gone()) return finish();
        if (run_->leader_ended()) input_open_ = false;  // a killed shell's stages go on: let them come to their end
        told_lingering();
      }
      return {};
    }
    if (winding_up || now < not_before_) return {};
    return start();
  }

  [[nodiscard]] bool running() const { return run_.has_value(); }
  [[nodiscard]] bool exhausted() const { return at_end_ && !run_ && !work_left(); }
  [[nodiscard]] bool waiting_for_source() const { return at_end_; }
  [[nodiscard]] bool source_ended() const { return source_ended_; }
  [[nodiscard]] std::optional<Exit> verdict() const { return verdict_; }
  [[nodiscard]] std::optional<Time> oldest() {
    while (arrivals_.size() > 1 && arrivals_[1].first <= ledger_.cursor()) arrivals_.pop_front();
    if (arrivals_.empty() || ledger_.cursor() >= high_) return std::nullopt;
    return arrivals_.front().second;
  }

 private:
  // ---- starting

  std::string lock_path() const {
    return options_.run_lock.empty() ? ""
           : options_.jobs > 1       ? fmt::format("{}.{}", options_.run_lock, index_)
                                     : options_.run_lock;
  }

  // Two runs never write side by side: those of a killed process before us must be gone, whatever its --jobs.
  Status take_over() {
    if (options_.run_lock.empty() || index_ > 0) return {};
    auto names = list_folder(parent_folder(options_.run_lock));
    if (!names) return names.status();
    std::string const base = options_.run_lock.substr(options_.run_lock.rfind('/') + 1);
    for (std::string const& name : *names) {
      if (!name.starts_with(base)) continue;
      if (Status status = take_over(join(parent_folder(options_.run_lock), name)); !status.ok()) return status;
    }
    return {};
  }

  Status take_over(std::string const& path) {
    Duration const begin = io_.clock.steady();
    int signals = 0;
    while (run_alive(path)) {
      Duration const waited = io_.clock.steady() - begin;
      if (stopping()) return {Code::stopped, "stopped"};
      if (waited > options_.takeover * (signals + 1)) {
        std::string who;
        for (std::string const& process : who_runs(path)) who += (who.empty() ? "" : ", ") + process;
        if (signals == 2)
          return Status::temporary(fmt::format("the pipeline of a run before is still at work: {}", who));
        say_warning(fmt::format("the pipeline of a run before is still at work after {}: {}; ending it",
                                format_duration(options_.takeover), who));
        (void)signal_run(path, signals == 0 ? SIGTERM : SIGKILL);
        ++signals;
      }
      pollfd stop{stop_fd(), POLLIN, 0};
      ::poll(&stop, 1, 20);
    }
    return {};
  }

  bool work_left() const { return ledger_.next_unsettled(0) < high_; }

  // The plan of the next run; nothing where there is nothing to deliver now.
  Result<std::optional<Plan>> plan() {
    Plan plan;
    prune(vanished_);
    prune(suspects_);
    if (suspects_.count() == 1) {
      std::uint64_t const position = suspects_.map().begin()->first;
      if (probe_next_) {
        probe_next_ = false;
        plan.kind = Plan::Kind::probe;
        plan.limit = 1;
        plan.suspended = position;
        auto next = find(plan, std::max(probed_, ledger_.cursor()));
        if (!next) return next.status();
        if (!*next || **next >= ledger_.cursor() + options_.window) {
          probe_step_ = 1;
          probed_all_ = true;
          next = find(plan, ledger_.cursor());
          if (!next) return next.status();
        }
        if (*next && **next < ledger_.cursor() + options_.window) {
          // Ever farther away: bad ones may stand next to each other.
          scan_ = **next;
          probed_ = **next + probe_step_;
          probe_step_ *= 2;
          return std::optional(plan);
        }
      }
      plan = {};
      plan.kind = Plan::Kind::lone;
      plan.only.add(position, position);
      return std::optional(plan);
    }
    if (!suspects_.empty()) {
      // Stages keep the order, so it is likely the first or soon after: that one, then larger groups, halves of one
      // that fails.
      plan.kind = Plan::Kind::some;
      std::uint64_t wanted = std::min(group_, group_ > kFirstGroup ? suspects_.count() : (suspects_.count() + 1) / 2);
      for (auto const& [first, last] : suspects_.map()) {
        std::uint64_t const take = std::min(wanted, last - first + 1);
        if (take == 0) break;
        plan.only.add(first, first + take - 1);
        wanted -= take;
      }
      return std::optional(plan);
    }
    if (!vanished_.empty()) {
      plan.kind = Plan::Kind::vanished;
      if (vanished_together_ && vanished_.count() > 1) {
        // A stage that was killed unseen has swallowed many at once.
        plan.only = vanished_;
        return std::optional(plan);
      }
      std::uint64_t const position = vanished_.map().begin()->first;
      plan.only.add(position, position);
      return std::optional(plan);
    }
    plan.limit = ramp_;
    auto next = find(plan, ledger_.cursor());
    if (!next) return next.status();
    if (*next && **next >= ledger_.cursor() + options_.window) return std::optional<Plan>();  // another copy's turn
    if (!*next && (started_once_ || options_.until_empty || source_ended_)) return std::optional<Plan>();
    return std::optional(plan);
  }

  void prune(Ranges& ranges) const {
    std::vector<std::uint64_t> gone;
    for (auto const& [first, last] : ranges.map()) {
      for (std::uint64_t p = first; p <= last; ++p) {
        if (ledger_.settled(p)) gone.push_back(p);
      }
    }
    for (std::uint64_t const p : gone) ranges.remove(p, p);
  }

  // The next position from `from` on that the plan delivers and whose event is there.
  Result<std::optional<std::uint64_t>> find(Plan const& plan, std::uint64_t from) {
    EventReader::Event event;
    for (;;) {
      auto got = next_event(plan, from, event);
      if (!got) return got.status();
      if (*got != EventReader::Got::event) return std::optional<std::uint64_t>();
      return std::optional(event.position);
    }
  }

  // The next event from `from` on that is unsettled, ours, and of the plan.
  Result<EventReader::Got> next_event(Plan const& plan, std::uint64_t from, EventReader::Event& event) {
    using Got = EventReader::Got;
    for (std::uint64_t at = from;;) {
      at = ledger_.next_unsettled(at);
      if (plan.kind == Plan::Kind::some || plan.kind == Plan::Kind::lone || plan.kind == Plan::Kind::vanished) {
        auto range = plan.only.map().upper_bound(at);
        if (range != plan.only.map().begin() && std::prev(range)->second >= at) --range;
        if (range == plan.only.map().end()) return Got::end;
        if (range->first > at) {
          at = range->first;
          continue;
        }
      }
      auto got = reader_->read(at, event);
      if (!got) return got.status();
      at_end_ = *got != Got::event;
      source_ended_ = *got == Got::end;
      if (*got != Got::event) return *got;
      if (event.position > at) {
        ledger_.settle(at, event.position - 1);  // a hole: no such events
        at = event.position;
        continue;
      }
      bool const skip = (plan.kind == Plan::Kind::probe && event.position == plan.suspended) || !ours(event.line);
      if (!skip) return Got::event;
      ++at;
    }
  }

  bool ours(std::string_view line) { return options_.jobs <= 1 || ours_by_key(keys_.of(line)); }
  bool ours_by_key(std::string_view key) const {
    return options_.jobs <= 1 || std::hash<std::string_view>{}(key) % options_.jobs == index_;
  }

  Status start() {
    if (!damage_.ok()) return damage_;
    scan_ = ledger_.cursor();
    if (anew_) {
      anew_ = false;
      if (Status status = follow_again(unsettled_before(high_)); !status.ok()) return status;
    }
    auto planned = plan();
    if (!planned) return planned.status();
    if (!*planned) return {};
    plan_ = **planned;
    if (plan_.kind == Plan::Kind::lone) {
      auto& attempts = ledger_.attempts()[plan_.only.map().begin()->first];
      if (attempts.failures == 0) attempts.settled_before = settled_at_crash_;
      // What failed while nothing worked says nothing of this event.
      if (ledger_.settled_count() <= attempts.settled_before) attempts.failures = 0;
      ++attempts.failures;
      ledger_.set_note(ledger_note_);
      if (Status status = ledger_.save(); !status.ok()) return status;
    }
    delivered_.clear();
    held_.clear();
    pieces_.clear();
    votes_.clear();
    last_.clear();
    exits_.clear();
    pending_.clear();
    pending_at_ = 0;
    sinks_seen_ = 0;
    delivered_count_ = 0;
    channel_ended_ = plan_exhausted_ = false;
    settled_at_start_ = ledger_.settled_count();
    input_open_ = true;
    killed_why_.clear();
    killed_at_.reset();
    leader_ended_at_.reset();
    full_since_.reset();
    overtaken_.reset();
    token_ = make_token();
    auto run = Pipeline::start({options_.pipeline, lock_path(), options_.ack != "exit", token_, source_.identity()});
    if (!run) return run.status();
    if (started_once_) ++counters().restarts;
    started_once_ = true;
    run_.emplace(std::move(*run));
    run_began_ = last_line_ = last_fed_ = io_.clock.steady();
    return {};
  }

  // ---- a run

  // Fills the buffer with events while the input is open, and writes what the pipe takes: whole lines in the end.
  Status feed() {
    using Got = EventReader::Got;
    if (run_->input() < 0) return {};
    if (input_open_) at_end_ = window_full_ = false;
    for (;;) {
      if (pending_at_ == pending_.size()) {
        pending_.clear();
        pending_at_ = 0;
      }
      if (input_open_ && pending_.size() < kBuffer / 2) {
        EventReader::Event event;
        while (pending_.size() < kBuffer && !plan_done()) {
          std::uint64_t const next = ledger_.next_unsettled(scan_);
          if (next >= ledger_.cursor() + options_.window) {
            window_full_ = true;
            break;
          }
          auto got = next_event(plan_, scan_, event);
          if (!got) {
            input_open_ = false;  // what was delivered is settled first
            damage_ = got.status();
            break;
          }
          if (*got != Got::event) {
            plan_exhausted_ = *got == Got::end && plan_.kind != Plan::Kind::all;
            break;
          }
          append(event);
        }
      }
      if (pending_at_ == pending_.size()) return {};
      auto wrote = run_->write(std::string_view(pending_).substr(pending_at_));
      if (!wrote) {
        pending_.clear();  // the first stage has ended; its exit status says why
        pending_at_ = 0;
        input_open_ = false;
        return {};
      }
      if (*wrote == 0) return {};
      pending_at_ += *wrote;
      last_fed_ = io_.clock.steady();
    }
  }

  bool plan_done() const {
    if (plan_.limit != 0 && delivered_count_ >= plan_.limit) return true;
    return !plan_.only.empty() && scan_ > std::prev(plan_.only.map().end())->second;
  }

  void append(EventReader::Event const& event) {
    if (options_.ack == "exit") {
      pending_.append(event.line);
    } else {
      fmt::format_to(std::back_inserter(pending_), "{{\"delivery\":\"{}:{}\"", token_, event.position);
      if (event.line.size() > 2) pending_ += ',';
      pending_.append(event.line.substr(1));
    }
    pending_ += '\n';
    delivered_.add(event.position, event.position);
    ++delivered_count_;
    scan_ = event.position + 1;
    high_ = std::max(high_, scan_);
    if (arrivals_.empty() || (arrivals_.back().second != event.time && event.position > arrivals_.back().first)) {
      arrivals_.emplace_back(event.position, event.time);
    }
    ++counters().records;
    counters().bytes += event.line.size();
  }

  Status listen() {
    run_->read_errors();
    if (run_->channel() < 0 || channel_ended_) return {};
    std::string lines;
    while (run_->read_channel(lines, channel_ended_) && !channel_ended_ && lines.size() < kBuffer) {
    }
    if (lines.empty()) return {};
    last_line_ = io_.clock.steady();
    std::size_t const size = lines.size();
    lines.resize(size + kRecordPadding);
    std::uint64_t const before = ledger_.settled_count();
    for (std::size_t begin = 0; begin < size;) {
      std::size_t const end = lines.find('\n', begin);
      if (Status status = hear({lines.data() + begin, end - begin}); !status.ok()) return status;
      begin = end + 1;
    }
    if (Status status = write_letters(); !status.ok()) return status;
    std::uint64_t const settled = ledger_.settled_count() - before;
    counters().settled += settled;
    if (settled > 0) {
      ledger_note_.clear();
      ledger_.set_note("");
      waiting_since_.reset();
    }
    return {};
  }

  // A line of the channel.
  Status hear(std::string_view line) {
    if (!parser_.parse(line, heard_).ok()) return {};  // not ours: a stage may write anything anywhere
    std::string scratch;
    if (Value const sink = heard_.attribute("sink")) {
      if (++sinks_seen_ > options_.sinks) {
        end(Exit::usage,
            fmt::format("the pipeline has more than {} sink{}: the receipt of one would speak for the other (--sinks)",
                        options_.sinks, options_.sinks == 1 ? "" : "s"));
      }
      return {};
    }
    if (heard_.attribute("waiting")) {
      if (!waiting_since_) waiting_since_ = io_.clock.steady();
      ledger_note_ = fmt::format("waiting: {}", heard_.text("waiting", scratch));
      ledger_.set_note(ledger_note_);
      return {};
    }
    if (Value const code = heard_.attribute("exit")) {
      exits_.insert(static_cast<int>(std::strtol(std::string(code.raw).c_str(), nullptr, 10)));
      input_open_ = false;  // a stage is gone, so the rest will not arrive
      return {};
    }
    std::string_view delivery = heard_.text("delivery", scratch);
    if (!delivery.starts_with(token_) || delivery.size() <= token_.size() || delivery[token_.size()] != ':') return {};
    delivery.remove_prefix(token_.size() + 1);
    positions_.clear();
    if (!parse_positions(delivery, positions_)) return {};
    std::string status_scratch, by_scratch;
    std::string_view const status = heard_.text("status", status_scratch);
    std::string_view const by = heard_.text("by", by_scratch);
    if (status == "stored" || status == "dropped") {
      for (Position const& position : positions_) stored(position, by);
    } else if (status == "last") {
      last_.emplace_back(std::string(delivery), std::string(by));
    } else if (status == "held") {
      for (Position const& position : positions_) held_.add(position.first, position.last);
    } else if (status == "rejected") {
      std::string reason_scratch;
      std::string const reason(heard_.text("reason", reason_scratch));
      std::string stage(by.substr(0, by.find('[')));
      auto const rejected = positions_;
      for (Position const& position : rejected) {
        for (std::uint64_t p = position.first; p <= position.last; ++p) {
          if (Status written = dead(p, stage, reason); !written.ok()) return written;
        }
      }
    }
    return {};
  }

  void stored(Position const& position, std::string_view by) {
    if (options_.sinks > 1) {
      // Each sink has a vote; an event is settled with all of them.
      for (std::uint64_t p = position.first; p <= position.last; ++p) {
        if (!delivered_.contains(p)) continue;
        auto& votes = votes_[p];
        if (position.pieces.empty() || votes.pieces[std::string(by)].add(position.pieces)) votes.by.emplace(by);
        if (votes.by.size() >= options_.sinks) ledger_.settle(p, p);
      }
      return;
    }
    if (!position.pieces.empty()) {
      if (delivered_.contains(position.first) && pieces_[position.first].add(position.pieces)) {
        ledger_.settle(position.first, position.first);
        pieces_.erase(position.first);
      }
      return;
    }
    // Only what was delivered in this run: a stage may say anything.
    auto range = delivered_.map().upper_bound(position.first);
    if (range != delivered_.map().begin()) --range;
    for (; range != delivered_.map().end() && range->first <= position.last; ++range) {
      std::uint64_t const first = std::max(range->first, position.first);
      std::uint64_t const last = std::min(range->second, position.last);
      if (first <= last) ledger_.settle(first, last);
    }
  }

  // Collects letters; write_letters() makes them durable and only then settles.
  Status dead(std::uint64_t position, std::string const& by, std::string const& reason) {
    if (ledger_.settled(position) || !delivered_.contains(position)) return {};
    for (DeadLetter const& letter : letters_) {
      if (letter.position == position) return {};
    }
    EventReader::Event event;
    auto got = letter_reader_->read(position, event);
    if (!got) return got.status();
    if (*got != EventReader::Got::event || event.position != position) {
      return Status::defect(fmt::format("event {} is gone from the source before it was settled", position));
    }
    letters_bytes_ += event.line.size();
    letters_.push_back(
        {position, ledger_.next_attempt(position), io_.clock.now(), by, reason, std::string(event.line)});
    return letters_.size() >= 1000 || letters_bytes_ > (4 << 20) ? write_letters() : Status{};
  }

  Status write_letters() {
    if (letters_.empty()) return {};
    if (Status status = ledger_.dead(letters_); !status.ok()) return status;
    counters().rejected += letters_.size();
    letters_.clear();
    letters_bytes_ = 0;
    return {};
  }

  // Whether it is time to end the pipeline's input. What is buffered in stages then comes out, and is receipted.
  void decide_end(bool winding_up) {
    Duration const now = io_.clock.steady();
    if (pending_at_ < pending_.size() && !winding_up) return;
    bool end = winding_up || plan_done() || plan_exhausted_;
    if (at_end_ && (options_.until_empty || source_ended_)) end = true;
    if (!end && now - last_decided_ < milliseconds(20)) return;
    last_decided_ = now;
    std::optional<std::uint64_t> const open = first_open();
    bool const outstanding = open.has_value();
    if (options_.ack == "exit") {
      if (delivered_count_ > 0) {
        end = end || window_full_ || (at_end_ && now - last_fed_ > seconds(1)) || now - run_began_ > options_.settle;
      }
    } else {
      bool const overtaken = outstanding && ledger_.reached() > *open + 1;
      if (!overtaken) {
        overtaken_.reset();
      } else if (!overtaken_ || overtaken_->first != *open) {
        overtaken_ = {*open, now};
      }
      if (overtaken && scan_ - ledger_.cursor() >= options_.window / 2) end = true;
      if (overtaken && now - overtaken_->second > options_.settle) end = true;
      // The newest event is receipted when another one follows it, or at the end.
      if (outstanding && at_end_ && now - last_fed_ > options_.settle && now - last_line_ > options_.settle &&
          !waiting_since_)
        end = true;
      if (!window_full_ || !any_unsettled()) {
        full_since_.reset();
      } else if (!full_since_) {
        full_since_ = now;
      } else if (now - *full_since_ > seconds(1) && now - last_line_ > seconds(1)) {
        end = true;
      }
    }
    if (end) input_open_ = false;
  }

  // The lowest event of this run that is unsettled and that nobody holds.
  std::optional<std::uint64_t> first_open() const {
    for (auto const& [first, last] : delivered_.map()) {
      for (std::uint64_t p = ledger_.next_unsettled(first); p <= last; p = ledger_.next_unsettled(p)) {
        std::uint64_t const unheld = held_.next_missing(p);
        if (unheld == p) return p;
        p = unheld;
      }
    }
    return std::nullopt;
  }

  // Held ones as well.
  bool any_unsettled() const {
    return std::any_of(delivered_.map().begin(), delivered_.map().end(),
                       [this](auto const& range) { return ledger_.next_unsettled(range.first) <= range.second; });
  }

  // Ends a run that does not move.
  void guard(bool winding_up) {
    Duration const now = io_.clock.steady();
    if (winding_up && !winding_since_) winding_since_ = now;
    if (killed_at_) {
      if (now - *killed_at_ > seconds(5)) run_->signal_group(SIGKILL);
      return;
    }
    Duration const stall = waiting_since_ ? std::max(options_.stall, kStallWaiting) : options_.stall;
    if (now - std::max(last_line_, last_fed_) > stall) {
      bool const outstanding = options_.ack == "exit" ? delivered_count_ > 0 : first_open().has_value();
      if (outstanding || !input_open_) kill(fmt::format("no receipt for {}", format_duration(options_.stall)));
    }
    if (winding_up && now - std::max({last_line_, last_fed_, *winding_since_}) > options_.takeover) {
      kill(fmt::format("stopped, and the pipeline did not drain in {}", format_duration(options_.takeover)));
    }
    if (options_.until_empty && waiting_since_ && now - *waiting_since_ > kGiveUp) {
      end(Exit::temporary, fmt::format("gave up: {}", ledger_note_));
    }
  }

  void kill(std::string why) {
    killed_why_ = std::move(why);
    killed_at_ = io_.clock.steady();
    input_open_ = false;
    pending_.clear();
    pending_at_ = 0;
    run_->signal_group(SIGTERM);
  }

  void end(Exit exit, std::string const& why) {
    if (verdict_) return;
    say_error(why);
    verdict_ = exit;
    if (run_) kill(why);
  }

  // The shell has ended but something it started has not.
  void told_lingering() {
    if (!run_->leader_ended()) return;
    Duration const now = io_.clock.steady();
    if (!leader_ended_at_) leader_ended_at_ = now;
    if (now - *leader_ended_at_ < options_.takeover) return;
    std::string who;
    for (std::string const& process : run_->holders()) who += (who.empty() ? "" : ", ") + process;
    say_warning(fmt::format("processes outlive their pipeline: {}; ending them", who.empty() ? "(unnamed)" : who));
    run_->signal_group(SIGKILL);
    leader_ended_at_ = now;
  }

  // What is below the cursor needs no more to be known of a run.
  void forget_settled() {
    std::uint64_t const cursor = ledger_.cursor();
    if (cursor == forgotten_) return;
    forgotten_ = cursor;
    delivered_.remove_below(cursor);
    held_.remove_below(cursor);
    pieces_.erase(pieces_.begin(), pieces_.lower_bound(cursor));
    votes_.erase(votes_.begin(), votes_.lower_bound(cursor));
  }

  // ---- ends

  Status finish() {
    // Every writer is gone: what they said is in the channel, to its end.
    do {
      last_line_ = {};
      if (Status status = listen(); !status.ok()) return status;
    } while (!channel_ended_ && last_line_ != Duration{});
    int const status = run_->status();
    std::string const errors = run_->last_errors();
    run_.reset();
    if (verdict_) return requeue();
    auto any = [&](int code) { return status == code || exits_.contains(code); };
    bool const clean = status == 0 && killed_why_.empty() &&
                       std::all_of(exits_.begin(), exits_.end(), [](int code) { return code == 0; });
    bool const lone = plan_.kind == Plan::Kind::lone;
    if (clean) return finish_clean(errors);
    bool const moved = ledger_.settled_count() > settled_at_start_;
    if (moved) {
      worked_ = true;
      failing_since_.reset();
    }
    // Whoever calls a foreign program wrongly does so from the first event on.
    bool const usage = exits_.contains(2) || (!worked_ && (status == 2 || status == 126 || status == 127));
    if (lone && (any(75) || usage || stopping())) {
      auto const attempts = ledger_.attempts().find(plan_.only.map().begin()->first);
      if (attempts != ledger_.attempts().end() && attempts->second.failures > 0) --attempts->second.failures;
    }
    if (stopping()) return requeue();  // whoever stops us may have stopped the stages as well
    if (any(75)) {
      if (moved) temporary_.reset();
      Duration const wait = std::max<Duration>(temporary_.next(), milliseconds(100));
      note(fmt::format("exit 75: {}", errors));
      if (options_.until_empty) {
        end(Exit::temporary, "the pipeline failed for now (exit 75)");
      } else {
        say_warning(fmt::format("the pipeline failed for now (exit 75), again in {}", format_duration(round_ms(wait))));
      }
      not_before_ = io_.clock.steady() + wait;
      return requeue();
    }
    if (usage) {
      int const code = status == 126 || status == 127 ? status : 2;
      end(Exit::usage, fmt::format("the pipeline is called wrongly ({}); nothing is lost, mend it and start again",
                                   status_text(code)));
      return requeue();
    }
    return finish_crashed(status, errors);
  }

  Status finish_clean(std::string const& errors) {
    for (auto const& [text, by] : last_) {
      positions_.clear();
      (void)parse_positions(text, positions_);
      for (Position const& position : positions_) stored(position, by);
    }
    if (options_.ack == "exit") {
      for (auto const& [first, last] : delivered_.map()) ledger_.settle(first, last);
    }
    // Decided, though an older event of its key that is still to come takes it back below.
    prune(vanished_);
    prune(suspects_);
    Ranges const open = unsettled();
    if (!open.empty() && sinks_seen_ == 0) {
      end(Exit::usage, "no sink of the pipeline sends receipts: for a foreign one say --ack exit");
      return requeue();
    }
    bool const together = plan_.only.count() > 1;
    if (plan_.kind == Plan::Kind::vanished && together) vanished_together_ = open.count() < delivered_count_;
    if (plan_.kind == Plan::Kind::vanished && !together && !open.empty()) {
      std::string reason = "vanished: no stage said what became of it";
      if (!errors.empty()) reason += ": " + errors;
      if (Status status = dead(open.map().begin()->first, "pipeline", reason); !status.ok()) return status;
      if (Status status = write_letters(); !status.ok()) return status;
    } else if (!open.empty() && plan_.kind != Plan::Kind::vanished) {
      vanished_together_ = true;
      if (vanished_.empty()) settled_at_crash_ = settled_at_start_;
      for (auto const& [first, last] : open.map()) {
        vanished_.add(first, last);
        suspects_.remove(first, last);
      }
    }
    if (ledger_.settled_count() > settled_at_start_) worked();
    if (plan_.kind == Plan::Kind::lone) suspects_.clear();
    if (plan_.kind == Plan::Kind::probe) {
      probed_ = scan_;  // a good place for the next one
      probe_step_ = 1;
      probed_all_ = false;
    }
    if (plan_.kind == Plan::Kind::some) group_ *= kFirstGroup;
    if (ramp_ != 0) ramp_ = ramp_ >= 4096 ? 0 : ramp_ * 4;
    return requeue();
  }

  void worked() {
    worked_ = true;
    temporary_.reset();
    failing_.reset();
    note("");
  }

  Status finish_crashed(int status, std::string const& errors) {
    std::string const how = killed_why_.empty() ? status_text(status) : killed_why_;
    std::string const why = errors.empty() ? how : how + ": " + errors;
    Ranges const open = unsettled();
    bool const moved = open.count() < delivered_count_;
    note(fmt::format("the pipeline failed: {}", why));
    if (!failing_since_) failing_since_ = io_.clock.steady();
    if (options_.until_empty && io_.clock.steady() - *failing_since_ > kGiveUp) {
      end(Exit::temporary, "gave up: " + ledger_note_);
      return requeue();
    }
    Duration wait{};
    if (plan_.kind == Plan::Kind::probe) {
      // Another event fails as well: the pipeline is at fault, until it has worked. Others are tried, first in quick
      // succession.
      probe_next_ = !probed_all_;
      wait = probed_all_ ? failing_.next() : milliseconds(20);
      if (probed_all_ && failing_.attempts() % 8 == 1) {
        say_warning(
            fmt::format("the pipeline fails for every event ({}); nothing is dead-lettered, it is tried again", why));
      }
    } else if (delivered_count_ == 0) {
      wait = std::max<Duration>(failing_.next(), milliseconds(50));
      say_warning(fmt::format("the pipeline ended: {}", why));
    } else if (plan_.kind == Plan::Kind::lone && !open.empty()) {
      std::uint64_t const position = open.map().begin()->first;
      auto const attempts = ledger_.attempts()[position];
      bool const others_worked = ledger_.settled_count() > attempts.settled_before;
      if (attempts.failures >= options_.max_deliveries && others_worked) {
        if (Status written = dead(position, "pipeline",
                                  fmt::format("brought the pipeline down alone {} times: {}", attempts.failures, why));
            !written.ok()) {
          return written;
        }
        if (Status written = write_letters(); !written.ok()) return written;
        suspects_.clear();
        count_letter(position);
      } else {
        // Where others work the event is the suspect, and an ordinary exit status will not change by waiting.
        probe_next_ = !others_worked;
        if (!others_worked || status >= 128)
          wait = std::min<Duration>(failing_.next(), others_worked ? milliseconds(200) : seconds(30));
      }
    } else if (plan_.kind == Plan::Kind::vanished) {
      // Alone it is not swallowed but brings the pipeline down (jq's last input decides its status).
      suspects_ = open;
      for (auto const& [first, last] : open.map()) vanished_.remove(first, last);
    } else {
      if (suspects_.empty()) settled_at_crash_ = ledger_.settled_count();
      suspects_ = open;
      group_ = plan_.kind == Plan::Kind::some ? kFirstGroup : 1;
      if (plan_.kind == Plan::Kind::all) {
        say_warning(fmt::format("the pipeline ended: {}; {} events are delivered again", why, open.count()));
      }
      if (!moved && plan_.kind == Plan::Kind::all) wait = failing_.next();
    }
    if (moved && plan_.kind != Plan::Kind::lone) failing_.reset();
    not_before_ = io_.clock.steady() + wait;
    return requeue();
  }

  // One event behind the other that brings the pipeline down, with none between that it can process.
  void count_letter(std::uint64_t position) {
    letters_in_a_row_ = letters_in_a_row_ > 0 && position == last_letter_ + 1 ? letters_in_a_row_ + 1 : 1;
    last_letter_ = position;
    if (letters_in_a_row_ < kLettersInARow) return;
    note(fmt::format("paused: {} events in a row brought the pipeline down; that is a deployment, not data",
                     letters_in_a_row_));
    end(Exit::temporary, ledger_note_);
  }

  Ranges unsettled_before(std::uint64_t end) const {
    Ranges open;
    for (std::uint64_t p = ledger_.next_unsettled(0); p < end; p = ledger_.next_unsettled(p + 1)) open.add(p, p);
    return open;
  }

  Ranges unsettled() const {
    Ranges open;
    for (auto const& [first, last] : delivered_.map()) {
      for (std::uint64_t p = ledger_.next_unsettled(first); p <= last; p = ledger_.next_unsettled(p + 1))
        open.add(p, p);
    }
    return open;
  }

  // Also events that this run did not deliver: a probe or a small group may have overtaken them.
  Status requeue() {
    return ledger_.settled_count() > settled_at_start_ ? follow_again(unsettled_before(high_)) : Status{};
  }

  // What follows `open` in the order of its keys and was delivered already must follow it again: an older version never
  // comes last. Durable before any of `open` is delivered again.
  Status follow_again(Ranges const& open) {
    if (open.empty() || ledger_.reached() <= open.map().begin()->first + 1) return {};
    std::unordered_set<std::string> keys;
    EventReader::Event event;
    bool changed = false;
    std::uint64_t const end = std::min(high_, ledger_.reached());
    for (std::uint64_t p = open.map().begin()->first; p < end;) {
      auto got = letter_reader_->read(p, event);
      if (!got) return got.status();
      if (*got != EventReader::Got::event || event.position >= end) break;
      p = event.position + 1;
      std::string_view const key = keys_.of(event.line);
      if (key.empty()) continue;
      if (!ledger_.settled(event.position)) {
        if (open.contains(event.position) && ours_by_key(key)) keys.emplace(key);
      } else if (keys.contains(std::string(key)) && !ledger_.has_open_letter(event.position)) {
        ledger_.unsettle(event.position);
        // Nothing is wrong with it: it waits until what it must follow is settled.
        suspects_.remove(event.position, event.position);
        vanished_.remove(event.position, event.position);
        changed = true;
      }
    }
    return changed ? ledger_.save() : Status{};
  }

  static Duration round_ms(Duration d) { return std::chrono::duration_cast<milliseconds>(d); }

  void note(std::string text) {
    ledger_note_ = std::move(text);
    ledger_.set_note(ledger_note_);
  }

  struct Votes {
    std::unordered_set<std::string> by;
    std::map<std::string, Pieces> pieces;
  };

  Io& io_;
  EventSource& source_;
  Ledger& ledger_;
  DeliveryOptions const& options_;
  std::uint64_t index_;
  std::unique_ptr<EventReader> reader_, letter_reader_;
  Keys keys_;
  RecordParser parser_;
  Record heard_;
  std::vector<Position> positions_;

  // the run
  std::optional<Pipeline> run_;
  Plan plan_;
  std::string token_;
  std::string pending_;
  std::size_t pending_at_ = 0;
  std::uint64_t scan_;
  std::uint64_t high_;  // one beyond the highest position ever delivered
  Ranges delivered_, held_;
  std::uint64_t delivered_count_ = 0;
  std::map<std::uint64_t, Pieces> pieces_;
  std::map<std::uint64_t, Votes> votes_;
  std::vector<std::pair<std::string, std::string>> last_;
  std::vector<DeadLetter> letters_;
  std::size_t letters_bytes_ = 0;
  std::unordered_set<int> exits_;
  std::uint64_t sinks_seen_ = 0;
  bool channel_ended_ = false, input_open_ = false, at_end_ = false, source_ended_ = false, window_full_ = false;
  bool plan_exhausted_ = false;
  Status damage_;  // of the source, met while delivering
  std::string killed_why_;
  std::optional<Duration> killed_at_, leader_ended_at_, full_since_, waiting_since_, winding_since_, failing_since_;
  std::optional<std::pair<std::uint64_t, Duration>> overtaken_;
  Duration run_began_{}, last_line_{}, last_fed_{}, last_decided_{}, last_gone_check_{};

  // between runs
  Ranges suspects_, vanished_;
  bool probe_next_ = false, probed_all_ = false, vanished_together_ = false, anew_ = false, started_once_ = false,
       worked_ = false;
  std::uint64_t probed_ = 0, probe_step_ = 1, forgotten_ = 0, group_ = kFirstGroup;
  std::uint64_t ramp_ = 0;  // 0: no limit
  std::uint64_t settled_at_start_ = 0, settled_at_crash_ = 0, last_letter_ = 0, letters_in_a_row_ = 0;
  Backoff temporary_{seconds(1), seconds(60)};
  Backoff failing_{milliseconds(50), seconds(30)};
  Duration not_before_{};
  std::string ledger_note_;
  std::optional<Exit> verdict_;
  std::deque<std::pair<std::uint64_t, Time>> arrivals_;
};

namespace {

class Delivery {
 public:
  Delivery(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options)
      : io_(io), source_(source), ledger_(ledger), options_(options) {
    for (std::uint64_t i = 0; i < std::max<std::uint64_t>(1, options.jobs); ++i) {
      lanes_.push_back(std::make_unique<Lane>(io, source, ledger, options, i));
    }
  }

  Exit run() {
    for (auto& lane : lanes_) {
      if (Status status = lane->open(); !status.ok()) return fail(status);
    }
    ledger_.set_clean(false);
    if (Status status = ledger_.save(); !status.ok()) return fail(status);
    Duration saved{}, ticked{};
    std::optional<Exit> verdict;
    for (;;) {
      bool const stop = stopping() && !draining();
      bool running = false, exhausted = true;
      for (auto& lane : lanes_) {
        if (Status status = lane->step(stop || verdict.has_value()); !status.ok()) return fail(status);
        if (!verdict) verdict = lane->verdict();
        running = running || lane->running();
        exhausted = exhausted && lane->exhausted();
      }
      Duration const now = io_.clock.steady();
      if (now - saved > seconds(1)) {
        saved = now;
        if (Status status = ledger_.save(); !status.ok()) return fail(status);
        measure_lag();
      }
      if (ledger_.cursor() != forgotten_) source_.settled(forgotten_ = ledger_.cursor());
      if (now - ticked > seconds(1)) {
        ticked = now;
        if (Status status = source_.tick(); !status.ok()) return fail(status);
        if (ledger_.take_reopened()) {
          for (auto& lane : lanes_) lane->begin_anew();
        }
      }
      if (!running && (verdict || stop)) break;
      if (exhausted && (options_.until_empty || lanes_[0]->source_ended())) break;
      wait(stop);
    }
    ledger_.set_clean(true);
    if (!verdict && !stopping() && lanes_[0]->source_ended()) ledger_.set_complete();
    if (Status status = ledger_.save(); !status.ok()) return fail(status);
    if (verdict) return *verdict;
    if (stopping()) return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
    return Exit::ok;
  }

 private:
  Exit fail(Status const& status) {
    if (status.code() == Code::stopped) return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
    say_error(status.what());
    return status.exit();
  }

  bool draining() {
    if (!source_.drains()) return false;
    Duration const now = io_.clock.steady();
    if (!stopped_at_) stopped_at_ = now;
    return now - *stopped_at_ < seconds(30);
  }

  void wait(bool stop) {
    std::vector<pollfd> fds = {{wake_fd(), POLLIN, 0}};
    if (!stop && !stopping()) fds.push_back({stop_fd(), POLLIN, 0});
    bool at_end = true;
    for (auto& lane : lanes_) {
      lane->add_fds(fds);
      at_end = at_end && lane->waiting_for_source();
    }
    int const source = source_.wait_fd();
    if (at_end && source >= 0) fds.push_back({source, POLLIN, 0});
    int const timeout = at_end && source < 0 ? 10 : 50;
    if (::poll(fds.data(), fds.size(), timeout) > 0) {
      if (fds[0].revents != 0) clear_wake();
      if (at_end && source >= 0 && fds.back().revents != 0) source_.clear_wait();
    }
  }

  void measure_lag() {
    std::optional<Time> oldest;
    for (auto& lane : lanes_) {
      auto const time = lane->oldest();
      if (time && (!oldest || *time < *oldest)) oldest = time;
    }
    counters().lag_ns = oldest ? std::max<std::int64_t>(0, (io_.clock.now() - *oldest).count()) : 0;
  }

  Io& io_;
  EventSource& source_;
  Ledger& ledger_;
  DeliveryOptions const& options_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::uint64_t forgotten_ = 0;
  std::optional<Duration> stopped_at_;
};

}  // namespace

void DeliveryOptions::add_to(Cli& cli) {
  cli.pipeline(pipeline);
  cli.option("--jobs", jobs, "copies of the pipeline; the order within a partitionkey is kept");
  cli.option("--window", window, "most positions between the oldest unsettled event and the newest delivered");
  cli.option("--settle", settle, "restart the pipeline when it passes over an event for so long");
  cli.option("--stall", stall, "restart the pipeline when it sends no receipt for so long");
  cli.option("--takeover", takeover, "wait so long for the processes of a run before, then end them");
  cli.option("--max-deliveries", max_deliveries, "dead-letter an event that brings the pipeline down alone so often");
  cli.option("--sinks", sinks, "sinks in the pipeline, each of which must store an event");
  cli.choice("--ack", ack, {"receipts", "exit"}, "what settles events: receipts, or a clean end of the pipeline");
}

Exit deliver(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options) {
  return Delivery(io, source, ledger, options).run();
}

}  // namespace inflight

#include "common/source.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "common/digest.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/stop.h"

namespace inflight {

namespace {

constexpr std::size_t kRetainedBytes = 8 << 20;

Status enough() { return {Code::stopped, "enough"}; }

class StandardOutput final : public Outlet {
 public:
  StandardOutput(Io& io, std::uint64_t limit) : io_(io), limit_(limit) {}
  Status put(std::string_view line) override {
    if (limit_ != 0 && count_ >= limit_) return enough();
    ++count_;
    ++next_;
    ++counters().records;
    counters().bytes += line.size();
    return io_.out.line(line);
  }
  bool ready() override { return true; }
  Status flush() override { return io_.out.flush(); }
  std::uint64_t cursor() override { return next_; }
  void seek(std::uint64_t position) override { next_ = std::max(next_, position); }

 private:
  Io& io_;
  std::uint64_t limit_, count_ = 0, next_ = 0;
};

// Events between the thread that makes them and the one that delivers them.
class Retained final : public EventSource, public Outlet {
 public:
  using Outlet::put;

  Retained(Io& io, std::string identity, std::uint64_t first, std::uint64_t limit, Ledger const& ledger)
      : io_(io),
        identity_(std::move(identity)),
        first_(first),
        next_(first),
        limit_(limit),
        cursor_(ledger.cursor()),
        mark_(ledger.mark()),
        wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  // ---- the making thread

  Status put(std::string_view line) override { return keep(std::string(line), {}); }
  Status put(std::string_view line, std::string_view mark) override {
    return keep(std::string(line), std::string(mark));
  }
  Status take(std::string line) override { return keep(std::move(line), {}); }
  std::string mark() override { return mark_of(cursor_); }
  // Letters of runs before, by mark: the digests of their events.
  void set_letters(std::multimap<std::string, std::string> letters) { letters_ = std::move(letters); }
  Status keep(std::string line, std::string mark) {
    std::unique_lock lock(mutex_);
    if (!letters_.empty() && has_letter(line, mark)) {
      // Settled, but at another position: it goes with the one before it.
      (events_.empty() ? mark_ : events_.back().reached) = std::move(mark);
      return {};
    }
    if (next_ >= cursor_) {
      if (limit_ != 0 && count_ >= limit_) return cut_ = true, enough();
      ++count_;
    }
    std::uint64_t const position = next_++;
    if (position < cursor_) return {};  // settled by a run before
    room_.wait(lock, [&] { return room() || closed_; });
    if (closed_) return cut_ = true, enough();
    bytes_ += line.size();
    std::string reached = mark;
    events_.push_back({position, std::move(line), std::move(mark), std::move(reached), io_.clock.now()});
    signal();
    return {};
  }
  bool ready() override {
    std::lock_guard const lock(mutex_);
    return room();
  }
  Status flush() override { return {}; }
  std::uint64_t cursor() override {
    std::lock_guard const lock(mutex_);
    return settled_ - first_;
  }
  void seek(std::uint64_t position) override {
    std::lock_guard const lock(mutex_);
    next_ = std::max(next_, first_ + position);
  }
  void end(bool whole) {
    std::lock_guard const lock(mutex_);
    cut_ = cut_ || !whole;
    ended_ = true;
    signal();
  }
  void close() {
    std::lock_guard const lock(mutex_);
    closed_ = true;
    room_.notify_all();
  }

  // ---- the delivering thread

  std::string identity() const override { return identity_; }
  int wait_fd() override { return wake_.get(); }
  void clear_wait() override {
    std::uint64_t count = 0;
    (void)!::read(wake_.get(), &count, sizeof count);
  }
  bool drains() const override { return true; }
  bool whole() override {
    std::lock_guard const lock(mutex_);
    return !cut_;
  }
  void settled(std::uint64_t cursor) override {
    std::lock_guard const lock(mutex_);
    settled_ = cursor;
    while (!events_.empty() && events_.front().position < cursor) {
      bytes_ -= events_.front().line.size();
      mark_ = std::move(events_.front().reached);
      events_.pop_front();
    }
    room_.notify_all();
  }
  // Of the last event below the cursor.
  std::string mark_of(std::uint64_t cursor) {
    std::lock_guard const lock(mutex_);
    if (events_.empty() || cursor <= events_.front().position) return mark_;
    return events_[std::min<std::size_t>(cursor - events_.front().position, events_.size()) - 1].reached;
  }
  Result<std::unique_ptr<EventReader>> reader() override {
    return std::unique_ptr<EventReader>(std::make_unique<Events>(*this));
  }

 private:
  struct Kept {
    std::uint64_t position;
    std::string line, mark;
    std::string reached;  // the mark to go on behind when this is settled
    Time time;
  };

  class Events final : public EventReader {
   public:
    explicit Events(Retained& retained) : retained_(retained) {}
    Result<Got> read(std::uint64_t position, Event& event) override {
      std::lock_guard const lock(retained_.mutex_);
      auto const& events = retained_.events_;
      auto const found = std::lower_bound(events.begin(), events.end(), position,
                                          [](Kept const& kept, std::uint64_t p) { return kept.position < p; });
      if (found == events.end()) return retained_.ended_ ? Got::end : Got::none;
      event = {found->position, found->line, found->time, found->mark};
      return Got::event;
    }

   private:
    Retained& retained_;
  };

  bool has_letter(std::string_view line, std::string const& mark) {
    auto const [begin, end] = letters_.equal_range(mark);
    if (begin == end) return false;
    std::string const digest = sha256(line);
    auto const found = std::find_if(begin, end, [&](auto const& letter) { return letter.second == digest; });
    if (found == end) return false;
    letters_.erase(found);  // two rows that are the same have two letters
    return true;
  }

  // For two in any case: the newest is settled when another one follows it.
  [[nodiscard]] bool room() const { return bytes_ < kRetainedBytes || events_.size() < 2; }

  void signal() {
    std::uint64_t const one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }

  Io& io_;
  std::string identity_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::deque<Kept> events_;
  std::size_t bytes_ = 0;
  std::uint64_t first_, next_, limit_, count_ = 0;
  std::uint64_t cursor_;             // when it was started
  std::uint64_t settled_ = cursor_;  // the cursor now
  std::string mark_;                 // of the last event that is kept no more
  std::multimap<std::string, std::string> letters_;
  bool ended_ = false, closed_ = false, cut_ = false;
  Fd wake_;
};

Result<std::multimap<std::string, std::string>> letters_with_marks(DeadLetters const& letters) {
  std::multimap<std::string, std::string> found;
  for (auto const& [position, entry] : letters.entries()) {
    if (!entry.open) continue;
    auto letter = letters.read(entry);
    if (!letter) return letter.status();
    if (!letter->mark.empty()) found.emplace(std::move(letter->mark), sha256(letter->event));
  }
  return found;
}

Exit report(Status const& status, Exit otherwise) {
  if (status.ok() || status.code() == Code::closed) return otherwise;
  if (status.code() == Code::stopped) {
    if (!stopping()) return otherwise;
    return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
  }
  say_error(status.what());
  return status.exit();
}

Exit run_plain(Io& io, SourceOptions const& options, std::function<Status(Outlet&)> const& produce) {
  StandardOutput outlet(io, options.limit);
  Status status = produce(outlet);
  if (Status flushed = io.out.flush(); status.ok()) status = flushed;
  if (status.ok() && stopping()) status = enough();
  return report(status, Exit::ok);
}

}  // namespace

void SourceOptions::add_to(Cli& cli, bool with_state) {
  delivery.add_to(cli);
  cli.option("--limit", limit, "stop after so many events");
  cli.option("--dead-letters", dead_letters, "file for events that the pipeline rejects");
  if (with_state) cli.option("--state", state, "file that remembers what is settled, to go on from there");
}

Exit run_source(Io& io, SourceOptions const& given, std::function<Status(Outlet&)> const& produce) {
  if (given.delivery.pipeline.empty()) return run_plain(io, given, produce);

  SourceOptions options = given;
  DeliveryOptions delivery = options.delivery;
  Fd lock;
  std::uint64_t first = 0;
  std::string letters = options.dead_letters;
  if (!options.state.empty()) {
    auto held = lock_file(options.state + ".lock", Lock::exclusive, false);
    if (!held) {
      std::string who;
      for (std::string const& process : who_has_open(options.state + ".lock")) who += " " + process;
      return report(
          Status{held.status().code(), fmt::format("{}: another run of this line is at work:{}", options.state, who)},
          Exit::temporary);
    }
    lock = std::move(*held);
    delivery.run_lock = options.state + ".run.lock";
    if (letters.empty()) letters = options.state + ".dead.ndjson";
  } else {
    // Positions that no run before has used, so that letters of this one are not taken for theirs: the time, unless the
    // clock was set back meanwhile.
    first = static_cast<std::uint64_t>(io.clock.now().ns / 1000);
    if (letters.empty()) letters = tool_name() + ".dead.ndjson";
    auto const known = DeadLetters::view(letters);
    if (!known) return report(known.status(), Exit::defect);
    if (!known->entries().empty()) first = std::max(first, known->entries().rbegin()->first + 1);
  }
  if (options.prepare) {
    if (Status const prepared = options.prepare(options); !prepared.ok()) return report(prepared, Exit::defect);
  }
  std::string const identity = options.identity.empty() ? tool_name() : options.identity;
  auto ledger = Ledger::open(io.disk, io.clock, options.state, letters, identity, first);
  if (!ledger) return report(ledger.status(), Exit::defect);
  if ((*ledger)->complete()) {
    say_info(fmt::format("{}: complete already; remove the file to begin anew", options.state));
    return Exit::ok;
  }

  if (options.marks && !options.state.empty()) {
    // Their positions are not used again: other events may have come between.
    if (std::uint64_t const reached = (*ledger)->reached(); reached > (*ledger)->cursor())
      (*ledger)->settle((*ledger)->cursor(), reached - 1);
    first = (*ledger)->cursor();
  }
  Retained retained(io, identity, first, options.limit, **ledger);
  if (options.marks && !options.state.empty()) {
    auto marked = letters_with_marks((*ledger)->letters());
    if (!marked) return report(marked.status(), Exit::defect);
    retained.set_letters(std::move(*marked));
  }
  if (options.marks) (*ledger)->set_mark_of([&](std::uint64_t cursor) { return retained.mark_of(cursor); });
  Exit delivered = Exit::defect;
  std::thread deliverer([&] {
    delivered = deliver(io, retained, **ledger, delivery);
    retained.close();
    if (delivered != Exit::ok) request_stop(SIGTERM);  // wakes what makes events
  });
  Status const produced = produce(retained);
  retained.end(produced.ok());
  deliverer.join();
  if (delivered != Exit::ok) return delivered;
  if (!options.state.empty() && (*ledger)->complete()) say_info(fmt::format("{}: complete", options.state));
  return report(produced, Exit::ok);
}

}  // namespace inflight

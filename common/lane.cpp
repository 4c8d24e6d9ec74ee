#include "common/lane.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "common/messages.h"
#include "common/metrics.h"
#include "common/stop.h"
#include "common/units.h"

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t kBuffer = 256 << 10;
constexpr std::size_t kRoom = 4 << 10;                       // for what is written before an event
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

}  // namespace

Lane::Lane(Io& io, EventSource& source, Ledger& ledger, DeliveryOptions const& options, std::uint64_t index,
           std::unique_ptr<EventReader> ahead, std::unique_ptr<EventReader> back)
    : io_(io),
      source_(source),
      ledger_(ledger),
      options_(options),
      index_(index),
      backlog_(ledger, KeyOrder(options.jobs, index), std::move(ahead), std::move(back)),
      receipts_(io.clock, ledger, backlog_.looking_back(), options.sinks),
      isolation_(ledger, options.max_deliveries, options.window),
      scan_(ledger.cursor()),
      temporary_(seconds(1), seconds(60)) {}

Status Lane::open() { return take_back(); }

void Lane::begin_anew() {
  anew_ = true;
  backlog_.catch_up();
  if (run_) run_->input_open = false;
  for (std::uint64_t const position : ledger_.reopened()) receipts_.retract(position);
}

void Lane::add_fds(std::vector<pollfd>& fds) const {
  if (!run_) return;
  Pipeline const& pipeline = run_->pipeline;
  if (pipeline.input() >= 0 && !run_->fed()) fds.push_back({pipeline.input(), POLLOUT, 0});
  if (pipeline.channel() >= 0 && !run_->channel_ended) fds.push_back({pipeline.channel(), POLLIN, 0});
  if (pipeline.errors() >= 0) fds.push_back({pipeline.errors(), POLLIN, 0});
}

std::string Lane::lock_path() const {
  if (options_.run_lock.empty() || options_.jobs <= 1) return options_.run_lock;
  return fmt::format("{}.{}", options_.run_lock, index_);
}

Status Lane::step(bool winding_up) {
  Duration const now = io_.clock.steady();
  if (!run_) return winding_up || now < not_before_ ? Status{} : start();
  if (Status status = listen(); !status.ok()) return status;
  if (Status status = feed(); !status.ok()) return status;
  if (std::uint64_t const cursor = ledger_.cursor(); cursor != forgotten_) {
    receipts_.forget_below(cursor);
    forgotten_ = cursor;
  }
  if (run_->input_open) decide_end(winding_up);
  guard(winding_up);
  if (!run_->input_open && run_->fed()) run_->pipeline.close_input();
  bool const quiet = run_->channel_ended || run_->pipeline.channel() < 0;
  if (quiet || run_->killed_at || now - run_->last_gone_check > milliseconds(100)) {
    run_->last_gone_check = now;
    if (run_->pipeline.gone()) return finish();
    // A killed shell's stages go on: let them come to their end.
    if (run_->pipeline.leader_ended()) run_->input_open = false;
    tell_lingering();
  }
  return {};
}

// ---- starting

// The plan of the next run; nothing where there is nothing to deliver now.
Result<std::optional<Plan>> Lane::plan() {
  auto plan = isolation_.next(backlog_);
  if (!plan) return plan.status();
  if (plan->kind != Plan::Kind::all) return std::optional(std::move(*plan));
  auto next = backlog_.find(*plan, ledger_.cursor());
  if (!next) return next.status();
  if (*next && **next >= ledger_.cursor() + options_.window) return std::optional<Plan>();  // another copy's turn
  if (!*next && (started_once_ || options_.until_empty || backlog_.source_ended())) return std::optional<Plan>();
  return std::optional(std::move(*plan));
}

Status Lane::start() {
  if (!damage_.ok()) return damage_;
  if (std::exchange(anew_, false)) {
    if (Status status = take_back(); !status.ok()) return status;
  }
  if (Consequence const guilty = isolation_.convict(backlog_); guilty.letter) return carry_out(guilty);
  auto planned = plan();
  if (!planned) return planned.status();
  if (!*planned) return {};
  if (Status status = isolation_.begin(**planned); !status.ok()) return status;
  std::string const token = make_token();
  receipts_.begin(token);
  auto pipeline = Pipeline::start({options_.pipeline, lock_path(), options_.ack != "exit", token, source_.identity()});
  if (!pipeline) return pipeline.status();
  if (started_once_) ++counters().restarts;
  started_once_ = true;
  run_.emplace(std::move(*pipeline), std::move(**planned), ledger_.stored_count(), io_.clock.steady());
  run_->token = token;
  scan_ = run_->plan.kind == Plan::Kind::again ? run_->plan.from : std::max(ledger_.cursor(), run_->plan.from);
  return {};
}

// ---- a run

// Fills the buffer with events while the input is open, and writes what the pipe takes: whole lines in the end.
Status Lane::feed() {
  if (run_->pipeline.input() < 0) return {};
  if (run_->input_open) {
    backlog_.look_again();
    run_->window_full = false;
  }
  for (;;) {
    if (run_->fed()) run_->drop_pending();
    if (run_->input_open && run_->pending.size() < kBuffer / 2) {
      if (Status status = fill(); !status.ok()) return status;
    }
    if (run_->fed()) return {};
    auto wrote = run_->pipeline.write(std::string_view(run_->pending).substr(run_->pending_at));
    if (!wrote) {
      run_->drop_pending();  // the first stage has ended; its exit status says why
      run_->input_open = false;
      return {};
    }
    if (*wrote == 0) return {};
    run_->pending_at += *wrote;
    run_->last_fed = io_.clock.steady();
  }
}

Status Lane::fill() {
  using Got = EventReader::Got;
  EventReader::Event event;
  while (run_->pending.size() < kBuffer && !run_->plan.done(receipts_.delivered_count(), scan_)) {
    if (run_->plan.kind != Plan::Kind::again && ledger_.next_unsettled(scan_) >= ledger_.cursor() + options_.window) {
      run_->window_full = true;
      return {};
    }
    auto got = backlog_.next(run_->plan, scan_, event);
    if (!got) {
      run_->input_open = false;  // what was delivered is settled first
      damage_ = got.status();
      return {};
    }
    if (*got != Got::event) {
      run_->plan_exhausted = *got == Got::end && run_->plan.kind != Plan::Kind::all;
      return {};
    }
    if (Status status = ledger_.reach(event.position); !status.ok()) return status;
    append(event);
  }
  return {};
}

void Lane::append(EventReader::Event const& event) {
  std::string& pending = run_->pending;
  if (event.line.size() > kLongRecord) pending.reserve(pending.size() + event.line.size() + kRoom);
  if (options_.ack == "exit") {
    pending.append(event.line);
  } else {
    fmt::format_to(std::back_inserter(pending), "{{\"delivery\":\"{}:{}\"", run_->token, event.position);
    if (event.line.size() > 2) pending += ',';
    pending.append(event.line.substr(1));
  }
  pending += '\n';
  if (run_->plan.kind == Plan::Kind::again) {
    receipts_.delivered_again(event.position);
  } else {
    receipts_.delivered(event.position);
  }
  scan_ = event.position + 1;
  backlog_.delivered(event);
  ++counters().records;
  counters().bytes += event.line.size();
  if (event.line.size() > kLongRecord) backlog_.release();
}

Status Lane::listen() {
  Pipeline& pipeline = run_->pipeline;
  pipeline.read_errors();
  if (pipeline.channel() < 0 || run_->channel_ended) return {};
  std::string lines;
  while (pipeline.read_channel(lines, run_->channel_ended) && !run_->channel_ended && lines.size() < kBuffer) {
  }
  if (lines.empty()) return {};
  run_->last_line = io_.clock.steady();
  std::uint64_t const before = ledger_.settled_count();
  if (Status status = receipts_.hear(std::move(lines)); !status.ok()) return status;
  if (ledger_.settled_count() > before) {
    run_->last_settled = run_->last_line;
    ledger_.set_note("");
    waiting_since_.reset();
  } else if (!receipts_.waiting().empty()) {
    if (!waiting_since_) waiting_since_ = io_.clock.steady();
    ledger_.set_note("waiting: " + receipts_.waiting());
  }
  if (!receipts_.exits().empty()) run_->input_open = false;  // a stage is gone, so the rest will not arrive
  if (receipts_.sinks() > options_.sinks) {
    end(Exit::usage,
        fmt::format("the pipeline has more than {} sink{}: the receipt of one would speak for the other (--sinks)",
                    options_.sinks, options_.sinks == 1 ? "" : "s"));
  }
  return {};
}

// Whether it is time to end the pipeline's input. What is buffered in stages then comes out, and is receipted.
void Lane::decide_end(bool winding_up) {
  Duration const now = io_.clock.steady();
  if (!run_->fed() && !winding_up) return;
  bool end = winding_up || run_->plan_exhausted || run_->plan.done(receipts_.delivered_count(), scan_) ||
             (backlog_.at_end() && (options_.until_empty || backlog_.source_ended()));
  if (!end && now - run_->last_decided < milliseconds(20)) return;
  run_->last_decided = now;
  if (end || end_is_due(now)) run_->input_open = false;
}

bool Lane::end_is_due(Duration now) {
  if (options_.ack == "exit") {
    if (receipts_.delivered_count() == 0) return false;
    return run_->window_full || (backlog_.at_end() && now - run_->last_fed > seconds(1)) ||
           now - run_->began > options_.settle;
  }
  std::optional<std::uint64_t> const open = receipts_.first_open();
  if (!open || ledger_.reached() <= *open + 1) {
    run_->overtaken.reset();
  } else {
    if (!run_->overtaken || run_->overtaken->first != *open) run_->overtaken = {*open, now};
    if (scan_ - ledger_.cursor() >= options_.window / 2) return true;
    if (now - run_->overtaken->second > options_.settle) return true;
  }
  // The newest event is receipted when another one follows it, or at the end.
  if (open && backlog_.at_end() && now - std::max(run_->last_fed, run_->last_line) > options_.settle &&
      !waiting_since_) {
    return true;
  }
  if (!run_->window_full || !receipts_.any_unsettled()) {
    run_->full_since.reset();
  } else if (!run_->full_since) {
    run_->full_since = now;
  } else if (now - std::max(*run_->full_since, run_->last_line) > seconds(1)) {
    return true;
  }
  return false;
}

// Ends a run that does not move.
void Lane::guard(bool winding_up) {
  Duration const now = io_.clock.steady();
  if (winding_up && !winding_since_) winding_since_ = now;
  if (run_->killed_at) {
    if (now - *run_->killed_at > seconds(5)) run_->pipeline.signal_group(SIGKILL);
    return;
  }
  Duration const moved = std::max(run_->last_line, run_->last_fed);
  Duration const stall = waiting_since_ ? std::max(options_.stall, kStallWaiting) : options_.stall;
  if (now - moved > stall) {
    bool const outstanding =
        options_.ack == "exit" ? receipts_.delivered_count() > 0 : receipts_.first_open().has_value();
    if (outstanding || !run_->input_open) kill(fmt::format("no receipt for {}", format_duration(options_.stall)));
  }
  // Whoever only says that it waits may do so for ever.
  if (winding_up && now - std::max({run_->last_settled, run_->last_fed, *winding_since_}) > options_.takeover) {
    kill(fmt::format("stopped, and the pipeline did not drain in {}", format_duration(options_.takeover)));
  }
  if (options_.until_empty && waiting_since_ && now - *waiting_since_ > kGiveUp) {
    end(Exit::temporary, fmt::format("gave up: {}", ledger_.note()));
  }
}

void Lane::kill(std::string why) {
  run_->killed_why = std::move(why);
  run_->killed_at = io_.clock.steady();
  run_->input_open = false;
  run_->drop_pending();
  run_->pipeline.signal_group(SIGTERM);
}

void Lane::end(Exit exit, std::string const& why) {
  if (verdict_) return;
  say_error(why);
  verdict_ = exit;
  if (run_) kill(why);
}

// The shell has ended but something it started has not.
void Lane::tell_lingering() {
  if (!run_->pipeline.leader_ended()) return;
  Duration const now = io_.clock.steady();
  if (!run_->leader_ended_at) run_->leader_ended_at = now;
  if (now - *run_->leader_ended_at < options_.takeover) return;
  auto const holders = run_->pipeline.holders();
  say_warning(fmt::format("processes outlive their pipeline: {}; ending them",
                          holders.empty() ? "(unnamed)" : fmt::format("{}", fmt::join(holders, ", "))));
  run_->pipeline.kill_all();
  run_->leader_ended_at = now;
}

// ---- ends

Status Lane::finish() {
  // Every writer is gone: what they said is in the channel, to its end.
  do {
    run_->last_line = {};
    if (Status status = listen(); !status.ok()) return status;
  } while (!run_->channel_ended && run_->last_line != Duration{});
  RunEnd run_end;
  run_end.plan = std::move(run_->plan);
  run_end.delivered = receipts_.delivered_count();
  run_end.scan = scan_;
  run_end.stored_before = run_->stored_before;
  run_end.status = run_->pipeline.status();
  run_end.why = run_->pipeline.last_errors();
  std::string const killed = run_->killed_why;
  run_.reset();

  auto const& exits = receipts_.exits();
  int const status = run_end.status;
  bool const clean =
      status == 0 && killed.empty() && std::all_of(exits.begin(), exits.end(), [](int code) { return code == 0; });
  if (clean && !verdict_) {
    receipts_.accept_last();
    if (options_.ack == "exit") receipts_.accept_all();
  }
  run_end.open = receipts_.unsettled();
  run_end.stored = receipts_.stored_count();
  bool const moved = run_end.moved();
  if (verdict_) return keep_order(moved);
  if (ledger_.stored_count() > run_end.stored_before) {
    worked_ = true;
    failing_since_.reset();
  }
  if (clean) {
    if (!run_end.open.empty() && receipts_.sinks() == 0) {
      end(Exit::usage, "no sink of the pipeline sends receipts: for a foreign one say --ack exit");
      return keep_order(moved);
    }
    if (moved) {
      temporary_.reset();
      ledger_.set_note("");
    }
    Status const done = carry_out(isolation_.ended_well(run_end));
    return done.ok() ? keep_order(moved) : done;
  }

  bool const temporary = status == 75 || exits.contains(75);
  // Whoever calls a foreign program wrongly does so from the first event on.
  bool const usage = exits.contains(2) || (!worked_ && (status == 2 || status == 126 || status == 127));
  if (temporary || usage || stopping()) isolation_.not_counted(run_end.plan);
  if (stopping()) return keep_order(moved);  // whoever stops us may have stopped the stages as well
  if (temporary) {
    retry_later(run_end.why, moved);
  } else if (usage) {
    int const code = status == 126 || status == 127 ? status : 2;
    end(Exit::usage, fmt::format("the pipeline is called wrongly ({}); nothing is lost, mend it and start again",
                                 status_text(code)));
  } else {
    std::string const how = killed.empty() ? status_text(status) : killed;
    run_end.why = run_end.why.empty() ? how : how + ": " + run_end.why;
    if (Status done = failed(run_end); !done.ok()) return done;
  }
  return keep_order(moved);
}

void Lane::retry_later(std::string const& errors, bool moved) {
  if (moved) temporary_.reset();
  Duration const wait = std::max<Duration>(temporary_.next(), milliseconds(100));
  ledger_.set_note(fmt::format("exit 75: {}", errors));
  if (options_.until_empty) {
    end(Exit::temporary, "the pipeline failed for now (exit 75)");
  } else {
    say_warning(fmt::format("the pipeline failed for now (exit 75), again in {}",
                            format_duration(std::chrono::duration_cast<milliseconds>(wait))));
  }
  not_before_ = io_.clock.steady() + wait;
}

Status Lane::failed(RunEnd const& run_end) {
  ledger_.set_note(fmt::format("the pipeline failed: {}", run_end.why));
  if (!failing_since_) failing_since_ = io_.clock.steady();
  if (options_.until_empty && io_.clock.steady() - *failing_since_ > kGiveUp) {
    end(Exit::temporary, "gave up: " + ledger_.note());
    return {};
  }
  return carry_out(isolation_.failed(run_end));
}

Status Lane::carry_out(Consequence const& consequence) {
  if (!consequence.warning.empty()) say_warning(consequence.warning);
  if (consequence.letter) {
    Status status = receipts_.reject(consequence.letter->position, "pipeline", consequence.letter->reason);
    if (!status.ok()) return status;
  }
  if (!consequence.pause.empty()) {
    ledger_.set_note(consequence.pause);
    end(Exit::temporary, consequence.pause);
  }
  not_before_ = io_.clock.steady() + consequence.wait;
  return {};
}

// ---- order

// What this run has settled is durable before the next one: should that one take us down, nothing of this is put to it.
Status Lane::keep_order(bool moved) {
  if (Status status = moved ? take_back() : Status{}; !status.ok()) return status;
  return ledger_.save();
}

Status Lane::take_back() {
  auto taken = backlog_.keep_order();
  if (!taken) return taken.status();
  for (auto const& [first, last] : taken->map()) {
    for (std::uint64_t p = first; p <= last; ++p) isolation_.acquit(p);
  }
  return {};
}

}  // namespace inflight

#include "common/poller.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <unordered_map>

#include "common/messages.h"
#include "common/poll_event.h"
#include "common/schedule.h"
#include "common/stop.h"
#include "common/url.h"

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kHeldBytes = 16 << 20;  // answers that nobody takes: beyond, no new request is sent
constexpr unsigned kHistoryAttempts = 5;
constexpr Duration kBlind = seconds(1);
constexpr std::size_t kFirstSlots = 64;                   // until it is known how large the answers are
constexpr std::size_t kLongestTag = 512;                  // of an ETag that is kept and sent back
constexpr Duration kLongestWait = std::chrono::hours(1);  // that a unit may ask for, where 16 periods are shorter

// What failed since the last report, by cause.
class Failures {
 public:
  void add(std::string const& id, HttpResponse const& answer) {
    auto& [count, example] = causes_[static_cast<std::size_t>(answer.cause)];
    if (count++ == 0) example = fmt::format("{}: {}", id, answer.error);
    ++total_;
    if (answer.status != 401 && answer.status != 403) forbidden_ = false;
  }
  // `timeout 1000 (bsu-00007: http://…: no answer within 5s), status 3 (…)`
  [[nodiscard]] std::string text() const {
    std::string text;
    for (std::size_t i = 0; i < kHttpCauses; ++i) {
      auto const& [count, example] = causes_[i];
      if (count == 0) continue;
      text += fmt::format("{}{} {} ({})", text.empty() ? "" : ", ", name_of(static_cast<HttpCause>(i)), count, example);
    }
    return text;
  }
  [[nodiscard]] std::uint64_t total() const { return total_; }
  [[nodiscard]] bool forbidden() const { return total_ > 0 && forbidden_; }

 private:
  std::array<std::pair<std::uint64_t, std::string>, kHttpCauses> causes_;
  std::uint64_t total_ = 0;
  bool forbidden_ = true;
};

class Poller {
 public:
  Poller(PollOptions const& options, Io& io, HttpClient& http, Outlet& outlet)
      : options_(options), io_(io), http_(http), outlet_(outlet), schedule_(options.every, first_slots()) {}

  [[nodiscard]] std::size_t first_slots() const {
    return options_.every > Duration::zero() ? options_.slots : std::min<std::size_t>(kFirstSlots, options_.slots);
  }
  void list(std::vector<FleetUnit> const& fleet);
  Status run();

 private:
  struct Unit {
    std::string id, url, source;
    std::string etag, modified;  // of its newest answer
    std::int64_t step = 0;       // of its history
    bool listed = true, running = false;
    bool conditional = false;  // the request that is running
    HttpClient::Id request = 0;
  };

  void start(std::size_t index);
  void ended(std::size_t index, HttpResponse& answer);
  void next_moment(std::size_t index, HttpResponse const& answer);
  void allow_slots(std::size_t body);
  static std::string id_of(Unit const& unit, Time now);
  std::string reading(Unit const& unit, HttpResponse const& answer, Time now) const;
  Status hand_on();
  void report(bool last);
  [[nodiscard]] Status verdict() const;
  [[nodiscard]] std::pair<Time, Time> range(std::int64_t step) const;

  PollOptions const& options_;
  Io& io_;
  HttpClient& http_;
  Outlet& outlet_;
  Schedule schedule_;
  std::deque<Unit> units_;
  std::vector<std::size_t> free_;  // units that nobody lists any more
  std::unordered_map<std::string, std::size_t> by_id_;
  std::deque<std::string> held_;  // events that the outlet has not taken yet
  std::uint64_t held_bytes_ = 0;
  std::uint64_t put_ = 0;
  bool unflushed_ = false;
  Failures failures_;
  std::uint64_t polls_ = 0, answers_ = 0, given_up_ = 0;
  std::size_t ended_ = 0;    // requests
  double typical_body_ = 0;  // moving mean
  bool asking_ = true;       // the loop started requests, or could have
  Duration report_at_{}, reported_at_{};
  Duration looked_{}, blind_until_{};  // when the loop last turned; when it last turned after not turning for long
};

void Poller::list(std::vector<FleetUnit> const& fleet) {
  Duration const now = io_.clock.steady();
  std::unordered_map<std::string, std::size_t> old = std::exchange(by_id_, {});
  for (FleetUnit const& wanted : fleet) {
    auto const known = old.find(wanted.id);
    // The answer that is under way is the old URL's: it stays with that one, which is no longer listed.
    bool const fresh = known == old.end() || (units_[known->second].running && units_[known->second].url != wanted.url);
    std::size_t index = fresh ? units_.size() : known->second;
    if (fresh && !free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else if (fresh) {
      units_.emplace_back();
    }
    if (fresh || units_[index].url != wanted.url) {
      units_[index] = {};
      units_[index].id = wanted.id;
      units_[index].url = wanted.url;
      units_[index].source = public_url(wanted.url);
      units_[index].listed = true;
    }
    if (fresh) schedule_.add(index, now);
    by_id_.emplace(wanted.id, index);
    if (!fresh) old.erase(known);
  }
  for (auto const& [id, index] : old) {
    schedule_.remove(index);
    units_[index].listed = false;
    if (!units_[index].running) free_.push_back(index);
  }
}

std::pair<Time, Time> Poller::range(std::int64_t step) const {
  Time const since = *options_.from + options_.step * step;
  return {since, std::min(since + options_.step, options_.to)};
}

void Poller::start(std::size_t index) {
  Unit& unit = units_[index];
  HttpRequest request;
  request.url = unit.url;
  if (options_.history()) {
    auto const [since, until] = range(unit.step);
    request.url = expand(expand(unit.url, "since", format_rfc3339(since)), "until", format_rfc3339(until));
    unit.source = public_url(request.url);
  }
  if (!unit.etag.empty()) request.headers.push_back("If-None-Match: " + unit.etag);
  if (!unit.modified.empty()) request.headers.push_back("If-Modified-Since: " + unit.modified);
  unit.conditional = !request.headers.empty();
  unit.running = true;
  unit.request = http_.start(std::move(request), [this, index](HttpResponse& answer) { ended(index, answer); });
}

void Poller::ended(std::size_t index, HttpResponse& answer) {
  Unit& unit = units_[index];
  Time const now = io_.clock.now();
  unit.running = false;
  // While nobody took our events, or the machine slept, answers may have come that nobody saw.
  Duration const steady = io_.clock.steady();
  if (steady - looked_ > kBlind) blind_until_ = steady;
  if (answer.cause == HttpCause::timeout && schedule_.started(index) < blind_until_) {
    schedule_.left_out(index, steady);
    if (!unit.listed) free_.push_back(index);
    return;
  }
  if (answer.status == 304 && !unit.conditional) {
    answer.cause = HttpCause::status;
    answer.error = unit.source + ": status 304, though the request was not conditional";
  }
  ++polls_;
  bool const unchanged = answer.status == 304 || answer.status == 204;
  std::size_t const body = answer.body.size();
  std::string event;
  if (answer.cause == HttpCause::none && !unchanged) {
    event = reading(unit, answer, now);
    std::string().swap(answer.body);  // a large one is not to be there twice
    if (event.size() > options_.max_record) {
      answer.cause = HttpCause::too_large;
      answer.error =
          fmt::format("{}: the answer makes an event of {} bytes, over --max-record", unit.source, event.size());
    }
  }
  if (answer.cause == HttpCause::none) {
    ++answers_;
    allow_slots(body);
    if (answer.status == 200 && !options_.history()) {
      auto const kept = [&](char const* name) {
        std::string_view const tag = answer.header(name);
        return tag.size() <= kLongestTag ? tag : std::string_view{};
      };
      unit.etag = kept("ETag");
      unit.modified = kept("Last-Modified");
    }
  } else {
    allow_slots(static_cast<std::size_t>(typical_body_));
    failures_.add(unit.id, answer);
  }
  if (answer.cause != HttpCause::none)
    event = options_.emit_failures ? unreachable_event({id_of(unit, now), unit.source, unit.id, now}, answer) : "";
  if (!event.empty()) {
    held_bytes_ += event.size();
    held_.push_back(std::move(event));
  }
  next_moment(index, answer);
  if (!unit.listed) free_.push_back(index);
}

void Poller::next_moment(std::size_t index, HttpResponse const& answer) {
  Duration const now = io_.clock.steady();
  bool const good = answer.cause == HttpCause::none;
  if (options_.once) return schedule_.finished(index);
  if (options_.history()) {
    if (good && range(++units_[index].step).first >= options_.to) return schedule_.finished(index);
    if (!good && schedule_.failures(index) + 1 >= kHistoryAttempts) return ++given_up_, schedule_.finished(index);
  }
  if (good) return schedule_.answered(index, now);
  // A unit whose clock is wrong, and gives a date, must not be lost for a year.
  Duration const asked = std::min(answer.retry_after.value_or(Duration{}), std::max(16 * options_.every, kLongestWait));
  schedule_.failed(index, now, asked);
}

// So many that their answers find room; where no moment can be missed, fewer in the beginning, while it is not known
// how large they are.
void Poller::allow_slots(std::size_t body) {
  typical_body_ += (static_cast<double>(body) - typical_body_) / (answers_ <= 1 ? 1 : 16);
  ++ended_;
  auto const fit = static_cast<std::uint64_t>(static_cast<double>(kHeldBytes) / 2 / std::max(typical_body_, 1.0));
  schedule_.allow(std::min({options_.slots, first_slots() + ended_, std::max<std::uint64_t>(fit, 4)}));
}

std::string Poller::id_of(Unit const& unit, Time now) { return fmt::format("{}/{}", unit.id, format_rfc3339(now)); }

std::string Poller::reading(Unit const& unit, HttpResponse const& answer, Time now) const {
  std::string id = id_of(unit, now);
  if (options_.history()) {
    auto const [since, until] = range(unit.step);
    id = fmt::format("{}/{}/{}", unit.id, format_rfc3339(since), format_rfc3339(until));
  }
  return reading_event({id, unit.source, unit.id, now}, answer);
}

Status Poller::hand_on() {
  while (!held_.empty() && (outlet_.ready() || stopping())) {
    std::string event = std::move(held_.front());
    held_.pop_front();
    held_bytes_ -= event.size();
    Status status = outlet_.take(std::move(event));
    unflushed_ = true;
    if (!status.ok()) return status;
    if (options_.limit != 0 && ++put_ >= options_.limit) return {Code::stopped, "--limit"};
  }
  if (!unflushed_ || !held_.empty()) return {};
  unflushed_ = false;
  return outlet_.flush();
}

void Poller::report(bool last) {
  if (options_.once || options_.history()) return;
  Duration const now = io_.clock.steady();
  if (!last && now < report_at_) return;
  std::string const span = format_duration(std::chrono::round<seconds>(now - reported_at_));
  reported_at_ = now;
  report_at_ = now + std::max<Duration>(options_.every, seconds(60));
  if (failures_.total() > 0) {
    say_warning(fmt::format("{} of {} polls failed in {}: {}", failures_.total(), polls_, span, failures_.text()));
  }
  if (auto const missed = schedule_.take_missed(); missed > 0) {
    say_warning(fmt::format(
        "{} polls left out in {}: every slot was taken (--max-in-flight), or nobody took the events", missed, span));
  }
  failures_ = {};
  polls_ = 0;
}

Status Poller::verdict() const {
  if (options_.history() && given_up_ > 0) {
    return Status::temporary(
        fmt::format("the history of {} of {} units is incomplete: {}", given_up_, units_.size(), failures_.text()));
  }
  if (options_.history() || failures_.total() == 0) return {};
  std::string const text =
      fmt::format("{} of {} units gave no answer: {}", failures_.total(), polls_, failures_.text());
  if (answers_ == 0) return failures_.forbidden() ? Status::usage(text) : Status::temporary(text);
  say_warning(text);
  return {};
}

Status Poller::run() {
  reported_at_ = looked_ = io_.clock.steady();
  report_at_ = reported_at_ + options_.every;
  while (!stopping() && (schedule_.units() > 0 || !held_.empty())) {
    if (take_hangup() && options_.every > Duration::zero()) {
      if (auto fleet = options_.read_fleet()) {
        list(*fleet);
      } else {
        say_error(fmt::format("{}; the units stay as they were", fleet.status().what()));
      }
    }
    if (Status status = hand_on(); !status.ok()) return status;
    bool const room = held_.empty() || (held_bytes_ + http_.received() < kHeldBytes && outlet_.ready());
    Duration const now = io_.clock.steady();
    if (room && (!asking_ || now - looked_ > kBlind)) schedule_.resume(now);
    asking_ = room;
    if (http_.hold(!held_.empty() || !outlet_.ready())) blind_until_ = now;
    if (room) {
      while (auto const index = schedule_.next(now)) start(*index);
      while (auto const slow = schedule_.give_way(now)) {
        http_.cancel(units_[*slow].request, "no answer, and others need its slot");
        while (auto const index = schedule_.next(now)) start(*index);
      }
    }
    Duration const wait = held_.empty() ? std::min<Duration>(schedule_.idle(now), milliseconds(250)) : milliseconds(5);
    if (Status status = http_.turn(wait); !status.ok()) return status;
    looked_ = io_.clock.steady();
    report(false);
  }
  report(true);
  if (Status status = hand_on(); !status.ok() || stopping()) return status;
  return verdict();
}

}  // namespace

Status poll_fleet(Io& io, PollOptions const& options, std::vector<FleetUnit> const& fleet, HttpClient& http,
                  Outlet& outlet) {
  Poller poller(options, io, http, outlet);
  poller.list(fleet);
  return poller.run();
}

}  // namespace inflight

#include "common/listener.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>

#include "common/json_digest.h"
#include "common/json_splitter.h"
#include "common/messages.h"
#include "common/retry.h"
#include "common/stop.h"
#include "common/url.h"

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kLongestDocument = 64 << 20;  // of which a digest is made
constexpr std::uint64_t kPutAtOnce = 256;
constexpr Duration kSnapshotCommit = seconds(1);

// The lines of a stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), the
// data in pieces as they come.
class EventStream {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    [[nodiscard]] virtual Status data(std::string_view event, std::string_view bytes) = 0;
    [[nodiscard]] virtual Status dispatch(std::string_view event) = 0;
  };
  explicit EventStream(Handler& handler) : handler_(handler) {}

  Status feed(std::string_view bytes) {
    while (!bytes.empty()) {
      std::size_t const newline = bytes.find('\n');
      std::string_view const part = bytes.substr(0, newline);
      bool const ends = newline != std::string_view::npos;
      if (Status status = line(part, ends); !status.ok()) return status;
      bytes.remove_prefix(ends ? newline + 1 : bytes.size());
    }
    return {};
  }
  void reset() {
    field_.clear();
    event_.clear();
    in_value_ = had_data_ = false;
  }

 private:
  // A part of a line, perhaps its last one.
  Status line(std::string_view part, bool ends) {
    if (!in_value_) {
      std::size_t const colon = part.find(':');
      field_ += part.substr(0, colon);
      if (colon == std::string_view::npos) return ends ? blank() : Status{};
      part.remove_prefix(colon + 1);
      in_value_ = first_ = true;
      if (field_ == "event") event_.clear();
    }
    if (first_ && part.starts_with(' ')) part.remove_prefix(1);
    if (!part.empty()) first_ = false;
    if (field_ == "event") event_ += part;
    if (field_ == "data") {
      had_data_ = true;
      if (Status status = handler_.data(event_, part); !status.ok()) return status;
    }
    if (ends) {
      while (event_.ends_with('\r')) event_.pop_back();
      in_value_ = false;
      field_.clear();
    }
    return {};
  }
  Status blank() {
    bool const empty = field_.empty() || field_ == "\r";
    field_.clear();
    if (!empty) return {};
    Status status = had_data_ ? handler_.dispatch(event_) : Status{};
    had_data_ = false;
    event_.clear();
    return status;
  }

  Handler& handler_;
  std::string field_, event_;
  bool in_value_ = false, first_ = false, had_data_ = false;
};

class Listener final : public EventStream::Handler, public JsonSplitter::Handler {
 public:
  Listener(Io& io, RtdbCollection const& collection, RtdbClient& client, ListenOptions const& options,
           ListenState& state, Outlet& outlet)
      : io_(io),
        collection_(collection),
        client_(client),
        options_(options),
        state_(state),
        outlet_(outlet),
        splitter_(*this, kLongestDocument),
        events_(*this) {}

  Status run() {
    Backoff backoff(seconds(1), seconds(60));
    bool told = false;
    next_ = outlet_.cursor();
    for (;;) {
      splitter_.reset();
      events_.reset();
      state_.cut_snapshot();
      revoked_ = connected_ = false;
      if (Status status = take_marks(); !status.ok()) return conclude(status);
      Status status = client_.stream(
          collection_.url(), options_.silence, [this] { return turn(); },
          [this](std::string_view bytes) { return events_.feed(bytes); });
      if (!ended_.ok()) return ended_;
      if (status.code() == Code::stopped || status.code() == Code::closed || status.code() == Code::defect)
        return conclude(status);
      if (connected_) {
        backoff.reset();
        told = false;
      }
      if (status.ok()) status = Status::temporary(public_url(collection_.url()) + ": the stream has ended");
      bool const refused = status.code() == Code::usage && status.what().find("status 401") != std::string::npos;
      if ((revoked_ || refused) && client_.renew()) {
        if (!std::exchange(renewed_, true)) continue;
      }
      if (status.code() == Code::rejected)
        status = Status::usage(status.what() + ": listen to a part of it, or more than one");
      if (!ever_ && status.code() == Code::usage) return conclude(status);
      if (!revoked_ && !std::exchange(told, true)) say_warning(status.what() + "; connecting again");
      Duration const end = io_.clock.steady() + backoff.next();
      while (io_.clock.steady() < end) {
        if (stopping()) return conclude({Code::stopped, "stopped"});
        pollfd stop{stop_fd(), POLLIN, 0};
        (void)::poll(&stop, 1, 50);
        if (Status turned = turn(); !turned.ok()) return conclude(turned);
      }
    }
  }

  // ---- of the stream

  Status data(std::string_view event, std::string_view bytes) override {
    if (event == "put" || event == "patch") {
      event_ = event;
      return state_error(splitter_.feed(bytes));
    }
    if (event == "auth_revoked" || event == "cancel")
      reason_ += bytes.substr(0, 200 - std::min<std::size_t>(200, reason_.size()));
    return {};
  }

  Status dispatch(std::string_view event) override {
    if (event == "put" || event == "patch") {
      Status status = splitter_.finish();
      path_.clear();
      if (status.ok()) status = std::exchange(problem_, {});
      if (status.ok() && state_.in_snapshot()) status = end_snapshot();
      if (status.ok()) status = prove();
      if (status.ok()) status = state_.commit();
      return state_error(status);
    }
    if (event != "auth_revoked" && event != "cancel") return state_error(prove());
    revoked_ = event == "auth_revoked";
    return Status::temporary(
        fmt::format("{}: {}: {}", public_url(collection_.url()), event, std::exchange(reason_, {})));
  }

  // ---- of the data of a put or patch: {"path":…,"data":…}

  bool descend(std::size_t depth, std::string_view key) override {
    if (depth != 1 || key != "data" || path_ != "/") return false;
    if (event_ == "put") problem_ = state_.begin_snapshot();
    return true;
  }

  Status member(std::size_t depth, std::string_view key, std::string_view value, bool whole) override {
    if (!problem_.ok()) return std::exchange(problem_, {});
    if (depth == 2) {
      std::string_view const document = key.substr(0, key.find('/'));  // a patch may name what lies deeper
      if (document.size() < key.size()) return state_.saw_part(document);
      if (value == "null") return state_.in_snapshot() ? Status{} : state_.saw_deletion(key);
      return state_.saw(key, whole ? json_digest(value).value_or("") : "");
    }
    if (depth == 1 && key == "path") {
      path_.clear();
      return append_unquoted(path_, value) ? Status{} : Status::temporary("a path that is no text");
    }
    if (depth != 1 || key != "data") return {};
    if (path_.empty()) return Status::temporary(public_url(collection_.url()) + ": data without a path before it");
    if (path_ == "/") {  // nothing is there any more, or no collection
      if (value != "null") say_warning(public_url(collection_.url()) + ": is a scalar, not a collection");
      return state_.begin_snapshot();
    }
    std::string_view const document = std::string_view(path_).substr(1, path_.find('/', 1) - 1);
    if (document.size() + 1 < path_.size() || event_ == "patch") return state_.saw_part(document);
    if (value == "null") return state_.saw_deletion(document);
    return state_.saw(document, whole ? json_digest(value).value_or("") : "");
  }

 private:
  // A failure of the state, not of the stream, ends all.
  Status state_error(Status status) {
    if (status.code() == Code::defect || status.code() == Code::closed) ended_ = status;
    return status.code() == Code::usage ? Status::temporary(public_url(collection_.url()) + ": " + status.what())
                                        : status;
  }

  Status end_snapshot() {
    bool const first = !state_.has_baseline();
    if (Status status = state_.end_snapshot(); !status.ok()) return status;
    if (!connected_) {
      if (Status status = first ? Status{} : tell_fetched(); !status.ok()) return status;
      if (Status status = keep_marks(); !status.ok()) return status;
    }
    ever_ = connected_ = true;
    renewed_ = false;
    if (first)
      say_info(fmt::format("{}: the baseline is durable, of {} documents: what changes from now on is told",
                           collection_.name(), state_.seen_count()));
    return {};
  }

  // ---- what may have been fetched unseen

  Status take_marks() {
    marks_.clear();
    for (Fetches const& fetches : options_.fetches) {
      auto mark = fetches.mark();
      if (!mark) return mark.status();
      marks_.push_back(std::move(*mark));
    }
    marked_ = turned_ = io_.clock.steady();
    return {};
  }

  Status keep_marks() {
    for (std::size_t i = 0; i < marks_.size(); ++i) {
      if (Status status = state_.set_seen_until(options_.fetches[i].subscriber(), marks_[i]); !status.ok())
        return status;
    }
    return {};
  }

  // Something whole has come. After a standstill it may have lain here for long.
  Status prove() {
    Duration const now = io_.clock.steady();
    if (options_.fetches.empty() || !connected_ || now - marked_ < options_.silence || stood_still(now)) return {};
    if (Status status = keep_marks(); !status.ok()) return status;
    return take_marks();
  }

  [[nodiscard]] bool stood_still(Duration now) const { return now - turned_ > options_.silence / 2; }

  Status tell_fetched() {
    std::uint64_t count = 0;
    std::string scratch, other;
    for (Fetches const& fetches : options_.fetches) {
      auto const mark = state_.seen_until(fetches.subscriber());
      if (!mark) return mark.status();
      Status status = fetches.since(*mark, [&](Record const& event) {
        std::string_view const key = event.text("subject", scratch);
        if (!rtdb_key_fault(key).empty()) return Status{};
        if (event.text("source", other) != collection_.source() &&
            event.text("dataref", other) != collection_.document(key))
          return Status{};
        ++count;
        return state_.doubt(key);
      });
      if (!status.ok()) return status;
    }
    if (count > 0)
      say_info(fmt::format("{}: {} event{} may have been fetched while nobody listened: told again", collection_.name(),
                           count, count == 1 ? "" : "s"));
    return {};
  }

  // Makes durable what was seen, and only then events of it.
  Status turn() {
    Duration const now = io_.clock.steady();
    if (connected_ && stood_still(now)) {
      if (Status status = take_marks(); !status.ok()) return status;
    }
    turned_ = now;
    if (state_.dirty() && (!state_.in_snapshot() || now - committed_ > kSnapshotCommit)) {
      if (Status status = state_.commit(); !status.ok()) return status;
      committed_ = now;
    }
    if (std::uint64_t const cursor = outlet_.cursor(); cursor > settled_ && !state_.in_snapshot()) {
      settled_ = cursor;
      if (Status status = state_.settled(cursor); !status.ok()) return status;
      if (Status status = state_.commit(); !status.ok()) return status;
    }
    if (state_.dirty()) return {};
    while (outlet_.ready()) {
      auto const pending = state_.pending(next_, kPutAtOnce);
      if (!pending) return pending.status();
      for (auto const& one : *pending) {
        outlet_.seek(one.position);
        state_.put_out(next_ = one.position + 1);
        Status status = outlet_.take(rtdb_event(
            collection_, {fmt::format("listen/{}/{}", state_.id(), one.position), one.key, one.deleted, one.recorded}));
        if (!status.ok()) return status;
        if (++count_ == options_.limit) {
          if (Status flushed = outlet_.flush(); !flushed.ok()) return flushed;
          return {Code::stopped, "enough"};
        }
      }
      if (pending->size() < kPutAtOnce) break;
    }
    return outlet_.flush();
  }

  Status conclude(Status status) {
    Status committed = state_.commit();
    return committed.ok() ? status : committed;
  }

  Io& io_;
  RtdbCollection const& collection_;
  RtdbClient& client_;
  ListenOptions const& options_;
  ListenState& state_;
  Outlet& outlet_;
  JsonSplitter splitter_;
  EventStream events_;
  std::string event_, path_, reason_;
  Status problem_, ended_;
  std::uint64_t next_ = 0, settled_ = 0, count_ = 0;
  Duration committed_{};
  std::vector<std::string> marks_;  // of options_.fetches
  Duration marked_{}, turned_{};    // when they were taken; of the last turn
  bool revoked_ = false, renewed_ = false, connected_ = false, ever_ = false;
};

}  // namespace

Status listen(Io& io, RtdbCollection const& collection, RtdbClient& client, ListenOptions const& options,
              ListenState& state, Outlet& outlet) {
  return Listener(io, collection, client, options, state, outlet).run();
}

}  // namespace inflight

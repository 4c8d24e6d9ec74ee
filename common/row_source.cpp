#include "common/row_source.h"

#include <fmt/format.h>
#include <poll.h>

#include <optional>
#include <utility>

#include "common/messages.h"
#include "common/retry.h"
#include "common/stop.h"

namespace inflight {

namespace {

class Reading {
 public:
  Reading(Io& io, KeyedRows& rows, std::string const& name, Duration give_up)
      : io_(io), rows_(rows), name_(name), give_up_(give_up) {}

  Status run(Outlet& outlet) {
    after_ = outlet.mark();
    for (;;) {
      Status status = read(outlet);
      if (status.code() != Code::temporary) return status;
      if (status = wait(status.what()); !status.ok()) return status;
    }
  }

 private:
  Status read(Outlet& outlet) {
    std::string const done = after_;
    if (Status status = rows_.start(done); !status.ok()) return status;
    std::string line, key;
    for (bool skipped = false;;) {
      auto more = rows_.next(line, key);
      if (!more) return more.status();
      if (!*more) return {};
      if (key == done && !std::exchange(skipped, true)) continue;
      if (key == done || key == after_) return Status::usage(fmt::format("{}: two rows of key {}", name_, key));
      if (Status status = outlet.put(line, key); !status.ok()) return status;
      after_ = key;
      failing_since_.reset();
      if (stopping()) return {Code::stopped, "stopped"};
    }
  }

  Status wait(std::string const& why) {
    if (!failing_since_) {
      failing_since_ = io_.clock.steady();
      backoff_.reset();
      say_warning("waiting: " + why);
    }
    if (give_up_ > Duration::zero() && io_.clock.steady() - *failing_since_ > give_up_)
      return Status::temporary("gave up: " + why);
    pollfd stop{stop_fd(), POLLIN, 0};
    (void)::poll(&stop, 1, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(backoff_.next()).count()));
    return stopping() ? Status{Code::stopped, why} : Status{};
  }

  Io& io_;
  KeyedRows& rows_;
  std::string const& name_;
  Duration give_up_;
  std::string after_;  // the key of the last row
  std::optional<Duration> failing_since_;
  Backoff backoff_{std::chrono::milliseconds(100), std::chrono::seconds(30)};
};

}  // namespace

Status read_rows(Io& io, KeyedRows& rows, std::string const& name, Duration give_up, Outlet& outlet) {
  return Reading(io, rows, name, give_up).run(outlet);
}

Duration give_up_of(Duration asked, SourceOptions const& source) {
  return asked <= Duration::zero() && source.delivery.pipeline.empty() ? std::chrono::minutes(10) : asked;
}

}  // namespace inflight

// consume: give a subscriber the events of an exchange, through a pipeline, losing none.  Manual: man/consume.1
#include <fmt/format.h>
#include <poll.h>

#include "common/exchange.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/stop.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

struct Options {
  std::string exchange;
  std::string as;
  std::string from = "earliest";
  std::uint64_t limit = 0;
  bool optional = false, registering = false, remove = false, list = false, skip_damage = false;
  std::vector<std::string> check;
  DeliveryOptions delivery;
};

Exit failed(Status const& status) {
  if (status.code() != Code::closed) say_error(status.what());
  return status.exit();
}

std::string age(std::optional<Duration> lag) {
  return lag ? format_duration(std::chrono::duration_cast<std::chrono::seconds>(*lag)) : "0s";
}

Exit list(Io& io, Options const& options) {
  auto subscribers = list_subscribers(io.clock, options.exchange);
  if (!subscribers) return failed(subscribers.status());
  Status status = io.out.line(fmt::format("{:<20} {:>12} {:>10} {:>10} {:>7} {:>7}  {}", "SUBSCRIBER", "CURSOR",
                                          "BEHIND", "LAG", "DEAD", "LOST", "STATE"));
  for (Subscriber const& s : *subscribers) {
    std::string state = s.running ? "running" : "stopped";
    if (s.optional) state += ", optional";
    if (!s.note.empty()) state += "; " + s.note;
    if (status.ok()) {
      status = io.out.line(fmt::format("{:<20} {:>12} {:>10} {:>10} {:>7} {:>7}  {}", s.name, s.cursor, s.behind,
                                       age(s.lag), s.dead, s.lost, state));
    }
  }
  return status.ok() ? Exit::ok : failed(status);
}

// `lag=5m,dead=0,behind=1000,lost=0`: silent, or one line and 1.
Exit check(Io& io, Cli& cli, Options const& options) {
  auto subscribers = list_subscribers(io.clock, options.exchange);
  if (!subscribers) return failed(subscribers.status());
  std::string faults;
  bool found = options.as.empty();
  std::string const conditions = fmt::format("{}", fmt::join(options.check, ","));
  for (std::size_t begin = 0; begin <= conditions.size();) {
    std::size_t const end = std::min(conditions.find(',', begin), conditions.size());
    std::string const word = conditions.substr(begin, end - begin);
    begin = end + 1;
    std::size_t const equals = std::min(word.find('='), word.size());
    std::string const name = word.substr(0, equals), value = word.substr(std::min(equals + 1, word.size()));
    auto const lag = parse_duration(name == "lag" ? value : "0s");
    auto const count = parse_size(name == "lag" ? "0" : value);
    if (!lag || !count || (name != "lag" && name != "dead" && name != "behind" && name != "lost")) {
      return cli.wrong(fmt::format("--check '{}': lag=DURATION, dead=N, behind=N, lost=N, joined by commas", word));
    }
    for (Subscriber const& s : *subscribers) {
      if (!options.as.empty() && s.name != options.as) continue;
      found = true;
      std::string fault;
      if (name == "lag" && s.lag.value_or(Duration::zero()) > *lag) fault = fmt::format("lags by {}", age(s.lag));
      if (name == "dead" && s.dead > *count) fault = fmt::format("has {} dead letters", s.dead);
      if (name == "behind" && s.behind > *count) fault = fmt::format("is {} events behind", s.behind);
      if (name == "lost" && s.lost > *count) fault = fmt::format("has lost {} events", s.lost);
      if (!fault.empty()) faults += fmt::format("{}{} {}", faults.empty() ? "" : "; ", s.name, fault);
    }
  }
  if (!found) return cli.wrong(fmt::format("{} has no subscriber {}", options.exchange, options.as));
  if (faults.empty()) return Exit::ok;
  say_error(fmt::format("{}: {}", options.exchange, faults));
  return Exit::rejected;
}

// Without a pipeline: the events on standard output; settled once they are written there.
Exit print(Io& io, EventSource& source, Ledger& ledger, Options const& options) {
  auto reader = source.reader();
  if (!reader) return failed(reader.status());
  EventReader::Event event;
  Duration saved = io.clock.steady(), ticked{};
  for (;;) {
    if (io.clock.steady() - ticked > std::chrono::seconds(1)) {
      ticked = io.clock.steady();
      if (Status status = source.tick(); !status.ok()) return failed(status);
    }
    std::uint64_t const cursor = ledger.cursor();
    auto got = (*reader)->read(cursor, event);
    if (!got) {
      // What came before it is written, and settled.
      Status written = io.out.flush();
      if (written.ok()) written = ledger.save();
      if (!written.ok()) say_error(written.what());
      return failed(got.status());
    }
    if (*got == EventReader::Got::event) {
      if (Status status = io.out.line(event.line); !status.ok()) return failed(status);
      ++counters().records;
      ledger.settle(cursor, event.position);
    }
    bool const idle = *got != EventReader::Got::event;
    if (idle || io.clock.steady() - saved > std::chrono::seconds(1) || stopping()) {
      saved = io.clock.steady();
      if (Status status = io.out.flush(); !status.ok()) return failed(status);
      if (Status status = ledger.save(); !status.ok()) return failed(status);
    }
    if (stopping()) return stop_signal() == 2 ? Exit::interrupted : Exit::terminated;
    if (*got == EventReader::Got::end || (idle && options.delivery.until_empty)) return Exit::ok;
    if (!idle) continue;
    pollfd fds[2] = {{stop_fd(), POLLIN, 0}, {source.wait_fd(), POLLIN, 0}};
    ::poll(fds, 2, 500);
    source.clear_wait();
  }
}

Exit consume(Io& io, Options& options) {
  SubscriberFiles const files(options.exchange, options.as);
  if (options.remove) {
    Status const status = remove_subscriber(io.disk, files);
    return status.ok() ? Exit::ok : failed(status);
  }
  if (Status status = register_subscriber(io.disk, io.clock, files, options.from, options.optional); !status.ok())
    return failed(status);
  if (options.registering) {
    Status const status = set_optional(io.disk, files, options.optional);
    return status.ok() ? Exit::ok : failed(status);
  }
  auto lock = files.take();
  if (!lock) return failed(lock.status());
  auto ledger = open_ledger(io.disk, io.clock, files);
  if (!ledger) return failed(ledger.status());
  auto source = JournalSource::open(io, files, **ledger, options.limit);
  if (!source) return failed(source.status());
  if (options.skip_damage) (*source)->skip_damage();
  options.delivery.run_lock = files.run_lock();
  if (options.delivery.pipeline.empty()) return print(io, **source, **ledger, options);
  return deliver(io, **source, **ledger, options.delivery);
}

Exit run(Cli& cli, Io& io) {
  Options options;
  cli.purpose("Run a pipeline on the events of an exchange as a subscriber; each is settled, or delivered again.",
              {"consume fleet/ --as data -- 'xml2json | sql-write sqlite:fleet.db'",
               "consume fleet/ --as backfill --until-empty -- s3-archive put archive/",
               "consume fleet/ --check lag=5m,dead=0"});
  cli.positional("EXCHANGE", options.exchange, "a folder (the journal)");
  cli.option("--as", options.as, "the subscriber's name");
  cli.option("--from", options.from, "where a new subscriber begins: earliest, latest, a time, a position");
  cli.flag("--until-empty", options.delivery.until_empty, "end when every event is settled, instead of following");
  cli.option("--limit", options.limit, "end after so many events");
  cli.flag("--optional", options.optional,
           "a new subscriber is parked, rather than blocking publishers, when the exchange is full");
  cli.flag("--register", options.registering, "only make the subscriber, or make it optional, or not");
  cli.flag("--remove", options.remove, "end the subscriber: its cursor and dead letters are deleted");
  cli.flag("--list", options.list, "show all subscribers");
  cli.option("--check", options.check, "exit 1 with one line unless lag=DURATION, dead=N, behind=N, lost=N hold");
  cli.flag("--skip-damage", options.skip_damage, "pass over what is damaged in the journal, and record it as lost");
  options.delivery.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  if (Status status = check_exchange_name(options.exchange); !status.ok()) return cli.wrong(status.what());
  if (auto info = journal_info(options.exchange); !info) return failed(info.status());
  if (!options.as.empty()) {
    if (Status status = check_subscriber_name(options.as); !status.ok()) return cli.wrong(status.what());
  }
  // A pipeline that nobody runs is no success.
  bool const looks = options.list || !options.check.empty();
  if (looks && !options.delivery.pipeline.empty()) return cli.wrong("--list and --check run no pipeline");
  if (options.list) return list(io, options);
  if (!options.check.empty()) return check(io, cli, options);
  if (options.as.empty()) return cli.wrong("--as NAME is required: the subscriber's name");
  Progress const progress(cli.common());
  return consume(io, options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

// dlq-replay: look at a subscriber's dead letters, and deliver them again.  Manual: man/dlq-replay.1
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "common/exchange.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/reader.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

struct Options {
  std::string exchange, as, reason, subject;
  std::optional<Time> from, to;
  std::uint64_t limit = 0, max_attempts = 10;
  bool summary = false, dry_run = false, exporting = false;
  DeliveryOptions delivery;
};

Exit failed(Status const& status) {
  if (status.code() != Code::closed) say_error(status.what());
  return status.exit();
}

std::string subject_of(DeadLetter const& letter) {
  nlohmann::json const event = nlohmann::json::parse(letter.event, nullptr, false);
  return event.is_object() && event.contains("subject") && event["subject"].is_string()
             ? event["subject"].get<std::string>()
             : "";
}

// The open letters that the options select, in order of position.
class Selection {
 public:
  Selection(Options const& options, DeadLetters const& letters) : options_(options), letters_(letters) {}

  template <typename Use>
  Status each(Use use) const {
    std::regex reason;
    try {
      reason = std::regex(options_.reason, std::regex::extended);
    } catch (std::regex_error const& error) {
      return Status::usage(fmt::format("--reason '{}': {}", options_.reason, error.what()));
    }
    std::uint64_t count = 0;
    for (auto const& [position, entry] : letters_.entries()) {
      if (!entry.open) continue;
      auto letter = letters_.read(entry);
      if (!letter) return letter.status();
      if (!options_.reason.empty() && !std::regex_search(letter->reason, reason)) continue;
      if ((options_.from && letter->time < *options_.from) || (options_.to && letter->time >= *options_.to)) continue;
      if (!options_.subject.empty() && subject_of(*letter) != options_.subject) continue;
      if (options_.limit != 0 && count++ >= options_.limit) break;
      if (Status status = use(*letter, entry); !status.ok()) return status;
    }
    return {};
  }

 private:
  Options const& options_;
  DeadLetters const& letters_;
};

// Reasons that differ in numbers and quoted words only are one group.
std::string group_of(DeadLetter const& letter) {
  static std::regex const varying("'[^']*'|\"[^\"]*\"|[0-9]+");
  return letter.by + ": " + std::regex_replace(letter.reason.substr(0, 200), varying, "…");
}

Exit summarise(Io& io, Selection const& selection) {
  struct Group {
    std::uint64_t count = 0;
    Time first, last;
    DeadLetter example;
  };
  std::map<std::string, Group> groups;
  Status status = selection.each([&](DeadLetter const& letter, DeadLetters::Entry const&) {
    Group& group = groups[group_of(letter)];
    if (group.count++ == 0) group.example = letter, group.first = letter.time;
    group.first = std::min(group.first, letter.time);
    group.last = std::max(group.last, letter.time);
    return Status{};
  });
  for (auto const& [name, group] : groups) {
    if (!status.ok()) break;
    status = io.out.line(fmt::format("{:>8}  {}  to {}  {}", group.count, format_rfc3339(group.first),
                                     format_rfc3339(group.last), name));
    std::string const example = group.example.event.substr(0, 200);
    if (status.ok()) {
      status = io.out.line(
          fmt::format("          e.g. position {}: {}: {}", group.example.position, group.example.reason, example));
    }
  }
  return status.ok() ? Exit::ok : failed(status);
}

Exit replay(Io& io, Options& options, SubscriberFiles const& files) {
  auto lock = options.delivery.pipeline.empty() ? Result<Fd>(Fd()) : files.take();
  if (!lock) return failed(lock.status());
  auto letters = DeadLetters::view(files.letters());
  if (!letters) return failed(letters.status());
  std::map<std::uint64_t, DeadLetters::Entry> chosen;
  std::uint64_t exhausted = 0;
  Status status = Selection(options, *letters).each([&](DeadLetter const& letter, DeadLetters::Entry const& entry) {
    if (entry.attempt >= options.max_attempts) return ++exhausted, Status{};
    chosen.emplace(letter.position, entry);
    return Status{};
  });
  if (!status.ok()) return failed(status);
  if (exhausted > 0) {
    say_warning(
        fmt::format("{} letters stay: each has failed {} times (--max-attempts)", exhausted, options.max_attempts));
  }
  if (chosen.empty()) return Exit::ok;
  if (status = request_replays(io.disk, files, chosen); !status.ok()) return failed(status);
  if (options.delivery.pipeline.empty()) {
    bool const running = lock_held(files.lock());
    say_info(fmt::format("{} letters go through {} again{}", chosen.size(), options.as,
                         running ? "" : " when it is started"));
    return Exit::ok;
  }
  auto ledger = open_ledger(io.disk, io.clock, files);
  if (!ledger) return failed(ledger.status());
  auto source = JournalSource::open(io, files, **ledger, 0);
  if (!source) return failed(source.status());
  // The letters, and what must follow them; nothing new. Where no other event is settled behind it the last letter is
  // the end.
  (*source)->end_at(std::max((*ledger)->reached(), chosen.rbegin()->first + 1));
  options.delivery.until_empty = true;
  options.delivery.run_lock = files.run_lock();
  return deliver(io, **source, **ledger, options.delivery);
}

Exit print(Io& io, Selection const& selection) {
  Status const status =
      selection.each([&](DeadLetter const& letter, DeadLetters::Entry const&) { return io.out.line(to_line(letter)); });
  return status.ok() ? Exit::ok : failed(status);
}

Exit run(Cli& cli, Io& io) {
  Options options;
  cli.purpose("Look at a subscriber's dead letters, and deliver them again.",
              {"dlq-replay fleet/ --as data --summary", "dlq-replay fleet/ --as data --reason 'no column' --dry-run",
               "dlq-replay fleet/ --as data --reason '^line ' -- 'fix-xml | xml2json | sql-write sqlite:fleet.db'"});
  cli.positional("EXCHANGE", options.exchange, "a folder (the journal)");
  cli.required("--as", options.as, "the subscriber's name");
  cli.flag("--summary", options.summary, "group letters by stage and reason: count, first, last, an example");
  cli.option("--reason", options.reason, "only letters whose reason matches this extended regular expression");
  cli.option("--from", options.from, "only letters written at or after this time");
  cli.option("--to", options.to, "only letters written before this time");
  cli.option("--subject", options.subject, "only letters of events with this subject");
  cli.option("--limit", options.limit, "at most so many letters");
  cli.option("--max-attempts", options.max_attempts, "leave letters that have failed so often where they are");
  cli.flag("--dry-run", options.dry_run, "show the letters that would be delivered again");
  cli.flag("--export", options.exporting, "write the letters to standard output");
  options.delivery.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  if (Status status = check_exchange_name(options.exchange); !status.ok()) return cli.wrong(status.what());
  if (auto info = journal_info(options.exchange); !info) return failed(info.status());
  SubscriberFiles const files(options.exchange, options.as);
  if (!files.exists()) return cli.wrong(fmt::format("{} has no subscriber {}", options.exchange, options.as));
  Progress const progress(cli.common());
  if (!options.summary && !options.dry_run && !options.exporting) return replay(io, options, files);
  auto letters = DeadLetters::view(files.letters());
  if (!letters) return failed(letters.status());
  Selection const selection(options, *letters);
  return options.summary ? summarise(io, selection) : print(io, selection);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

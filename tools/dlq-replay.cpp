// dlq-replay: look at a subscriber's dead letters, and deliver them again.  Manual: man/dlq-replay.1
#include <fmt/format.h>

#include "common/exchange.h"
#include "common/letters.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

struct Options {
  std::string exchange, as, import;
  LetterSelection selection;
  std::uint64_t max_attempts = 10;
  bool summary = false, dry_run = false, exporting = false, stale_ok = false;
  DeliveryOptions delivery;
};

Exit failed(Status const& status) {
  if (status.code() != Code::closed) say_error(status.what());
  return status.exit();
}

// The letters that are to be delivered again. Those that are not, though they are selected, are told.
class Choice {
 public:
  using Letters = std::map<std::uint64_t, DeadLetters::Entry>;

  Status make(Options const& options, DeadLetters const& letters, LetterSelection::Use const& also = {}) {
    auto const span = journal_span(options.exchange);
    if (!span) return span.status();
    return options.selection.each(letters, [&](DeadLetter& letter, DeadLetters::Entry const& entry) {
      if (entry.attempt >= options.max_attempts) return ++exhausted_, Result<bool>(false);
      if (!options.stale_ok && is_stale(letter, span->first)) return ++stale_, Result<bool>(false);
      chosen_.emplace(letter.position, entry);
      return also ? also(letter, entry) : Result<bool>(true);
    });
  }
  void tell(Options const& options) const {
    if (exhausted_ > 0) {
      say_warning(
          fmt::format("{} letters stay: each has failed {} times (--max-attempts)", exhausted_, options.max_attempts));
    }
    if (stale_ > 0)
      say_warning(fmt::format("{} letters stay: newer events of their keys may be gone (--stale-ok)", stale_));
  }
  [[nodiscard]] Letters const& letters() const { return chosen_; }

 private:
  Letters chosen_;
  std::uint64_t exhausted_ = 0, stale_ = 0;
};

Exit replay(Io& io, Options& options, SubscriberFiles const& files) {
  auto lock = options.delivery.pipeline.empty() ? Result<Fd>(Fd()) : files.take();
  if (!lock) return failed(lock.status());
  auto letters = DeadLetters::view(files.letters());
  if (!letters) return failed(letters.status());
  Choice choice;
  if (Status status = choice.make(options, *letters); !status.ok()) return failed(status);
  choice.tell(options);
  if (choice.letters().empty()) return Exit::ok;
  if (options.delivery.pipeline.empty()) {
    Status const status = Replays(files.replays()).request(io.disk, choice.letters(), options.stale_ok);
    if (!status.ok()) return failed(status);
    bool const running = lock_held(files.lock());
    say_info(fmt::format("{} letters go through {} again{}", choice.letters().size(), options.as,
                         running ? "" : " when it is started"));
    return Exit::ok;
  }
  auto ledger = open_ledger(io.disk, io.clock, files);
  if (!ledger) return failed(ledger.status());
  // Not through the side log: what others asked for is not for this pipeline.
  auto source = JournalSource::open(io, files, **ledger, 0, &choice.letters());
  if (!source) return failed(source.status());
  (*source)->end_at((*ledger)->reached());  // the letters, and what must follow them; nothing new
  options.delivery.until_empty = true;
  options.delivery.run_lock = files.run_lock();
  return deliver(io, **source, **ledger, options.delivery);
}

// --summary, --dry-run, --export: nothing moves.
Exit look(Io& io, Options const& options, SubscriberFiles const& files) {
  auto const letters = DeadLetters::view(files.letters());
  if (!letters) return failed(letters.status());
  auto print = [&](DeadLetter& letter, DeadLetters::Entry const&) -> Result<bool> {
    if (Status status = io.out.line(to_line(std::move(letter))); !status.ok()) return status;
    return true;
  };
  Choice choice;
  Status const status = options.summary     ? summarise_letters(io.out, *letters, options.selection)
                        : options.exporting ? options.selection.each(*letters, print)
                                            : choice.make(options, *letters, print);
  choice.tell(options);
  return status.ok() ? Exit::ok : failed(status);
}

Exit import(Io& io, Options const& options, SubscriberFiles const& files) {
  auto const imported = import_letters(io, files, options.import);
  if (!imported) return failed(imported.status());
  say_info(fmt::format("{} of {} letters are new here", imported->added, imported->read));
  return Exit::ok;
}

Exit run(Cli& cli, Io& io) {
  Options options;
  cli.purpose("Look at a subscriber's dead letters, and deliver them again.",
              {"dlq-replay fleet/ --as data --summary", "dlq-replay fleet/ --as data --reason 'no column' --dry-run",
               "dlq-replay fleet/ --as data --reason nbsp -- 'sed -u \"s/&nbsp;/ /g\" | xml2json | sql-write "
               "sqlite:fleet.db'"});
  cli.positional("EXCHANGE", options.exchange, "a folder (the journal)");
  cli.required("--as", options.as, "the subscriber's name");
  cli.flag("--summary", options.summary, "group letters by stage and reason: count, first, last, an example");
  options.selection.add_to(cli);
  cli.option("--max-attempts", options.max_attempts, "leave letters that have failed so often where they are");
  cli.flag("--stale-ok", options.stale_ok,
           "also letters whose event is gone from the exchange, with what may have been newer");
  cli.flag("--dry-run", options.dry_run, "show the letters that would be delivered again");
  cli.flag("--export", options.exporting, "write the letters to standard output");
  cli.option("--import", options.import,
             "take in the letters of an --export ('-': standard input), those that do not stand here");
  options.delivery.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  if (Status status = check_exchange_name(options.exchange); !status.ok()) return cli.wrong(status.what());
  if (auto info = journal_info(options.exchange); !info) return failed(info.status());
  if (Status status = check_subscriber_name(options.as); !status.ok()) return cli.wrong(status.what());
  SubscriberFiles const files(options.exchange, options.as);
  if (!files.exists()) return cli.wrong(fmt::format("{} has no subscriber {}", options.exchange, options.as));
  Progress const progress(cli.common());
  if (!options.import.empty()) return import(io, options, files);
  bool const looking = options.summary || options.dry_run || options.exporting;
  return looking ? look(io, options, files) : replay(io, options, files);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

// dlq-replay: look at a subscriber's dead letters, and deliver them again.  Manual: man/dlq-replay.1
#include <fcntl.h>
#include <fmt/format.h>
#include <regex.h>

#include <algorithm>
#include "common/exchange.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/reader.h"
#include "common/record.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

struct Options {
  std::string exchange, as, reason, subject, import;
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
  std::string padded(letter.event), scratch;
  padded.resize(letter.event.size() + kRecordPadding);
  RecordParser parser;
  Record event;
  if (!parser.parse({padded.data(), letter.event.size()}, event).ok()) return "";
  return std::string(event.text("subject", scratch));
}

// POSIX's, not std::regex: that one is slow, and its recursion follows the text's length.
class Pattern {
 public:
  Pattern() = default;
  Pattern(Pattern const&) = delete;
  Pattern& operator=(Pattern const&) = delete;
  ~Pattern() {
    if (set_) ::regfree(&regex_);
  }
  Status set(std::string const& text) {
    int const error = ::regcomp(&regex_, text.c_str(), REG_EXTENDED | REG_NOSUB);
    set_ = error == 0;
    if (set_) return {};
    char why[200];
    ::regerror(error, &regex_, why, sizeof why);
    return Status::usage(fmt::format("--reason '{}': {}", text, why));
  }
  [[nodiscard]] bool found_in(std::string const& text) const {
    return !set_ || ::regexec(&regex_, text.c_str(), 0, nullptr, 0) == 0;
  }

 private:
  regex_t regex_{};
  bool set_ = false;
};

// The open letters that the options select, in order of position.
class Selection {
 public:
  Selection(Options const& options, DeadLetters const& letters) : options_(options), letters_(letters) {}

  template <typename Use>
  Status each(Use use) const {
    Pattern reason;
    if (!options_.reason.empty()) {
      if (Status status = reason.set(options_.reason); !status.ok()) return status;
    }
    std::uint64_t count = 0;
    for (auto const& [position, entry] : letters_.entries()) {
      if (!entry.open) continue;
      auto letter = letters_.read(entry);
      if (!letter) return letter.status();
      if (!reason.found_in(letter->reason)) continue;
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
  std::string_view const reason = std::string_view(letter.reason).substr(0, 200);
  auto digit = [](char c) { return c >= '0' && c <= '9'; };
  std::string group = letter.by + ": ";
  for (std::size_t i = 0; i < reason.size();) {
    std::size_t end = i;
    if (reason[i] == '\'' || reason[i] == '"') {
      std::size_t const quote = reason.find(reason[i], i + 1);
      if (quote != std::string_view::npos) end = quote + 1;
    } else {
      while (end < reason.size() && digit(reason[end])) ++end;
    }
    if (end == i) {
      group += reason[i++];
    } else {
      group += "…";
      i = end;
    }
  }
  return group;
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
  if (options.delivery.pipeline.empty()) {
    if (status = request_replays(io.disk, files, chosen); !status.ok()) return failed(status);
    bool const running = lock_held(files.lock());
    say_info(fmt::format("{} letters go through {} again{}", chosen.size(), options.as,
                         running ? "" : " when it is started"));
    return Exit::ok;
  }
  auto ledger = open_ledger(io.disk, io.clock, files);
  if (!ledger) return failed(ledger.status());
  // Not through the side log: what others asked for is not for this pipeline.
  auto source = JournalSource::open(io, files, **ledger, 0, &chosen);
  if (!source) return failed(source.status());
  (*source)->end_at((*ledger)->reached());  // the letters, and what must follow them; nothing new
  options.delivery.until_empty = true;
  options.delivery.run_lock = files.run_lock();
  return deliver(io, **source, **ledger, options.delivery);
}

// Letters of an --export become open letters of this subscriber, but those that stood here at this attempt or a later
// one.
Exit import(Io& io, Options const& options, SubscriberFiles const& files) {
  auto lock = files.take();
  if (!lock) return failed(lock.status());
  auto ledger = open_ledger(io.disk, io.clock, files);
  if (!ledger) return failed(ledger.status());
  Fd file;
  if (options.import != "-") {
    auto opened = io.disk.open(options.import, O_RDONLY);
    if (!opened) return failed(Status::usage(opened.status().what()));
    file = std::move(*opened);
  }
  Reader reader(file ? file.get() : 0, options.import, kMaxRecord * 2, false);
  std::uint64_t const open_before = (*ledger)->letters().open_count();
  std::uint64_t read = 0;
  std::optional<JournalReader> journal;
  std::vector<DeadLetter> letters;
  std::size_t bytes = 0;
  auto store = [&] {
    Status const status = (*ledger)->dead(letters);
    letters.clear();
    bytes = 0;
    return status;
  };
  for (Line line;;) {
    auto got = reader.next(line);
    if (!got) return failed(got.status());
    if (*got != Reader::Wait::line) break;
    auto letter = parse_dead_letter(line.text);
    std::string fault = !letter ? letter.status().what() : "";
    if (line.too_long) fault = "too long";
    if (fault.empty() && !(*ledger)->settled(letter->position)) {
      fault = fmt::format("{} has not come to position {} yet", options.as, letter->position);
    }
    if (fault.empty()) {
      if (!journal) {
        if (auto opened = JournalReader::open(options.exchange, letter->position)) journal = std::move(*opened);
      } else if (journal->position() != letter->position && !journal->seek(letter->position).ok()) {
        journal.reset();
      }
      auto event = journal ? journal->next() : Result<std::optional<JournalReader::Event>>(std::nullopt);
      if (event && *event && (*event)->position == letter->position && (*event)->line != letter->event) {
        fault = fmt::format("position {} of this exchange is another event", letter->position);
      }
    }
    if (!fault.empty()) {
      if (Status status = store(); !status.ok()) return failed(status);
      return failed(Status::usage(fmt::format("{}: line {}: {}", options.import, line.number, fault)));
    }
    ++read;
    bytes += letter->event.size();
    letters.push_back(std::move(*letter));
    if (letters.size() >= 1000 || bytes > (4 << 20)) {
      if (Status status = store(); !status.ok()) return failed(status);
    }
  }
  if (Status status = store(); !status.ok()) return failed(status);
  if (Status status = (*ledger)->save(); !status.ok()) return failed(status);
  say_info(fmt::format("{} of {} letters are new here", (*ledger)->letters().open_count() - open_before, read));
  return Exit::ok;
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
  if (!options.summary && !options.dry_run && !options.exporting) return replay(io, options, files);
  auto letters = DeadLetters::view(files.letters());
  if (!letters) return failed(letters.status());
  Selection const selection(options, *letters);
  return options.summary ? summarise(io, selection) : print(io, selection);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

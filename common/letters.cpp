#include "common/letters.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <regex.h>

#include <algorithm>
#include <map>
#include <vector>

#include "common/reader.h"
#include "common/record.h"
#include "common/writer.h"

namespace inflight {
namespace {

std::string subject_of(DeadLetter& letter) {
  std::string scratch;
  RecordParser parser;
  Record event;
  if (!parser.parse_padded(letter.event, event).ok()) return "";
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

// Why this letter cannot be taken in; empty: nothing speaks against it.
std::string fault_of(DeadLetter const& letter, Ledger const& ledger, SubscriberFiles const& files,
                     std::optional<JournalReader>& journal) {
  if (!ledger.settled(letter.position))
    return fmt::format("{} has not come to position {} yet", files.name(), letter.position);
  if (!journal) {
    if (auto opened = JournalReader::open(files.exchange(), letter.position)) journal = std::move(*opened);
  } else if (journal->position() != letter.position && !journal->seek(letter.position).ok()) {
    journal.reset();
  }
  // Where the event is gone nobody can tell.
  auto const event = journal ? journal->next() : Result<std::optional<JournalReader::Event>>(std::nullopt);
  bool const other = event && *event && (*event)->position == letter.position && (*event)->line != letter.event;
  return other ? fmt::format("position {} of this exchange is another event", letter.position) : "";
}

}  // namespace

void LetterSelection::add_to(Cli& cli) {
  cli.option("--reason", reason, "only letters whose reason matches this extended regular expression");
  cli.option("--from", from, "only letters written at or after this time");
  cli.option("--to", to, "only letters written before this time");
  cli.option("--subject", subject, "only letters of events with this subject");
  cli.option("--limit", limit, "at most so many letters");
}

Status LetterSelection::each(DeadLetters const& letters, Use const& use) const {
  Pattern pattern;
  if (!reason.empty()) {
    if (Status status = pattern.set(reason); !status.ok()) return status;
  }
  std::uint64_t count = 0;
  for (auto const& [position, entry] : letters.entries()) {
    if (limit != 0 && count >= limit) break;
    if (!entry.open) continue;
    auto letter = letters.read(entry);
    if (!letter) return letter.status();
    if (!pattern.found_in(letter->reason)) continue;
    if ((from && letter->time < *from) || (to && letter->time >= *to)) continue;
    if (!subject.empty() && subject_of(*letter) != subject) continue;
    auto const used = use(*letter, entry);
    if (!used) return used.status();
    if (*used) ++count;
  }
  return {};
}

Status summarise_letters(Writer& out, DeadLetters const& letters, LetterSelection const& selection) {
  struct Group {
    std::uint64_t count = 0;
    Time first, last;
    std::string example;
  };
  std::map<std::string, Group> groups;
  Status status = selection.each(letters, [&](DeadLetter& letter, DeadLetters::Entry const&) {
    Group& group = groups[group_of(letter)];
    if (group.count++ == 0) {
      group.first = letter.time;
      group.example = fmt::format("position {}: {}: {}", letter.position, letter.reason,
                                  std::string_view(letter.event).substr(0, 200));
    }
    group.first = std::min(group.first, letter.time);
    group.last = std::max(group.last, letter.time);
    return true;
  });
  for (auto const& [name, group] : groups) {
    if (!status.ok()) break;
    status = out.line(fmt::format("{:>8}  {}  to {}  {}", group.count, format_rfc3339(group.first),
                                  format_rfc3339(group.last), name));
    if (status.ok()) status = out.line("          e.g. " + group.example);
  }
  return status;
}

Result<Imported> import_letters(Io& io, SubscriberFiles const& files, std::string const& path) {
  auto const lock = files.take();
  if (!lock) return lock.status();
  auto ledger = open_ledger(io.disk, io.clock, files);
  if (!ledger) return ledger.status();
  Fd file;
  if (path != "-") {
    auto opened = io.disk.open(path, O_RDONLY);
    if (!opened) return Status::usage(opened.status().what());
    file = std::move(*opened);
  }
  Reader reader(file ? file.get() : 0, path, kMaxRecord * 2, false);
  std::uint64_t const open_before = (*ledger)->letters().open_count();
  Imported imported;
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
    auto const got = reader.next(line);
    if (!got) return got.status();
    if (*got != Reader::Wait::line) break;
    auto letter =
        line.too_long ? Result<DeadLetter>(Status::rejected("too long")) : parse_dead_letter(std::string(line.text));
    std::string const fault = letter ? fault_of(*letter, **ledger, files, journal) : letter.status().what();
    if (!fault.empty()) {
      if (Status status = store(); !status.ok()) return status;
      return Status::usage(fmt::format("{}: line {}: {}", path, line.number, fault));
    }
    if (letter->event.size() > kLongRecord) reader.release(), journal.reset();
    ++imported.read;
    bytes += letter->event.size();
    letters.push_back(std::move(*letter));
    if (letters.size() >= 1000 || bytes > (4 << 20)) {
      if (Status status = store(); !status.ok()) return status;
    }
  }
  if (Status status = store(); !status.ok()) return status;
  if (Status status = (*ledger)->save(); !status.ok()) return status;
  imported.added = (*ledger)->letters().open_count() - open_before;
  return imported;
}

}  // namespace inflight

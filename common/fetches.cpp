#include "common/fetches.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <unordered_set>
#include <vector>

#include "common/dead_letter.h"
#include "common/journal.h"
#include "common/ledger.h"
#include "common/messages.h"
#include "common/receipts.h"

namespace inflight {

namespace {

struct Mark {
  std::string journal;
  std::uint64_t letters = 0;  // bytes of their file
  Ranges settled;
};

Ranges settled_of(LedgerView const& view) {
  Ranges settled = view.settled;
  if (view.cursor > 0) settled.add(0, view.cursor - 1);
  return settled;
}

Result<Mark> parse(std::string_view text) {
  Mark mark;
  if (text.empty()) return mark;
  std::size_t const first = text.find(' '), second = text.find(' ', first + 1);
  std::vector<Position> positions;
  if (second == std::string_view::npos ||
      std::from_chars(text.data() + first + 1, text.data() + second, mark.letters).ec != std::errc{} ||
      (second + 1 < text.size() && !parse_positions(text.substr(second + 1), positions)))
    return Status::defect("a damaged mark of what was fetched");
  mark.journal = text.substr(0, first);
  for (Position const& position : positions) mark.settled.add(position.first, position.last);
  return mark;
}

// Tells an event, and those of its partition key behind it: where it is delivered again, they follow it again. Where
// the key is the subject they name the same document.
class Teller {
 public:
  explicit Teller(std::function<Status(Record const&)> const& each) : each_(each) {}

  Status see(std::string_view line, bool fetched) {
    Record record;
    if (!parser_.parse(line, record).ok()) return {};
    Value const key = record.attribute("partitionkey");
    if (fetched && key) keys_.emplace(key.raw);
    return fetched || (key && keys_.contains(std::string(key.raw))) ? each_(record) : Status{};
  }

 private:
  std::function<Status(Record const&)> const& each_;
  RecordParser parser_;
  std::unordered_set<std::string> keys_;
};

}  // namespace

Result<std::string> Fetches::mark() const {
  if (!files_.exists()) return std::string();
  auto const info = journal_info(files_.exchange());
  if (!info) return info.status();
  // The letters first: one that is closed between the two reads counts as closed since.
  auto const letters = DeadLetters::end(files_.letters());
  if (!letters) return letters.status();
  auto const view = view_ledger(files_.state());
  if (!view) return view.status();
  return fmt::format("{} {} {}", info->id, *letters, settled_of(*view).text());
}

Status Fetches::since(std::string const& text, std::function<Status(Record const&)> const& each) const {
  if (!files_.exists()) return {};
  auto mark = parse(text);
  if (!mark) return mark.status();
  auto const info = journal_info(files_.exchange());
  if (!info) return info.status();
  if (info->id != mark->journal) *mark = {};
  // The letters last: one that is settled by now was closed before.
  auto const view = view_ledger(files_.state());
  if (!view) return view.status();
  Ranges const settled = settled_of(*view);
  auto const letters = DeadLetters::view(files_.letters());
  if (!letters) return letters.status();
  auto const span = journal_span(files_.exchange());
  if (!span) return span.status();

  Teller teller(each);
  std::uint64_t first = std::min(mark->settled.next_missing(0), settled.next_missing(0));
  if (first < span->first) first = span->first;
  Ranges replayed;
  for (auto const& [position, entry] : letters->entries()) {
    bool const again = entry.told >= mark->letters;
    if (!again && settled.contains(position)) continue;
    replayed.add(position, position);
    if (position >= span->first) {
      first = std::min(first, position);
      continue;
    }
    auto const letter = letters->read(entry);  // the journal has it no more
    if (!letter) return letter.status();
    std::string line = letter->event;
    line.reserve(line.size() + kRecordPadding);
    if (Status status = teller.see(line, true); !status.ok()) return status;
  }
  if (mark->settled.next_missing(0) < span->first)
    say_warning(fmt::format("{}: events are gone that {} may have fetched while nobody listened: reconcile",
                            files_.exchange(), files_.name()));

  std::uint64_t const end = std::min(span->end, view->reach);
  if (first >= end) return {};
  auto reader = JournalReader::open(files_.exchange(), first);
  if (!reader) return reader.status();
  while (reader->position() < end) {
    auto const event = reader->next();
    if (!event && event.status().code() == Code::defect) {
      if (auto const damage = reader->skip_damage(); !damage) return damage.status();
      continue;  // nobody can have fetched it
    }
    if (!event) return event.status();
    if (!*event || (*event)->position >= end) break;
    std::uint64_t const position = (*event)->position;
    bool const fetched =
        !mark->settled.contains(position) || !settled.contains(position) || replayed.contains(position);
    if (Status status = teller.see((*event)->line, fetched); !status.ok()) return status;
  }
  return {};
}

}  // namespace inflight

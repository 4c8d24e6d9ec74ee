#include "common/ledger.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

namespace inflight {

namespace {

using nlohmann::ordered_json;

constexpr std::uint64_t kReachStep = 1000;  // doubled while a second is not enough for it

Result<ordered_json> read_state(std::string const& path) {
  auto text = read_file(path);
  if (!text) return text.status();
  ordered_json state = ordered_json::parse(*text, nullptr, false);
  if (state.is_discarded() || !state.is_object() || !state.contains("cursor") ||
      !state["cursor"].is_number_unsigned()) {
    return Status::defect(path + ": damaged, no state of a source");
  }
  if (int const version = state.value("version", 0); version != 1) {
    return Status::usage(fmt::format("{}: format version {} is newer than this program's 1", path, version));
  }
  return state;
}

}  // namespace

bool Pieces::add(std::string_view pieces) {
  if (!pieces.starts_with('/')) return true;
  std::uint64_t number = 0;
  auto const [end, error] = std::from_chars(pieces.data() + 1, pieces.data() + pieces.size(), number);
  if (error != std::errc{} || number == 0) return false;
  pieces.remove_prefix(static_cast<std::size_t>(end - pieces.data()));
  if (pieces.starts_with('.')) {
    last_ = number;
    pieces.remove_prefix(1);
  }
  if (pieces.empty() || open_[number].add(pieces)) {
    done_.add(number, number);
    open_.erase(number);
  }
  return complete();
}

Result<std::unique_ptr<Ledger>> Ledger::open(Disk& disk, Clock& clock, std::string const& path,
                                             std::string const& letters, std::string const& source,
                                             std::uint64_t first) {
  std::unique_ptr<Ledger> ledger(new Ledger);
  ledger->disk_ = &disk;
  ledger->clock_ = &clock;
  ledger->path_ = path;
  ledger->source_ = source;
  ledger->cursor_ = first;
  if (!path.empty() && exists(path)) {
    auto state = read_state(path);
    if (!state) return state.status();
    if (std::string const named = state->value("source", ""); named != source) {
      return Status::usage(fmt::format("{}: is the state of {}, not of {}", path, named, source));
    }
    ledger->cursor_ = (*state)["cursor"];
    ledger->stored_ = state->value("stored", std::uint64_t{0});
    ledger->was_clean_ = state->value("clean", true);
    ledger->complete_ = state->value("complete", false);
    ledger->mark_ = state->value("mark", "");
    std::vector<Position> positions;
    std::string const settled = state->value("settled", "");
    if (!settled.empty() && !parse_positions(settled, positions))
      return Status::defect(path + ": damaged list of positions");
    for (Position const& position : positions) ledger->settled_.add(position.first, position.last);
    ledger->reach_ = std::max(state->value("reach", std::uint64_t{0}), ledger->reached());
    if (state->contains("attempts")) {
      for (auto const& [position, value] : (*state)["attempts"].items()) {
        ledger->attempts_[std::stoull(position)] = {
            value.value("failures", std::uint64_t{0}), value.value("stored_before", std::uint64_t{0}),
            value.value("deaths", std::uint64_t{0}), static_cast<Attempts::Running>(value.value("running", 0) % 3)};
      }
    }
  }
  ledger->saved_cursor_ = ledger->cursor_;
  auto opened = DeadLetters::open(disk, letters);
  if (!opened) return opened.status();
  ledger->letters_ = std::move(*opened);
  if (!path.empty() && !exists(path) && !ledger->letters_->entries().empty()) {
    // Their positions would be taken for those of the events to come.
    return Status::usage(fmt::format("{}: dead letters of a run whose state is gone; move them away first", letters));
  }
  // A letter is durable before the cursor moves over its event. One that was closed says nothing of now: its event may
  // have to follow an older one again.
  for (auto const& [position, entry] : ledger->letters_->entries()) {
    if (entry.open && position >= ledger->cursor_) ledger->settle(position, position);
  }
  return ledger;
}

std::uint64_t Ledger::next_unsettled(std::uint64_t position) const {
  return settled_.next_missing(std::max(position, cursor_));
}

std::uint64_t Ledger::reached() const {
  std::uint64_t const settled = settled_.empty() ? cursor_ : settled_.map().rbegin()->second + 1;
  return reopened_.empty() ? settled : std::max(settled, *reopened_.rbegin() + 1);
}

void Ledger::settle(std::uint64_t first, std::uint64_t last) {
  first = std::max(first, cursor_);
  if (last < first) return;
  std::uint64_t const before = settled_.count();
  settled_.add(first, last);
  count_ += settled_.count() - before;
  cursor_ = settled_.next_missing(cursor_);
  settled_.remove_below(cursor_);
  for (auto it = reopened_.lower_bound(first); it != reopened_.end() && *it <= last; it = reopened_.erase(it)) {
    to_close_.push_back(*it);
  }
  if (!attempts_.empty()) std::erase_if(attempts_, [&](auto const& entry) { return settled(entry.first); });
  changed_ = true;
}

void Ledger::stored(std::uint64_t first, std::uint64_t last) {
  std::uint64_t const before = count_;
  settle(first, last);
  stored_ += count_ - before;
}

void Ledger::unsettle(std::uint64_t position) {
  if (position < cursor_) {
    if (position + 1 < cursor_) settled_.add(position + 1, cursor_ - 1);
    cursor_ = position;
  } else {
    settled_.remove(position, position);
  }
  changed_ = true;
}

bool Ledger::reopen(std::uint64_t position) {
  auto const known = letters_->entries().find(position);
  if (known == letters_->entries().end() || !known->second.open || reopened_.contains(position)) return false;
  unsettle(position);
  reopened_.insert(position);
  reopened_now_ = true;
  return true;
}

bool Ledger::has_open_letter(std::uint64_t position) const {
  auto const known = letters_->entries().find(position);
  return known != letters_->entries().end() && known->second.open;
}

std::uint64_t Ledger::next_attempt(std::uint64_t position) const {
  auto const known = letters_->entries().find(position);
  if (known == letters_->entries().end()) return 1;
  // An open letter that is not being replayed is the same one, told twice.
  return known->second.attempt + (!known->second.open || reopened_.contains(position) ? 1 : 0);
}

template <typename Write>
Status Ledger::with_room(Write write) {
  Status status = write();
  while (status.code() == Code::temporary && make_room_ && make_room_()) status = write();
  return status;
}

Status Ledger::dead(std::span<DeadLetter> letters) {
  if (Status status = with_room([&] { return letters_->append(letters); }); !status.ok()) return status;
  for (DeadLetter const& letter : letters) reopened_.erase(letter.position);  // it stays open, with one more attempt
  for (DeadLetter const& letter : letters) settle(letter.position, letter.position);
  return {};
}

Ledger::Attempts Ledger::attempts(std::uint64_t position) const {
  auto const known = attempts_.find(position);
  return known == attempts_.end() ? Attempts{} : known->second;
}

void Ledger::set_attempts(std::uint64_t position, Attempts attempts) {
  attempts_[position] = attempts;
  changed_ = true;
}

void Ledger::set_note(std::string note) {
  if (note == note_) return;
  note_ = std::move(note);
  changed_ = true;
}

Status Ledger::reach(std::uint64_t position) {
  if (!keeps_reach_ || position < reach_) return {};
  Duration const now = clock_->steady();
  reach_step_ = reach_step_ > 0 && now - reach_at_ < std::chrono::seconds(1) ? reach_step_ * 2 : kReachStep;
  reach_at_ = now;
  std::uint64_t const before = std::exchange(reach_, position + reach_step_);
  changed_ = true;
  Status status = save();
  if (!status.ok()) reach_ = before;
  return status;
}

Status Ledger::save() {
  if (Status status = with_room([&] { return letters_->close(to_close_); }); !status.ok()) return status;
  to_close_.clear();
  if (!changed_ || path_.empty()) return {};
  if (Status status = with_room([&] { return write_state(); }); !status.ok()) return status;
  changed_ = false;
  saved_cursor_ = cursor_;
  return {};
}

Status Ledger::write_state() {
  ordered_json state = {
      {"version", 1},      {"source", source_}, {"cursor", cursor_},     {"settled", settled_.text()},
      {"stored", stored_}, {"clean", clean_},   {"complete", complete_}, {"saved", format_rfc3339(clock_->now())},
      {"note", note_}};
  if (keeps_reach_) state["reach"] = reach_;
  if (mark_of_) state["mark"] = mark_of_(cursor_);
  for (auto const& [position, attempts] : attempts_) {
    state["attempts"][std::to_string(position)] = {{"failures", attempts.failures},
                                                   {"stored_before", attempts.stored_before},
                                                   {"deaths", attempts.deaths},
                                                   {"running", static_cast<int>(attempts.running)}};
  }
  std::string const text = state.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  return replace_file(*disk_, path_, text);
}

Result<LedgerView> view_ledger(std::string const& path) {
  auto state = read_state(path);
  if (!state) return state.status();
  LedgerView view;
  view.source = state->value("source", "");
  view.cursor = (*state)["cursor"];
  view.note = state->value("note", "");
  view.complete = state->value("complete", false);
  view.reach = state->value("reach", UINT64_MAX);
  std::vector<Position> positions;
  (void)parse_positions(state->value("settled", ""), positions);
  for (Position const& position : positions) view.settled.add(position.first, position.last);
  return view;
}

}  // namespace inflight

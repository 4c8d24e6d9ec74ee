#include "common/run_receipts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "common/metrics.h"

namespace inflight {

namespace {

constexpr std::size_t kLettersTogether = 1000;
constexpr std::size_t kLettersBytes = 4 << 20;

}  // namespace

void RunReceipts::begin(std::string token) {
  token_ = std::move(token);
  delivered_.clear();
  held_.clear();
  settled_.clear();
  again_.reset();
  count_ = stored_ = sinks_ = 0;
  pieces_.clear();
  votes_.clear();
  last_.clear();
  exits_.clear();
  waiting_.clear();
}

void RunReceipts::delivered(std::uint64_t position) {
  delivered_.add(position, position);
  ++count_;
}

Status RunReceipts::hear(std::string lines) {
  std::uint64_t const before = ledger_.settled_count();
  std::size_t const size = lines.size();
  lines.resize(size + kRecordPadding);
  for (std::size_t begin = 0; begin < size;) {
    std::size_t const end = std::min(lines.find('\n', begin), size);
    if (Status status = hear_line({lines.data() + begin, end - begin}); !status.ok()) return status;
    begin = end + 1;
  }
  if (Status status = write_letters(); !status.ok()) return status;
  if (ledger_.settled_count() > before) waiting_.clear();
  return {};
}

Status RunReceipts::hear_line(std::string_view line) {
  if (!parser_.parse(line, heard_).ok()) return {};
  std::string scratch;
  if (heard_.attribute("sink")) {
    if (++sinks_ > wanted_sinks_) take_back_all();
    return {};
  }
  if (sinks_ > wanted_sinks_) return {};
  if (heard_.attribute("waiting")) {
    waiting_ = heard_.text("waiting", scratch);
    return {};
  }
  if (Value const code = heard_.attribute("exit")) {
    exits_.insert(static_cast<int>(std::strtol(std::string(code.raw).c_str(), nullptr, 10)));
    return {};
  }
  std::string_view delivery = heard_.text("delivery", scratch);
  if (!delivery.starts_with(token_) || delivery.size() <= token_.size() || delivery[token_.size()] != ':') return {};
  delivery.remove_prefix(token_.size() + 1);
  std::string status_scratch, by_scratch;
  return settle(heard_.text("status", status_scratch), delivery, heard_.text("by", by_scratch));
}

Status RunReceipts::settle(std::string_view status, std::string_view positions, std::string_view by) {
  positions_.clear();
  if (!parse_positions(positions, positions_)) return {};
  if (status == "stored" || status == "dropped") {
    for (Position const& position : positions_) done(position, by, status == "stored");
  } else if (status == "last") {
    last_.emplace_back(positions, by);
  } else if (status == "held") {
    for (Position const& position : positions_) {
      for (auto const& [first, last] : delivered_among(position)) held_.add(first, last);
    }
  } else if (status == "rejected") {
    std::string scratch;
    std::string const reason(heard_.text("reason", scratch));
    std::string const stage(by.substr(0, by.find('[')));
    for (Position const& position : positions_) {
      for (auto const& [first, last] : delivered_among(position)) {
        for (std::uint64_t p = first; p <= last; ++p) {
          if (Status written = dead(p, stage, reason); !written.ok()) return written;
        }
      }
    }
  }
  return {};
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> RunReceipts::delivered_among(Position const& position) const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> among;
  auto range = delivered_.map().upper_bound(position.first);
  if (range != delivered_.map().begin()) --range;
  for (; range != delivered_.map().end() && range->first <= position.last; ++range) {
    std::uint64_t const first = std::max(range->first, position.first);
    std::uint64_t const last = std::min(range->second, position.last);
    if (first <= last) among.emplace_back(first, last);
  }
  return among;
}

void RunReceipts::done(Position const& position, std::string_view by, bool stored) {
  if (stored && again_ && position.first <= *again_ && *again_ <= position.last) {
    ledger_.stored_again();
    again_.reset();
  }
  for (auto const& [first, last] : delivered_among(position)) {
    if (wanted_sinks_ > 1) {
      for (std::uint64_t p = first; p <= last; ++p) {
        if (has_all_votes(p, position.pieces, by)) settle(p, p, stored);
      }
    } else if (position.pieces.empty()) {
      settle(first, last, stored);
    } else if (pieces_[first].add(position.pieces)) {
      settle(first, last, stored);
      pieces_.erase(first);
    }
  }
}

void RunReceipts::settle(std::uint64_t first, std::uint64_t last, bool stored) {
  if (stored) {
    std::uint64_t const before = ledger_.stored_count();
    ledger_.stored(first, last);
    stored_ += ledger_.stored_count() - before;
  } else {
    ledger_.settle(first, last);
  }
  settled_.add(first, last);
}

// Each sink has a vote; an event is settled with all of them.
bool RunReceipts::has_all_votes(std::uint64_t position, std::string_view pieces, std::string_view by) {
  auto& votes = votes_[position];
  if (pieces.empty() || votes.pieces[std::string(by)].add(pieces)) votes.by.emplace(by);
  return votes.by.size() >= wanted_sinks_;
}

// Collects letters; write_letters() makes them durable and only then settles.
Status RunReceipts::dead(std::uint64_t position, std::string const& by, std::string const& reason) {
  if (ledger_.settled(position)) return {};
  for (DeadLetter const& letter : letters_) {
    if (letter.position == position) return {};
  }
  EventReader::Event event;
  auto got = events_.read(position, event);
  if (!got) return got.status();
  if (*got != EventReader::Got::event || event.position != position) {
    return Status::defect(fmt::format("event {} is gone from the source before it was settled", position));
  }
  if (letters_bytes_ + event.line.size() > kLettersBytes) {
    if (Status written = write_letters(); !written.ok()) return written;
  }
  std::string text;
  text.reserve(event.line.size() + kRecordPadding);  // to be parsed where it is
  text.append(event.line);
  if (event.line.size() > kLettersBytes) events_.release();
  letters_bytes_ += text.size();
  letters_.push_back(
      {position, ledger_.next_attempt(position), clock_.now(), by, reason, std::move(text), std::string(event.mark)});
  return letters_.size() >= kLettersTogether || letters_bytes_ > kLettersBytes ? write_letters() : Status{};
}

Status RunReceipts::write_letters() {
  if (letters_.empty()) return {};
  if (Status status = ledger_.dead(letters_); !status.ok()) return status;
  counters().rejected += letters_.size();
  letters_.clear();
  letters_bytes_ = 0;
  return {};
}

Status RunReceipts::reject(std::uint64_t position, std::string const& by, std::string const& reason) {
  Status const status = dead(position, by, reason);
  return status.ok() ? write_letters() : status;
}

void RunReceipts::accept_last() {
  for (auto const& [text, by] : last_) {
    positions_.clear();
    (void)parse_positions(text, positions_);
    for (Position const& position : positions_) done(position, by, true);
  }
  last_.clear();
}

void RunReceipts::accept_all() {
  for (auto const& [first, last] : delivered_.map()) settle(first, last, true);
  if (again_) ledger_.stored_again();
  again_.reset();
}

Ranges RunReceipts::unsettled() const {
  Ranges open;
  for (auto const& [first, last] : delivered_.map()) {
    for (std::uint64_t p = ledger_.next_unsettled(first); p <= last; p = ledger_.next_unsettled(p + 1)) open.add(p, p);
  }
  return open;
}

std::optional<std::uint64_t> RunReceipts::first_open() const {
  for (auto const& [first, last] : delivered_.map()) {
    for (std::uint64_t p = ledger_.next_unsettled(first); p <= last; p = ledger_.next_unsettled(p)) {
      std::uint64_t const unheld = held_.next_missing(p);
      if (unheld == p) return p;
      p = unheld;
    }
  }
  return std::nullopt;
}

bool RunReceipts::any_unsettled() const {
  return std::any_of(delivered_.map().begin(), delivered_.map().end(),
                     [this](auto const& range) { return ledger_.next_unsettled(range.first) <= range.second; });
}

// The receipt of one sink has spoken for another: no receipt of this run counts.
void RunReceipts::take_back_all() {
  for (auto const& [first, last] : settled_.map()) {
    for (std::uint64_t p = first; p <= last; ++p) {
      if (!ledger_.has_open_letter(p)) ledger_.unsettle(p);
    }
  }
  settled_.clear();
  last_.clear();
}

void RunReceipts::forget_below(std::uint64_t cursor) {
  delivered_.remove_below(cursor);
  held_.remove_below(cursor);
  pieces_.erase(pieces_.begin(), pieces_.lower_bound(cursor));
  votes_.erase(votes_.begin(), votes_.lower_bound(cursor));
}

}  // namespace inflight

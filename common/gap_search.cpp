#include "common/gap_search.h"

#include <fmt/format.h>

namespace inflight {

GapSearch::GapSearch(GapSearchOptions const& options, Tell tell)
    : options_(options), tell_(std::move(tell)), selector_(options.paths), sort_(options.temporary, options.memory) {}

void GapSearch::expect(std::vector<std::string> subjects) {
  for (std::string const& subject : subjects) (void)number_of(subject);
  only_these_ = true;
}

// Most records are of the subject of the one before, or of the next one in turn.
std::optional<std::uint32_t> GapSearch::number_of(std::string_view subject) {
  if (at_ < subjects_.size() && *subjects_[at_].name == subject) return at_;
  if (at_ + 1 < subjects_.size() && *subjects_[at_ + 1].name == subject) return ++at_;
  auto found = numbers_.find(subject);
  if (found == numbers_.end()) {
    if (only_these_) return std::nullopt;
    found = numbers_.emplace(subject, static_cast<std::uint32_t>(subjects_.size())).first;
    subjects_.push_back({&found->first, std::nullopt});
  }
  return at_ = found->second;
}

std::optional<Time> GapSearch::time_of(std::string_view text) {
  auto time = options_.format.read(text);
  if (!time) {
    zoned_.assign(text).push_back('Z');
    time = parse_rfc3339(zoned_);
  }
  return time;
}

Status GapSearch::add(Record const& record) {
  if (record.is_deletion()) return {};
  if (Status status = selector_.select(record, selected_); !status.ok()) return status;
  for (std::size_t i = 0; i < 2; ++i) {
    using Kind = Value::Kind;
    Kind const kind = selected_[i].kind;
    if (kind != Kind::string && kind != Kind::number)
      return Status::rejected(fmt::format("{} is {}", options_.paths[i].text(),
                                          kind == Kind::none ? "not there" : "neither text nor number"));
  }
  std::string_view const text = unquote(selected_[1].raw, scratch_);
  auto const time = time_of(text);
  if (!time) return Status::rejected(fmt::format("{} is no time: {}", options_.paths[1].text(), text.substr(0, 100)));
  std::string_view const subject = unquote(selected_[0].raw, scratch_);
  ++records_;
  auto const number = number_of(subject);
  if (!number) {
    if (strangers_++ == 0) stranger_ = subject;
    return {};
  }
  return options_.sorted ? next(*number, *time) : sort_.add({*number, time->ns});
}

Status GapSearch::next(std::uint32_t subject, Time time) {
  std::optional<Time>& last = subjects_[subject].last;
  if (last && time < *last)
    return Status::usage(fmt::format("not sorted: {} of {} comes behind {}; do without --sorted", format_rfc3339(time),
                                     *subjects_[subject].name, format_rfc3339(*last)));
  auto const gap = find_gap(options_.rule, last, time);
  last = time;
  return gap ? tell_(*subjects_[subject].name, *gap) : Status{};
}

Status GapSearch::end_of(std::uint32_t subject) {
  auto const gap = find_gap(options_.rule, subjects_[subject].last, std::nullopt);
  return gap ? tell_(*subjects_[subject].name, *gap) : Status{};
}

Status GapSearch::finish() {
  std::uint32_t ended = 0;
  if (!options_.sorted) {
    if (Status status = sort_.sort(); !status.ok()) return status;
    for (Entry entry;;) {
      auto more = sort_.next(entry);
      if (!more) return more.status();
      if (!*more) break;
      for (; ended < entry.subject; ++ended) {
        if (Status status = end_of(ended); !status.ok()) return status;
      }
      if (Status status = next(entry.subject, Time{entry.time}); !status.ok()) return status;
    }
  }
  for (; ended < subjects_.size(); ++ended) {
    if (Status status = end_of(ended); !status.ok()) return status;
  }
  return {};
}

}  // namespace inflight

#include "common/archive_query.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/messages.h"
#include "common/reader.h"
#include "common/record.h"
#include "common/record_input.h"
#include "common/xxh.h"

namespace inflight {

namespace {

using Range = ArchiveQuery::Range;

constexpr Time kEarliest{std::numeric_limits<std::int64_t>::min()}, kLatest{std::numeric_limits<std::int64_t>::max()};
constexpr Duration kApart = std::chrono::hours(12);  // of spans: a list costs about as much as what is passed over

Time shifted(Time time, Duration by) {
  std::int64_t ns = 0;
  if (__builtin_add_overflow(time.ns, by.count(), &ns)) return by.count() < 0 ? kEarliest : kLatest;
  return {ns};
}

// In order; those that overlap, touch or are less than `apart` from each other become one.
void merge(std::vector<Range>& ranges, Duration apart) {
  std::sort(ranges.begin(), ranges.end(), [](Range const& a, Range const& b) { return a.from < b.from; });
  std::vector<Range> merged;
  for (Range const& range : ranges) {
    if (merged.empty() || range.from > shifted(merged.back().to, apart)) {
      merged.push_back(range);
    } else {
      merged.back().to = std::max(merged.back().to, range.to);
    }
  }
  ranges = std::move(merged);
}

// Of ranges as merge() leaves them.
bool touches(std::vector<Range> const& ranges, Time from, Time to) {
  auto const at = std::lower_bound(ranges.begin(), ranges.end(), from,
                                   [](Range const& range, Time time) { return range.to <= time; });
  return at != ranges.end() && at->from < to;
}

std::string digest_of_ranges(ArchiveQuery const& query) {
  if (!query.ranges) return "";
  ContentDigest digest;
  for (auto const& [subject, ranges] : *query.ranges) {
    digest.update(json_string(subject));
    for (Range const& range : ranges) digest.update(fmt::format(" {} {}", range.from.ns, range.to.ns));
  }
  return digest.text();
}

Status add_range(Record const& record, Duration slack, ArchiveQuery& query) {
  std::string scratch;
  std::string const subject(record.text("subject", scratch));
  if (subject.empty()) return Status::rejected("no subject: a range is {\"subject\":...,\"from\":...,\"to\":...}");
  std::optional<Time> ends[2];
  for (int i = 0; i < 2; ++i) {
    std::string_view const name = i == 0 ? "from" : "to", text = record.text(name, scratch);
    ends[i] = parse_rfc3339(text);
    if (!ends[i]) return Status::rejected(fmt::format("{}: '{}' is no time", name, text));
  }
  if (*ends[1] < *ends[0])
    return Status::rejected(fmt::format("from {} is after to {}", format_rfc3339(*ends[0]), format_rfc3339(*ends[1])));
  auto const& subjects = query.subjects;
  if (subjects.empty() || std::find(subjects.begin(), subjects.end(), subject) != subjects.end())
    (*query.ranges)[subject].push_back({shifted(*ends[0], -slack), shifted(*ends[1], slack)});
  return {};
}

}  // namespace

bool ArchiveQuery::wants(std::string_view subject, Time time) const {
  if ((from && time < *from) || (to && time >= *to)) return false;
  if (!ranges) return subjects.empty() || std::find(subjects.begin(), subjects.end(), subject) != subjects.end();
  auto const at = ranges->find(subject);
  return at != ranges->end() && touches(at->second, time, shifted(time, Duration(1)));
}

bool ArchiveQuery::may_want(ArchiveGroup const& group) const {
  if ((from && group.last < *from) || (to && group.first >= *to)) return false;
  if (!group.subject) return true;
  if (!ranges) return subjects.empty() || std::find(subjects.begin(), subjects.end(), *group.subject) != subjects.end();
  auto const at = ranges->find(*group.subject);
  return at != ranges->end() && touches(at->second, group.first, shifted(group.last, Duration(1)));
}

std::vector<Range> ArchiveQuery::spans(Duration apart) const {
  std::vector<Range> spans;
  if (!ranges) {
    spans.push_back({from.value_or(kEarliest), to.value_or(kLatest)});
    return spans;
  }
  for (auto const& [subject, of_subject] : *ranges) spans.insert(spans.end(), of_subject.begin(), of_subject.end());
  for (Range& span : spans) {
    span.from = std::max(span.from, from.value_or(kEarliest));
    span.to = std::min(span.to, to.value_or(kLatest));
  }
  std::erase_if(spans, [](Range const& span) { return span.from >= span.to; });
  merge(spans, apart);
  return spans;
}

std::string ArchiveQuery::text() const {
  std::string text;
  if (!subjects.empty()) text += fmt::format(" of {}", fmt::join(subjects, ", "));
  if (ranges) text += " in these ranges";
  if (from) text += " from " + format_rfc3339(*from);
  if (to) text += " to " + format_rfc3339(*to);
  return text;
}

Status read_ranges(Disk& disk, std::string const& path, int in, Duration slack, ArchiveQuery& query) {
  Fd file;
  if (path != "-") {
    auto opened = disk.open(path, O_RDONLY);
    if (!opened) return opened.status();
    file = std::move(*opened);
  }
  Reader reader(file ? file.get() : in, file ? path : "standard input");
  query.ranges.emplace();
  Line line;
  Status status = read_records(
      reader, line, kMaxRecord, [&](Record const& record) { return add_range(record, slack, query); },
      [](Status const& wrong) { return Status::usage(wrong.what()); });
  if (status.code() == Code::usage) return status.at(fmt::format("{}: line {}", reader.name(), line.number));
  for (auto& [subject, ranges] : *query.ranges) merge(ranges, Duration::zero());
  return status;
}

Status visit_objects(ObjectStore& store, ArchiveQuery const& query,
                     std::function<Status(ObjectStore::Object const&)> const& visit) {
  std::vector<Range> const wanted = query.spans(Duration::zero());
  for (Range const& span : query.spans(kApart)) {
    std::string const from = span.from == kEarliest ? "" : hour_folder(hour_of(span.from));
    Status const listed = store.list(from, [&](ObjectStore::Object const& object) -> Result<bool> {
      auto const hour = hour_of_key(object.key);
      if (!hour) return true;
      if (span.to != kLatest && begin_of_hour(*hour) >= span.to) return false;
      if (query.pinned && !query.objects.contains(object.key)) return true;
      if (!touches(wanted, begin_of_hour(*hour), begin_of_hour(*hour + 1))) return true;
      if (Status status = visit(object); !status.ok()) return status;
      return true;
    });
    if (!listed.ok()) return listed;
  }
  return {};
}

// Positions are ordinals of what all of its objects hold: without one of them they would name other events.
static Status read_pin(std::string const& path, ObjectStore& store, ArchiveQuery& query) {
  auto text = read_file(path);
  if (!text) return text.status();
  ArchiveQuery pinned;
  try {
    auto const pin = nlohmann::json::parse(*text);
    if (pin.at("subjects") != nlohmann::json(query.subjects) || pin.value("ranges", "") != digest_of_ranges(query)) {
      return Status::usage(path + ": was made for other subjects or ranges; remove it and the state to begin anew");
    }
    pinned.objects = pin.at("objects").get<std::set<std::string>>();
    pinned.from = parse_rfc3339(pin.at("from").get<std::string>());
    pinned.to = parse_rfc3339(pin.at("to").get<std::string>());
  } catch (nlohmann::json::exception const&) {
    return Status::defect(path + ": damaged, no list of objects");
  }
  if (pinned.from != query.from || pinned.to != query.to) {
    auto const written = [](std::optional<Time> const& time) { return time ? format_rfc3339(*time) : "(open)"; };
    say_warning(fmt::format("{}: goes on from {} to {}, as it was begun; remove it and the state to begin anew", path,
                            written(pinned.from), written(pinned.to)));
  }
  query.from = pinned.from;
  query.to = pinned.to;
  query.objects = std::move(pinned.objects);
  query.pinned = true;
  std::set<std::string> missing = query.objects;
  Status const listed = visit_objects(store, query, [&](ObjectStore::Object const& object) {
    missing.erase(object.key);
    return Status{};
  });
  if (!listed.ok() || missing.empty()) return listed;
  return Status::usage(
      fmt::format("{}: {} is gone ({} of {} objects are): put it back, or remove this file and the state to begin anew",
                  path, store.name(*missing.begin()), missing.size(), query.objects.size()));
}

Status pin_query(Disk& disk, std::string const& path, ObjectStore& store, ArchiveQuery& query) {
  if (exists(path)) return read_pin(path, store, query);
  Status const listed = visit_objects(store, query, [&](ObjectStore::Object const& object) {
    query.objects.insert(object.key);
    return Status{};
  });
  if (!listed.ok()) return listed;
  query.pinned = true;
  nlohmann::json const pin = {{"from", query.from ? format_rfc3339(*query.from) : ""},
                              {"to", query.to ? format_rfc3339(*query.to) : ""},
                              {"subjects", query.subjects},
                              {"ranges", digest_of_ranges(query)},
                              {"objects", query.objects}};
  return replace_file(disk, path, pin.dump() + "\n");
}

}  // namespace inflight

#include "common/archive_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "common/archive.h"
#include "common/archive_index.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/stop.h"
#include "common/units.h"

namespace inflight {

namespace {

std::string to_json(ObjectStore::Object const& object, ObjectSummary const& summary) {
  std::string line = fmt::format(R"({{"key":{},"records":{},"first":"{}","last":"{}","bytes":{},"content_bytes":{})",
                                 json_string(object.key), summary.records, format_rfc3339(summary.first),
                                 format_rfc3339(summary.last), object.bytes, summary.bytes);
  if (!summary.source.empty())
    line += fmt::format(R"(,"source":{},"positions":"{}")", json_string(summary.source), summary.positions);
  return line + "}";
}

// Visits each object until a stop signal; one that visit() finds damaged is told and counted.
Result<std::uint64_t> visit_each(ObjectStore& store, ArchiveQuery const& query,
                                 std::function<Status(ObjectStore::Object const&)> const& visit) {
  std::uint64_t damaged = 0;
  Status const status = visit_objects(store, query, [&](ObjectStore::Object const& object) -> Status {
    if (stopping()) return {Code::stopped, ""};
    Status seen = visit(object);
    if (seen.code() != Code::defect) return seen;
    say_error(seen.what());
    ++damaged;
    return {};
  });
  if (!status.ok()) return status;
  return damaged;
}

// All of an object, and its index against it.
Status check_object(ObjectStore& store, ObjectStore::Object const& object, ObjectSummary const& summary) {
  if (!summary.index) return read_object(store, object, summary, [](std::string_view) {});
  auto frames = read_index(store, object, summary, [](ArchiveFrame const&) { return true; });
  if (!frames) return frames.status();
  auto const bad = [&](ArchiveFrame const& frame) {
    return damaged_object(store, object.key,
                          fmt::format("its index does not match the frame at byte {}", frame.offset));
  };
  std::size_t at = 0;  // of the frame that is read, behind the last: the index itself
  bool matches = true;
  std::optional<ArchiveFrameCheck> check;
  Status const status = read_records_of(
      store, object, summary,
      [&](Record const& record, Time time) -> Status {
        if (!check && at < frames->size()) check.emplace((*frames)[at]);
        if (!check || !check->next(record, time)) return bad((*frames)[std::min(at, frames->size() - 1)]);
        if (!check->complete()) return {};
        check.reset();
        ++at;
        return {};
      },
      [&, ended = std::size_t{0}](std::uint64_t end) mutable {
        if (ended < frames->size()) matches = matches && end == (*frames)[ended].offset + (*frames)[ended].size;
        ++ended;
      });
  if (!status.ok()) return status;
  return matches && at == frames->size() ? Status{} : bad(frames->front());
}

}  // namespace

Result<std::uint64_t> archive_list(ObjectStore& store, ArchiveQuery const& query, bool json,
                                   std::function<Status(std::string_view)> const& emit) {
  std::uint64_t objects = 0, records = 0, bytes = 0;
  Status written;  // what fails here is no damage of an object
  auto damaged = visit_each(store, query, [&](ObjectStore::Object const& object) -> Status {
    auto summary = read_summary(store, object);
    if (!summary) return summary.status();
    ++objects;
    records += summary->records;
    bytes += object.bytes;
    written = emit(json ? to_json(object, *summary)
                        : fmt::format("{:>9} {:>10}  {} .. {}  {}", summary->records,
                                      format_size(static_cast<double>(object.bytes)), format_rfc3339(summary->first),
                                      format_rfc3339(summary->last), object.key));
    return written.ok() ? Status{} : Status{Code::stopped, ""};
  });
  if (!written.ok()) return written;
  if (!damaged || json) return damaged;
  Status const sums =
      emit(fmt::format("{:>9} {:>10}  in {} objects", records, format_size(static_cast<double>(bytes)), objects));
  if (!sums.ok()) return sums;
  return damaged;
}

Result<std::uint64_t> archive_verify(ObjectStore& store, ArchiveQuery const& query) {
  return visit_each(store, query, [&](ObjectStore::Object const& object) -> Status {
    auto summary = read_summary(store, object);
    if (!summary) return summary.status();
    if (Status status = check_object(store, object, *summary); !status.ok()) return status;
    counters().records += summary->records;
    counters().bytes += summary->bytes;
    return {};
  });
}

}  // namespace inflight

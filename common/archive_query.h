// What is asked of an archive: times, subjects, ranges of time of subjects.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/archive_index.h"
#include "common/fd_io.h"
#include "common/object_store.h"
#include "common/status.h"
#include "common/time.h"
#include "common/units.h"

namespace inflight {

struct ArchiveQuery {
  std::optional<Time> from, to;       // from <= recordedtime < to
  std::vector<std::string> subjects;  // empty: all
  struct Range {
    Time from, to;  // half-open
  };
  // Of each subject in order, apart from each other, widened by the slack. Where there are none, of all subjects all.
  std::optional<std::map<std::string, std::vector<Range>, std::less<>>> ranges;
  std::set<std::string> objects;  // where `pinned`: only these
  bool pinned = false;

  [[nodiscard]] bool by_subject() const { return ranges || !subjects.empty(); }
  [[nodiscard]] bool wants(std::string_view subject, Time time) const;
  // Whether one of the group's records may be wanted.
  [[nodiscard]] bool may_want(ArchiveGroup const& group) const;
  // The times outside of which nothing is wanted, in order, more than `apart` from each other.
  [[nodiscard]] std::vector<Range> spans(Duration apart) const;
  [[nodiscard]] std::string text() const;  // for people: of what, from when to when
};

// Lines as find-gaps(1) writes them: subject, from, to. Overlapping ranges become one. `path` - is `in`. Code::usage,
// with the line's number, where one is none or reversed; Code::stopped: a stop signal came.
[[nodiscard]] Status read_ranges(Disk& disk, std::string const& path, int in, Duration slack, ArchiveQuery& query);

// Makes a query give the same lines in the same order whenever it is asked again: the range and the objects that are
// there now are kept in a file, and taken from it where it is there already. Code::usage: it was made for other
// subjects or ranges.
[[nodiscard]] Status pin_query(Disk& disk, std::string const& path, ObjectStore& store, ArchiveQuery& query);

// The objects of the hours that a query touches, by hour and name.
[[nodiscard]] Status visit_objects(ObjectStore& store, ArchiveQuery const& query,
                                   std::function<Status(ObjectStore::Object const&)> const& visit);

}  // namespace inflight

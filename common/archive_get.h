// Reads an archive back, in order of time, each event once.  Layout: man/archive.5
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd_io.h"
#include "common/object_store.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct ArchiveQuery {
  std::optional<Time> from, to;       // from <= recordedtime < to
  std::vector<std::string> subjects;  // empty: all
  std::set<std::string> objects;      // where `pinned`: only these
  bool pinned = false;
};

// Makes a query give the same lines in the same order whenever it is asked again: the range and the objects that are
// there now are kept in a file, and taken from it where it is there already. Code::usage: it was made for other
// subjects.
[[nodiscard]] Status pin_query(Disk& disk, std::string const& path, ObjectStore& store, ArchiveQuery& query);

// The objects of the hours that a query touches, by hour and name.
[[nodiscard]] Status visit_objects(ObjectStore& store, ArchiveQuery const& query,
                                   std::function<Status(ObjectStore::Object const&)> const& visit);

// Emits each line (valid during the call) in order of recordedtime (archive.h), equal times in the order of objects'
// names and of lines. An event (an object with source and id) whose line came already is left out. The order is the
// same each time for the same objects. An object is checked as a whole before anything of it is emitted.
//
// Memory: at most about 56 MiB, and 128 KiB for each object of an hour that overlaps others in time; what is more
// waits, sorted, in temporary files (TMPDIR, /var/tmp).
[[nodiscard]] Status archive_get(ObjectStore& store, ArchiveQuery const& query,
                                 std::function<Status(std::string_view)> const& emit);

}  // namespace inflight

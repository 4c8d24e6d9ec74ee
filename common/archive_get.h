// Reads an archive back, in order of time, each event once.  Layout: man/archive.5
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "common/archive_query.h"
#include "common/object_store.h"
#include "common/status.h"

namespace inflight {

// What was found of what a query asks for.
struct ArchiveFound {
  std::uint64_t records = 0;
  std::set<std::string, std::less<>> subjects;  // of a query by subject
};

// What was asked for and is not there, for people: an operator who mistypes a unit's name would wait for its data.
// Empty where all was found, or nothing was asked for.
[[nodiscard]] std::string not_found(ArchiveQuery const& query, ArchiveFound const& found);

// Emits each line (valid during the call) in order of recordedtime (archive.h), equal times in the order of objects'
// names and of lines. An event (an object with source and id) whose line came already is left out. The order is the
// same each time for the same objects. An object is checked as a whole before anything of it is emitted; of a query by
// subject, where it has an index, only the frames that may hold something of it are read, and these are checked.
//
// Memory: at most about 56 MiB, and 128 KiB for each object of an hour that overlaps others in time; what is more
// waits, sorted, in temporary files (TMPDIR, /var/tmp).
[[nodiscard]] Status archive_get(ObjectStore& store, ArchiveQuery const& query,
                                 std::function<Status(std::string_view)> const& emit, ArchiveFound& found);

}  // namespace inflight

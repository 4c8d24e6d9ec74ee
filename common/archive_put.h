// Puts records into an archive, each into exactly one object, across any kill.  Layout: man/archive.5
//
// What was taken is `held` until settle() names its positions: then it is durable in the archive. At most about 55 MiB.
// One thread calls; into a remote store one of its own puts an object while the next is filled.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/fd_io.h"
#include "common/object_store.h"
#include "common/receipts.h"
#include "common/record.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct ArchivePutOptions {
  std::string spool;                   // empty: below the store's spools(), by source
  std::uint64_t max_records = 40'000;  // in one object; below a source, since it was opened, into it or into others
  std::uint64_t max_bytes = 64 << 20;  // of lines in one object
  Duration max_age = std::chrono::seconds(60);
  std::uint64_t level = 3;  // of compression
};

class Archiver {
 public:
  // A folder that is ours as long as the lock is held.
  struct Spool {
    std::string path;
    Fd lock;
  };
  // `source` is empty where positions mean nothing beyond this run. Code::temporary, naming the holder: another run is
  // at work in it.
  static Result<Spool> lock_spool(Disk& disk, ObjectStore& store, std::string const& source,
                                  ArchivePutOptions const& options);
  // Removes what is half-written in the spool, and puts what was completed. Code::usage: the spool is of another store.
  static Result<std::unique_ptr<Archiver>> open(Disk& disk, Clock& clock, ObjectStore& store, Spool spool,
                                                std::string const& source, ArchivePutOptions const& options);
  // Both of these.
  static Result<std::unique_ptr<Archiver>> open(Disk& disk, Clock& clock, ObjectStore& store, std::string const& source,
                                                ArchivePutOptions const& options);
  ~Archiver();

  enum class Taken { held, stored };
  // `record` is without `delivery`, whose positions are `delivery` (receipts.h). stored: an earlier run has put it. A
  // failure means that it was not taken; Code::temporary: the disk is full, and the same may be tried again.
  [[nodiscard]] Result<Taken> add(Record const& record, std::string_view delivery);

  // Puts what is due (with `final` all) and adds the positions that are durable since the last call. May be tried again
  // after Code::temporary.
  [[nodiscard]] Status settle(bool final, PositionList& stored);

  struct State;

 private:
  explicit Archiver(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inflight

// The objects of an archive: their names, their bytes, their summary.  Layout: man/archive.5
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "common/object_store.h"
#include "common/record.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

// What a record is filed under: `recordedtime`, else `time`, else nothing.
[[nodiscard]] std::optional<Time> archive_time(Record const& record);

// Hours are counted from 1970-01-01T00Z.
[[nodiscard]] std::int64_t hour_of(Time time);
[[nodiscard]] std::string hour_folder(std::int64_t hour);  // `date=2018-07-01/hour=13/`
// The hour of an object's key; nothing where it is no name of an archive's object.
[[nodiscard]] std::optional<std::int64_t> hour_of_key(std::string_view key);
// The beginning of an hour. Hours before 1677-09-21 or after 2262-04-11 begin there.
[[nodiscard]] Time begin_of_hour(std::int64_t hour);

struct ObjectSummary {
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;  // of the lines, with their newlines
  std::string digest;       // of these
  std::uint64_t stored_bytes = 0;
  std::string stored_digest;
  Time first, last;
  std::string source;
  std::string positions;  // as receipts name them
};

// One zstd context for all objects that are open; a few MiB.
class FrameCompressor {
 public:
  explicit FrameCompressor(int level);
  ~FrameCompressor();
  // Makes one frame of `text` and `end` together, and hands over its bytes: of a long one piece by piece.
  void compress(std::string_view text, std::string_view end, std::function<void(std::string_view)> const& take);
  // Empty, with the memory of the lines that were compressed last: one for whoever fills the next frame.
  [[nodiscard]] std::string take_spare();
  void keep_spare(std::string&& lines);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// Lines to an object's bytes, in memory. Lines wait until the caller cuts a frame of them: the larger, the better they
// compress. One of kAlone bytes or more waits for nobody.
class ObjectEncoder {
 public:
  static constexpr std::size_t kAlone = 1 << 20;
  // `ready` is called when some bytes are pending: a long line is never there as a whole once more.
  ObjectEncoder(FrameCompressor& compressor, std::function<void()> ready);
  ~ObjectEncoder();

  void add(std::string_view line, Time time);
  [[nodiscard]] std::size_t waiting() const;  // bytes of lines that are in no frame yet
  void cut();
  // Ends the object; nothing is added after it.
  ObjectSummary const& finish(std::string source, std::string positions);

  // Bytes that are ready. The caller takes them away.
  [[nodiscard]] std::string& pending();
  [[nodiscard]] ObjectSummary const& summary() const;  // `records` and `bytes` as of now

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// Reads the end of an object only. Code::defect where it is damaged or was not written by us.
[[nodiscard]] Result<ObjectSummary> read_summary(ObjectStore& store, ObjectStore::Object const& object);

// Hands over the lines' bytes piece by piece, and checks everything that can be checked: only after ok is what was
// handed over good. Code::defect, naming the object, where it is damaged.
[[nodiscard]] Status read_object(ObjectStore& store, ObjectStore::Object const& object, ObjectSummary const& summary,
                                 std::function<void(std::string_view)> const& take);

// XXH3 of man/archive.5.
[[nodiscard]] std::uint64_t hash64(std::string_view bytes, std::uint64_t seed = 0);
[[nodiscard]] std::pair<std::uint64_t, std::uint64_t> hash128(std::string_view bytes);

}  // namespace inflight

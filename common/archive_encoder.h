// Lines to an object of an archive: grouped by subject, compressed, indexed.  Layout: man/archive.5
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/archive.h"
#include "common/archive_index.h"
#include "common/time.h"
#include "common/zstd_frames.h"

namespace inflight {

// In memory. Lines wait until the caller cuts: the more wait, the more of a subject stand together, and the better they
// compress. One of kAlone bytes or more waits for nobody.
class ObjectEncoder {
 public:
  static constexpr std::size_t kAlone = 1 << 20;
  // `ready` is called when some bytes are pending: a long line is never there as a whole once more.
  ObjectEncoder(FrameCompressor& compressor, std::function<void()> ready);
  ~ObjectEncoder();

  struct Line {
    std::string_view text;                    // without newline
    Time time;                                // or the beginning of the hour
    std::optional<std::string_view> subject;  // archive_subject()
    std::optional<ArchiveGroup::Span> positions;
  };
  void add(Line const& line);
  // Makes frames of the lines that wait.
  void cut();
  // Ends the object; nothing is added after it.
  ObjectSummary const& finish(std::string source, std::string positions);

  [[nodiscard]] std::size_t waiting() const;  // memory of the lines that are in no frame yet
  [[nodiscard]] std::size_t indexed() const;  // and of the index
  // Bytes that are ready. The caller takes them away.
  [[nodiscard]] std::string& pending();
  [[nodiscard]] ObjectSummary const& summary() const;  // `records` and `bytes` as of now

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace inflight

// zstd frames with content checksums, as RFC 8878 has them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace inflight {

// One context for whatever is compressed; a few MiB.
class FrameCompressor {
 public:
  explicit FrameCompressor(int level);
  ~FrameCompressor();
  // Makes one frame of `text` and `end` together, and hands over its bytes: of a long one piece by piece.
  void compress(std::string_view text, std::string_view end, std::function<void(std::string_view)> const& take);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// Frames that come piece by piece; skippable ones are passed over.
class FrameReader {
 public:
  FrameReader();
  ~FrameReader();
  // Hands over what is in them, and calls `ended` at the end of each frame with how many bytes of `bytes` were read by
  // then. What is wrong, or empty.
  [[nodiscard]] std::string read(std::string_view bytes, std::function<void(std::string_view)> const& take,
                                 std::function<void(std::size_t)> const& ended);
  [[nodiscard]] bool inside() const;  // of a frame: what came last was not its end

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace inflight

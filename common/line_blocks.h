// Many lines in memory, in blocks: none is copied once more when there are more of them, and a block is freed as soon
// as nothing of it is wanted any more.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "common/record.h"

namespace inflight {

class LineBlocks {
 public:
  struct Line {
    std::uint32_t block = 0, offset = 0, size = 0;
  };

  // `memory` is kept up to date by the bytes that the blocks take.
  explicit LineBlocks(std::size_t& memory) : memory_(&memory) {}
  ~LineBlocks() { clear(); }
  LineBlocks(LineBlocks const&) = delete;
  LineBlocks& operator=(LineBlocks const&) = delete;

  // kRecordPadding bytes behind the line are readable as long as it is there.
  Line add(std::string_view line) {
    std::size_t const size = line.size() + kRecordPadding;
    if (blocks_.empty() || blocks_.back().size - blocks_.back().used < size) grow(size);
    Block& block = blocks_.back();
    Line const added{static_cast<std::uint32_t>(blocks_.size() - 1), static_cast<std::uint32_t>(block.used),
                     static_cast<std::uint32_t>(line.size())};
    std::memcpy(block.bytes.get() + block.used, line.data(), line.size());
    block.used += line.size();
    ++block.lines;
    bytes_ += line.size();
    return added;
  }
  [[nodiscard]] std::string_view text(Line line) const {
    return {blocks_[line.block].bytes.get() + line.offset, line.size};
  }
  // The line is not read any more.
  void release(Line line) {
    if (--blocks_[line.block].lines == 0) free(blocks_[line.block]);
  }
  void clear() {
    for (Block& block : blocks_) free(block);
    blocks_.clear();
    bytes_ = 0;
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }  // of all lines that were added

 private:
  struct Block {
    std::unique_ptr<char[]> bytes;
    std::size_t size = 0, used = 0, lines = 0;
  };

  // Many may hold few lines each: what a block leaves free is a part of what is there.
  void grow(std::size_t needed) {
    Block block;
    block.size = std::max(needed, std::clamp(bytes_ / 4, kSmallest, kLargest));
    block.bytes = std::unique_ptr<char[]>(new char[block.size]);
    *memory_ += block.size;
    blocks_.push_back(std::move(block));
  }
  void free(Block& block) {
    *memory_ -= block.size;
    block = {};
  }

  static constexpr std::size_t kSmallest = 4 << 10, kLargest = 1 << 20;
  std::size_t* memory_;
  std::size_t bytes_ = 0;
  std::vector<Block> blocks_;
};

}  // namespace inflight

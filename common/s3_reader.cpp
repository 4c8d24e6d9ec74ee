#include "common/s3_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace inflight {

namespace {
constexpr std::uint64_t kBlock = 2 << 20;
constexpr std::size_t kAhead = 4;  // blocks; more would wait in http.h, which bounds what arrives
}  // namespace

S3Request S3Reader::range(std::uint64_t offset, std::uint64_t size) const {
  S3Request request;
  request.key = key_;
  request.headers = {{"Range", fmt::format("bytes={}-{}", offset, offset + size - 1)}};
  return request;
}

// What is beyond the end has no bytes.
Status S3Reader::take(S3Answer& answer, std::uint64_t offset) {
  if (answer.http == 416) {
    answer.body.clear();
    return {};
  }
  if (!answer.status.ok()) return answer.status;
  if (answer.http == 200) {  // a server without ranges sends all of it
    answer.total = answer.body.size();
    answer.body.erase(0, std::min<std::uint64_t>(offset, answer.body.size()));
  }
  total_ = answer.total;
  return {};
}

void S3Reader::start(std::uint64_t offset) {
  auto block = std::make_shared<Block>();
  block->offset = offset;
  block->id = client_.start(range(offset, kBlock), [block](S3Answer& answer) {
    block->answer = std::move(answer);
    block->done = true;
  });
  blocks_.push_back(std::move(block));
}

Status S3Reader::finish(Block& block) {
  while (!block.done) {
    if (Status status = client_.wait(patience_ == S3Patience::minute); !status.ok()) return status;
  }
  if (block.answer.status.code() == Code::temporary) block.answer = client_.ask(range(block.offset, kBlock), patience_);
  return take(block.answer, block.offset);
}

void S3Reader::drop() {
  for (auto const& block : blocks_) {
    if (!block->done) client_.forget(block->id);
  }
  blocks_.clear();
}

Result<std::size_t> S3Reader::get(std::string const& key, std::uint64_t offset, std::span<char> to) {
  if (to.empty()) return std::size_t{0};
  if (key != key_) {
    drop();
    key_ = key;
    total_ = next_ = 0;
  }
  bool const from_begin = offset == 0 && to.size() >= kBlock / 2;
  if (!from_begin && (offset == 0 || offset != next_)) {
    S3Answer answer = client_.ask(range(offset, to.size()), patience_);
    if (Status status = take(answer, offset); !status.ok()) return status;
    std::size_t const size = std::min(answer.body.size(), to.size());
    std::memcpy(to.data(), answer.body.data(), size);
    return size;
  }
  if (offset == 0) drop();
  std::size_t copied = 0;
  while (copied < to.size()) {
    std::uint64_t const at = offset + copied;
    while (!blocks_.empty() && blocks_.front()->done && at >= blocks_.front()->offset + kBlock) blocks_.pop_front();
    if (blocks_.empty()) start(at);
    // Before the first answer nobody knows how much there is.
    while (total_ > 0 && blocks_.size() < kAhead && blocks_.back()->offset + kBlock < total_)
      start(blocks_.back()->offset + kBlock);
    Block& block = *blocks_.front();
    if (!block.done) {
      if (Status status = finish(block); !status.ok()) {
        drop();
        return status;
      }
    }
    std::size_t const begin = at - block.offset;
    if (begin >= block.answer.body.size()) break;
    std::size_t const size = std::min(to.size() - copied, block.answer.body.size() - begin);
    std::memcpy(to.data() + copied, block.answer.body.data() + begin, size);
    copied += size;
  }
  next_ = offset + copied;
  return copied;
}

}  // namespace inflight

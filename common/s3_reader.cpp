#include "common/s3_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace inflight {

namespace {

constexpr std::uint64_t kBlock = 2 << 20;
constexpr std::size_t kAhead = 4;  // blocks; more would wait in http.h, which bounds what arrives
constexpr std::size_t kExpected = 12;
constexpr std::uint64_t kExpectedBytes = 4 << 20;

S3Request range(std::string const& key, std::uint64_t offset, std::uint64_t size) {
  S3Request request;
  request.key = key;
  request.headers = {{"Range", fmt::format("bytes={}-{}", offset, offset + size - 1)}};
  return request;
}

// What is beyond the end has no bytes.
Status take(S3Answer& answer, std::uint64_t offset) {
  if (answer.http == 416) {
    answer.body.clear();
    return {};
  }
  if (!answer.status.ok()) return answer.status;
  if (answer.http == 200) {  // a server without ranges sends all of it
    answer.total = answer.body.size();
    answer.body.erase(0, std::min<std::uint64_t>(offset, answer.body.size()));
  }
  return {};
}

}  // namespace

std::shared_ptr<S3Reader::Block> S3Reader::start(std::string const& key, std::uint64_t offset, std::uint64_t size) {
  auto block = std::make_shared<Block>();
  block->key = key;
  block->offset = offset;
  block->size = size;
  block->id = client_.start(range(key, offset, size), [block](S3Answer& answer) {
    block->answer = std::move(answer);
    block->done = true;
  });
  return block;
}

Status S3Reader::finish(Block& block) {
  while (!block.done) {
    if (Status status = client_.wait(patience_ == S3Patience::minute); !status.ok()) return status;
  }
  if (block.taken) return {};
  S3Answer& answer = block.answer;
  if (!answer.status.ok() && answer.http != 416)
    answer = client_.ask(range(block.key, block.offset, block.size), patience_);
  Status status = take(answer, block.offset);
  block.taken = status.ok();
  return status;
}

void S3Reader::drop(std::deque<std::shared_ptr<Block>>& blocks) {
  for (auto const& block : blocks) {
    if (!block->done) client_.forget(block->id);
  }
  blocks.clear();
}

bool S3Reader::expect(std::string const& key, std::uint64_t offset, std::uint64_t size) {
  // It is asked for when it is wanted, or need not be.
  if (size == 0 || size > kExpectedBytes || is_there(key, offset, size)) return true;
  if (expected_.size() >= kExpected || expected_bytes_ + size > kExpectedBytes) return false;
  expected_.push_back(start(key, offset, size));
  expected_bytes_ += size;
  return true;
}

std::shared_ptr<S3Reader::Block> S3Reader::take_expected(std::string const& key, std::uint64_t offset,
                                                         std::uint64_t size) {
  auto const at = std::find_if(expected_.begin(), expected_.end(), [&](auto const& block) {
    return block->key == key && block->offset == offset && block->size == size;
  });
  if (at == expected_.end()) return nullptr;
  auto block = *at;
  expected_bytes_ -= size;
  expected_.erase(at);
  return block;
}

bool S3Reader::is_there(std::string const& key, std::uint64_t offset, std::uint64_t size) const {
  return latest_ && latest_->key == key && offset >= latest_->offset &&
         offset + size <= latest_->offset + latest_->answer.body.size();
}

Result<std::size_t> S3Reader::get_one(std::string const& key, std::uint64_t offset, std::span<char> to,
                                      std::shared_ptr<Block> expected) {
  if (expected || !is_there(key, offset, to.size())) {
    if (expected) {
      latest_ = std::move(expected);
    } else {
      latest_ = std::make_shared<Block>();
      *latest_ = {key, offset, to.size(), true, false, {}, client_.ask(range(key, offset, to.size()), patience_)};
    }
    if (Status status = finish(*latest_); !status.ok()) {
      if (!latest_->done) client_.forget(latest_->id);
      latest_.reset();
      return status;
    }
  }
  std::string const& body = latest_->answer.body;
  std::size_t const begin = std::min<std::size_t>(offset - latest_->offset, body.size());
  std::size_t const size = std::min(body.size() - begin, to.size());
  std::memcpy(to.data(), body.data() + begin, size);
  return size;
}

Result<std::size_t> S3Reader::get(std::string const& key, std::uint64_t offset, std::span<char> to) {
  if (to.empty()) return std::size_t{0};
  if (key != key_) {
    drop(blocks_);
    key_ = key;
    total_ = next_ = 0;
  }
  // What was expected is taken in any case: else it would stay, and soon nothing more could be expected.
  auto expected = take_expected(key, offset, to.size());
  bool const from_begin = offset == 0 && to.size() >= kBlock / 2;
  if (expected || (!from_begin && (offset == 0 || offset != next_)))
    return get_one(key, offset, to, std::move(expected));
  if (offset == 0) drop(blocks_);
  std::size_t copied = 0;
  while (copied < to.size()) {
    std::uint64_t const at = offset + copied;
    while (!blocks_.empty() && blocks_.front()->taken && at >= blocks_.front()->offset + kBlock) blocks_.pop_front();
    if (blocks_.empty()) blocks_.push_back(start(key, at, kBlock));
    // Before the first answer nobody knows how much there is.
    while (total_ > 0 && blocks_.size() < kAhead && blocks_.back()->offset + kBlock < total_)
      blocks_.push_back(start(key, blocks_.back()->offset + kBlock, kBlock));
    Block& block = *blocks_.front();
    if (Status status = finish(block); !status.ok()) {
      drop(blocks_);
      return status;
    }
    if (block.answer.http != 416) total_ = block.answer.total;
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

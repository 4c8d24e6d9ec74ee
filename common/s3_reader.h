// Objects of a bucket read by ranges, several ahead where they are read from their beginning on.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "common/s3_client.h"
#include "common/status.h"

namespace inflight {

class S3Reader {
 public:
  S3Reader(S3Client& client, S3Patience patience) : client_(client), patience_(patience) {}
  ~S3Reader() {
    drop(blocks_);
    drop(expected_);
  }
  S3Reader(S3Reader const&) = delete;
  S3Reader& operator=(S3Reader const&) = delete;

  // The bytes at an offset; how many there were. Memory: about 12 MiB.
  [[nodiscard]] Result<std::size_t> get(std::string const& key, std::uint64_t offset, std::span<char> to);
  // Asks for what get() will be asked for, meanwhile. False: enough is under way.
  bool expect(std::string const& key, std::uint64_t offset, std::uint64_t size);

 private:
  struct Block {
    std::string key;
    std::uint64_t offset = 0, size = 0;
    bool done = false, taken = false;
    S3Client::Id id{};
    S3Answer answer;
  };
  std::shared_ptr<Block> start(std::string const& key, std::uint64_t offset, std::uint64_t size);
  [[nodiscard]] Status finish(Block& block);
  // Out of what is expected, as get() is asked for it; none where it was not.
  std::shared_ptr<Block> take_expected(std::string const& key, std::uint64_t offset, std::uint64_t size);
  [[nodiscard]] Result<std::size_t> get_one(std::string const& key, std::uint64_t offset, std::span<char> to,
                                            std::shared_ptr<Block> expected);
  // Whether these bytes are in what get_one() read last.
  [[nodiscard]] bool is_there(std::string const& key, std::uint64_t offset, std::uint64_t size) const;
  void drop(std::deque<std::shared_ptr<Block>>& blocks);

  S3Client& client_;
  S3Patience patience_;
  std::string key_;
  std::uint64_t total_ = 0;  // of key_; 0: not known
  std::uint64_t next_ = 0;   // where the last read of it ended
  std::deque<std::shared_ptr<Block>> blocks_;
  std::deque<std::shared_ptr<Block>> expected_;
  std::uint64_t expected_bytes_ = 0;
  std::shared_ptr<Block> latest_;  // of get_one(): what is asked for next is often a part of it
};

}  // namespace inflight

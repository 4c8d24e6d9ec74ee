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
  ~S3Reader() { drop(); }
  S3Reader(S3Reader const&) = delete;
  S3Reader& operator=(S3Reader const&) = delete;

  // The bytes at an offset; how many there were. Memory: about 8 MiB.
  [[nodiscard]] Result<std::size_t> get(std::string const& key, std::uint64_t offset, std::span<char> to);

 private:
  struct Block {
    std::uint64_t offset = 0;
    bool done = false;
    S3Client::Id id{};
    S3Answer answer;
  };
  S3Request range(std::uint64_t offset, std::uint64_t size) const;
  void start(std::uint64_t offset);
  [[nodiscard]] Status finish(Block& block);
  [[nodiscard]] Status take(S3Answer& answer, std::uint64_t offset);
  void drop();

  S3Client& client_;
  S3Patience patience_;
  std::string key_;
  std::uint64_t total_ = 0;  // of key_; 0: not known
  std::uint64_t next_ = 0;   // where the last read of it ended
  std::deque<std::shared_ptr<Block>> blocks_;
};

}  // namespace inflight

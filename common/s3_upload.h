// Puts a file into a bucket under a key, once, whatever is cut or killed meanwhile.
//
// The server is asked first (HEAD), and told to refuse a name that is taken (If-None-Match: *), where it knows that.
// The body's SHA-256 is signed and its MD5 sent; the ETag of what is stored then is what it must be, or all is read
// back. A large file goes in parts, and what an earlier attempt at this key left of its parts is removed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/fd_io.h"
#include "common/object_store.h"
#include "common/s3_client.h"
#include "common/status.h"

namespace inflight {

class S3Upload {
 public:
  // What is larger than `multipart` goes in parts.
  S3Upload(S3Client& client, Disk& disk, std::uint64_t multipart)
      : client_(client), disk_(disk), multipart_(multipart) {}

  // ObjectStore::put(), `key` being the whole one.
  [[nodiscard]] Result<ObjectStore::Put> put(std::string const& key, std::string const& file);

 private:
  struct Local;
  [[nodiscard]] Result<ObjectStore::Put> single(Local& local);
  [[nodiscard]] Result<ObjectStore::Put> in_parts(Local& local);
  [[nodiscard]] Result<std::vector<std::string>> send_parts(Local const& local, std::string const& upload);
  [[nodiscard]] Result<ObjectStore::Put> complete(Local& local, std::string const& upload,
                                                  std::vector<std::string> const& etags);
  [[nodiscard]] Status remove_parts(std::string const& key);
  [[nodiscard]] Result<ObjectStore::Put> taken(Local& local);
  [[nodiscard]] Result<ObjectStore::Put> compare(Local& local, std::string const& etag, std::uint64_t size);

  S3Client& client_;
  Disk& disk_;
  std::uint64_t multipart_;
  bool conditional_ = true;  // the server knows If-None-Match
};

}  // namespace inflight

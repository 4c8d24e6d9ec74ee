// SHA-256 and MD5, and HMAC-SHA256, as S3 and its like want them, and signatures of RSA; on libcrypto.
//
// XXH3 (archive.h) is for what we check ourselves: these are for what others check.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"

namespace inflight {

// Over bytes that come piece by piece.
class MessageDigest {
 public:
  enum class Kind { sha256, md5 };
  explicit MessageDigest(Kind kind);
  ~MessageDigest();
  void add(std::string_view bytes);
  // The digest's own bytes (32, 16); nothing is added after it.
  [[nodiscard]] std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

[[nodiscard]] std::string sha256(std::string_view bytes);
[[nodiscard]] std::string md5(std::string_view bytes);
[[nodiscard]] std::string hmac_sha256(std::string_view key, std::string_view bytes);

// RS256 (RFC 7518, 3.3) with a private key in PEM. Code::usage: it is none.
[[nodiscard]] Result<std::string> rs256(std::string const& key, std::string_view bytes);

[[nodiscard]] std::string to_hex(std::string_view bytes);  // lower case

}  // namespace inflight

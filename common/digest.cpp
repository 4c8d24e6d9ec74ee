#include "common/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>

#include <new>

#include "common/handle.h"

namespace inflight {

namespace {

unsigned char const* bytes_of(std::string_view text) { return reinterpret_cast<unsigned char const*>(text.data()); }
unsigned char* bytes_of(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }

std::string digest(MessageDigest::Kind kind, std::string_view bytes) {
  MessageDigest whole(kind);
  whole.add(bytes);
  return whole.finish();
}

}  // namespace

struct MessageDigest::State {
  Handle<EVP_MD_CTX, EVP_MD_CTX_free> context{EVP_MD_CTX_new()};
};

// What can fail here is only memory.
MessageDigest::MessageDigest(Kind kind) : state_(std::make_unique<State>()) {
  EVP_MD const* const type = kind == Kind::sha256 ? EVP_sha256() : EVP_md5();
  if (!state_->context || EVP_DigestInit_ex(state_->context.get(), type, nullptr) != 1) throw std::bad_alloc();
}

MessageDigest::~MessageDigest() = default;

void MessageDigest::add(std::string_view bytes) {
  if (EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()) != 1) throw std::bad_alloc();
}

std::string MessageDigest::finish() {
  std::string out(EVP_MAX_MD_SIZE, '\0');
  unsigned size = 0;
  if (EVP_DigestFinal_ex(state_->context.get(), bytes_of(out), &size) != 1) throw std::bad_alloc();
  out.resize(size);
  return out;
}

std::string sha256(std::string_view bytes) { return digest(MessageDigest::Kind::sha256, bytes); }
std::string md5(std::string_view bytes) { return digest(MessageDigest::Kind::md5, bytes); }

std::string hmac_sha256(std::string_view key, std::string_view bytes) {
  std::string out(EVP_MAX_MD_SIZE, '\0');
  unsigned size = 0;
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes_of(bytes), bytes.size(), bytes_of(out),
           &size) == nullptr) {
    throw std::bad_alloc();
  }
  out.resize(size);
  return out;
}

Result<std::string> rs256(std::string const& key, std::string_view bytes) {
  Handle<BIO, BIO_free_all> const text(BIO_new_mem_buf(key.data(), static_cast<int>(key.size())));
  Handle<EVP_PKEY, EVP_PKEY_free> const pkey(text ? PEM_read_bio_PrivateKey(text.get(), nullptr, nullptr, nullptr)
                                                  : nullptr);
  if (!pkey || EVP_PKEY_get_base_id(pkey.get()) != EVP_PKEY_RSA) return Status::usage("no private key of RSA in PEM");
  Handle<EVP_MD_CTX, EVP_MD_CTX_free> const context(EVP_MD_CTX_new());
  std::size_t size = 0;
  std::string out;
  bool good = context && EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, pkey.get()) == 1 &&
              EVP_DigestSign(context.get(), nullptr, &size, bytes_of(bytes), bytes.size()) == 1;
  out.resize(size);
  good = good && EVP_DigestSign(context.get(), bytes_of(out), &size, bytes_of(bytes), bytes.size()) == 1;
  if (!good) return Status::defect("libcrypto signs nothing with this key");
  out.resize(size);
  return out;
}

std::string to_hex(std::string_view bytes) {
  std::string out;
  for (char const c : bytes) fmt::format_to(std::back_inserter(out), "{:02x}", static_cast<unsigned char>(c));
  return out;
}

}  // namespace inflight

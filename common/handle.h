// Owners for C resources.
#pragma once

#include <unistd.h>

#include <memory>
#include <utility>

namespace inflight {

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* resource) const {
    Free(resource);
  }
};

// Handle<sqlite3, sqlite3_close> owns a sqlite3*.
template <typename T, auto Free>
using Handle = std::unique_ptr<T, Freer<Free>>;

// Owns a file descriptor; -1 is none. Closing ignores errors: where they matter, sync first.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  Fd(Fd const&) = delete;
  Fd& operator=(Fd const&) = delete;
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace inflight

// Objects: whole, immutable, found by key. A directory now; S3 follows behind the same interface.
//
// A key is relative, its parts separated by '/'. Keys with a part that begins with a dot are not objects: stores may
// keep there what is being written.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "common/fd_io.h"
#include "common/status.h"

namespace inflight {

class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  struct Object {
    std::string key;
    std::uint64_t bytes = 0;
  };

  // Under `key` stands afterwards, durably: the content of `file`, since there was nothing before (created) or the same
  // already (same); or what stood there before, untouched (different). `file` is durable, and stays. May be repeated
  // after any failure.
  enum class Put { created, same, different };
  [[nodiscard]] virtual Result<Put> put(std::string const& key, std::string const& file) = 0;

  // The bytes at an offset; how many there were. An object that is not there is Code::usage.
  [[nodiscard]] virtual Result<std::size_t> get(std::string const& key, std::uint64_t offset, std::span<char> to) = 0;
  [[nodiscard]] virtual Result<std::optional<Object>> find(std::string const& key) = 0;

  // Visits the objects whose key is not below `from`, in the bytewise order of keys, until visit() says false.
  using Visit = std::function<Result<bool>(Object const&)>;
  [[nodiscard]] virtual Status list(std::string const& from, Visit const& visit) = 0;

  // As messages name it.
  [[nodiscard]] virtual std::string name(std::string const& key) const = 0;
};

// By what its name says: a directory's path. Code::usage where the name is of a kind that is not known, and where the
// directory is missing, unless it is to be made.
[[nodiscard]] Result<std::unique_ptr<ObjectStore>> open_object_store(Disk& disk, std::string const& name, bool make);

}  // namespace inflight

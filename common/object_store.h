// Objects: whole, immutable, found by key, in a directory (directory_store.h) or a bucket (s3_store.h).
//
// A key is relative, its parts separated by '/'. Keys with a part that begins with a dot are not objects: stores may
// keep there what is being written.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

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
  // That get() will be asked for exactly this soon: a remote store asks meanwhile. False: it has enough to do, say it
  // again later.
  virtual bool expect(std::string const& /*key*/, std::uint64_t /*offset*/, std::uint64_t /*size*/) { return true; }
  [[nodiscard]] virtual Result<std::optional<Object>> find(std::string const& key) = 0;

  // Visits the objects whose key is not below `from`, in the bytewise order of keys, until visit() says false.
  using Visit = std::function<Result<bool>(Object const&)>;
  [[nodiscard]] virtual Status list(std::string const& from, Visit const& visit) = 0;

  // As messages name it.
  [[nodiscard]] virtual std::string name(std::string const& key) const = 0;

  // A local folder for what is on its way here and to no other store. Code::usage: none can be known.
  [[nodiscard]] virtual Result<std::string> spools() const = 0;
  // Whether put() mostly waits for somebody else: then it pays to go on meanwhile.
  [[nodiscard]] virtual bool remote() const = 0;
  // Which store this is, wherever it is called from; empty where a name says no more than a path.
  [[nodiscard]] virtual std::string identity() const = 0;
};

}  // namespace inflight

// One connection to a Redis, over which many commands go in a row before their replies come (pipelining).
//
// Commands are in the bytes of the protocol (https://redis.io/docs/reference/protocol-spec/, RESP2), so that whoever
// makes them need not be the thread that sends them. hiredis 0.14, as packaged, has no TLS.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"
#include "common/units.h"

namespace inflight {

// `redis://[user[:password]@]host[:port][/db]`, or `unix:PATH[?db=N]`.
struct RedisAddress {
  std::string host;  // empty: a unix socket
  std::string path;  // of that
  std::uint16_t port = 6379;
  std::uint32_t db = 0;
  std::string user, password;

  // Code::usage names what is wrong.
  [[nodiscard]] static Result<RedisAddress> parse(std::string_view url);
  // As messages name it, without user and password.
  [[nodiscard]] std::string name() const;
};

// Appends what begins a command of `words` words, and one word.
void append_redis_count(std::string& out, std::size_t words);
void append_redis_word(std::string& out, std::string_view word);

class Redis {
 public:
  struct Reply {
    enum class Kind { number, text, none, error } kind = Kind::none;
    std::int64_t number = 0;
    std::string text;  // of an error too, which begins with its code: `OOM command not allowed …`
  };

  // `timeout`: connecting takes no longer, nor does waiting for a reply.
  Redis(RedisAddress address, Duration timeout);
  ~Redis();
  Redis(Redis&&) noexcept;

  // Connects, authenticates and chooses the database. Code::temporary: not there, loading, too many clients.
  // Code::usage: no Redis, a wrong password, no such database.
  [[nodiscard]] Status connect();
  [[nodiscard]] bool connected() const;
  void close();

  // Each takes whole commands; they have left when flush() returns. After a failure, Code::temporary, what was sent may
  // have been done or not; replies, perhaps with the reason, can be read as long as it is connected.
  [[nodiscard]] Status send(std::string_view commands);
  [[nodiscard]] Status flush();
  // The next reply, of commands in their order. After a failure the connection is closed. Code::usage: what answers
  // speaks another protocol.
  [[nodiscard]] Status reply(Reply& reply);
  // One command of words, and its reply. An error of it is a failure.
  [[nodiscard]] Result<Reply> call(std::initializer_list<std::string_view> words);

  // What a reply that is an error means, and where. Code::rejected only for what is proven to be the fault of the
  // command's own words: a key of another type, a value over the server's limits, and errors of scripts that begin with
  // REJECTED.
  [[nodiscard]] Status failure(std::string_view error) const;
  [[nodiscard]] std::string name() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inflight

#include "common/redis.h"

#include <fmt/format.h>
#include <hiredis/hiredis.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "common/handle.h"
#include "common/messages.h"

namespace inflight {

namespace {

constexpr std::size_t kSendAtOnce = 64 << 10;

template <typename T>
bool read_number(std::string_view text, T& number) {
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size();
}

// %XX as RFC 3986 has it; false where it is none.
bool percent_decode(std::string_view text, std::string& out) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned code = 0;
    auto const hex = text.substr(i + 1, 2);
    auto const [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (hex.size() < 2 || error != std::errc{} || end != hex.data() + 2) return false;
    out += static_cast<char>(code);
    i += 2;
  }
  return true;
}

Status parse_authority(std::string_view authority, std::string const& shown, RedisAddress& address) {
  if (std::size_t const at = authority.rfind('@'); at != std::string_view::npos) {
    std::string_view const user = authority.substr(0, at);
    std::size_t const colon = std::min(user.find(':'), user.size());
    bool const good = percent_decode(user.substr(0, colon), address.user) &&
                      percent_decode(user.substr(std::min(colon + 1, user.size())), address.password);
    if (!good) return Status::usage(fmt::format("{}: a % in the user or password that is not %XX", shown));
    authority.remove_prefix(at + 1);
  }
  bool const bracketed = authority.starts_with('[');  // an IPv6 address
  std::size_t const end = bracketed ? authority.find(']') : authority.find(':');
  address.host = authority.substr(bracketed ? 1 : 0, bracketed && end != std::string_view::npos ? end - 1 : end);
  std::string_view rest = authority.substr(std::min(end, authority.size()));
  if (bracketed) rest.remove_prefix(std::min<std::size_t>(1, rest.size()));
  if (address.host.empty() || (!rest.empty() && !rest.starts_with(':')))
    return Status::usage(fmt::format("{}: no host: redis://HOST[:PORT][/DB]", shown));
  if (!rest.empty() && (!read_number(rest.substr(1), address.port) || address.port == 0))
    return Status::usage(fmt::format("{}: '{}' is no port", shown, rest.substr(1)));
  return {};
}

// The code with which an error begins. Before Redis 7 one that a script met stands in the middle of its text.
std::string_view code_of(std::string_view error) {
  if (std::size_t const inner = error.find(": -"); error.starts_with("ERR ") && inner != std::string_view::npos)
    error.remove_prefix(inner + 3);
  return error.substr(0, error.find(' '));
}

}  // namespace

Result<RedisAddress> RedisAddress::parse(std::string_view url) {
  RedisAddress address;
  std::string const shown = redact(url);
  std::string_view db;
  if (url.starts_with("unix:")) {
    url.remove_prefix(url.starts_with("unix://") ? 7 : 5);
    std::size_t const question = std::min(url.find('?'), url.size());
    address.path = url.substr(0, question);
    if (address.path.empty()) return Status::usage("unix: without a path: unix:PATH");
    if (address.path.size() > 107) return Status::usage(fmt::format("{}: longer than a unix socket's path", shown));
    if (question < url.size()) {
      if (!url.substr(question).starts_with("?db=")) return Status::usage(fmt::format("{}: not ?db=N", shown));
      db = url.substr(question + 4);
      if (db.empty()) return Status::usage(fmt::format("{}: not ?db=N", shown));
    }
  } else if (url.starts_with("redis://")) {
    url.remove_prefix(8);
    std::size_t const end = std::min(url.find_first_of("/?#"), url.size());
    if (Status status = parse_authority(url.substr(0, end), shown, address); !status.ok()) return status;
    if (end < url.size()) db = url.substr(end + 1);
    if (end < url.size() && url[end] != '/') return Status::usage(fmt::format("{}: not redis://HOST/DB", shown));
  } else if (url.starts_with("rediss:")) {
    return Status::usage(
        fmt::format("{}: no TLS in the client library: use a unix socket, or a tunnel (stunnel) to the server", shown));
  } else {
    return Status::usage(fmt::format("{}: not a Redis: redis://HOST[:PORT][/DB], unix:PATH", shown));
  }
  if (!db.empty() && !read_number(db, address.db))
    return Status::usage(fmt::format("{}: '{}' is no database's number", shown, db));
  return address;
}

std::string RedisAddress::name() const {
  if (host.empty()) return fmt::format("unix:{}{}", path, db == 0 ? "" : fmt::format("?db={}", db));
  bool const v6 = host.find(':') != std::string::npos;
  return fmt::format("redis://{}{}{}:{}{}", v6 ? "[" : "", host, v6 ? "]" : "", port,
                     db == 0 ? "" : fmt::format("/{}", db));
}

void append_redis_count(std::string& out, std::size_t words) {
  out.append(1, '*').append(fmt::format_int(words).c_str()).append("\r\n");
}

void append_redis_word(std::string& out, std::string_view word) {
  out.append(1, '$').append(fmt::format_int(word.size()).c_str()).append("\r\n").append(word).append("\r\n");
}

struct Redis::State {
  RedisAddress address;
  Duration timeout{};
  std::string name;
  Handle<redisContext, redisFree> context;
  std::string buffer;  // to be sent

  // What a failed call left in the context, which is closed.
  Status lost(int error) {
    Status status;
    bool const late = context->err == REDIS_ERR_IO && (error == EAGAIN || error == EWOULDBLOCK);
    if (context->err == REDIS_ERR_PROTOCOL) {
      status = Status::usage(fmt::format("{}: not a Redis: {}", name, context->errstr));
    } else if (late) {
      status = Status::temporary(fmt::format("{}: no answer for {}", name, format_duration(timeout)));
    } else if (context->err == REDIS_ERR_EOF) {
      status = Status::temporary(fmt::format("{}: the server closed the connection", name));
    } else {
      status = Status::temporary(fmt::format("{}: {}", name, context->errstr));
    }
    context.reset();
    return status;
  }

  Status write(std::string_view bytes) {
    while (!bytes.empty()) {
      ssize_t const sent = ::send(context->fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0) {
        bool const late = errno == EAGAIN || errno == EWOULDBLOCK;
        std::string const why =
            late ? fmt::format("takes nothing for {}", format_duration(timeout)) : std::strerror(errno);
        if (late) context.reset();
        return Status::temporary(fmt::format("{}: {}", name, why));
      }
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return {};
  }
};

Redis::Redis(RedisAddress address, Duration timeout) : state_(std::make_unique<State>()) {
  add_secret(address.password);
  state_->name = address.name();
  state_->address = std::move(address);
  state_->timeout = timeout;
}
Redis::~Redis() = default;
Redis::Redis(Redis&&) noexcept = default;

std::string Redis::name() const { return state_->name; }
bool Redis::connected() const { return state_->context != nullptr; }

void Redis::close() {
  state_->context.reset();
  state_->buffer.clear();
}

Status Redis::connect() {
  close();
  RedisAddress const& address = state_->address;
  auto const micros = std::chrono::duration_cast<std::chrono::microseconds>(state_->timeout).count();
  timeval const limit{micros / 1'000'000, micros % 1'000'000};
  state_->context.reset(address.host.empty() ? redisConnectUnixWithTimeout(address.path.c_str(), limit)
                                             : redisConnectWithTimeout(address.host.c_str(), address.port, limit));
  if (!state_->context) return Status::temporary(fmt::format("{}: out of memory", state_->name));
  if (state_->context->err != 0) {
    int const error = errno;
    if (state_->context->err == REDIS_ERR_IO && (error == EACCES || error == EPERM)) {
      close();
      return Status::from_errno(state_->name, error);
    }
    return state_->lost(error);
  }
  if (redisSetTimeout(state_->context.get(), limit) != REDIS_OK) return state_->lost(errno);
  if (!address.host.empty()) (void)redisEnableKeepAlive(state_->context.get());

  Result<Reply> done = Reply{};
  if (!address.password.empty()) {
    done = address.user.empty() ? call({"AUTH", address.password}) : call({"AUTH", address.user, address.password});
  }
  if (done) done = call({"SELECT", fmt::format_int(address.db).c_str()});
  if (!done) close();
  return done.status();
}

Status Redis::send(std::string_view commands) {
  if (!connected()) return Status::temporary(fmt::format("{}: not connected", state_->name));
  if (state_->buffer.size() + commands.size() > kSendAtOnce) {
    if (Status status = flush(); !status.ok()) return status;
  }
  if (commands.size() > kSendAtOnce) return state_->write(commands);
  state_->buffer.append(commands);
  return {};
}

Status Redis::flush() {
  if (!connected()) return Status::temporary(fmt::format("{}: not connected", state_->name));
  Status status = state_->write(state_->buffer);
  state_->buffer.clear();
  return status;
}

Status Redis::reply(Reply& reply) {
  if (!connected()) return Status::temporary(fmt::format("{}: not connected", state_->name));
  void* got = nullptr;
  errno = 0;
  if (redisGetReply(state_->context.get(), &got) != REDIS_OK) return state_->lost(errno);
  Handle<void, freeReplyObject> const owner(got);
  auto const& told = *static_cast<redisReply const*>(got);
  reply.number = told.integer;
  bool const text =
      told.type == REDIS_REPLY_STRING || told.type == REDIS_REPLY_STATUS || told.type == REDIS_REPLY_ERROR;
  reply.text.assign(text ? told.str : "", text ? told.len : 0);
  reply.kind = told.type == REDIS_REPLY_ERROR     ? Reply::Kind::error
               : told.type == REDIS_REPLY_INTEGER ? Reply::Kind::number
               : text                             ? Reply::Kind::text
                                                  : Reply::Kind::none;
  return {};
}

Result<Redis::Reply> Redis::call(std::initializer_list<std::string_view> words) {
  std::string command;
  append_redis_count(command, words.size());
  for (std::string_view const word : words) append_redis_word(command, word);
  Reply answer;
  Status status = send(command);
  if (status.ok()) status = flush();
  // One that wants no more clients says so and closes: that tells more than a broken pipe.
  if (!status.ok() && connected() && reply(answer).ok() && answer.kind == Reply::Kind::error) {
    close();
    return failure(answer.text);
  }
  if (status.ok()) status = reply(answer);
  if (status.ok() && answer.kind == Reply::Kind::error) status = failure(answer.text);
  if (!status.ok()) return status;
  return answer;
}

Status Redis::failure(std::string_view error) const {
  static constexpr std::array<std::string_view, 9> later = {
      "LOADING", "BUSY", "OOM", "MISCONF", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS", "NOSCRIPT"};
  std::string_view const code = code_of(error);
  std::string text = fmt::format("{}: {}", state_->name, error);
  if (std::find(later.begin(), later.end(), code) != later.end() || error.starts_with("ERR max number of clients"))
    return Status::temporary(std::move(text));
  if (code == "WRONGTYPE" || code == "REJECTED" || error.starts_with("ERR Protocol error"))
    return Status::rejected(std::move(text));
  // Whatever else it is, it is not proven to be the record's own fault.
  if (code == "NOAUTH") text += " (REDISCLI_AUTH or --password-file)";
  if (code == "MOVED" || code == "ASK" || code == "CROSSSLOT") text += " (a Redis Cluster: not served yet)";
  return Status::usage(std::move(text));
}

}  // namespace inflight

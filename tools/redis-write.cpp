// redis-write: keep the newest of each record's fields in a Redis hash.  Manual: man/redis-write.1
#include <fmt/format.h>

#include <cstdlib>

#include "common/fd_io.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/redis.h"
#include "common/redis_hash.h"
#include "common/sink_loop.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

class RedisSink final : public Sink {
 public:
  RedisSink(Io& io, Redis redis, RedisHash hash) : io_(io), redis_(std::move(redis)), hash_(std::move(hash)) {}

  Status connect() override {
    if (Status status = redis_.connect(); !status.ok()) return status;
    Status status = look();
    if (status.ok()) status = load();
    if (!status.ok()) redis_.close();
    return status;
  }

  bool keeps() const override { return true; }
  Status keep(Record const& record, std::string& kept) override { return hash_.command(record, io_.clock.now(), kept); }

  // All commands leave before the first reply is read. Behind one that has to come again all do, in their order.
  Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) override {
    for (std::size_t done = 0, before = batch.size();; before = done) {
      again_ = false;
      Status status = deliver_from(batch, done, outcomes);
      if (!again_ || done == before) return status;
    }
  }

  Status show(SinkRecord const& record, std::string& out) override {
    return hash_.show(record.record, io_.clock.now(), out);
  }

 private:
  // `done` counts those that have an outcome.
  Status deliver_from(std::span<SinkRecord const> batch, std::size_t& done, Outcomes& outcomes) {
    Status sent = redis_.connected() ? Status{} : connect();
    for (std::size_t i = done; i < batch.size() && sent.ok(); ++i) sent = redis_.send(batch[i].kept);
    if (sent.ok()) sent = redis_.flush();
    while (done < batch.size() && redis_.connected()) {
      Status heard = redis_.reply(reply_);
      if (!heard.ok()) return sent.ok() ? heard : sent;
      if (reply_.kind == Redis::Reply::Kind::error) heard = redis_.failure(reply_.text);
      if (heard.code() == Code::rejected) {
        outcomes.rejected(done++, heard.what());
        again_ = reply_.text.starts_with("ERR Protocol error");  // after which the server hangs up
        if (!again_) continue;
      } else if (heard.ok()) {
        outcomes.stored(done++);
        continue;
      } else {
        again_ = reply_.text.starts_with("NOSCRIPT");
      }
      // Whatever is wrong may be this server's: another one may answer to its name now.
      redis_.close();
      return heard.code() == Code::rejected ? Status{} : heard;
    }
    return sent;
  }

  Status load() {
    for (std::size_t i = 0; i < RedisHash::kScripts; ++i) {
      auto sha = redis_.call({"SCRIPT", "LOAD", RedisHash::script(i)});
      if (!sha) return sha.status();
      hash_.loaded(i, sha->text);
    }
    return {};
  }

  // What the server says of itself that its operator should know.
  Status look() {
    auto info = redis_.call({"INFO", "all"});
    if (!info && info.status().code() == Code::temporary) return info.status();
    std::string_view const text = info ? std::string_view(info->text) : std::string_view();
    auto says = [&](std::string_view line) { return text.find(line) != std::string_view::npos; };
    if (says("\nrole:slave\r") && says("\nslave_read_only:1\r"))
      return Status::usage(fmt::format("{}: a replica, which is read-only: name its master", redis_.name()));
    if (says("\nloading:1\r")) return Status::temporary(fmt::format("{}: loading its data", redis_.name()));
    if (std::exchange(looked_, true)) return {};
    if (!info)
      say_warning(fmt::format("{}; so it is not known whether it keeps what it has stored", info.status().what()));
    if (says("\naof_enabled:0\r")) {
      say_warning(
          fmt::format("{}: appendonly is off: what it forgets in a crash is not delivered again", redis_.name()));
    }
    if (says("\nmaxmemory_policy:allkeys-") && !says("\nmaxmemory:0\r")) {
      say_warning(fmt::format("{}: its maxmemory-policy lets it drop keys, and what it drops is not delivered again",
                              redis_.name()));
    }
    return {};
  }

  Io& io_;
  Redis redis_;
  RedisHash hash_;
  Redis::Reply reply_;
  bool looked_ = false;  // and told
  bool again_ = false;   // what failed can be sent again at once
};

// The destination with its password, which is on no command line: REDIS_URL, REDISCLI_AUTH, or a file.
Result<RedisAddress> address_of(std::string url, std::string const& password_file) {
  bool const given = !url.empty();
  auto variable = [](char const* name) {
    char const* const value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (!given && (url = variable("REDIS_URL")).empty())
    return Status::usage("no destination: redis://HOST[:PORT][/DB] or unix:PATH, here or in REDIS_URL");
  auto address = RedisAddress::parse(url);
  if (!address) return address.status();
  if (given && !address->password.empty())
    return Status::usage("a password does not belong on a command line: REDISCLI_AUTH or --password-file");
  if (password_file.empty()) {
    if (address->password.empty()) address->password = variable("REDISCLI_AUTH");
    return address;
  }
  auto text = read_file(password_file);
  if (!text) return text.status();
  address->password = text->substr(0, text->find_first_of("\r\n"));
  if (address->password.empty()) return Status::usage(fmt::format("{}: its first line is empty", password_file));
  return address;
}

Exit run(Cli& cli, Io& io) {
  std::string url, password_file;
  Duration timeout = std::chrono::seconds(30);
  RedisHashOptions options;
  SinkOptions sink_options;
  cli.purpose("Keep the newest of each record's fields in a Redis hash; what is older than the hash is passed over.",
              {"bsu-fetch --devices fleet.txt --once | xml2json --time /bsu/@time | redis-write redis://cache --key "
               "bsu:{subject}",
               "consume fleet/ --as monitoring -- 'xml2json --time /bsu/@time | redis-write redis://cache \\\n"
               "      --key bsu:{subject} --field power=/bsu/power --publish bsu-changes --expire 1h'"});
  cli.positional_optional("DESTINATION", url, "redis://HOST[:PORT][/DB] or unix:PATH; without it REDIS_URL is taken");
  cli.required("--key", options.key, "the hash of a record, e.g. bsu:{subject}");
  cli.option("--field", options.fields,
             "name=PATH, may be repeated; without any: the scalars of the data, named by their paths");
  cli.option("--newer-by", options.newer_by, "the path of the time by which a record is newer than what is stored");
  cli.option("--max-future", options.max_future, "reject a record whose time is further ahead than this (0s: none)");
  cli.option("--expire", options.expire, "a key that no record has renewed for so long is gone (0s: never)");
  cli.option("--remember-deleted", options.remember_deleted,
             "how long the time of a deletion is kept, for older records that come after it (0s: for ever)");
  cli.option("--publish", options.publish, "publish each change on this channel, or template of one");
  cli.option("--password-file", password_file, "the password is the first line of this file");
  cli.option("--timeout", timeout, "connecting and each answer take no longer");
  sink_options.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  auto hash = RedisHash::make(options);
  if (!hash) return cli.wrong(hash.status().what());
  auto address = address_of(url, password_file);
  if (!address) return cli.wrong(address.status().what());
  if (timeout <= Duration::zero()) return cli.wrong("--timeout: not above 0s");
  Progress const progress(cli.common());
  RedisSink sink(io, Redis(std::move(*address), timeout), std::move(*hash));
  return run_sink(io, sink, sink_options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

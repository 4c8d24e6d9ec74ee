// Requests to one bucket of an S3 server, signed, answered with what became of them.
//
// One thread. The clock of the server is followed where it refuses ours, and credentials are read again where it
// refuses them: files of profiles are renewed while we run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/http_message.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct S3Options {
  std::string addressing = "auto";              // auto, path, virtual
  Duration timeout = std::chrono::seconds(30);  // a request that moves no byte for so long is tried again
  std::uint64_t multipart = 64 << 20;           // what is larger is put in parts; S3 wants 5 MiB at least of each
  std::size_t max_in_flight = 16;               // of start()
  Duration whole = std::chrono::hours(1);       // a request that moves takes no longer
  std::uint64_t max_body = 16 << 20;            // of an answer
  bool decode = false;                          // what the object's Content-Encoding names
};

struct S3Request {
  std::string method = "GET";
  std::string key;  // empty: the bucket
  std::vector<std::pair<std::string, std::string>> query{};
  std::vector<std::pair<std::string, std::string>> headers{};
  std::string body{};
  HttpFile file{};               // sent instead of the body, where there is one
  std::string payload_sha256{};  // of the file, hexadecimal
  bool once = false;             // HttpRequest::once
};

struct S3Answer {
  // temporary  nobody answered, or the server says that later may succeed
  // usage      the operator's: permission, bucket, region, a server that is no S3
  // rejected   412, 501: what a condition says
  Status status;
  int http = 0;  // 0: no answer came
  std::string code;
  std::string body;
  std::string etag;        // without quotes
  std::string type;        // Content-Type
  bool too_large = false;  // the object is, and was not read
  std::uint64_t total{};   // the object's size, of a range or of HEAD
  std::optional<Duration> retry_after;
};

// How long what fails for a while is tried again: not at all before the server has answered once in this run.
enum class S3Patience { none, short_time, minute };

class S3Client {
 public:
  // Reads credentials, region and endpoint (aws_config.h). Code::usage: these, or the bucket's name.
  [[nodiscard]] static Result<std::unique_ptr<S3Client>> make(Clock& clock, std::string const& bucket,
                                                              S3Options const& options);
  ~S3Client();

  [[nodiscard]] S3Answer ask(S3Request const& request, S3Patience patience);

  // Without waiting for the answer, at most S3Options::max_in_flight at a time; `done` runs in wait() or ask(), once,
  // and not again after forget(). No second attempt is made.
  using Id = std::size_t;
  Id start(S3Request const& request, std::function<void(S3Answer&)> done);
  void forget(Id id);
  [[nodiscard]] std::size_t in_flight() const;
  // Lets happen what can, for so long. Code::stopped: a stop signal came, and `until_stop`.
  [[nodiscard]] Status wait(bool until_stop, Duration most = std::chrono::seconds(1));

  [[nodiscard]] std::string name(std::string const& key) const;  // s3://BUCKET/KEY
  [[nodiscard]] std::string endpoint() const;

  struct State;

 private:
  explicit S3Client(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The text of an XML document as JSON (xml_json.h), without namespaces; `Contents` and `Upload` are arrays. Discarded
// where it is no XML.
[[nodiscard]] nlohmann::json s3_xml(std::string const& body);
// A member that is a string; empty where there is none, in whatever `of` is.
[[nodiscard]] std::string s3_text(nlohmann::json const& of, char const* name);
// The members of an element; an empty object where it is not there or has none.
[[nodiscard]] nlohmann::json s3_element(nlohmann::json const& of, char const* name);

}  // namespace inflight

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/document_source.h"
#include "common/s3_client.h"
#include "common/url.h"

namespace inflight {

namespace {

constexpr std::uint64_t kError = 1 << 20;  // what the server says instead of a document
constexpr Duration kSlice = std::chrono::milliseconds(2);
constexpr std::size_t kLongestKey = 1024;

struct Name {
  std::string bucket, key;
};

// Of `s3://BUCKET/KEY`, percent-encoded as URIs are; Code::rejected: it is none.
Result<Name> name_of(std::string_view reference) {
  auto const wrong = [&](char const* why) {
    return Status::rejected(fmt::format("{}: {}", public_url(reference), why));
  };
  if (!reference.starts_with("s3://")) return wrong("not s3://BUCKET/KEY");
  std::string_view const rest = reference.substr(5);
  if (rest.find_first_of("?#") != std::string_view::npos) return wrong("'?' and '#' in a key are %3F and %23");
  if (!dot_step(reference).empty()) return wrong("a step '.' or '..' in it");
  std::size_t const slash = std::min(rest.find('/'), rest.size());
  Name name{std::string(rest.substr(0, slash)), percent_decode(rest.substr(std::min(slash + 1, rest.size())))};
  if (name.bucket.empty()) return wrong("without a bucket");
  if (name.key.size() > kLongestKey) return wrong("a key of more than 1024 bytes");
  return name;
}

bool is_below(std::string_view key, std::string_view prefix) {
  if (prefix.empty() || prefix.ends_with('/')) return key.starts_with(prefix);
  return key.starts_with(prefix) && (key.size() == prefix.size() || key[prefix.size()] == '/');
}

// Errors of one object (AWS's "List of error codes").
bool is_objects(std::string_view code) {
  return code == "KeyTooLongError" || code == "InvalidURI" || code == "InvalidObjectState";
}

class S3Documents final : public DocumentSource {
 public:
  std::string fault(std::string_view reference) const override {
    auto const name = name_of(reference);
    if (!name) return "dataref: " + name.status().what();
    bool const under = !name->key.empty() && std::any_of(under_.begin(), under_.end(), [&](Name const& one) {
      return one.bucket == name->bucket && is_below(name->key, one.key);
    });
    return under ? "" : fmt::format("dataref: not under any --under: {}", public_url(reference));
  }

  void start(std::string_view reference, Done done) override {
    Name const name = *name_of(reference);
    S3Request request;
    request.key = name.key;
    clients_.at(name.bucket)->start(request, [this, done = std::move(done)](S3Answer& answered) {
      DocumentAnswer answer = read(answered);
      done(answer);
    });
  }

  std::size_t under_way() const override {
    std::size_t count = 0;
    for (auto const& [bucket, client] : clients_) count += client->in_flight();
    return count;
  }

  Status turn(Duration wait) override {
    auto const busy =
        std::count_if(clients_.begin(), clients_.end(), [](auto const& c) { return c.second->in_flight() > 0; });
    for (auto const& [bucket, client] : clients_) {
      if (client->in_flight() == 0) continue;
      if (Status status = client->wait(false, busy == 1 ? wait : std::min(wait, kSlice)); !status.ok()) return status;
    }
    return {};
  }

  Status open(DocumentOptions const& options, Clock& clock) {
    S3Options s3;
    s3.timeout = s3.whole = options.http.timeout;
    s3.max_in_flight = options.http.max_in_flight;
    s3.max_body = std::max(options.http.max_body, kError);
    s3.decode = true;
    most_ = options.http.max_body;
    for (std::string const& one : options.under) {
      if (!is_s3_url(one)) continue;
      auto name = name_of(one);
      if (!name) return Status::usage("--under: " + name.status().what());
      if (!clients_.contains(name->bucket)) {
        auto client = S3Client::make(clock, name->bucket, s3);
        if (!client) return client.status().at("--under: " + one);
        clients_[name->bucket] = std::move(*client);
      }
      under_.push_back(std::move(*name));
    }
    return {};
  }

 private:
  DocumentAnswer read(S3Answer& answered) const {
    using Load = Concurrency::Answer;
    DocumentAnswer answer;
    answer.what = "the object";
    answer.status = std::move(answered.status);
    answer.retry_after = answered.retry_after;
    if (answered.too_large || (answer.status.ok() && answered.body.size() > most_)) {
      answer.status = Status::rejected(fmt::format("the object is larger than {} bytes", most_));
      return answer;
    }
    bool const refused = answered.http == 429 || answered.http == 503;
    answer.load = refused ? Load::refused : answered.http == 0 ? Load::failed : Load::served;
    if (answered.code == "NoSuchKey") {
      answer.missing = true;
      answer.doubts = 1;
    } else if (is_objects(answered.code)) {
      answer.status = Status::rejected(answer.status.what());
    }
    answer.body = std::move(answered.body);
    answer.type = std::move(answered.type);
    return answer;
  }

  std::vector<Name> under_;
  std::map<std::string, std::unique_ptr<S3Client>, std::less<>> clients_;  // by bucket
  std::uint64_t most_ = 0;
};

}  // namespace

Result<std::unique_ptr<DocumentSource>> s3_documents(DocumentOptions const& options, Clock& clock) {
  auto documents = std::make_unique<S3Documents>();
  if (Status status = documents->open(options, clock); !status.ok()) return status;
  return std::unique_ptr<DocumentSource>(std::move(documents));
}

}  // namespace inflight

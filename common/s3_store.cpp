#include "common/s3_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/digest.h"
#include "common/s3_reader.h"
#include "common/s3_upload.h"
#include "common/state_folder.h"
#include "common/url.h"

namespace inflight {

namespace {

bool is_hidden(std::string_view key) { return key.starts_with('.') || key.find("/.") != std::string_view::npos; }

class S3Store final : public ObjectStore {
 public:
  S3Store(Disk& disk, std::unique_ptr<S3Client> client, std::string bucket, std::string root, bool puts,
          S3Options const& options)
      : client_(std::move(client)),
        bucket_(std::move(bucket)),
        root_(std::move(root)),
        patience_(puts ? S3Patience::short_time : S3Patience::minute),
        upload_(*client_, disk, options.multipart),
        reader_(*client_, patience_) {}

  Result<Put> put(std::string const& key, std::string const& file) override { return upload_.put(root_ + key, file); }

  Result<std::size_t> get(std::string const& key, std::uint64_t offset, std::span<char> to) override {
    return reader_.get(root_ + key, offset, to);
  }

  bool expect(std::string const& key, std::uint64_t offset, std::uint64_t size) override {
    return reader_.expect(root_ + key, offset, size);
  }

  Result<std::optional<Object>> find(std::string const& key) override {
    S3Answer const answer = client_->ask({"HEAD", root_ + key}, patience_);
    if (answer.http == 404) return std::optional<Object>();
    if (!answer.status.ok()) return answer.status;
    return std::optional<Object>({key, answer.total});
  }

  // What is listed begins behind a key: behind the one that lacks the last character of `from`, and what is before
  // `from` is passed over.
  Status list(std::string const& from, Visit const& visit) override {
    std::string token;
    do {
      auto page = ask_for_page(from.empty() ? "" : root_ + from.substr(0, from.size() - 1), token, 0);
      if (!page) return page.status();
      token = s3_text(*page, "IsTruncated") == "true" ? s3_text(*page, "NextContinuationToken") : "";
      for (nlohmann::json const& entry : page->value("Contents", nlohmann::json::array())) {
        std::string const key = form_decode(s3_text(entry, "Key"));
        if (!key.starts_with(root_) || key.size() == root_.size()) continue;
        Object object{key.substr(root_.size()), std::strtoull(s3_text(entry, "Size").c_str(), nullptr, 10)};
        if (object.key < from || is_hidden(object.key)) continue;
        auto more = visit(object);
        if (!more || !*more) return more.status();
      }
    } while (!token.empty());
    return {};
  }

  // So that mistakes are told before anything is read or taken.
  Status probe() { return ask_for_page("", "", 1).status(); }

  std::string name(std::string const& key) const override { return client_->name(root_ + key); }
  bool remote() const override { return true; }
  std::string identity() const override { return fmt::format("{} {}", client_->endpoint(), name("")); }

  Result<std::string> spools() const override {
    std::string const state = state_folder();
    if (state.empty())
      return Status::usage("neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set: --spool is needed");
    return fmt::format("{}/s3-archive/{}-{}", state, bucket_, to_hex(sha256(identity())).substr(0, 16));
  }

 private:
  Result<nlohmann::json> ask_for_page(std::string const& after, std::string const& token, unsigned limit) {
    S3Request request;
    request.query = {{"list-type", "2"}, {"encoding-type", "url"}};
    if (!root_.empty()) request.query.emplace_back("prefix", root_);
    if (limit > 0) request.query.emplace_back("max-keys", std::to_string(limit));
    if (!token.empty()) request.query.emplace_back("continuation-token", token);
    if (token.empty() && !after.empty()) request.query.emplace_back("start-after", after);
    S3Answer const answer = client_->ask(request, patience_);
    if (!answer.status.ok()) return answer.status;
    nlohmann::json page = s3_element(s3_xml(answer.body), "ListBucketResult");
    if (page.empty()) {
      return Status::usage(
          fmt::format("{}: {}: the answer is no list of objects: is it an S3 server?", name(""), client_->endpoint()));
    }
    return page;
  }

  std::unique_ptr<S3Client> client_;
  std::string bucket_;
  std::string root_;  // with '/' at its end, or empty
  S3Patience patience_;
  S3Upload upload_;
  S3Reader reader_;
};

}  // namespace

Result<std::unique_ptr<ObjectStore>> open_s3_store(Disk& disk, Clock& clock, std::string const& name, bool puts,
                                                   S3Options const& options) {
  std::string const shown = public_url(name);
  std::string const path = name.substr(5);
  std::size_t const slash = std::min(path.find('/'), path.size());
  std::string root = slash < path.size() ? path.substr(slash + 1) : "";
  while (root.ends_with('/')) root.pop_back();
  if (!root.empty()) root += '/';
  if (path.find_first_of("?#") != std::string::npos)
    return Status::usage(fmt::format("'{}': s3://BUCKET/PREFIX takes no arguments", shown));
  if (std::any_of(root.begin(), root.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
    return Status::usage(fmt::format("'{}': a control character in it", shown));
  if (std::string const parts = "/" + root;
      parts.find("/./") != std::string::npos || parts.find("/../") != std::string::npos) {
    return Status::usage(fmt::format("'{}': a part '.' or '..'", shown));
  }
  std::string const bucket = path.substr(0, slash);
  auto client = S3Client::make(clock, bucket, options);
  if (!client) return client.status().at("'" + shown + "'");
  auto store = std::make_unique<S3Store>(disk, std::move(*client), bucket, std::move(root), puts, options);
  if (Status status = store->probe(); !status.ok()) return status;
  return std::unique_ptr<ObjectStore>(std::move(store));
}

}  // namespace inflight

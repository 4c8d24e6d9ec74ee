#include "common/document_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/url.h"

namespace inflight {

namespace {

constexpr Duration kSlice = std::chrono::milliseconds(2);  // of waiting, where there are several to wait for

class Documents final : public DocumentSource {
 public:
  enum Kind : std::size_t { http, s3, file, kinds };

  Result<Kind> kind_of(std::string_view reference) const {
    Kind const kind = is_s3_url(reference) ? s3 : is_file_url(reference) ? file : http;
    if (kind != http && !sources_[kind])
      return Status::rejected(fmt::format("dataref: not under any --under: {}", public_url(reference)));
    return kind;
  }

  std::string fault(std::string_view reference) const override {
    auto const kind = kind_of(reference);
    return kind ? sources_[*kind]->fault(reference) : kind.status().what();
  }

  void start(std::string_view reference, Done done) override {
    sources_[*kind_of(reference)]->start(reference, std::move(done));
  }

  std::size_t under_way() const override {
    std::size_t count = 0;
    for (auto const& source : sources_) count += source ? source->under_way() : 0;
    return count;
  }

  Status turn(Duration wait) override {
    std::array<DocumentSource*, kinds> busy{};
    std::size_t count = 0;
    for (auto const& source : sources_) {
      if (source && source->under_way() > 0) busy[count++] = source.get();
    }
    if (count == 0) return sources_[http]->turn(wait);
    for (std::size_t i = 0; i < count; ++i) {
      if (Status status = busy[i]->turn(count == 1 ? wait : std::min(wait, kSlice)); !status.ok()) return status;
    }
    return {};
  }

  std::array<std::unique_ptr<DocumentSource>, kinds> sources_;
};

}  // namespace

bool is_s3_url(std::string_view reference) { return reference.starts_with("s3:"); }
bool is_file_url(std::string_view reference) { return reference.starts_with("file:"); }

std::string DocumentOptions::mistake() const {
  bool for_http = false;
  for (std::string const& one : under) {
    bool const http_url = is_http_url(one);
    if (!http_url && !is_s3_url(one) && !is_file_url(one))
      return "--under: not http:// or https:// with a host, s3://BUCKET/PREFIX or file:///FOLDER: " + public_url(one);
    if (!dot_step(one).empty()) return "--under: a step '.' or '..' in it: " + public_url(one);
    for_http = for_http || http_url;
  }
  if (!for_http && !(http.header_files.empty() && google.token_file.empty() && google.file.empty()))
    return "--header-file, --token-file, --credentials: which host they are for is said by --under, not by a record";
  return "";
}

Result<std::unique_ptr<DocumentSource>> open_documents(DocumentOptions const& options, Clock& clock) {
  auto all = std::make_unique<Documents>();
  auto const any = [&](bool (*is)(std::string_view)) {
    return std::any_of(options.under.begin(), options.under.end(), [&](std::string const& one) { return is(one); });
  };
  auto const add = [&](Documents::Kind kind, Result<std::unique_ptr<DocumentSource>> made) {
    if (made) all->sources_[kind] = std::move(*made);
    return made.status();
  };
  Status status = add(Documents::http, http_documents(options, clock));
  if (status.ok() && any(is_s3_url)) status = add(Documents::s3, s3_documents(options, clock));
  if (status.ok() && any(is_file_url)) status = add(Documents::file, file_documents(options));
  if (!status.ok()) return status;
  return std::unique_ptr<DocumentSource>(std::move(all));
}

}  // namespace inflight

#include <fmt/format.h>

#include <algorithm>

#include "common/document_source.h"
#include "common/http.h"
#include "common/rest_call.h"
#include "common/rtdb.h"
#include "common/url.h"

namespace inflight {

namespace {

constexpr Duration kFresh = std::chrono::seconds(1);    // so long a token file is not read again, nor a failure mended
constexpr Duration kRenewed = std::chrono::minutes(1);  // so long no other token is asked for, if none was accepted

bool is_below(std::string_view url, std::string_view prefix) {
  if (!url.starts_with(prefix)) return false;
  return prefix.back() == '/' || url.size() == prefix.size() || url[prefix.size()] == '/' || url[prefix.size()] == '?';
}

class HttpDocuments final : public DocumentSource {
 public:
  HttpDocuments(DocumentOptions const& options, Clock& clock) : clock_(clock), under_(options.under) {
    rest_.allow_html = options.allow_html;
  }

  Status open(DocumentOptions const& options) {
    // What the environment names is for Google's own hosts; what the command names, for those that it names, too.
    everywhere_ = !options.google.file.empty() || !options.google.token_file.empty();
    bool const googles = std::any_of(under_.begin(), under_.end(), [](auto const& one) { return is_rtdb_url(one); });
    if (everywhere_ || googles) {
      auto token = rtdb_token(options.google, false, clock_);
      if (!token) return token.status();
      token_ = std::move(*token);
    }
    auto client = HttpClient::make(options.http, clock_);
    if (!client) return client.status();
    client_ = std::move(*client);
    return {};
  }

  std::string fault(std::string_view reference) const override {
    if (!is_http_url(reference))
      return fmt::format("dataref: neither http:// nor https://, s3:// nor file:///: {}", public_url(reference));
    bool const under =
        under_.empty() ||
        (dot_step(reference).empty() &&
         std::any_of(under_.begin(), under_.end(), [&](std::string const& one) { return is_below(reference, one); }));
    return under ? "" : fmt::format("dataref: not under any --under: {}", public_url(reference));
  }

  void start(std::string_view reference, Done done) override { ask({std::string(reference), std::move(done)}); }

  std::size_t under_way() const override { return client_->in_flight() + again_.size(); }

  Status turn(Duration wait) override {
    Status status = client_->turn(again_.empty() ? wait : Duration::zero());
    for (Asked& asked : std::exchange(again_, {})) ask(std::move(asked));
    return status;
  }

 private:
  struct Asked {
    std::string url;
    Done done;
    bool again = false;
    std::string header{};  // with its token
  };

  void ask(Asked asked) {
    if (is_rtdb_emulator_url(asked.url) && !everywhere_) {
      asked.header = "Authorization: Bearer owner";
    } else if (token_ && (everywhere_ || is_rtdb_url(asked.url))) {
      if (Status status = refresh(); !status.ok()) {
        DocumentAnswer answer;
        answer.status = std::move(status);
        answer.load = Concurrency::Answer::failed;
        return asked.done(answer);
      }
      asked.header = header_;
    }
    HttpRequest request;
    request.url = asked.url;
    if (!asked.header.empty()) request.headers.push_back(asked.header);
    client_->start(std::move(request), [this, asked = std::move(asked)](HttpResponse& response) mutable {
      bool const refused = response.status == 401;
      if (!refused && response.status > 0 && asked.header == header_) accepted_ = true;
      if (refused && !asked.again && renew(asked.header)) {
        asked.again = true;
        again_.push_back(std::move(asked));
        return;
      }
      DocumentAnswer answer = read(response);
      asked.done(answer);
    });
  }

  DocumentAnswer read(HttpResponse& response) const {
    using Load = Concurrency::Answer;
    RestJudgement judgement = judge(rest_, false, response);
    DocumentAnswer answer;
    answer.status = std::move(judgement.status);
    answer.load = judgement.refused ? Load::refused : judgement.failed ? Load::failed : Load::served;
    answer.doubts = judgement.doubts;
    answer.retry_after = response.retry_after;
    answer.what = fmt::format("status {}: the answer", response.status);
    answer.type = response.header ? response.header("Content-Type") : std::string_view{};
    bool const whole = response.cause == HttpCause::status || response.cause == HttpCause::too_large;
    answer.missing = response.status == 404 && whole;
    if (response.no_url || (answer.status.ok() && response.cause == HttpCause::too_large))
      answer.status = Status::rejected(response.error);
    answer.body = std::move(response.body);
    return answer;
  }

  // header_ as it is to be sent now.
  Status refresh() {
    Duration const now = clock_.steady();
    if (read_at_ && now - *read_at_ < kFresh) return failed_;
    auto header = token_->header();
    read_at_ = clock_.steady();
    failed_ = header.status();
    if (failed_.code() == Code::stopped) failed_ = Status::temporary(failed_.what());
    if (header) take(std::move(*header));
    return failed_;
  }

  void take(std::string header) {
    if (header == header_) return;
    header_ = std::move(header);
    accepted_ = false;
  }

  // An expired token is told as 401: another one tells whether that was all. One that was refused when it was new is
  // not followed by a next one at once. Whether asking again may help.
  bool renew(std::string const& header) {
    if (header.empty() || !token_) return false;
    if (header != header_) return true;
    Duration const now = clock_.steady();
    if (renewed_at_ && !accepted_ && now - *renewed_at_ < kRenewed) return false;
    renewed_at_ = now;
    if (!token_->renew()) return false;
    read_at_.reset();
    return true;
  }

  Clock& clock_;
  std::vector<std::string> under_;
  RestOptions rest_;
  std::unique_ptr<HttpClient> client_;
  std::unique_ptr<GoogleToken> token_;
  bool everywhere_ = false;
  std::string header_;
  bool accepted_ = false;  // what was asked for with it was answered, if not with 401
  std::optional<Duration> read_at_, renewed_at_;
  Status failed_;             // of the last refresh()
  std::vector<Asked> again_;  // with another token
};

}  // namespace

Result<std::unique_ptr<DocumentSource>> http_documents(DocumentOptions const& options, Clock& clock) {
  auto documents = std::make_unique<HttpDocuments>(options, clock);
  if (Status status = documents->open(options); !status.ok()) return status;
  return std::unique_ptr<DocumentSource>(std::move(documents));
}

}  // namespace inflight

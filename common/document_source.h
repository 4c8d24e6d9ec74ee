// Documents by their references, as hydrate fetches them: over HTTP, from S3, from files.
//
// A record does not choose what is read with the operator's rights, nor who hears his secrets: files, objects of S3 and
// whatever is asked for with a secret are fetched only under a reference that the operator has named.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/concurrency.h"
#include "common/google_token.h"
#include "common/http_message.h"
#include "common/status.h"
#include "common/time.h"
#include "common/units.h"

namespace inflight {

struct DocumentOptions {
  HttpOptions http;  // max_in_flight, timeouts and the largest document are those of all kinds
  GoogleCredentials google;
  std::vector<std::string> under;
  bool allow_html = false;

  // What is wrong with them taken together; empty: nothing.
  [[nodiscard]] std::string mistake() const;
};

struct DocumentAnswer {
  Status status;  // as SinkAnswer has it
  Concurrency::Answer load = Concurrency::Answer::served;
  unsigned doubts = 0;
  std::optional<Duration> retry_after{};
  bool missing = false;  // the place was asked, and says that there is no such document
  std::string body{};
  std::string type{};  // empty: nobody says
  std::string what{};  // `status 200: the answer`, `the file`: the subject of what is wrong with it
};

// One thread.
class DocumentSource {
 public:
  virtual ~DocumentSource() = default;

  // Why what is referred to is not fetched, before anybody is asked; empty: it may be.
  [[nodiscard]] virtual std::string fault(std::string_view reference) const = 0;
  // Of a reference without fault. `done` runs once, in start() or turn().
  using Done = std::function<void(DocumentAnswer&)>;
  virtual void start(std::string_view reference, Done done) = 0;
  [[nodiscard]] virtual std::size_t under_way() const = 0;
  // Waits at most so long for something to happen, and lets happen what can.
  [[nodiscard]] virtual Status turn(Duration wait) = 0;
};

// All kinds, by the scheme of the reference. Code::usage: credentials, header files, a folder that is not there.
[[nodiscard]] Result<std::unique_ptr<DocumentSource>> open_documents(DocumentOptions const& options, Clock& clock);

// Each for those of options.under that are of its kind; there is one at least, but for HTTP.
[[nodiscard]] Result<std::unique_ptr<DocumentSource>> http_documents(DocumentOptions const& options, Clock& clock);
[[nodiscard]] Result<std::unique_ptr<DocumentSource>> s3_documents(DocumentOptions const& options, Clock& clock);
[[nodiscard]] Result<std::unique_ptr<DocumentSource>> file_documents(DocumentOptions const& options);

[[nodiscard]] bool is_s3_url(std::string_view reference);
[[nodiscard]] bool is_file_url(std::string_view reference);

}  // namespace inflight

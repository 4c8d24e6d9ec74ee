// Records as calls of a REST service: the request that a record makes, and what an answer says of it.  Manual:
// man/http-write.1
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/http_message.h"
#include "common/path.h"
#include "common/receipts.h"
#include "common/record.h"
#include "common/status.h"

namespace inflight {

struct RestOptions {
  std::string url;  // a template
  std::string method = "PUT";
  std::string body;  // the path of what is sent; empty: the data
  std::string conflict = "reject";
  std::string version_header;
  std::string version{};  // the path of what it says; empty: fetchedtime, else recordedtime
  bool allow_html = false;
};

// Makes requests. A record becomes a text, by the thread that reads, and that a request by the one that sends.
class RestCalls {
 public:
  // Code::usage: the options are wrong.
  [[nodiscard]] static Result<RestCalls> make(RestOptions const& options);

  // Code::rejected: the record's own fault.
  [[nodiscard]] Status write(Record const& record, std::string& call);
  // `delivery` and `source` (receipts.h) name a record that does not name itself.
  [[nodiscard]] static HttpRequest request(std::string_view call, std::string_view delivery, Receipts const& receipts);
  // What records keep their order by: their partition key, or where they are sent to; empty where that is one place for
  // all and POST makes a new thing of each.
  [[nodiscard]] static std::string_view key_of(std::string_view call);
  [[nodiscard]] static bool is_deletion(std::string_view call);
  // `METHOD URL BODY`, on one line.
  static void show(std::string_view call, std::string& out);

 private:
  RestCalls() = default;
  Status write_url(Record const& record, std::string& url);
  Status write_body(Record const& record, std::string& headers, std::string& body);
  Status write_version(Record const& record, std::string& headers);

  RestOptions options_;
  Template url_;
  std::optional<Path> body_, version_;
  std::optional<Selector> selector_;
  std::vector<Value> values_;
  std::string body_text_, headers_, url_text_, key_, scratch_;
};

struct RestJudgement {
  Status status;                         // as SinkRequests wants it
  bool refused = false, failed = false;  // for load; without an answer
  unsigned doubts = 0;
};
[[nodiscard]] RestJudgement judge(RestOptions const& options, bool deletion, HttpResponse const& response);

}  // namespace inflight

// http-write: call a REST service for each record.  Manual: man/http-write.1
#include <algorithm>

#include "common/http.h"
#include "common/metrics.h"
#include "common/rest_call.h"
#include "common/sink_loop.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

class HttpSink final : public Sink, public SinkRequests {
 public:
  HttpSink(Io& io, RestOptions const& options, HttpOptions const& http, RestCalls calls)
      : io_(io), options_(options), http_options_(http), calls_(std::move(calls)) {}

  Status connect() override {
    auto client = HttpClient::make(http_options_, io_.clock);
    if (!client) return client.status();
    client_ = std::move(*client);
    return {};
  }

  bool keeps() const override { return true; }
  Status keep(Record const& record, std::string& kept) override { return calls_.write(record, kept); }
  SinkRequests* requests() override { return this; }

  std::size_t max_in_flight() const override { return http_options_.max_in_flight; }
  std::string_view key_of(SinkRecord const& record) const override { return RestCalls::key_of(record.kept); }

  void start(SinkRecord const& record, std::size_t number) override {
    client_->start(
        RestCalls::request(record.kept, record.delivery, io_.receipts),
        [this, number, deletion = RestCalls::is_deletion(record.kept)](HttpResponse& response) {
          RestJudgement judgement = judge(options_, deletion, response);
          using Load = Concurrency::Answer;
          Load const load = judgement.refused ? Load::refused : judgement.failed ? Load::failed : Load::served;
          answers_.push_back({number, std::move(judgement.status), response.retry_after, load, judgement.doubts});
        });
  }

  Status turn(Duration wait, std::vector<SinkAnswer>& answers) override {
    Status status = client_->turn(wait);
    std::move(answers_.begin(), answers_.end(), std::back_inserter(answers));
    answers_.clear();
    return status;
  }

  Status show(SinkRecord const& record, std::string& out) override {
    std::string call;
    Status status = calls_.write(record.record, call);
    if (status.ok()) RestCalls::show(call, out);
    return status;
  }

 private:
  Io& io_;
  RestOptions const& options_;
  HttpOptions const& http_options_;
  RestCalls calls_;
  std::unique_ptr<HttpClient> client_;
  std::vector<SinkAnswer> answers_;
};

Exit run(Cli& cli, Io& io) {
  RestOptions options;
  HttpOptions http;
  SinkOptions sink_options;
  http.max_in_flight = 32;
  http.timeout = std::chrono::seconds(30);
  http.connect_timeout = std::chrono::seconds(10);
  http.max_body = 1 << 20;
  cli.purpose(
      "Call a REST service for each record, as a client application would, with as many requests as it can take.",
      {"jq -c '.[]' orders.json | http-write 'https://api/orders/{/id}' --dry-run",
       "consume orders/ --as etl -- 'http-write https://api/orders/{subject} \\\n"
       "      --header-file token --max-in-flight 8'"});
  cli.positional("URL", options.url, "a template: https://api/orders/{subject}");
  cli.choice("--method", options.method, {"PUT", "POST", "PATCH"}, "of what is no deletion");
  cli.option("--body", options.body, "the path of what is sent; without it, the data");
  cli.option("--header-file", http.header_files,
             "send the headers in this file, one `Name: value` a line (may be repeated)");
  cli.option("--max-in-flight", http.max_in_flight, "requests at a time, at most");
  cli.choice("--conflict", options.conflict, {"reject", "ok"}, "what 409 and 412 say of a record");
  cli.option("--version-header", options.version_header, "send this header with a number that grows per subject");
  cli.option("--version-from", options.version, "the path of that number, or of a time");
  cli.flag("--allow-html", options.allow_html, "a 2xx with HTML is the service's");
  cli.option("--timeout", http.timeout, "a request takes no longer");
  cli.option("--connect-timeout", http.connect_timeout, "connecting takes no longer");
  sink_options.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  auto calls = RestCalls::make(options);
  if (!calls) return cli.wrong(calls.status().what());
  Progress const progress(cli.common());
  HttpSink sink(io, options, http, std::move(*calls));
  return run_sink(io, sink, sink_options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

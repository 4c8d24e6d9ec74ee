#include "common/s3_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/aws_config.h"
#include "common/aws_sign.h"
#include "common/digest.h"
#include "common/http.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/retry.h"
#include "common/stop.h"
#include "common/url.h"
#include "common/xml_decoder.h"
#include "common/xml_json.h"

namespace inflight {

namespace {

constexpr Duration kConnect = std::chrono::seconds(5);

bool is_bucket(std::string_view name) {
  // Those of old buckets too, which had upper case, '_' and up to 255 bytes.
  return name.size() >= 3 && name.size() <= 255 && std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
                  c == '_';
         });
}

// Errors that S3 answers with a status of 4xx though later may succeed (AWS's "List of error codes").
bool passes(std::string_view code) {
  static constexpr std::string_view codes[] = {"RequestTimeout",
                                               "SlowDown",
                                               "InternalError",
                                               "ServiceUnavailable",
                                               "OperationAborted",
                                               "BadDigest",
                                               "NoSuchUpload",
                                               "InvalidPart",
                                               "IncompleteBody",
                                               "XAmzContentSHA256Mismatch",
                                               "ThrottlingException",
                                               "Throttling",
                                               "ConditionalRequestConflict",
                                               "BusyException"};
  return std::find(std::begin(codes), std::end(codes), code) != std::end(codes);
}

bool refuses_credentials(std::string_view code) {
  return code == "ExpiredToken" || code == "InvalidToken" || code == "InvalidAccessKeyId" ||
         code == "SignatureDoesNotMatch" || code == "TokenRefreshRequired";
}

}  // namespace

std::string s3_text(nlohmann::json const& of, char const* name) {
  if (!of.is_object()) return "";
  auto const at = of.find(name);
  return at != of.end() && at->is_string() ? at->get<std::string>() : "";
}

nlohmann::json s3_element(nlohmann::json const& of, char const* name) {
  if (of.is_object() && of.contains(name) && of[name].is_object()) return of[name];
  return nlohmann::json::object();
}

nlohmann::json s3_xml(std::string const& body) {
  XmlJson::Options options;
  options.strip_ns = true;
  options.arrays = {"/ListBucketResult/Contents", "/ListMultipartUploadsResult/Upload"};
  auto xml = XmlJson::make(options);
  nlohmann::json out = nlohmann::json::value_t::discarded;
  if (!xml || !XmlDecoder().decode(body, true, xml->text()).ok()) return out;
  Status const status = xml->convert([&]() -> Status {
    std::string json;
    if (Status written = xml->write(json); !written.ok()) return written;
    out = nlohmann::json::parse(json, nullptr, false);
    return {};
  });
  return status.ok() ? out : nlohmann::json(nlohmann::json::value_t::discarded);
}

struct S3Client::State {
  explicit State(Clock& c) : clock(c) {}

  Clock& clock;
  std::string bucket;
  AwsConfig config;
  std::string base;  // scheme://host of the URL
  std::string host;
  std::string path;  // before the key, with '/' at its end
  std::unique_ptr<HttpClient> http;
  Duration skew{};  // of the server's clock over ours
  bool answered = false;

  Status open(S3Options const& options) {
    if (!is_bucket(bucket)) return Status::usage("not a bucket's name: letters, digits, '.', '-' and '_'");
    auto read = read_aws_config();
    if (!read) return read.status();
    config = std::move(*read);
    std::string addressing = options.addressing;
    if (addressing == "auto" && (config.addressing_style == "path" || config.addressing_style == "virtual"))
      addressing = config.addressing_style;
    std::string endpoint = config.endpoint;
    // A certificate for *.s3.amazonaws.com does not hold for a bucket with a dot.
    bool const is_virtual =
        addressing == "virtual" || (addressing == "auto" && endpoint.empty() && bucket.find('.') == std::string::npos);
    if (endpoint.empty()) {
      endpoint =
          fmt::format("https://s3.{}.amazonaws.com{}", config.region, config.region.starts_with("cn-") ? ".cn" : "");
    }
    while (endpoint.ends_with('/')) endpoint.pop_back();
    if (!is_http_url(endpoint) || endpoint.find_first_of("@?#") != std::string::npos) {
      return Status::usage(
          fmt::format("AWS_ENDPOINT_URL: {}: not http://HOST[:PORT] or https://HOST[:PORT]", public_url(endpoint)));
    }
    std::size_t const begin = endpoint.find("://") + 3;
    std::size_t const slash = std::min(endpoint.find('/', begin), endpoint.size());
    bool const tls = endpoint.starts_with("https");
    host = (is_virtual ? bucket + "." : "") + endpoint.substr(begin, slash - begin);
    if (std::string_view const own = tls ? ":443" : ":80"; host.ends_with(own)) host.resize(host.size() - own.size());
    base = endpoint.substr(0, begin) + host;
    path = endpoint.substr(slash) + "/" + (is_virtual ? "" : bucket + "/");

    HttpOptions http_options;
    http_options.max_in_flight = options.max_in_flight;
    http_options.timeout = options.whole;
    http_options.connect_timeout = std::min(kConnect, options.timeout);
    http_options.stall = options.timeout;
    http_options.max_body = options.max_body;
    http_options.decode = options.decode;
    http_options.ca_bundle = config.ca_bundle;
    auto client = HttpClient::make(http_options, clock);
    if (!client) return client.status();
    http = std::move(*client);
    return {};
  }

  std::string name(std::string const& key) const {
    return fmt::format("s3://{}{}{}", bucket, key.empty() ? "" : "/", key);
  }

  HttpRequest signed_request(S3Request const& request) const {
    // Without a key the bucket is named without '/' at its end, as those servers want it that know both.
    std::string where = path + aws_encode(request.key, true);
    if (request.key.empty() && where.size() > 1) where.pop_back();
    AwsRequest const aws{request.method,  host,
                         where,           request.query,
                         request.headers, request.file.fd >= 0 ? request.payload_sha256 : to_hex(sha256(request.body))};
    std::string const query = aws_query(request.query);
    return {request.method,
            base + where + (query.empty() ? "" : "?" + query),
            aws_signed_headers(aws, config.credentials, config.region, "s3", clock.now() + skew),
            request.body,
            request.file,
            request.once};
  }

  S3Answer read(S3Request const& request, HttpResponse& response) {
    S3Answer answer;
    answer.http = response.status;
    answer.retry_after = response.retry_after;
    answer.etag = std::string(response.header("ETag"));
    std::erase(answer.etag, '"');
    answer.type = std::string(response.header("Content-Type"));
    // Of a range `bytes 0-9/100`; of HEAD its length.
    std::string_view const range = response.header("Content-Range");
    std::string const size(range.empty() ? response.header("Content-Length") : range.substr(range.rfind('/') + 1));
    answer.total = std::strtoull(size.c_str(), nullptr, 10);
    bool const cut = response.cause != HttpCause::none && response.cause != HttpCause::status;
    if (cut) {
      std::string_view why = response.error;  // `URL: why`
      if (std::size_t const at = why.find(": "); at != std::string_view::npos) why.remove_prefix(at + 2);
      answer.http = 0;
      answer.too_large = response.cause == HttpCause::too_large && response.status == 200;
      std::string what = fmt::format("{}: {}: {}", name(request.key), base, why);
      if (response.cause == HttpCause::too_large || response.cause == HttpCause::protocol)
        answer.status = Status::usage(what + ": is it an S3 server?");
      else if (response.cause == HttpCause::encoding)
        answer.status = Status::rejected(std::move(what));
      else
        answer.status = {response.misdirected() ? Code::usage : Code::temporary, std::move(what)};
      return answer;
    }
    answered = true;
    answer.body = std::move(response.body);
    if (response.cause == HttpCause::status || is_late_error(request, answer)) explain(request, answer, response);
    return answer;
  }

  // CompleteMultipartUpload begins its answer with 200 before it knows.
  static bool is_late_error(S3Request const& request, S3Answer const& answer) {
    return request.method == "POST" && answer.body.find("<Error>") != std::string::npos;
  }

  void explain(S3Request const& request, S3Answer& answer, HttpResponse const& response) {
    nlohmann::json const error = answer.body.empty() ? nlohmann::json() : s3_element(s3_xml(answer.body), "Error");
    answer.code = s3_text(error, "Code");
    std::string what = fmt::format("{}: {}: {}", name(request.key), base, answer.http);
    if (!answer.code.empty()) what += " " + answer.code;
    if (std::string const message = s3_text(error, "Message"); !message.empty()) what += ": " + message.substr(0, 200);
    std::string region = s3_text(error, "Region");
    if (region.empty()) region = std::string(response.header("x-amz-bucket-region"));
    bool const moved = answer.http >= 300 && answer.http < 400;
    bool const scope = moved || answer.code == "AuthorizationHeaderMalformed";
    if (scope && !region.empty() && region != config.region)
      what += fmt::format(": the bucket is in region {}, asked was {} (AWS_REGION)", region, config.region);
    bool const head = request.method == "HEAD";
    bool const known = head || !answer.code.empty();
    if (answer.http == 412 || answer.http == 501) {
      answer.status = Status::rejected(what);
    } else if (answer.http >= 500 || answer.http == 429 || answer.http == 408 || answer.http == 409 ||
               passes(answer.code)) {
      answer.status = Status::temporary(what);
    } else {
      answer.status = Status::usage(known ? what : what + ", and not as S3 says it: is it an S3 server?");
    }
    if (answer.code == "RequestTimeTooSkewed" && follow_clock(response.header("Date")))
      answer.status = Status::temporary(what);
    if (refuses_credentials(answer.code)) {
      if (auto fresh = read_aws_config(); fresh && fresh->credentials != config.credentials) {
        config.credentials = fresh->credentials;
        answer.status = Status::temporary(what);
      }
    }
  }

  // RFC 9110, 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
  bool follow_clock(std::string_view date) {
    auto const format = TimeFormat::parse("%a, %d %b %Y %T %Z");
    auto const there = format ? format->read(date) : std::nullopt;
    if (!there) return false;
    Duration const before = skew;
    skew = *there - clock.now();
    if (std::chrono::abs(skew - before) < std::chrono::minutes(1)) return false;
    say_warning(fmt::format("{}: its clock is {} {} this one: requests are dated by it", base,
                            format_duration(std::chrono::abs(std::chrono::duration_cast<std::chrono::seconds>(skew))),
                            skew > Duration::zero() ? "ahead of" : "behind"));
    return true;
  }
};

S3Client::S3Client(std::unique_ptr<State> state) : state_(std::move(state)) {}
S3Client::~S3Client() = default;

Result<std::unique_ptr<S3Client>> S3Client::make(Clock& clock, std::string const& bucket, S3Options const& options) {
  auto state = std::make_unique<State>(clock);
  state->bucket = bucket;
  if (Status status = state->open(options); !status.ok()) return status;
  return std::unique_ptr<S3Client>(new S3Client(std::move(state)));
}

S3Client::Id S3Client::start(S3Request const& request, std::function<void(S3Answer&)> done) {
  // What names an answer is kept, not what was sent.
  return state_->http->start(state_->signed_request(request), [this, about = S3Request{request.method, request.key},
                                                               done = std::move(done)](HttpResponse& response) {
    S3Answer answer = state_->read(about, response);
    done(answer);
  });
}

void S3Client::forget(Id id) { state_->http->cancel(id, "not wanted any more"); }

std::size_t S3Client::in_flight() const { return state_->http->in_flight(); }

Status S3Client::wait(bool until_stop, Duration most) {
  if (until_stop && stopping()) return {Code::stopped, "stopped"};
  return state_->http->turn(most);
}

S3Answer S3Client::ask(S3Request const& request, S3Patience patience) {
  Backoff backoff(std::chrono::milliseconds(100), std::chrono::seconds(5));
  Duration const begun = state_->clock.steady();
  bool const minute = patience == S3Patience::minute;
  for (bool told = false, followed = false;;) {
    S3Answer answer;
    bool ended = false;
    Duration const skew = state_->skew;
    Id const id = start(request, [&](S3Answer& a) { answer = std::move(a), ended = true; });
    while (!ended) {
      Status const status = wait(minute);
      if (status.ok()) continue;
      if (!ended) forget(id);
      answer.status = status;
      return answer;
    }
    if (answer.status.code() != Code::temporary) return answer;
    bool const at_once = state_->skew != skew && !followed;
    followed = followed || at_once;
    bool const more = at_once || (minute ? state_->clock.steady() - begun < std::chrono::minutes(1)
                                         : patience == S3Patience::short_time && backoff.attempts() < 3);
    if (!more || !state_->answered || stopping()) return answer;
    ++counters().retries;
    if (minute && backoff.attempts() == 3 && !told) {
      say_warning(fmt::format("waiting: {}", answer.status.what()));
      told = true;
    }
    Duration const until = state_->clock.steady() + (at_once ? Duration::zero() : backoff.next(answer.retry_after));
    while (state_->clock.steady() < until && !stopping()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

std::string S3Client::name(std::string const& key) const { return state_->name(key); }
std::string S3Client::endpoint() const { return state_->base; }

}  // namespace inflight

#include "common/rtdb.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/json_text.h"
#include "common/messages.h"
#include "common/retry.h"
#include "common/stop.h"
#include "common/url.h"

namespace inflight {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr unsigned kTries = 6;
constexpr unsigned kRedirects = 5;
constexpr std::string_view kScope =
    "https://www.googleapis.com/auth/userinfo.email https://www.googleapis.com/auth/firebase.database";

std::string_view host_of(std::string_view url) {
  url.remove_prefix(std::min(url.size(), url.find("://") + 3));
  return url.substr(0, url.find_first_of("/?#"));
}

std::string_view without_port(std::string_view host) { return host.substr(0, host.rfind(':')); }

bool is_loopback(std::string_view host) {
  host = without_port(host);
  return host == "localhost" || host == "127.0.0.1" || host == "[::1]";
}

bool is_googles(std::string_view host) {
  return host.ends_with(".firebaseio.com") || host.ends_with(".firebasedatabase.app");
}

std::string emulator_host() {
  char const* const host = std::getenv("FIREBASE_DATABASE_EMULATOR_HOST");
  return host == nullptr ? "" : host;
}

// Whether a token that is for `from` may be sent on to `to`.
bool may_follow(std::string_view from, std::string_view to) {
  if (from.substr(0, from.find(':')) != to.substr(0, to.find(':'))) return false;  // https stays https
  std::string_view const a = host_of(from), b = host_of(to);
  if (is_loopback(a) && is_loopback(b)) return true;
  return a == b || (is_googles(a) && is_googles(b) && a.substr(a.size() - 10) == b.substr(b.size() - 10));
}

}  // namespace

bool is_rtdb_url(std::string_view url) { return url.starts_with("https://") && is_googles(host_of(url)); }

bool is_rtdb_emulator_url(std::string_view url) {
  std::string const host = emulator_host();
  return !host.empty() && url.starts_with("http://") && host_of(url) == host;
}

Result<std::unique_ptr<GoogleToken>> rtdb_token(GoogleCredentials const& credentials, bool emulator, Clock& clock) {
  // https://firebase.google.com/docs/emulator-suite: to an emulator, `owner` may do everything.
  return GoogleToken::make(credentials, std::string(kScope), emulator ? "owner" : "", clock);
}

// ---- URLs and keys

Result<RtdbCollection> RtdbCollection::parse(std::string const& text) {
  std::string const shown = public_url(text);
  if (!is_http_url(text))
    return Status::usage(shown + ": is no URL of a database, like https://NAME.firebaseio.com/orders");
  RtdbCollection c;
  std::string_view rest = text;
  std::string_view query;
  if (std::size_t const mark = rest.find_first_of("?#"); mark != std::string_view::npos) {
    query = rest.substr(mark);
    rest = rest.substr(0, mark);
  }
  std::string ns;
  if (query.starts_with("?ns=") && query.find('&') == std::string_view::npos) {
    ns = form_decode(query.substr(4));
  } else if (!query.empty()) {
    return Status::usage(shown + ": takes no arguments but ns=NAME; a token belongs into a --token-file");
  }
  std::size_t const path_at = rest.find('/', rest.find("://") + 3);
  std::string_view const host = host_of(rest);
  if (host.find('@') != std::string_view::npos) return Status::usage(shown + ": a user has no place in it");
  std::string_view path = path_at == std::string_view::npos ? std::string_view{} : rest.substr(path_at);
  if (path.ends_with(".json")) path.remove_suffix(5);
  std::string encoded;
  while (!path.empty()) {
    path.remove_prefix(1);
    std::string_view const part = path.substr(0, path.find('/'));
    path.remove_prefix(part.size());
    if (part.empty()) continue;
    std::string const key = percent_decode(part);
    if (std::string const fault = rtdb_key_fault(key); !fault.empty())
      return Status::usage(fmt::format("{}: {} {}", shown, json_string(key), fault));
    encoded += '/' + percent_encode(key);
    c.name_ += (c.name_.empty() ? "" : "/") + key;
  }
  std::string const emulator = emulator_host();
  bool const googles = is_googles(host);
  std::string const instance(host.substr(0, host.find('.')));
  if (googles && !text.starts_with("https://")) return Status::usage(shown + ": only https is answered");
  if (!emulator.empty()) {
    if (!is_http_url("http://" + emulator) || emulator.find('/') != std::string::npos)
      return Status::usage(fmt::format("FIREBASE_DATABASE_EMULATOR_HOST={}: is no host:port", emulator));
    if (ns.empty() && googles) ns = instance;
    c.base_ = fmt::format("http://{}{}", emulator, encoded);
    c.emulator_ = true;
  } else {
    c.base_ = fmt::format("{}{}{}", text.substr(0, text.find("://") + 3), host, encoded);
  }
  if (!ns.empty()) c.ns_ = "ns=" + percent_encode(ns);
  if (googles) {
    // https://cloud.google.com/eventarc/docs/reference/supported-events and …/docs/projects/locations#rtdb-locations
    std::string_view region = host.substr(instance.size() + 1);
    region = region.ends_with("firebasedatabase.app") ? region.substr(0, region.find('.')) : "us-central1";
    c.source_ = fmt::format("//firebasedatabase.googleapis.com/projects/_/locations/{}/instances/{}/refs{}", region,
                            instance, encoded);
  } else {
    c.source_ = c.base_ + (c.ns_.empty() ? "" : "?" + c.ns_);
  }
  return c;
}

RtdbCollection RtdbCollection::child(std::string_view key) const {
  RtdbCollection c = *this;
  std::string const part = '/' + percent_encode(key);
  bool const named = c.source_.starts_with("//");  // as Eventarc does
  c.base_ += part;
  c.name_ += (c.name_.empty() ? "" : "/") + std::string(key);
  c.source_ = named ? c.source_ + part : c.base_ + (c.ns_.empty() ? "" : "?" + c.ns_);
  return c;
}

std::string RtdbCollection::url(std::string_view query) const {
  std::string url = base_ + (name_.empty() ? "/.json" : ".json");
  char before = '?';
  for (std::string_view const part : {std::string_view(ns_), query}) {
    if (part.empty()) continue;
    (url += before) += part;
    before = '&';
  }
  return url;
}

std::string RtdbCollection::document(std::string_view key) const {
  return fmt::format("{}/{}.json{}{}", base_, percent_encode(key), ns_.empty() ? "" : "?", ns_);
}

std::string rtdb_key_fault(std::string_view key) {
  if (key.empty()) return "is empty";
  if (key.size() > 768) return "is longer than 768 bytes";
  if (!valid_utf8(key)) return "is not UTF-8";
  for (char const c : key) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return "has a control character in it";
    if (std::string_view(".$#[]/").find(c) != std::string_view::npos) return fmt::format("has a {} in it", c);
  }
  return "";
}

std::string rtdb_sort_key(std::string_view key) {
  std::string_view digits = key;
  if (digits.starts_with('-')) digits.remove_prefix(1);
  if (!digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos) {
    digits.remove_prefix(std::min(digits.find_first_not_of('0'), digits.size() - 1));
    std::int64_t value = 0;
    if (digits.size() <= 10) {
      std::from_chars(digits.data(), digits.data() + digits.size(), value);
      if (key.front() == '-') value = -value;
      if (value >= INT32_MIN && value <= INT32_MAX) {
        std::string sort(1, '\0');
        auto const shifted = static_cast<std::uint32_t>(value - INT32_MIN);
        for (int shift = 24; shift >= 0; shift -= 8) sort += static_cast<char>(shifted >> shift & 0xff);
        sort += static_cast<char>(key.size() >> 8);
        sort += static_cast<char>(key.size() & 0xff);
        return sort + std::string(key);  // -0 is as long as 00
      }
    }
  }
  // UTF-8 is in the order of UTF-16 but for what lies beyond the basic plane, which there comes before U+E000.
  std::string sort(1, '\1');
  for (char const c : key) {
    auto const byte = static_cast<unsigned char>(c);
    sort += static_cast<char>(byte >= 0xf0 ? byte - 2 : byte >= 0xee ? byte + 5 : byte);
  }
  return sort;
}

std::string rtdb_event(RtdbCollection const& collection, RtdbEvent const& event) {
  std::string line = R"({"specversion":"1.0","id":)";
  line.reserve(512 + 4 * event.key.size() + event.data.size());
  append_quoted(line, event.id);
  line += R"(,"source":)";
  append_quoted(line, collection.source());
  // https://firebase.google.com/docs/functions/database-events, as Eventarc has them
  line +=
      fmt::format(R"(,"type":"google.firebase.database.ref.v1.{}","subject":)", event.deleted ? "deleted" : "written");
  append_quoted(line, event.key);
  line += fmt::format(R"(,"recordedtime":"{}","dataref":)", format_rfc3339(event.recorded));
  append_quoted(line, collection.document(event.key));
  if (!event.data.empty()) (line += R"(,"datacontenttype":"application/json","data":)") += event.data;
  return line += '}';
}

// ---- requests

void RtdbOptions::add_to(Cli& cli) {
  credentials.add_to(cli);
  cli.option("--timeout", timeout, "how long the database may say nothing while it is asked");
}

struct RtdbClient::State {
  Clock& clock;
  std::unique_ptr<GoogleToken> token;
  std::unique_ptr<HttpClient> http;
  Duration timeout;

  // One request with its redirects.
  Status ask(std::string url, bool streams, Duration silence, std::function<Status()> const& turn,
             std::function<Status(std::string_view)> const& body, std::optional<Duration>& asked);
  Status wait(Duration time) const;
};

namespace {

Status failure(HttpResponse const& answer) {
  if (answer.cause != HttpCause::status)
    return answer.misdirected() ? Status::usage(answer.error) : Status::temporary(answer.error);
  auto const json = nlohmann::json::parse(answer.body, nullptr, false);
  std::string why;
  if (json.is_object() && json.contains("error") && json["error"].is_string()) why = json["error"].get<std::string>();
  std::string const what = answer.error + (why.empty() ? "" : ": " + redact(why.substr(0, 200)));
  int const status = answer.status;
  if (status == 400 &&
      (why.find("exceeds the maximum size") != std::string::npos || why.find("too_big") != std::string::npos))
    return Status::rejected(what);
  if (status >= 500 || status == 408 || status == 423 || status == 429) return Status::temporary(what);
  return Status::usage(what);
}

}  // namespace

Status RtdbClient::State::ask(std::string url, bool streams, Duration silence, std::function<Status()> const& turn,
                              std::function<Status(std::string_view)> const& body, std::optional<Duration>& asked) {
  for (unsigned redirects = 0;; ++redirects) {
    auto const header = token->header();
    if (!header) return header.status();
    HttpRequest request;
    request.url = url;
    if (!header->empty()) request.headers.push_back(*header);
    if (streams) request.headers.emplace_back("Accept: text/event-stream");
    Status status, refused;
    bool ended = false;
    std::string location;
    Duration heard = clock.steady();
    request.on_body = [&](std::string_view bytes) {
      heard = clock.steady();
      refused = body(bytes);
      return refused.ok();
    };
    HttpClient::Id const id = http->start(std::move(request), [&](HttpResponse& answer) {
      ended = true;
      asked = answer.retry_after;
      if (answer.status == 301 || answer.status == 302 || answer.status == 307 || answer.status == 308)
        location = answer.header("Location");
      if (answer.cause != HttpCause::none) status = failure(answer);
    });
    while (!ended) {
      Status going_on = http->turn(milliseconds(100));
      if (going_on.ok() && !ended && turn) going_on = turn();
      if (going_on.ok() && stopping()) going_on = {Code::stopped, "stopped"};
      if (ended) {
        if (going_on.ok()) break;
        return going_on;
      }
      if (!going_on.ok()) {
        http->cancel(id, "stopped");
        return going_on;
      }
      if (clock.steady() - heard > silence) http->cancel(id, "nothing came for " + format_duration(silence));
    }
    if (!refused.ok()) return refused;
    if (location.empty()) return status;
    if (!may_follow(url, location))
      return Status::usage(
          fmt::format("{}: leads to {}, which is not followed", public_url(url), public_url(location)));
    if (redirects == kRedirects) return Status::temporary(public_url(url) + ": leads in a circle");
    url = std::move(location);
  }
}

Status RtdbClient::State::wait(Duration time) const {
  Duration const end = clock.steady() + time;
  while (clock.steady() < end) {
    if (stopping()) return {Code::stopped, "stopped"};
    if (Status status = http->turn(std::min<Duration>(end - clock.steady(), seconds(1))); !status.ok()) return status;
  }
  return {};
}

Result<std::unique_ptr<RtdbClient>> RtdbClient::make(RtdbOptions const& options, RtdbCollection const& collection,
                                                     Clock& clock) {
  if (options.timeout <= Duration::zero()) return Status::usage("--timeout: more than 0s");
  auto token = rtdb_token(options.credentials, collection.emulator(), clock);
  if (!token) return token.status();
  HttpOptions http;
  http.max_in_flight = 1;
  http.timeout = std::chrono::hours(24 * 20);  // a stream has no end; silence has
  http.connect_timeout = options.timeout;
  http.max_body = 1 << 20;  // of an error
  auto client = HttpClient::make(http, clock);
  if (!client) return client.status();
  return std::unique_ptr<RtdbClient>(
      new RtdbClient(std::make_unique<State>(State{clock, std::move(*token), std::move(*client), options.timeout})));
}

RtdbClient::RtdbClient(std::unique_ptr<State> state) : state_(std::move(state)) {}
RtdbClient::~RtdbClient() = default;

bool RtdbClient::renew() { return state_->token->renew(); }

Status RtdbClient::get(std::string const& url, std::function<Status()> const& begin,
                       std::function<Status(std::string_view)> const& body) {
  Backoff backoff(seconds(1), seconds(30));
  bool renewed = false;
  for (unsigned tries = 1;; ++tries) {
    if (Status status = begin(); !status.ok()) return status;
    std::optional<Duration> asked;
    Status status = state_->ask(url, false, state_->timeout, {}, body, asked);
    if (status.ok() || status.code() == Code::stopped) return status;
    // An expired token is told as 401; a new one tells whether that was all.
    if (status.code() == Code::usage && !renewed && status.what().find("status 401") != std::string::npos) {
      renewed = true;
      if (renew()) continue;
    }
    if (status.code() != Code::temporary || tries == kTries) return status;
    if (tries == 1) say_warning(status.what() + "; trying again");
    if (Status waited = state_->wait(backoff.next(asked)); !waited.ok()) return waited;
  }
}

Status RtdbClient::stream(std::string const& url, Duration silence, std::function<Status()> const& turn,
                          std::function<Status(std::string_view)> const& body) {
  std::optional<Duration> asked;
  return state_->ask(url, true, silence, turn, body, asked);
}

}  // namespace inflight

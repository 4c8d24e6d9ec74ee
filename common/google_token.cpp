#include "common/google_token.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "common/digest.h"
#include "common/fd_io.h"
#include "common/http.h"
#include "common/json_text.h"
#include "common/messages.h"
#include "common/stop.h"
#include "common/url.h"

namespace inflight {

namespace {

using std::chrono::seconds;

constexpr Duration kMargin = seconds(60);  // before its end a token is not used any more

std::string base64url(std::string_view bytes) {
  std::string text;
  append_base64(text, bytes);
  for (char& c : text) c = c == '+' ? '-' : c == '/' ? '_' : c;
  text.erase(text.find_last_not_of('=') + 1);
  return text;
}

}  // namespace

struct GoogleToken::State {
  Clock& clock;
  std::string scope, fixed, token_file;
  std::string file, email, key, key_id, token_uri;  // of a service account
  std::string token{};
  Time expires{};
  std::unique_ptr<HttpClient> http{};

  Status read(std::string const& path);
  Status fetch();
};

Status GoogleToken::State::read(std::string const& path) {
  auto const text = read_file(path);
  if (!text) return Status::usage(text.status().what());
  auto const json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object()) return Status::usage(path + ": is no JSON object");
  auto const member = [&](char const* name) {
    auto const found = json.find(name);
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (member("type") != "service_account")
    return Status::usage(fmt::format("{}: of type {}, not service_account", path, json_string(member("type"))));
  file = path;
  email = member("client_email");
  key = member("private_key");
  key_id = member("private_key_id");
  token_uri = member("token_uri");
  if (token_uri.empty()) token_uri = "https://oauth2.googleapis.com/token";
  add_secret(key);
  if (email.empty() || key.empty()) return Status::usage(path + ": lacks client_email or private_key");
  if (!is_http_url(token_uri)) return Status::usage(path + ": its token_uri is no URL");
  return rs256(key, "").status().at(path + ": private_key");
}

Status GoogleToken::State::fetch() {
  std::int64_t const now = clock.now().ns / 1'000'000'000;
  nlohmann::json header = {{"alg", "RS256"}, {"typ", "JWT"}};
  if (!key_id.empty()) header["kid"] = key_id;
  nlohmann::json const claims = {
      {"iss", email}, {"scope", scope}, {"aud", token_uri}, {"iat", now}, {"exp", now + 3600}};
  std::string claim = base64url(header.dump()) + '.' + base64url(claims.dump());
  auto const signature = rs256(key, claim);
  if (!signature) return signature.status().at(file);
  claim += '.' + base64url(*signature);
  if (!http) {
    HttpOptions options;
    options.max_in_flight = 1;
    options.timeout = seconds(30);
    options.connect_timeout = seconds(10);
    auto made = HttpClient::make(options, clock);
    if (!made) return made.status();
    http = std::move(*made);
  }
  HttpRequest request;
  request.method = "POST";
  request.url = token_uri;
  request.headers = {"Content-Type: application/x-www-form-urlencoded"};
  request.body = "grant_type=" + percent_encode("urn:ietf:params:oauth:grant-type:jwt-bearer") + "&assertion=" + claim;
  Status status;
  bool ended = false;
  http->start(std::move(request), [&](HttpResponse& answer) {
    ended = true;
    auto const json = nlohmann::json::parse(answer.body, nullptr, false);
    auto const member = [&](char const* name) {
      return json.is_object() && json.contains(name) && json[name].is_string() ? json[name].get<std::string>() : "";
    };
    if (answer.cause == HttpCause::none) {
      token = member("access_token");
      std::int64_t const lives = json.is_object() ? json.value("expires_in", std::int64_t{3600}) : 0;
      expires = clock.now() + seconds(std::clamp<std::int64_t>(lives, 0, 86'400));
      add_secret(token);
      if (token.empty()) status = Status::usage(public_url(token_uri) + ": answers without a token");
      return;
    }
    std::string const why = member("error_description").empty() ? member("error") : member("error_description");
    std::string const what = answer.error + (why.empty() ? "" : ": " + redact(why));
    bool const wrong = answer.misdirected() || (answer.cause == HttpCause::status && answer.status < 500 &&
                                                answer.status != 429 && answer.status != 408);
    status = wrong ? Status::usage(what) : Status::temporary(what);
  });
  while (!ended) {
    if (Status turned = http->turn(seconds(1)); !turned.ok()) return turned;
    if (stopping() && !ended) return {Code::stopped, "stopped"};
  }
  return status;
}

void GoogleCredentials::add_to(Cli& cli) {
  cli.option("--credentials", file, "file of a service account (default: $GOOGLE_APPLICATION_CREDENTIALS)");
  cli.option("--token-file", token_file, "file with an access token, read again when a new one is needed");
}

Result<std::unique_ptr<GoogleToken>> GoogleToken::make(GoogleCredentials const& credentials, std::string scope,
                                                       std::string fixed, Clock& clock) {
  auto state = std::make_unique<State>(
      State{clock, std::move(scope), std::move(fixed), credentials.token_file, {}, {}, {}, {}, {}});
  if (!credentials.file.empty() && !credentials.token_file.empty())
    return Status::usage("give either --credentials or --token-file");
  char const* const named = std::getenv("GOOGLE_APPLICATION_CREDENTIALS");
  std::string const file = !credentials.file.empty() ? credentials.file : named == nullptr ? "" : named;
  if (state->fixed.empty() && credentials.token_file.empty() && !file.empty()) {
    if (Status status = state->read(file); !status.ok()) return status;
  }
  std::unique_ptr<GoogleToken> token(new GoogleToken(std::move(state)));
  if (!credentials.token_file.empty()) {
    if (auto const header = token->header(); !header) return header.status();
  }
  return token;
}

GoogleToken::GoogleToken(std::unique_ptr<State> state) : state_(std::move(state)) {}
GoogleToken::~GoogleToken() = default;

Result<std::string> GoogleToken::header() {
  State& s = *state_;
  if (!s.fixed.empty()) return "Authorization: Bearer " + s.fixed;
  if (!s.token_file.empty()) {
    auto text = read_file(s.token_file);
    if (!text) return Status::usage(text.status().what());
    std::size_t const begin = std::min(text->find_first_not_of(" \t\r\n"), text->size());
    std::string const token = text->substr(begin, text->find_last_not_of(" \t\r\n") + 1 - begin);
    bool const plain = std::all_of(token.begin(), token.end(), [](char c) { return c > 0x20 && c < 0x7f; });
    if (token.empty() || !plain) return Status::usage(s.token_file + ": is no token, a word on one line");
    add_secret(token);
    s.token = token;
    return "Authorization: Bearer " + token;
  }
  if (s.email.empty()) return std::string();
  if (s.token.empty() || s.clock.now() + kMargin >= s.expires) {
    if (Status status = s.fetch(); !status.ok()) return status;
  }
  return "Authorization: Bearer " + s.token;
}

bool GoogleToken::renew() {
  State& s = *state_;
  if (!s.fixed.empty()) return false;
  std::string const refused = std::exchange(s.token, std::string());
  if (s.token_file.empty()) return !s.email.empty() && !refused.empty();
  return header().ok() && s.token != refused;
}

}  // namespace inflight

#include "common/influx_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "common/fd_io.h"
#include "common/json_text.h"
#include "common/messages.h"
#include "common/url.h"

namespace inflight {

namespace {

struct Generation {
  std::string_view path;
  std::array<std::string_view, 4> arguments;
  std::array<std::string_view, 4> precisions;  // as InfluxPrecision has them; 1.x reads an unknown one as ns
};
constexpr std::array<Generation, 3> kGenerations = {
    {{"/write", {"db", "rp", "consistency", ""}, {"ns", "u", "ms", "s"}},
     {"/api/v2/write", {"bucket", "org", "orgID", ""}, {"ns", "us", "ms", "s"}},
     {"/api/v3/write_lp", {"db", "", "", ""}, {"nanosecond", "microsecond", "millisecond", "second"}}}};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    std::size_t const end = std::min(text.find(separator), text.size());
    parts.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

bool is_local(std::string_view host) {
  if (host.starts_with('[')) return host.starts_with("[::1]");
  host = host.substr(0, host.find(':'));
  return host == "localhost" || host.starts_with("127.");
}

bool contains_any(std::string_view text, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view part) { return text.find(part) != std::string_view::npos; });
}

char const* environment(char const* name) {
  char const* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<std::string> secret(std::string const& file, std::string from_environment) {
  if (file.empty()) {
    add_secret(from_environment);
    return from_environment;
  }
  auto text = read_file(file);
  if (!text) return Status::usage(text.status().what());
  while (!text->empty() && (text->back() == '\n' || text->back() == '\r' || text->back() == ' ')) text->pop_back();
  if (text->empty()) return Status::usage(fmt::format("{}: empty", file));
  if (std::any_of(text->begin(), text->end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }))
    return Status::usage(fmt::format("{}: not one line", file));
  add_secret(*text);
  return text;
}

std::string member(nlohmann::json const& json, char const* name) {
  auto const found = json.find(name);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// What 1.x and 2.x put around their words: `partial write: … dropped=2`.
std::string without_frame(std::string_view text, std::uint64_t& dropped) {
  constexpr std::string_view before = "partial write: ", behind = " dropped=";
  if (std::size_t const at = text.find(before); at != std::string_view::npos) text.remove_prefix(at + before.size());
  if (std::size_t const at = text.rfind(behind); at != std::string_view::npos) {
    (void)std::from_chars(text.data() + at + behind.size(), text.data() + text.size(), dropped);
    text = text.substr(0, at);
  }
  return influx_words(text);
}

// Words by which a server says that points are at fault.
bool blames_points(std::string_view text) {
  return contains_any(text, {"unable to parse", "field type conflict", "invalid tag key", "invalid field name",
                             "points beyond retention policy", "input field", "max key length exceeded",
                             "parsing failed for write_lp endpoint", "line protocol parsing error"});
}

// Words by which it says that something else is, which the operator can mend: the points are as good as others.
bool blames_server(std::string_view text) {
  return contains_any(text, {"limit exceeded", "would exceed", "too many", "no space left",
                             "retention policy not found", "read-only", "disabled"});
}

// Fills answer.lines. False where the list is not one that names points of ours.
bool read_list(nlohmann::json const& data, std::size_t points, InfluxAnswer& answer) {
  if (!data.is_array() || data.empty()) return false;
  std::set<std::size_t> seen;
  for (auto const& item : data) {
    if (!item.is_object()) return false;
    auto const number = item.find("line_number");
    if (number == item.end() || !number->is_number_unsigned()) return false;
    auto const line = number->get<std::size_t>();
    if (line < 1 || line > points || !seen.insert(line).second) return false;
    answer.lines.emplace_back(line - 1, influx_words(member(item, "error_message")));
  }
  return true;
}

}  // namespace

std::string influx_words(std::string_view text) {
  constexpr std::size_t most = 300;
  std::string out;
  for (char const c : text.substr(0, most)) {
    bool const blank = static_cast<unsigned char>(c) <= 0x20 || c == 0x7f;
    if (!blank) out += c;
    if (blank && !out.empty() && out.back() != ' ') out += ' ';
  }
  while (!out.empty() && (out.back() == ' ' || !valid_utf8(out))) out.pop_back();
  return text.size() > most ? out + "…" : out;
}

Result<InfluxTarget> InfluxTarget::parse(std::string const& url, InfluxPrecision precision) {
  auto const wrong = [&](std::string_view why) { return Status::usage(fmt::format("{}: {}", public_url(url), why)); };
  if (public_url(url) != url)
    return wrong("no secret in a URL: INFLUX_TOKEN, or INFLUX_USERNAME and INFLUX_PASSWORD, or their files");
  if (!is_http_url(url)) return wrong("not http://HOST:PORT?db=NAME");
  if (url.find('#') != std::string::npos) return wrong("a # in it: %23");
  std::size_t const question = std::min(url.find('?'), url.size());
  std::string_view place = std::string_view(url).substr(0, question);
  std::vector<std::string_view> const arguments =
      split(std::string_view(url).substr(std::min(question + 1, url.size())), '&');
  auto const has = [&](std::string_view name) {
    return std::any_of(arguments.begin(), arguments.end(), [&](std::string_view argument) {
      return argument.size() > name.size() + 1 && argument.starts_with(name) && argument[name.size()] == '=';
    });
  };
  while (place.ends_with('/')) place.remove_suffix(1);

  InfluxTarget target;
  std::size_t generation = kGenerations.size();
  for (std::size_t i = kGenerations.size(); i-- > 0;) {  // /write ends the second, too
    if (generation == kGenerations.size() && place.ends_with(kGenerations[i].path)) generation = i;
  }
  bool const named = generation < kGenerations.size();
  if (!named) generation = has("bucket") ? 1 : 0;
  Generation const& api = kGenerations[generation];
  target.version = static_cast<int>(generation) + 1;
  target.url = named ? place : fmt::format("{}{}", place, api.path);
  target.shown = url;
  std::string_view host = place.substr(place.find("://") + 3);
  target.local = is_local(host.substr(0, host.find('/')));

  char separator = '?';
  std::set<std::string_view> names;
  for (std::string_view const argument : arguments) {
    std::string_view const name = argument.substr(0, argument.find('='));
    if (name == "precision") return wrong("say --precision");
    if (name == "u" || name == "p" || name == "q" || name.empty() ||
        std::find(api.arguments.begin(), api.arguments.end(), name) == api.arguments.end())
      return wrong(fmt::format("InfluxDB {} is not written to with {}=", target.version, name));
    if (!names.insert(name).second) return wrong(fmt::format("{}= stands twice", name));
    if (argument.size() <= name.size() + 1) return wrong(fmt::format("{}= names nothing", name));
    target.url.append(1, std::exchange(separator, '&')).append(argument);
  }
  if (!has(api.arguments[0])) {
    return wrong(generation == 1 ? "no ?bucket=NAME"
                 : named         ? "no ?db=NAME"
                                 : "no ?db=NAME (1.x), ?org=NAME&bucket=NAME (2.x) or /api/v3/write_lp?db=NAME (3.x)");
  }
  target.url.append(1, separator).append("precision=").append(api.precisions[static_cast<std::size_t>(precision)]);
  return target;
}

Result<InfluxTarget> InfluxTarget::parse_query(std::string const& url) {
  // The place and the arguments are those of a write, but for the end of the path and the last argument.
  constexpr std::string_view query = "/query", write = "/write";
  std::string const question = url.substr(std::min(url.find('?'), url.size()));
  std::string place = url.substr(0, url.size() - question.size());
  while (place.ends_with('/')) place.pop_back();
  if (place.ends_with(query)) place.resize(place.size() - query.size());
  auto target = parse(place + question, InfluxPrecision::ns);
  if (!target) return target.status();
  if (target->version != 1)
    return Status::usage(fmt::format("{}: InfluxQL is asked for with ?db=NAME (2.x: that of a DBRP mapping)", url));
  std::size_t const at = target->url.rfind(write, target->url.find('?')), precision = target->url.rfind("precision=ns");
  target->url.replace(precision, std::string::npos, "epoch=ns&chunked=true&chunk_size=5000");
  target->url.replace(at, write.size(), query);
  target->shown = url;
  return target;
}

Result<std::vector<std::string>> InfluxCredentials::headers(InfluxTarget const& target) const {
  std::string token_there = environment("INFLUX_TOKEN");
  if (target.version == 3 && *environment("INFLUXDB3_AUTH_TOKEN") != '\0')
    token_there = environment("INFLUXDB3_AUTH_TOKEN");
  auto token = secret(token_file, token_there);
  if (!token) return token.status();
  auto password = secret(password_file, environment("INFLUX_PASSWORD"));
  if (!password) return password.status();
  std::string const name = user.empty() ? environment("INFLUX_USERNAME") : user;
  bool const by_name = !name.empty() && (target.version == 1 ? token_file.empty() : token->empty());
  if (by_name) {
    if (name.find(':') != std::string::npos) return Status::usage("--user: no colon in it");
    if (password->empty())
      return Status::usage(fmt::format("user {}: no password: INFLUX_PASSWORD or --password-file", name));
    std::string line = "Authorization: Basic ";
    std::size_t const begin = line.size();
    append_base64(line, fmt::format("{}:{}", name, *password));
    add_secret(std::string_view(line).substr(begin));
    return std::vector<std::string>{line};
  }
  if (!password_file.empty()) return Status::usage("--password-file: no --user and no INFLUX_USERNAME");
  if (token->empty()) return std::vector<std::string>{};
  if (std::any_of(token->begin(), token->end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }))
    return Status::usage("INFLUX_TOKEN: not one line");
  return std::vector<std::string>{
      fmt::format("Authorization: {} {}", target.version == 3 ? "Bearer" : "Token", *token)};
}

InfluxAnswer judge(InfluxTarget const& target, HttpResponse const& response, std::size_t points) {
  using Kind = InfluxAnswer::Kind;
  InfluxAnswer answer;
  if (response.cause != HttpCause::none && response.cause != HttpCause::status) {
    answer.status = {response.misdirected() ? Code::usage : Code::temporary, response.error};
    if (response.cause == HttpCause::cut || response.cause == HttpCause::timeout) answer.kind = Kind::cut;
    return answer;
  }
  int const status = response.status;
  auto const json = nlohmann::json::parse(response.body, nullptr, false);
  std::string words = json.is_object() ? member(json, "error") : response.body;
  if (std::string message = json.is_object() ? member(json, "message") : ""; !message.empty())
    words = std::move(message);
  answer.reason = without_frame(words, answer.dropped);
  std::string const what =
      fmt::format("{}: status {}{}{}", target.shown, status, answer.reason.empty() ? "" : ": ", answer.reason);
  answer.status = Status::temporary(what);

  // 3.x has answered 200 in its first releases, with nothing in it.
  if (status == 204 || (status == 200 && response.body.empty())) {
    answer.kind = Kind::stored;
    answer.status = {};
  } else if (status == 413) {
    answer.kind = Kind::too_large;
  } else if (status == 429 || status >= 500) {
    if (blames_server(words) && !contains_any(words, {"no space left"})) answer.status = Status::usage(what);
  } else if (status == 408 || status == 425) {
    // later
  } else if ((status == 400 || status == 422 || status == 201) && blames_server(words)) {
    answer.status = contains_any(words, {"no space left"}) ? Status::temporary(what) : Status::usage(what);
  } else if ((status == 400 || status == 422 || status == 201) && json.is_object()) {
    auto const data = json.find("data");
    if (target.version == 3 && data != json.end() && read_list(*data, points, answer)) {
      answer.kind = Kind::listed;
    } else if (target.version == 3 && data != json.end() && data->is_object() && data->contains("line_number")) {
      answer.kind = Kind::refused;
      answer.reason = influx_words(member(*data, "error_message"));
    } else {
      // 201: some were refused, by words that only tell of some.
      answer.kind = blames_points(words) || status == 201 || json.contains("line") ? Kind::refused : Kind::doubtful;
    }
  } else if (status == 400 || status == 422) {
    answer.kind = Kind::doubtful;
  } else if (status < 300) {
    answer.status = Status::usage(fmt::format("{}: status {}, which is no answer of InfluxDB's", target.shown, status));
  } else {
    answer.status = Status::usage(what);  // 401, 403, 404, a redirection: nothing that a point could mend
  }
  if (answer.kind == Kind::listed && answer.lines.empty()) answer.kind = Kind::doubtful;
  return answer;
}

}  // namespace inflight

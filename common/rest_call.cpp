#include "common/rest_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "common/digest.h"
#include "common/time.h"
#include "common/url.h"

namespace inflight {

namespace {

constexpr std::size_t kShown = 200;  // bytes of an answer
constexpr unsigned kDoubts500 = 4;

// PUT and DELETE are idempotent by themselves. A source may deliver a newer version before an older one, and then again
// after it: that must have its effect again, and a service that remembers the key would only repeat its answer.
bool needs_key(std::string_view verb) { return verb == "POST" || verb == "PATCH"; }

// A call as a text: which record it is of (32 bytes), how that is known, and these parts, behind their lengths.
enum Known : char { unasked, named, unnamed };
enum Part : std::size_t { method, key, url, headers, body, parts };
constexpr std::size_t kDigest = 32;
using Lengths = std::array<std::uint32_t, parts>;
constexpr std::size_t kFront = kDigest + 1 + sizeof(Lengths);

std::string_view part(std::string_view call, Part which) {
  Lengths lengths;
  std::memcpy(&lengths, call.data() + kDigest + 1, sizeof lengths);
  std::size_t begin = kFront;
  for (std::size_t i = 0; i < which; ++i) begin += lengths[i];
  return call.substr(begin, lengths[which]);
}

// Each text with its length, so that no two lists are one.
std::string digest_of(std::initializer_list<std::string_view> texts) {
  MessageDigest digest(MessageDigest::Kind::sha256);
  for (std::string_view const text : texts) {
    digest.add(fmt::format("{}:", text.size()));
    digest.add(text);
  }
  return digest.finish();
}

bool is_json_type(std::string_view type) {
  std::string_view const bare = type.substr(0, type.find(';'));
  return bare.empty() || bare == "application/json" || bare.ends_with("+json");
}

bool is_html(HttpResponse const& response) {
  std::string_view const type = response.header ? response.header("Content-Type") : std::string_view{};
  return type.starts_with("text/html") && (!response.body.empty() || response.cause == HttpCause::too_large);
}

// The beginning of an answer's body, on one line.
std::string words_of(HttpResponse const& response) {
  std::string text = response.body.substr(0, kShown);
  // Not in the middle of a character.
  if (response.body.size() > kShown) {
    while (!text.empty() && (static_cast<unsigned char>(response.body[text.size()]) & 0xc0) == 0x80) text.pop_back();
  }
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  std::string const first = fmt::format("status {}", response.status);
  return text.empty() ? first : first + ": " + text;
}

}  // namespace

Result<RestCalls> RestCalls::make(RestOptions const& options) {
  RestCalls calls;
  calls.options_ = options;
  if (!is_http_url(options.url))
    return Status::usage("URL: not http:// or https:// with a host: " + public_url(options.url));
  if (public_url(options.url) != options.url)
    return Status::usage("URL: a secret does not belong on a command line: --header-file");
  std::size_t const host = options.url.find("://") + 3;
  if (options.url.substr(host, options.url.find_first_of("/?#", host) - host).find('{') != std::string::npos)
    return Status::usage("URL: a record does not choose the host: " + options.url);
  auto url = Template::parse(options.url);
  if (!url) return url.status().at("URL");
  calls.url_ = std::move(*url);
  std::vector<Path> paths;
  for (auto const& [text, name, to] : {std::tuple{&options.body, "--body", &calls.body_},
                                       std::tuple{&options.version, "--version-from", &calls.version_}}) {
    if (text->empty()) continue;
    auto path = Path::parse(*text);
    if (!path) return path.status().at(name);
    *to = *path;
    paths.push_back(std::move(*path));
  }
  if (options.version_header.empty()) {
    calls.version_.reset();
    paths.resize(calls.body_ ? 1 : 0);
  } else if (options.version_header.find_first_of(": \t\r\n") != std::string::npos) {
    return Status::usage("--version-header: not the name of a header");
  }
  if (!paths.empty()) calls.selector_.emplace(paths);
  return calls;
}

Status RestCalls::write_url(Record const& record, std::string& out) {
  out.clear();
  if (Status status = url_.expand(record, out); !status.ok()) return status.at("URL");
  std::string_view const path = path_of(out), plain = path_of(options_.url);
  // An empty name would make another resource of it, most often the collection; so would a step that leads upwards.
  bool const empty = (path.find("//") != std::string_view::npos && plain.find("//") == std::string_view::npos) ||
                     (path.ends_with('/') && !plain.ends_with('/'));
  if (empty) return Status::rejected(fmt::format("URL: a name in it is empty: {}", public_url(out)));
  if (std::string_view const step = dot_step(out); !step.empty())
    return Status::rejected(fmt::format("URL: {} in it is no name", step));
  return is_http_url(out) ? Status{} : Status::rejected(fmt::format("URL: not one: {}", public_url(out)));
}

Status RestCalls::write_body(Record const& record, std::string& headers_out, std::string& out) {
  out.clear();
  if (body_) {
    Value const value = values_.front();
    if (!value) return Status::rejected(fmt::format("it has no {} (--body)", body_->text()));
    out = value.raw;
    headers_out += "Content-Type: application/json\n";
    return {};
  }
  std::string_view const type = record.is_event() ? record.text("datacontenttype", scratch_) : std::string_view{};
  if (type.find_first_of("\r\n") != std::string_view::npos) return Status::rejected("its datacontenttype is none");
  headers_out += fmt::format("Content-Type: {}\n", type.empty() ? "application/json" : type);
  if (Value const bytes = record.is_event() ? record.attribute("data_base64") : Value{}) {
    std::string text;
    if (bytes.kind != Value::Kind::string || !append_from_base64(out, unquote(bytes.raw, text)))
      return Status::rejected("its data_base64 is no base64");
    return {};
  }
  Value const data = record.data();
  if (!data) return Status::rejected("an event without data (hydrate fetches what its dataref points to)");
  if (data.kind == Value::Kind::string && !is_json_type(type)) {
    if (!append_unquoted(out, data.raw)) return Status::rejected("its data is no JSON string");
  } else if (!is_json(data.raw)) {
    return Status::rejected("its data is not JSON");
  } else {
    out = data.raw;
  }
  return {};
}

Status RestCalls::write_version(Record const& record, std::string& out) {
  Value value = version_ ? values_.back() : Value{};
  // By default; and a deletion has no data.
  if (!version_ || (!value && version_->in_data() && record.is_deletion())) {
    value = record.attribute("fetchedtime");
    if (!value) value = record.attribute("recordedtime");
  }
  std::string text;
  std::string_view const shown = unquote(value.raw, text);
  if (value.kind == Value::Kind::number && shown.find_first_not_of("0123456789") == std::string_view::npos) {
    out += fmt::format("{}: {}\n", options_.version_header, shown);
    return {};
  }
  auto const time = parse_rfc3339(shown);
  if (value.kind != Value::Kind::string || !time) {
    return Status::rejected(fmt::format("it has no {} that is a time or a whole number (--version-from)",
                                        version_ ? version_->text() : "recordedtime"));
  }
  out += fmt::format("{}: {}\n", options_.version_header, time->ns / 1000);
  return {};
}

Status RestCalls::write(Record const& record, std::string& call) {
  bool const deletion = record.is_deletion();
  headers_.clear(), body_text_.clear();
  if (Status status = write_url(record, url_text_); !status.ok()) return status;
  if (selector_) {
    if (Status status = selector_->select(record, values_); !status.ok()) return status;
  }
  if (!deletion) {
    if (Status status = write_body(record, headers_, body_text_); !status.ok()) return status;
  }
  if (!options_.version_header.empty()) {
    if (Status status = write_version(record, headers_); !status.ok()) return status;
  }
  std::string_view const verb = deletion ? "DELETE" : std::string_view(options_.method);
  key_ = record.partition_key(scratch_);
  // POST to one place makes many things there; all else changes what is there.
  if (key_.empty() && !(url_.constant() && options_.method == "POST")) key_ = url_text_;
  std::string source, id;
  std::string_view const source_text = record.is_event() ? record.text("source", source) : std::string_view{};
  std::string_view const id_text = record.is_event() ? record.text("id", id) : std::string_view{};
  bool const keyed = needs_key(verb);
  call = keyed ? digest_of({source_text, id_text, verb, url_text_, body_text_}) : std::string(kDigest, '\0');
  call.push_back(!keyed ? unasked : id_text.empty() ? unnamed : named);
  Lengths lengths;
  std::array<std::string_view, parts> const all = {verb, key_, url_text_, headers_, body_text_};
  for (std::size_t i = 0; i < parts; ++i) lengths[i] = static_cast<std::uint32_t>(all[i].size());
  call.reserve(kFront + verb.size() + key_.size() + url_text_.size() + headers_.size() + body_text_.size());
  call.append(reinterpret_cast<char const*>(lengths.data()), sizeof lengths);
  for (std::string_view const text : all) call += text;
  forget_long(body_text_);
  return {};
}

HttpRequest RestCalls::request(std::string_view call, std::string_view delivery, Receipts const& receipts) {
  HttpRequest request;
  request.method = part(call, method);
  request.url = part(call, url);
  request.body = part(call, body);
  for (std::string_view rest = part(call, headers); !rest.empty(); rest.remove_prefix(rest.find('\n') + 1))
    request.headers.emplace_back(rest.substr(0, rest.find('\n')));
  std::string_view const digest = call.substr(0, kDigest);
  char const known = call[kDigest];
  if (known == unasked) return request;
  // Two pieces of one event may say the same and yet be two.
  std::size_t const piece = std::min(delivery.find('/'), delivery.size());
  std::string made;
  if (known == unnamed && !delivery.empty()) {
    made = digest_of({digest, receipts.source(), delivery});
  } else if (piece < delivery.size()) {
    made = digest_of({digest, delivery.substr(piece)});
  }
  std::string_view const chosen = made.empty() ? digest : std::string_view(made);
  if (known == named || !made.empty()) request.headers.push_back("Idempotency-Key: " + to_hex(chosen.substr(0, 16)));
  return request;
}

std::string_view RestCalls::key_of(std::string_view call) { return part(call, key); }
bool RestCalls::is_deletion(std::string_view call) { return part(call, method) == "DELETE"; }

void RestCalls::show(std::string_view call, std::string& out) {
  out.append(part(call, method)).append(" ").append(public_url(part(call, url)));
  std::string_view const text = part(call, body);
  if (text.empty()) return;
  out += ' ';
  bool const plain =
      std::none_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (plain && valid_utf8(text)) {
    out += text;
  } else {
    append_quoted(out, text);
  }
}

RestJudgement judge(RestOptions const& options, bool deletion, HttpResponse const& response) {
  int const code = response.status;
  auto say = [&](Code what, std::string const& why) { return Status{what, why}; };
  std::string const words = words_of(response);
  // The whole of a long answer is of no interest.
  bool const answered = response.cause == HttpCause::none || response.cause == HttpCause::status ||
                        (response.cause == HttpCause::too_large && code > 0);
  if (!answered) {
    if (response.misdirected()) return {Status::usage(response.error), false, true};
    // It may be so each time that this is asked for, and of nothing else.
    if (response.cause == HttpCause::encoding) return {Status::temporary(response.error), false, false, kDoubts500};
    return {Status::temporary(response.error), response.cause == HttpCause::timeout, true};
  }
  if (code >= 200 && code < 300) {
    if (!options.allow_html && is_html(response)) {
      return {Status::usage(
          fmt::format("the answer is HTML, as of a page to log in at, not of a service (--allow-html): {}", words))};
    }
    return {};
  }
  if (deletion && (code == 404 || code == 410)) return {};
  if (code >= 300 && code < 400) {
    std::string_view const to = response.header ? response.header("Location") : std::string_view{};
    return {say(Code::usage, fmt::format("status {}: redirected to {} (name that one, if it is the service)", code,
                                         to.empty() ? "nowhere" : public_url(to)))};
  }
  switch (code) {
    case 401:
    case 402:
    case 403:
    case 407:
    case 511:
      return {say(Code::usage, words)};
    case 404:
    case 405:
    case 501:
      return {say(Code::usage, words), false, false, 1};
    case 409:
    case 412:
      return {options.conflict == "ok" ? Status{} : say(Code::rejected, words)};
    case 408:
    case 421:
    case 423:
    case 425:
      return {say(Code::temporary, words)};
    case 429:
    case 502:
    case 503:
    case 504:
    case 507:
      return {say(Code::temporary, words), true};
    default:
      break;
  }
  if (code >= 500) return {say(Code::temporary, words), false, false, kDoubts500};
  return {say(Code::rejected, words)};
}

}  // namespace inflight

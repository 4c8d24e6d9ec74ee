#include "common/aws_sign.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/digest.h"
#include "common/url.h"

namespace inflight {

namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return text;
}

}  // namespace

std::string aws_encode(std::string_view text, bool path) {
  if (!path) return percent_encode(text);
  std::string out;
  for (;;) {
    std::size_t const slash = text.find('/');
    out += percent_encode(text.substr(0, slash));
    if (slash == std::string_view::npos) return out;
    out += '/';
    text.remove_prefix(slash + 1);
  }
}

std::string aws_query(std::vector<std::pair<std::string, std::string>> const& query) {
  std::vector<std::pair<std::string, std::string>> encoded;
  for (auto const& [name, value] : query) encoded.emplace_back(aws_encode(name, false), aws_encode(value, false));
  std::sort(encoded.begin(), encoded.end());
  std::string out;
  for (auto const& [name, value] : encoded) out += fmt::format("{}{}={}", out.empty() ? "" : "&", name, value);
  return out;
}

std::vector<std::string> aws_signed_headers(AwsRequest const& request, AwsCredentials const& credentials,
                                            std::string const& region, std::string const& service, Time now) {
  Civil const c = civil_from_time(now);
  std::string const date = fmt::format("{:04}{:02}{:02}", c.year, c.month, c.day);
  std::string const time = fmt::format("{}T{:02}{:02}{:02}Z", date, c.hour, c.minute, c.second);
  std::vector<std::pair<std::string, std::string>> headers = request.headers;
  headers.emplace_back("Host", request.host);
  headers.emplace_back("x-amz-date", time);
  headers.emplace_back("x-amz-content-sha256", request.payload_sha256);
  if (!credentials.token.empty()) headers.emplace_back("x-amz-security-token", credentials.token);

  std::map<std::string, std::string> canonical;  // by lower-case name, in order
  for (auto const& [name, value] : headers) canonical[lower(name)] = value;
  std::string lines, names;
  for (auto const& [name, value] : canonical) {
    lines += fmt::format("{}:{}\n", name, value);
    names += fmt::format("{}{}", names.empty() ? "" : ";", name);
  }
  std::string const whole = fmt::format("{}\n{}\n{}\n{}\n{}\n{}", request.method, request.path,
                                        aws_query(request.query), lines, names, request.payload_sha256);
  std::string const scope = fmt::format("{}/{}/{}/aws4_request", date, region, service);
  std::string const to_sign = fmt::format("AWS4-HMAC-SHA256\n{}\n{}\n{}", time, scope, to_hex(sha256(whole)));
  std::string key = "AWS4" + credentials.secret;
  for (std::string const& part : {date, region, service, std::string("aws4_request")}) key = hmac_sha256(key, part);

  std::vector<std::string> out;
  for (auto const& [name, value] : headers) out.push_back(fmt::format("{}: {}", name, value));
  out.push_back(fmt::format("Authorization: AWS4-HMAC-SHA256 Credential={}/{},SignedHeaders={},Signature={}",
                            credentials.key_id, scope, names, to_hex(hmac_sha256(key, to_sign))));
  return out;
}

}  // namespace inflight

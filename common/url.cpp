#include "common/url.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/messages.h"

namespace inflight {

std::string public_url(std::string_view url) {
  std::size_t const scheme = url.find("://");
  if (scheme == std::string_view::npos) return redact_urls(std::string(url));
  std::size_t const begin = scheme + 3;
  std::size_t const end = std::min(url.find_first_of("/?#", begin), url.size());
  std::size_t const at = url.substr(0, end).rfind('@');
  if (at == std::string_view::npos || at < begin) return redact_urls(std::string(url));
  return redact_urls(std::string(url.substr(0, begin)).append(url.substr(at + 1)));
}

bool is_http_url(std::string_view url) {
  std::size_t const begin = url.starts_with("http://") ? 7 : url.starts_with("https://") ? 8 : 0;
  if (begin == 0 || begin == url.size() || url.find_first_of("/?#", begin) == begin) return false;
  return std::all_of(url.begin(), url.end(), [](char c) { return static_cast<unsigned char>(c) > 0x20 && c != 0x7f; });
}

std::string percent_encode(std::string_view text) {
  std::string out;
  for (char const c : text) {
    bool const plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                       c == '.' || c == '_' || c == '~';
    if (plain) {
      out += c;
    } else {
      fmt::format_to(std::back_inserter(out), "%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

std::string expand(std::string url, std::string_view name, std::string_view value) {
  std::string const variable = fmt::format("{{{}}}", name);
  std::string const encoded = percent_encode(value);
  for (std::size_t at = 0; (at = url.find(variable, at)) != std::string::npos; at += encoded.size()) {
    url.replace(at, variable.size(), encoded);
  }
  return url;
}

}  // namespace inflight

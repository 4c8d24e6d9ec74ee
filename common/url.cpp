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

std::string_view path_of(std::string_view url) {
  std::size_t const scheme = url.find("://");
  std::size_t const begin = std::min(url.find('/', scheme == std::string_view::npos ? 0 : scheme + 3), url.size());
  return url.substr(begin, std::min(url.find_first_of("?#", begin), url.size()) - begin);
}

std::string_view dot_step(std::string_view url) {
  std::string_view const path = path_of(url);
  for (std::size_t begin = 0; begin < path.size();) {
    std::size_t const end = std::min(path.find('/', begin), path.size());
    std::string_view const step = path.substr(begin, end - begin);
    std::size_t dots = 0;
    for (std::string_view rest = step; !rest.empty(); ++dots) {
      bool const encoded = rest.starts_with("%2e") || rest.starts_with("%2E");
      if (!encoded && rest[0] != '.') break;
      rest.remove_prefix(encoded ? 3 : 1);
      if (rest.empty() && dots < 2) return step;
    }
    begin = end + 1;
  }
  return {};
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

std::string percent_decode(std::string_view text) {
  auto const digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    bool const escape = text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0;
    if (escape) {
      out += static_cast<char>(digit(text[i + 1]) << 4 | digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string form_decode(std::string_view text) {
  std::string spaced(text);
  std::replace(spaced.begin(), spaced.end(), '+', ' ');
  return percent_decode(spaced);
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

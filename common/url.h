// URLs as text: what may be shown of one, whether it is one, and how values get into it.
#pragma once

#include <string>
#include <string_view>

namespace inflight {

// The URL as others may see it: without user and password, secrets among its arguments as ***.
[[nodiscard]] std::string public_url(std::string_view url);
// Whether it is one that a client takes: http or https, a host, no blanks or control characters.
[[nodiscard]] bool is_http_url(std::string_view url);
// What stands between host and query.
[[nodiscard]] std::string_view path_of(std::string_view url);
// The step of its path that leads elsewhere than it says, `.` or `..`, however they are written; empty: none.
[[nodiscard]] std::string_view dot_step(std::string_view url);
// RFC 3986: all but letters, digits and -._~ as %XX.
[[nodiscard]] std::string percent_encode(std::string_view text);
// %XX as the bytes that they stand for; what else has a '%' stays as it is.
[[nodiscard]] std::string percent_decode(std::string_view text);
// What a form or a query says: %XX, and '+' for a blank.
[[nodiscard]] std::string form_decode(std::string_view text);
// `{name}` replaced by a value, percent-encoded, wherever it stands.
[[nodiscard]] std::string expand(std::string url, std::string_view name, std::string_view value);

}  // namespace inflight

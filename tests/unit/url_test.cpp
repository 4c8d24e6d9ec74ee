#include "common/url.h"

#include <doctest/doctest.h>

using namespace inflight;

TEST_CASE("a public URL has no credentials and no secret arguments") {
  CHECK(public_url("http://ann:pw@host:80/a?b=c") == "http://host:80/a?b=c");
  CHECK(public_url("https://token@host/a@b") == "https://host/a@b");
  CHECK(public_url("http://host/a?token=abc&b=c&password=x") == "http://host/a?token=***&b=c&password=***");
  CHECK(public_url("http://host?q=a@b") == "http://host?q=a@b");
}

TEST_CASE("only http and https URLs with a host are taken") {
  for (char const* url : {"http://h", "https://h/x?y#z", "http://[::1]:80/"}) CHECK(is_http_url(url));
  for (char const* url : {"", "h", "ftp://h", "http://", "http:///x", "http://h/a b", "http://h/\x01"})
    CHECK_FALSE(is_http_url(url));
}

TEST_CASE("percent encoding keeps letters, digits and four marks") {
  CHECK(percent_encode("aZ09-._~") == "aZ09-._~");
  CHECK(percent_encode("a/b c?\xc3\xbc") == "a%2Fb%20c%3F%C3%BC");
}

TEST_CASE("a value takes a variable's place, percent-encoded, wherever it stands") {
  CHECK(expand("http://h/{id}?again={id}", "id", "a/b") == "http://h/a%2Fb?again=a%2Fb");
  CHECK(expand("http://h/{other}", "id", "a") == "http://h/{other}");
  CHECK(expand("http://h/{id}", "id", "{id}") == "http://h/%7Bid%7D");
}

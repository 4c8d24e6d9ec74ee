// The values are those of "Examples: Signature calculations" in AWS's reference
// (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).
#include "common/aws_sign.h"

#include <doctest/doctest.h>

#include "common/digest.h"

using namespace inflight;

namespace {

AwsCredentials const kExample{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""};

AwsRequest example(std::string method, std::string path) {
  return {std::move(method), "examplebucket.s3.amazonaws.com", std::move(path), {}, {}, to_hex(sha256(""))};
}

std::string authorization(AwsRequest const& request, AwsCredentials const& credentials = kExample) {
  auto const now = parse_rfc3339("2013-05-24T00:00:00Z");
  REQUIRE(now);
  return aws_signed_headers(request, credentials, "us-east-1", "s3", *now).back();
}

std::string signature(AwsRequest const& request) {
  std::string const line = authorization(request);
  return line.substr(line.rfind('=') + 1);
}

}  // namespace

TEST_CASE("AWS signature: a GET of a range") {
  AwsRequest request = example("GET", "/test.txt");
  request.headers = {{"Range", "bytes=0-9"}};
  CHECK(authorization(request) ==
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

TEST_CASE("AWS signature: a PUT with other headers, and a key that is encoded") {
  AwsRequest request = example("PUT", aws_encode("/test$file.text", true));
  request.headers = {{"Date", "Fri, 24 May 2013 00:00:00 GMT"}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
  request.payload_sha256 = to_hex(sha256("Welcome to Amazon S3."));
  CHECK(signature(request) == "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

TEST_CASE("AWS signature: an argument without a value") {
  AwsRequest request = example("GET", "/");
  request.query = {{"lifecycle", ""}};
  CHECK(signature(request) == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

TEST_CASE("AWS signature: arguments are signed in their order, however they are given") {
  AwsRequest request = example("GET", "/");
  request.query = {{"prefix", "J"}, {"max-keys", "2"}};
  CHECK(signature(request) == "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

TEST_CASE("AWS signature: a session's token is sent and covered") {
  AwsCredentials credentials = kExample;
  credentials.token = "session/token==";
  CHECK(authorization(example("GET", "/"), credentials).find("x-amz-date;x-amz-security-token,") != std::string::npos);
}

TEST_CASE("AWS encoding: names of all kinds") {
  CHECK(aws_encode("a b+c=d/é%2F~._-", true) == "a%20b%2Bc%3Dd/%C3%A9%252F~._-");
  CHECK(aws_encode("a/b", false) == "a%2Fb");
  CHECK(aws_query({{"b", "x y"}, {"a", ""}, {"a-b", "1"}}) == "a=&a-b=1&b=x%20y");
}

TEST_CASE("digests: as RFC 1321, FIPS 180-4 and RFC 4231 have them") {
  CHECK(to_hex(md5("abc")) == "900150983cd24fb0d6963f7d28e17f72");
  CHECK(to_hex(sha256("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(to_hex(hmac_sha256("Jefe", "what do ya want for nothing?")) ==
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  MessageDigest pieces(MessageDigest::Kind::sha256);
  pieces.add("a");
  pieces.add("");
  pieces.add("bc");
  CHECK(pieces.finish() == sha256("abc"));
}

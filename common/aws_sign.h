// AWS Signature Version 4 in a request's headers
// (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/aws_config.h"
#include "common/time.h"

namespace inflight {

struct AwsRequest {
  std::string method;
  std::string host;                                        // with the port, where it is not the scheme's own
  std::string path;                                        // as it is sent, percent-encoded
  std::vector<std::pair<std::string, std::string>> query;  // names and values, not encoded
  std::vector<std::pair<std::string, std::string>> headers;
  std::string payload_sha256;  // 64 hexadecimal digits
};

// Every byte but letters, digits and -._~ as %XX; '/' stays where it parts a path.
[[nodiscard]] std::string aws_encode(std::string_view text, bool path);
// As it is signed and sent: sorted, each with its '='.
[[nodiscard]] std::string aws_query(std::vector<std::pair<std::string, std::string>> const& query);

// All headers to send, `Name: value`: those given, Host, x-amz-date, x-amz-content-sha256, x-amz-security-token and
// Authorization, which covers all of them.
[[nodiscard]] std::vector<std::string> aws_signed_headers(AwsRequest const& request, AwsCredentials const& credentials,
                                                          std::string const& region, std::string const& service,
                                                          Time now);

}  // namespace inflight

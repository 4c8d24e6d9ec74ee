// Credentials, region and endpoint as every AWS tool finds them: in the environment, else in the profile's files
// (docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html).
#pragma once

#include <string>

#include "common/status.h"

namespace inflight {

struct AwsCredentials {
  std::string key_id, secret, token;  // `token` empty: not of a session
  bool operator==(AwsCredentials const&) const = default;
};

struct AwsConfig {
  AwsCredentials credentials;
  std::string region;            // us-east-1 where nothing says
  std::string endpoint;          // empty: Amazon's own
  std::string ca_bundle;         // empty: as HTTP clients find it
  std::string addressing_style;  // of the profile's `s3` settings: auto, path, virtual, or empty
};

// AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN, AWS_REGION AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3
// AWS_ENDPOINT_URL, AWS_CA_BUNDLE; AWS_PROFILE in AWS_SHARED_CREDENTIALS_FILE (~/.aws/credentials) and AWS_CONFIG_FILE
// (~/.aws/config). Secrets are registered with messages.h. Code::usage: there are no credentials, a profile that is
// asked for is not there, or wants what is not supported (roles, SSO, processes); never a secret in its text.
[[nodiscard]] Result<AwsConfig> read_aws_config();

}  // namespace inflight

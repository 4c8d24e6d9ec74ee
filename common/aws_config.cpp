#include "common/aws_config.h"

#include <fmt/format.h>

#include <cstdlib>
#include <map>

#include "common/fd_io.h"
#include "common/messages.h"

namespace inflight {

namespace {

using Section = std::map<std::string, std::string>;  // of settings below another, `s3.addressing_style`
using Sections = std::map<std::string, Section>;

std::string environment(std::initializer_list<char const*> names) {
  for (char const* const name : names) {
    if (char const* const value = std::getenv(name); value != nullptr && *value != '\0') return value;
  }
  return "";
}

std::string_view trimmed(std::string_view text) {
  std::size_t const begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") + 1 - begin);
}

// Lines of `name = value` below `[section]`; an indented one belongs to the setting above it. What is none of these is
// told by its line, without its text.
Result<Sections> read_sections(std::string const& path) {
  Sections sections;
  if (!exists(path)) return sections;
  auto text = read_file(path);
  if (!text) return text.status();
  std::size_t number = 0;
  Section* section = nullptr;
  std::string above;
  for (std::size_t begin = 0; begin < text->size();) {
    std::size_t const end = std::min(text->find('\n', begin), text->size());
    std::string_view const whole = std::string_view(*text).substr(begin, end - begin);
    std::string_view const line = trimmed(whole);
    begin = end + 1;
    ++number;
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    bool const indented = whole[0] == ' ' || whole[0] == '\t';
    std::size_t const equals = line.find('=');
    if (line[0] == '[' && line.back() == ']') {
      section = &sections[std::string(trimmed(line.substr(1, line.size() - 2)))];
      above.clear();
    } else if (section == nullptr || equals == std::string_view::npos || equals == 0) {
      return Status::usage(fmt::format("{}: line {} is neither [section] nor name = value", path, number));
    } else {
      std::string name(trimmed(line.substr(0, equals)));
      if (indented && !above.empty()) {
        name = above + "." + name;
      } else {
        above = name;
      }
      (*section)[name] = trimmed(line.substr(equals + 1));
    }
  }
  return sections;
}

// The profile's settings, of both files.
Result<Section> read_profile(std::string const& name, bool asked) {
  std::string const home = environment({"HOME"});
  std::string credentials = environment({"AWS_SHARED_CREDENTIALS_FILE"});
  std::string config = environment({"AWS_CONFIG_FILE"});
  if (credentials.empty() && !home.empty()) credentials = home + "/.aws/credentials";
  if (config.empty() && !home.empty()) config = home + "/.aws/config";
  Section found;
  bool there = false;
  // insert() keeps what is there: the file of credentials goes first.
  for (auto const& [path, section] :
       {std::pair(credentials, name), std::pair(config, name == "default" ? name : "profile " + name),
        std::pair(config, "profile " + name)}) {
    auto sections = read_sections(path);
    if (!sections) return sections.status();
    auto const at = sections->find(section);
    if (at == sections->end()) continue;
    there = true;
    found.insert(at->second.begin(), at->second.end());
  }
  if (!there && asked) {
    return Status::usage(fmt::format("AWS_PROFILE: no profile '{}' in {} or {}", name, credentials, config));
  }
  return found;
}

}  // namespace

Result<AwsConfig> read_aws_config() {
  std::string const asked = environment({"AWS_PROFILE", "AWS_DEFAULT_PROFILE"});
  std::string const name = asked.empty() ? "default" : asked;
  auto profile = read_profile(name, !asked.empty());
  if (!profile) return profile.status();
  auto const set = [&](std::initializer_list<char const*> names, char const* setting) {
    std::string const value = environment(names);
    return value.empty() ? (*profile)[setting] : value;
  };
  AwsConfig config;
  AwsCredentials& credentials = config.credentials;
  credentials = {environment({"AWS_ACCESS_KEY_ID"}), environment({"AWS_SECRET_ACCESS_KEY"}),
                 environment({"AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"})};
  if (credentials.key_id.empty() != credentials.secret.empty()) {
    return Status::usage(fmt::format("{} is set without {}",
                                     credentials.key_id.empty() ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID",
                                     credentials.key_id.empty() ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY"));
  }
  if (credentials.key_id.empty()) {
    credentials = {(*profile)["aws_access_key_id"], (*profile)["aws_secret_access_key"],
                   (*profile)["aws_session_token"]};
  }
  for (std::string const& secret : {credentials.secret, credentials.token}) add_secret(secret);
  if (credentials.key_id.empty() || credentials.secret.empty()) {
    for (char const* const other : {"role_arn", "sso_session", "sso_start_url", "credential_process"}) {
      if (profile->contains(other)) {
        return Status::usage(fmt::format(
            "profile '{}': {} is not supported: put keys into the environment or the profile", name, other));
      }
    }
    return Status::usage(
        "no AWS credentials: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY nor a profile has them");
  }
  for (std::string const* text : {&credentials.key_id, &credentials.secret, &credentials.token}) {
    for (char const c : *text) {
      if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f)
        return Status::usage("AWS credentials: a blank or a control character in them");
    }
  }
  config.region = set({"AWS_REGION", "AWS_DEFAULT_REGION"}, "region");
  if (config.region.empty()) config.region = "us-east-1";
  config.endpoint = set({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}, "s3.endpoint_url");
  if (config.endpoint.empty()) config.endpoint = (*profile)["endpoint_url"];
  config.ca_bundle = set({"AWS_CA_BUNDLE"}, "ca_bundle");
  config.addressing_style = (*profile)["s3.addressing_style"];
  return config;
}

}  // namespace inflight

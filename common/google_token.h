// Access tokens of Google's services: from a service account's file, or from a file that somebody else keeps fresh.
//
// A service account signs a claim with its key and gets a token for an hour (RFC 7523;
// https://developers.google.com/identity/protocols/oauth2/service-account).
#pragma once

#include <memory>
#include <string>

#include "common/cli.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct GoogleCredentials {
  std::string file;        // of a service account
  std::string token_file;  // read again whenever a token is asked for

  // --credentials --token-file
  void add_to(Cli& cli);
};

class GoogleToken {
 public:
  // Reads what is named, else what GOOGLE_APPLICATION_CREDENTIALS names. `fixed` instead of all that, where it is not
  // empty. Code::usage: a file is missing or malformed.
  [[nodiscard]] static Result<std::unique_ptr<GoogleToken>> make(GoogleCredentials const& credentials,
                                                                 std::string scope, std::string fixed, Clock& clock);
  ~GoogleToken();

  // `Authorization: Bearer …`, or empty where there are no credentials. Waits for the token's server.
  [[nodiscard]] Result<std::string> header();
  // The last one was refused: the next is a new one. False: there is no other to be had.
  bool renew();

 private:
  struct State;
  explicit GoogleToken(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inflight

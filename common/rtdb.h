// A collection of a Firebase Realtime Database over REST: its URLs, the order of its keys, its answers, its events.
//
// Behaviour: https://firebase.google.com/docs/reference/rest/database and …/docs/database/rest/retrieve-data.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/cli.h"
#include "common/google_token.h"
#include "common/http.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

class RtdbCollection {
 public:
  // `https://NAME.firebaseio.com/orders` or `https://NAME.REGION.firebasedatabase.app/orders`; any other host is taken
  // for an emulator, which may have the database's name as `?ns=NAME`. Where FIREBASE_DATABASE_EMULATOR_HOST is set, it
  // is asked instead. Code::usage: it is no such URL.
  [[nodiscard]] static Result<RtdbCollection> parse(std::string const& url);

  // The collection below this one that has this key as its name.
  [[nodiscard]] RtdbCollection child(std::string_view key) const;
  [[nodiscard]] std::string url(std::string_view query = {}) const;  // `a=b&c=d`, encoded
  [[nodiscard]] std::string document(std::string_view key) const;
  // As Eventarc names the database in its events, and then the collection: with the subject it names a document. Of an
  // emulator, the collection's URL.
  [[nodiscard]] std::string const& source() const { return source_; }
  [[nodiscard]] std::string const& name() const { return name_; }  // its path
  [[nodiscard]] bool emulator() const { return emulator_; }

 private:
  std::string base_, ns_, source_, name_;
  bool emulator_ = false;
};

// Bytes that compare as the keys do: those that are integers of 32 bits first, by number, all others by their UTF-16
// code units (retrieve-data, "How query data is ordered").
[[nodiscard]] std::string rtdb_sort_key(std::string_view key);
// Why it cannot be a key (…/docs/database/usage/limits); empty: it can.
[[nodiscard]] std::string rtdb_key_fault(std::string_view key);

// Whether Google answers there for its databases; whether the emulator does that the environment names.
[[nodiscard]] bool is_rtdb_url(std::string_view url);
[[nodiscard]] bool is_rtdb_emulator_url(std::string_view url);
// Of somebody who may read and write databases; to an emulator, of its owner.
[[nodiscard]] Result<std::unique_ptr<GoogleToken>> rtdb_token(GoogleCredentials const& credentials, bool emulator,
                                                              Clock& clock);

struct RtdbEvent {
  std::string id;
  std::string_view key;
  bool deleted = false;
  Time recorded;
  std::string_view data{};  // as JSON; empty: an id-only event
};
[[nodiscard]] std::string rtdb_event(RtdbCollection const& collection, RtdbEvent const& event);

struct RtdbOptions {
  GoogleCredentials credentials;
  Duration timeout = std::chrono::seconds(30);

  // --credentials --token-file --timeout
  void add_to(Cli& cli);
};

// Asks one thing at a time. Redirects are followed within the database's own hosts.
class RtdbClient {
 public:
  [[nodiscard]] static Result<std::unique_ptr<RtdbClient>> make(RtdbOptions const& options,
                                                                RtdbCollection const& collection, Clock& clock);
  ~RtdbClient();

  // GET, tried again five times where waiting may help. `begin` comes before each try, `body` gets the pieces of the
  // answer. Code::rejected: the answer would be larger than the database gives at once. Code::usage: the URL, the
  // permission. What `body` fails with ends it, but for Code::temporary, which is tried again.
  [[nodiscard]] Status get(std::string const& url, std::function<Status()> const& begin,
                           std::function<Status(std::string_view)> const& body);
  // A stream of events, once: until it ends, nothing has come for `silence`, or `turn`, called at least ten times a
  // second, fails. Code::temporary: connecting again may help.
  [[nodiscard]] Status stream(std::string const& url, Duration silence, std::function<Status()> const& turn,
                              std::function<Status(std::string_view)> const& body);
  // The credentials were refused: the next request has new ones.
  bool renew();

 private:
  struct State;
  explicit RtdbClient(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inflight

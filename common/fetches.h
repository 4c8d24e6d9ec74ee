// Which documents a subscriber of an exchange may have fetched in a time when nobody saw what they were: listen tells
// these once more.
//
// An event's document is fetched after the event was delivered and before it is settled. So what was settled by a
// moment was fetched before it, what was not is taken for fetched after it; what has not been delivered yet is to be
// fetched. A letter that is replayed is fetched again, and with it all that must follow it in the order of its
// partition key.
#pragma once

#include <functional>
#include <string>

#include "common/exchange.h"
#include "common/record.h"
#include "common/status.h"

namespace inflight {

class Fetches {
 public:
  // Neither has to be there yet: then nothing was fetched so far.
  Fetches(std::string const& exchange, std::string const& subscriber) : files_(exchange, subscriber) {}
  [[nodiscard]] std::string const& subscriber() const { return files_.name(); }

  // What is settled, in a form to be kept.
  [[nodiscard]] Result<std::string> mark() const;
  // Each event that may have been fetched between the mark (empty: the beginning) and now.
  [[nodiscard]] Status since(std::string const& mark, std::function<Status(Record const&)> const& each) const;

 private:
  SubscriberFiles files_;
};

}  // namespace inflight

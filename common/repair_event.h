// Id-only events of what a comparison found, so that a repair goes through the same queue as everything else.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/path.h"
#include "common/reconcile.h"
#include "common/time.h"

namespace inflight {

class RepairEvents {
 public:
  // `kinds`: missing, different or both, joined by a comma; empty: none. `dataref`: a template over the event, may be
  // empty. `now` is the recordedtime of all, and a part of their ids: a later run's repair is no double of an earlier
  // one's.
  [[nodiscard]] static Result<RepairEvents> make(std::string const& kinds, std::string const& dataref,
                                                 std::vector<Path> const& key, Time now);
  [[nodiscard]] bool wants(Difference::Kind kind) const;
  // The part of the key that is called `time` is the event's time; the others, joined by commas, are its subject.
  // Code::temporary where the template needs what the event does not have.
  [[nodiscard]] Result<std::string> make(Difference const& difference);

 private:
  bool missing_ = false, different_ = false;
  std::optional<Template> dataref_;
  std::vector<bool> is_time_;  // of the key's parts
  std::string now_;
  RecordParser parser_;
};

}  // namespace inflight

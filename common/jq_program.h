// A jq program, compiled by libjq and run on one value at a time.
//
// libjq ends the process where memory runs out, and deep recursion overflows the stack: bound_jq_memory() and every
// running program see to it that the tool says so and ends with a defect's status, so that a source can find the
// record.
#pragma once

extern "C" {  // it does not say so itself
#include <jq.h>
}

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/jq_value.h"
#include "common/receipts.h"
#include "common/status.h"

namespace inflight {

struct JqSource {
  using Named = std::vector<std::pair<std::string, std::string>>;
  std::string program;
  std::string file;  // holds the program; empty: it is `program`
  Named strings;     // --arg
  Named values;      // --argjson: JSON
  Named files;       // --slurpfile: an array of the values in the file
};

// Code::usage: a file that cannot be read.
[[nodiscard]] Result<std::string> read_program(JqSource const& source);

// From now on the process may take this much more memory. What it says where that is not enough goes to `receipts` too.
void bound_jq_memory(std::uint64_t bytes, Receipts receipts);

// Of one thread at a time: libjq counts references without locks.
class JqProgram {
 public:
  // Code::usage: what libjq says of the program, with its line.
  [[nodiscard]] static Result<JqProgram> compile(JqSource const& source);

  // Hands each output to `take`, and ends at the first that it does not accept. Code::rejected with jq's message where
  // the program fails. `about` names the record in what is said where the process has to end.
  [[nodiscard]] Status run(jv input, std::string_view about, std::function<Status(JqValue)> const& take);

 private:
  struct Close {
    void operator()(jq_state* state) const { jq_teardown(&state); }
  };
  std::unique_ptr<jq_state, Close> state_;
};

}  // namespace inflight

// Dead letters as an operator handles them: which ones, what they have in common, and those of another subscriber.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/cli.h"
#include "common/dead_letter.h"
#include "common/exchange.h"
#include "common/io.h"

namespace inflight {

struct LetterSelection {
  std::string reason, subject;
  std::optional<Time> from, to;  // of the letter
  std::uint64_t limit = 0;       // 0: no limit

  void add_to(Cli& cli);

  // Calls use(letter, entry), which may have the letter, for the open letters that it selects, in order of position;
  // the limit counts those for which it returns true. Code::usage: `reason` is no regular expression.
  using Use = std::function<Result<bool>(DeadLetter&, DeadLetters::Entry const&)>;
  [[nodiscard]] Status each(DeadLetters const& letters, Use const& use) const;
};

// Two lines for each stage and kind of reason: how many, first and last, and an example. Reasons that differ in numbers
// and quoted words only are of one kind.
[[nodiscard]] Status summarise_letters(Writer& out, DeadLetters const& letters, LetterSelection const& selection);

// Letters as `--export` wrote them become open letters of this subscriber, but those that stood here at this attempt or
// a later one. Takes the subscriber's lock. Code::usage with the line's number: not a letter, of another exchange, or
// of a position that the subscriber has not come to; those before it are taken in.
struct Imported {
  std::uint64_t read = 0, added = 0;
};
[[nodiscard]] Result<Imported> import_letters(Io& io, SubscriberFiles const& files, std::string const& path);

}  // namespace inflight

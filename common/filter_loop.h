// The loop of every filter: records in, records out, order kept, whatever it cannot process rejected with its reason.
//
// It hands the filter one record at a time; deletions pass untouched. Where a source listens (receipts.h), it numbers
// the pieces of an event that became several records, and tells rejections and drops on the channel.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "common/cli.h"
#include "common/io.h"
#include "common/reader.h"
#include "common/record.h"

namespace inflight {

struct FilterOptions {
  std::uint64_t jobs = 1;
  std::uint64_t max_record = kMaxRecord;
  std::string dead_letters;

  void add_to(Cli& cli, bool with_jobs = true);
};

// What a filter makes of one record.
class Output {
 public:
  // One more record: the input with these edits.
  void record(Record const& in, std::span<Edit const> edits);
  // One more record that the filter writes itself: a JSON object without `delivery`.
  [[nodiscard]] std::string& begin();
  void end() {}

 private:
  friend class FilterChunk;
  std::string text_;
  std::vector<std::size_t> starts_;
};

// One instance per thread (--jobs).
class Filter {
 public:
  virtual ~Filter() = default;
  // No record at all is a drop on purpose. Code::rejected: the record's fault; what was put out for it is taken back.
  // Anything else ends the tool with that status.
  [[nodiscard]] virtual Status apply(Record const& in, Output& out) = 0;
};

[[nodiscard]] Exit run_filter(Io& io, std::function<std::unique_ptr<Filter>()> const& make,
                              FilterOptions const& options);

// The positions of a record that begins with `{"delivery":"TOKEN:…"`, as sources and our filters write it: on success
// `line` is what remains without it, which takes one byte of the buffer in place (the comma becomes the brace).
[[nodiscard]] bool take_delivery(Receipts const& receipts, char*& begin, std::size_t& size, std::string_view& delivery);

}  // namespace inflight

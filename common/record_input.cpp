#include "common/record_input.h"

#include <fmt/format.h>

#include "common/metrics.h"

namespace inflight {

Status read_records(Reader& reader, Line& line, std::uint64_t max_record,
                    std::function<Status(Record const&)> const& take, std::function<Status(Status const&)> const& bad) {
  constexpr std::uint64_t each = 256;  // records, between two additions to the counters
  RecordParser parser;
  Record record;
  std::uint64_t bytes = 0, uncounted = 0;
  auto count = [&] {
    counters().records += uncounted;
    counters().bytes += reader.bytes() - bytes;
    bytes = reader.bytes();
    uncounted = 0;
  };
  for (;;) {
    auto got = reader.next(line);
    if (!got) return got.status();
    if (*got == Reader::Wait::stopped) return {Code::stopped, "stopped"};
    if (*got == Reader::Wait::end) break;
    Status status = line.too_long
                        ? Status::rejected(fmt::format("{} bytes are more than --max-record {}", line.size, max_record))
                        : parser.parse(line.text, record);
    if (status.ok()) status = take(record);
    if (status.code() == Code::rejected) status = bad(status);
    if (!status.ok()) return status;
    if (++uncounted == each) count();
  }
  count();
  return {};
}

}  // namespace inflight

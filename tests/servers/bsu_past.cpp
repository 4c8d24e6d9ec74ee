#include "tests/servers/bsu_past.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "common/poll_event.h"
#include "tests/servers/bsu_unit.h"
#include "tests/servers/sim_units.h"

namespace inflight::sim {

namespace {

constexpr std::int64_t on_its_way = 5;  // ms from the reading to the receipt of the answer

std::int64_t time_of(std::string const& text) {
  auto const time = parse_time(text);
  if (!time) throw std::invalid_argument(fmt::format("'{}' is not a time as in RFC 3339", text));
  return *time;
}

}  // namespace

void write_past(Options const& options) {
  Fleet const fleet(options.units, options.seed, options.firmware.empty() ? options.sunspec : 0,
                    chosen_firmware(options.firmware));
  std::int64_t const from = time_of(options.from), to = options.to.empty() ? wall_ms() : time_of(options.to);
  std::int64_t const cadence = parse_duration(options.cadence).count();
  auto const size = static_cast<std::int64_t>(fleet.size());
  HttpResponse answer;
  answer.status = 200;
  answer.header = [](char const*) { return std::string_view("application/xml"); };
  auto const fail = [] { throw std::runtime_error(fmt::format("standard output: {}", std::strerror(errno))); };
  for (std::int64_t poll = 0, time = from; time < to; time = from + ++poll * cadence / size) {
    auto const unit = static_cast<std::size_t>(poll % size);
    std::string const id = fleet.id(unit);
    answer.body.clear();
    fleet.document(answer.body, unit, fleet.read(unit, time), fleet.firmware(unit));
    Time const recorded{(time + on_its_way) * 1'000'000};
    std::string const line = reading_event({.id = fmt::format("{}/{}", id, format_rfc3339(recorded)),
                                            .source = fmt::format("http://127.0.0.1:{}/bsus/{}", options.port, id),
                                            .unit = id,
                                            .recorded = recorded},
                                           answer) +
                             '\n';
    if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size()) fail();
  }
  if (std::fflush(stdout) != 0) fail();
}

}  // namespace inflight::sim

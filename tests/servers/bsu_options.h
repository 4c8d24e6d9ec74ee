// What bsu-sim is told on its command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/servers/bsu_fleet.h"

namespace inflight::sim {

struct Options {
  std::size_t units = 100;
  std::uint64_t seed = 1;
  std::uint16_t port = 8400;
  unsigned threads = 1;
  std::vector<std::string> firmware;
  double sunspec = 0.1;
  std::string change_every;
  std::string cadence = "10s";
  std::string at;
  std::string from, to;  // of the past that is written
  bool gzip = false;
  bool no_etag = false;
  std::string slow, black_hole, error, malformed, reshape, cut;
  std::string devices;
  std::string log;
};

// By default the mix of a grown fleet. Throws std::invalid_argument, with the text in its message.
[[nodiscard]] std::vector<Firmware> chosen_firmware(std::vector<std::string> const& names);

}  // namespace inflight::sim

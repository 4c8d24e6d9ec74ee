// What the command line says of a delivery, the same for every source.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/cli.h"
#include "common/time.h"

namespace inflight {

struct DeliveryOptions {
  std::vector<std::string> pipeline;
  std::uint64_t jobs = 1;
  std::uint64_t window = 100'000;
  Duration settle = std::chrono::seconds(60);
  Duration stall = std::chrono::minutes(10);
  Duration takeover = std::chrono::seconds(30);
  std::uint64_t max_deliveries = 5;
  std::uint64_t sinks = 1;
  std::string ack = "receipts";
  bool until_empty = false;  // end when the source has nothing more for now
  std::string run_lock;      // path; with --jobs each lane adds its number

  void add_to(Cli& cli);
};

}  // namespace inflight

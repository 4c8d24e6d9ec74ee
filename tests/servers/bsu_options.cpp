#include "tests/servers/bsu_options.h"

#include <fmt/format.h>

#include <stdexcept>

namespace inflight::sim {

std::vector<Firmware> chosen_firmware(std::vector<std::string> const& names) {
  // The weights of a grown fleet: the plain shape is the most common.
  if (names.empty())
    return {Firmware::attributes, Firmware::attributes, Firmware::attributes, Firmware::single,
            Firmware::elements,   Firmware::elements,   Firmware::latin1,     Firmware::namespaces};
  std::vector<Firmware> kinds;
  for (auto const& name : names) {
    auto const kind = firmware_named(name);
    if (!kind) throw std::invalid_argument(fmt::format("'{}' is not a firmware", name));
    kinds.push_back(*kind);
  }
  return kinds;
}

}  // namespace inflight::sim

#include "common/state_folder.h"

#include <cstdlib>

namespace inflight {

std::string state_folder() {
  auto const environment = [](char const* name) -> std::string {
    char const* const value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (std::string const systemd = environment("STATE_DIRECTORY"); !systemd.empty())
    return systemd.substr(0, systemd.find(':'));
  if (std::string const xdg = environment("XDG_STATE_HOME"); xdg.starts_with('/')) return xdg + "/inflight";
  if (std::string const home = environment("HOME"); home.starts_with('/')) return home + "/.local/state/inflight";
  return "";
}

}  // namespace inflight

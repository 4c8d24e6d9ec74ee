// Where the system keeps a program's state.
#pragma once

#include <string>

namespace inflight {

// systemd's STATE_DIRECTORY, else the XDG Base Directory Specification's, with `inflight` behind it; empty: there is
// none.
[[nodiscard]] std::string state_folder();

}  // namespace inflight

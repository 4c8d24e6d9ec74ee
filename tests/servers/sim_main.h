// The main of a server of the tests: options, a line that says where it listens, and an end on SIGTERM or SIGINT.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace inflight::sim {

// `serve` starts the server and calls its argument with the port, which returns when the server is to end. What is
// wrong with the options it throws as std::invalid_argument. Returns the exit status: 2 for wrong options.
[[nodiscard]] int sim_main(int argc, char** argv, std::string const& name,
                           std::function<void(CLI::App&)> const& add_options,
                           std::function<void(std::function<void(unsigned port)> const& until_stopped)> const& serve);

}  // namespace inflight::sim

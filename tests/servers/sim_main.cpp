#include "tests/servers/sim_main.h"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <stdexcept>

namespace inflight::sim {

int sim_main(int argc, char** argv, std::string const& name, std::function<void(CLI::App&)> const& add_options,
             std::function<void(std::function<void(unsigned port)> const& until_stopped)> const& serve) {
  CLI::App app;
  add_options(app);
  try {
    app.parse(argc, argv);
    // Blocked before any thread starts, so that only sigwait below takes them.
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);
    signal(SIGPIPE, SIG_IGN);
    serve([&](unsigned port) {
      fmt::print("{}: listening on http://127.0.0.1:{}\n", name, port);
      std::fflush(stdout);
      int got = 0;
      sigwait(&stop, &got);
    });
    return 0;
  } catch (CLI::ParseError const& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    fmt::print(stderr, "{}: {}\n", name, e.what());
    return 2;
  } catch (std::invalid_argument const& e) {
    fmt::print(stderr, "{}: {}\n", name, e.what());
    return 2;
  } catch (std::exception const& e) {
    fmt::print(stderr, "{}: {}\n", name, e.what());
    return 1;
  }
}

}  // namespace inflight::sim

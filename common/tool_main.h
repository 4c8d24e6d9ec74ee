// The outermost frame of every tool: signals, the receipts channel, the catch of last resort, the checked close of
// standard output, and the exit status (which the channel hears too: a shell pipeline shows only one of them).
#pragma once

#include "common/cli.h"
#include "common/io.h"

namespace inflight {

[[nodiscard]] int tool_main(int argc, char** argv, Exit (*run)(Cli& cli, Io& io));

}  // namespace inflight

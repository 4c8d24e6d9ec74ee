// What a tool is given: its standard streams, the receipts channel, and the seams.
#pragma once

#include <unistd.h>

#include "common/fd_io.h"
#include "common/receipts.h"
#include "common/time.h"
#include "common/writer.h"

namespace inflight {

struct Io {
  int in = STDIN_FILENO;
  Writer out{STDOUT_FILENO, "standard output"};
  Receipts receipts;  // open, and announced by sinks; inactive in a plain pipe
  Clock& clock = system_clock();
  Disk& disk = real_disk();
};

}  // namespace inflight

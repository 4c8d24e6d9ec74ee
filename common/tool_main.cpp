#include "common/tool_main.h"

#include <fcntl.h>
#include <malloc.h>

#include <exception>
#include <new>

#include "common/messages.h"
#include "common/stop.h"

namespace inflight {

namespace {

// A descriptor 0 to 2 that is closed would be given to the next file opened, which messages then overwrite. Opened the
// wrong way round, so that whoever reads or writes records there fails as he would have: nothing is lost in silence.
void fill_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) == -1) (void)::open("/dev/null", fd == 1 ? O_RDONLY : O_WRONLY);
  }
}

}  // namespace

int tool_main(int argc, char** argv, Exit (*run)(Cli& cli, Io& io)) {
  fill_standard_descriptors();
  // What a long record took goes back to the system with it. Unset, the bound would rise to such a record's size.
  (void)::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  std::string_view const path = argc > 0 ? argv[0] : "inflight";
  set_tool_name(std::string(path.substr(path.rfind('/') + 1)));
  install_signals();
  Io io;
  Exit exit = Exit::defect;
  try {
    Cli cli(argc, argv);
    auto receipts = Receipts::open();
    if (!receipts) {
      say_error(receipts.status().what());
      return static_cast<int>(Exit::usage);
    }
    io.receipts = *receipts;
    exit = run(cli, io);
    if (Status status = io.out.close(); !status.ok() && status.code() != Code::closed) {
      say_error(status.what());
      if (exit == Exit::ok || exit == Exit::rejected) exit = Exit::defect;
    }
  } catch (std::bad_alloc const&) {
    say_error("out of memory");
    exit = Exit::temporary;
  } catch (std::exception const& error) {
    say_error(std::string("a defect: ") + error.what());
    exit = Exit::defect;
  }
  if (exit != Exit::ok) (void)io.receipts.exit(static_cast<int>(exit));
  return static_cast<int>(exit);
}

}  // namespace inflight

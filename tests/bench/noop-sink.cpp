// noop-sink: takes every record and says it is stored; what `consume` costs by itself is measured with it.
#include "common/sink_loop.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

class Nothing final : public Sink {
 public:
  Status connect() override { return {}; }
  Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) override {
    (void)batch;
    outcomes.all_stored();
    return {};
  }
  Status show(SinkRecord const& record, std::string& out) override {
    out = record.record.line();
    return {};
  }
};

Exit run(Cli& cli, Io& io) {
  SinkOptions options;
  options.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  Nothing sink;
  return run_sink(io, sink, options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

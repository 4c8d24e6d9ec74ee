// hydrate: fetch the documents that events point to.  Manual: man/hydrate.1
#include "common/hydrator.h"
#include "common/metrics.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

Exit run(Cli& cli, Io& io) {
  HydrateOptions options;
  cli.purpose("Fetch what the dataref of each event points to, as it is now, and put it into data.",
              {"hydrate --rate 100/s < ids.ndjson",
               "consume orders/ --as etl -- 'hydrate --max-in-flight 32 | http-write https://api/orders/{subject}'"});
  options.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  if (std::string const mistake = options.mistake(); !mistake.empty()) return cli.wrong(mistake);
  options.documents.http.max_body = options.max_record;
  Progress const progress(cli.common());
  return hydrate(io, options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

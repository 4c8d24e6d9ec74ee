#include "common/sink.h"

namespace inflight {

void SinkOptions::add_to(Cli& cli, bool deletes, bool letters) {
  cli.option("--batch-records", batch_records, "records delivered at once");
  cli.size("--batch-bytes", batch_bytes, "bytes delivered at once");
  cli.option("--linger", linger, "how long a batch waits for more records");
  cli.size("--max-record", max_record, "reject records above this size");
  if (letters) cli.option("--dead-letters", dead_letters, "file for rejected records, where no source keeps them");
  cli.option("--give-up", give_up_option,
             "exit 75 when the destination fails for so long (a plain pipe: 10m, else never)");
  cli.flag("--dry-run", dry_run, "write nothing, show on standard output what would be written");
  if (deletes) cli.choice("--on-delete", on_delete, {"apply", "ignore", "reject"}, "what to do with a deletion");
}

}  // namespace inflight

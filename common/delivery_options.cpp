#include "common/delivery_options.h"

namespace inflight {

void DeliveryOptions::add_to(Cli& cli) {
  cli.pipeline(pipeline);
  cli.option("--jobs", jobs, "copies of the pipeline; the order within a partitionkey is kept");
  cli.option("--window", window, "most positions between the oldest unsettled event and the newest delivered");
  cli.option("--settle", settle, "restart the pipeline when it passes over an event for so long");
  cli.option("--stall", stall, "restart the pipeline when it sends no receipt for so long");
  cli.option("--takeover", takeover, "wait so long for the processes of a run before, then end them");
  cli.option("--max-deliveries", max_deliveries, "dead-letter an event that brings the pipeline down alone so often");
  cli.option("--sinks", sinks, "sinks in the pipeline, each of which must store an event");
  cli.choice("--ack", ack, {"receipts", "exit"}, "what settles events: receipts, or a clean end of the pipeline");
}

}  // namespace inflight

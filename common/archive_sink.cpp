#include "common/archive_sink.h"

#include "common/archive.h"

namespace inflight {

Status ArchiveSink::connect() {
  auto store = open_object_store(io_.disk, io_.clock, archive_, store_options_);
  if (!store) return store.status();
  archiver_.reset();
  store_ = std::move(*store);
  auto spool = Archiver::lock_spool(io_.disk, *store_, io_.receipts.source(), put_);
  if (!spool) {
    // The loop waits for a destination, but not for another run: as a usage error it ends.
    too_early_ = spool.status().code() == Code::temporary;
    return too_early_ ? Status::usage(spool.status().what()) : spool.status();
  }
  auto archiver = Archiver::open(io_.disk, io_.clock, *store_, std::move(*spool), io_.receipts.source(), put_);
  if (!archiver) return archiver.status();
  archiver_ = std::move(*archiver);
  return {};
}

Status ArchiveSink::deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) {
  for (std::size_t i = 0; i < batch.size(); ++i) {
    auto taken = archiver_->add(batch[i].record, batch[i].delivery);
    if (!taken) return taken.status();
    if (*taken == Archiver::Taken::held) {
      outcomes.held(i);
    } else {
      outcomes.stored(i);
    }
  }
  return {};
}

Status ArchiveSink::settle_held(bool final, PositionList& stored) { return archiver_->settle(final, stored); }

Status ArchiveSink::show(SinkRecord const& record, std::string& out) {
  auto const time = archive_time(record.record);
  out = hour_folder(hour_of(time.value_or(system_clock().now())));
  out.append(" ").append(record.record.line());
  return {};
}

}  // namespace inflight

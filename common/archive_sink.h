// s3-archive put as the loop of every sink sees it.
#pragma once

#include <memory>
#include <string>

#include "common/archive_put.h"
#include "common/io.h"
#include "common/object_store.h"
#include "common/open_store.h"
#include "common/sink.h"

namespace inflight {

class ArchiveSink final : public Sink {
 public:
  // All of these outlive it.
  ArchiveSink(Io& io, std::string const& archive, StoreOptions const& store, ArchivePutOptions const& put)
      : io_(io), archive_(archive), store_options_(store), put_(put) {}

  Status connect() override;
  Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) override;
  Status settle_held(bool final, PositionList& stored) override;
  Status show(SinkRecord const& record, std::string& out) override;

  // Another run holds the spool, or there is no room for one.
  [[nodiscard]] bool comes_too_early() const { return too_early_; }

 private:
  Io& io_;
  std::string const& archive_;
  StoreOptions const& store_options_;
  ArchivePutOptions const& put_;
  bool too_early_ = false;
  std::unique_ptr<ObjectStore> store_;
  std::unique_ptr<Archiver> archiver_;
};

}  // namespace inflight

// publish: append events to an exchange, durably.  Manual: man/publish.1
#include <fmt/format.h>

#include <random>

#include "common/exchange.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/path.h"
#include "common/reserve.h"
#include "common/sink_loop.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

struct Options {
  std::string exchange;
  std::vector<std::string> set;
  SinkOptions sink;
};

std::string random_id() {
  std::random_device random;
  auto word = [&] { return static_cast<unsigned>(random()); };
  return fmt::format("{:08x}-{:04x}-4{:03x}-{:04x}-{:08x}{:04x}", word(), word() & 0xffff, word() & 0xfff,
                     (word() & 0x3fff) | 0x8000, word(), word() & 0xffff);
}

class ExchangeSink final : public Sink {
 public:
  ExchangeSink(Io& io, Options const& options) : io_(io), options_(options) {}

  Status connect() override {
    auto info = journal_create(io_.disk, options_.exchange);
    if (!info) return info.status();
    limited_ = info->settings.max_disk > 0;
    auto writer = JournalWriter::open(io_.disk, io_.clock, options_.exchange);
    if (!writer) return writer.status();
    writer_ = std::move(*writer);
    return maintain();
  }

  Status deliver(std::span<SinkRecord const> batch, Outcomes& outcomes) override {
    if (limited_ || io_.clock.steady() - maintained_ > std::chrono::minutes(1)) {
      if (Status status = maintain(); !status.ok()) return status;
    }
    if (Status status = keep_reserve(io_.disk, options_.exchange); !status.ok()) return status;
    lines_.clear();
    wrapped_.clear();
    wrapped_.reserve(batch.size());
    indexes_.clear();
    for (std::size_t i = 0; i < batch.size(); ++i) {
      Record const& record = batch[i].record;
      if (std::string const fault = fault_of(record); !fault.empty()) {
        outcomes.rejected(i, fault);
        continue;
      }
      indexes_.push_back(i);
      if (record.is_event() && !record.attribute("delivery")) {
        lines_.push_back({record.line(), true});
      } else {
        lines_.push_back({wrapped_.emplace_back(event_of(batch[i])), true});
      }
    }
    auto appended = writer_->append(lines_);
    if (!appended) return appended.status();
    for (std::size_t const i : indexes_) outcomes.stored(i);
    return {};
  }

  Status show(SinkRecord const& record, std::string& out) override {
    if (std::string const fault = fault_of(record.record); !fault.empty()) return Status::rejected(fault);
    out = event_of(record);
    return {};
  }

 private:
  // The journal promises valid JSON to whoever reads it.
  static std::string fault_of(Record const& record) {
    if (!has_valid_escapes(record.line())) return "not JSON: a string holds a wrong escape";
    for (Record::Field const& field : record.fields()) {
      if ((field.value[0] == '{' || field.value[0] == '[') && !is_json(field.value)) {
        return fmt::format("not JSON: the value of {} is broken", field.name);
      }
    }
    return {};
  }

  // An event stays as it is, but for a `delivery` of another run: the next source gives it its own. A bare record
  // becomes an event: all of it is its data. Under a source its id, and so all of it, is the same again.
  std::string event_of(SinkRecord const& bare) const {
    if (bare.record.is_event()) return bare.record.without("delivery");
    std::string event = R"({"specversion":"1.0","id":)";
    append_quoted(event, bare.delivery.empty() ? random_id() : std::string(bare.delivery));
    event += R"(,"source":)";
    append_quoted(event, bare.delivery.empty() ? "publish" : io_.receipts.source());
    event += R"(,"type":"record")";
    if (bare.delivery.empty()) event += fmt::format(R"(,"recordedtime":"{}")", format_rfc3339(io_.clock.now()));
    event += R"(,"datacontenttype":"application/json","data":)";
    return event.append(bare.record.line()).append("}");
  }

  Status maintain() {
    maintained_ = io_.clock.steady();
    return maintain_exchange(io_.disk, io_.clock, options_.exchange);
  }

  Io& io_;
  Options const& options_;
  std::optional<JournalWriter> writer_;
  bool limited_ = false;
  Duration maintained_{};
  std::vector<JournalWriter::Line> lines_;
  std::vector<std::string> wrapped_;
  std::vector<std::size_t> indexes_;
};

// `publish EXCHANGE --set keep=7d --set max-disk=10GiB`
Exit set(Io& io, Cli& cli, Options const& options) {
  auto const change = SettingsChange::parse(options.set);
  if (!change) return cli.wrong(change.status().what());
  Status const status = change->apply(io.disk, options.exchange);
  if (!status.ok()) say_error(status.what());
  return status.exit();
}

Exit run(Cli& cli, Io& io) {
  Options options;
  options.sink.batch_records = 20'000;
  cli.purpose("Append records to an exchange; durable when it returns 0, or tells its source so.",
              {"bsu-fetch --devices fleet.txt --every 10s -- publish fleet/", "zcat old.ndjson.gz | publish fleet/"});
  cli.positional("EXCHANGE", options.exchange, "a folder (the journal); made where it is missing");
  cli.option("--set", options.set,
             "change a setting of the exchange: keep=7d, max-disk=10GiB, segment=64MiB; reads no records");
  options.sink.add_to(cli, false);
  if (auto stop = cli.parse()) return *stop;
  if (Status status = check_exchange_name(options.exchange); !status.ok()) return cli.wrong(status.what());
  if (!options.set.empty()) return set(io, cli, options);
  Progress const progress(cli.common());
  ExchangeSink sink(io, options);
  return run_sink(io, sink, options.sink);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

// sql-write: store records as rows of a table.  Manual: man/sql-write.1
#include <algorithm>
#include <numeric>

#include "common/metrics.h"
#include "common/sink_loop.h"
#include "common/sql.h"
#include "common/tool_main.h"

namespace {

class SqlSink final : public inflight::Sink {
 public:
  explicit SqlSink(inflight::SqlWriter writer) : writer_(std::move(writer)) {}

  inflight::Status connect() override { return writer_.connect(); }

  bool keeps() const override { return writer_.packs(); }
  inflight::Status keep(inflight::Record const& record, std::string& kept) override {
    return writer_.pack(record, kept);
  }

  // One transaction for the batch. What is wrong with a single row leaves the others alone; outcomes are told after the
  // commit.
  inflight::Status deliver(std::span<inflight::SinkRecord const> batch, inflight::Outcomes& outcomes) override {
    if (inflight::Status status = writer_.begin(); !status.ok()) return status;
    std::vector<std::pair<std::size_t, std::string>> rejected;
    inflight::Status status;
    sort(batch);
    for (std::size_t n = 0; n < batch.size() && status.ok(); ++n) {
      std::size_t const i = order_[n];
      status = writer_.packs() ? writer_.write(batch[i].kept) : writer_.write(batch[i].record);
      if (status.code() != inflight::Code::rejected) continue;
      rejected.emplace_back(i, status.what());
      status = {};
    }
    if (status.ok()) status = writer_.commit();
    if (!status.ok()) {
      writer_.rollback();
      return status;
    }
    for (auto& [i, reason] : rejected) outcomes.rejected(i, std::move(reason));
    outcomes.all_stored();
    return {};
  }

  inflight::Status show(inflight::SinkRecord const& record, std::string& out) override {
    return writer_.show(record.record, out);
  }

 private:
  void sort(std::span<inflight::SinkRecord const> batch) {
    order_.resize(batch.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    if (!writer_.packs()) return;
    keys_.clear();
    ends_.clear();
    for (inflight::SinkRecord const& record : batch) {
      if (!writer_.sort_key(record.kept, keys_)) return;
      ends_.push_back(keys_.size());
    }
    auto key = [&](std::size_t i) {
      std::size_t const begin = i == 0 ? 0 : ends_[i - 1];
      return std::string_view(keys_).substr(begin, ends_[i] - begin);
    };
    std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  }

  inflight::SqlWriter writer_;
  std::vector<std::size_t> order_;  // in which the batch is written
  std::string keys_;
  std::vector<std::size_t> ends_;  // of each record's key in keys_
};

inflight::Exit run(inflight::Cli& cli, inflight::Io& io) {
  inflight::SqlOptions options;
  inflight::SinkOptions sink_options;
  // Rows that fall all over a large table touch fewer pages in larger transactions. Under a source they stay well below
  // its --window, which a transaction holds up.
  sink_options.batch_records = io.receipts.active() ? 25'000 : 100'000;
  sink_options.batch_bytes = 16 << 20;
  cli.purpose(
      "Store records as rows of a table; a row that is there already is updated.",
      {"bsu-fetch --devices fleet.txt --once | xml2json | sql-write sqlite:fleet.db",
       "consume fleet/ --as data -- 'xml2json | sql-write sqlite:fleet.db --table reading --key subject,time \\\n"
       "      --column subject=subject --column time=time --column power=/bsu/power:float --create'"});
  cli.positional("DATABASE", options.url, "sqlite:FILE");
  cli.option("--table", options.table, "the table, or a template such as {type}: each record names its own");
  cli.option("--column", options.columns,
             "name=PATH[:text|int|float|bool|json], may be repeated; without any: attributes and keys that match the "
             "table's columns");
  cli.option("--key", options.key,
             "columns that tell rows apart, e.g. subject,time; without it the table's primary key");
  cli.option("--on-conflict", options.on_conflict, "a row of this key is there: update, ignore, or newer:COLUMN");
  cli.flag("--create", options.create, "make the table and columns that are missing (a new file gets them unasked)");
  cli.choice("--nul", options.nul, {"reject", "remove"}, "what to do with \\u0000 in a text");
  sink_options.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  auto writer = inflight::SqlWriter::make(options);
  if (!writer) return cli.wrong(writer.status().what());
  inflight::Progress const progress(cli.common());
  SqlSink sink(std::move(*writer));
  return inflight::run_sink(io, sink, sink_options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

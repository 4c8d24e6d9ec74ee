// sql-write: store records as rows of a table.  Manual: man/sql-write.1
#include <algorithm>
#include <numeric>
#include <optional>

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
  // commit. Where the database names a row at fault, the batch goes on in smaller ones, which grow again while all is
  // well: a row costs two transactions, however many are bad.
  inflight::Status deliver(std::span<inflight::SinkRecord const> batch, inflight::Outcomes& outcomes) override {
    order_.clear();
    std::vector<std::string> faults(batch.size());
    std::size_t step = batch.size();
    for (std::size_t from = 0; from < batch.size();) {
      std::size_t const to = std::min(batch.size(), from + std::min(step, batch.size()));
      std::optional<std::size_t> blamed;
      inflight::Status const status = store(batch, from, to, faults, blamed);
      if (blamed) {
        faults[order_[*blamed]] = status.what();
        step = std::max(kSmallest, *blamed - from + 1);
        continue;
      }
      if (!status.ok()) return status;
      for (std::size_t n = from; n < to; ++n) {
        std::size_t const i = order_[n];
        faults[i].empty() ? outcomes.stored(i) : outcomes.rejected(i, std::move(faults[i]));
      }
      from = to;
      step *= 2;
    }
    return {};
  }

  inflight::Status show(inflight::SinkRecord const& record, std::string& out) override {
    return writer_.show(record.record, out);
  }

 private:
  static constexpr std::size_t kSmallest = 32;

  // Those from `from` to `to`, in order_, that are not known to be at fault.
  inflight::Status store(std::span<inflight::SinkRecord const> batch, std::size_t from, std::size_t to,
                         std::vector<std::string>& faults, std::optional<std::size_t>& blamed) {
    if (inflight::Status status = writer_.begin(); !status.ok()) return status;
    if (order_.empty()) sort(batch);
    inflight::Status status;
    written_.clear();
    for (std::size_t n = from; n < to && status.ok(); ++n) {
      std::size_t const i = order_[n];
      if (!faults[i].empty()) continue;
      written_.push_back(n);
      status = writer_.packs() ? writer_.write(batch[i].kept) : writer_.write(batch[i].record);
      if (status.code() != inflight::Code::rejected) continue;
      faults[i] = status.what();
      status = {};
    }
    if (status.ok()) {
      status = writer_.commit();
      if (auto const call = writer_.blamed(); call && status.code() == inflight::Code::rejected)
        blamed = written_[*call];
    }
    if (!status.ok()) writer_.rollback();
    return status;
  }

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
  std::vector<std::size_t> order_;    // in which the batch is written
  std::vector<std::size_t> written_;  // by calls of writer_.write(): the place in order_
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
  cli.positional("DATABASE", options.url,
                 "sqlite:FILE or postgresql://[USER@]HOST[:PORT]/NAME (a password is in PGPASSWORD or ~/.pgpass)");
  cli.option("--table", options.table, "the table, or a template such as {type}: each record names its own");
  cli.option(
      "--column", options.columns,
      "name=PATH[:text|int|float|bool|time|json], may be repeated; without any: attributes and keys that match the "
      "table's columns");
  cli.option("--key", options.key,
             "columns that tell rows apart, e.g. subject,time; without it the table's primary key");
  cli.option("--on-conflict", options.on_conflict, "a row of this key is there: update, ignore, or newer:COLUMN");
  cli.flag("--create", options.create, "make the table and columns that are missing (a new file gets them unasked)");
  cli.flag("--round-time", options.round_time,
           "round a time that has more digits than its column holds, rather than reject its row");
  cli.choice("--nul", options.nul, {"reject", "remove"}, "what to do with \\u0000 in a text");
  sink_options.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  options.writer = io.receipts.source();
  auto writer = inflight::SqlWriter::make(options);
  if (!writer) return cli.wrong(writer.status().what());
  inflight::Progress const progress(cli.common());
  SqlSink sink(std::move(*writer));
  return inflight::run_sink(io, sink, sink_options);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

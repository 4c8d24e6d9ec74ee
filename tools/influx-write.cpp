// influx-write: store records as points of InfluxDB.  Manual: man/influx-write.1
#include <algorithm>
#include <cstring>

#include "common/influx_writer.h"
#include "common/metrics.h"
#include "common/sink_loop.h"
#include "common/tool_main.h"

namespace {

class InfluxSink final : public inflight::Sink {
 public:
  // `writer` may be missing where nothing is written.
  InfluxSink(std::unique_ptr<inflight::InfluxLine> line, std::unique_ptr<inflight::InfluxWriter> writer)
      : line_(std::move(line)), writer_(std::move(writer)) {}

  inflight::Status connect() override { return writer_->connect(); }

  // A point and its line; of a record that no field fits, no point and the reason.
  bool keeps() const override { return true; }
  inflight::Status keep(inflight::Record const& record, std::string& kept) override {
    inflight::InfluxPoint point;
    bool blank = false;
    kept.assign(sizeof point, '\0');
    inflight::Status status = line_->write(record, kept, point, blank);
    if (!status.ok() && !blank) return status;
    std::memcpy(kept.data(), &point, sizeof point);
    if (blank) kept.replace(0, std::string::npos, std::string(sizeof point, '\0') + status.what());
    return {};
  }

  inflight::Status deliver(std::span<inflight::SinkRecord const> batch, inflight::Outcomes& outcomes) override {
    rows_.clear();
    indexes_.clear();
    std::string_view blank;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      inflight::InfluxRow row{batch[i].kept.substr(sizeof row.point), {}, {}, {}};
      std::memcpy(&row.point, batch[i].kept.data(), sizeof row.point);
      if (row.point.series == 0) {
        blank = row.line;
        continue;
      }
      indexes_.push_back(i);
      rows_.push_back(std::move(row));
    }
    if (rows_.empty() && batch.size() >= kMany && !writer_->accepted())
      return inflight::Status::usage("none of the first records is a point: " + std::string(blank));
    for (std::size_t i = 0, n = 0; i < batch.size(); ++i) {
      if (n < indexes_.size() && indexes_[n] == i) {
        ++n;
      } else {
        outcomes.rejected(i, std::string(batch[i].kept.substr(sizeof(inflight::InfluxPoint))));
      }
    }
    std::optional<inflight::Duration> wait;
    inflight::Status status = writer_->write(rows_, wait);
    if (wait) outcomes.retry_after(*wait);
    for (std::size_t n = 0; n < rows_.size(); ++n) {
      if (rows_[n].fate == inflight::InfluxRow::Fate::stored) outcomes.stored(indexes_[n]);
      if (rows_[n].fate == inflight::InfluxRow::Fate::rejected)
        outcomes.rejected(indexes_[n], std::move(rows_[n].reason));
    }
    return status;
  }

  inflight::Status show(inflight::SinkRecord const& record, std::string& out) override {
    inflight::InfluxPoint point;
    bool blank = false;
    return line_->write(record.record, out, point, blank);
  }

 private:
  static constexpr std::size_t kMany = 10;  // fewer may be bad by chance

  std::unique_ptr<inflight::InfluxLine> line_;
  std::unique_ptr<inflight::InfluxWriter> writer_;
  std::vector<inflight::InfluxRow> rows_;  // of the batch at hand
  std::vector<std::size_t> indexes_;       // of rows in it
};

struct Options {
  std::string url, precision = "ns", compress = "auto";
  inflight::InfluxLineOptions line;
  inflight::InfluxCredentials credentials;
  inflight::Duration timeout = std::chrono::seconds(30);
  bool print = false;
  inflight::SinkOptions sink;
};

inflight::Result<std::unique_ptr<InfluxSink>> make_sink(Options& options) {
  using enum inflight::InfluxPrecision;
  options.line.precision = options.precision == "s"    ? s
                           : options.precision == "ms" ? ms
                           : options.precision == "us" ? us
                                                       : ns;
  if (options.url.empty() && !options.print)
    return inflight::Status::usage("no URL: http://HOST:PORT?db=NAME (or --print)");
  std::optional<inflight::InfluxTarget> target;
  if (!options.url.empty()) {
    auto parsed = inflight::InfluxTarget::parse(options.url, options.line.precision);
    if (!parsed) return parsed.status();
    target = std::move(*parsed);
    options.line.unsigned_integers = target->version != 1;
  }
  auto line = inflight::InfluxLine::make(options.line);
  if (!line) return line.status();
  std::unique_ptr<inflight::InfluxWriter> writer;
  if (!options.print) {
    auto headers = options.credentials.headers(*target);
    if (!headers) return headers.status();
    inflight::HttpOptions http;
    http.max_in_flight = 1;
    http.timeout = options.timeout;
    http.connect_timeout = std::min<inflight::Duration>(options.timeout, std::chrono::seconds(10));
    bool const compress = options.compress == "gzip" || (options.compress == "auto" && !target->local);
    auto made = inflight::InfluxWriter::make(*target, std::move(*headers), compress, http);
    if (!made) return made.status();
    writer = std::move(*made);
  }
  return std::make_unique<InfluxSink>(std::move(*line), std::move(writer));
}

inflight::Exit run(inflight::Cli& cli, inflight::Io& io) {
  Options options;
  options.sink.on_delete = "reject";
  cli.purpose("Store records as points of InfluxDB; a point that is there already is written over.",
              {"bsu-fetch --devices fleet.txt --once | xml2json --options bsu.opts | influx-write --print",
               "consume fleet/ --as data -- 'xml2json --options bsu.opts | influx-write http://influx:8086?db=bsu'"});
  cli.positional_optional("URL", options.url,
                          "http://HOST:PORT?db=NAME, ?org=NAME&bucket=NAME, or /api/v3/write_lp?db=NAME");
  cli.option("--measurement", options.line.measurement,
             "a name, or where it stands: /kind in the data, {type} of the event");
  cli.option("--tag", options.line.tags, "name=PATH, may be repeated; subject is one unless a tag is made of it");
  cli.option("--field", options.line.fields,
             "name=PATH[:float|int|uint|string|bool], may be repeated; without any: the scalars of the data");
  cli.option("--timestamp", options.line.timestamp, "PATH[:rfc3339|unix|unixms|unixus|unixns] of a point's time");
  cli.choice("--precision", options.precision, {"ns", "us", "ms", "s"}, "of the times that are sent");
  cli.flag("--round-time", options.line.round_time, "cut times that are finer than --precision");
  cli.flag("--no-subject", options.line.no_subject, "no tag of the subject");
  cli.flag("--print", options.print, "write line protocol to standard output, nothing to InfluxDB");
  cli.option("--user", options.credentials.user, "user name (default: INFLUX_USERNAME)");
  cli.option("--password-file", options.credentials.password_file, "file with the password (default: INFLUX_PASSWORD)");
  cli.option("--token-file", options.credentials.token_file, "file with the token (default: INFLUX_TOKEN)");
  cli.choice("--compress", options.compress, {"auto", "gzip", "none"}, "requests; auto: to other machines");
  cli.option("--timeout", options.timeout, "a request takes no longer");
  options.sink.add_to(cli, false);
  cli.choice("--on-delete", options.sink.on_delete, {"reject", "ignore"}, "what to do with a deletion");
  if (auto stop = cli.parse()) return *stop;
  if (options.timeout <= inflight::Duration::zero()) return cli.wrong("--timeout: more than 0s");
  options.print = options.sink.dry_run = options.print || options.sink.dry_run;
  auto sink = make_sink(options);
  if (!sink) return cli.wrong(sink.status().what());
  inflight::Progress const progress(cli.common());
  return inflight::run_sink(io, **sink, options.sink);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

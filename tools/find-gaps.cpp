// find-gaps: tell the ranges in which records are missing.  Manual: man/find-gaps.1
#include <fmt/format.h>

#include <algorithm>

#include "common/dead_letter.h"
#include "common/fleet.h"
#include "common/gap_search.h"
#include "common/json_text.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/record_input.h"
#include "common/stop.h"
#include "common/tool_main.h"

namespace {

using namespace inflight;

constexpr std::uint64_t kLeastMemory = 1 << 20;

struct Options {
  GapSearchOptions search;
  std::string every, tolerance_text, subjects, subject = "subject", time = "time", format = "rfc3339", dead_letters;
  std::uint64_t max_record = kMaxRecord;
  bool check = false;
};

// What is wrong with them, if anything.
Status take_options(Options& o) {
  GapRule& rule = o.search.rule;
  auto every = parse_duration(o.every);
  if (!every) return every.status().at("--every");
  if (*every < GapRule::kLeastEvery) return Status::usage("--every: at least 1us");
  rule.every = *every;
  rule.tolerance = *every / 2;
  if (!o.tolerance_text.empty()) {
    auto tolerance = parse_duration(o.tolerance_text);
    if (!tolerance) return tolerance.status().at("--tolerance");
    rule.tolerance = *tolerance;
  }
  if (rule.from && rule.to && *rule.from > *rule.to)
    return Status::usage(
        fmt::format("--from {} is after --to {}", format_rfc3339(*rule.from), format_rfc3339(*rule.to)));
  if (!o.subjects.empty() && !(rule.from && rule.to))
    return Status::usage("--subjects needs --from and --to: where is a unit missing that was never there?");
  if (o.subjects == "-") return Status::usage("--subjects: standard input is for records");
  for (std::string const* path : {&o.subject, &o.time}) {
    auto parsed = Path::parse(*path);
    if (!parsed) return parsed.status();
    o.search.paths.push_back(std::move(*parsed));
  }
  auto format = TimeFormat::parse(o.format);
  if (!format) return format.status().at("--time-format");
  o.search.format = std::move(*format);
  if (o.search.memory < kLeastMemory) return Status::usage("--memory: at least 1MiB");
  return o.search.sorted ? Status{} : check_temporary_folder(o.search.temporary).at("--tmp");
}

class FindGaps {
 public:
  FindGaps(Io& io, Options const& options)
      : io_(io),
        options_(options),
        search_(options.search, [this](std::string const& subject, Gap const& gap) { return tell(subject, gap); }),
        rejects_(options.dead_letters) {}

  Exit run() {
    Status status = find();
    if (Status finished = rejects_.finish(); status.ok()) status = finished;
    if (Status flushed = io_.out.flush(); status.ok()) status = flushed;
    if (status.code() == Code::stopped) return stop_signal() == 2 ? Exit::interrupted : Exit::terminated;
    if (!status.ok() && status.code() != Code::closed) {
      say_error(status.what());
      return status.exit();
    }
    if (search_.strangers() > 0)
      say_warning(fmt::format("{}: {} records are of units that are not in it, such as {}", options_.subjects,
                              search_.strangers(), search_.stranger()));
    bool const nothing = options_.check && search_.records() == 0 && options_.subjects.empty();
    if (nothing) say_error("no records, so nothing is known");
    if (options_.check && gaps_ > 0) say_error(summary());
    return rejects_.count() > 0 || nothing || (options_.check && gaps_ > 0) ? Exit::rejected : Exit::ok;
  }

 private:
  Status find() {
    if (!options_.subjects.empty()) {
      auto subjects = read_unit_names(options_.subjects);
      if (!subjects) return subjects.status();
      search_.expect(std::move(*subjects));
    }
    expect_bytes_of(io_.in);
    Reader reader(io_.in, "standard input", options_.max_record);
    reader.on_idle([this] { return io_.out.flush(); });
    Line line;
    Status status = read_records(
        reader, line, options_.max_record, [this](Record const& record) { return search_.add(record); },
        [&](Status const& wrong) { return rejects_.reject(line.number, line.text, wrong.what()); });
    if (status.code() == Code::usage) status = status.at(fmt::format("line {}", line.number));
    return status.ok() ? search_.finish() : status;
  }

  Status tell(std::string const& subject, Gap const& gap) {
    ++gaps_;
    missing_ += gap.missing;
    if (!longest_ || gap.missing > longest_->missing) longest_ = gap, longest_of_ = subject;
    if (options_.check) return {};
    return io_.out.line(fmt::format(R"({{"subject":{},"from":"{}","to":"{}","missing":{}}})", json_string(subject),
                                    format_rfc3339(gap.from), format_rfc3339(gap.to), gap.missing));
  }

  [[nodiscard]] std::string summary() const {
    return fmt::format("{} missing in {} gap{}; most in one: {} of {} from {} to {}", missing_, gaps_,
                       gaps_ == 1 ? "" : "s", longest_->missing, longest_of_, format_rfc3339(longest_->from),
                       format_rfc3339(longest_->to));
  }

  Io& io_;
  Options const& options_;
  GapSearch search_;
  RejectFile rejects_;
  std::uint64_t gaps_ = 0, missing_ = 0;
  std::optional<Gap> longest_;
  std::string longest_of_;
};

Exit run(Cli& cli, Io& io) {
  Options options;
  GapSearchOptions& search = options.search;
  cli.purpose("Tell the ranges in which records are missing.",
              {"sql-read postgresql://new/fleet --table reading --columns subject,time | \\\n"
               "      find-gaps --every 10s --subjects fleet.txt --from yesterday --to today",
               "find-gaps --every 1m --sorted < series.ndjson"});
  cli.required("--every", options.every, "how far apart readings are, e.g. 10s");
  cli.option("--tolerance", options.tolerance_text, "how much longer may pass without one; by default half of --every");
  cli.option("--from", search.rule.from, "tell gaps from then on, also before a subject's first record");
  cli.option("--to", search.rule.to, "tell gaps before then, also behind a subject's last record");
  cli.option("--subjects", options.subjects, "file of the units that should be there: ids, id URL lines or NDJSON");
  cli.flag("--sorted", search.sorted, "the times of each subject ascend: tell gaps at once, in constant memory");
  cli.flag("--check", options.check, "write no ranges: silent, or one line and exit 1");
  cli.option("--subject", options.subject, "path of a record's subject");
  cli.option("--time", options.time, "path of its time");
  cli.option("--time-format", options.format, "rfc3339, unix, unixms, unixus, unixns, or a pattern of strptime(3)");
  cli.size("--memory", search.memory, "beyond this, sort on disk");
  cli.option("--tmp", search.temporary, "folder for temporary files (default: TMPDIR, or /var/tmp)");
  cli.size("--max-record", options.max_record, "reject records above this size");
  cli.option("--dead-letters", options.dead_letters, "file for rejected records");
  if (auto stop = cli.parse()) return *stop;
  if (Status status = take_options(options); !status.ok()) return cli.wrong(status.what());
  if (io.receipts.active())
    return cli.wrong("no stage of a pipeline that keeps records: read a plain pipe, or --ack exit");
  GapRule const& rule = search.rule;
  if (rule.from && rule.to && *rule.from == *rule.to) {
    say_info(fmt::format("the window is empty: {} to {}", format_rfc3339(*rule.from), format_rfc3339(*rule.to)));
    return Exit::ok;
  }
  Progress const progress(cli.common());
  return FindGaps(io, options).run();
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

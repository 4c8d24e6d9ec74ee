// reshape: a jq program over the data of each record.  Manual: man/reshape.1
#include <fmt/format.h>

#include <mutex>

#include "common/filter_loop.h"
#include "common/jq_program.h"
#include "common/metrics.h"
#include "common/tool_main.h"

namespace {

using inflight::Edit;
using inflight::Exit;
using inflight::JqProgram;
using inflight::JqValue;
using inflight::Record;
using inflight::Status;
using inflight::Value;

constexpr std::size_t kMostOutput = 256 << 20;  // of one record

struct Options {
  inflight::JqSource source;
  bool envelope = false;
  std::uint64_t max_memory = 1 << 30;
  inflight::FilterOptions filter;
};

class Reshape final : public inflight::Filter {
 public:
  // `under_source`: a `delivery` that the program writes is none.
  Reshape(JqProgram program, bool envelope, bool under_source)
      : program_(std::move(program)), envelope_(envelope), under_source_(under_source) {}

  Status apply(Record const& in, inflight::Output& out) override {
    in_event_ = in.is_event();
    whole_ = envelope_ || !in_event_;
    Value const data = whole_ ? Value{in.line(), Value::Kind::object} : in.attribute("data");
    if (!data) {
      return Status::rejected(in.attribute("data_base64") ? "data is no JSON but base64"
                              : in.attribute("dataref")   ? "no data: hydrate fetches what dataref names"
                                                          : "no data");
    }
    if (Status status = record_.read(data.raw); !status.ok()) return status.at(whole_ ? "the record" : "data");
    about_ = fmt::format("id {}", in.attribute("id").raw);
    text_.clear();
    outputs_.clear();
    Status status = program_.run(record_.input(), about_, [&](JqValue value) { return take(value); });
    record_.forget();
    if (status.ok()) status = put(in, out);
    inflight::forget_long(text_);
    inflight::forget_long(made_);
    return status;
  }

 private:
  struct Made {
    std::size_t end = 0;  // in text_
    bool untouched = false;
  };

  // Keeps what the program puts out: whether an event becomes several shows in the end.
  Status take(JqValue& value) {
    bool const untouched = record_.is_input(value);  // then an event keeps its bytes
    if (whole_ && jv_get_kind(value.get()) != JV_KIND_OBJECT) {
      return Status::rejected(
          fmt::format("the program makes {} of it: a record is an object", jv_kind_name(jv_get_kind(value.get()))));
    }
    if (whole_ && under_source_) value = JqValue(jv_object_delete(value.release(), jv_string("delivery")));
    if (untouched && in_event_) return outputs_.push_back({text_.size(), true}), Status{};
    if (Status status = record_.write(value, text_); !status.ok()) return status;
    outputs_.push_back({text_.size(), untouched});
    if (text_.size() > kMostOutput) return Status::rejected("the program makes more than 256 MiB of it");
    return {};
  }

  Status put(Record const& in, inflight::Output& out) {
    Value const id = in.attribute("id");
    bool const several = outputs_.size() > 1 && in_event_;
    if (several && id.kind != Value::Kind::string) return Status::rejected("several records of one need an event's id");
    std::size_t begin = 0;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      std::string_view const text = std::string_view(text_).substr(begin, outputs_[i].end - begin);
      begin = outputs_[i].end;
      edits_.clear();
      if (several) {
        id_ = fmt::format("{}/{}\"", id.raw.substr(0, id.raw.size() - 1), i + 1);
        edits_.push_back({"id", id_});
      }
      if (!whole_) {
        if (!outputs_[i].untouched) add_data(in, text);
        out.record(in, edits_);
      } else if (several) {
        made_ = outputs_[i].untouched ? in.line() : text;
        if (Status status = parser_.parse_padded(made_, piece_); !status.ok()) return status;
        if (piece_.attribute("id").raw != id.raw) edits_.clear();  // it has one of its own
        out.record(piece_, edits_);
      } else if (outputs_[i].untouched && in_event_) {
        out.record(in, {});
      } else {
        out.begin() += text;
      }
    }
    return {};
  }

  void add_data(Record const& in, std::string_view text) {
    std::string_view const type = in.text("datacontenttype", scratch_);
    if (!type.empty() && type != "application/json" && type.find("+json") == std::string_view::npos) {
      edits_.push_back({"datacontenttype", "\"application/json\""});
    }
    edits_.push_back({"data", text});
  }

  JqProgram program_;
  bool envelope_, under_source_;
  bool in_event_ = false;
  bool whole_ = false;  // the program sees all of the record
  inflight::JqRecord record_;
  std::vector<Made> outputs_;
  std::string text_, about_, id_, made_, scratch_;
  std::vector<Edit> edits_;
  inflight::RecordParser parser_;
  Record piece_;
};

Exit run(inflight::Cli& cli, inflight::Io& io) {
  Options options;
  cli.purpose("Run a jq program over the data of each record.",
              {"consume fleet/ --as power -- 'xml2json | reshape -f power.jq | sql-write sqlite:power.db'",
               "reshape 'select(.power > 40) | {unit, power}' < readings.ndjson"});
  cli.positional_optional("PROGRAM", options.source.program, "in jq's language");
  cli.option("-f,--from-file", options.source.file, "read the program from this file");
  cli.pairs("--arg", options.source.strings, "NAME VALUE", "$NAME is this text (may be repeated)");
  cli.pairs("--argjson", options.source.values, "NAME JSON", "$NAME is this JSON value (may be repeated)");
  cli.pairs("--slurpfile", options.source.files, "NAME FILE",
            "$NAME is an array of the values in FILE (may be repeated)");
  cli.flag("--envelope", options.envelope, "the program sees the whole event, and writes whole records");
  cli.size("--max-memory", options.max_memory, "that the program may take");
  options.filter.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  if (options.source.program.empty() == options.source.file.empty())
    return cli.wrong("one program is needed: as an argument, or in the file of -f");
  if (options.filter.jobs == 0) options.filter.jobs = 1;
  std::vector<JqProgram> programs;  // one for each thread
  for (std::uint64_t i = 0; i < options.filter.jobs; ++i) {
    auto program = JqProgram::compile(options.source);
    if (!program) return cli.wrong(program.status().what());
    programs.push_back(std::move(*program));
  }
  inflight::bound_jq_memory(options.max_memory, io.receipts);
  inflight::Progress const progress(cli.common());
  std::mutex mutex;
  auto make = [&] {
    std::lock_guard const lock(mutex);
    auto filter = std::make_unique<Reshape>(std::move(programs.back()), options.envelope, io.receipts.active());
    programs.pop_back();
    return filter;
  };
  return inflight::run_filter(io, make, options.filter);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

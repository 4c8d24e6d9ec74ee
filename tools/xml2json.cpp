// xml2json: turn the XML that events carry, or XML files, into JSON.  Manual: man/xml2json.1
#include <fcntl.h>
#include <fmt/format.h>

#include <csignal>
#include <tuple>

#include "common/filter_loop.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/path.h"
#include "common/reader.h"
#include "common/stop.h"
#include "common/tool_main.h"
#include "common/xml_json.h"
#include "common/xml_decoder.h"

namespace {

using inflight::Edit;
using inflight::Exit;
using inflight::Record;
using inflight::Status;
using inflight::Value;

struct Options {
  inflight::XmlJson::Options xml;
  std::string time, subject, time_format = "rfc3339";
  bool raw = false;
  std::vector<std::string> files;
  inflight::FilterOptions filter;
};

// What --time and --subject take from a record, as JSON strings; empty without the option.
class Attributes {
 public:
  static inflight::Result<Attributes> make(Options const& options) {
    Attributes result;
    auto format = inflight::TimeFormat::parse(options.time_format);
    if (!format) return format.status().at("--time-format");
    result.format_ = *format;
    for (auto const& [text, path, name] :
         {std::tuple{&options.time, &result.time_, "--time"}, {&options.subject, &result.subject_, "--subject"}}) {
      if (text->empty()) continue;
      auto parsed = inflight::Path::parse(*text);
      if (!parsed) return parsed.status().at(name);
      if (!parsed->in_data())
        return Status::usage(
            fmt::format("{} '{}': give a JSON Pointer into the converted data, /bsu/@id", name, *text));
      *path = *parsed;
    }
    return result;
  }

  Status read(inflight::XmlJson const& xml) {
    if (subject_ && !xml.find(*subject_, subject))
      return Status::rejected(fmt::format("--subject {} names nothing here", subject_->text()));
    if (!time_) return {};
    if (!xml.find(*time_, time)) return Status::rejected(fmt::format("--time {} names nothing here", time_->text()));
    std::string_view const text = inflight::unquote(time, scratch_);
    auto const at = format_.read(text);
    if (!at)
      return Status::rejected(fmt::format("--time {}: '{:.60}' is not of the --time-format", time_->text(), text));
    time = inflight::json_string(inflight::format_rfc3339(*at));
    return {};
  }

  std::string time, subject;

 private:
  std::optional<inflight::Path> time_, subject_;
  inflight::TimeFormat format_;
  std::string scratch_;
};

class Xml2Json final : public inflight::Filter {
 public:
  Xml2Json(inflight::XmlJson xml, Attributes attributes, bool each)
      : xml_(std::move(xml)), attributes_(std::move(attributes)), each_(each) {}

  Status apply(Record const& in, inflight::Output& out) override {
    if (!in.is_event()) return Status::rejected("a bare record has no XML in it (for XML itself: --raw)");
    Value const data = in.attribute("data");
    Value const base64 = data ? Value{} : in.attribute("data_base64");
    if (data.kind == Value::Kind::string) {
      xml_.text().clear();
      if (!inflight::append_unquoted(xml_.text(), data.raw))
        return Status::rejected("data is not JSON: an escape that is none");
    } else if (base64) {
      if (Status status = decode(base64); !status.ok()) return status;
    } else if (data && in.text("datacontenttype", scratch_) == "application/json") {
      return out.record(in, {}), Status{};  // what sources say besides: that a unit cannot be reached
    } else {
      return Status::rejected(data                      ? "data is no text"
                              : in.attribute("dataref") ? "no data: hydrate fetches what dataref names"
                                                        : "no data");
    }
    std::uint64_t count = 0;
    return xml_.convert([&] {
      json_.clear();
      if (Status status = xml_.write(json_); !status.ok()) return status;
      if (Status status = attributes_.read(xml_); !status.ok()) return status;
      edits_.assign({{"datacontenttype", "\"application/json\""}});
      if (base64) edits_.push_back({"data_base64", std::nullopt});
      if (!attributes_.time.empty()) edits_.push_back({"time", attributes_.time});
      if (!attributes_.subject.empty()) edits_.push_back({"subject", attributes_.subject});
      if (each_) {
        Value const id = in.attribute("id");
        if (id.kind != Value::Kind::string) return Status::rejected("--each needs an event's id");
        id_ = fmt::format("{}/{}\"", id.raw.substr(0, id.raw.size() - 1), ++count);
        edits_.push_back({"id", id_});
      }
      edits_.push_back({"data", json_});
      out.record(in, edits_);
      return Status{};
    });
  }

 private:
  Status decode(Value const& base64) {
    bytes_.clear();
    xml_.text().clear();
    if (base64.kind != Value::Kind::string ||
        !inflight::append_from_base64(bytes_, inflight::unquote(base64.raw, scratch_))) {
      return Status::rejected("data_base64 is no base64");
    }
    return inflight::XmlDecoder().decode(bytes_, true, xml_.text());
  }

  inflight::XmlJson xml_;
  Attributes attributes_;
  bool each_;
  std::string json_, id_, bytes_, scratch_;
  std::vector<Edit> edits_;
};

// One XML document from a descriptor to bare records. A record that is rejected is said, and the next one follows.
Status convert_file(inflight::Io& io, int fd, std::string const& name, inflight::XmlJson& xml, Attributes& attributes,
                    std::uint64_t max_record, std::uint64_t& rejected) {
  inflight::XmlDecoder decoder;
  std::string bytes, json;
  auto fill = [&](std::string& text) -> inflight::Result<bool> {
    auto more = inflight::read_some(fd, name, bytes, [&] { return io.out.flush(); });
    if (!more) return more.status();
    if (Status status = decoder.decode(bytes, !*more, text); !status.ok()) return status;
    inflight::counters().bytes += bytes.size();
    return more;
  };
  auto take = [&] {
    json.clear();
    ++inflight::counters().records;
    Status status = xml.write(json);
    if (status.ok()) status = attributes.read(xml);
    if (status.ok() && json.size() > max_record)
      status = Status::rejected(fmt::format("a record of {} bytes is over --max-record", json.size()));
    if (status.code() == inflight::Code::rejected) {
      ++rejected;
      inflight::say_error(fmt::format("{}: the record at line {}: {}", name, xml.line(), status.what()));
      return Status{};
    }
    for (auto const& [key, value] :
         {std::pair{",\"time\":", &attributes.time}, {",\"subject\":", &attributes.subject}}) {
      if (value->empty()) continue;
      json.pop_back();
      json.append(key).append(*value) += '}';
    }
    return status.ok() ? io.out.line(json) : status;
  };
  return xml.convert(fill, max_record, take);
}

Exit run_raw(inflight::Io& io, Options const& options, inflight::XmlJson xml, Attributes attributes) {
  std::uint64_t rejected = 0;
  for (std::string const& file : options.files.empty() ? std::vector<std::string>{"-"} : options.files) {
    inflight::Fd opened(file == "-" ? -1 : ::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    std::string const name = file == "-" ? "standard input" : file;
    Status status;
    if (file != "-" && !opened) {
      status = Status::from_errno(name, errno);
    } else {
      status = convert_file(io, file == "-" ? io.in : opened.get(), name, xml, attributes, options.filter.max_record,
                            rejected);
    }
    if (status.ok()) continue;
    if (status.code() == inflight::Code::closed) break;
    if (status.code() == inflight::Code::stopped)
      return inflight::stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
    if (status.code() == inflight::Code::stopped) return status.exit();
    inflight::say_error(status.code() == inflight::Code::rejected ? status.at(name).what() : status.what());
    if (status.code() != inflight::Code::rejected) return status.exit();
    ++rejected;
  }
  return rejected > 0 ? Exit::rejected : Exit::ok;
}

Exit run(inflight::Cli& cli, inflight::Io& io) {
  Options options;
  cli.purpose("Turn the XML that events carry into JSON, or XML files into records.",
              {"consume fleet/ --as data -- 'xml2json --time /bsu/@time --infer | sql-write sqlite:fleet.db'",
               "xml2json --each /fleet/bsu --strip-ns fleet-2018.xml | jq .bsu.power"});
  cli.positional_list("FILE", options.files, "XML files (- is standard input), read as --raw does");
  cli.flag("--raw", options.raw, "standard input is one XML document; write bare records");
  cli.option("--each", options.xml.each, "make a record of each element of this path, /fleet/bsu");
  cli.option("--time", options.time, "take the event's time from here in the converted data, /bsu/@time");
  cli.option("--time-format", options.time_format,
             "how it is written: rfc3339, unix, unixms, unixus, unixns or a strptime pattern");
  cli.option("--subject", options.subject, "take the event's subject from here in the converted data, /bsu/@id");
  cli.flag("--strip-ns", options.xml.strip_ns, "leave out namespace prefixes and declarations");
  cli.flag("--infer", options.xml.infer, "numbers, true and false without quotes, digits as written");
  cli.option("--type", options.xml.types,
             "PATH=int, PATH=float or PATH=bool: what is there is of this type (may be repeated)");
  cli.option("--array", options.xml.arrays, "an array even where one element is there, /bsu/module (may be repeated)");
  options.filter.add_to(cli);
  if (auto stop = cli.parse()) return *stop;
  auto xml = inflight::XmlJson::make(options.xml);
  if (!xml) return cli.wrong(xml.status().what());
  auto attributes = Attributes::make(options);
  if (!attributes) return cli.wrong(attributes.status().what());
  inflight::Progress const progress(cli.common());
  if (options.raw || !options.files.empty()) {
    if (io.receipts.active())
      return cli.wrong("--raw and files make records that no source has sent: run them in a plain pipe");
    return run_raw(io, options, std::move(*xml), *attributes);
  }
  auto make = [&] {
    return std::make_unique<Xml2Json>(std::move(*inflight::XmlJson::make(options.xml)), *attributes,
                                      !options.xml.each.empty());
  };
  return inflight::run_filter(io, make, options.filter);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

// xml2json: turn the XML that events carry, or XML files, into JSON.  Manual: man/xml2json.1
#include <fmt/format.h>

#include "common/filter_loop.h"
#include "common/metrics.h"
#include "common/tool_main.h"
#include "common/xml_attributes.h"
#include "common/xml_decoder.h"
#include "common/xml_files.h"
#include "common/xml_json.h"

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

class Xml2Json final : public inflight::Filter {
 public:
  Xml2Json(inflight::XmlJson xml, inflight::XmlAttributes attributes, bool each)
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
      xml_.forget();
      edits_.assign({{"datacontenttype", "\"application/json\""}});
      if (base64) edits_.push_back({"data_base64", std::nullopt});
      if (!attributes_.time().empty()) edits_.push_back({"time", attributes_.time()});
      if (!attributes_.subject().empty()) edits_.push_back({"subject", attributes_.subject()});
      if (each_) {
        Value const id = in.attribute("id");
        if (id.kind != Value::Kind::string) return Status::rejected("--each needs an event's id");
        id_ = fmt::format("{}/{}\"", id.raw.substr(0, id.raw.size() - 1), ++count);
        edits_.push_back({"id", id_});
      }
      edits_.push_back({"data", json_});
      out.record(in, edits_);
      inflight::forget_long(json_);
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
  inflight::XmlAttributes attributes_;
  bool each_;
  std::string json_, id_, bytes_, scratch_;
  std::vector<Edit> edits_;
};

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
  auto attributes = inflight::XmlAttributes::make(options.time, options.time_format, options.subject);
  if (!attributes) return cli.wrong(attributes.status().what());
  inflight::Progress const progress(cli.common());
  if (options.raw || !options.files.empty()) {
    if (io.receipts.active())
      return cli.wrong("--raw and files make records that no source has sent: run them in a plain pipe");
    if (!options.filter.dead_letters.empty())
      return cli.wrong(
          "--dead-letters keeps events: what is rejected of --raw and files is told, and stays where it is");
    if (options.files.empty()) options.files = {"-"};
    return inflight::convert_xml_files(io, options.files, *xml, *attributes, options.filter.max_record);
  }
  auto make = [&] {
    return std::make_unique<Xml2Json>(std::move(*inflight::XmlJson::make(options.xml)), *attributes,
                                      !options.xml.each.empty());
  };
  return inflight::run_filter(io, make, options.filter);
}

}  // namespace

int main(int argc, char** argv) { return inflight::tool_main(argc, argv, run); }

#include "common/xml_files.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <csignal>
#include <utility>

#include "common/fd_io.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/reader.h"
#include "common/stop.h"
#include "common/xml_decoder.h"

namespace inflight {

namespace {

class Conversion {
 public:
  Conversion(Io& io, XmlJson& xml, XmlAttributes& attributes, std::uint64_t max_record)
      : io_(io), xml_(xml), attributes_(attributes), max_record_(max_record) {}

  Status file(std::string const& path) {
    if (path == "-") return document(io_.in, "standard input");
    Fd const fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    return fd ? document(fd.get(), path) : Status::from_errno(path, errno);
  }
  [[nodiscard]] bool rejected() const { return rejected_; }

 private:
  Status document(int fd, std::string const& name) {
    XmlDecoder decoder;
    auto fill = [&](std::string& text) -> Result<bool> {
      auto more = read_some(fd, name, bytes_, [&] { return io_.out.flush(); });
      if (!more) return more.status();
      if (Status status = decoder.decode(bytes_, !*more, text); !status.ok()) return status;
      counters().bytes += bytes_.size();
      return more;
    };
    auto take = [&] {
      ++counters().records;
      Status const status = record();
      if (status.code() != Code::rejected) return status;
      reject(fmt::format("{}: the record at line {}: {}", name, xml_.line(), status.what()));
      return Status{};
    };
    Status const status = xml_.convert(fill, max_record_, take);
    if (status.code() != Code::rejected) return status;
    reject(status.at(name).what());
    return {};
  }

  void reject(std::string const& what) {
    rejected_ = true;
    ++counters().rejected;
    say_error(what);
  }

  Status record() {
    json_.clear();
    if (Status status = xml_.write(json_); !status.ok()) return status;
    if (Status status = attributes_.read(xml_); !status.ok()) return status;
    for (auto const& [key, value] :
         {std::pair{",\"time\":", &attributes_.time()}, {",\"subject\":", &attributes_.subject()}}) {
      if (value->empty()) continue;
      json_.pop_back();
      json_.append(key).append(*value) += '}';
    }
    if (json_.size() > max_record_)
      return Status::rejected(fmt::format("a record of {} bytes is over --max-record", json_.size()));
    if (Status status = io_.out.line(json_); !status.ok()) return status;
    ++counters().settled;
    return {};
  }

  Io& io_;
  XmlJson& xml_;
  XmlAttributes& attributes_;
  std::uint64_t max_record_;
  std::string bytes_, json_;
  bool rejected_ = false;
};

}  // namespace

Exit convert_xml_files(Io& io, std::vector<std::string> const& files, XmlJson& xml, XmlAttributes& attributes,
                       std::uint64_t max_record) {
  Conversion conversion(io, xml, attributes, max_record);
  for (std::string const& file : files) {
    Status const status = conversion.file(file);
    if (status.ok()) continue;
    if (status.code() == Code::closed) break;
    if (status.code() == Code::stopped) return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
    say_error(status.what());
    return status.exit();
  }
  return conversion.rejected() ? Exit::rejected : Exit::ok;
}

}  // namespace inflight

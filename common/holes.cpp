#include "common/holes.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace inflight {
namespace {

using nlohmann::ordered_json;

// Calls use(first, end) for each whole line.
template <typename Use>
void each_hole(std::string const& text, Use use) {
  for (std::size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    ordered_json const hole = ordered_json::parse(text.substr(begin, end - begin), nullptr, false);
    if (!hole.is_object()) continue;  // torn by a crash: recorded again
    std::uint64_t const first = hole.value("first", std::uint64_t{0}), last = hole.value("end", std::uint64_t{0});
    if (last > first) use(first, last);
  }
}

}  // namespace

Ranges read_holes(std::string const& path) {
  Ranges lost;
  if (auto const text = read_file(path)) {
    each_hole(*text, [&](std::uint64_t first, std::uint64_t end) { lost.add(first, end - 1); });
  }
  return lost;
}

Result<bool> record_hole(Disk& disk, std::string const& path, std::uint64_t first, std::uint64_t end,
                         std::string const& why, Time now) {
  std::string text;
  if (exists(path)) {
    auto read = read_file(path);
    if (!read) return read.status();
    text = std::move(*read);
  }
  bool known = false;
  each_hole(text, [&](std::uint64_t a, std::uint64_t b) { known = known || (a == first && b == end); });
  if (known) return false;
  ordered_json const hole = {{"first", first}, {"end", end}, {"why", why}, {"recorded", format_rfc3339(now)}};
  std::string line;
  if (!text.empty() && text.back() != '\n') line += '\n';
  line += hole.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  line += '\n';
  auto fd = disk.open(path, O_WRONLY | O_CREAT);
  if (!fd) return fd.status();
  if (text.empty()) {
    if (Status status = disk.sync_folder(parent_folder(path)); !status.ok()) return status;
  }
  if (Status status = disk.write_at(fd->get(), line, text.size(), path); !status.ok()) return status;
  if (Status status = disk.sync(fd->get(), path); !status.ok()) return status;
  return true;
}

}  // namespace inflight

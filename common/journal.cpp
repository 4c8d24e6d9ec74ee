#include "common/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/journal_index.h"
#include "common/journal_tail.h"
#include "common/units.h"

namespace inflight {
namespace {

using journal::Index;
using journal::IndexRecord;
using Json = nlohmann::ordered_json;

std::string about_path(std::string const& folder) { return join(folder, "exchange.json"); }

Result<std::string> new_uuid() {
  unsigned char b[16];
  if (::getrandom(b, sizeof b, 0) != static_cast<ssize_t>(sizeof b)) return Status::from_errno("getrandom", errno);
  b[6] = static_cast<unsigned char>((b[6] & 0x0f) | 0x40);  // RFC 4122: version 4, variant 1
  b[8] = static_cast<unsigned char>((b[8] & 0x3f) | 0x80);
  std::string text;
  for (std::size_t i = 0; i < sizeof b; ++i)
    text += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", b[i]);
  return text;
}

Result<Json> read_about(std::string const& folder) {
  std::string const path = about_path(folder);
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0) return Status::from_errno(folder, errno);
  if (!exists(path)) return Status::usage(folder + ": is not an exchange");
  auto const text = read_file(path);
  if (!text) return text.status();
  Json about = Json::parse(*text, nullptr, false);
  if (about.is_discarded() || !about.is_object()) return Status::defect(path + ": is not a JSON object");
  if (!about.contains("inflight") || about["inflight"] != "journal")
    return Status::usage(folder + ": is not an exchange");
  if (!about.contains("version") || !about["version"].is_number_unsigned())
    return Status::defect(path + ": has no version");
  if (auto const version = about["version"].get<std::uint64_t>(); version > journal::kVersion) {
    return Status::usage(
        fmt::format("{}: format version {} is newer than this program's {}", folder, version, journal::kVersion));
  }
  return about;
}

template <typename T>
T member(Json const& about, char const* name, T otherwise) {
  auto const found = about.find(name);
  if constexpr (std::is_same_v<T, std::string>) {
    return found != about.end() && found->is_string() ? found->get<T>() : otherwise;
  } else {
    return found != about.end() && found->is_number_unsigned() ? found->get<T>() : otherwise;
  }
}

void put_settings(Json& about, JournalSettings const& settings) {
  about["keep"] = format_duration(settings.keep);
  about["max_disk"] = settings.max_disk;
  about["segment_bytes"] = settings.segment_bytes;
}

Result<journal::Uuid> uuid_of(JournalInfo const& info, std::string const& folder) {
  if (auto id = journal::parse_uuid(info.id)) return *id;
  return Status::defect(fmt::format("{}: '{}' is not a UUID", about_path(folder), info.id));
}

// A journal as it was listed at one moment.
struct Listed {
  journal::Uuid id{};
  std::vector<std::uint64_t> firsts;
};

Result<Listed> list(std::string const& folder) {
  auto const info = journal_info(folder);
  if (!info) return info.status();
  auto const id = uuid_of(*info, folder);
  if (!id) return id.status();
  auto firsts = journal::list_segments(folder);
  if (!firsts) return firsts.status();
  return Listed{*id, std::move(*firsts)};
}

Result<Index> open_index(std::string const& folder, std::uint64_t first, journal::Uuid const& id) {
  return Index::open(real_disk(), folder, first, id, O_RDONLY);
}

// Where segment `n` of the list ends: where its successor begins, or at its mark.
Result<std::uint64_t> end_of(Listed const& listed, std::size_t n, Index const& index) {
  if (n + 1 < listed.firsts.size()) return listed.firsts[n + 1];
  auto const mark = index.mark();
  if (!mark) return mark.status();
  if (mark->sequence == 0)
    return Status::defect(index.path() + ": both commit marks are unreadable; the next writer repairs it");
  return mark->end;
}

// When the last readable batch of a segment with a successor was committed; by the file's time where none is.
Result<Time> last_committed(std::string const& folder, std::uint64_t first, journal::Uuid const& id) {
  if (auto const index = open_index(folder, first, id)) {
    auto const capacity = index->capacity();
    if (!capacity) return capacity.status();
    for (std::uint64_t number = *capacity; number-- > 0;) {
      auto const record = index->read(number);
      if (!record) return record.status();
      if (*record) return (*record)->committed;
    }
  }
  struct stat info {};
  std::string const path = journal::index_path(folder, first);
  if (::stat(path.c_str(), &info) != 0) return Status::from_errno(path, errno);
  return Time{info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec};
}

}  // namespace

Result<JournalInfo> journal_info(std::string const& folder) {
  auto const about = read_about(folder);
  if (!about) return about.status();
  JournalInfo info;
  info.id = member(*about, "id", std::string{});
  if (auto const created = parse_rfc3339(member(*about, "created", std::string{}))) info.created = *created;
  auto const keep = parse_duration(member(*about, "keep", format_duration(info.settings.keep)));
  if (!keep) return keep.status().at(about_path(folder));
  info.settings.keep = *keep;
  info.settings.max_disk = member(*about, "max_disk", info.settings.max_disk);
  info.settings.segment_bytes = member(*about, "segment_bytes", info.settings.segment_bytes);
  if (auto const id = uuid_of(info, folder); !id) return id.status();
  return info;
}

Result<JournalInfo> journal_create(Disk& disk, std::string const& folder) {
  if (exists(about_path(folder))) return journal_info(folder);
  // Looked at before the lock is taken, so that not even a lock file is left in a folder that is something else.
  auto const names = list_folder(folder);
  if (!names) return names.status();
  for (std::string const& name : *names) {
    if (name != "append.lock" && !name.starts_with("exchange.json"))
      return Status::usage(folder + ": is not an exchange");
  }
  if (Status status = make_folders(disk, folder); !status.ok()) return status;
  auto const lock = journal::append_lock(folder);
  if (!lock) return lock.status();
  if (exists(about_path(folder))) return journal_info(folder);
  auto const id = new_uuid();
  if (!id) return id.status();
  Json about;
  about["inflight"] = "journal";
  about["version"] = journal::kVersion;
  about["id"] = *id;
  about["created"] = format_rfc3339(system_clock().now());
  put_settings(about, JournalSettings{});
  if (Status status = replace_file(disk, about_path(folder), about.dump() + "\n"); !status.ok()) return status;
  return journal_info(folder);
}

Status journal_set(Disk& disk, std::string const& folder, JournalSettings const& settings) {
  if (auto const info = journal_info(folder); !info) return info.status();
  auto const lock = journal::append_lock(folder);
  if (!lock) return lock.status();
  auto about = read_about(folder);
  if (!about) return about.status();
  put_settings(*about, settings);
  return replace_file(disk, about_path(folder), about->dump() + "\n");
}

Status journal_recover(Disk& disk, std::string const& folder) {
  auto const info = journal_info(folder);
  if (!info) return info.status();
  auto const id = uuid_of(*info, folder);
  if (!id) return id.status();
  auto const lock = journal::append_lock(folder);
  if (!lock) return lock.status();
  return journal::Tail(disk, folder, *id).catch_up();
}

Result<JournalSpan> journal_span(std::string const& folder) {
  auto const listed = list(folder);
  if (!listed) return listed.status();
  JournalSpan span;
  if (listed->firsts.empty()) return span;
  span.first = listed->firsts.front();
  for (std::uint64_t const first : listed->firsts) {
    for (std::string const& path : {journal::index_path(folder, first), journal::data_path(folder, first)}) {
      struct stat info {};
      if (::stat(path.c_str(), &info) == 0) span.bytes += static_cast<std::uint64_t>(info.st_size);
    }
  }
  auto const last = open_index(folder, listed->firsts.back(), listed->id);
  if (!last) return last.status();
  auto const end = end_of(*listed, listed->firsts.size() - 1, *last);
  if (!end) return end.status();
  span.end = *end;
  auto const oldest = open_index(folder, span.first, listed->id);
  if (!oldest) return span;
  auto const found = oldest->find(0, span.first);
  if (!found) return found.status();
  if (*found && (*found)->record.end() <= span.end) span.oldest = (*found)->record.committed;
  return span;
}

Result<std::uint64_t> journal_remove(Disk& disk, std::string const& folder, std::uint64_t position, Time until,
                                     std::uint64_t enough) {
  auto const lock = journal::append_lock(folder);
  if (!lock) return lock.status();
  auto const listed = list(folder);
  if (!listed) return listed.status();
  auto const& firsts = listed->firsts;
  std::uint64_t removed = 0;
  for (std::size_t n = 0; n + 1 < firsts.size() && firsts[n + 1] <= position; ++n, ++removed) {
    auto const committed = last_committed(folder, firsts[n], listed->id);
    if (!committed) return committed.status();
    if (*committed >= until) break;
    if (enough > 0) {
      auto const span = journal_span(folder);
      if (!span) return span.status();
      if (span->bytes <= enough) break;
    }
    // The index goes first and for good: data without it are known as a leftover, an index without its data is damage.
    Status status = disk.remove(journal::index_path(folder, firsts[n]));
    if (status.ok()) status = disk.sync_folder(folder);
    if (status.ok()) status = disk.remove(journal::data_path(folder, firsts[n]));
    if (!status.ok()) return status;
  }
  if (firsts.empty()) return removed;
  auto const data = journal::list_data(folder);
  if (!data) return data.status();
  for (std::uint64_t const first : *data) {
    if (first >= firsts[removed]) break;
    if (Status status = disk.remove(journal::data_path(folder, first)); !status.ok()) return status;
  }
  return removed;
}

Result<std::uint64_t> journal_position_at(std::string const& folder, Time time) {
  auto const listed = list(folder);
  if (!listed) return listed.status();
  std::uint64_t end = 0;
  for (std::size_t n = 0; n < listed->firsts.size(); ++n) {
    auto const index = open_index(folder, listed->firsts[n], listed->id);
    if (!index && n + 1 < listed->firsts.size()) continue;  // reading will tell
    if (!index) return index.status();
    auto const limit = end_of(*listed, n, *index);
    if (!limit) return limit.status();
    end = *limit;
    std::vector<std::optional<IndexRecord>> records;
    for (std::uint64_t at = 0;; at += records.size()) {
      if (Status status = index->read(at, 64, records); !status.ok()) return status;
      if (records.empty()) break;
      for (auto const& record : records) {
        if (record && record->end() <= end && record->committed >= time) return record->first;
      }
    }
  }
  return end;
}

Result<Fd> journal_watch(std::string const& folder) {
  Fd fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!fd) return Status::from_errno("inotify", errno);
  if (::inotify_add_watch(fd.get(), folder.c_str(), IN_MODIFY | IN_MOVED_TO | IN_ONLYDIR) < 0) {
    return Status::from_errno(folder, errno);
  }
  return fd;
}

}  // namespace inflight

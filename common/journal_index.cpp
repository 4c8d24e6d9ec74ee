#include "common/journal_index.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace inflight::journal {
namespace {

constexpr std::string_view kMagic = "inflight";
constexpr std::uint64_t kSlotsAt = 4096;
constexpr std::uint64_t kSlotDistance = 4096;
constexpr std::size_t kBlock = 64;
constexpr std::size_t kSummed = 56;
constexpr std::uint32_t kSealed = 1;
constexpr std::size_t kDigits = 20;

// Headers, marks and records are blocks of 64 bytes that end with their checksum.
class Block {
 public:
  Block() = default;
  explicit Block(char const* from) { std::memcpy(bytes_.data(), from, kBlock); }

  template <typename T>
  void put(std::size_t at, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) bytes_[at + i] = static_cast<unsigned char>(value >> (8 * i));
  }
  template <typename T>
  [[nodiscard]] T get(std::size_t at) const {
    T value = 0;
    for (std::size_t i = sizeof(T); i-- > 0;) value = static_cast<T>(value << 8 | bytes_[at + i]);
    return value;
  }
  void put(std::size_t at, void const* from, std::size_t size) { std::memcpy(bytes_.data() + at, from, size); }
  [[nodiscard]] bool holds(std::size_t at, void const* what, std::size_t size) const {
    return std::memcmp(bytes_.data() + at, what, size) == 0;
  }

  std::uint64_t sign(std::uint64_t seed) {
    std::uint64_t const sum = XXH3_64bits_withSeed(bytes_.data(), kSummed, seed);
    put(kSummed, sum);
    return sum;
  }
  [[nodiscard]] bool fits(std::uint64_t seed) const {
    return XXH3_64bits_withSeed(bytes_.data(), kSummed, seed) == get<std::uint64_t>(kSummed);
  }
  [[nodiscard]] std::string_view view() const { return {reinterpret_cast<char const*>(bytes_.data()), kBlock}; }

 private:
  std::array<unsigned char, kBlock> bytes_{};
};

Block header_block(Uuid const& id, std::uint64_t first) {
  Block block;
  block.put(0, kMagic.data(), kMagic.size());
  block.put(8, kVersion);
  block.put(16, id.data(), id.size());
  block.put(32, first);
  return block;
}

Block mark_block(Mark const& mark, std::uint64_t seed) {
  Block block;
  block.put(0, mark.sequence);
  block.put(8, mark.count);
  block.put(16, mark.end);
  block.put(24, mark.length);
  block.put(32, mark.sealed ? kSealed : 0U);
  block.sign(seed);
  return block;
}

std::uint64_t slot_of(std::uint64_t sequence) { return kSlotsAt + (sequence & 1) * kSlotDistance; }

std::optional<IndexRecord> decode(char const* bytes, std::uint64_t seed) {
  Block const block(bytes);
  if (!block.fits(seed)) return std::nullopt;
  IndexRecord record;
  record.first = block.get<std::uint64_t>(0);
  record.count = block.get<std::uint64_t>(8);
  record.offset = block.get<std::uint64_t>(16);
  record.length = block.get<std::uint64_t>(24);
  record.checksum = block.get<std::uint64_t>(32);
  record.committed.ns = static_cast<std::int64_t>(block.get<std::uint64_t>(40));
  return record;
}

Result<std::vector<std::uint64_t>> list_ending(std::string const& folder, std::string_view ending) {
  auto names = list_folder(folder);
  if (!names) return names.status();
  std::vector<std::uint64_t> firsts;
  for (std::string const& name : *names) {
    if (name.size() != kDigits + ending.size() || name.compare(kDigits, ending.size(), ending) != 0) continue;
    std::uint64_t first = 0;
    auto const [end, error] = std::from_chars(name.data(), name.data() + kDigits, first);
    if (error == std::errc{} && end == name.data() + kDigits) firsts.push_back(first);
  }
  return firsts;
}

}  // namespace

std::optional<Uuid> parse_uuid(std::string_view text) {
  Uuid id{};
  std::size_t nibbles = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '-') continue;
    unsigned value = 0;
    auto const [end, error] = std::from_chars(text.data() + i, text.data() + i + 1, value, 16);
    if (error != std::errc{} || nibbles == 32) return std::nullopt;
    id[nibbles / 2] = static_cast<unsigned char>(static_cast<unsigned>(id[nibbles / 2]) << 4 | value);
    ++nibbles;
  }
  if (nibbles != 32) return std::nullopt;
  return id;
}

std::string data_path(std::string const& folder, std::uint64_t first) {
  return join(folder, fmt::format("{:020}.ndjson", first));
}

std::string index_path(std::string const& folder, std::uint64_t first) {
  return join(folder, fmt::format("{:020}.index", first));
}

Result<std::vector<std::uint64_t>> list_segments(std::string const& folder) { return list_ending(folder, ".index"); }
Result<std::vector<std::uint64_t>> list_data(std::string const& folder) { return list_ending(folder, ".ndjson"); }

Result<Fd> append_lock(std::string const& folder) {
  return lock_file(join(folder, "append.lock"), Lock::exclusive, true);
}

std::uint64_t checksum(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string Index::fresh(Uuid const& id, std::uint64_t first) {
  Block header = header_block(id, first);
  std::uint64_t const seed = header.sign(0);
  Mark mark;
  mark.sequence = 1;
  mark.end = first;
  std::string bytes(kRecordsAt, '\0');
  bytes.replace(0, kBlock, header.view());
  bytes.replace(slot_of(mark.sequence), kBlock, mark_block(mark, seed).view());
  return bytes;
}

Result<Index> Index::open(Disk& disk, std::string const& folder, std::uint64_t first, Uuid const& id, int flags) {
  Index index;
  index.path_ = index_path(folder, first);
  index.first_ = first;
  auto fd = disk.open(index.path_, flags);
  if (!fd) return fd.status();
  index.fd_ = std::move(*fd);
  char bytes[kBlock] = {};
  auto const got = read_at(index.fd(), bytes, kBlock, 0, index.path_);
  if (!got) return got.status();
  Block const found(bytes);
  Block wanted = header_block(id, first);
  index.seed_ = wanted.sign(0);
  if (!found.fits(0) || !found.holds(0, kMagic.data(), kMagic.size())) {
    auto const ours = index.signed_under_header();
    if (!ours) return ours.status();
    if (!*ours) return Status::defect(index.path_ + ": the header is unreadable, and so is all behind it");
    index.header_damaged_ = true;
    return index;
  }
  if (std::uint32_t const version = found.get<std::uint32_t>(8); version > kVersion) {
    return Status::usage(
        fmt::format("{}: format version {} is newer than this program's {}", index.path_, version, kVersion));
  }
  if (found.view() != wanted.view()) return Status::defect(index.path_ + ": is of another journal or another position");
  return index;
}

// All of a header is known from elsewhere, and its checksum seeds those behind it: one of them that fits tells as much
// as the header itself.
Result<bool> Index::signed_under_header() const {
  auto const newest = mark();
  if (!newest) return newest.status();
  if (newest->sequence > 0) return true;
  auto const record = find(0, 0);
  if (!record) return record.status();
  return record->has_value();
}

Status Index::mend_header(Disk& disk, Uuid const& id) {
  Block header = header_block(id, first_);
  header.sign(0);
  if (Status status = disk.write_at(fd(), header.view(), 0, path_); !status.ok()) return status;
  if (Status status = disk.sync(fd(), path_); !status.ok()) return status;
  header_damaged_ = false;
  return {};
}

Result<Mark> Index::mark() const {
  Mark best;
  best.end = first_;
  for (std::uint64_t slot = 0; slot < 2; ++slot) {
    char bytes[kBlock] = {};
    if (auto got = read_at(fd(), bytes, kBlock, slot_of(slot), path_); !got) return got.status();
    Block const block(bytes);
    std::uint64_t const sequence = block.get<std::uint64_t>(0);
    if (!block.fits(seed_) || sequence <= best.sequence || (sequence & 1) != slot) continue;
    best.sequence = sequence;
    best.count = block.get<std::uint64_t>(8);
    best.end = block.get<std::uint64_t>(16);
    best.length = block.get<std::uint64_t>(24);
    best.sealed = (block.get<std::uint32_t>(32) & kSealed) != 0;
  }
  return best;
}

Status Index::write_mark(Disk& disk, Mark const& mark) const {
  return disk.write_at(fd(), mark_block(mark, seed_).view(), slot_of(mark.sequence), path_);
}

Result<std::uint64_t> Index::capacity() const {
  auto const bytes = size();
  if (!bytes) return bytes.status();
  return *bytes < kRecordsAt ? 0 : (*bytes - kRecordsAt) / kRecordSize;
}

Status Index::read(std::uint64_t at, std::size_t count, std::vector<std::optional<IndexRecord>>& out) const {
  out.clear();
  char bytes[64 * kRecordSize];
  while (out.size() < count) {
    std::size_t const some = std::min<std::size_t>(count - out.size(), 64) * kRecordSize;
    auto const got = read_at(fd(), bytes, some, kRecordsAt + (at + out.size()) * kRecordSize, path_);
    if (!got) return got.status();
    for (std::size_t i = 0; i + kRecordSize <= *got; i += kRecordSize) out.push_back(decode(bytes + i, seed_));
    if (*got < some) break;
  }
  return {};
}

Result<std::optional<IndexRecord>> Index::read(std::uint64_t at) const {
  std::vector<std::optional<IndexRecord>> one;
  if (Status status = read(at, 1, one); !status.ok()) return status;
  return one.empty() ? std::nullopt : one.front();
}

Status Index::write(Disk& disk, std::uint64_t at, IndexRecord const& record) const {
  Block block;
  block.put(0, record.first);
  block.put(8, record.count);
  block.put(16, record.offset);
  block.put(24, record.length);
  block.put(32, record.checksum);
  block.put(40, static_cast<std::uint64_t>(record.committed.ns));
  block.sign(seed_);
  return disk.write_at(fd(), block.view(), kRecordsAt + at * kRecordSize, path_);
}

Result<std::optional<Index::Found>> Index::find(std::uint64_t from, std::uint64_t position) const {
  std::vector<std::optional<IndexRecord>> records;
  for (;; from += records.size()) {
    if (Status status = read(from, 64, records); !status.ok()) return status;
    if (records.empty()) return std::optional<Found>{};
    for (std::size_t i = 0; i < records.size(); ++i) {
      if (records[i] && records[i]->end() > position) return std::optional<Found>{Found{from + i, *records[i]}};
    }
  }
}

}  // namespace inflight::journal

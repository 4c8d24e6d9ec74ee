// Reading the journal (common/journal.h): without a lock, up to the commit mark, nothing unverified.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/journal.h"
#include "common/journal_index.h"

namespace inflight {
namespace {

using journal::Index;
using journal::IndexRecord;

constexpr std::size_t kPadding = 64;
constexpr std::size_t kUsualRead = 256 << 10;  // small batches are read together up to this
constexpr std::size_t kIndexAhead = 64;        // records
constexpr int kTries = 1000;

// Bytes that are not initialised, and given back after an unusually large batch.
class Buffer {
 public:
  char* room(std::size_t size) {
    bool const wasteful = capacity_ > 8 * kUsualRead && size < capacity_ / 8;
    if (!bytes_ || size > capacity_ || wasteful) {
      bytes_.reset();
      capacity_ = std::max(size, kUsualRead);
      bytes_.reset(new char[capacity_ + kPadding]);
    }
    std::memset(bytes_.get() + size, 0, kPadding);
    return bytes_.get();
  }
  [[nodiscard]] char const* data() const { return bytes_.get(); }

 private:
  std::unique_ptr<char[]> bytes_;
  std::size_t capacity_ = 0;
};

}  // namespace

struct JournalReader::State {
  std::string folder;
  journal::Uuid id{};
  std::uint64_t position = 0;

  // The segment that holds `position`, or at whose end it is.
  std::optional<Index> index;  // none: there is no segment yet, or its header is unreadable
  Fd data;
  std::uint64_t first = 0;
  std::uint64_t limit = 0;  // what is committed of it ends here
  bool last = true;         // no successor is known
  bool sealed = false;
  std::string unreadable;  // why there is no index

  // Records from number `ahead_at` on, and the data bytes of some of them.
  std::vector<std::optional<IndexRecord>> ahead;
  std::uint64_t ahead_at = 0;
  std::uint64_t number = 0;  // of the next record to look at
  Buffer buffer;
  std::uint64_t buffer_at = 0, buffer_size = 0;  // which bytes of the data it holds

  // The batch that is being delivered.
  char const* next = nullptr;
  char const* batch_end = nullptr;
  std::uint64_t batch_last = 0;    // position behind it
  std::uint64_t batch_offset = 0;  // byte behind it
  Time committed;

  std::optional<Damage> damage;

  Status locate();
  Status open_segment(std::vector<std::uint64_t> const& firsts, std::size_t n);
  Status look_for_more();
  Result<bool> load();
  Status fetch(IndexRecord const& record);
  Result<IndexRecord const*> record_at(std::uint64_t wanted);
  Result<std::uint64_t> search(std::uint64_t wanted) const;
  Status damaged(std::uint64_t end, std::uint64_t offset, std::string const& cause);
  void forget_batch() { next = batch_end = nullptr; }
};

JournalReader::JournalReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
JournalReader::JournalReader(JournalReader&&) noexcept = default;
JournalReader& JournalReader::operator=(JournalReader&&) noexcept = default;
JournalReader::~JournalReader() = default;

Result<JournalReader> JournalReader::open(std::string const& folder, std::uint64_t position) {
  auto const info = journal_info(folder);
  if (!info) return info.status();
  auto state = std::make_unique<State>();
  state->folder = folder;
  state->id = *journal::parse_uuid(info->id);
  JournalReader reader(std::move(state));
  if (Status status = reader.seek(position); !status.ok()) return status;
  return reader;
}

Status JournalReader::seek(std::uint64_t position) {
  State& state = *state_;
  state.forget_batch();
  state.damage.reset();
  state.position = position;
  if (Status status = state.locate(); !status.ok()) return status;
  if (position <= state.limit || !state.unreadable.empty()) return {};
  return Status::defect(
      fmt::format("{}: position {} lies beyond the end {}: the journal has lost events, or is another one",
                  state.folder, position, state.limit));
}

std::uint64_t JournalReader::position() const { return state_->position; }

// Opens the segment that `position` belongs to.
Status JournalReader::State::locate() {
  for (int tries = 0; tries < kTries; ++tries) {
    auto const firsts = journal::list_segments(folder);
    if (!firsts) return firsts.status();
    if (firsts->empty()) {
      index.reset(), data.reset();
      first = limit = 0;
      last = true, sealed = false;
      return {};
    }
    if (position < firsts->front()) {
      return Status::usage(
          fmt::format("{}: position {} is no longer kept, the first one is {}", folder, position, firsts->front()));
    }
    auto const after = std::upper_bound(firsts->begin(), firsts->end(), position);
    auto const n = static_cast<std::size_t>(after - firsts->begin()) - 1;
    Status const status = open_segment(*firsts, n);
    // Removed between listing and opening.
    if (!status.ok() && !exists(journal::index_path(folder, (*firsts)[n]))) continue;
    return status;
  }
  return Status::temporary(folder + ": segments are being removed too fast to be read");
}

Status JournalReader::State::open_segment(std::vector<std::uint64_t> const& firsts, std::size_t n) {
  index.reset();
  data.reset();
  ahead.clear();
  buffer_size = 0;
  number = 0;
  batch_offset = 0;
  first = firsts[n];
  last = n + 1 == firsts.size();
  limit = last ? first : firsts[n + 1];
  sealed = false;
  unreadable.clear();
  auto opened = Index::open(real_disk(), folder, first, id, O_RDONLY);
  if (!opened) {
    if (opened.status().code() != Code::defect) return opened.status();
    unreadable = opened.status().what();
    return {};
  }
  index = std::move(*opened);
  // Without its data every batch of it is damaged, and is told so.
  if (auto fd = real_disk().open(journal::data_path(folder, first), O_RDONLY)) {
    data = std::move(*fd);
  } else if (!exists(index->path())) {
    return fd.status();
  }
  if (last) {
    if (Status status = look_for_more(); !status.ok()) return status;
  }
  auto const found = search(position);
  if (!found) return found.status();
  number = *found;
  return {};
}

// The number of the record that holds `wanted`, or any before it.
Result<std::uint64_t> JournalReader::State::search(std::uint64_t wanted) const {
  auto const capacity = index->capacity();
  if (!capacity) return capacity.status();
  std::uint64_t low = 0;
  std::uint64_t high = *capacity;
  while (low < high) {
    std::uint64_t const middle = low + (high - low) / 2;
    auto const record = index->read(middle);
    if (!record) return record.status();
    // An unreadable record does not say on which side of it to go on: what is behind `low` is then read one by one.
    if (!*record) {
      break;
    }
    if ((*record)->end() <= wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Takes in a mark that has moved.
Status JournalReader::State::look_for_more() {
  for (int tries = 0; tries < kTries; ++tries) {
    auto const mark = index->mark();
    if (!mark) return mark.status();
    if (mark->sequence > 0) {
      limit = std::max(limit, mark->end);
      sealed = mark->sealed;
      return {};
    }
    ::sched_yield();  // both slots may be in the middle of being written, though not for long
  }
  unreadable = index->path() + ": both commit marks are unreadable; the next writer repairs it";
  return {};
}

Result<IndexRecord const*> JournalReader::State::record_at(std::uint64_t wanted) {
  if (wanted < ahead_at || wanted >= ahead_at + ahead.size()) {
    if (Status status = index->read(wanted, kIndexAhead, ahead); !status.ok()) return status;
    ahead_at = wanted;
  }
  if (ahead.empty()) return nullptr;
  auto const& record = ahead[wanted - ahead_at];
  return record ? &*record : nullptr;
}

Status JournalReader::State::damaged(std::uint64_t end, std::uint64_t offset, std::string const& cause) {
  std::string const path = journal::data_path(folder, first);
  damage = Damage{position, end, fmt::format("{}: byte {}: {}", path, offset, cause)};
  return Status::defect(
      fmt::format("{}: damaged at byte {}, positions {}-{}: {}", path, offset, position, end - 1, cause));
}

// Brings the bytes of a batch, and of those behind it that are small, into the buffer.
Status JournalReader::State::fetch(IndexRecord const& record) {
  std::string const path = journal::data_path(folder, first);
  std::uint64_t length = record.length;
  for (std::uint64_t n = number + 1; n < ahead_at + ahead.size(); ++n) {
    auto const& more = ahead[n - ahead_at];
    if (!more || more->end() > limit || more->offset != record.offset + length || length + more->length > kUsualRead)
      break;
    length += more->length;
  }
  auto const size = data ? file_size(data.get(), path) : Result<std::uint64_t>(0);
  if (!size) return size.status();
  // A record that promises more than there is must not make us allocate it.
  length = record.offset < *size ? std::min(length, *size - record.offset) : 0;
  buffer_size = 0;
  char* const to = buffer.room(length);
  auto const got =
      length > 0 ? read_at(data.get(), to, length, record.offset, path) : Result<std::size_t>(std::size_t{0});
  if (!got) return got.status();
  buffer_at = record.offset;
  buffer_size = *got;
  return {};
}

// Makes the batch that holds `position` the current one. False: nothing more is committed.
Result<bool> JournalReader::State::load() {
  for (bool again = false;; again = true) {
    if (!unreadable.empty() && last) {
      if (again) return Status::defect(unreadable);
      if (Status status = locate(); !status.ok()) return status;
      continue;
    }
    if (position < limit) break;
    if (last && index) {
      std::uint64_t const before = limit;
      if (Status status = look_for_more(); !status.ok()) return status;
      ahead.clear();
      if (limit > before || !unreadable.empty()) continue;
      // A crash may have come between beginning the next segment and sealing this one.
      if (!sealed && (position == first || !exists(journal::index_path(folder, position)))) return false;
    }
    std::uint64_t const from = first;
    bool const had = index.has_value();
    if (Status status = locate(); !status.ok()) return status;
    if (index && had && first == from && position >= limit) return false;
    if (!index && unreadable.empty()) return false;
  }
  if (!index) return damaged(limit, 0, unreadable);

  IndexRecord const* record = nullptr;
  auto const capacity = index->capacity();
  if (!capacity) return capacity.status();
  std::uint64_t unread = number;  // what would be read if nothing were damaged: the record, and where its bytes begin
  std::uint64_t hole = number == 0 ? 0 : batch_offset;
  if (record == nullptr && number > 0 && hole == 0) {  // come here by seek()
    auto const before = record_at(number - 1);
    if (before && *before != nullptr) hole = (*before)->offset + (*before)->length;
  }
  for (std::uint64_t n = number; n < *capacity && record == nullptr; ++n) {
    auto const read = record_at(n);
    if (!read) return read.status();
    if (*read != nullptr && (*read)->end() <= position) {
      unread = n + 1;
      hole = (*read)->offset + (*read)->length;
    }
    if (*read == nullptr || (*read)->end() <= position || (*read)->end() > limit) continue;
    record = *read;
    number = n;
  }
  if (record == nullptr || record->first > position) {
    std::uint64_t const end = record == nullptr ? limit : record->first;
    return damaged(end, hole,
                   fmt::format("{} has no readable record at byte {}", index->path(),
                               journal::kRecordsAt + unread * journal::kRecordSize));
  }
  IndexRecord const batch = *record;
  if (batch.offset < buffer_at || batch.offset + batch.length > buffer_at + buffer_size) {
    if (Status status = fetch(batch); !status.ok()) return status;
    if (buffer_size < batch.length) {
      return damaged(
          batch.end(), batch.offset,
          data ? fmt::format("the file ends within {} bytes from there", buffer_size) : "the file is missing");
    }
  }
  std::string_view const bytes(buffer.data() + (batch.offset - buffer_at), batch.length);
  if (journal::checksum(bytes) != batch.checksum)
    return damaged(batch.end(), batch.offset, "the checksum does not fit");
  next = bytes.data();
  batch_end = bytes.data() + bytes.size();
  batch_last = batch.end();
  batch_offset = batch.offset + batch.length;
  committed = batch.committed;
  for (std::uint64_t skip = batch.first; skip < position; ++skip) {
    auto const* newline = static_cast<char const*>(std::memchr(next, '\n', static_cast<std::size_t>(batch_end - next)));
    next = newline == nullptr ? batch_end : newline + 1;
  }
  return true;
}

Result<std::optional<JournalReader::Event>> JournalReader::next() {
  State& state = *state_;
  if (state.next == state.batch_end) {
    auto const loaded = state.load();
    if (!loaded) return loaded.status();
    if (!*loaded) return std::optional<Event>{};
  }
  auto const left = static_cast<std::size_t>(state.batch_end - state.next);
  auto const* newline = static_cast<char const*>(std::memchr(state.next, '\n', left));
  if (newline == nullptr || (newline + 1 == state.batch_end) != (state.position + 1 == state.batch_last)) {
    state.forget_batch();
    return state.damaged(state.batch_last, 0, "a batch does not hold as many lines as its record says");
  }
  Event event{state.position, {state.next, static_cast<std::size_t>(newline - state.next)}, state.committed};
  state.next = newline + 1;
  ++state.position;
  return std::optional<Event>{event};
}

Result<JournalReader::Damage> JournalReader::skip_damage() {
  State& state = *state_;
  if (!state.damage) {
    return state.unreadable.empty() ? Status::usage("there is no damage here") : Status::defect(state.unreadable);
  }
  Damage const damage = *std::exchange(state.damage, std::nullopt);
  state.forget_batch();
  state.position = damage.end;
  return damage;
}

}  // namespace inflight

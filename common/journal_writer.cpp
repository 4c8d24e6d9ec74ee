// Writing the journal (common/journal.h): doubles left out, then one batch at the tail.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/journal.h"
#include "common/journal_doubles.h"
#include "common/journal_tail.h"

namespace inflight {
namespace {

constexpr std::uint64_t kDoublesBytes = 128 << 20;
constexpr std::size_t kUsualBatch = 4 << 20;

}  // namespace

struct JournalWriter::State {
  State(Disk& disk, Clock& time, std::string path, JournalInfo about)
      : clock(time),
        folder(std::move(path)),
        info(std::move(about)),
        tail(disk, folder, *journal::parse_uuid(info.id)) {}

  Status load_doubles();

  Clock& clock;
  std::string folder;
  JournalInfo info;
  journal::Tail tail;
  std::optional<journal::Doubles> doubles;  // made with the first line that has an identity
  std::uint64_t doubles_end = 0;            // what is committed below this position is in the window
  std::string batch;
  bool refuses = false;
};

JournalWriter::JournalWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
JournalWriter::JournalWriter(JournalWriter&&) noexcept = default;
JournalWriter& JournalWriter::operator=(JournalWriter&&) noexcept = default;
JournalWriter::~JournalWriter() = default;

Result<JournalWriter> JournalWriter::open(Disk& disk, Clock& clock, std::string const& folder) {
  auto info = journal_info(folder);
  if (!info) return info.status();
  auto state = std::make_unique<State>(disk, clock, folder, std::move(*info));
  auto const lock = journal::append_lock(folder);
  if (!lock) return lock.status();
  if (Status status = state->tail.catch_up(); !status.ok()) return status;
  return JournalWriter(std::move(state));
}

// Under the append lock: takes in what was committed since the last time, by this process or another.
Status JournalWriter::State::load_doubles() {
  std::uint64_t const end = tail.end();
  if (doubles && doubles_end == end) return {};
  if (!doubles) doubles.emplace();
  auto const firsts = journal::list_segments(folder);
  if (!firsts) return firsts.status();
  if (firsts->empty() || end == firsts->front()) return {};
  std::uint64_t from = std::max(doubles_end, firsts->front());
  if (end > journal::Doubles::kWindow) from = std::max(from, end - journal::Doubles::kWindow);
  std::uint64_t budget = kDoublesBytes;
  for (std::size_t n = firsts->size(); n-- > 0 && (*firsts)[n] > from;) {
    struct stat info_of {};
    std::uint64_t const size = ::stat(journal::data_path(folder, (*firsts)[n]).c_str(), &info_of) == 0
                                   ? static_cast<std::uint64_t>(info_of.st_size)
                                   : 0;
    if (size > budget) {
      from = (*firsts)[n];
      break;
    }
    budget -= size;
  }
  auto reader = JournalReader::open(folder, from);
  if (!reader) return reader.status();
  while (reader->position() < end) {
    auto const event = reader->next();
    if (!event) {
      // Damage is the subscribers' to be told; here it only means that a double may go through.
      if (reader->skip_damage()) continue;
      break;
    }
    if (!*event) break;
    (void)doubles->add((*event)->line);
    if (((*event)->position & 0xfff) == 0) doubles->keep();
  }
  doubles->keep();
  doubles_end = end;
  return {};
}

Result<JournalWriter::Appended> JournalWriter::append(std::span<Line const> lines) {
  State& state = *state_;
  if (state.refuses) return Status::defect(state.folder + ": this writer ended with a failed write");
  auto const lock = journal::append_lock(state.folder);
  if (!lock) return lock.status();

  auto write = [&]() -> Result<Appended> {
    if (Status status = state.tail.catch_up(); !status.ok()) return status;
    bool const once = std::any_of(lines.begin(), lines.end(), [](Line const& line) { return line.once; });
    if (once) {
      if (Status status = state.load_doubles(); !status.ok()) return status;
    }
    Appended appended;
    state.batch.clear();
    std::size_t bytes = 0;
    for (Line const& line : lines) bytes += line.text.size() + 1;
    state.batch.reserve(bytes);
    for (Line const& line : lines) {
      if (std::memchr(line.text.data(), '\n', line.text.size()) != nullptr) {
        return Status::defect("a line for the journal holds a newline");
      }
      if (line.once && !state.doubles->add(line.text)) {
        ++appended.doubles;
        continue;
      }
      state.batch.append(line.text).push_back('\n');
      ++appended.count;
    }
    if (appended.count > 0) {
      if (Status status = state.tail.make_room(state.info.settings.segment_bytes); !status.ok()) return status;
      Status const status = state.tail.append(state.batch, appended.count, state.clock.now());
      if (!status.ok()) return status;
    }
    appended.first = state.tail.end() - appended.count;
    if (once) state.doubles_end = state.tail.end();
    return appended;
  };
  auto appended = write();
  if (state.doubles) appended ? state.doubles->keep() : state.doubles->undo();
  if (!appended && appended.status().code() == Code::defect) state.refuses = true;
  // A string that grows takes twice its last capacity: an ordinary batch may leave up to twice its size.
  if (state.batch.capacity() > 3 * kUsualBatch) std::string().swap(state.batch);
  return appended;
}

}  // namespace inflight

#include "common/archive_encoder.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/line_blocks.h"
#include "common/xxh.h"

namespace inflight {

namespace {
constexpr std::size_t kFrame = 128 << 10;       // of lines: the smaller, the less is read for one subject
constexpr std::size_t kLongest = 1 << 20;       // of lines of one subject
constexpr std::uint32_t kNobody = 0;            // number of those without a subject
constexpr std::size_t kName = 100;              // about what a subject takes, and its bytes
constexpr std::size_t kIndexLines = 256 << 10;  // of the index that are compressed together
}  // namespace

struct ObjectEncoder::State {
  struct Waiting {
    LineBlocks::Line line;
    std::uint32_t subject = kNobody;
    Time time;
    std::optional<ArchiveGroup::Span> positions;
  };

  FrameCompressor* compressor = nullptr;
  std::function<void()> ready;
  ContentDigest content, stored;
  ObjectSummary summary;
  std::string pending;

  std::size_t memory = 0;
  LineBlocks lines{memory};
  std::vector<Waiting> waiting;
  std::unordered_map<std::string, std::uint32_t> numbers;  // of the subjects of these, from 1 on
  std::size_t numbered = 0;                                // bytes of these
  std::string name;                                        // scratch

  std::string frame;  // lines
  ArchiveFrame entry;
  std::string index_lines, index;  // the index is compressed as it grows

  void write(std::string_view bytes) {
    stored.update(bytes);
    summary.stored_bytes += bytes.size();
    pending += bytes;
    ready();
  }

  std::uint32_t number_of(std::optional<std::string_view> subject) {
    if (!subject) return kNobody;
    name.assign(*subject);
    auto const [at, is_new] = numbers.try_emplace(name, static_cast<std::uint32_t>(numbers.size() + 1));
    if (is_new) numbered += name.size() + kName;
    return at->second;
  }

  // Begins or goes on with a group of the frame that is made.
  void count(std::optional<std::string> const& subject, Time time, std::optional<ArchiveGroup::Span> const& positions) {
    if (entry.groups.empty() || entry.groups.back().subject != subject) {
      entry.groups.push_back({subject, 0, time, time, positions});
    }
    ArchiveGroup& group = entry.groups.back();
    ++group.records;
    group.first = std::min(group.first, time);
    group.last = std::max(group.last, time);
    if (!positions || !group.positions) return group.positions.reset();
    group.positions->lowest = std::min(group.positions->lowest, positions->lowest);
    group.positions->highest = std::max(group.positions->highest, positions->highest);
  }

  void end_frame(std::string_view text, std::string_view end) {
    content.update(text);
    content.update(end);
    entry.offset = summary.stored_bytes;
    entry.bytes = text.size() + end.size();
    compressor->compress(text, end, [this](std::string_view bytes) { write(bytes); });
    entry.size = summary.stored_bytes - entry.offset;
    append_index_line(index_lines, entry);
    index_lines += '\n';
    entry.groups.clear();
    if (index_lines.size() >= kIndexLines) flush_index();
  }

  void end_frame() {
    end_frame(frame, {});
    frame.clear();
  }

  // The waiting by the bytes of their subjects, those of one as they came.
  std::vector<std::uint32_t> grouped(std::vector<std::string const*>& names) const {
    std::vector<std::pair<std::string_view, std::uint32_t>> sorted;
    names.assign(numbers.size() + 1, nullptr);
    for (auto const& [subject, number] : numbers) {
      sorted.emplace_back(subject, number);
      names[number] = &subject;
    }
    std::sort(sorted.begin(), sorted.end());
    // Where the lines of each subject begin.
    std::vector<std::uint32_t> next(names.size(), 0);
    for (Waiting const& one : waiting) ++next[one.subject];
    std::uint32_t at = std::exchange(next[kNobody], 0);
    for (auto const& [subject, number] : sorted) at += std::exchange(next[number], at);
    std::vector<std::uint32_t> order(waiting.size());
    for (std::uint32_t i = 0; i < waiting.size(); ++i) order[next[waiting[i].subject]++] = i;
    return order;
  }

  void cut() {
    if (waiting.empty()) return;
    std::vector<std::string const*> names;
    std::vector<std::uint32_t> const order = grouped(names);
    std::optional<std::string> subject;
    std::uint32_t now = kNobody;
    for (std::uint32_t const i : order) {
      Waiting const& one = waiting[i];
      if (one.subject != now) {
        if (frame.size() >= kFrame) end_frame();
        now = one.subject;
        subject = *names[now];
      }
      if (!frame.empty() && frame.size() + one.line.size >= kLongest) end_frame();
      count(subject, one.time, one.positions);
      frame.append(lines.text(one.line)).push_back('\n');
      lines.release(one.line);
    }
    end_frame();
    std::string().swap(frame);
    waiting = {};
    numbers = {};
    numbered = 0;
    lines.clear();
    flush_index();
  }

  void flush_index() {
    if (index_lines.empty()) return;
    compressor->compress(index_lines, {}, [this](std::string_view bytes) { index += bytes; });
    std::string().swap(index_lines);
  }
};

ObjectEncoder::ObjectEncoder(FrameCompressor& compressor, std::function<void()> ready)
    : state_(std::make_unique<State>()) {
  state_->compressor = &compressor;
  state_->ready = std::move(ready);
}

ObjectEncoder::~ObjectEncoder() = default;

void ObjectEncoder::add(Line const& line) {
  State& s = *state_;
  ObjectSummary& summary = s.summary;
  summary.first = summary.records == 0 ? line.time : std::min(summary.first, line.time);
  summary.last = summary.records == 0 ? line.time : std::max(summary.last, line.time);
  ++summary.records;
  summary.bytes += line.text.size() + 1;
  if (line.text.size() >= kAlone) {
    s.cut();
    s.count(line.subject ? std::optional<std::string>(*line.subject) : std::nullopt, line.time, line.positions);
    s.end_frame(line.text, "\n");
    s.flush_index();
    return;
  }
  s.waiting.push_back({s.lines.add(line.text), s.number_of(line.subject), line.time, line.positions});
}

void ObjectEncoder::cut() { state_->cut(); }

ObjectSummary const& ObjectEncoder::finish(std::string source, std::string positions) {
  State& s = *state_;
  s.cut();
  std::string const head = frame_head(kIndexFrame, static_cast<std::uint32_t>(s.index.size()));
  s.summary.index = {s.summary.stored_bytes + head.size(), s.index.size()};
  s.write(head);
  s.write(std::exchange(s.index, {}));
  s.summary.digest = s.content.text();
  s.summary.stored_digest = s.stored.text();
  s.summary.source = std::move(source);
  s.summary.positions = std::move(positions);
  s.pending += summary_frame(s.summary);
  return s.summary;
}

std::string& ObjectEncoder::pending() { return state_->pending; }
std::size_t ObjectEncoder::waiting() const {
  State const& s = *state_;
  return s.memory + s.waiting.capacity() * sizeof(State::Waiting) + s.numbered;
}
std::size_t ObjectEncoder::indexed() const { return state_->index.size(); }
ObjectSummary const& ObjectEncoder::summary() const { return state_->summary; }

}  // namespace inflight

#include "common/filter_loop.h"

#include <fmt/format.h>

#include <csignal>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "common/dead_letter.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/stop.h"

namespace inflight {

namespace {

constexpr std::size_t kChunk = 128 << 10;
constexpr std::size_t kRoom = 4 << 10;  // for what is written about it
constexpr std::string_view kFront = "{\"delivery\":\"";

struct Rejection {
  std::uint64_t line = 0;
  std::string delivery;  // its positions, or empty where they are not known
  std::string text;
  std::string reason;
};

}  // namespace

bool take_delivery(Receipts const& receipts, char*& begin, std::size_t& size, std::string_view& delivery) {
  std::string_view const line(begin, size);
  if (!line.starts_with(kFront)) return false;
  std::size_t const quote = line.find('"', kFront.size());
  if (quote == std::string_view::npos || quote + 2 > size) return false;
  std::string_view const text = line.substr(kFront.size(), quote - kFront.size());
  std::string_view const token = receipts.token();
  if (!text.starts_with(token) || text.size() <= token.size() + 1 || text[token.size()] != ':') return false;
  char const after = line[quote + 1];
  if (after != ',' && after != '}') return false;
  delivery = text.substr(token.size() + 1);
  if (after == ',') {
    begin += quote + 1;
    size -= quote + 1;
    *begin = '{';
  } else {
    begin += quote;  // nothing but the delivery: an empty object remains
    size -= quote;
    *begin = '{';
  }
  return true;
}

void Output::record(Record const& in, std::span<Edit const> edits) { in.write(begin(), edits); }

std::string& Output::begin() {
  starts_.push_back(text_.size());
  return text_;
}

// Some lines and what became of them.
class FilterChunk {
 public:
  struct Source {
    std::size_t begin = 0, size = 0;
    std::uint64_t number = 0;
    std::uint64_t whole_size = 0;
    bool too_long = false;
  };

  void clear() {
    forget_long(out);
    if (text_.capacity() > kLongRecord) std::vector<char>().swap(text_);
    text_.clear();
    lines_.clear();
    out.clear();
    rejected.clear();
    dropped.clear();
    dropped_count = 0;
    failed = {};
    done = false;
  }
  void add(Line const& line) {
    lines_.push_back({text_.size(), line.text.size(), line.number, line.size, line.too_long});
    if (line.text.size() > kLongRecord) text_.reserve(text_.size() + line.text.size() + kRecordPadding);
    text_.insert(text_.end(), line.text.begin(), line.text.end());
    text_.insert(text_.end(), kRecordPadding, ' ');
  }
  // A record so long that no other one is in memory with it.
  [[nodiscard]] bool is_long() const { return text_.size() > kLongRecord; }
  [[nodiscard]] bool empty() const { return lines_.empty(); }
  [[nodiscard]] std::size_t size() const { return text_.size(); }
  [[nodiscard]] std::size_t count() const { return lines_.size(); }

  void process(Receipts const& receipts, RecordParser& parser, Filter& filter, std::uint64_t max_record) {
    Record record;
    std::vector<Position> positions;
    std::string slow, slow_delivery;
    for (Source const& source : lines_) {
      char* begin = text_.data() + source.begin;
      std::size_t size = source.size;
      std::string_view delivery;
      bool known = receipts.active() && take_delivery(receipts, begin, size, delivery);
      auto reject = [&](std::string const& reason) {
        rejected.push_back(
            {source.number, std::string(delivery), receipts.active() ? "" : std::string(begin, size), reason});
      };
      if (source.too_long) {
        reject(fmt::format("a record of {} bytes is over --max-record {}", source.whole_size, max_record));
        continue;
      }
      Status status = parser.parse({begin, size}, record);
      if (status.ok() && receipts.active() && !known) {
        // Not where our own tools put it: a foreign filter has written the record anew.
        Value const value = record.attribute("delivery");
        known = receipts.positions_of(value.raw, positions);
        if (!known) {
          failed =
              Status::usage(fmt::format("line {}: a stage before {} drops .delivery (jq: keep the event, change .data)",
                                        source.number, tool_name()));
          return;
        }
        slow_delivery.assign(value.raw, receipts.token().size() + 2, value.raw.size() - receipts.token().size() - 3);
        delivery = slow_delivery;
        slow = record.without("delivery");
        status = parser.parse_padded(slow, record);
        begin = slow.data();
        size = slow.size();
      }
      if (!status.ok()) {
        reject(status.what());
        continue;
      }
      output_.text_.clear();
      output_.starts_.clear();
      if (size > kLongRecord) output_.text_.reserve(size + kRoom);
      if (record.is_deletion()) {
        output_.record(record, {});
      } else {
        status = filter.apply(record, output_);
      }
      for (std::size_t i = 0; status.ok() && i < output_.starts_.size(); ++i) {
        if (piece(i).size() > max_record) {
          status = Status::rejected(
              fmt::format("what {} makes of it has {} bytes, over --max-record", tool_name(), piece(i).size()));
        }
      }
      if (status.code() == Code::rejected) {
        reject(status.what());
      } else if (!status.ok()) {
        failed = status;
        return;
      } else {
        if (output_.starts_.empty()) drop(delivery);
        for (std::size_t i = 0; i < output_.starts_.size(); ++i)
          put(receipts, delivery, i, i + 1 == output_.starts_.size());
      }
      forget_long(output_.text_);
    }
  }

  std::string out;
  std::vector<Rejection> rejected;
  PositionList dropped;
  std::uint64_t dropped_count = 0;
  Status failed;
  bool done = false;

 private:
  [[nodiscard]] std::string_view piece(std::size_t i) const {
    std::size_t const end = i + 1 < output_.starts_.size() ? output_.starts_[i + 1] : output_.text_.size();
    return std::string_view(output_.text_).substr(output_.starts_[i], end - output_.starts_[i]);
  }
  void drop(std::string_view delivery) {
    ++dropped_count;
    std::vector<Position> positions;
    if (parse_positions(delivery, positions)) dropped.add(positions);
  }
  void put(Receipts const& receipts, std::string_view delivery, std::size_t i, bool final) {
    front_.clear();
    if (receipts.active()) number(receipts, delivery, i, final);
    std::string_view text = piece(i);
    if (!front_.empty()) {
      if (text.size() > 2) front_.push_back(',');
      text.remove_prefix(1);
    }
    if (text.size() > kLongRecord && out.empty() && output_.starts_.size() == 1) {
      output_.text_.replace(0, receipts.active() ? 1 : 0, front_);
      out.swap(output_.text_);
    } else {
      out.append(front_).append(text);
    }
    out.push_back('\n');
  }
  // The front of a piece up to its first attribute, in front_.
  void number(Receipts const& receipts, std::string_view delivery, std::size_t i, bool final) {
    front_.append(kFront).append(receipts.token()).push_back(':');
    if (i == 0 && final) {
      front_.append(delivery);
    } else {
      std::vector<Position> positions;
      (void)parse_positions(delivery, positions);
      char const* separator = "";
      for (Position const& position : positions) {
        for (std::uint64_t n = position.first; n <= position.last; ++n) {
          fmt::format_to(std::back_inserter(front_), "{}{}{}/{}{}", separator, n, position.pieces, i + 1,
                         final ? "." : "");
          separator = ",";
        }
      }
    }
    front_.push_back('"');
  }

  std::vector<char> text_;
  std::vector<Source> lines_;
  Output output_;
  std::string front_;
};

namespace {

class FilterLoop {
 public:
  FilterLoop(Io& io, std::function<std::unique_ptr<Filter>()> const& make, FilterOptions const& options)
      : io_(io),
        make_(make),
        options_(options),
        rejects_(options.dead_letters),
        reader_(io.in, "standard input", options.max_record + 4096) {
    expect_bytes_of(io.in);
  }

  Exit run() {
    Status const status = options_.jobs <= 1 ? run_alone() : run_threads();
    Status const finished = rejects_.finish();
    if (status.code() == Code::closed && finished.ok()) return Exit::ok;  // the threads were stopped for it: no signal
    for (Status const& failed : {status, finished}) {
      if (failed.ok() || failed.code() == Code::closed || failed.code() == Code::stopped) continue;
      say_error(failed.what());
      return failed.exit();
    }
    if (stopping() && !cut_short_) return stop_signal() == 2 ? Exit::interrupted : Exit::terminated;
    return rejects_.count() > 0 && !io_.receipts.active() ? Exit::rejected : Exit::ok;
  }

 private:
  // Fills the chunk with what is there; false at the end.
  Result<bool> fill(FilterChunk& chunk) {
    chunk.clear();
    Line line;
    while (chunk.empty() || (chunk.size() < kChunk && reader_.ready())) {
      auto got = reader_.next(line);
      if (!got) return got.status();
      if (*got != Reader::Wait::line) return false;
      if (!line.terminated && io_.receipts.active()) {
        half_line_ = Status::defect(
            fmt::format("line {} ends in the middle: the stage before {} was killed", line.number, tool_name()));
        return false;
      }
      chunk.add(line);
      ++counters().records;
      counters().bytes += line.size;
      if (chunk.is_long()) {
        reader_.release();
        break;
      }
    }
    return true;
  }

  Status emit(FilterChunk& chunk) {
    if (Status status = io_.out.lines(chunk.out); !status.ok()) return status;
    counters().settled += chunk.count() - chunk.rejected.size();
    counters().dropped += chunk.dropped_count;
    counters().rejected += chunk.rejected.size();
    if (Status status = io_.receipts.dropped(chunk.dropped); !status.ok()) return status;
    for (Rejection const& rejection : chunk.rejected) {
      std::vector<Position> positions;
      if (io_.receipts.active() && parse_positions(rejection.delivery, positions)) {
        PositionList list;
        list.add(positions);
        if (Status status = io_.receipts.rejected(list, rejection.reason); !status.ok()) return status;
      } else if (Status status = rejects_.reject(rejection.line, rejection.text, rejection.reason); !status.ok()) {
        return status;
      }
    }
    return chunk.failed;
  }

  Status run_alone() {
    reader_.on_idle([this] { return io_.out.flush(); });
    auto const filter = make_();
    RecordParser parser;
    FilterChunk chunk;
    for (bool more = true; more;) {
      auto filled = fill(chunk);
      if (!filled) return filled.status();
      more = *filled;
      chunk.process(io_.receipts, parser, *filter, options_.max_record);
      if (Status status = emit(chunk); !status.ok()) return status;
    }
    return half_line_;
  }

  // One thread reads, --jobs threads work, this one writes in the order of reading.
  Status run_threads() {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::shared_ptr<FilterChunk>> in_order;
    std::deque<std::shared_ptr<FilterChunk>> to_do;
    std::vector<std::shared_ptr<FilterChunk>> spare;
    bool ended = false;
    bool cancelled = false;
    Status read_status;
    std::size_t const limit = options_.jobs * 4;

    auto work = [&] {
      auto const filter = make_();
      RecordParser parser;
      std::unique_lock lock(mutex);
      for (;;) {
        changed.wait(lock, [&] { return !to_do.empty() || ended || cancelled; });
        if (cancelled || to_do.empty()) return;
        auto const chunk = to_do.front();
        to_do.pop_front();
        lock.unlock();
        chunk->process(io_.receipts, parser, *filter, options_.max_record);
        lock.lock();
        chunk->done = true;
        changed.notify_all();
      }
    };
    auto read = [&] {
      for (bool more = true; more;) {
        std::shared_ptr<FilterChunk> chunk;
        {
          std::unique_lock lock(mutex);
          changed.wait(lock, [&] { return in_order.size() < limit || cancelled; });
          if (cancelled) return;
          if (!spare.empty()) chunk = spare.back(), spare.pop_back();
        }
        if (!chunk) chunk = std::make_shared<FilterChunk>();
        auto filled = fill(*chunk);
        std::unique_lock lock(mutex);
        more = filled.ok() && *filled;
        if (!filled) read_status = filled.status();
        if (!chunk->empty()) in_order.push_back(chunk), to_do.push_back(chunk);
        ended = !more;
        changed.notify_all();
        if (chunk->is_long()) {
          chunk.reset();
          changed.wait(lock, [&] { return in_order.empty() || cancelled; });
        }
      }
    };
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < options_.jobs; ++i) threads.emplace_back(work);
    std::thread reader(read);

    Status status;
    std::unique_lock lock(mutex);
    while (status.ok()) {
      bool const idle = in_order.empty() || !in_order.front()->done;
      if (idle && !ended) {
        lock.unlock();
        status = io_.out.flush();
        lock.lock();
        if (!status.ok()) break;
      }
      changed.wait(lock, [&] { return (!in_order.empty() && in_order.front()->done) || (ended && in_order.empty()); });
      if (in_order.empty()) break;
      auto const chunk = in_order.front();
      lock.unlock();
      status = emit(*chunk);
      lock.lock();
      in_order.pop_front();
      if (chunk->size() < 4 * kChunk) spare.push_back(chunk);
      changed.notify_all();
    }
    cancelled = !status.ok();
    lock.unlock();
    bool const asked = stopping();
    if (cancelled) request_stop(SIGTERM);  // wakes the reading thread
    cut_short_ = cancelled && !asked;
    changed.notify_all();
    reader.join();
    for (std::thread& thread : threads) thread.join();
    if (!status.ok()) return status;
    return read_status.ok() ? half_line_ : read_status;
  }

  Io& io_;
  std::function<std::unique_ptr<Filter>()> const& make_;
  FilterOptions const& options_;
  RejectFile rejects_;
  Reader reader_;
  Status half_line_;
  bool cut_short_ = false;  // by ourselves, not by a signal: nobody reads our output any more
};

}  // namespace

void FilterOptions::add_to(Cli& cli, bool with_jobs) {
  if (with_jobs) cli.option("--jobs", jobs, "threads that work; the order of records is kept");
  cli.size("--max-record", max_record, "reject records above this size");
  cli.option("--dead-letters", dead_letters, "file for rejected records, where no source keeps them");
}

Exit run_filter(Io& io, std::function<std::unique_ptr<Filter>()> const& make, FilterOptions const& options) {
  return FilterLoop(io, make, options).run();
}

}  // namespace inflight

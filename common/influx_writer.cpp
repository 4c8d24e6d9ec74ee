#include "common/influx_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <unordered_map>

#include "common/gzip.h"
#include "common/messages.h"
#include "common/stop.h"

namespace inflight {

namespace {
constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max() / 4;
constexpr std::size_t kSmallest = 16 << 10;   // a body is not made smaller than this only because a connection was cut
constexpr std::size_t kWorthwhile = 1 << 10;  // to compress
constexpr std::size_t kLongLine = 64 << 10;   // not kept to try again with
constexpr std::size_t kMany = 10;  // so many refused with nothing ever stored: the command is at fault, not the records
constexpr std::size_t kMostListed = 100;  // where an answer lists so many bad lines, there may be more
constexpr int kDoubts = 3;  // how often a doubtful point is refused where another is taken, until it is at fault
constexpr Duration kDrain = std::chrono::seconds(5);  // without an answer, after a stop signal

std::string_view series(InfluxRow const& row) { return row.line.substr(0, row.point.series); }
std::string_view time(InfluxRow const& row) { return row.line.substr(row.point.time); }
bool same_point(InfluxRow const& a, InfluxRow const& b) { return series(a) == series(b) && time(a) == time(b); }
}  // namespace

Result<std::unique_ptr<InfluxWriter>> InfluxWriter::make(InfluxTarget target, std::vector<std::string> headers,
                                                         bool compress, HttpOptions const& http) {
  std::unique_ptr<InfluxWriter> writer(new InfluxWriter());
  auto client = HttpClient::make(http);
  if (!client) return client.status();
  writer->http_ = std::move(*client);
  writer->target_ = std::move(target);
  writer->headers_ = std::move(headers);
  writer->headers_.emplace_back("Content-Type: text/plain; charset=utf-8");
  writer->compress_ = compress;
  writer->limit_ = writer->ceiling_ = kNoLimit;
  return writer;
}

Status InfluxWriter::connect() {
  if (target_.version != 1) return {};
  std::optional<Duration> retry_after;
  auto answer = ask({}, retry_after);
  if (!answer) return answer.status();
  using Kind = InfluxAnswer::Kind;
  return answer->kind == Kind::failed || answer->kind == Kind::cut ? answer->status : Status{};
}

Result<InfluxAnswer> InfluxWriter::ask(std::span<InfluxRow const> rows, std::optional<Duration>& retry_after) {
  HttpRequest request;
  request.method = "POST";
  request.url = target_.url;
  request.headers = headers_;
  std::size_t size = 0;
  for (InfluxRow const& row : rows) size += row.line.size() + 1;
  request.body.reserve(size);
  for (InfluxRow const& row : rows) request.body.append(row.line).append(1, '\n');
  if (compress_ && size >= kWorthwhile) {
    std::string packed;
    if (Status status = append_gzip(packed, request.body); !status.ok()) return status;
    request.body = std::move(packed);
    request.headers.emplace_back("Content-Encoding: gzip");
  }
  std::optional<InfluxAnswer> answer;
  HttpClient::Id const id = http_->start(std::move(request), [&](HttpResponse& response) {
    answer = judge(target_, response, rows.size());
    retry_after = response.retry_after;
  });
  while (!answer) {
    Status const status = http_->turn(std::chrono::milliseconds(200));
    if (answer) break;
    if (!stopped_ && stopping()) stopped_ = system_clock().steady();
    bool const enough = stopped_ && system_clock().steady() - *stopped_ > kDrain;
    if (!status.ok() || enough) http_->cancel(id, status.ok() ? "no answer, and we are to stop" : status.what());
  }
  if (answer->kind != InfluxAnswer::Kind::cut) stopped_.reset();
  return *answer;
}

// How far a request goes that begins with this row.
std::size_t InfluxWriter::chunk(std::span<InfluxRow const> rows, std::size_t begin, std::size_t& bytes) const {
  std::size_t end = begin;
  auto const next = std::upper_bound(breaks_.begin(), breaks_.end(), begin);
  std::size_t const last = next == breaks_.end() ? rows.size() : *next;
  for (bytes = 0; end < last; ++end) {
    std::size_t const more = rows[end].line.size() + 1;
    if (end > begin && bytes + more > limit_) break;
    bytes += more;
  }
  return end;
}

Status InfluxWriter::write(std::span<InfluxRow> rows, std::optional<Duration>& retry_after) {
  using Kind = InfluxAnswer::Kind;
  look_for_doubles(rows);
  for (std::size_t begin = 0; begin < rows.size();) {
    std::size_t bytes = 0;
    std::size_t const end = chunk(rows, begin, bytes);
    std::span<InfluxRow> const part = rows.subspan(begin, end - begin);
    auto answer = ask(part, retry_after);
    if (!answer) return answer.status();
    Status status = answer->status;
    switch (answer->kind) {
      case Kind::stored:
        stored(part);
        limit_ = std::min(ceiling_, limit_ * 2);
        break;
      case Kind::refused:
        status = refused(part, *answer);
        break;
      case Kind::listed:
        status = listed(part, *answer, retry_after);
        break;
      case Kind::too_large:
        if (part.size() > 1) {
          limit_ = ceiling_ = std::max<std::size_t>(bytes / 2, 1);
          continue;
        }
        [[fallthrough]];
      case Kind::doubtful:
        status = doubtful(part, *answer, retry_after);
        break;
      case Kind::cut:  // perhaps because we sent more than anybody wanted to read
        if (part.size() > 1) limit_ = std::max(std::min(limit_, bytes / 2), std::min(ceiling_, kSmallest));
        break;
      case Kind::failed:
        break;
    }
    if (!status.ok()) return status;
    begin = end;
  }
  return {};
}

void InfluxWriter::stored(std::span<InfluxRow> rows) {
  accepted_ = true;
  for (InfluxRow& row : rows) {
    if (row.fate == InfluxRow::Fate::open) row.fate = InfluxRow::Fate::stored;
  }
  // Never one that is older than what is stored now: to try again with it would bring that back.
  InfluxRow good{known_good_, known_point_, {}, {}};
  for (InfluxRow const& row : rows) {
    if (row.fate != InfluxRow::Fate::stored) continue;
    if (row.line.size() <= kLongLine) {
      good = {row.line, row.point, {}, {}};
    } else if (same_point(good, row)) {
      good = {};
    }
  }
  if (good.line.data() == known_good_.data()) return;
  known_point_ = good.point;
  known_good_ = std::string(good.line);
}

Status InfluxWriter::refused(std::span<InfluxRow> rows, InfluxAnswer const& answer) {
  bool const all = answer.dropped == rows.size() || answer.lines.size() == rows.size();
  if (all && rows.size() >= kMany && !accepted_) {
    return Status::usage(fmt::format("{}: none of the first {} points is taken: {}", target_.shown, rows.size(),
                                     answer.lines.empty() ? answer.reason : answer.lines[0].second));
  }
  if (rows.size() > 1) return Status::rejected(answer.reason);  // the loop bisects
  rows[0].fate = InfluxRow::Fate::rejected;
  rows[0].reason = answer.lines.empty() ? answer.reason : answer.lines[0].second;
  return {};
}

Status InfluxWriter::listed(std::span<InfluxRow> rows, InfluxAnswer const& answer,
                            std::optional<Duration>& retry_after) {
  if (rows.size() == 1 || answer.lines.size() == rows.size()) {
    if (Status status = rows.size() == 1 || !accepted_ ? refused(rows, answer) : Status{};
        !status.ok() && status.code() != Code::rejected) {
      return status;
    }
    for (auto const& [index, reason] : answer.lines) {
      rows[index].fate = InfluxRow::Fate::rejected;
      rows[index].reason = reason;
    }
    return {};
  }
  // Lines that are miscounted would make us reject good records and lose bad ones: so those that are named must be
  // refused by themselves, each of them.
  std::vector<InfluxRow> named;
  for (auto const& [index, reason] : answer.lines) named.push_back({rows[index].line, rows[index].point, {}, {}});
  auto again = ask(named, retry_after);
  if (!again) return again.status();
  if (again->kind == InfluxAnswer::Kind::failed || again->kind == InfluxAnswer::Kind::cut) return again->status;
  if (again->lines.size() != named.size()) return Status::rejected(answer.reason);
  for (auto const& [index, reason] : answer.lines) {
    rows[index].fate = InfluxRow::Fate::rejected;
    rows[index].reason = reason;
  }
  if (answer.lines.size() >= kMostListed) return Status::rejected(answer.reason);
  stored(rows);
  return {};
}

// A refusal that nothing explains is the point's own fault only if another one is taken all the same.
Status InfluxWriter::doubtful(std::span<InfluxRow> rows, InfluxAnswer const& answer,
                              std::optional<Duration>& retry_after) {
  if (rows.size() > 1) return Status::rejected(answer.reason);
  if (known_good_.empty()) return Status::usage(answer.status.what());
  InfluxRow const good{known_good_, {}, {}, {}};
  using Kind = InfluxAnswer::Kind;
  // More than once, and not in turn: a server that recovers, or a balancer with a bad one behind it, takes a point
  // after it refused another.
  for (int i = 0; i < kDoubts; ++i) {
    auto control = ask({&good, 1}, retry_after);
    if (!control) return control.status();
    if (control->kind == Kind::failed || control->kind == Kind::cut) return control->status;
    if (control->kind != Kind::stored) return Status::usage(answer.status.what());
    for (int twice = 0; twice < 2; ++twice) {
      auto again = ask(rows, retry_after);
      if (!again) return again.status();
      if (again->kind == Kind::stored) return stored(rows), Status{};
      if (again->kind == Kind::refused || again->kind == Kind::listed) return refused(rows, *again);
      if (again->kind != answer.kind) return again->status;
    }
  }
  rows[0].fate = InfluxRow::Fate::rejected;
  rows[0].reason = answer.kind == InfluxAnswer::Kind::too_large
                       ? fmt::format("a point of {} bytes is too large for this server", rows[0].line.size())
                       : answer.reason;
  return {};
}

void InfluxWriter::look_for_doubles(std::span<InfluxRow const> rows) {
  breaks_.clear();
  std::unordered_map<std::size_t, std::size_t> seen;  // where a series and time stand
  seen.reserve(rows.size());
  std::size_t begin = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::hash<std::string_view> const hash;
    auto const [at, fresh] = seen.try_emplace(hash(series(rows[i])) * 31 + hash(time(rows[i])), i);
    if (fresh) continue;
    InfluxRow const& other = rows[std::exchange(at->second, i)];
    if (!same_point(other, rows[i])) continue;
    if (other.point.names != rows[i].point.names && !std::exchange(told_doubles_, true)) {
      say_warning(fmt::format(
          "{}: two records are one point, {} at {}, with other fields: InfluxDB merges them (--tag tells them apart)",
          target_.shown, series(rows[i]).substr(0, 200), time(rows[i])));
    }
    // 1.x and 2.x keep the later of two lines; 3.x promises that of requests only.
    if (target_.version == 3 && &other >= &rows[begin]) breaks_.push_back(begin = i);
  }
}

}  // namespace inflight

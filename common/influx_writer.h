// Writes lines to InfluxDB and finds out which of them it has stored.
//
// A partial write means three things: 1.x stores the good lines and names one of the bad, 2.x does that or stores none,
// 3.x lists the bad ones by number. Whatever the answer, a line is called bad only by words that speak of points, or
// after another line was taken where this one is not; all else is the operator's fault or passes by waiting.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/http.h"
#include "common/influx_api.h"
#include "common/influx_line.h"
#include "common/status.h"

namespace inflight {

struct InfluxRow {
  std::string_view line;  // without newline
  InfluxPoint point;
  enum class Fate : char { open, stored, rejected } fate = Fate::open;
  std::string reason;  // of rejected
};

class InfluxWriter {
 public:
  // Code::usage: a client cannot be made of these.
  [[nodiscard]] static Result<std::unique_ptr<InfluxWriter>> make(InfluxTarget target, std::vector<std::string> headers,
                                                                  bool compress, HttpOptions const& http);

  // 1.x tells without a point whether it may be written to.
  [[nodiscard]] Status connect();

  // Writes rows in their order, and says of each what became of it. Statuses as those of Sink::deliver() (sink.h);
  // Code::rejected: one of the open rows is bad, or all of them together are.
  [[nodiscard]] Status write(std::span<InfluxRow> rows, std::optional<Duration>& retry_after);

  // Whether a line was ever stored.
  [[nodiscard]] bool accepted() const { return accepted_; }

 private:
  InfluxWriter() = default;
  Result<InfluxAnswer> ask(std::span<InfluxRow const> rows, std::optional<Duration>& retry_after);
  std::size_t chunk(std::span<InfluxRow const> rows, std::size_t begin, std::size_t& bytes) const;
  void stored(std::span<InfluxRow> rows);  // those that are not rejected
  Status refused(std::span<InfluxRow> rows, InfluxAnswer const& answer);
  Status listed(std::span<InfluxRow> rows, InfluxAnswer const& answer, std::optional<Duration>& retry_after);
  Status doubtful(std::span<InfluxRow> rows, InfluxAnswer const& answer, std::optional<Duration>& retry_after);
  void look_for_doubles(std::span<InfluxRow const> rows);

  InfluxTarget target_;
  std::vector<std::string> headers_;
  bool compress_ = false;
  std::unique_ptr<HttpClient> http_;
  bool accepted_ = false;
  std::string known_good_;               // a line that was stored, and nothing of its point since
  InfluxPoint known_point_;              // that
  std::size_t limit_ = 0, ceiling_ = 0;  // of a body's bytes before compression; the ceiling by a 413
  std::vector<std::size_t> breaks_;      // rows that must not be in one request with an earlier one
  bool told_doubles_ = false;
  std::optional<Duration> stopped_;  // since when a stop signal waits for an answer
};

}  // namespace inflight

// Looks for gaps in records that come in any order, or in the order of time.  Manual: man/find-gaps.1
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/gaps.h"
#include "common/path.h"
#include "common/record.h"
#include "common/spill.h"
#include "common/status.h"
#include "common/time.h"

namespace inflight {

struct GapSearchOptions {
  GapRule rule;
  std::vector<Path> paths;  // of subject and time
  TimeFormat format;
  bool sorted = false;  // the times of each subject ascend
  std::uint64_t memory = 256 << 20;
  std::string temporary = temporary_folder();
};

class GapSearch {
 public:
  using Tell = std::function<Status(std::string const& subject, Gap const& gap)>;

  GapSearch(GapSearchOptions const& options, Tell tell);

  // Before the first record: these units should be there, and no others are looked at.
  void expect(std::vector<std::string> subjects);
  // Code::rejected: it has no subject or no time. Code::usage: it is out of order.
  [[nodiscard]] Status add(Record const& record);
  // Behind the last one.
  [[nodiscard]] Status finish();

  [[nodiscard]] std::uint64_t records() const { return records_; }
  // Records of units that are not expected, and one of these.
  [[nodiscard]] std::uint64_t strangers() const { return strangers_; }
  [[nodiscard]] std::string const& stranger() const { return stranger_; }

 private:
  struct Entry {
    std::uint32_t subject = 0;
    std::int64_t time = 0;
    auto operator<=>(Entry const&) const = default;
  };
  struct Subject {
    std::string const* name;
    std::optional<Time> last;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  [[nodiscard]] std::optional<std::uint32_t> number_of(std::string_view subject);
  [[nodiscard]] std::optional<Time> time_of(std::string_view text);
  [[nodiscard]] Status next(std::uint32_t subject, Time time);
  [[nodiscard]] Status end_of(std::uint32_t subject);

  GapSearchOptions const& options_;
  Tell tell_;
  Selector selector_;
  std::vector<Value> selected_;
  std::string scratch_, zoned_;
  std::unordered_map<std::string, std::uint32_t, Hash, std::equal_to<>> numbers_;
  std::vector<Subject> subjects_;
  std::uint32_t at_ = 0;  // the subject of the last record
  bool only_these_ = false;
  ExternalSort<Entry> sort_;
  std::uint64_t records_ = 0, strangers_ = 0;
  std::string stranger_;
};

}  // namespace inflight

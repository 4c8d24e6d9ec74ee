#include "common/crawl_run.h"

#include <fmt/format.h>

#include "common/crawl_list.h"
#include "common/fd_io.h"
#include "common/json_text.h"
#include "common/ledger.h"
#include "common/messages.h"
#include "common/stop.h"

namespace inflight {

namespace {

class Pausing final : public Outlet {
 public:
  Pausing(Outlet& outlet, std::function<bool()> const& pause) : outlet_(outlet), pause_(pause) {}
  Status put(std::string_view line) override { return paused() ? enough() : outlet_.put(line); }
  Status put(std::string_view line, std::string_view mark) override {
    return paused() ? enough() : outlet_.put(line, mark);
  }
  Status take(std::string line) override { return paused() ? enough() : outlet_.take(std::move(line)); }
  std::string mark() override { return outlet_.mark(); }
  bool ready() override { return outlet_.ready(); }
  Status flush() override { return outlet_.flush(); }
  std::uint64_t cursor() override { return outlet_.cursor(); }
  void seek(std::uint64_t position) override { outlet_.seek(position); }

 private:
  [[nodiscard]] bool paused() const { return pause_ && pause_(); }
  static Status enough() { return {Code::stopped, "paused"}; }

  Outlet& outlet_;
  std::function<bool()> const& pause_;
};

}  // namespace

CrawlEnd run_crawl(Io& io, RtdbCollection const& collection, RtdbClient& client, CrawlOptions const& options,
                   SourceOptions source, std::function<bool()> const& pause) {
  std::string const what = fmt::format("{} from {} to {}", collection.source(), json_string(options.start_after),
                                       json_string(options.end_at));
  CrawlList list;
  if (source.delivery.pipeline.empty()) {
    if (Status status = list.open("", what, io.clock.now()); !status.ok()) {
      say_error(status.what());
      return {status.exit()};
    }
  }
  source.prepare = [&](SourceOptions& prepared) {
    std::string const keys = prepared.state.empty() ? "" : prepared.state + ".keys";
    if (!keys.empty() && !exists(prepared.state)) {
      if (Status status = SqliteFile::remove(keys); !status.ok()) return status;
    } else if (!keys.empty() && !exists(keys)) {
      auto const state = view_ledger(prepared.state);
      if (!state || !state->complete)
        return Status::usage(fmt::format("{}: is gone: remove {} to crawl anew", keys, prepared.state));
      prepared.identity = state->source;
      return Status{};
    }
    Status status = list.open(keys, what, io.clock.now());
    prepared.identity = fmt::format("crawl of {} {}", what, list.id());
    return status;
  };
  CrawlReport report;
  bool made = false, produced = false, ended = false;
  std::string why;
  Exit const exit = run_source(io, source, [&](Outlet& outlet) {
    produced = true;
    Pausing pausing(outlet, pause);
    Status status = crawl(io, collection, client, options, list, pausing, report);
    made = status.ok();
    if (!made) why = status.what();
    ended = made || (status.code() == Code::stopped && !stopping());
    return status;
  });
  // A state that was complete already is not produced again.
  CrawlEnd const end{exit, exit == Exit::ok && (made || !produced), why};
  if (exit != Exit::ok || !ended) return end;
  // With a state, all that it lists, whichever run has written it.
  if (!source.state.empty() && list.whole()) {
    report.count = list.count();
    if (auto first = list.first()) report.first = *first;
    if (auto last = list.last()) report.last = *last;
  }
  if (pause && !made) return end;
  say_info(report.count == 0 ? fmt::format("{}: no keys", collection.name())
                             : fmt::format("{}: {} keys, first {}, last {}", collection.name(), report.count,
                                           json_string(report.first), json_string(report.last)));
  return end;
}

}  // namespace inflight

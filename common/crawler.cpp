#include "common/crawler.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <map>
#include <optional>

#include "common/json_splitter.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/rate_window.h"
#include "common/rtdb_split.h"
#include "common/stop.h"
#include "common/url.h"

namespace inflight {

namespace {

constexpr std::uint64_t kLargestPage = 1000;   // documents
constexpr std::uint64_t kPageBytes = 4 << 20;  // what a page should be
constexpr std::uint64_t kFewKeys = 1000;       // up to so many --limit is read in pages
constexpr unsigned kEmptySplits = 3;           // in a row; once may be a document that has just gone
constexpr std::uint64_t kLongestValue = 64;    // of a shallow answer: true, or a scalar that is not of interest

// Lets so many pass per second, without gathering what was not used.
class Pacer {
 public:
  Pacer(Clock& clock, double per_second) : clock_(clock), per_second_(per_second), window_(per_second) {}
  Status spend(std::uint64_t count) {
    if (per_second_ <= 0) return {};
    if (Status status = until(free_); !status.ok()) return status;
    // What is waited for to the microsecond is not waited for again.
    free_ = std::max(free_, clock_.steady() - std::chrono::milliseconds(2)) +
            Duration(static_cast<std::int64_t>(static_cast<double>(count) * 1e9 / per_second_));
    return {};
  }
  // Before so many are asked for at once, which answered() is to follow: in no second the database reads more.
  Status ask(std::uint64_t count) {
    if (Status status = spend(count); !status.ok()) return status;
    if (Status status = until(window_.due(count).value_or(Duration::zero())); !status.ok()) return status;
    window_.started(count);
    return {};
  }
  void answered(std::uint64_t count) { window_.answered(clock_.steady(), count); }

 private:
  Status until(Duration time) {
    for (Duration now = clock_.steady(); now < time; now = clock_.steady()) {
      pollfd stop{stop_fd(), POLLIN, 0};
      auto const wait = std::min<std::int64_t>((time - now).count() / 1'000'000 + 1, 60'000);
      (void)::poll(&stop, 1, static_cast<int>(wait));
      if (stopping()) return {Code::stopped, "stopped"};
    }
    return {};
  }

  Clock& clock_;
  double per_second_;
  Duration free_{};
  RateWindow window_;
};

// The keys of an answer, and the documents where they are wanted.
class Members final : public JsonSplitter::Handler {
 public:
  using Take = std::function<Status(std::string_view key, std::string_view value, bool whole)>;
  explicit Members(Take take) : take_(std::move(take)) {}
  Status member(std::size_t depth, std::string_view key, std::string_view value, bool whole) override {
    if (depth == 0) {
      scalar = value;
      return {};
    }
    return value == "null" ? Status{} : take_(key, value, whole);
  }
  std::string scalar;  // where that is all there is: `null`, or no collection

 private:
  Take take_;
};

class Crawler {
 public:
  Crawler(Io& io, RtdbCollection const& collection, RtdbClient& client, CrawlOptions const& options, CrawlList& list,
          Outlet& outlet, CrawlReport& report)
      : io_(io),
        collection_(collection),
        client_(client),
        options_(options),
        list_(list),
        outlet_(outlet),
        report_(report),
        pacer_(io.clock, options.rate.per_second),
        after_(options.start_after.empty() ? "" : rtdb_sort_key(options.start_after)),
        end_(options.end_at.empty() ? "" : rtdb_sort_key(options.end_at)) {}

  Status run() {
    if (!options_.documents.empty()) return named();
    std::uint64_t const cursor = outlet_.cursor();
    if (cursor > list_.count()) return Status::defect("the list of keys is shorter than its state says");
    outlet_.seek(cursor);
    if (Status status = list_.seek(cursor); !status.ok()) return status;
    bool const few = options_.limit != 0 && options_.limit <= kFewKeys && list_.count() == 0;
    if (!list_.whole() && !list_.paged() && !options_.with_data && !few) {
      Status status = list_all();
      if (status.code() == Code::rejected) {
        say_warning(status.what() + ": reading pages instead");
      } else if (!status.ok()) {
        return status;
      }
    }
    if (!options_.with_data) {
      if (Status status = put_listed(); !status.ok()) return status;
    }
    return list_.whole() ? Status{} : pages();
  }

 private:
  Status put(std::string_view key, Time recorded, bool deleted, std::string_view data) {
    // The same to the letter whenever this crawl makes the event again.
    Status status = outlet_.take(
        rtdb_event(collection_, {fmt::format("crawl/{}/{}", list_.id(), key), key, deleted, recorded, data}));
    if (!status.ok()) return status;
    if (report_.count++ == 0) report_.first = key;
    report_.last = key;
    return {};
  }

  [[nodiscard]] bool wanted(std::string_view key) const {
    if (after_.empty() && end_.empty()) return true;
    std::string const sort = rtdb_sort_key(key);
    return (after_.empty() || sort > after_) && (end_.empty() || sort <= end_);
  }

  Status no_collection(std::string const& scalar) const {
    return scalar == "null" ? Status{}
                            : Status::usage(fmt::format("{}: is a scalar, not a collection: {}",
                                                        public_url(collection_.url()), redact(scalar.substr(0, 80))));
  }

  // One answer with all keys. Code::rejected: the database does not give it.
  Status list_all() {
    Members members(
        [&](std::string_view key, std::string_view, bool) { return wanted(key) ? list_.add(key) : Status{}; });
    JsonSplitter splitter(members, 4096);
    if (Status status = list_.begin(false, io_.clock.now()); !status.ok()) return status;
    Status status = client_.get(
        collection_.url("shallow=true"),
        [&] {
          splitter.reset();
          members.scalar.clear();
          return list_.clear();
        },
        [&](std::string_view bytes) { return splitter.feed(bytes).at(public_url(collection_.url("shallow=true"))); });
    if (status.ok()) status = splitter.finish().at(public_url(collection_.url("shallow=true")));
    if (status.ok() && !members.scalar.empty()) status = no_collection(members.scalar);
    if (!status.ok()) {
      if (Status cleared = list_.clear(); !cleared.ok()) return cleared;
      if (Status committed = list_.commit(false); !committed.ok()) return committed;
      return status;
    }
    if (Status committed = list_.commit(true); !committed.ok()) return committed;
    counters().expected_records = list_.count();
    return {};
  }

  Status put_listed() {
    CrawlList::Entry entry;
    for (;;) {
      auto const more = list_.next(entry);
      if (!more) return more.status();
      if (!*more) return {};
      if (!list_.paged()) {
        if (Status status = pacer_.spend(1); !status.ok()) return status;
      }
      if (Status status = put(entry.key, entry.listed, false, {}); !status.ok()) return status;
    }
  }

  struct Page {
    struct Document {
      std::string key, data;
      char const* lacks = nullptr;  // why it has no data
    };
    std::map<std::string, Document> documents;  // by sort key
    std::uint64_t bytes = 0, returned = 0;      // the document that it asked from among them
  };

  // Documents behind `last`, asked for from one key to another, in order. Code::rejected: it is too large.
  Status page(std::string const& last, std::string const& from, std::string const& end, std::uint64_t size,
              Page& page) {
    if (!from.empty() && !end.empty() && rtdb_sort_key(from) > rtdb_sort_key(end)) return {};
    std::string query = "orderBy=%22%24key%22&limitToFirst=" + std::to_string(size);
    if (!from.empty()) query += "&startAt=" + percent_encode(json_string(from));
    if (!end.empty()) query += "&endAt=" + percent_encode(json_string(end));
    std::string const url = collection_.url(query);
    std::string const last_sort = last.empty() ? "" : rtdb_sort_key(last);
    bool const keep = options_.with_data;
    Members members([&](std::string_view key, std::string_view value, bool whole) {
      std::string sort = rtdb_sort_key(key);
      ++page.returned;
      if (!last_sort.empty() && sort <= last_sort) return Status{};
      page.documents.insert_or_assign(std::move(sort),
                                      Page::Document{std::string(key), keep && whole ? std::string(value) : "",
                                                     whole ? nullptr : "larger than --max-record"});
      return Status{};
    });
    JsonSplitter splitter(members, keep ? options_.max_record : kLongestValue);
    if (Status status = pacer_.ask(size); !status.ok()) return status;
    Status status = client_.get(
        url,
        [&] {
          splitter.reset();
          page = {};
          return Status{};
        },
        [&](std::string_view bytes) {
          page.bytes += bytes.size();
          return splitter.feed(bytes).at(public_url(url));
        });
    pacer_.answered(size);
    if (status.ok()) status = splitter.finish().at(public_url(url));
    return status.ok() && !members.scalar.empty() ? no_collection(members.scalar) : status;
  }

  Status pages() {
    std::string last = options_.start_after;
    if (list_.count() > 0) {
      auto listed = list_.last();
      if (!listed) return listed.status();
      last = std::move(*listed);
    }
    std::uint64_t largest = kLargestPage;
    if (options_.rate.per_second > 0)
      largest = std::clamp(static_cast<std::uint64_t>(options_.rate.per_second / 4), std::uint64_t{2}, largest);
    std::uint64_t size = std::min<std::uint64_t>(largest, 100);
    std::string end = options_.end_at;  // of the part that is being read
    bool alone = false;                 // without the last one
    unsigned empty_splits = 0;
    for (;;) {
      // After a number not all of the vendor's engines may take the same key for the next one (07 comes after 7): it is
      // read again.
      bool const again = !last.empty() && !alone && rtdb_sort_key(last).front() == '\0';
      std::uint64_t const least = again ? 2 : 1;
      if (options_.limit != 0)
        size = std::min(size, options_.limit - std::min(options_.limit, report_.count) + least - 1);
      size = std::max(size, least);
      std::string const from = again || last.empty() ? last : rtdb_key_after(last);
      Page got;
      Status status = page(last, from, end, size, got);
      if (status.code() == Code::rejected && size > least) {
        size /= 2;
        continue;
      }
      if (status.code() == Code::rejected && again) {
        alone = true;
        continue;
      }
      if (status.code() == Code::rejected) {
        auto const part = split(last, from, end, got);
        if (!part) return part.status();
        if (*part) {  // up to there it gives documents
          end = **part;
          size = largest;
          continue;
        }
        if (got.documents.empty() && ++empty_splits == kEmptySplits)
          return Status::usage(status.what() + ": nor does it give any part of it");
      } else if (!status.ok()) {
        return status;
      }
      if (!got.documents.empty()) empty_splits = 0;
      bool const read = status.ok() && got.returned < size;
      bool const whole = read && end == options_.end_at;
      if (Status listed = take(got, whole); !listed.ok()) return listed;
      if (whole) return {};
      if (!got.documents.empty()) last = got.documents.rbegin()->second.key;
      alone = !status.ok() || (alone && got.documents.empty());
      if (read) {
        last = std::exchange(end, options_.end_at);
        alone = true;
      }
      std::uint64_t const fit = got.bytes == 0 ? largest : size * kPageBytes / got.bytes;
      size = std::clamp(std::min(fit, size * 2), std::uint64_t{1}, largest);
    }
  }

  // Not even one document is given from a key on. Either one alone is too large, which is then all of the page; or so
  // much is behind it that it is given in parts only: the end of one that has documents. Neither: an empty page.
  Result<std::optional<std::string>> split(std::string const& last, std::string const& from, std::string const& end,
                                           Page& got) {
    std::string const end_sort = end.empty() ? "" : rtdb_sort_key(end);
    std::optional<std::string> part;
    bool given = false;  // anything at all, be it nothing
    auto const key = rtdb_first_refused(from, [&](std::string const& to) -> Result<bool> {
      if (!end_sort.empty() && rtdb_sort_key(to) >= end_sort) return true;
      Page probe;
      Status status = page(last, from, to, 1, probe);
      if (status.code() == Code::rejected) return true;
      if (status.ok() && !probe.documents.empty()) {
        part = to;
        return Status{Code::stopped, "found"};
      }
      if (!status.ok()) return status;
      given = true;
      return false;
    });
    got = {};
    if (part) return part;
    if (!key) return key.status();
    Status status = pacer_.ask(1);
    std::string scalar;
    if (status.ok()) status = look(*key, scalar);
    pacer_.answered(1);
    if (status.code() == Code::rejected && !given) {  // is there any range that is given, one without documents?
      std::string const behind = rtdb_key_after(*key);
      Page probe;
      status = page(last, behind, behind, 1, probe);
      if (status.code() == Code::rejected) return part;
    }
    if (!status.ok() && status.code() != Code::rejected) return status;
    if (scalar != "null") {
      Page::Document document{*key, "", "larger than what the database gives at once"};
      if (!options_.with_data) say_warning(fmt::format("{}: is {}", collection_.document(*key), document.lacks));
      got.documents.emplace(rtdb_sort_key(*key), std::move(document));
    }
    return part;
  }

  // Whether a document is there, without reading it: `null` is none. Code::rejected: its parts are too many.
  Status look(std::string const& key, std::string& scalar) {
    std::string const url = collection_.document(key);
    std::string const asked = url + (url.find('?') == std::string::npos ? "?" : "&") + "shallow=true";
    Members members([](std::string_view, std::string_view, bool) { return Status{}; });
    JsonSplitter splitter(members, kLongestValue);
    Status status = client_.get(
        asked,
        [&] {
          splitter.reset();
          members.scalar.clear();
          return Status{};
        },
        [&](std::string_view bytes) { return splitter.feed(bytes).at(public_url(asked)); });
    if (status.ok()) status = splitter.finish().at(public_url(asked));
    scalar = members.scalar;
    return status;
  }

  // What was read becomes durable, then events.
  Status take(Page const& page, bool whole) {
    if (options_.with_data) {
      for (auto const& [sort, document] : page.documents) {
        if (document.lacks != nullptr) without_data(document.key, document.lacks);
        if (Status status = put(document.key, io_.clock.now(), false, document.data); !status.ok()) return status;
      }
      return {};
    }
    if (Status status = list_.begin(true, io_.clock.now()); !status.ok()) return status;
    for (auto const& [sort, document] : page.documents) {
      if (Status status = list_.add(document.key); !status.ok()) return status;
    }
    if (Status status = list_.commit(whole); !status.ok()) return status;
    return put_listed();
  }

  void without_data(std::string_view key, char const* why) const {
    say_warning(fmt::format("{}: {}, and so without its data", collection_.document(key), why));
  }

  // Each is looked at, as one that is gone is told as a deletion.
  Status named() {
    for (std::string const& key : options_.documents) {
      std::string text;
      auto const known = list_.found(key);
      if (!known) return known.status();
      CrawlList::Found found{false, io_.clock.now()};
      if (*known) {
        found = **known;
      } else {
        if (Status status = pacer_.ask(1); !status.ok()) return status;
        Status status = options_.with_data ? fetch(key, text) : look(key, text);
        pacer_.answered(1);
        if (!status.ok() && status.code() != Code::rejected) return status;  // what is too large is there
        found.gone = text == "null";
        if (!options_.with_data) {
          if (Status noted = list_.find(key, found); !noted.ok()) return noted;
        }
      }
      std::string_view const data = options_.with_data && !found.gone ? std::string_view(text) : std::string_view{};
      if (Status done = put(key, found.looked, found.gone, data); !done.ok()) return done;
    }
    return {};
  }

  // A document; nothing where it is too large.
  Status fetch(std::string const& key, std::string& text) {
    std::string const url = collection_.document(key);
    bool whole = true;
    Members members([](std::string_view, std::string_view, bool) { return Status{}; });
    JsonSplitter splitter(members, options_.max_record);
    Status status = client_.get(
        url,
        [&] {
          splitter.reset();
          text.clear();
          whole = true;
          return Status{};
        },
        [&](std::string_view bytes) {
          whole = whole && text.size() + bytes.size() <= options_.max_record;
          if (whole) text += bytes;
          return splitter.feed(bytes).at(public_url(url));
        });
    if (status.ok()) status = splitter.finish().at(public_url(url));
    if (!status.ok() && status.code() != Code::rejected) return status;
    if (!status.ok() || !whole) {
      without_data(key, whole ? "larger than what the database gives at once" : "larger than --max-record");
      text.clear();
    }
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    return {};
  }

  Io& io_;
  RtdbCollection const& collection_;
  RtdbClient& client_;
  CrawlOptions const& options_;
  CrawlList& list_;
  Outlet& outlet_;
  CrawlReport& report_;
  Pacer pacer_;
  std::string after_, end_;  // as sort keys
};

}  // namespace

Status crawl(Io& io, RtdbCollection const& collection, RtdbClient& client, CrawlOptions const& options, CrawlList& list,
             Outlet& outlet, CrawlReport& report) {
  return Crawler(io, collection, client, options, list, outlet, report).run();
}

}  // namespace inflight

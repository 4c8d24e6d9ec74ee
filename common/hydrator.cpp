#include "common/hydrator.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <deque>
#include <thread>

#include "common/dead_letter.h"
#include "common/messages.h"
#include "common/metrics.h"
#include "common/path.h"
#include "common/sink_flight.h"
#include "common/stop.h"
#include "common/url.h"

namespace inflight {

namespace {

constexpr std::size_t kFetched = 16 << 20;  // bytes that wait for a document before them: beyond, no more are asked for
constexpr Duration kIdle = std::chrono::milliseconds(200);
constexpr Duration kLook = std::chrono::seconds(1);
constexpr Duration kPoll = std::chrono::milliseconds(2);  // for input, while answers are waited for

// Whether a type says no more than that there are bytes: servers give it to what nobody has named.
bool says_nothing(std::string_view type) {
  return type.empty() || type == "application/octet-stream" || type == "binary/octet-stream";
}

std::string_view without_parameters(std::string_view type) { return type.substr(0, type.find(';')); }

// What becomes of an event that holds the document, asked for at this time; Code::rejected: it is none.
Status write_document(Record const& record, DocumentAnswer& document, std::string const& asked, std::string& out) {
  std::string& body = document.body;
  std::string scratch;
  std::string_view type = document.type;
  if (says_nothing(without_parameters(type))) {
    // The event may say what it points to.
    if (std::string_view const told = record.text("datacontenttype", scratch); !told.empty()) type = told;
  }
  std::string_view const bare = without_parameters(type);
  bool const says_json = bare == "application/json" || bare.ends_with("+json");
  std::string raw;
  if (is_json(body)) {
    // A line end in it is white space.
    std::replace_if(
        body.begin(), body.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
    Edit const edits[] = {{"fetchedtime", asked}, {"datacontenttype", "\"application/json\""}, {"data", body}};
    record.write(out, edits);
    return {};
  }
  if (body.empty()) return Status::rejected(document.what + " is empty");
  if (says_json || bare.empty()) return Status::rejected(document.what + " is not JSON");
  bool const text = valid_utf8(body);
  if (text) {
    append_quoted(raw, body);
  } else {
    raw = "\"";
    append_base64(raw, body);
    raw += '"';
  }
  std::string().swap(body);
  std::string const kind = json_string(type);
  Edit const edits[] = {{"fetchedtime", asked}, {"datacontenttype", kind}, {text ? "data" : "data_base64", raw}};
  record.write(out, edits);
  return {};
}

// The event as the deletion of what it names.
void write_deletion(Record const& record, std::string const& asked, std::string& out) {
  std::string scratch;
  std::string_view const type = record.text("type", scratch);
  std::string const deleted = json_string(fmt::format("{}.deleted", type.substr(0, type.rfind('.'))));
  Edit const edits[] = {{"type", type.ends_with("deleted") ? std::nullopt : std::optional<std::string_view>(deleted)},
                        {"fetchedtime", asked},
                        {"datacontenttype", std::nullopt},
                        {"data", std::nullopt}};
  record.write(out, type.ends_with("deleted") ? std::span(edits).subspan(1) : std::span(edits));
}

class Hydrator final : RecordTaker, SinkRequests {
 public:
  Hydrator(Io& io, HydrateOptions const& options)
      : io_(io),
        options_(options),
        rejects_(options.dead_letters),
        input_(io, *this, input_options(options), !options.dead_letters.empty() || !io.receipts.active(),
               [](std::string_view) {}) {}

  Exit run() {
    auto documents = open_documents(options_.documents, io_.clock);
    if (!documents) return end(documents.status());
    documents_ = std::move(*documents);
    Status fetched;
    std::thread fetcher([&] {
      fetched = fetch_all();
      if (!fetched.ok()) input_.stop();
    });
    Status const read = input_.read();
    fetcher.join();
    return end(fetched.ok() ? read : fetched);
  }

 private:
  // A record in the order of the input, until it is written.
  struct Place {
    SinkRecord const* record = nullptr;
    SinkBatch* batch = nullptr;
    enum class State : char { waiting, as_it_is, fetched, gone } state = State::waiting;
    std::string line;      // fetched
    std::string delivery;  // its positions, and those of events that joined it
  };

  static SinkOptions const& input_options(HydrateOptions const& options) {
    static SinkOptions shared;
    shared.max_record = options.max_record;
    shared.linger = kIdle;
    return shared;
  }

  Exit end(Status const& status) {
    Status const finished = rejects_.finish();
    for (Status const& one : {status, finished}) {
      if (one.ok() || one.code() == Code::stopped) continue;
      if (one.code() == Code::closed) return Exit::ok;
      say_error(one.what());
      return one.exit();
    }
    if (stopping()) return stop_signal() == SIGINT ? Exit::interrupted : Exit::terminated;
    return rejects_.count() > 0 && !io_.receipts.active() ? Exit::rejected : Exit::ok;
  }

  Status fetch_all() {
    std::optional<Duration> give_up;
    if (options_.give_up > Duration::zero()) give_up = options_.give_up;
    if (!give_up && !io_.receipts.active()) give_up = std::chrono::minutes(10);
    SinkFlight flight(io_, *this, give_up, options_.rate.per_second);
    std::vector<SinkAnswer> answers;
    Status status;
    bool ended = false;
    Duration looked = io_.clock.steady();
    while (status.ok() && !(ended && places_.empty())) {
      Duration now = io_.clock.steady();
      if (!ended && flight.hungry(now)) status = take(flight, now, ended);
      if (status.ok()) status = write_what_is_due();
      if (!status.ok()) break;
      now = io_.clock.steady();
      if (held_ < kFetched || flight.under_way() == 0) flight.start(now);
      bool const hungry = !ended && flight.hungry(now);
      if (flight.open() > 0 && (flight.under_way() > 0 || !hungry)) {
        status = turn(flight.patience(now, hungry ? kPoll : kLook), answers);
        now = io_.clock.steady();
        for (SinkAnswer const& answer : answers) {
          if (status.ok()) status = heed(flight, answer, ended, now);
        }
        answers.clear();
      }
      if (status.ok() && now - looked >= kLook) status = flight.look_after(looked = now);
    }
    return status.ok() ? io_.out.flush() : status;
  }

  // As SinkLoop does, but that records without a document to fetch only take their place.
  Status take(SinkFlight& flight, Duration now, bool& ended) {
    Duration wait = flight.under_way() > 0 ? Duration::zero() : flight.patience(now, kIdle);
    for (;;) {
      SinkBatch* batch = nullptr;
      SinkInput::Next const next = input_.next(batch, wait);
      ended = next == SinkInput::Next::end;
      if (next != SinkInput::Next::batch) return {};
      wait = Duration::zero();
      for (SinkBatch::Rejected const& one : batch->rejected) {
        if (Status status = reject(one.delivery, one.line, one.text, one.reason); !status.ok()) return status;
      }
      batch->open = batch->count;
      for (std::size_t i = 0; i < batch->count; ++i) {
        if (Status status = place(flight, batch->records[i], *batch); !status.ok()) return status;
      }
      if (batch->count == 0) input_.done(batch);
      if (!flight.hungry(now) || places_.size() > 1000) return {};
    }
  }

  Status place(SinkFlight& flight, SinkRecord& record, SinkBatch& batch) {
    record.group = first_ + static_cast<std::uint32_t>(places_.size());
    Place& place = places_.emplace_back();
    place.record = &record;
    place.batch = &batch;
    Record const& event = record.record;
    Value const data = event.is_event() ? event.attribute("data") : Value{};
    Value const reference = event.is_event() ? event.attribute("dataref") : Value{};
    if (!reference || event.is_deletion() || event.attribute("data_base64") ||
        (data && data.kind != Value::Kind::null)) {
      place.state = Place::State::as_it_is;
      place.delivery = record.delivery;
      return {};
    }
    std::string scratch;
    std::string_view const url = unquote(reference.raw, scratch);
    std::string const why =
        reference.kind == Value::Kind::string ? documents_->fault(url) : "dataref: is no text: " + public_url(url);
    if (why.empty()) {
      flight.add(record, batch);
      return {};
    }
    place.state = Place::State::gone;
    return reject(record.delivery, record.line, record.text, why);
  }

  // ---- SinkRequests

  [[nodiscard]] std::size_t max_in_flight() const override { return options_.documents.http.max_in_flight; }
  [[nodiscard]] bool one_by_one() override { return true; }
  [[nodiscard]] std::string_view key_of(SinkRecord const& record) const override {
    std::string_view const subject = record.record.text("subject", scratch_);
    return subject.empty() ? record.record.attribute("dataref").raw : subject;
  }
  [[nodiscard]] bool joins(SinkRecord const& first, SinkRecord const& next) const override {
    return first.record.attribute("dataref").raw == next.record.attribute("dataref").raw;
  }

  void start(SinkRecord const& record, std::size_t number) override {
    std::string scratch;
    std::string_view const reference = unquote(record.record.attribute("dataref").raw, scratch);
    documents_->start(reference, [this, number, asked = io_.clock.now()](DocumentAnswer& document) {
      answered(number, document, asked);
    });
  }

  Status turn(Duration wait, std::vector<SinkAnswer>& answers) override {
    Status status = documents_->turn(answers_.empty() ? wait : Duration::zero());
    std::move(answers_.begin(), answers_.end(), std::back_inserter(answers));
    answers_.clear();
    return status;
  }

  void answered(std::size_t number, DocumentAnswer& document, Time asked) {
    SinkAnswer answer{number, document.status, document.retry_after, document.load, document.doubts};
    bodies_.resize(std::max(bodies_.size(), number + 1));
    Body& body = bodies_[number];
    body = {.asked = asked};
    if (document.missing && options_.missing == "delete") {
      answer.status = {};
      answer.doubts = 0;
      body.deleted = true;
    } else {
      body.document = std::move(document);
      body.deleted = answer.status.ok() && is_null(body.document.body);
    }
    answers_.push_back(std::move(answer));
  }

  static bool is_null(std::string_view body) {
    std::size_t const begin = body.find_first_not_of(" \t\r\n");
    return begin != std::string_view::npos && body.substr(begin, 4) == "null" &&
           body.find_first_not_of(" \t\r\n", begin + 4) == std::string_view::npos;
  }

  // ---- outcomes

  Status heed(SinkFlight& flight, SinkAnswer const& answer, bool ended, Duration now) {
    auto outcome = flight.heed(answer, ended, now);
    if (!outcome) return outcome.status();
    if (outcome->jobs.empty()) return {};
    Status why = answer.status;
    SinkRecord const& last = *outcome->jobs.back().record;
    Place& place = places_[last.group - first_];
    if (outcome->fate == SinkFlight::Fate::stored) {
      Body& body = bodies_[answer.number];
      std::string const asked = json_string(format_rfc3339(body.asked));
      if (body.deleted) {
        write_deletion(last.record, asked, place.line);
      } else {
        why = write_document(last.record, body.document, asked, place.line);
        if (why.ok() && place.line.size() > options_.max_record)
          why =
              Status::rejected(fmt::format("with its document it has {} bytes, over --max-record", place.line.size()));
      }
      body = {};
    }
    for (SinkFlight::Job const& job : outcome->jobs) {
      Place& mine = places_[job.record->group - first_];
      mine.state = Place::State::gone;
      if (!why.ok()) {
        Status status = reject(job.record->delivery, job.record->line, job.record->text, why.what());
        if (!status.ok()) return status;
      } else if (!job.record->delivery.empty()) {
        place.delivery.append(place.delivery.empty() ? "" : ",").append(job.record->delivery);
      }
    }
    if (!why.ok()) {
      std::string().swap(place.line);
      return {};
    }
    place.state = Place::State::fetched;
    held_ += place.line.size();
    return {};
  }

  Status write_what_is_due() {
    bool wrote = false;
    for (; !places_.empty() && places_.front().state != Place::State::waiting; places_.pop_front(), ++first_) {
      Place& place = places_.front();
      if (place.state != Place::State::gone) {
        bool const fetched = place.state == Place::State::fetched;
        std::string_view line = fetched ? std::string_view(place.line) : place.record->text;
        if (fetched) held_ -= place.line.size();
        if (io_.receipts.active()) {
          front_ = fmt::format("{{\"delivery\":\"{}:{}\"{}", io_.receipts.token(), place.delivery,
                               line.size() > 2 ? "," : "");
          front_.append(line.substr(1));
          line = front_;
        }
        if (Status status = io_.out.line(line); !status.ok()) return status;
        forget_long(front_);
        ++counters().settled;
        wrote = true;
      }
      if (--place.batch->open == 0) input_.done(place.batch);
    }
    return wrote ? io_.out.flush() : Status{};
  }

  Status reject(std::string_view delivery, std::uint64_t line, std::string_view text, std::string_view reason) {
    ++counters().rejected;
    std::vector<Position> positions;
    if (!io_.receipts.active() || !parse_positions(delivery, positions)) return rejects_.reject(line, text, reason);
    PositionList list;
    list.add(positions);
    return io_.receipts.rejected(list, reason);
  }

  struct Body {
    DocumentAnswer document{};
    bool deleted = false;
    Time asked{};
  };

  Io& io_;
  HydrateOptions const& options_;
  RejectFile rejects_;
  SinkInput input_;
  std::unique_ptr<DocumentSource> documents_;

  // of the fetching thread
  std::vector<SinkAnswer> answers_;
  std::vector<Body> bodies_;  // by number
  std::deque<Place> places_;
  std::uint32_t first_ = 0;  // number of the first of them
  std::size_t held_ = 0;
  std::string front_;
  mutable std::string scratch_;
};

}  // namespace

void HydrateOptions::add_to(Cli& cli) {
  HttpOptions& http = documents.http;
  http.max_in_flight = 32;
  http.timeout = std::chrono::seconds(30);
  http.connect_timeout = std::chrono::seconds(10);
  cli.option("--max-in-flight", http.max_in_flight, "requests at a time, at most");
  cli.option("--rate", rate, "no more requests than this, as 100/s");
  cli.choice("--missing", missing, {"reject", "delete"}, "what a 404 says of a document");
  cli.option("--under", documents.under,
             "fetch only what is under this URL (may be repeated); s3:// and file:// need one");
  cli.option("--header-file", http.header_files,
             "send the headers in this file, one `Name: value` a line (may be repeated); needs --under");
  cli.option("--credentials", documents.google.file,
             "file of a Google service account (default: $GOOGLE_APPLICATION_CREDENTIALS); needs --under");
  cli.option("--token-file", documents.google.token_file, "send the token in this file as bearer; needs --under");
  cli.flag("--allow-html", documents.allow_html, "a 2xx with HTML is a document");
  cli.option("--timeout", http.timeout, "a request takes no longer");
  cli.option("--connect-timeout", http.connect_timeout, "connecting takes no longer");
  cli.size("--max-record", max_record, "reject records and documents above this size");
  cli.option("--dead-letters", dead_letters, "file for rejected records, where no source keeps them");
  cli.option("--give-up", give_up, "exit 75 when nothing is fetched for so long (a plain pipe: 10m, else never)");
}

std::string HydrateOptions::mistake() const {
  return rate.bytes ? "--rate: of requests, as 100/s" : documents.mistake();
}

Exit hydrate(Io& io, HydrateOptions const& options) { return Hydrator(io, options).run(); }

}  // namespace inflight

#include "common/influx_read.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "common/http.h"
#include "common/influx_answer.h"
#include "common/json_text.h"
#include "common/sql_row.h"
#include "common/stop.h"
#include "common/url.h"

namespace inflight {

namespace {

// An identifier or, with ' for `quote`, a string of InfluxQL.
std::string in_quotes(std::string_view text, char quote = '"') {
  std::string out(1, quote);
  for (char const c : text) {
    if (c == quote || c == '\\') out += '\\';
    if (c == '\n') out += "\\n";
    if (c != '\n') out += c;
  }
  return out += quote;
}

bool contains_any(std::string_view text, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view part) { return text.find(part) != std::string_view::npos; });
}

// A member's value: texts without the escapes that only InfluxDB needs, floats such that they are seen to be floats.
void append_value(std::string& out, std::string_view raw, bool is_float) {
  if (raw.front() == '"' && raw.find('\\') != std::string_view::npos) {
    std::string text;
    if (append_unquoted(text, raw)) return append_quoted(out, text);
  }
  out += raw;
  if (is_float && raw.find_first_not_of("-0123456789") == std::string_view::npos) out += ".0";
}

// What is wrong with a query of the operator's: this reads, and one answer at that.
Status check_query(std::string_view query) {
  std::string words(1, ' ');  // without what is quoted
  for (std::size_t i = 0; i < query.size(); ++i) {
    char const c = query[i];
    if (c == '"' || c == '\'') {
      for (++i; i < query.size() && query[i] != c; ++i) i += query[i] == '\\' ? 1 : 0;
    } else {
      words += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c == '\n' || c == '\t' || c == '\r' ? ' ' : c;
    }
  }
  while (words.size() > 1 && (words.back() == ' ' || words.back() == ';')) words.pop_back();
  std::size_t const first = std::min(words.find_first_not_of(' '), words.size());
  if (words.compare(first, 7, "select ") != 0) return Status::usage("--query: not a SELECT");
  if (words.find(';') != std::string::npos) return Status::usage("--query: one SELECT at a time");
  return words.find(" into ") == std::string::npos ? Status{} : Status::usage("--query: an INTO, which writes");
}

// One request, whose answer comes as it is asked for: what nobody takes stays in the socket.
class Query {
 public:
  Query(HttpClient& http, InfluxTarget const& target, std::vector<std::string> const& headers,
        InfluxAnswerReader::Rows& rows, std::string const& text)
      : http_(http), target_(target), reader_(rows) {
    HttpRequest request;
    request.method = "POST";
    request.url = target.url;
    request.headers = headers;
    request.headers.emplace_back("Content-Type: application/x-www-form-urlencoded");
    request.body = "q=";
    request.body += percent_encode(text);
    request.on_body = [this](std::string_view bytes) {
      fed_ = reader_.feed(bytes);
      return fed_.ok();
    };
    id_ = http.start(std::move(request), [this](HttpResponse& response) { conclude(response); });
  }
  Query(Query const&) = delete;
  Query& operator=(Query const&) = delete;
  ~Query() {
    if (!done_) http_.cancel(id_, "no longer wanted");
  }

  // Lets some of it come.
  Status turn() {
    Status const status = http_.turn(std::chrono::milliseconds(200));
    if (stopping()) return {Code::stopped, "stopped"};
    return status;
  }
  [[nodiscard]] bool done() const { return done_; }
  // Once it is done.
  [[nodiscard]] Status const& result() const { return result_; }

 private:
  void conclude(HttpResponse const& response) {
    done_ = true;
    std::string words = reader_.error();
    if (!fed_.ok()) {
      result_ = fed_.at(target_.shown);
    } else if (response.cause == HttpCause::none && words.empty()) {
      result_ = reader_.finish().at(target_.shown);
    } else if (response.cause == HttpCause::none) {
      result_ = Status{code_of(words), fmt::format("{}: {}", target_.shown, influx_words(words))};
    } else if (response.cause == HttpCause::status) {
      auto const json = nlohmann::json::parse(response.body, nullptr, false);
      words = json.is_object() && json.contains("error") && json["error"].is_string() ? json["error"].get<std::string>()
                                                                                      : response.body;
      bool const later = response.status >= 500 || response.status == 429 || response.status == 408;
      std::string const told = influx_words(words);
      result_ = {later ? Code::temporary : Code::usage,
                 fmt::format("{}: status {}{}{}", target_.shown, response.status, told.empty() ? "" : ": ", told)};
    } else {
      result_ = {response.misdirected() ? Code::usage : Code::temporary, response.error};
    }
  }

  // The operator's are those that come again whenever it is asked.
  static Code code_of(std::string_view words) {
    return contains_any(words,
                        {"not found", "parsing query", "not authorized", "authorization", "must ", "invalid",
                         "unsupported", "undefined", "expected", "max-select", "cannot", "mixing", "incompatible"})
               ? Code::usage
               : Code::temporary;
  }

  HttpClient& http_;
  InfluxTarget const& target_;
  InfluxAnswerReader reader_;
  Status fed_, result_;
  HttpClient::Id id_ = 0;
  bool done_ = false;
};

// What a short statement lists.
class Listed final : public InfluxAnswerReader::Rows {
 public:
  Status series(std::vector<std::string> const&, std::vector<std::pair<std::string, std::string>> const&) override {
    return {};
  }
  Status row(std::vector<std::string_view> const& values) override {
    std::vector<std::string> texts;
    for (std::string_view const value : values) {
      texts.emplace_back();
      if (!append_unquoted(texts.back(), value)) texts.back() = value;
    }
    rows.push_back(std::move(texts));
    return {};
  }
  std::vector<std::vector<std::string>> rows;
};

class PointReader final : public InfluxRows, private InfluxAnswerReader::Rows {
 public:
  PointReader(InfluxReadOptions const& options, InfluxTarget target, std::vector<std::string> headers,
              std::unique_ptr<HttpClient> http)
      : options_(options), target_(std::move(target)), headers_(std::move(headers)), http_(std::move(http)) {}

  Status start(std::string const& after) override {
    query_.reset();
    ready_.clear();
    group_.clear();
    after_ = after;
    after_time_.reset();
    if (!options_.query.empty()) {
      if (!after.empty())
        return Status::defect(fmt::format("{}: the answer was cut off behind row {}, and nothing tells where to go on",
                                          target_.shown, after));
      query_.emplace(*http_, target_, headers_, static_cast<InfluxAnswerReader::Rows&>(*this), options_.query);
      return {};
    }
    if (members_.empty()) {
      if (Status status = look_up(); !status.ok()) return status;
    }
    std::optional<Time> from = options_.from;
    if (!after.empty()) {
      auto const key = nlohmann::json::parse(after, nullptr, false);
      after_time_ = key.is_array() && !key.empty() && key[0].is_string() ? parse_rfc3339(key[0].get<std::string>())
                                                                         : std::nullopt;
      if (!after_time_) return Status::usage(fmt::format("the state is not one of points: {}", after));
      from = from ? std::max(*from, *after_time_) : *after_time_;
    }
    query_.emplace(*http_, target_, headers_, static_cast<InfluxAnswerReader::Rows&>(*this), select(from));
    return {};
  }

  Result<bool> next(std::string& line, std::string& key) override {
    while (ready_.empty()) {
      if (query_->done()) {
        if (!query_->result().ok()) return query_->result();
        if (group_.empty()) return false;
        hand_over();
        continue;
      }
      if (Status status = query_->turn(); !status.ok()) return status;
    }
    line.swap(ready_.front().line);
    key.swap(ready_.front().key);
    ready_.pop_front();
    ++rows_;
    return true;
  }

  std::uint64_t rows() const override { return rows_; }

 private:
  struct Row {
    std::string key, line;
    bool operator<(Row const& other) const { return key < other.key; }
  };
  // What a column of the answer is.
  struct Member {
    std::string name{};  // as a JSON string, with its colon
    std::string tag{};   // as it begins in the key, `"name=`; empty: a field
    bool is_float = false;
  };

  // Fields and tags of the measurement, and what is written of them.
  Status look_up() {
    std::string const from = in_quotes(options_.measurement);
    Listed fields, tags;
    for (auto [listed, statement] : {std::pair(&fields, "FIELD"), {&tags, "TAG"}}) {
      Query query(*http_, target_, headers_, *listed, fmt::format("SHOW {} KEYS FROM {}", statement, from));
      while (!query.done()) {
        if (Status status = query.turn(); !status.ok()) return status;
      }
      if (!query.result().ok()) return query.result();
    }
    if (fields.rows.empty())
      return Status::usage(fmt::format("{}: no such measurement: {}", target_.shown, options_.measurement));
    std::map<std::string, std::string> types;
    std::vector<std::string> names;
    std::vector<Member> members;
    columns_.clear();
    auto add = [&](std::string const& name, std::string const& column) {
      columns_ += fmt::format("{}{}", columns_.empty() ? "" : ",", column);
      members.push_back({json_string(name) + ":"});
      names.push_back(name);
    };
    for (auto const& field : fields.rows) {
      auto const [known, fresh] = types.emplace(field.at(0), field.at(1));
      if (!fresh)
        return Status::usage(
            fmt::format("{}: field {} is {} in some shards and {} in others, of which InfluxQL gives one",
                        target_.shown, field[0], known->second, field[1]));
      add(field[0], in_quotes(field[0]) + "::field");
      members.back().is_float = field[1] == "float";
    }
    for (auto const& tag : tags.rows) {
      add(types.contains(tag.at(0)) ? tag[0] + "_1" : tag[0], in_quotes(tag[0]) + "::tag");
      std::string text = json_string(tag[0]);
      text.back() = '=';
      members.back().tag = std::move(text);
    }
    std::vector<std::string> wanted = split_names(options_.columns);
    if (wanted.empty()) {
      wanted.emplace_back("time");
      std::size_t const count = fields.rows.size();
      for (std::size_t i = count; i < names.size(); ++i) wanted.push_back(names[i]);
      for (std::size_t i = 0; i < count; ++i) wanted.push_back(names[i]);
    }
    order_.clear();
    for (std::string const& name : wanted) {
      auto const found = std::find(names.begin(), names.end(), name);
      if (name != "time" && found == names.end())
        return Status::usage(fmt::format("{}: {} has no tag or field {}", target_.shown, options_.measurement, name));
      order_.push_back(name == "time" ? 0 : static_cast<std::size_t>(found - names.begin()) + 1);
    }
    members.insert(members.begin(), Member{"\"time\":"});
    members_ = std::move(members);
    return {};
  }

  [[nodiscard]] std::string select(std::optional<Time> from) const {
    std::vector<std::string> conditions;
    if (from) conditions.push_back(fmt::format("time>={}", from->ns));
    if (options_.to) conditions.push_back(fmt::format("time<{}", options_.to->ns));
    for (std::string const& tag : options_.tags) {
      std::size_t const equals = tag.find('=');
      conditions.push_back(in_quotes(tag.substr(0, equals)) + "::tag=" + in_quotes(tag.substr(equals + 1), '\''));
    }
    std::string text = fmt::format("SELECT {} FROM {}", columns_, in_quotes(options_.measurement));
    for (std::size_t i = 0; i < conditions.size(); ++i) text += (i == 0 ? " WHERE " : " AND ") + conditions[i];
    return text;
  }

  Status series(std::vector<std::string> const& columns,
                std::vector<std::pair<std::string, std::string>> const& tags) override {
    if (options_.query.empty())
      return columns.size() == members_.size() ? Status{} : Status::usage("not the columns that were asked for");
    grouped_.clear();
    for (auto const& [name, text] : tags) {
      if (text != "\"\"") grouped_ += fmt::format(",{}:{}", json_string(name), text);
    }
    members_.clear();
    for (std::string const& column : columns) members_.push_back({json_string(column) + ":"});
    return {};
  }

  Status row(std::vector<std::string_view> const& values) override {
    Time time;
    std::string_view const count = values[0];
    auto const [end, error] = std::from_chars(count.data(), count.data() + count.size(), time.ns);
    bool const timed = error == std::errc{} && end == count.data() + count.size();
    if (options_.query.empty()) return timed ? point(time, values) : Status::usage("a point without time");
    Row row;
    row.key = std::to_string(++answered_);
    row.line = "{";
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] == "null") continue;
      if (row.line.size() > 1) row.line += ',';
      row.line += members_[i].name;
      if (i == 0 && timed && members_[0].name == "\"time\":") {
        append_quoted(row.line, format_rfc3339(time));
      } else {
        append_value(row.line, values[i], false);
      }
    }
    row.line.append(grouped_, row.line.size() > 1 ? 0 : std::min<std::size_t>(1, grouped_.size())).push_back('}');
    ready_.push_back(std::move(row));
    return {};
  }

  Status point(Time time, std::vector<std::string_view> const& values) {
    if (group_.empty() || time != group_time_) {
      if (!group_.empty() && time < group_time_) return Status::usage("points that are not in the order of time");
      hand_over();
      group_time_ = time;
      time_ = '"' + format_rfc3339(time) + '"';
    }
    Row row;
    row.key.append(1, '[').append(time_);
    for (std::size_t i = 1; i < values.size(); ++i) {
      if (members_[i].tag.empty() || values[i] == "null" || values[i] == "\"\"") continue;
      row.key.append(1, ',').append(members_[i].tag).append(values[i].substr(1));
    }
    row.key += ']';
    if (after_time_ && time == *after_time_ && row.key <= after_) return {};
    row.line = "{";
    for (std::size_t const i : order_) {
      if (i > 0 && (values[i] == "null" || (!members_[i].tag.empty() && values[i] == "\"\""))) continue;
      if (row.line.size() > 1) row.line += ',';
      row.line += members_[i].name;
      if (i == 0) {
        row.line += time_;
      } else {
        append_value(row.line, values[i], members_[i].is_float);
      }
    }
    row.line += '}';
    group_.push_back(std::move(row));
    return {};
  }

  // The points of one time are all there.
  void hand_over() {
    std::sort(group_.begin(), group_.end());
    std::move(group_.begin(), group_.end(), std::back_inserter(ready_));
    group_.clear();
  }

  InfluxReadOptions options_;
  InfluxTarget target_;
  std::vector<std::string> headers_;
  std::unique_ptr<HttpClient> http_;
  std::string columns_;             // of the SELECT
  std::vector<Member> members_;     // of an answer's columns, time first
  std::vector<std::size_t> order_;  // of members in a record
  std::string grouped_;             // the tags of a series, in --query
  std::uint64_t answered_ = 0, rows_ = 0;
  std::string after_;
  std::optional<Time> after_time_;
  std::vector<Row> group_;  // the points of one time, as far as they are there
  Time group_time_;
  std::string time_;
  std::deque<Row> ready_;
  std::optional<Query> query_;
};

}  // namespace

Result<std::unique_ptr<InfluxRows>> InfluxRows::make(InfluxReadOptions const& options, HttpOptions const& http) {
  if (options.measurement.empty() == options.query.empty())
    return Status::usage("give either --measurement or --query");
  if (!options.query.empty() && (options.from || options.to || !options.tags.empty() || !options.columns.empty()))
    return Status::usage("--query says itself what --from, --to, --tag and --columns would");
  if (!options.query.empty()) {
    if (Status status = check_query(options.query); !status.ok()) return status;
  }
  if (options.from && options.to && *options.from > *options.to)
    return Status::usage(
        fmt::format("--from {} is after --to {}", format_rfc3339(*options.from), format_rfc3339(*options.to)));
  for (std::string const& tag : options.tags) {
    if (std::size_t const equals = tag.find('='); equals == 0 || equals == std::string::npos)
      return Status::usage(fmt::format("--tag {}: not name=value", tag));
  }
  auto target = InfluxTarget::parse_query(options.url);
  if (!target) return target.status();
  auto headers = options.credentials.headers(*target);
  if (!headers) return headers.status();
  HttpOptions transfer = http;
  transfer.decode = !target->local;  // compressing for a neighbour takes longer than sending
  auto client = HttpClient::make(transfer);
  if (!client) return client.status();
  return std::unique_ptr<InfluxRows>(
      std::make_unique<PointReader>(options, std::move(*target), std::move(*headers), std::move(*client)));
}

}  // namespace inflight

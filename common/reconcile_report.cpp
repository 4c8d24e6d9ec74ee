#include "common/reconcile_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/exchange.h"
#include "common/messages.h"

namespace inflight {

namespace {

using nlohmann::ordered_json;

std::string dump(ordered_json const& json) { return json.dump(2, ' ', false, ordered_json::error_handler_t::replace); }

ordered_json names_of(std::vector<Path> const& paths) {
  ordered_json names = ordered_json::array();
  for (Path const& path : paths) names.push_back(path.text());
  return names;
}

std::string joined(std::vector<Path> const& paths) {
  std::string text;
  for (Path const& path : paths) text += (text.empty() ? "" : ", ") + path.text();
  return text;
}

ordered_json to_json(ReconcileResult::Side const& side) {
  return {{"records", side.records},
          {"keys", side.keys},
          {"duplicated", side.duplicated},
          {"xxh3_128_sum", side.digest.text()}};
}

// `"bsu-1"` of a key of one part, `["bsu-1","2018-07-01T00:00:00Z"]` of one of several.
std::string key_text(Difference const& difference, std::size_t parts) {
  return parts == 1 ? difference.key.substr(1, difference.key.size() - 2) : difference.key;
}

}  // namespace

Result<Backlogged> read_backlog(Clock& clock, std::string const& exchange, std::string const& subscriber) {
  if (Status status = check_exchange_name(exchange); !status.ok()) return status;
  if (Status status = check_subscriber_name(subscriber); !status.ok()) return status;
  auto subscribers = list_subscribers(clock, exchange);
  if (!subscribers) return subscribers.status();
  for (Subscriber const& s : *subscribers) {
    if (s.name == subscriber) return Backlogged{s.behind, s.dead, s.lost};
  }
  return Status::usage(fmt::format("{} has no subscriber {}", exchange, subscriber));
}

bool ReconcileReport::add(Difference const& difference) {
  if (++counts_[difference.kind] > show_) return false;
  shown_.push_back(difference);
  return true;
}

std::int64_t ReconcileReport::unaccounted() const {
  std::uint64_t const known = backlog_ ? backlog_->pending + backlog_->dead_lettered : 0;
  return static_cast<std::int64_t>(result_.left.keys) - static_cast<std::int64_t>(written()) -
         static_cast<std::int64_t>(known);
}

std::string ReconcileReport::balance() const {
  if (!backlog_) return fmt::format("in {} = written {} + missing {}", result_.left.keys, written(), result_.missing);
  std::int64_t const rest = unaccounted();
  return fmt::format("in {} = written {} + dead-lettered {} + pending {}{}{}", result_.left.keys, written(),
                     backlog_->dead_lettered, backlog_->pending,
                     rest == 0  ? ""
                     : rest > 0 ? fmt::format(" + unaccounted for {}", rest)
                                : fmt::format(" - {} that are there already", -rest),
                     backlog_->lost == 0 ? "" : fmt::format(" (lost by the exchange: {})", backlog_->lost));
}

std::string ReconcileReport::summary() const {
  ReconcileResult const& r = result_;
  return fmt::format(
      "{}: {} keys on the left, {} on the right: equal {}, missing {}, extra {}, different {}, "
      "duplicated {}{}; {}",
      r.same() ? "equal" : "different", r.left.keys, r.right.keys, r.equal, r.missing, r.extra, r.different,
      r.left.duplicated + r.right.duplicated,
      r.rechecked ? fmt::format("; of {} read again {} differ no more", *r.rechecked, r.settled) : "", balance());
}

std::string ReconcileReport::json() const {
  ReconcileResult const& r = result_;
  ordered_json json = {{"verdict", r.same() ? "equal" : "different"}};
  if (commands_) json["commands"] = {{"left", redact(options_.left)}, {"right", redact(options_.right)}};
  json["key"] = names_of(options_.key);
  json["fields"] = options_.fields.empty() ? ordered_json("all") : names_of(options_.fields);
  json["precision"] = format_duration(options_.canonical.precision);
  json["ignore_null"] = options_.canonical.ignore_null;
  json["left"] = to_json(r.left);
  json["right"] = to_json(r.right);
  json["equal"] = r.equal;
  json["missing"] = r.missing;
  json["extra"] = r.extra;
  json["different"] = r.different;
  if (r.rechecked) json["rechecked"] = {{"keys", *r.rechecked}, {"differ_no_more", r.settled}};
  json["balance"] = {{"in", r.left.keys}, {"written", written()}};
  if (backlog_) {
    json["balance"]["dead_lettered"] = backlog_->dead_lettered;
    json["balance"]["pending"] = backlog_->pending;
    json["balance"]["lost"] = backlog_->lost;
  }
  json["balance"]["unaccounted"] = unaccounted();
  json["differences"] = ordered_json::array();
  for (Difference const& difference : shown_) {
    ordered_json one = {{"kind", name_of(difference.kind)},
                        {"key", ordered_json::parse(difference.key, nullptr, false)}};
    if (!difference.what.empty()) one["what"] = difference.what;
    json["differences"].push_back(std::move(one));
  }
  return dump(json) + "\n";
}

std::string ReconcileReport::text() const {
  ReconcileResult const& r = result_;
  std::string out;
  auto line = [&](std::string_view name, auto const& left, auto const& right) {
    fmt::format_to(std::back_inserter(out), "{:<12}{:>34}{:>34}\n", name, left, right);
  };
  auto count = [&](std::string_view name, std::uint64_t n) {
    fmt::format_to(std::back_inserter(out), "{:<12}{:>34}\n", name, n);
  };
  fmt::format_to(
      std::back_inserter(out), "{}\n\nkey: {}\ncompared: {}, times to {}{}\n", r.same() ? "EQUAL" : "DIFFERENT",
      joined(options_.key), options_.fields.empty() ? "all of the data" : joined(options_.fields),
      format_duration(options_.canonical.precision), options_.canonical.ignore_null ? ", null as absent" : "");
  if (commands_)
    fmt::format_to(std::back_inserter(out), "left: {}\nright: {}\n", redact(options_.left), redact(options_.right));
  out += '\n';
  line("", "left", "right");
  line("records", r.left.records, r.right.records);
  line("keys", r.left.keys, r.right.keys);
  line("duplicated", r.left.duplicated, r.right.duplicated);
  line("digest", r.left.digest.text(), r.right.digest.text());
  out += '\n';
  count("equal", r.equal);
  count("missing", r.missing);
  count("extra", r.extra);
  count("different", r.different);
  if (r.rechecked) {
    count("read again", *r.rechecked);
    count("settled", r.settled);
  }
  fmt::format_to(std::back_inserter(out), "\n{}\n", balance());
  if (!shown_.empty()) out += '\n';
  for (Difference const& difference : shown_)
    fmt::format_to(std::back_inserter(out), "{} {}{}{}\n", name_of(difference.kind),
                   key_text(difference, options_.key.size()), difference.what.empty() ? "" : ": ", difference.what);
  for (auto const& [kind, number] : counts_) {
    if (number > show_) {
      Difference const of_kind{kind, "", ""};
      fmt::format_to(std::back_inserter(out), "and {} more {}\n", number - show_, name_of(of_kind.kind));
    }
  }
  return out;
}

std::string to_message(Difference const& difference) {
  return fmt::format("{}: {}{}{}", name_of(difference.kind), difference.key, difference.what.empty() ? "" : ": ",
                     difference.what);
}

}  // namespace inflight

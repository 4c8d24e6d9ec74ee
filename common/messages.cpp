#include "common/messages.h"

#include <fmt/format.h>
#include <unistd.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "common/fd_io.h"
#include "common/time.h"

namespace inflight {

// `scheme://user:password@host` loses its password, `https://token@host` its token; so do the values of arguments that
// are named like secrets.
std::string redact_urls(std::string text) {
  for (std::size_t at = 0; (at = text.find("://", at)) != std::string::npos; at += 3) {
    std::size_t const begin = at + 3;
    std::size_t const end = std::min(text.find_first_of("/?# \t\n\"'", begin), text.size());
    std::size_t const host = text.rfind('@', end);
    if (host == std::string::npos || host < begin || host >= end) continue;
    std::size_t const colon = text.find(':', begin);
    bool const web =
        text.compare(at >= 4 ? at - 4 : 0, 4, "http") == 0 || text.compare(at >= 5 ? at - 5 : 0, 5, "https") == 0;
    if (colon > host && !web) continue;  // a name alone; of a web address it may be a token
    std::size_t const from = colon > host ? begin : colon + 1;
    text.replace(from, host - from, "***");
  }
  for (std::string_view name : {"password=", "token=", "secret=", "access_token=", "auth=", "p="}) {
    for (std::size_t at = 0; (at = text.find(name, at)) != std::string::npos; at += name.size()) {
      if (at == 0 || (text[at - 1] != '?' && text[at - 1] != '&')) continue;
      std::size_t const begin = at + name.size();
      std::size_t const end = std::min(text.find_first_of("&# \t\n\"'", begin), text.size());
      text.replace(begin, end - begin, "***");
    }
  }
  return text;
}

namespace {

struct Messages {
  std::mutex mutex;
  std::string tool = "inflight";
  LogFormat format = LogFormat::text;
  std::vector<std::string> secrets;
  std::string status_line;
};

Messages& messages() {
  static Messages instance;
  return instance;
}

std::string redact_all(Messages const& m, std::string_view text) {
  std::string clean = redact_urls(std::string(text));
  for (std::string const& secret : m.secrets) {
    for (std::size_t at = 0; (at = clean.find(secret, at)) != std::string::npos; at += 3) {
      clean.replace(at, secret.size(), "***");
    }
  }
  return clean;
}

void say(char const* level, std::string_view what) {
  Messages& m = messages();
  std::lock_guard const lock(m.mutex);
  std::string text = redact_all(m, what);
  std::string line;
  if (m.format == LogFormat::json) {
    nlohmann::ordered_json const object = {
        {"time", format_rfc3339(system_clock().now())}, {"level", level}, {"tool", m.tool}, {"message", text}};
    line = object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  } else {
    for (char& c : text) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = c == '\n' || c == '\t' ? ' ' : '?';
    }
    line = fmt::format("{}: {}", m.tool, text);
  }
  if (!m.status_line.empty()) line.insert(0, "\r\x1b[K");
  line += '\n';
  if (!m.status_line.empty()) line += m.status_line;
  (void)write_all(STDERR_FILENO, line, "standard error");  // where would a failure be told?
}

}  // namespace

void set_tool_name(std::string name) { messages().tool = std::move(name); }

std::string const& tool_name() { return messages().tool; }

void set_log_format(LogFormat format) { messages().format = format; }

void add_secret(std::string_view secret) {
  if (secret.size() < 3) return;
  std::lock_guard const lock(messages().mutex);
  messages().secrets.emplace_back(secret);
}

std::string redact(std::string_view text) {
  std::lock_guard const lock(messages().mutex);
  return redact_all(messages(), text);
}

void say_error(std::string_view what) { say("error", what); }
void say_warning(std::string_view what) { say("warning", what); }
void say_warning_once(std::string const& what) {
  constexpr std::size_t most = 1000;
  static std::mutex mutex;
  static std::set<std::string> told;
  std::lock_guard const lock(mutex);
  if (told.size() < most && told.insert(what).second) say_warning(what);
}
void say_info(std::string_view what) { say("info", what); }

void set_status_line(std::string line) {
  Messages& m = messages();
  std::lock_guard const lock(m.mutex);
  if (line.empty() && m.status_line.empty()) return;
  m.status_line = std::move(line);
  (void)write_all(STDERR_FILENO, "\r\x1b[K" + m.status_line, "standard error");
}

}  // namespace inflight

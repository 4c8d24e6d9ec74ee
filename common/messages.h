// What a tool says on standard error: one line, `tool: what: why`; JSON with --log-format json.
// Secrets that were registered are redacted in every line.
#pragma once

#include <string>
#include <string_view>

namespace inflight {

enum class LogFormat { text, json };

// Once, from tool_main and the command line.
void set_tool_name(std::string name);
[[nodiscard]] std::string const& tool_name();
void set_log_format(LogFormat format);

// Whatever contains this text later shows `***` instead.
void add_secret(std::string_view secret);
// The text with registered secrets and the password of any URL in it replaced.
[[nodiscard]] std::string redact(std::string_view text);
// Of a text only what stands in URLs as a secret does: the same whatever was registered.
[[nodiscard]] std::string redact_urls(std::string text);

void say_error(std::string_view what);
// Something the operator should know though nothing has failed (a lagging subscriber, a destination that is waited
// for).
void say_warning(std::string_view what);
// The same text once, whoever says it; after a thousand texts no more.
void say_warning_once(std::string const& what);
// What was asked for, on standard error since standard output is for records (`crawl` prints its keys seen).
void say_info(std::string_view what);

// The status line of a terminal (metrics.h draws it); a message clears it first. Empty: none.
void set_status_line(std::string line);

}  // namespace inflight

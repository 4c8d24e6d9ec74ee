#include "common/jq_program.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>

#include "common/fd_io.h"
#include "common/messages.h"

namespace inflight {

namespace {

constexpr std::size_t kLongMessage = 500;

Receipts g_receipts;  // for what is said on the way out; set before any program runs
thread_local std::string_view t_about;

std::string text_of(jv value) {  // consumes it
  JqValue const text(jv_get_kind(value) == JV_KIND_STRING ? value : jv_dump_string(value, 0));
  return {jv_string_value(text.get()), static_cast<std::size_t>(jv_string_length_bytes(text.copy()))};
}

// One line of at most so many bytes, whole characters.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  if (text.size() > kLongMessage) {
    std::size_t cut = kLongMessage;
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) --cut;
    text.resize(cut);
    text += "…";
  }
  return text;
}

// `jq: error: WHAT at <top-level>, line 1:`, the line, and `jq: 1 compile error`, in one line.
std::string compile_error(std::string_view said) {
  std::string all;
  while (!said.empty()) {
    std::size_t const newline = std::min(said.find('\n'), said.size());
    std::string_view line = said.substr(0, newline);
    said.remove_prefix(std::min(newline + 1, said.size()));
    for (std::string_view const front : {"jq: error: ", "error: "}) {
      if (line.starts_with(front)) line.remove_prefix(front.size());
    }
    if (line.empty() || (line.starts_with("jq: ") && line.find("compile error") != std::string_view::npos)) continue;
    if (!all.empty()) all += ' ';
    all += line;
  }
  return one_line(all);
}

// libjq aborts where no memory is left, and where an assertion of its own fails; it frees values deep in each other by
// recursion, which overflows the stack. Memory itself is in order, so that a message can be made.
extern "C" void on_end(int /*number*/) {
  rlimit limit{};
  ::getrlimit(RLIMIT_DATA, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_DATA, &limit);
  say_error(fmt::format("the program takes more than --max-memory, or recurses too deeply: {}", t_about));
  (void)g_receipts.exit(static_cast<int>(Exit::defect));
  ::_exit(static_cast<int>(Exit::defect));
}

void watch_this_thread() {
  static thread_local std::unique_ptr<char[]> stack;
  if (stack) return;
  constexpr std::size_t size = 64 << 10;
  stack = std::make_unique<char[]>(size);
  stack_t const alternate{stack.get(), 0, size};
  ::sigaltstack(&alternate, nullptr);
}

jv no_input(jq_state* /*state*/, void* /*unused*/) { return jv_invalid(); }

void debug(void* /*unused*/, jv message) { say_info("debug: " + one_line(text_of(message))); }

// The values that a text holds, as an array.
Result<JqValue> parse_all(std::string const& text) {
  std::unique_ptr<jv_parser, void (*)(jv_parser*)> const parser(jv_parser_new(0), jv_parser_free);
  jv_parser_set_buf(parser.get(), text.data(), static_cast<int>(text.size()), 0);
  jv all = jv_array();
  jv value = jv_parser_next(parser.get());
  for (; jv_is_valid(value) != 0; value = jv_parser_next(parser.get())) all = jv_array_append(all, value);
  JqValue result(all);
  if (jv_invalid_has_msg(jv_copy(value)) == 0) return jv_free(value), std::move(result);
  return Status::usage(one_line(text_of(jv_invalid_get_msg(value))));
}

Result<JqValue> arguments(JqSource const& source) {
  jv named = jv_object();
  auto set = [&named](std::string const& name, jv value) {
    named = jv_object_set(named, jv_string_sized(name.data(), static_cast<int>(name.size())), value);
  };
  Status failed;
  for (auto const& [name, text] : source.strings) {
    set(name, jv_string_sized(text.data(), static_cast<int>(text.size())));
  }
  for (auto const& [name, text] : source.values) {
    auto values = parse_all(text);
    if (values && jv_array_length(values->copy()) == 1) {
      set(name, jv_array_get(values->release(), 0));
    } else if (failed.ok()) {
      failed = Status::usage(
          fmt::format("--argjson {}: {}", name, values ? "not one JSON value" : values.status().what().c_str()));
    }
  }
  for (auto const& [name, path] : source.files) {
    auto text = read_file(path);
    auto values = text ? parse_all(*text) : Result<JqValue>(text.status());
    if (values) {
      set(name, values->release());
    } else if (failed.ok()) {
      failed =
          Status::usage(fmt::format("--slurpfile {}: {}{}", name, text ? path + ": " : "", values.status().what()));
    }
  }
  JqValue result(named);
  if (!failed.ok()) return failed;
  return result;
}

}  // namespace

Result<std::string> read_program(JqSource const& source) {
  if (source.file.empty()) return source.program;
  auto text = read_file(source.file);
  if (!text) return Status::usage(text.status().what());
  return text;
}

void bound_jq_memory(std::uint64_t bytes, Receipts receipts) {
  g_receipts = std::move(receipts);
  struct sigaction action {};
  action.sa_handler = on_end;
  action.sa_flags = SA_ONSTACK | static_cast<int>(SA_RESETHAND);
  sigemptyset(&action.sa_mask);
  for (int const number : {SIGSEGV, SIGABRT}) ::sigaction(number, &action, nullptr);
  // proc(5), statm: the sixth number is data and stack, in pages.
  std::ifstream statm("/proc/self/statm");
  std::uint64_t pages = 0;
  for (int i = 0; i < 6; ++i) statm >> pages;
  rlimit limit{};
  if (::getrlimit(RLIMIT_DATA, &limit) != 0) return;
  limit.rlim_cur =
      std::min<rlim_t>(limit.rlim_max, bytes + pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
  ::setrlimit(RLIMIT_DATA, &limit);
}

Result<JqProgram> JqProgram::compile(JqSource const& source) {
  auto program = read_program(source);
  if (!program) return program.status();
  auto named = arguments(source);
  if (!named) return named.status();
  if (program->find('\0') != std::string::npos) return Status::usage("the program holds a NUL byte");
  watch_this_thread();
  JqProgram result;
  result.state_.reset(jq_init());
  jq_state* const state = result.state_.get();
  std::string said;
  jq_set_error_cb(
      state, [](void* to, jv message) { static_cast<std::string*>(to)->append(text_of(message)).push_back('\n'); },
      &said);
  jq_set_input_cb(state, no_input, nullptr);
  jq_set_debug_cb(state, debug, nullptr);
  std::string const folder = source.file.empty() ? "." : parent_folder(source.file);
  jq_set_attr(state, jv_string("PROGRAM_ORIGIN"), jv_string(folder.c_str()));
  jq_set_attr(state, jv_string("JQ_LIBRARY_PATH"), JV_ARRAY(jv_string("./")));
  jv const all = jv_object_set(named->copy(), jv_string("ARGS"),
                               JV_OBJECT(jv_string("positional"), jv_array(), jv_string("named"), named->copy()));
  if (jq_compile_args(state, program->c_str(), all) == 0) {
    return Status::usage(fmt::format("{}: {}", source.file.empty() ? "the program" : source.file, compile_error(said)));
  }
  jq_set_error_cb(
      state, [](void*, jv message) { jv_free(message); }, nullptr);
  return result;
}

Status JqProgram::run(jv input, std::string_view about, std::function<Status(JqValue)> const& take) {
  watch_this_thread();
  t_about = about;
  jq_state* const state = state_.get();
  jq_start(state, input, 0);
  for (;;) {
    JqValue value(jq_next(state));
    if (jv_is_valid(value.get()) != 0) {
      if (Status status = take(std::move(value)); !status.ok()) return status;
      continue;
    }
    if (jq_halted(state) != 0) {
      JqValue message(jq_get_error_message(state));
      bool const says = jv_is_valid(message.get()) != 0;
      return Status::rejected(says ? one_line(text_of(message.release())) : "the program halts");
    }
    if (jv_invalid_has_msg(value.copy()) == 0) return {};
    jv const message = jv_invalid_get_msg(value.release());
    bool const is_text = jv_get_kind(message) == JV_KIND_STRING;
    std::string text = text_of(message);
    return Status::rejected(one_line(is_text ? std::move(text) : "(not a string): " + text));
  }
}

}  // namespace inflight

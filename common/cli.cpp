#include "common/cli.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <set>

#include "common/fd_io.h"
#include "common/messages.h"

namespace inflight {

namespace {

// The file of --options: `name = value` a line, repeated for an option that may be; quotes around a value are not part
// of it. What CLI11 reads itself would cut `/bsu/power/#text` at its #, and `subject,time` at its comma.
class OptionsFile final : public CLI::Config {
 public:
  explicit OptionsFile(std::set<std::string> const& pairs) : pairs_(pairs) {}

  [[nodiscard]] std::string to_config(CLI::App const*, bool, bool, std::string) const override { return {}; }

  [[nodiscard]] std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> options;
    std::string line;
    for (std::size_t number = 1; std::getline(input, line); ++number) {
      CLI::detail::trim(line);
      if (line.empty() || line.front() == '#' || line.front() == ';') continue;
      if (line.front() == '[') throw CLI::ConfigError(fmt::format("--options: line {}: not `name = value`", number));
      std::size_t const equals = std::min(line.find('='), line.size());
      std::string name = CLI::detail::trim_copy(line.substr(0, equals));
      name.erase(0, std::min(name.find_first_not_of('-'), name.size()));
      std::string value = equals == line.size() ? "true" : CLI::detail::trim_copy(line.substr(equals + 1));
      CLI::detail::remove_quotes(value);
      auto same =
          std::find_if(options.begin(), options.end(), [&](CLI::ConfigItem const& item) { return item.name == name; });
      if (same == options.end()) same = options.insert(options.end(), {{}, name, {}});
      std::size_t const space = pairs_.contains(same->name) ? std::min(value.find(' '), value.size()) : value.size();
      same->inputs.push_back(value.substr(0, space));
      if (space < value.size()) same->inputs.push_back(CLI::detail::trim_copy(value.substr(space)));
    }
    return options;
  }

 private:
  std::set<std::string> const& pairs_;  // options that take two words
};

Exit print(std::string const& text) {
  Status const status = write_all(STDOUT_FILENO, text, "standard output");
  if (status.ok() || status.code() == Code::closed) return Exit::ok;
  say_error(status.what());
  return Exit::defect;
}

}  // namespace

struct Cli::State {
  std::set<std::string> pairs;  // options that take two words
  CLI::App app;
  std::vector<std::string> arguments;  // in reverse, as CLI11 takes them
  std::vector<std::string> words;      // behind `--`
  bool has_dashes = false;
  std::vector<std::string>* pipeline = nullptr;
  CommonOptions common;
  std::string log_format = "text";

  using Set = std::function<Status(std::string const&)>;

  CLI::Option* add(std::string const& name, std::string const& help, std::string const& type,
                   std::string const& fallback, Set const& set) {
    auto* option = app.add_option(
        name,
        [name, set](CLI::results_t const& results) {
          for (std::string const& text : results) {
            if (Status status = set(text); !status.ok()) throw CLI::ValidationError(name, status.what());
          }
          return true;
        },
        help);
    option->type_name(type)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    if (!fallback.empty()) option->default_str(fallback);
    return option;
  }
};

Cli::Cli(int argc, char** argv) : state_(std::make_unique<State>()) {
  State& s = *state_;
  bool behind = false;
  for (int i = 1; i < argc; ++i) {
    std::string const word = argv[i];
    if (behind) {
      s.words.push_back(word);
    } else if (word == "--") {
      behind = s.has_dashes = true;
    } else {
      // Known before all else, so that even a usage error is told as asked for.
      if (word == "--log-format=json" ||
          (word == "json" && !s.arguments.empty() && s.arguments.back() == "--log-format")) {
        set_log_format(LogFormat::json);
      }
      s.arguments.push_back(word);
    }
  }
  s.app.name(tool_name());
  s.app.set_help_flag("--help", "print this and exit");
  s.app.set_version_flag("--version", fmt::format("{} {}", tool_name(), INFLIGHT_VERSION),
                         "print the version and exit");
  s.app.config_formatter(std::make_shared<OptionsFile>(s.pairs));
  s.app.set_config("--options", "", "read options from FILE, one `name = value` a line")->type_name("FILE");
  s.app.get_formatter()->column_width(34);
}

Cli::~Cli() = default;

void Cli::purpose(std::string text, std::vector<std::string> examples) {
  state_->app.description(std::move(text));
  state_->app.footer(
      fmt::format("\nExamples:\n  {}\n\nManual: {}(1), inflight(7)", fmt::join(examples, "\n  "), tool_name()));
}

void Cli::positional(std::string const& name, std::string& value, std::string const& help) {
  positional_optional(name, value, help);
  state_->app.get_option(name)->required();
}
void Cli::positional_optional(std::string const& name, std::string& value, std::string const& help) {
  state_->add(name, help, "", value, [&value](std::string const& text) { return value = text, Status{}; });
}
void Cli::positional_list(std::string const& name, std::vector<std::string>& values, std::string const& help) {
  state_->add(name, help, "", "", [&values](std::string const& text) { return values.push_back(text), Status{}; })
      ->expected(-1)
      ->allow_extra_args()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}
void Cli::required(std::string const& name, std::string& value, std::string const& help) {
  option(name, value, help);
  state_->app.get_option(name.substr(name.find("--")))->required();
}
void Cli::option(std::string const& name, std::string& value, std::string const& help) {
  state_->add(name, help, "TEXT", value, [&value](std::string const& text) { return value = text, Status{}; });
}
void Cli::option(std::string const& name, std::uint64_t& value, std::string const& help) {
  state_->add(name, help, "N", fmt::format("{}", value), [&value](std::string const& text) {
    if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos) {
      return Status::usage(fmt::format("'{}' is not a whole number", text));
    }
    value = std::stoull(text);
    return Status{};
  });
}
void Cli::option(std::string const& name, Duration& value, std::string const& help) {
  state_->add(name, help, "DURATION", value == Duration::zero() ? "" : format_duration(value),
              [&value](std::string const& text) {
                auto parsed = parse_duration(text);
                if (parsed) value = *parsed;
                return parsed.status();
              });
}
void Cli::option(std::string const& name, Rate& value, std::string const& help) {
  state_->add(name, help, "RATE", "", [&value](std::string const& text) {
    auto parsed = parse_rate(text);
    if (parsed) value = *parsed;
    return parsed.status();
  });
}
void Cli::option(std::string const& name, std::optional<Time>& value, std::string const& help) {
  state_->add(name, help, "TIME", "", [&value](std::string const& text) {
    auto parsed = parse_when(text, system_clock().now());
    if (parsed) value = *parsed;
    return parsed.status();
  });
}
void Cli::option(std::string const& name, std::vector<std::string>& values, std::string const& help) {
  state_->add(name, help, "TEXT", "", [&values](std::string const& text) { return values.push_back(text), Status{}; })
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
}
void Cli::pairs(std::string const& name, std::vector<std::pair<std::string, std::string>>& values,
                std::string const& type, std::string const& help) {
  state_->pairs.insert(name.substr(name.find("--") + 2));
  state_->app
      .add_option(
          name,
          [&values](CLI::results_t const& results) {
            for (std::size_t i = 0; i + 1 < results.size(); i += 2) values.emplace_back(results[i], results[i + 1]);
            return true;
          },
          help)
      ->type_name(type)
      ->type_size(2)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
}
void Cli::size(std::string const& name, std::uint64_t& value, std::string const& help) {
  std::string fallback = fmt::format("{}", value);
  if (value >= 1024 && value % 1024 == 0) {
    fallback = value % (1 << 20) == 0 ? fmt::format("{}MiB", value >> 20) : fmt::format("{}KiB", value >> 10);
  }
  state_->add(name, help, "SIZE", value == 0 ? "" : fallback, [&value](std::string const& text) {
    auto parsed = parse_size(text);
    if (parsed) value = *parsed;
    return parsed.status();
  });
}
void Cli::choice(std::string const& name, std::string& value, std::vector<std::string> choices,
                 std::string const& help) {
  std::string const type = fmt::format("{}", fmt::join(choices, "|"));
  state_->add(name, help, type, value, [&value, choices, type](std::string const& text) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      return Status::usage(fmt::format("'{}' is not one of {}", text, type));
    }
    value = text;
    return Status{};
  });
}
void Cli::flag(std::string const& name, bool& value, std::string const& help) {
  state_->app.add_flag(name, value, help);
}

void Cli::pipeline(std::vector<std::string>& words) { state_->pipeline = &words; }

CommonOptions const& Cli::common() const { return state_->common; }

Exit Cli::wrong(std::string const& what) {
  say_error(what);
  return Exit::usage;
}

std::optional<Exit> Cli::parse() {
  State& s = *state_;
  choice("--log-format", s.log_format, {"text", "json"}, "messages on standard error as text or JSON lines");
  option("--metrics", s.common.metrics_file, "keep counters in this file as Prometheus text");
  flag("--progress", s.common.progress, "show a progress line though standard error is no terminal");
  if (s.pipeline != nullptr) {
    s.app.description(s.app.get_description() +
                      "\n-- PIPELINE runs it and loses nothing: one string for bash, or a program and its arguments");
  }
  if (s.pipeline == nullptr) {
    s.arguments.insert(s.arguments.end(), s.words.begin(), s.words.end());
  } else if (s.has_dashes && s.words.empty()) {
    return wrong("-- without a pipeline behind it");
  } else {
    *s.pipeline = s.words;
  }
  try {
    std::vector<std::string> arguments(s.arguments.rbegin(), s.arguments.rend());
    s.app.parse(std::move(arguments));
  } catch (CLI::CallForHelp const&) {
    return print(s.app.help());
  } catch (CLI::CallForVersion const& version) {
    return print(std::string(version.what()) + "\n");
  } catch (CLI::ParseError const& error) {
    std::string what = error.what();
    if (dynamic_cast<CLI::FileError const*>(&error) != nullptr) what.insert(0, "--options: ");
    for (char& c : what) {
      if (c == '\n') c = ' ';
    }
    return wrong(fmt::format("{} (try --help)", what));
  }
  set_log_format(s.log_format == "json" ? LogFormat::json : LogFormat::text);
  return std::nullopt;
}

}  // namespace inflight

// The command line, on CLI11. Parsing opens nothing but the file of --options.
//
// Every tool also has --options FILE, --log-format, --metrics, --progress, --help and --version. Whatever follows `--`
// is the pipeline of a source.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "common/time.h"
#include "common/units.h"

namespace inflight {

struct CommonOptions {
  std::string metrics_file;
  bool progress = false;
};

class Cli {
 public:
  Cli(int argc, char** argv);
  ~Cli();

  // The first line of --help, and at least two examples.
  void purpose(std::string text, std::vector<std::string> examples);

  // Names are `--long` or `-f,--long`. The value that stands there is the default, told by --help.
  void positional(std::string const& name, std::string& value, std::string const& help);
  void positional_optional(std::string const& name, std::string& value, std::string const& help);
  void positional_list(std::string const& name, std::vector<std::string>& values, std::string const& help);
  void required(std::string const& name, std::string& value, std::string const& help);
  void option(std::string const& name, std::string& value, std::string const& help);
  void option(std::string const& name, std::uint64_t& value, std::string const& help);
  void option(std::string const& name, Duration& value, std::string const& help);
  void option(std::string const& name, Rate& value, std::string const& help);
  void option(std::string const& name, std::optional<Time>& value, std::string const& help);
  void option(std::string const& name, std::vector<std::string>& values, std::string const& help);  // may be repeated
  // Two words a time: `--arg NAME VALUE`; in the file of --options `arg = NAME VALUE`. `type` names both. May be
  // repeated.
  void pairs(std::string const& name, std::vector<std::pair<std::string, std::string>>& values, std::string const& type,
             std::string const& help);
  void size(std::string const& name, std::uint64_t& value, std::string const& help);
  void choice(std::string const& name, std::string& value, std::vector<std::string> choices, std::string const& help);
  void flag(std::string const& name, bool& value, std::string const& help);

  // This tool takes `-- PIPELINE`: one string for bash, or a program and its arguments.
  void pipeline(std::vector<std::string>& words);

  // Nothing: go on. Otherwise --help or --version was asked for (ok), or the usage is wrong (said; usage).
  [[nodiscard]] std::optional<Exit> parse();
  // A mistake that parsing alone cannot see: says it and returns Exit::usage.
  [[nodiscard]] Exit wrong(std::string const& what);

  [[nodiscard]] CommonOptions const& common() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inflight

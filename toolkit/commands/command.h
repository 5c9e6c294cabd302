// How a subcommand is made: one file in this folder with one function that returns a Command,
// listed in commands.cpp. SETUP adds the options to its CLI::App and returns what to do once they
// are parsed.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"

namespace envkit {

struct Context {
  Terminal& terminal;
  std::filesystem::path directory;  // -C DIR, else the current directory
  bool json = false;
  std::vector<std::string> passthrough;  // what followed "--" on the command line
};

using Action = std::function<Result<int>(Context&)>;  // the exit code

struct Command {
  std::string name;
  std::string summary;  // one line for `envkit --help`
  std::string example;  // shown by `envkit NAME --help`, one or two lines
  std::function<Action(CLI::App& app)> setup;
};

std::vector<Command> AllCommands();

// Parses, runs, prints the error once; the process's exit code.
int Main(int argc, char** argv);

}  // namespace envkit

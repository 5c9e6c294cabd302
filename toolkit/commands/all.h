// Every subcommand's maker, one a file in this folder.
#pragma once

#include <string>
#include <vector>

#include "commands/command.h"

namespace envkit {

Command BuildCommand();
Command CompletionCommand();
Command DevCommand();
Command DoctorCommand();
Command ExecCommand();
Command ImageCommand();
Command InitCommand();
Command LaunchCommand();
Command LockCommand();
Command LogsCommand();
Command MatrixCommand();
Command PsCommand();
Command RenderCommand();
Command RunCommand();
Command StopCommand();
Command VerifyCommand();
Command VersionCommand();

std::string EnvkitVersion();  // "0.1.0"

struct CommandGroup {
  std::string title;  // "Project", in `envkit --help`
  std::vector<Command> commands;
};
std::vector<CommandGroup> CommandGroups();

// Finds the command, parses its options, runs it and prints its error; the process's exit code.
int RunCommandLine(const std::vector<CommandGroup>& groups,
                   const std::vector<std::string>& arguments);

// CLI11 describes CLI::IsMember as "TEXT:{cpu,cuda}": the choices in it, or none.
std::vector<std::string> SplitChoices(const std::string& text);

// -C, --json, --quiet, --verbose and --help, which every command has. The values go to OPTIONS.
struct GlobalOptions {
  std::string directory;
  bool json = false, quiet = false, verbose = false;
};
void AddGlobalOptions(CLI::App& app, GlobalOptions& options);

}  // namespace envkit

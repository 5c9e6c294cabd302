#include <csignal>

#include "commands/all.h"

namespace envkit {

std::vector<CommandGroup> CommandGroups() {
  return {{"Project",
           {InitCommand(), LockCommand(), BuildCommand(), VerifyCommand(), ImageCommand(),
            RenderCommand(), MatrixCommand()}},
          {"Jobs",
           {RunCommand(), DevCommand(), PsCommand(), LogsCommand(), StopCommand(), ExecCommand(),
            LaunchCommand()}},
          {"This machine", {DoctorCommand()}},
          {"This tool", {CompletionCommand(), VersionCommand()}}};
}

std::vector<Command> AllCommands() {
  std::vector<Command> commands;
  for (CommandGroup& group : CommandGroups())
    for (Command& command : group.commands) commands.push_back(std::move(command));
  return commands;
}

int Main(int argc, char** argv) {
  // A reader that is gone is an error of write, which the terminal ignores: the work goes on. A
  // handler and not SIG_IGN, since only a handler is reset for the programs that we start.
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  sigaction(SIGPIPE, &action, nullptr);
  return RunCommandLine(CommandGroups(), {argv + std::min(argc, 1), argv + argc});
}

}  // namespace envkit

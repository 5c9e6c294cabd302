// `envkit ps`, `logs`, `stop`, `exec`.
#include "session/containers.h"

#include <memory>

#include "commands/all.h"

namespace envkit {

Command PsCommand() {
  return {"ps", "What of envkit runs on this machine", "envkit ps --json", [](CLI::App&) -> Action {
            return [](Context& context) { return ListContainers(context.json, context.terminal); };
          }};
}

Command LogsCommand() {
  return {"logs", "Print what a run or the session wrote", "envkit logs train -f\nenvkit logs dev",
          [](CLI::App& app) -> Action {
            auto name = std::make_shared<std::string>();
            auto follow = std::make_shared<bool>(false);
            app.add_option("name", *name, "A job, a run, or dev; the newest run where left out");
            app.add_flag("-f,--follow", *follow, "Go on until it ends");
            return [name, follow](Context& context) {
              return ShowLogs(context.directory, *name, *follow, context.terminal);
            };
          }};
}

Command StopCommand() {
  return {"stop", "Stop a run or the session", "envkit stop train", [](CLI::App& app) -> Action {
            auto name = std::make_shared<std::string>();
            auto patience = std::make_shared<double>(30);
            app.add_option("name", *name,
                           "Of envkit ps, or a job's; may be left out for one alone");
            app.add_option("--time", *patience, "Until it is killed")->type_name("SECONDS");
            return [name, patience](Context& context) {
              return StopByName(context.directory, *name, *patience, context.terminal);
            };
          }};
}

Command ExecCommand() {
  return {"exec", "One more command in a container that runs", "envkit exec dev -- nvidia-smi",
          [](CLI::App& app) -> Action {
            auto name = std::make_shared<std::string>();
            app.add_option("name", *name,
                           "Of envkit ps, or a job's; may be left out for one alone");
            return [name](Context& context) -> Result<int> {
              if (context.passthrough.empty()) {
                return Usage("nothing to run", "Say it after --:  envkit exec dev -- bash");
              }
              return ExecByName(context.directory, *name, context.passthrough);
            };
          }};
}

}  // namespace envkit

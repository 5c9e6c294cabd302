#include "session/init.h"

#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands/all.h"

namespace envkit {
namespace {

std::optional<std::string> AskOnTerminal(const std::string& question) {
  std::cerr << question << std::flush;
  std::string line;
  if (!std::getline(std::cin, line)) return std::nullopt;
  return line;
}

Result<int> RunInit(const InitRequest& request, bool yes, Context& context) {
  const bool terminal = isatty(0) == 1 && context.terminal.options().tty;
  if (!yes && !terminal) context.terminal.Step("init", "no terminal to ask on: the defaults hold");
  ENVKIT_TRY(const InitPlan plan, Init(context.directory, request,
                                       !yes && terminal ? AskLine(AskOnTerminal) : AskLine()));
  if (context.json) {
    const nlohmann::ordered_json answer = {
        {"schema", 1},       {"file", (context.directory / "envkit.toml").string()},
        {"name", plan.name}, {"torch", plan.torch},
        {"cuda", plan.cuda}, {"why", plan.why}};
    context.terminal.Answer(answer.dump(2));
  }
  context.terminal.Step("init", fmt::format("envkit.toml: {} · torch {} · cuda {}", plan.name,
                                            plan.torch, plan.cuda));
  context.terminal.Note(fmt::format("torch {}: {}", plan.torch, plan.why));
  if (!plan.accelerate.empty()) {
    context.terminal.Step("init",
                          ".accelerate/config.yaml: accelerate launch and envkit launch "
                          "read it");
  }
  if (plan.script.empty()) {
    context.terminal.Note(
        "envkit-train reads train.toml, which is yours to write: "
        "docs/training.md");
  }
  context.terminal.Note("next: envkit lock, then envkit run train");
  return 0;
}

}  // namespace

Command InitCommand() {
  return {"init", "Write a first envkit.toml, for what this machine can run",
          "envkit init                             asks what it cannot know\n"
          "envkit init --yes --script train.py     takes the defaults",
          [](CLI::App& app) -> Action {
            auto request = std::make_shared<InitRequest>();
            auto yes = std::make_shared<bool>(false);
            app.add_flag("-y,--yes", *yes, "Ask nothing, take the defaults");
            app.add_option("--name", request->name, "The project's; the directory's by default")
                ->type_name("NAME");
            app.add_option("--torch", request->torch, "The newest that this machine's driver runs")
                ->type_name("VERSION");
            app.add_option("--cuda", request->cuda, "auto, cpu or a version")->type_name("CUDA");
            app.add_option("--script", request->script,
                           "The Python program that trains; without one: envkit's own trainer")
                ->type_name("FILE");
            app.add_flag("--accelerate", request->accelerate,
                         "What accelerate config asks as well, into .accelerate/config.yaml");
            app.add_flag("--force", request->force, "Overwrite an envkit.toml that is there");
            return [request, yes](Context& context) { return RunInit(*request, *yes, context); };
          }};
}

}  // namespace envkit

#include <memory>

#include "base/files.h"
#include "commands/all.h"
#include "commands/image.h"
#include "image/dockerfile.h"

namespace envkit {
namespace {

struct DockerfileOptions {
  ImageChoice choice;
  std::string output;
};

Result<int> Dockerfile(const DockerfileOptions& options, Context& context) {
  ENVKIT_TRY(const Environment env, LoadEnvironment(context.directory));
  ENVKIT_TRY(const ImagePlan plan, PlanCurrent(env, options.choice));
  ENVKIT_TRY(const std::string text, RenderDockerfile(env.project, plan));
  if (options.output.empty()) {
    context.terminal.Answer(text);
  } else {
    ENVKIT_CHECK(WriteFileAtomic(context.directory / options.output, text));
  }
  return 0;
}

void AddDockerfile(CLI::App& render, const ChosenAction& chosen) {
  auto options = std::make_shared<DockerfileOptions>();
  CLI::App* app = AddSubcommand(
      render, chosen, "dockerfile", "A Dockerfile for the same environment without envkit",
      "envkit render dockerfile --variant cpu -o Dockerfile",
      [options](Context& context) { return Dockerfile(*options, context); });
  app->add_option("--profile", options->choice.profile, "What the image holds")
      ->type_name("PROFILE");
  app->add_option("--variant", options->choice.variant, "cpu or cuda; by this machine's GPUs")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app->add_option("-o,--output", options->output, "Else to stdout")->type_name("FILE");
}

}  // namespace

Command RenderCommand() {
  return {"render", "Write the environment down for other tools",
          "envkit render dockerfile --variant cpu", [](CLI::App& app) -> Action {
            auto chosen = std::make_shared<Action>();
            AddDockerfile(app, chosen);
            return [chosen](Context& context) -> Result<int> {
              if (*chosen) return (*chosen)(context);
              return Usage("envkit render: what is to be written?",
                           "dockerfile; with --help after it for more");
            };
          }};
}

}  // namespace envkit

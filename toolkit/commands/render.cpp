#include <memory>

#include "base/files.h"
#include "commands/all.h"
#include "commands/image.h"
#include "image/dockerfile.h"
#include "session/render_services.h"

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

using Render = Result<int> (*)(const std::filesystem::path&, const RenderRequest&, Terminal&);

// What `render compose` and `render devcontainer` have in common.
std::shared_ptr<RenderRequest> AddServices(CLI::App& render, const ChosenAction& chosen,
                                           const std::string& name, const std::string& summary,
                                           const std::string& example, Render write,
                                           CLI::App*& app) {
  auto request = std::make_shared<RenderRequest>();
  app = AddSubcommand(render, chosen, name, summary, example,
                      [request, write](Context& context) -> Result<int> {
                        RenderRequest given = *request;
                        if (!given.output.empty()) given.output = context.directory / given.output;
                        return write(context.directory, given, context.terminal);
                      });
  app->add_option("--variant", request->variant, "cpu or cuda; by this machine's GPUs")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app->add_option("--gpus", request->gpus, "all, none, or a list such as 0,2")->type_name("GPUS");
  app->add_option("--shm", request->shm, "Size of /dev/shm, such as 16g, or auto")
      ->type_name("SIZE");
  return request;
}

void AddCompose(CLI::App& render, const ChosenAction& chosen) {
  CLI::App* app = nullptr;
  auto request =
      AddServices(render, chosen, "compose", "Training, JupyterLab, TensorBoard, ssh for compose",
                  "envkit render compose -o compose.yaml", RenderCompose, app);
  app->add_option("job", request->job, "A job of envkit.toml; train where left out");
  app->add_option("--memory", request->memory, "Limit of memory, such as 16g")->type_name("SIZE");
  app->add_option("-o,--output", request->output, "With keys and tokens; else to stdout")
      ->type_name("FILE");
}

void AddDevContainer(CLI::App& render, const ChosenAction& chosen) {
  CLI::App* app = nullptr;
  auto request =
      AddServices(render, chosen, "devcontainer", "A development container of the image",
                  "envkit render devcontainer -o .devcontainer", RenderDevContainer, app);
  app->add_option("-o,--output", request->output, "With its Dockerfile; else to stdout")
      ->type_name("DIRECTORY");
}

}  // namespace

Command RenderCommand() {
  return {"render", "Write the environment down for other tools",
          "envkit render dockerfile --variant cpu", [](CLI::App& app) -> Action {
            auto chosen = std::make_shared<Action>();
            AddDockerfile(app, chosen);
            AddCompose(app, chosen);
            AddDevContainer(app, chosen);
            return [chosen](Context& context) -> Result<int> {
              if (*chosen) return (*chosen)(context);
              return Usage("envkit render: what is to be written?",
                           "dockerfile, compose or devcontainer; with --help after it for more");
            };
          }};
}

}  // namespace envkit

#include "image/build.h"

#include <fmt/format.h>

#include <memory>

#include "commands/command.h"
#include "host/facts.h"
#include "image/image.h"
#include "image/show_plan.h"
#include "session/environment.h"

namespace envkit {
namespace {

struct BuildOptions {
  std::string profile, variant, architecture;
  bool run_in_builder = false, dry_run = false;
};

Result<int> RunInBuilder(const Environment& env, const std::string& variant, Context& context) {
  if (context.passthrough.empty()) {
    return Usage("--run-in-builder needs a command", "envkit build --run-in-builder -- CMD…");
  }
  BuildSandbox sandbox;
  ENVKIT_TRY(sandbox.lower, EnsureBuilderRoot(env.project, env.lock, env.recipes, variant,
                                              env.store, context.terminal));
  sandbox.binds = {{env.project.root, "/workspace", false}};
  sandbox.argv = context.passthrough;
  sandbox.env = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                 {"HOME", "/tmp"},
                 {"LC_ALL", "C.UTF-8"}};
  sandbox.workdir = "/workspace";
  sandbox.capture = false;
  ENVKIT_TRY(const BuildSandboxResult result, RunInBuildSandbox(sandbox));
  return result.exit_code;
}

Result<int> Build(const BuildOptions& options, Context& context) {
  ENVKIT_TRY(const Environment env, LoadEnvironment(context.directory, options.architecture));
  const bool foreign = env.project.architecture != HostArchitecture();
  if (foreign && !options.dry_run) {
    return Missing(fmt::format("images for {} are built on such a machine, and this is {}",
                               env.project.architecture, HostArchitecture()),
                   "See what would be built with --dry-run.");
  }
  std::string variant = options.variant, why;
  if (variant.empty() && foreign) variant = env.lock.inputs.cuda == "cpu" ? "cpu" : "cuda";
  if (variant.empty()) {
    ENVKIT_TRY(variant, ChooseVariant(env.project, env.lock, ProbeHost(), why));
  }
  if (options.run_in_builder) return RunInBuilder(env, variant, context);
  const std::string profile = MainProfile(env.project, options.profile);
  if (options.dry_run) {
    ENVKIT_TRY(const ImagePlan plan,
               PlanImage(env.project, env.lock, env.recipes, profile, variant));
    context.terminal.Answer(context.json ? ImagePlanToJson(plan, env.store).dump(2)
                                         : ImagePlanText(plan, env.store));
    return 0;
  }
  BuildReport report;
  ENVKIT_TRY(const Image image,
             BuildImage(env.project, env.lock, env.recipes, profile, variant, env.store,
                        RunInBuildSandbox, context.terminal, &report));
  if (context.json) {
    nlohmann::json json = ImageToJson(image);
    json["seconds"] = report.seconds;
    json["built"] = report.built;
    json["reused"] = report.reused;
    context.terminal.Answer(json.dump(2));
  }
  return 0;
}

}  // namespace

Command BuildCommand() {
  return {"build", "Build the image that envkit.lock describes",
          "envkit build --variant cuda\n"
          "envkit build --dry-run --architecture aarch64   what a build there would make\n"
          "envkit build --run-in-builder -- g++ --version",
          [](CLI::App& app) -> Action {
            auto options = std::make_shared<BuildOptions>();
            app.add_option("--profile", options->profile,
                           "train, python or dev (envkit.toml's by default)");
            app.add_option("--variant", options->variant, "cpu or cuda; by this machine's GPUs")
                ->check(CLI::IsMember({"cpu", "cuda"}));
            CLI::Option* dry_run =
                app.add_flag("--dry-run", options->dry_run,
                             "print the plan: the layers, from which files; build nothing");
            app.add_option("--architecture", options->architecture,
                           "x86_64 or aarch64; this machine's by default")
                ->check(CLI::IsMember({"x86_64", "aarch64"}));
            app.add_flag("--run-in-builder", options->run_in_builder,
                         "run the command after -- in the builder, the project at /workspace")
                ->excludes(dry_run);
            return [options](Context& context) { return Build(*options, context); };
          }};
}

}  // namespace envkit

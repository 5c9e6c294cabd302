#include "image/build.h"

#include <fmt/format.h>

#include <memory>

#include "commands/command.h"
#include "engine/engine.h"
#include "host/facts.h"
#include "image/image.h"
#include "image/recipe.h"

namespace envkit {
namespace {

struct Options {
  std::string profile, variant;
  bool run_in_builder = false;
};

Result<BuildSandboxResult> InSandbox(const BuildSandbox& sandbox) {
  SandboxSpec spec;
  spec.lower = sandbox.lower;
  for (const auto& bind : sandbox.binds) {
    spec.mounts.push_back({bind.host, bind.container, bind.read_only});
  }
  spec.argv = sandbox.argv;
  spec.env = sandbox.env;
  spec.workdir = sandbox.workdir;
  spec.capture = sandbox.capture;
  ENVKIT_TRY(SandboxResult result, RunInSandbox(spec));
  return BuildSandboxResult{result.exit_code, std::move(result.output)};
}

// A GPU that is there and cannot be used is an error: nobody wants to train on the CPU by accident.
Result<std::string> ChooseVariant(const Project& project) {
  if (project.environment.cuda == "cpu") return "cpu";
  const GpuVerdict verdict = JudgeGpus(ProbeHost());
  if (verdict.state == GpuState::kUnusable) {
    return Missing(verdict.why, verdict.next + "\nOr say which image: --variant cpu|cuda");
  }
  return verdict.state == GpuState::kUsable ? "cuda" : "cpu";
}

Result<Lock> ReadLock(const Project& project, const Recipes& recipes) {
  const std::filesystem::path file = project.root / "envkit.lock";
  if (!std::filesystem::exists(file)) {
    return Usage(fmt::format("{} has no envkit.lock", project.root.string()), "envkit lock");
  }
  ENVKIT_TRY(const std::string text, ReadFile(file));
  ENVKIT_TRY(Lock lock, ParseLock(text, file));
  std::string changes;
  for (const std::string& change :
       LockDifferences(lock, InputsOf(project, RecipesDigest(recipes)))) {
    changes += "\n  " + change;
  }
  if (changes.empty()) return lock;
  return Usage("envkit.lock does not fit envkit.toml any more" + changes, "envkit lock");
}

Result<int> RunInBuilder(const Project& project, const Lock& lock, const Recipes& recipes,
                         const std::string& variant, const Store& store, Context& context) {
  if (context.passthrough.empty()) {
    return Usage("--run-in-builder needs a command", "envkit build --run-in-builder -- CMD…");
  }
  BuildSandbox sandbox;
  ENVKIT_TRY(sandbox.lower,
             EnsureBuilderRoot(project, lock, recipes, variant, store, context.terminal));
  sandbox.binds = {{project.root, "/workspace", false}};
  sandbox.argv = context.passthrough;
  sandbox.env = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                 {"HOME", "/tmp"},
                 {"LC_ALL", "C.UTF-8"}};
  sandbox.workdir = "/workspace";
  sandbox.capture = false;
  ENVKIT_TRY(const BuildSandboxResult result, InSandbox(sandbox));
  return result.exit_code;
}

Result<int> Build(const Options& options, Context& context) {
  ENVKIT_TRY(const Project project, LoadProject(context.directory));
  ENVKIT_TRY(const std::filesystem::path share, ShareDirectory());
  ENVKIT_TRY(const Recipes recipes, LoadRecipes(share / "images"));
  ENVKIT_TRY(const Lock lock, ReadLock(project, recipes));
  ENVKIT_TRY(const Store store, Store::Open());
  std::string variant = options.variant;
  if (variant.empty()) {
    ENVKIT_TRY(variant, ChooseVariant(project));
  }
  if (options.run_in_builder) {
    return RunInBuilder(project, lock, recipes, variant, store, context);
  }
  std::string profile = options.profile.empty() ? project.profile : options.profile;
  if (profile == "auto") profile = "train";
  BuildReport report;
  ENVKIT_TRY(const Image image, BuildImage(project, lock, recipes, profile, variant, store,
                                           InSandbox, context.terminal, &report));
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
          "envkit build --variant cuda\nenvkit build --run-in-builder -- g++ --version",
          [](CLI::App& app) -> Action {
            auto options = std::make_shared<Options>();
            app.add_option("--profile", options->profile, "train (envkit.toml's by default)");
            app.add_option("--variant", options->variant, "cpu or cuda; by this machine's GPUs")
                ->check(CLI::IsMember({"cpu", "cuda"}));
            app.add_flag("--run-in-builder", options->run_in_builder,
                         "run the command after -- in the builder, the project at /workspace");
            return [options](Context& context) { return Build(*options, context); };
          }};
}

}  // namespace envkit

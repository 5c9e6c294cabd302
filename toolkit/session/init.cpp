#include "session/init.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/files.h"
#include "host/facts.h"
#include "image/index.h"
#include "image/recipe.h"
#include "project/checks.h"
#include "project/project.h"
#include "session/driver.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// A TOML basic string; JSON's escapes are some of TOML's.
std::string TomlQuoted(const std::string& text) { return nlohmann::json(text).dump(); }

Unexpected WrongValue(const char* option, const std::string& value, const char* expected) {
  return Usage(fmt::format("{} is {}, not \"{}\"", option, expected, value),
               "envkit init --help has an example.");
}

Result<void> CheckFlags(const InitRequest& request) {
  if (!request.name.empty() && !IsName(request.name)) {
    return WrongValue("--name", request.name, "lower-case letters, digits, '.', '_' and '-'");
  }
  if (!request.torch.empty() && !IsNumbers(request.torch, 2) && !IsNumbers(request.torch, 3)) {
    return WrongValue("--torch", request.torch, "a line such as 2.15, or a release such as 2.15.0");
  }
  if (!request.cuda.empty() && request.cuda != "auto" && request.cuda != "cpu" &&
      !IsNumbers(request.cuda, 2)) {
    return WrongValue("--cuda", request.cuda, "auto, cpu or a version such as 12.8");
  }
  if (HasControlCharacter(request.script) || request.script.starts_with('-')) {
    return WrongValue("--script", request.script, "a Python program in the project");
  }
  return {};
}

// Why the newest is not taken, or that it is.
std::string ReasonFor(const Matrix& matrix, const Machine& machine, const TorchBuild& chosen) {
  const TorchBuild* newest = NewestServed(matrix, {}, "", kInitPython);
  const std::string cuda = fmt::format("CUDA {}", chosen.cuda);
  if (!machine.driver) {
    return fmt::format("the newest ({}); this machine has no NVIDIA driver to go by", cuda);
  }
  if (newest == &chosen) {
    return fmt::format("the newest ({}), which driver {} runs", cuda, *machine.driver);
  }
  return fmt::format("the newest that driver {} runs ({})", *machine.driver, cuda);
}

Result<void> Choose(const Matrix& matrix, const Machine& machine, const InitRequest& request,
                    InitPlan& plan) {
  plan.torch = request.torch;
  plan.cuda = request.cuda.empty() ? "auto" : request.cuda;
  plan.why = "as asked for";
  if (!plan.torch.empty()) return {};
  const bool cpu = plan.cuda == "cpu";
  const TorchBuild* build = nullptr;
  if (plan.cuda == "auto" || cpu) {
    build = NewestServed(matrix, cpu ? Machine{} : machine, "", kInitPython);
    if (build == nullptr) {
      const Judgement verdict = Judge(matrix, {"", "", kInitPython, machine});
      return Usage(fmt::format("no PyTorch of the default index runs here: {}", verdict.what),
                   verdict.next + "\nFor the CPU alone: envkit init --cuda cpu");
    }
    plan.why = cpu ? "the newest; its CPU part alone is used" : ReasonFor(matrix, machine, *build);
  } else {
    const Judgement verdict = Judge(matrix, {"", plan.cuda, kInitPython, {}});
    build = verdict.build;
    if (build == nullptr) return Usage(verdict.what, verdict.next);
    plan.why = fmt::format("the newest that is built for CUDA {}", build->cuda);
  }
  plan.torch = MajorMinor(build->torch);
  return {};
}

std::string Commented(const std::string& setting, const std::string& comment) {
  return fmt::format("{:<26} # {}\n", setting, comment);
}

std::string TextOf(const InitPlan& plan) {
  const std::string command = plan.script.empty() ? R"(["envkit-train", "--config", "train.toml"])"
                                                  : "[" + TomlQuoted(plan.script) + "]";
  const char* about_cuda =
      plan.cuda == "auto"
          ? "the build for GPUs; a machine without one gets the CPU variant of the same lock"
      : plan.cuda == "cpu" ? "no image for GPUs is made"
                           : "this build alone; \"auto\" takes what the index has";
  std::string text = fmt::format(
      "# Written by envkit init. Every key: docs/project-file.md. Then: envkit lock, envkit run "
      "train\n"
      "schema = 1\n\n[project]\nname = {}\n\n[environment]\n",
      TomlQuoted(plan.name));
  text += Commented("torch = " + TomlQuoted(plan.torch), plan.why);
  text += Commented("cuda = " + TomlQuoted(plan.cuda), about_cuda);
  text += Commented("python = " + TomlQuoted(kInitPython), "the base's own");
  text += "base = \"debian:trixie\"\n";
  text += Commented("packages = []", "Python requirements, such as \"numpy>=2\"");
  text += Commented("system = []", "Debian packages, such as \"git\"");
  text += "\n[jobs.train]\n";
  text += fmt::format("command = {}\n", command);
  text += Commented("processes = \"auto\"", "one per GPU; on a CPU one per NUMA node");
  return text;
}

}  // namespace

std::string NameFrom(const fs::path& directory) {
  std::string name;
  for (char c : directory.filename().string()) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool plain = IsLower(c) || IsDigit(c) || c == '.' || c == '_' || c == '-';
    if (plain || !name.ends_with('-')) name += plain ? c : '-';
  }
  while (!name.empty() && !IsAlnum(name.front())) name.erase(0, 1);
  name.resize(std::min<std::size_t>(name.size(), 63));
  while (name.ends_with('-')) name.pop_back();
  return IsName(name) ? name : "project";
}

std::string ScriptIn(const fs::path& directory) {
  std::error_code error;
  for (const char* name : {"train.py", "main.py"}) {
    if (fs::is_regular_file(directory / name, error)) return name;
  }
  return "";
}

Result<InitPlan> PlanInit(const Matrix& matrix, const Machine& machine, const InitRequest& request,
                          const fs::path& directory, bool other_indexes) {
  ENVKIT_CHECK(CheckFlags(request));
  InitPlan plan;
  plan.name = request.name.empty() ? NameFrom(directory) : request.name;
  plan.script = request.script.empty() ? ScriptIn(directory) : request.script;
  ENVKIT_CHECK(Choose(matrix, machine, request, plan));
  if (const auto problem =
          CheckEnvironment(matrix, {plan.torch, plan.cuda, kInitPython, other_indexes}, machine)) {
    return Usage(problem->what, problem->next);
  }
  plan.text = TextOf(plan);
  // What is written must be what this envkit reads.
  ENVKIT_CHECK(ParseProject(plan.text, directory / "envkit.toml"));
  return plan;
}

InitRequest AskInit(InitRequest request, const InitPlan& plan, const AskLine& ask) {
  const auto fill = [&ask](std::string& value, const std::string& question,
                           const std::string& choice) {
    if (!value.empty()) return true;
    const auto line = ask(fmt::format("{} [{}]: ", question, choice));
    if (line && !line->empty()) value = *line;
    return line.has_value();
  };
  // The end of input takes the choices that are left.
  const bool more =
      fill(request.name, "name of the project and its images", plan.name) &&
      fill(request.torch, fmt::format("torch ({})", plan.why), plan.torch) &&
      fill(request.cuda, "cuda: auto, cpu or a version", plan.cuda) &&
      fill(request.script, "Python program to train with; empty: envkit's own trainer",
           plan.script.empty() ? "none" : plan.script);
  if (request.script == "none") request.script.clear();
  if (!request.accelerate && more) {
    const auto line = ask("ask what `accelerate config` asks as well [no]: ");
    request.accelerate = line && !line->empty() && (line->front() == 'y' || line->front() == 'Y');
  }
  return request;
}

Result<void> AddConfig(InitPlan& plan, const SavedConfig& config, const fs::path& directory) {
  plan.accelerate = YamlText(config);
  plan.text = WithConfig(plan.text, "train", config).value_or(plan.text);
  ENVKIT_CHECK(ParseProject(plan.text, directory / "envkit.toml"));
  return {};
}

Result<void> WriteInit(const fs::path& directory, const InitPlan& plan, bool force) {
  const fs::path file = directory / "envkit.toml";
  std::error_code error;
  if (!force && fs::exists(fs::symlink_status(file, error))) {
    return Usage(fmt::format("{} is there already", file.string()),
                 "Edit it, or let it be written anew: envkit init --force");
  }
  return WriteFileAtomic(file, plan.text);
}

Result<InitPlan> Init(const fs::path& directory, const InitRequest& request, const AskLine& ask) {
  std::error_code error;
  const fs::path place = fs::canonical(directory, error);
  if (error) {
    return Usage(fmt::format("{}: {}", directory.string(), error.message()),
                 "Make the directory, or name another with -C DIR.");
  }
  if (!request.force && fs::exists(fs::symlink_status(place / "envkit.toml", error))) {
    return Unexpected(WriteInit(place, {}, false).error());  // before any question
  }
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  ENVKIT_TRY(const Matrix matrix, LoadMatrix(share / "images"));
  const HostFacts facts = ProbeHost();
  const Machine machine = MachineOf(facts);
  bool accelerate = request.accelerate;
  const PythonIndexes indexes = ConfiguredIndexes({}, CurrentEnvironment());
  const bool others = !indexes.All().empty();
  ENVKIT_TRY(InitPlan plan, PlanInit(matrix, machine, request, place, others));
  if (ask) {
    const InitRequest answers = AskInit(request, plan, ask);
    ENVKIT_TRY(plan, PlanInit(matrix, machine, answers, place, others));
    accelerate = answers.accelerate;
  }
  if (accelerate) {
    const int gpus = static_cast<int>(
        JudgeGpus(facts).state == GpuState::kUsable ? facts.device_nodes.size() : 0);
    ENVKIT_TRY(const SavedConfig config, AskConfig({}, gpus, ask));
    ENVKIT_CHECK(AddConfig(plan, config, place));
  }
  ENVKIT_CHECK(WriteInit(place, plan, request.force));
  if (accelerate) ENVKIT_CHECK(WriteConfig(place / ".accelerate/config.yaml", plan.accelerate));
  return plan;
}

}  // namespace envkit

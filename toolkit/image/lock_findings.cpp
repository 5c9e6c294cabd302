#include "image/lock_findings.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <sstream>
#include <system_error>

#include "base/files.h"
#include "base/text.h"
#include "base/toml.h"
#include "image/layer.h"
#include "image/wheel_name.h"

namespace envkit {
namespace {

struct WrongName {
  std::string_view name, cause, remedy;
};
constexpr WrongName kWrongNames[] = {
    {"apex", "apex on the public Python index is not NVIDIA's Apex, but an unrelated package",
     "NVIDIA's is compiled from its repository: make a wheel of it and name that, packages = "
     "[\"./wheels/apex-….whl\"].\nMixed precision and fused optimisers are in torch itself: "
     "torch.amp, and fused=True."},
    {"pytorch", "the package pytorch is not PyTorch, whose name is torch",
     "Leave it out: every image has torch, in the version of [environment] torch."},
    {"sklearn", "the package sklearn is a placeholder that fails to install",
     "Its real name is scikit-learn."}};

int Number(std::string_view text) {
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

struct Generation {
  std::string stem;  // the name without it
  int cuda = 0;
};

// "nvidia-nccl-cu12", "cupy-cuda12x", "flash-attn-cu128": what is said of CUDA at a name's end.
std::optional<Generation> GenerationOf(std::string_view name) {
  for (const std::string_view mark : {"-cuda", "-cu"}) {
    const std::size_t at = name.rfind(mark);
    if (at == std::string_view::npos) continue;
    std::string_view rest = name.substr(at + mark.size());
    if (rest.ends_with('x')) rest.remove_suffix(1);
    if (rest.size() < 2 || rest.size() > 3 ||
        !std::all_of(rest.begin(), rest.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      continue;
    }
    return Generation{std::string(name.substr(0, at)), Number(rest.substr(0, 2))};
  }
  return std::nullopt;
}

std::string BroughtBy(const std::string& package, const RequiredBy& required_by) {
  const auto found = required_by.find(package);
  if (found == required_by.end() || found->second.empty()) return "";
  return fmt::format(" ({} {} for it)", JoinOr(found->second, "and"),
                     found->second.size() == 1 ? "asks" : "ask");
}

}  // namespace

Error UsageAt(const Project& project, const std::string& key, const std::string& text,
              std::string message, std::string hint) {
  if (const auto content = ReadFile(project.file)) {
    TomlDocument document(*content, project.file.filename().string());
    TomlTable table = document.Root().Table("environment");
    if (text.empty()) {
      if (const auto value = table.StringOrInteger(key)) document.Report(value->at, message, hint);
    } else if (const auto list = table.Strings(key)) {
      for (const TomlString& element : list->value) {
        if (element.value == text) document.Report(element.at, message, hint);
      }
    }
    if (auto checked = document.Check(); !checked) return std::move(checked.error());
  }
  return Error{ExitCode::kUsage, std::move(message), std::move(hint), {}, false};
}

std::vector<LockFinding> JudgeRequirements(const Project& project) {
  std::vector<LockFinding> findings;
  const auto judge = [&](const std::string& requirement, const std::string& where) {
    // A wheel of the user's own is what they say it is.
    if (requirement.find('@') != std::string::npos || ParseLocalWheel(requirement)) return;
    const std::string name = RequirementName(requirement);
    for (const WrongName& wrong : kWrongNames) {
      if (name != wrong.name) continue;
      LockFinding finding;
      finding.severity = LockFinding::Severity::kError;
      finding.id = "wrong-name";
      finding.package = requirement;
      finding.cause = where + std::string(wrong.cause);
      finding.remedy = wrong.remedy;
      findings.push_back(std::move(finding));
    }
  };
  for (const std::string& package : project.environment.packages) judge(package, "");
  for (const RequirementFile& file : project.requirement_files) {
    for (const auto& [name, requirement] : file.asks) judge(requirement, file.path + ": ");
  }
  return findings;
}

RequiredBy ParseAnnotations(std::string_view text) {
  RequiredBy required_by;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const std::size_t via = line.find("# via ");
    const std::string name = RequirementName(line);
    if (via == std::string::npos || name.empty()) continue;
    std::istringstream words(line.substr(via + 6));
    std::vector<std::string>& names = required_by[name];
    for (std::string word; std::getline(words, word, ',');) {
      const std::size_t begin = word.find_first_not_of(' ');
      if (begin == std::string::npos) continue;
      word.erase(0, begin);
      if (word.starts_with("-r ")) {
        // Our own files have the name that people know before ".in".
        word = std::filesystem::path(word.substr(3)).filename().string();
        if (word.ends_with(".toml.in")) word.resize(word.size() - 3);
      }
      names.push_back(word);
    }
  }
  return required_by;
}

std::vector<LockFinding> JudgeWheels(const Lock& lock, const RequiredBy& required_by) {
  std::vector<LockFinding> findings;
  const int torch_cuda = Number(lock.cuda);
  if (torch_cuda == 0) return findings;         // nothing that it could disagree with
  std::map<std::string, std::string> of_torch;  // stem → name, of torch's own generation
  for (const LockedWheel& wheel : lock.wheels) {
    const auto generation = GenerationOf(wheel.name);
    if (generation && generation->cuda == torch_cuda) of_torch[generation->stem] = wheel.name;
  }
  for (const LockedWheel& wheel : lock.wheels) {
    LockFinding finding;
    finding.package = wheel.name;
    if (wheel.name == "onnxruntime-gpu") {
      finding.id = "cuda-unknown";
      finding.cause =
          fmt::format("{} {} does not say which CUDA it was built for, and torch {} has CUDA {}",
                      wheel.name, wheel.version, lock.torch, lock.cuda);
      finding.remedy =
          "Look at its release notes; of another generation it would not find its "
          "libraries in the image.";
      findings.push_back(std::move(finding));
      continue;
    }
    const auto generation = GenerationOf(wheel.name);
    if (!generation || generation->cuda == torch_cuda) continue;
    finding.id = "cuda-generation";
    const std::string by = BroughtBy(wheel.name, required_by);
    if (const auto twin = of_torch.find(generation->stem); twin != of_torch.end()) {
      finding.severity = LockFinding::Severity::kError;
      finding.cause = fmt::format(
          "{}{} and torch's {} are one library for two generations of CUDA, of which a process can "
          "have one",
          wheel.name, by, twin->second);
    } else {
      finding.cause = fmt::format("{}{} is for CUDA {}, and torch {} for CUDA {}", wheel.name, by,
                                  generation->cuda, lock.torch, lock.cuda);
    }
    finding.remedy = fmt::format(
        "Take a build of it for CUDA {0}, or leave it out; or an index whose torch is for CUDA "
        "{1}.",
        torch_cuda, generation->cuda);
    if (wheel.name.ends_with('x') && generation->stem == "cupy") {
      finding.remedy = fmt::format("Ask for cupy-cuda{}x instead.", torch_cuda);
    }
    findings.push_back(std::move(finding));
  }
  return findings;
}

std::vector<LockFinding> JudgePaths(const Lock& lock, const Store& store) {
  LayerPlan plan;
  plan.site = "site-packages";
  for (const LockedWheel& wheel : lock.wheels) {
    std::error_code error;
    if (!std::filesystem::exists(store.DownloadPath(wheel.sha256, wheel.file), error)) continue;
    plan.wheels.push_back(wheel);
    plan.members.emplace_back();
  }
  const auto content = OpenWheels(plan, store);
  if (content) return {};
  LockFinding finding;
  finding.id = "one-path";
  finding.cause = content.error().what;
  finding.remedy = content.error().next;
  return {finding};
}

Result<void> RejectErrors(const Project& project, const std::vector<LockFinding>& findings) {
  std::vector<const LockFinding*> errors;
  for (const LockFinding& finding : findings) {
    if (finding.severity == LockFinding::Severity::kError) errors.push_back(&finding);
  }
  if (errors.empty()) return {};
  if (errors.size() == 1) {
    return Unexpected(
        UsageAt(project, "packages", errors[0]->package, errors[0]->cause, errors[0]->remedy));
  }
  std::string what = "these packages do not fit together";
  std::vector<std::string> remedies;
  constexpr std::size_t kShown = 4;
  for (const LockFinding* const& finding : errors) {
    const auto number = static_cast<std::size_t>(&finding - errors.data());
    if (number < kShown) what += "\n" + finding->cause;
    if (std::find(remedies.begin(), remedies.end(), finding->remedy) == remedies.end()) {
      remedies.push_back(finding->remedy);
    }
  }
  if (errors.size() > kShown) what += fmt::format("\nand {} more", errors.size() - kShown);
  std::string next;
  for (const std::string& remedy : remedies) next += (next.empty() ? "" : "\n") + remedy;
  return Usage(what, next);
}

}  // namespace envkit

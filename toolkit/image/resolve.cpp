#include "image/resolve.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "base/files.h"
#include "base/toml.h"
#include "image/debian.h"
#include "image/index.h"
#include "image/uv.h"
#include "image/wheel_name.h"

namespace envkit {
namespace {

std::string TorchRequirement(const std::string& version) {
  const bool exact = std::count(version.begin(), version.end(), '.') >= 2;
  return fmt::format("torch=={}{}", version, exact ? "" : ".*");
}

const LockedWheel* Find(const std::vector<LockedWheel>& wheels, std::string_view name) {
  const auto found = std::find_if(wheels.begin(), wheels.end(),
                                  [&](const LockedWheel& wheel) { return wheel.name == name; });
  return found == wheels.end() ? nullptr : &*found;
}

// "13.2" of "13.2.2".
std::string MajorMinor(const std::string& version) {
  const std::size_t dot = version.find('.');
  return version.substr(0, version.find('.', dot == std::string::npos ? dot : dot + 1));
}

// The CUDA that torch was built for; empty for a build without.
std::string CudaOf(const std::vector<LockedWheel>& wheels) {
  // torch pins cuda-toolkit from CUDA 13 on; before that it is our builder's alone.
  std::vector<const char*> names = {"nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11",
                                    "cuda-toolkit", "nvidia-cuda-runtime"};
  if (Find(wheels, "nvidia-cudnn-cu13") != nullptr) std::reverse(names.begin(), names.end());
  for (const char* name : names) {
    if (const LockedWheel* wheel = Find(wheels, name)) return MajorMinor(wheel->version);
  }
  return "";
}

// The recipes ask for CUDA 13's toolkit. An older torch does not pin it, and has the headers of crt
// in another part.
std::string ForCuda(const std::string& requirement, const std::string& cuda) {
  constexpr std::string_view kToolkit = "cuda-toolkit[";
  if (!requirement.starts_with(kToolkit) || !requirement.ends_with(']')) return requirement;
  std::string extras = requirement.substr(kToolkit.size() - 1);
  if (const std::size_t at = extras.find("crt"); at != std::string::npos) {
    extras.replace(at, 3, "nvcc");
  }
  return fmt::format("cuda-toolkit{}=={}.*", extras, cuda);
}

Result<void> ResolveWheels(const Project& project, const Recipes& recipes, const Store& store,
                           Terminal& terminal, const Lock* previous, Lock& lock) {
  PythonRequest request;
  request.python = project.environment.python;
  std::set<std::string> requirements(project.environment.packages.begin(),
                                     project.environment.packages.end());
  for (const auto& [profile, recipe] : recipes) {
    requirements.insert(recipe.requirements.begin(), recipe.requirements.end());
  }
  request.requirements = {TorchRequirement(project.environment.torch)};
  request.requirements.insert(request.requirements.end(), requirements.begin(), requirements.end());
  if (previous != nullptr) request.preferred = previous->wheels;

  const PythonIndexes indexes = ConfiguredIndexes(project.indexes, CurrentEnvironment());
  ENVKIT_TRY(PythonResolution resolution, ResolvePython(request, indexes, store, terminal));
  // Only the resolution tells which CUDA the index's torch is for.
  if (const std::string cuda = CudaOf(resolution.wheels); !cuda.empty() && MajorOf(cuda) < 13) {
    for (std::string& requirement : request.requirements) requirement = ForCuda(requirement, cuda);
    ENVKIT_TRY(resolution, ResolvePython(request, indexes, store, terminal));
  }
  lock.wheels = std::move(resolution.wheels);
  lock.source_date_epoch = resolution.torch_uploaded;
  const LockedWheel* torch = Find(lock.wheels, "torch");
  if (torch == nullptr) return Fail("uv resolved no torch");
  lock.torch = torch->version.substr(0, torch->version.find('+'));
  lock.cuda = CudaOf(lock.wheels);
  const std::string& cuda = project.environment.cuda;
  if (lock.cuda.empty() && cuda != "cpu") {
    return Unexpected(UsageAt(
        project, "cuda",
        fmt::format("the index's PyTorch {} has no CUDA in it: {}", lock.torch, torch->file),
        fmt::format("The index is {}. Choose one with a CUDA build, or cuda = \"cpu\".",
                    indexes.Describe())));
  }
  if (cuda != "auto" && cuda != "cpu" && cuda != lock.cuda) {
    return Unexpected(UsageAt(
        project, "cuda",
        fmt::format("this index's build of PyTorch {} is for CUDA {}, not {}", lock.torch,
                    lock.cuda, cuda),
        fmt::format("Choose cuda = \"{}\" or \"auto\", or an index that has the other build "
                    "([index] in this file).\nThe index is {}.",
                    lock.cuda, indexes.Describe())));
  }
  return {};
}

Result<DebianResolution> ResolveSystem(const Project& project, const Recipes& recipes,
                                       const Store& store, Progress& progress) {
  ENVKIT_TRY(const std::string codename, DebianCodename(project.environment.base));
  std::map<std::string, std::vector<std::string>> roots;
  for (const auto& [profile, recipe] : recipes) {
    std::vector<std::string>& packages = roots[profile];
    packages = recipe.debian;
    if (profile != "builder") {
      packages.insert(packages.end(), project.environment.system.begin(),
                      project.environment.system.end());
    }
  }
  ENVKIT_TRY(const DebianMirror mirror, FindDebianMirror(codename, CurrentEnvironment(), store));
  return ResolveDebian(codename, roots, mirror, store, &progress);
}

}  // namespace

Error UsageAt(const Project& project, const std::string& key, std::string message,
              std::string hint) {
  if (const auto text = ReadFile(project.file)) {
    TomlDocument document(*text, project.file.filename().string());
    if (const auto value = document.Root().Table("environment").StringOrInteger(key)) {
      document.Report(value->at, message, hint);
      if (auto checked = document.Check(); !checked) return std::move(checked.error());
    }
  }
  return Error{ExitCode::kUsage, std::move(message), std::move(hint), {}, false};
}

Result<Lock> ResolveLock(const Project& project, const Recipes& recipes, const Store& store,
                         Terminal& terminal, const ResolveOptions& options) {
  Lock lock;
  lock.inputs = InputsOf(project, RecipesDigest(recipes));
  lock.python = project.environment.python;
  if (auto codename = DebianCodename(project.environment.base); !codename) {
    return Unexpected(UsageAt(project, "base", codename.error().what, codename.error().next));
  }
  const bool wheels = !options.system_only || options.previous == nullptr;
  const auto progress =
      terminal.StartProgress("lock", wheels ? "resolving packages" : "resolving Debian packages",
                             recipes.size() + (wheels ? 2 : 1), "steps");
  // Each waits for a network of its own.
  auto system = std::async(std::launch::async,
                           [&] { return ResolveSystem(project, recipes, store, *progress); });
  if (!wheels) {
    const Lock& previous = *options.previous;
    lock.torch = previous.torch;
    lock.cuda = previous.cuda;
    lock.wheels = previous.wheels;
    lock.source_date_epoch = previous.source_date_epoch;
  } else {
    ENVKIT_CHECK(ResolveWheels(project, recipes, store, terminal, options.previous, lock));
    progress->Add(1);
  }
  ENVKIT_TRY(DebianResolution debian, system.get());
  lock.debs = std::move(debian.debs);
  // What stamps every file of the image follows from torch alone where it can: locking again leaves
  // the layers of everything that did not change as they are.
  if (lock.source_date_epoch == 0) lock.source_date_epoch = debian.released;
  return lock;
}

std::string LockDiff(const Lock& before, const Lock& after) {
  const auto versions = [](const auto& packages) {
    std::map<std::string, std::pair<std::string, std::string>> by_name;  // → version, sha256
    for (const auto& package : packages) {
      auto& [version, sha256] = by_name[package.name];
      version += (version.empty() ? "" : ", ") + package.version;
      sha256 += package.sha256;
    }
    return by_name;
  };
  std::string diff;
  const auto compare = [&diff](const auto& old_packages, const auto& new_packages) {
    std::set<std::string> names;
    for (const auto& [name, what] : old_packages) names.insert(name);
    for (const auto& [name, what] : new_packages) names.insert(name);
    for (const std::string& name : names) {
      const auto old_one = old_packages.find(name);
      const auto new_one = new_packages.find(name);
      if (old_one != old_packages.end() && new_one != new_packages.end()) {
        if (old_one->second == new_one->second) continue;
        if (old_one->second.first == new_one->second.first) {
          diff += fmt::format("~ {} {} (another file)\n", name, old_one->second.first);
          continue;
        }
      }
      if (old_one != old_packages.end())
        diff += fmt::format("- {} {}\n", name, old_one->second.first);
      if (new_one != new_packages.end())
        diff += fmt::format("+ {} {}\n", name, new_one->second.first);
    }
  };
  compare(versions(before.wheels), versions(after.wheels));
  compare(versions(before.debs), versions(after.debs));
  if (!diff.empty()) diff.pop_back();
  return diff;
}

}  // namespace envkit

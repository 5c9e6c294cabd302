#include "image/resolve.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "base/files.h"
#include "base/toml.h"
#include "image/base_image.h"
#include "image/closures.h"
#include "image/debian.h"
#include "image/index.h"
#include "image/sdist.h"
#include "image/uv.h"
#include "image/wheel_name.h"

namespace envkit {
namespace {

constexpr const char* kBuilderBase = "debian:trixie";

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

// As uv takes it: a path alone would begin at uv's own directory.
std::string ForUv(const std::string& requirement, const Project& project) {
  const auto local = ParseLocalWheel(requirement);
  if (!local) return requirement;
  return fmt::format("{}{} @ {}{}{}", local->name, local->extras,
                     FileUrl((project.root / local->path).lexically_normal()),
                     local->marker.empty() ? "" : " ; ", local->marker);
}

PythonRequest RequestOf(const Project& project, const Recipes& recipes, const Lock* previous) {
  PythonRequest request;
  request.python = project.environment.python;
  request.machine = project.architecture;
  request.root = project.root;
  std::set<std::string> requirements;
  for (const std::string& package : project.environment.packages) {
    requirements.insert(ForUv(package, project));
  }
  PythonSource own{
      project.file.filename().string(), {TorchRequirement(project.environment.torch)}, false};
  own.requirements.insert(own.requirements.end(), requirements.begin(), requirements.end());
  request.sources.push_back(std::move(own));
  requirements.clear();
  for (const auto& [profile, recipe] : recipes) {
    requirements.insert(recipe.requirements.begin(), recipe.requirements.end());
  }
  request.sources.push_back({"profiles", {requirements.begin(), requirements.end()}, true});
  for (const RequirementFile& file : project.requirement_files) {
    if (file.read_by_uv) {
      request.files.push_back((project.root / file.path).lexically_normal());
      continue;
    }
    // Files of one name in several directories are sources of their own.
    std::string name = std::filesystem::path(file.path).filename().string();
    const auto taken =
        std::count_if(request.sources.begin(), request.sources.end(),
                      [&](const PythonSource& source) { return source.name.ends_with(name); });
    if (taken > 0) name = fmt::format("{}-{}", taken + 1, name);
    request.sources.push_back({name, file.lines, false});
  }
  if (previous != nullptr) request.preferred = previous->wheels;
  return request;
}

// uv's explanation, put as what it means: two wishes for torch.
Error Explain(const Project& project, Error error) {
  const auto conflict = FindTorchConflict(error.what);
  if (!conflict) return error;
  std::string asker = conflict->package;
  for (const RequirementFile& file : project.requirement_files) {
    if (!asker.empty()) break;
    if (file.asks.contains("torch")) asker = file.path;
  }
  if (asker.empty()) return error;
  const std::string spec = conflict->requirement.substr(5);
  const std::string wanted = spec.starts_with("==") ? spec.substr(2) : "";
  const bool exact = !wanted.empty() && std::all_of(wanted.begin(), wanted.end(), [](char c) {
    return (c >= '0' && c <= '9') || c == '.';
  });
  // Its hints are about wheels and versions of Python: not what is wrong here.
  const std::string said = error.what.substr(error.what.find('\n') + 1);
  const std::string words = said.substr(0, said.find("\n\nhint:"));
  return UsageAt(project, "torch", "",
                 fmt::format("{} needs {}, and [environment] torch is \"{}\"", asker,
                             conflict->requirement, project.environment.torch),
                 fmt::format("Choose {}, or another version of {}, or leave it out.\nuv says: {}",
                             exact ? fmt::format("torch = \"{}\"", wanted) : "a torch that fits",
                             asker, words));
}

// The hashes that requirements.txt and pylock.toml allow, which uv does not compare.
Result<void> CheckHashes(const Project& project, const std::vector<LockedWheel>& wheels) {
  for (const RequirementFile& file : project.requirement_files) {
    for (const LockedWheel& wheel : wheels) {
      const auto allowed = file.hashes.find(wheel.name);
      if (allowed == file.hashes.end() || allowed->second.contains(wheel.sha256)) continue;
      return Usage(
          fmt::format("{} has other hashes for {} {}, none of which is that of the index's "
                      "file\n{}\nsha256  {}",
                      file.path, wheel.name, wheel.version, wheel.file, wheel.sha256),
          fmt::format("Either the index serves another file than the one that was meant, "
                      "or {} was made for\nanother Python or platform: export it anew, or "
                      "leave its hashes out.",
                      file.path));
    }
  }
  return {};
}

// Into the store, where their size is known too.
Result<void> TakeOwnWheels(const Project& project, const Store& store, Terminal& terminal,
                           std::vector<LockedWheel>& wheels) {
  FetchRequest fetch;
  for (const LockedWheel& wheel : wheels) {
    if (!wheel.from.empty()) fetch.wheels.push_back(wheel);
  }
  if (fetch.wheels.empty()) return {};
  ENVKIT_CHECK(FetchLocked(project, fetch, store, terminal));
  for (LockedWheel& wheel : wheels) {
    if (wheel.from.empty()) continue;
    std::error_code error;
    wheel.size = std::filesystem::file_size(store.DownloadPath(wheel.sha256, wheel.file), error);
  }
  return {};
}

// The packages of kSdistRoot, resolved where they are asked for first.
using SdistDebs = std::function<Result<std::vector<LockedDeb>>()>;

// Resolves; what comes as source alone becomes a wheel of the store first, one after the other.
Result<PythonResolution> ResolveWithBuilds(const Project& project, PythonRequest& request,
                                           const PythonIndexes& indexes, const Store& store,
                                           Terminal& terminal, const ResolveOptions& options,
                                           const SdistDebs& debs, Lock& lock) {
  constexpr int kMost = 50;
  std::map<std::string, std::string> built;  // sha256 of a wheel → its `from`
  std::set<std::string> names;
  for (int round = 0;; ++round) {
    auto resolved = ResolvePython(request, indexes, store, terminal);
    if (resolved) {
      for (LockedWheel& wheel : resolved->wheels) {
        if (const auto own = built.find(wheel.sha256); own != built.end()) wheel.from = own->second;
      }
      return resolved;
    }
    const auto wanted = FindSourceOnly(resolved.error().what);
    if (!wanted || FindTorchConflict(resolved.error().what) || round == kMost ||
        !names.insert(wanted->name).second) {
      return Unexpected(Explain(project, std::move(resolved.error())));
    }
    if (!options.run) {
      return Usage(fmt::format("{}{} comes as source alone (an sdist), and a lock names wheels",
                               wanted->name, wanted->bounds),
                   PrebuildHint(request.python, wanted->name + wanted->bounds, request.machine));
    }
    SdistSetting setting{project, store, options.run, terminal, request.python, {}};
    ENVKIT_TRY(setting.debs, debs());
    const std::vector<LockedWheel> preferred =
        options.previous == nullptr ? std::vector<LockedWheel>() : options.previous->build_wheels;
    ENVKIT_TRY(std::optional<BuiltSdist> made, LockSdist(setting, indexes, *wanted, preferred));
    if (!made) return Unexpected(Explain(project, std::move(resolved.error())));
    BuiltSdist& one = *made;
    request.sources[0].requirements.push_back(fmt::format(
        "{} @ {}", one.wheel.name, FileUrl(store.DownloadPath(one.wheel.sha256, one.wheel.file))));
    built[one.wheel.sha256] = one.wheel.from;
    lock.sources.push_back(std::move(one.source));
    for (LockedWheel& wheel : one.build_wheels) {
      const bool known =
          std::any_of(lock.build_wheels.begin(), lock.build_wheels.end(),
                      [&](const LockedWheel& other) { return other.file == wheel.file; });
      if (!known) lock.build_wheels.push_back(std::move(wheel));
    }
  }
}

Result<void> ResolveWheels(const Project& project, const Recipes& recipes, const Store& store,
                           Terminal& terminal, const ResolveOptions& options, const SdistDebs& debs,
                           Lock& lock, std::vector<LockFinding>& findings) {
  ENVKIT_CHECK(RejectErrors(project, JudgeRequirements(project)));
  PythonRequest request = RequestOf(project, recipes, options.previous);
  const PythonIndexes indexes = IndexesOf(project, CurrentEnvironment());
  ENVKIT_TRY(PythonResolution resolution,
             ResolveWithBuilds(project, request, indexes, store, terminal, options, debs, lock));
  // Only the resolution tells which CUDA the index's torch is for.
  Recipes fitted = recipes;
  if (const std::string cuda = CudaOf(resolution.wheels); !cuda.empty() && MajorOf(cuda) < 13) {
    for (auto& [profile, recipe] : fitted) {
      for (std::string& requirement : recipe.requirements) requirement = ForCuda(requirement, cuda);
    }
    request = RequestOf(project, fitted, options.previous);
    lock.sources.clear();
    ENVKIT_TRY(resolution,
               ResolveWithBuilds(project, request, indexes, store, terminal, options, debs, lock));
  }
  ENVKIT_CHECK(CheckHashes(project, resolution.wheels));
  ENVKIT_CHECK(TakeOwnWheels(project, store, terminal, resolution.wheels));
  lock.wheels = std::move(resolution.wheels);
  lock.source_date_epoch = resolution.torch_uploaded;
  ENVKIT_CHECK(MarkClosures(fitted, request, indexes, store, terminal, lock.wheels));
  const LockedWheel* torch = Find(lock.wheels, "torch");
  if (torch == nullptr) return Fail("uv resolved no torch");
  lock.torch = torch->version.substr(0, torch->version.find('+'));
  lock.cuda = CudaOf(lock.wheels);
  const std::string& cuda = project.environment.cuda;
  if (lock.cuda.empty() && cuda != "cpu") {
    return Unexpected(UsageAt(
        project, "cuda", "",
        fmt::format("the index's PyTorch {} has no CUDA in it: {}", lock.torch, torch->file),
        fmt::format("The index is {}. Choose one with a CUDA build, or cuda = \"cpu\".",
                    indexes.Describe())));
  }
  if (cuda != "auto" && cuda != "cpu" && cuda != lock.cuda) {
    return Unexpected(UsageAt(
        project, "cuda", "",
        fmt::format("this index's build of PyTorch {} is for CUDA {}, not {}", lock.torch,
                    lock.cuda, cuda),
        fmt::format("Choose cuda = \"{}\" or \"auto\", or an index that has the other build "
                    "([index] in this file).\nThe index is {}.",
                    lock.cuda, indexes.Describe())));
  }
  findings = JudgeWheels(lock, {});
  if (!findings.empty()) {
    findings =
        JudgeWheels(lock, ParseAnnotations(AnnotatePython(request, indexes, store, terminal)));
  }
  ENVKIT_CHECK(RejectErrors(project, findings));
  for (LockFinding& finding : JudgePaths(lock, store)) findings.push_back(std::move(finding));
  return {};
}

Result<DebianResolution> ResolveSystem(const Project& project, const Recipes& recipes,
                                       const Store& store, Progress& progress) {
  ENVKIT_TRY(const std::optional<BaseImage> base,
             ParseBase(project.environment.base, project.root));
  // What compiles the runtime is Debian whatever the image stands on.
  ENVKIT_TRY(const std::string codename,
             DebianCodename(base ? kBuilderBase : project.environment.base));
  std::map<std::string, std::vector<std::string>> roots;
  for (const auto& [profile, recipe] : recipes) {
    if (base && profile != "builder") continue;
    std::vector<std::string>& packages = roots[profile];
    packages = recipe.debian;
    if (profile != "builder") {
      packages.insert(packages.end(), project.environment.system.begin(),
                      project.environment.system.end());
    }
  }
  ENVKIT_TRY(const DebianMirror mirror, FindDebianMirror(codename, CurrentEnvironment(), store));
  return ResolveDebian(codename, DebianArchitecture(project.architecture), roots, mirror, store,
                       &progress);
}

Result<std::vector<LockedDeb>> ResolveBuildSystem(const Project& project, const Recipes& recipes,
                                                  const Store& store) {
  ENVKIT_TRY(const std::string codename, DebianCodename(project.environment.base));
  ENVKIT_TRY(const DebianMirror mirror, FindDebianMirror(codename, CurrentEnvironment(), store));
  ENVKIT_TRY(DebianResolution debian,
             ResolveDebian(codename, DebianArchitecture(project.architecture),
                           {{kSdistRoot, SdistDebian(recipes)}}, mirror, store));
  return std::move(debian.debs);
}

// Takes those of ROOT out of DEBS.
std::vector<LockedDeb> TakeRoot(std::vector<LockedDeb>& debs, const std::string& root) {
  std::vector<LockedDeb> taken;
  for (LockedDeb& deb : debs) {
    if (std::erase(deb.roots, root) == 0) continue;
    taken.push_back(deb);
    taken.back().roots = {root};
  }
  std::erase_if(debs, [](const LockedDeb& deb) { return deb.roots.empty(); });
  return taken;
}

void AddRoot(std::vector<LockedDeb>& debs, const std::vector<LockedDeb>& more) {
  for (const LockedDeb& deb : more) {
    const auto same = std::find_if(debs.begin(), debs.end(), [&](const LockedDeb& other) {
      return other.sha256 == deb.sha256 && other.suite == deb.suite && other.file == deb.file;
    });
    if (same == debs.end()) {
      debs.push_back(deb);
    } else {
      same->roots.insert(same->roots.end(), deb.roots.begin(), deb.roots.end());
      std::sort(same->roots.begin(), same->roots.end());
    }
  }
}

}  // namespace

Result<Lock> ResolveLock(const Project& project, const Recipes& recipes, const Store& store,
                         Terminal& terminal, const ResolveOptions& options,
                         std::vector<LockFinding>* findings) {
  Lock lock;
  lock.inputs = InputsOf(project, RecipesDigest(recipes));
  lock.python = project.environment.python;
  const auto base = ParseBase(project.environment.base, project.root);
  if (!base) return Unexpected(UsageAt(project, "base", "", base.error().what, base.error().next));
  if (*base && !project.environment.system.empty()) {
    return Unexpected(UsageAt(project, "system", "", "Debian packages need a Debian base",
                              "Put them into the image that base names, or leave them out."));
  }
  if (auto codename = DebianCodename(project.environment.base); !*base && !codename) {
    return Unexpected(UsageAt(project, "base", "", codename.error().what, codename.error().next));
  }
  const bool wheels = !options.system_only || options.previous == nullptr;
  const bool keep_system = options.keep_system && options.previous != nullptr;
  const auto progress =
      terminal.StartProgress("lock", wheels ? "resolving packages" : "resolving Debian packages",
                             keep_system ? 1 : recipes.size() + (wheels ? 2 : 1), "steps");
  // Each waits for a network of its own.
  auto system = std::async(std::launch::async, [&]() -> Result<DebianResolution> {
    if (!keep_system) return ResolveSystem(project, recipes, store, *progress);
    return DebianResolution{options.previous->debs, options.previous->source_date_epoch};
  });
  std::vector<LockedDeb> previous_debs, builds;
  if (options.previous != nullptr) previous_debs = options.previous->debs;
  const std::vector<LockedDeb> previous_builds = TakeRoot(previous_debs, kSdistRoot);
  const SdistDebs sdist_debs = [&]() -> Result<std::vector<LockedDeb>> {
    if (!builds.empty()) return builds;
    system.wait();  // apt's directories are one run's
    if (keep_system) builds = previous_builds;
    if (builds.empty()) {
      ENVKIT_TRY(builds, ResolveBuildSystem(project, recipes, store));
    }
    return builds;
  };
  if (!wheels) {
    const Lock& previous = *options.previous;
    lock.sources = previous.sources;
    lock.build_wheels = previous.build_wheels;
    lock.torch = previous.torch;
    lock.cuda = previous.cuda;
    lock.wheels = previous.wheels;
    lock.source_date_epoch = previous.source_date_epoch;
  } else {
    std::vector<LockFinding> found;
    ENVKIT_CHECK(
        ResolveWheels(project, recipes, store, terminal, options, sdist_debs, lock, found));
    if (findings != nullptr) *findings = std::move(found);
    progress->Add(1);
  }
  ENVKIT_TRY(DebianResolution debian, system.get());
  lock.debs = std::move(debian.debs);
  TakeRoot(lock.debs, kSdistRoot);
  if (!lock.sources.empty()) {
    ENVKIT_TRY(const std::vector<LockedDeb> locked, sdist_debs());
    AddRoot(lock.debs, locked);
  }
  // What stamps every file of the image follows from torch alone where it can: locking again leaves
  // the layers of everything that did not change as they are.
  if (lock.source_date_epoch == 0) lock.source_date_epoch = debian.released;
  return lock;
}

}  // namespace envkit

#include "image/sdist.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <regex>
#include <sstream>
#include <system_error>
#include <tuple>

#include "base/archive.h"
#include "base/digest.h"
#include "base/files.h"
#include "base/http.h"
#include "base/toml.h"
#include "image/layer.h"
#include "image/parts.h"
#include "image/resolve.h"
#include "image/system_tree.h"
#include "image/wheel_name.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// Part of every key. Raise it where the same inputs shall give another wheel.
constexpr int kSdistFormat = 1;
constexpr std::int64_t kTime = 315'532'800;  // 1980-01-01: where zip's time starts

// PEP 517, in the least that it takes. "requires" asks the backend what else it needs.
constexpr char kBuild[] = R"(
import importlib, os, sys, tomllib
os.chdir("/src")
try:
    with open("pyproject.toml", "rb") as file:
        system = tomllib.load(file).get("build-system", {})
except FileNotFoundError:
    system = {}
sys.path[:0] = [os.path.abspath(path) for path in system.get("backend-path", [])]
module, _, attribute = system.get("build-backend", "setuptools.build_meta:__legacy__").partition(":")
backend = importlib.import_module(module)
for part in filter(None, attribute.split(".")):
    backend = getattr(backend, part)
if sys.argv[1] == "requires":
    hook = getattr(backend, "get_requires_for_build_wheel", None)
    with open("/out/requires", "w") as file:
        file.write("\n".join(hook() or []) if hook else "")
else:
    backend.build_wheel("/out")
)";

// Numbers of a version's release, and whether it is a final one.
struct Version {
  std::vector<long> release;
  std::string rest;  // "rc1", ".post3"
  bool final_release = true;
};

Version ParseVersion(std::string_view text) {
  Version version;
  std::size_t at = text.find('!') == std::string_view::npos ? 0 : text.find('!') + 1;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    long number = 0;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
      number = std::min(number * 10 + (text[at++] - '0'), 1'000'000'000L);
    }
    version.release.push_back(number);
    if (at + 1 >= text.size() || text[at] != '.') break;
    ++at;
  }
  while (!version.release.empty() && version.release.back() == 0) version.release.pop_back();
  const std::string_view rest = text.substr(std::min(at, text.size()));
  version.rest = rest;
  version.final_release = rest.empty() || rest.starts_with("post") || rest.starts_with(".post") ||
                          rest.starts_with('+') || rest.starts_with('.');
  if (rest.find("dev") != std::string_view::npos || rest.find("rc") != std::string_view::npos) {
    version.final_release = false;
  }
  return version;
}

bool Within(const Version& version, const std::string& bounds) {
  static const std::regex kBound("(==|>=|<=|<|>)([^,<>= ]+)");
  for (std::sregex_iterator it(bounds.begin(), bounds.end(), kBound), end; it != end; ++it) {
    const Version bound = ParseVersion(it->str(2));
    const std::vector<long>& other = bound.release;
    const std::string op = it->str(1);
    const bool fits = op == "=="   ? version.release == other && version.rest == bound.rest
                      : op == ">=" ? version.release >= other
                      : op == "<=" ? version.release <= other
                      : op == "<"  ? version.release < other
                                   : version.release > other;
    if (!fits) return false;
  }
  return true;
}

// "srconly-0.5.tar.gz" → srconly, 0.5
std::optional<std::pair<std::string, std::string>> SdistName(const std::string& file) {
  if (!file.ends_with(".tar.gz")) return std::nullopt;
  const std::string stem = file.substr(0, file.size() - 7);
  const std::size_t dash = stem.rfind('-');
  if (dash == std::string::npos || dash == 0) return std::nullopt;
  return std::pair{NormaliseName(stem.substr(0, dash)), stem.substr(dash + 1)};
}

// "srconly==0.5"
std::string Requirement(const LockedSource& source) {
  const auto parts = SdistName(source.file);
  return parts ? fmt::format("{}=={}", parts->first, parts->second) : source.name;
}

std::string KeyOf(const LockedSource& source, const std::vector<LockedWheel>& wheels,
                  const std::vector<LockedDeb>& debs) {
  std::vector<std::string> parts;
  parts.reserve(wheels.size() + debs.size());
  for (const LockedWheel& wheel : wheels) parts.push_back(wheel.sha256);
  for (const LockedDeb& deb : debs) parts.push_back(deb.sha256);
  std::sort(parts.begin(), parts.end());
  std::string text = fmt::format("sdist {} {}", kSdistFormat, source.sha256);
  for (const std::string& part : parts) text += " " + part;
  return Sha256Of(text);
}

Result<void> FetchSdist(const PythonIndexes& indexes, const LockedSource& source,
                        const SdistSetting& setting) {
  const fs::path file = setting.store.DownloadPath(source.sha256, source.file);
  std::error_code error;
  if (fs::exists(file, error)) return {};
  ENVKIT_TRY(const PythonIndexes complete,
             CompleteIndexes(indexes, setting.store, setting.terminal));
  ENVKIT_TRY(const std::vector<IndexFile> files, ListProject(complete, source.name));
  for (const IndexFile& listed : files) {
    if (listed.name != source.file || listed.sha256 != source.sha256) continue;
    return FetchAll({{{listed.url}, file, source.sha256, source.size, source.file}}, {},
                    setting.terminal);
  }
  return Missing(fmt::format("{} (sha256 {}) is not on the Python index {}", source.file,
                             source.sha256, complete.Describe()),
                 "Choose an index that has it, or lock what this one has: envkit lock --upgrade " +
                     source.name);
}

// The Debian system of builds, made once.
Result<fs::path> EnsureRoot(const SdistSetting& setting) {
  const std::string key = KeyOf({}, {}, setting.debs);
  const fs::path root = setting.store.data / "roots" / key;
  std::error_code error;
  if (fs::exists(root, error)) return root / "fs";
  ENVKIT_CHECK(CheckSystemTools());
  FetchRequest request;
  request.debs = setting.debs;
  ENVKIT_TRY(const FetchOutcome outcome,
             FetchLocked(setting.project, request, setting.store, setting.terminal));
  if (!outcome.gone_debs.empty()) {
    return Unexpected(GoneError(setting.project, outcome.gone_debs));
  }
  ENVKIT_TRY(const FileLock lock,
             LockKey(setting.store, key, "the system for builds", setting.terminal));
  if (fs::exists(root, error)) return root / "fs";
  setting.terminal.Step("build", "the system in which sources are built (once)");
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(setting.store));
  const fs::path tree = work.path() / "root";
  ENVKIT_CHECK(MakeDirectories(tree / "fs"));
  ENVKIT_CHECK(MakeDirectories(work.path() / "scratch"));
  ENVKIT_CHECK(MakeSystemTree(
      setting.debs, setting.store, kTime, work.path() / "scratch", tree / "fs",
      [&](std::string_view status) { setting.terminal.Detail(std::string(status)); }));
  ENVKIT_CHECK(SyncFilesystem(tree));
  ENVKIT_CHECK(PublishDirectory(tree, root));
  return root / "fs";
}

// Wheels of the build, unpacked where Debian's Python looks for them.
Result<void> UnpackWheels(const std::vector<LockedWheel>& wheels, const SdistSetting& setting,
                          const fs::path& tree) {
  LayerPlan plan;
  plan.kind = "wheel";
  plan.mtime = kTime;
  plan.site = fmt::format("usr/local/lib/python{}/dist-packages", setting.python);
  plan.wheels = wheels;
  plan.members.resize(wheels.size());
  ENVKIT_TRY(const WheelContent content, OpenWheels(plan, setting.store));
  ENVKIT_CHECK(MakeDirectories(tree));
  ENVKIT_CHECK(WriteWheels(plan, content, tree, {}));
  return {};
}

Result<fs::path> OnlyDirectory(const fs::path& parent) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error)) {
    found.push_back(it->path());
  }
  if (error || found.size() != 1 || !fs::is_directory(found[0], error)) {
    return Fail("it is no sdist: its files do not lie in one directory");
  }
  return found[0];
}

// Where one build happens.
class Workplace {
 public:
  static Result<Workplace> Make(const LockedSource& source, const SdistSetting& setting) {
    ENVKIT_TRY(WorkDirectory work, WorkDirectory::Make(setting.store));
    ENVKIT_CHECK(MakeDirectories(work.path() / "unpacked"));
    ENVKIT_CHECK(MakeDirectories(work.path() / "out"));
    ENVKIT_CHECK(MakeDirectories(work.path() / "tmp"));
    ENVKIT_CHECK(ExtractTar(setting.store.DownloadPath(source.sha256, source.file),
                            work.path() / "unpacked", kTime));
    ENVKIT_TRY(fs::path directory, OnlyDirectory(work.path() / "unpacked"));
    return Workplace(std::move(work), std::move(directory));
  }

  const fs::path& source() const { return source_; }
  fs::path out() const { return work_.path() / "out"; }

  // WHAT: "requires" or "wheel".
  Result<void> Run(const char* what, const std::vector<LockedWheel>& wheels,
                   const SdistSetting& setting, const LockedSource& of) {
    ENVKIT_TRY(const fs::path root, EnsureRoot(setting));
    const fs::path site = work_.path() / fmt::format("site-{}", what);
    ENVKIT_CHECK(UnpackWheels(wheels, setting, site));
    BuildSandbox sandbox;
    sandbox.lower = {root, site};
    sandbox.binds = {
        {source_, "/src", false}, {out(), "/out", false}, {work_.path() / "tmp", "/build", false}};
    sandbox.env = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                   {"HOME", "/build"},
                   {"TMPDIR", "/build"},
                   {"LC_ALL", "C.UTF-8"},
                   {"TZ", "UTC"},
                   {"PYTHONHASHSEED", "0"},
                   {"PYTHONDONTWRITEBYTECODE", "1"},
                   {"SOURCE_DATE_EPOCH", std::to_string(kTime)}};
    sandbox.argv = {"/usr/bin/python3", "-c", kBuild, what};
    ENVKIT_TRY(const BuildSandboxResult result, setting.run(sandbox));
    if (result.exit_code == 0) return {};
    static const std::regex kModule("ModuleNotFoundError: No module named '([^']+)'");
    std::smatch match;
    if (std::regex_search(result.output, match, kModule)) {
      return Usage(fmt::format("its build imports {}, which its pyproject.toml does not require",
                               match.str(1)),
                   PrebuildHint(setting.python, Requirement(of)));
    }
    const fs::path log = setting.store.data / "sdist.log";
    ENVKIT_CHECK(WriteFileAtomic(log, result.output));
    return Fail(fmt::format("its build ended with exit code {}{}", result.exit_code,
                            FirstErrors(result.output)),
                fmt::format("All that it said: {}\nBuilds have no network, no GPU and no nvcc. "
                            "Where it needs one, make the wheel yourself and name it:\n"
                            "packages = [\"./wheels/….whl\"]",
                            log.string()));
  }

 private:
  Workplace(WorkDirectory work, fs::path source)
      : work_(std::move(work)), source_(std::move(source)) {}
  WorkDirectory work_;
  fs::path source_;
};

// The wheel that the build left, moved into the store.
Result<LockedWheel> TakeWheel(const fs::path& out, const LockedSource& source,
                              const SdistSetting& setting) {
  std::error_code error;
  LockedWheel wheel;
  fs::path file;
  for (fs::directory_iterator it(out, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".whl") file = it->path();
  }
  const auto name = ParseWheelName(file.filename().string());
  if (!name || name->project != source.name) return Fail("its build left no wheel of it");
  wheel.name = source.name;
  wheel.version = name->version;
  wheel.file = file.filename().string();
  wheel.from = "sdist:" + source.file;
  ENVKIT_TRY(wheel.sha256, Sha256OfFile(file));
  ENVKIT_TRY(const std::string content, ReadFile(file));
  wheel.size = content.size();
  ENVKIT_CHECK(WriteFileAtomic(setting.store.DownloadPath(wheel.sha256, wheel.file), content));
  return wheel;
}

Result<LockedWheel> Build(const LockedSource& source, const std::vector<LockedWheel>& wheels,
                          const SdistSetting& setting) {
  const auto build = [&]() -> Result<LockedWheel> {
    setting.terminal.Step("build",
                          fmt::format("{}   a wheel of it, in the builder, offline", source.file));
    ENVKIT_TRY(Workplace place, Workplace::Make(source, setting));
    ENVKIT_CHECK(place.Run("wheel", wheels, setting, source));
    return TakeWheel(place.out(), source, setting);
  };
  auto built = build();
  if (!built) return Wrap(std::move(built.error()), "building " + source.file);
  return built;
}

// A build that was made before, in this store: "SHA256 SIZE VERSION FILE".
std::optional<LockedWheel> Remembered(const LockedSource& source, const std::string& key,
                                      const Store& store) {
  const auto text = ReadFile(store.data / "keys" / key);
  if (!text) return std::nullopt;
  LockedWheel wheel;
  wheel.name = source.name;
  wheel.from = "sdist:" + source.file;
  std::istringstream words(*text);
  words >> wheel.sha256 >> wheel.size >> wheel.version >> wheel.file;
  std::error_code error;
  if (!IsSha256(wheel.sha256) || !ParseWheelName(wheel.file) ||
      !fs::exists(store.DownloadPath(wheel.sha256, wheel.file), error)) {
    return std::nullopt;
  }
  return wheel;
}

Result<std::vector<LockedWheel>> ResolveBuild(const std::vector<std::string>& requirements,
                                              const std::string& name,
                                              const std::vector<LockedWheel>& preferred,
                                              const PythonIndexes& indexes,
                                              const SdistSetting& setting) {
  if (requirements.empty()) return std::vector<LockedWheel>();
  PythonRequest request;
  request.sources = {{name + "-pyproject.toml", requirements}};
  request.root = setting.project.root;
  request.python = setting.python;
  request.preferred = preferred;
  auto resolved = ResolvePython(request, indexes, setting.store, setting.terminal);
  if (!resolved) {
    // What envkit.toml asks for is not to blame.
    if (resolved.error().code == ExitCode::kUsage) {
      resolved.error().next = PrebuildHint(setting.python, name);
    }
    return Wrap(std::move(resolved.error()), "resolving what the build requires");
  }
  PythonResolution resolution = std::move(*resolved);
  FetchRequest fetch;
  fetch.wheels = resolution.wheels;
  ENVKIT_CHECK(FetchLocked(setting.project, fetch, setting.store, setting.terminal));
  return std::move(resolution.wheels);
}

}  // namespace

std::vector<std::string> SdistDebian(const Recipes& recipes) {
  std::vector<std::string> packages = {"make", "pkg-config", "python3-dev"};
  if (const auto builder = recipes.find("builder"); builder != recipes.end()) {
    packages.insert(packages.end(), builder->second.debian.begin(), builder->second.debian.end());
  }
  return packages;
}

std::optional<Sdist> NewestSdist(const std::vector<IndexFile>& files, const std::string& name,
                                 const std::string& bounds) {
  std::optional<Sdist> newest;
  std::tuple<bool, std::vector<long>, std::string> best;
  for (const IndexFile& file : files) {
    const auto parts = SdistName(file.name);
    if (!parts || parts->first != name || !IsSha256(file.sha256)) continue;
    const Version version = ParseVersion(parts->second);
    if (version.release.empty() || !Within(version, bounds)) continue;
    std::tuple rank{version.final_release, version.release, parts->second};
    if (newest && rank <= best) continue;
    best = std::move(rank);
    newest = Sdist{parts->second, file};
  }
  return newest;
}

bool WorthBuilding(const std::vector<IndexFile>& files, const SourceOnly& wanted,
                   const Sdist& sdist) {
  std::vector<long> newest;
  for (const IndexFile& file : files) {
    const auto wheel = ParseWheelName(file.name);
    if (!wheel || wheel->project != wanted.name) continue;
    newest = std::max(newest, ParseVersion(wheel->version).release);
  }
  if (ParseVersion(sdist.version).release >= newest) return true;
  const std::string exact = fmt::format("{}=={}", wanted.name, sdist.version);
  for (const char* verb : {"require ", "depends on ", "depend on "}) {
    if (wanted.words.find(verb + exact) != std::string::npos) return true;
  }
  return false;
}

Result<std::vector<std::string>> BuildRequirements(const fs::path& source) {
  const std::vector<std::string> otherwise = {"setuptools", "wheel"};
  std::error_code error;
  if (!fs::exists(source / "pyproject.toml", error)) return otherwise;
  ENVKIT_TRY(const std::string text, ReadFile(source / "pyproject.toml"));
  TomlDocument document(text, "pyproject.toml");
  TomlTable system = document.Root().Table("build-system");
  const auto requires_list = system.Strings("requires");
  ENVKIT_CHECK(document.Check());
  if (!requires_list) return otherwise;
  std::vector<std::string> requirements;
  for (const TomlString& one : requires_list->value) {
    // Lines for uv: nothing but a requirement may stand there.
    if (RequirementName(one.value).empty() || one.value.find('\n') != std::string::npos) {
      return Fail(
          fmt::format("its [build-system] requires what is no requirement: \"{}\"", one.value));
    }
    requirements.push_back(one.value);
  }
  return requirements;
}

Result<std::optional<BuiltSdist>> LockSdist(const SdistSetting& setting,
                                            const PythonIndexes& indexes, const SourceOnly& wanted,
                                            const std::vector<LockedWheel>& preferred) {
  ENVKIT_TRY(const PythonIndexes complete,
             CompleteIndexes(indexes, setting.store, setting.terminal));
  ENVKIT_TRY(const std::vector<IndexFile> files, ListProject(complete, wanted.name));
  const auto sdist = NewestSdist(files, wanted.name, wanted.bounds);
  if (!sdist || !WorthBuilding(files, wanted, *sdist)) return std::nullopt;
  BuiltSdist built;
  LockedSource& source = built.source;
  source.name = wanted.name;
  source.file = sdist->file.name;
  source.sha256 = sdist->file.sha256;
  const fs::path file = setting.store.DownloadPath(source.sha256, source.file);
  ENVKIT_CHECK(FetchAll({{{sdist->file.url}, file, source.sha256, sdist->file.size, source.file}},
                        {}, setting.terminal));
  std::error_code error;
  source.size = fs::file_size(file, error);
  const auto prepare = [&]() -> Result<void> {
    ENVKIT_TRY(Workplace place, Workplace::Make(source, setting));
    ENVKIT_TRY(std::vector<std::string> requirements, BuildRequirements(place.source()));
    ENVKIT_TRY(built.build_wheels,
               ResolveBuild(requirements, source.name, preferred, complete, setting));
    // The backend may want more than pyproject.toml says.
    ENVKIT_CHECK(place.Run("requires", built.build_wheels, setting, source));
    ENVKIT_TRY(const std::string more, ReadFile(place.out() / "requires"));
    const std::vector<std::string> lines = LogicalLines(more);
    if (lines.empty()) return {};
    for (const std::string& line : lines) {
      if (RequirementName(line).empty()) return Fail("its backend requires \"" + line + "\"");
    }
    requirements.insert(requirements.end(), lines.begin(), lines.end());
    ENVKIT_TRY(built.build_wheels,
               ResolveBuild(requirements, source.name, preferred, complete, setting));
    return {};
  };
  if (auto prepared = prepare(); !prepared) {
    return Wrap(std::move(prepared.error()), "building " + source.file);
  }
  const std::string key = KeyOf(source, built.build_wheels, setting.debs);
  if (const auto remembered = Remembered(source, key, setting.store)) {
    built.wheel = *remembered;
  } else {
    ENVKIT_TRY(built.wheel, Build(source, built.build_wheels, setting));
    const LockedWheel& wheel = built.wheel;
    ENVKIT_CHECK(WriteFileAtomic(
        setting.store.data / "keys" / key,
        fmt::format("{} {} {} {}\n", wheel.sha256, wheel.size, wheel.version, wheel.file)));
  }
  source.wheel = built.wheel.file;
  for (const LockedWheel& wheel : built.build_wheels) source.requires_files.push_back(wheel.file);
  return std::optional(std::move(built));
}

Result<void> EnsureSdists(const Project& project, const Lock& lock, const ImagePlan& plan,
                          const Store& store, const RunInRoot& run, Terminal& terminal) {
  for (const LayerPlan& layer : plan.layers) {
    for (const LockedWheel& wheel : layer.wheels) {
      std::error_code error;
      if (!wheel.from.starts_with("sdist:") ||
          fs::exists(store.DownloadPath(wheel.sha256, wheel.file), error)) {
        continue;
      }
      const auto source =
          std::find_if(lock.sources.begin(), lock.sources.end(),
                       [&](const LockedSource& one) { return one.wheel == wheel.file; });
      if (source == lock.sources.end()) {
        return Usage(fmt::format("envkit.lock does not say what {} is built from", wheel.file),
                     "envkit lock");
      }
      SdistSetting setting{project, store, run, terminal, lock.python, {}};
      for (const LockedDeb& deb : lock.debs) {
        if (std::find(deb.roots.begin(), deb.roots.end(), kSdistRoot) != deb.roots.end()) {
          setting.debs.push_back(deb);
        }
      }
      FetchRequest fetch;
      for (const LockedWheel& needed : lock.build_wheels) {
        const auto& files = source->requires_files;
        if (std::find(files.begin(), files.end(), needed.file) != files.end()) {
          fetch.wheels.push_back(needed);
        }
      }
      ENVKIT_CHECK(FetchLocked(project, fetch, store, terminal));
      ENVKIT_CHECK(FetchSdist(IndexesOf(project, CurrentEnvironment()), *source, setting));
      ENVKIT_TRY(const LockedWheel built, Build(*source, fetch.wheels, setting));
      if (built.sha256 == wheel.sha256) continue;
      return Fail(fmt::format("the wheel that {} gives here is not the locked one\nlocked  {}\n"
                              "built   {}",
                              source->file, wheel.sha256, built.sha256),
                  "Its build is not the same each time. Keep a wheel of it in the project:\n"
                  "packages = [\"./wheels/….whl\"]");
    }
  }
  return {};
}

}  // namespace envkit

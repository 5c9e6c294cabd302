#include "project/project.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cctype>

#include "base/digest.h"
#include "base/files.h"
#include "base/toml.h"
#include "project/checks.h"

namespace envkit {
namespace {

// The Python that a Debian release has; torch's wheels need exactly one.
struct DebianPython {
  std::string_view base, python;
};
constexpr DebianPython kDebianPythons[] = {
    {"debian:trixie", "3.13"}, {"debian:bookworm", "3.11"}, {"debian:bullseye", "3.9"}};

const std::vector<std::string> kReservedJobs = {"shell", "jupyter", "tensorboard"};

bool IsShmSize(std::string_view text) {
  if (text.size() < 2 || text.size() > 7 || text[0] == '0') return false;
  const char unit = text.back();
  return (unit == 'k' || unit == 'm' || unit == 'g') &&
         IsNumbers(text.substr(0, text.size() - 1), 1);
}

bool IsEnvironmentName(std::string_view text) {
  if (text.empty() || IsDigit(text[0])) return false;
  for (char c : text)
    if (!IsAlnum(c) && c != '_') return false;
  return true;
}

bool IsBase(std::string_view text) {
  if (text.starts_with("debian:")) return IsName(text.substr(7));
  if (text.starts_with("oci:")) return text.size() > 4 && !HasControlCharacter(text);
  if (!text.starts_with("docker://")) return false;
  text.remove_prefix(9);
  const std::size_t at = text.find("@sha256:");
  return at != std::string_view::npos && IsPlainWord(text.substr(0, at), "._-/:") &&
         IsSha256(text.substr(at + 8));
}

class ProjectReader {
 public:
  ProjectReader(std::string_view text, const std::filesystem::path& file, bool read_inputs)
      : document_(text, file.filename().string()), read_inputs_(read_inputs) {
    project_.file = std::filesystem::absolute(file).lexically_normal();
    project_.root = project_.file.parent_path();
  }

  Result<Project> Read() {
    TomlTable root = document_.Root();
    if (!ReadSchema(root)) return tl::unexpected(document_.Check().error());
    ReadProject(root.RequiredTable("project"));
    ReadEnvironment(root.Table("environment"));
    ReadImage(root.Table("image"));
    ReadRun(root.Table("run"));
    ReadJobs(root.Table("jobs"));
    ReadData(root.Table("data"));
    ReadIndexes(root.Table("index"));
    // Reserved: later versions read them, and a project may be shared with one.
    for (const char* later : {"slurm", "kubernetes", "registry"}) root.Table(later);
    root.RejectUnknownKeys();
    ENVKIT_CHECK(document_.Check());
    return std::move(project_);
  }

 private:
  // Of a file of another schema nothing else can be judged.
  bool ReadSchema(TomlTable& root) {
    if (!root.Has("schema")) {
      document_.Report({}, "\"schema\" is missing", "write schema = 1 as the first line");
      root.Integer("schema");  // a known key
      return true;
    }
    const auto schema = root.Integer("schema");
    if (!schema || schema->value == 1) return true;
    document_.Report(schema->at, fmt::format("schema {} is not known here", schema->value),
                     schema->value > 1 ? "this envkit reads schema 1; a newer envkit is needed"
                                       : "write schema = 1");
    return false;
  }

  void Origin(const std::string& key, const TomlSpan* at) {
    project_.origin[key] = at != nullptr ? document_.Place(*at) : "default";
  }

  // Takes a value where it is there and VALID, and remembers where it came from.
  template <class Valid>
  std::optional<TomlString> Take(TomlTable& table, const char* key, std::string& target,
                                 Valid valid, const char* expected, const char* hint = "") {
    auto text = table.String(key);
    Origin(table.path() + "." + key, text ? &text->at : nullptr);
    if (!text) return std::nullopt;
    if (!valid(text->value)) {
      document_.Report(text->at, fmt::format("{} is {}", key, expected), hint);
      return std::nullopt;
    }
    target = text->value;
    return text;
  }

  void TakeChoice(TomlTable& table, const char* key, std::string& target,
                  const std::vector<std::string>& choices) {
    const auto text = table.Choice(key, choices);
    Origin(table.path() + "." + key, text ? &text->at : nullptr);
    if (text) target = text->value;
  }

  void ReadProject(TomlTable table) {
    if (const auto name = table.RequiredString("name")) {
      if (!IsName(name->value))
        document_.Report(
            name->at, "name is lower-case letters, digits, '.', '_' and '-'",
            "it names the image; it starts with a letter or a digit and has at most 63");
      project_.name = name->value;
      Origin("project.name", &name->at);
    }
    table.RejectUnknownKeys();
  }

  void ReadEnvironment(TomlTable table) {
    EnvironmentSettings& environment = project_.environment;
    Take(
        table, "torch", environment.torch,
        [](std::string_view text) { return IsNumbers(text, 2) || IsNumbers(text, 3); },
        "a release line such as \"2.15\", or an exact version such as \"2.15.0\"");
    Take(
        table, "cuda", environment.cuda,
        [](std::string_view text) { return text == "auto" || text == "cpu" || IsNumbers(text, 2); },
        "\"auto\", \"cpu\" or a version such as \"13.2\"");
    Take(table, "base", environment.base, IsBase,
         "\"debian:NAME\", \"oci:DIR\" or \"docker://NAME@sha256:…\"",
         "an image from a registry is named by its digest, so that every build gets the same one");
    ReadPython(table);
    ReadPackages(table);
    ReadRequirements(table);
    SortInputs();
    ReadSystem(table);
    TakeChoice(table, "system_policy", environment.system_policy, {"pinned", "refresh"});
    const auto compiler = table.Bool("cuda_compiler");
    Origin("environment.cuda_compiler", compiler ? &compiler->at : nullptr);
    if (compiler) environment.cuda_compiler = compiler->value;
    table.RejectUnknownKeys();
  }

  void ReadPython(TomlTable& table) {
    EnvironmentSettings& environment = project_.environment;
    std::string_view own;
    for (const DebianPython& debian : kDebianPythons)
      if (debian.base == environment.base) own = debian.python;
    if (!own.empty()) environment.python = own;
    const auto python = Take(
        table, "python", environment.python,
        [](std::string_view text) { return IsNumbers(text, 2); }, "a version such as \"3.13\"");
    if (!python || own.empty() || python->value == own) return;
    std::string hint = fmt::format("leave python out, or write python = \"{}\"", own);
    for (const DebianPython& debian : kDebianPythons)
      if (debian.python == environment.python)
        hint += fmt::format("\n{} has {}: base = \"{}\"", debian.base, debian.python, debian.base);
    document_.Report(python->at,
                     fmt::format("{} has Python {}, not {}", environment.base, own, python->value),
                     hint);
  }

  void ReadPackages(TomlTable& table) {
    const auto packages = table.Strings("packages");
    Origin("environment.packages", packages ? &packages->at : nullptr);
    if (!packages) return;
    for (const TomlString& package : packages->value) {
      const std::string& text = package.value;
      const auto local = ParseLocalWheel(text);
      if (text.empty() || HasControlCharacter(text) || !(IsAlnum(text[0]) || local)) {
        document_.Report(
            package.at, "packages holds requirements and local wheels",
            "such as \"torchvision\", \"numpy>=2\" or \"./wheels/mine-1.0-py3-none-any.whl\"");
      } else if (HasCredentials(text)) {
        document_.Report(package.at, "a requirement must not hold a user name or password",
                         "it would go into envkit.lock; write credentials into ~/.netrc");
      } else if (!local && RequirementName(text) == "torch") {
        document_.Report(package.at, "torch itself is not one of the packages",
                         "its version is [environment] torch");
      } else if (IsRepository(text)) {
        document_.Report(package.at, "a lock names wheels, not repositories",
                         "make a wheel of it once (pip wheel --no-deps), and name that: "
                         "\"./wheels/NAME-….whl\"");
      } else {
        project_.environment.packages.push_back(text);
        if (local) ReadLocalWheel(*local, package.at);
      }
    }
  }

  // "name @ git+https://…"
  static bool IsRepository(std::string_view text) {
    for (const char* scheme : {"git+", "hg+", "svn+", "bzr+"}) {
      if (text.find(scheme) != std::string_view::npos && text.find("://") != std::string_view::npos)
        return true;
    }
    return false;
  }

  void ReadLocalWheel(const LocalWheel& wheel, TomlSpan at) {
    const std::string file = std::filesystem::path(wheel.path).filename().string();
    if (wheel.name != RequirementName(file.substr(0, file.find('-')))) {
      document_.Report(at, fmt::format("the wheel {} is not of {}", file, wheel.name),
                       "a wheel's file name begins with its package's name");
      return;
    }
    if (!read_inputs_) return;
    const std::filesystem::path place = project_.root / wheel.path;
    std::error_code error;
    if (!std::filesystem::is_regular_file(place, error)) {
      document_.Report(at, fmt::format("there is no file {}", wheel.path),
                       "paths are relative to the project's root");
      return;
    }
    auto sha256 = Sha256OfFile(place);
    if (!sha256) {
      document_.Report(at, sha256.error().what);
    } else {
      project_.inputs.push_back({wheel.path, std::move(*sha256)});
    }
  }

  void ReadRequirements(TomlTable& table) {
    const auto requirements = table.Strings("requirements");
    Origin("environment.requirements", requirements ? &requirements->at : nullptr);
    if (!requirements) return;
    for (const TomlString& text : requirements->value) {
      std::vector<std::string>& known = project_.environment.requirements;
      const auto entry = ParseRequirementEntry(text.value);
      if (!entry) {
        document_.Report(text.at, entry.error().what, entry.error().next);
      } else if (std::find(known.begin(), known.end(), text.value) != known.end()) {
        document_.Report(text.at, fmt::format("{} is named twice", text.value));
      } else {
        known.push_back(text.value);
        if (!read_inputs_) continue;
        auto file = ReadRequirementFile(project_.root, *entry);
        if (!file) {
          document_.Report(text.at, file.error().what, file.error().next);
          continue;
        }
        project_.inputs.insert(project_.inputs.end(), file->inputs.begin(), file->inputs.end());
        project_.requirement_files.push_back(std::move(*file));
      }
    }
  }

  // What several files include is one input.
  void SortInputs() {
    std::vector<InputFile>& inputs = project_.inputs;
    std::sort(inputs.begin(), inputs.end(),
              [](const InputFile& a, const InputFile& b) { return a.path < b.path; });
    inputs.erase(std::unique(inputs.begin(), inputs.end()), inputs.end());
  }

  void ReadSystem(TomlTable& table) {
    const auto system = table.Strings("system");
    Origin("environment.system", system ? &system->at : nullptr);
    if (!system) return;
    for (const TomlString& package : system->value) {
      if (!IsDebianPackage(package.value))
        document_.Report(package.at, "system holds names of Debian packages, such as \"git\"",
                         "versions are envkit.lock's business");
      project_.environment.system.push_back(package.value);
    }
  }

  void ReadImage(TomlTable table) {
    TakeChoice(table, "profile", project_.profile, {"auto", "train", "python", "dev"});
    table.RejectUnknownKeys();
  }

  void ReadRun(TomlTable table) {
    RunSettings& run = project_.run;
    Take(
        table, "gpus", run.gpus,
        [](std::string_view text) {
          return IsPlainWord(text, ",-") && !text.ends_with(',') &&
                 (text == "all" || text == "none" || IsDigit(text[0]) || text.starts_with("GPU-") ||
                  text.starts_with("MIG-"));
        },
        "\"all\", \"none\", or GPUs by number or UUID, such as \"0,1\"");
    const auto mounts = table.Strings("mounts");
    Origin("run.mounts", mounts ? &mounts->at : nullptr);
    if (mounts) {
      run.mounts.clear();
      for (const TomlString& mount : mounts->value) ReadMount(mount);
    } else {
      targets_.push_back("/workspace");
    }
    Take(
        table, "shm", run.shm,
        [](std::string_view text) { return text == "auto" || IsShmSize(text); },
        "\"auto\" or a size such as \"16g\" (k, m or g)");
    run.env = ReadEnvironmentVariables(table);
    table.RejectUnknownKeys();
  }

  void ReadMount(const TomlString& mount) {
    constexpr const char* kForm = "write \"host:container\" or \"host:container:ro\"";
    std::string_view text = mount.value;
    const std::size_t first = text.find(':');
    const std::size_t second = first == std::string_view::npos ? first : text.find(':', first + 1);
    if (first == 0 || first == std::string_view::npos || HasControlCharacter(text)) {
      document_.Report(mount.at, "this is not a mount", kForm);
      return;
    }
    MountSetting setting;
    setting.host = text.substr(0, first);
    setting.container = text.substr(first + 1, second - first - 1);
    if (second != std::string_view::npos) {
      setting.read_only = text.substr(second) == ":ro";
      if (!setting.read_only) {
        document_.Report(mount.at, "after the container's path only \":ro\" can follow", kForm);
        return;
      }
    }
    if (CheckTarget(setting.container, mount.at)) project_.run.mounts.push_back(setting);
  }

  bool CheckTarget(const std::string& target, TomlSpan at) {
    if (!target.starts_with('/') || HasControlCharacter(target) ||
        target.find(':') != std::string::npos ||
        (target != "/" && !HasOnlyNormalParts(target.substr(1)))) {
      document_.Report(at, "the path in the container must be absolute and plain",
                       "such as \"/workspace\" or \"/data/mine\": no \"..\", no final '/'");
      return false;
    }
    for (const char* taken : {"/", "/proc", "/sys", "/dev", "/opt/envkit"}) {
      if (target != taken) continue;
      document_.Report(at,
                       fmt::format("{} belongs to the image; nothing can be mounted there", taken));
      return false;
    }
    if (std::find(targets_.begin(), targets_.end(), target) != targets_.end()) {
      document_.Report(at, fmt::format("two mounts have the same place, {}", target),
                       target == "/workspace" ? "the project itself is mounted there" : "");
      return false;
    }
    targets_.push_back(target);
    return true;
  }

  std::map<std::string, std::string> ReadEnvironmentVariables(TomlTable& parent) {
    std::map<std::string, std::string> variables;
    TomlTable table = parent.Table("env");
    for (const TomlString& key : table.Keys()) {
      const auto value = table.StringOrInteger(key.value);
      if (!IsEnvironmentName(key.value)) {
        document_.Report(key.at, "this cannot be an environment variable's name",
                         "letters, digits and '_', and no digit first");
      } else if (value && value->value.find('\0') != std::string::npos) {
        document_.Report(value->at, "an environment variable cannot hold a null character");
      } else if (value) {
        variables[key.value] = value->value;
        Origin(table.path() + "." + key.value, &value->at);
      }
    }
    return variables;
  }

  bool CheckName(const TomlString& key, std::string_view what) {
    if (IsName(key.value)) return true;
    document_.Report(
        key.at, fmt::format("a {}'s name is lower-case letters, digits, '.', '_' and '-'", what));
    return false;
  }

  void ReadJobs(TomlTable jobs) {
    for (const TomlString& key : jobs.Keys()) {
      TomlTable table = jobs.Table(key.value);
      if (!table || !CheckName(key, "job")) continue;
      if (std::find(kReservedJobs.begin(), kReservedJobs.end(), key.value) != kReservedJobs.end()) {
        document_.Report(key.at, fmt::format("{} is a job that every project has", key.value),
                         "choose another name");
        continue;
      }
      Job job;
      job.name = key.value;
      ReadCommand(table, job);
      const auto processes = table.StringOrInteger("processes");
      Origin(table.path() + ".processes", processes ? &processes->at : nullptr);
      if (processes && !IsProcesses(processes->value)) {
        document_.Report(processes->at, "processes is \"auto\" or a number from 1 to 9999");
      } else if (processes) {
        job.processes = processes->value;
      }
      if (const auto profile = table.Choice("profile", {"auto", "train", "python", "dev"})) {
        job.profile = profile->value;
        Origin(table.path() + ".profile", &profile->at);
      }
      job.env = ReadEnvironmentVariables(table);
      table.RejectUnknownKeys();
      project_.jobs[job.name] = std::move(job);
    }
  }

  static bool IsProcesses(std::string_view text) {
    return text == "auto" || (text.size() <= 4 && text[0] != '0' && IsNumbers(text, 1));
  }

  void ReadCommand(TomlTable& table, Job& job) {
    if (!table.Has("command")) {
      document_.Report(table.at(), fmt::format("[{}] has no \"command\"", table.path()),
                       "such as command = [\"train.py\", \"--epochs\", \"3\"]");
    }
    const auto command = table.Strings("command");
    if (!command) return;
    Origin(table.path() + ".command", &command->at);
    if (command->value.empty() || command->value[0].value.empty() ||
        command->value[0].value.starts_with('-'))
      document_.Report(command->at, "command starts with a program's name");
    for (const TomlString& word : command->value) {
      if (word.value.find('\0') != std::string::npos)
        document_.Report(word.at, "a command cannot hold a null character");
      job.command.push_back(word.value);
    }
  }

  void ReadData(TomlTable data) {
    for (const TomlString& key : data.Keys()) {
      TomlTable table = data.Table(key.value);
      if (!table || !CheckName(key, "data artefact")) continue;
      DataArtefact artefact;
      artefact.name = key.value;
      if (table.Has("path")) {
        ReadOwnData(table, artefact);
      } else if (!table.Has("file")) {
        document_.Report(
            table.at(), fmt::format("[{}] names no files", table.path()),
            "write file and sha256 (of a file on the Python index), or path (your own)");
        table.String("file");
        table.String("sha256");
      } else {
        ReadIndexFile(table, artefact);
      }
      if (const auto mount = table.RequiredString("mount")) {
        artefact.mount = mount->value;
        CheckTarget(mount->value, mount->at);
        Origin(table.path() + ".mount", &mount->at);
      }
      table.String("path");  // a known key in every case
      table.RejectUnknownKeys();
      project_.data[artefact.name] = std::move(artefact);
    }
  }

  void ReadOwnData(TomlTable& table, DataArtefact& artefact) {
    if (const auto path = table.String("path")) {
      if (path->value.empty() || HasControlCharacter(path->value) ||
          path->value.find(':') != std::string::npos)
        document_.Report(path->at, "path is a file or directory, and holds no ':'");
      artefact.path = path->value;
      Origin(table.path() + ".path", &path->at);
    }
    for (const char* other : {"file", "sha256"}) {
      if (const auto text = table.String(other))
        document_.Report(text->at, fmt::format("path and {} exclude each other", other),
                         "path: files of your own; file and sha256: a file of the Python index");
    }
  }

  void ReadIndexFile(TomlTable& table, DataArtefact& artefact) {
    if (const auto file = table.String("file")) {
      if (!IsPlainWord(file->value, "._+!-"))
        document_.Report(file->at,
                         "file is the name of a file on the Python index, without a path");
      artefact.file = file->value;
      Origin(table.path() + ".file", &file->at);
    }
    if (const auto sha256 = table.RequiredString("sha256")) {
      if (!IsSha256(sha256->value))
        document_.Report(sha256->at, "sha256 is 64 hexadecimal digits in lower case");
      artefact.sha256 = sha256->value;
      Origin(table.path() + ".sha256", &sha256->at);
    }
  }

  void ReadIndexes(TomlTable table) {
    for (const TomlString& key : table.Keys()) {
      const auto url = table.String(key.value);
      if (!CheckName(key, "index") || !url) continue;
      const std::string& text = url->value;
      if (!(text.starts_with("https://") || text.starts_with("http://")) ||
          HasControlCharacter(text) || text.find(' ') != std::string::npos) {
        document_.Report(url->at, "an index is an http:// or https:// URL");
      } else if (HasCredentials(text)) {
        document_.Report(url->at, "an index URL must not hold a user name or password",
                         "write credentials into ~/.netrc");
      } else {
        project_.indexes.push_back({key.value, text});
        Origin(table.path() + "." + key.value, &url->at);
      }
    }
  }

  TomlDocument document_;
  bool read_inputs_;
  Project project_;
  std::vector<std::string> targets_;  // places in the container that are taken
};

}  // namespace

Result<Project> ParseProject(std::string_view text, const std::filesystem::path& file) {
  return ProjectReader(text, file, false).Read();
}

Result<Project> LoadProject(const std::filesystem::path& directory) {
  std::error_code error;
  const std::filesystem::path start = std::filesystem::canonical(directory, error);
  if (error)
    return Usage(fmt::format("{}: {}", directory.string(), error.message()),
                 "name a directory with -C DIR");
  for (std::filesystem::path place = start;; place = place.parent_path()) {
    const std::filesystem::path file = place / "envkit.toml";
    if (std::filesystem::exists(file, error)) {
      auto text = ReadFile(file);
      if (!text) return Wrap(std::move(text).error(), "reading the project");
      ENVKIT_TRY(Project project, ProjectReader(*text, file, true).Read());
      project.architecture = HostArchitecture();
      return project;
    }
    if (place == place.root_path()) break;
  }
  return Usage(fmt::format("there is no envkit.toml in {} or a directory above it", start.string()),
               "Change into a project, name one with envkit -C DIR …, or begin one: envkit init");
}

std::string HostArchitecture() {
  utsname system{};
  uname(&system);
  return std::string_view(system.machine) == "aarch64" ? "aarch64" : "x86_64";
}

std::string DebianArchitecture(std::string_view architecture) {
  return architecture == "aarch64" ? "arm64" : "amd64";
}

std::filesystem::path LockFile(const Project& project) {
  const bool usual = project.architecture == Project().architecture;
  return project.root / (usual ? "envkit.lock" : "envkit." + project.architecture + ".lock");
}

}  // namespace envkit

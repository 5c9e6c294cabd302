#include "image/uv.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <regex>
#include <sstream>
#include <system_error>
#include <tuple>

#include "base/archive.h"
#include "base/digest.h"
#include "base/files.h"
#include "base/http.h"
#include "base/process.h"
#include "base/toml.h"
#include "image/recipe.h"
#include "image/wheel_name.h"
#include "project/checks.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

struct PinnedUv {
  std::string least;
  std::string machine;
  IndexFile wheel;  // without a URL; no name where none is pinned for this machine
};

Result<PinnedUv> ReadPin() {
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  const fs::path file = share / "images/uv.toml";
  ENVKIT_TRY(const std::string text, ReadFile(file));
  utsname system{};
  uname(&system);
  TomlDocument document(text, file.string());
  TomlTable root = document.Root();
  PinnedUv pin;
  if (const auto least = root.RequiredString("least")) pin.least = least->value;
  pin.machine = system.machine;
  if (!root.Has(pin.machine)) {
    ENVKIT_CHECK(document.Check());
    return pin;
  }
  TomlTable wheel = root.Table(pin.machine);
  if (const auto name = wheel.RequiredString("file")) pin.wheel.name = name->value;
  if (const auto sha256 = wheel.RequiredString("sha256")) pin.wheel.sha256 = sha256->value;
  if (const auto size = wheel.RequiredInteger("size", 1)) {
    pin.wheel.size = static_cast<std::uint64_t>(size->value);
  }
  ENVKIT_CHECK(document.Check());
  return pin;
}

std::array<int, 3> VersionOf(std::string_view text) {
  std::array<int, 3> version{};
  const std::string copy(text);
  std::sscanf(copy.c_str(), "%d.%d.%d", &version[0], &version[1], &version[2]);
  return version;
}

// "" where the program is none that answers as uv does.
std::string UvVersion(const fs::path& program) {
  ProcessSpec spec;
  spec.argv = {program.string(), "--version"};
  spec.timeout = std::chrono::seconds(20);
  const auto result = RunProcess(spec);
  if (!result || result->exit_code != 0 || !result->out.starts_with("uv ")) return "";
  return result->out.substr(3, result->out.find_first_of(" \n", 3) - 3);
}

// What pip said, less its retries: of five warnings with a Python object's address each, the
// reason.
std::string PipWords(const std::string& said) {
  static const std::regex kObject("'<[^>]*>: ");
  std::string reason, errors;
  std::istringstream lines(said);
  for (std::string line; std::getline(lines, line);) {
    const std::string_view broken = "after connection broken by '";
    const std::size_t at = line.find(broken), end = line.rfind("': /");
    if (at != std::string::npos && end != std::string::npos && end > at) {
      reason = std::regex_replace(line.substr(at + broken.size(), end - at - broken.size()),
                                  kObject, "'");
    } else if (!line.empty()) {
      errors += (errors.empty() ? "" : "\n") + line;
    }
  }
  return reason.empty() ? errors : reason;
}

// The proxy that pip was told to use is the first suspect when nothing answers.
std::string ProxyText() {
  for (const char* name : {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') {
      return fmt::format("The proxy is {} ({}).\n", RedactUrl(value), name);
    }
  }
  return "";
}

// pip verifies the hash too, but the file is ours only once we have.
Result<void> FetchWithPip(const PinnedUv& pin, const fs::path& file, const Store& store) {
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  const auto name = ParseWheelName(pin.wheel.name);
  if (!name) return Fail(fmt::format("{} is not a wheel's name", pin.wheel.name));
  const fs::path requirements = work.path() / "requirements.txt";
  ENVKIT_CHECK(WriteFileAtomic(requirements, fmt::format("{}=={} --hash=sha256:{}\n", name->project,
                                                         name->version, pin.wheel.sha256)));
  ProcessSpec spec;
  spec.argv = {"python3",
               "-m",
               "pip",
               "download",
               "--no-deps",
               "--only-binary",
               ":all:",
               "--require-hashes",
               "-r",
               requirements.string(),
               "-d",
               (work.path() / "pip").string(),
               "--no-cache-dir",
               "--disable-pip-version-check",
               "--no-input",
               "--quiet"};
  auto result = RunProcess(spec);
  const std::string next =
      "Check the network, or install uv, or name your index: UV_DEFAULT_INDEX, uv.toml or "
      "pip.conf.";
  if (!result) {
    return Missing(fmt::format("uv is not installed, no Python index is configured, and {}",
                               result.error().what),
                   next);
  }
  if (result->exit_code != 0) {
    return Missing(fmt::format("pip could not fetch {}\n{}", pin.wheel.name, PipWords(result->err)),
                   ProxyText() + next);
  }
  const fs::path fetched = work.path() / "pip" / pin.wheel.name;
  ENVKIT_TRY(const std::string content, ReadFile(fetched));
  if (Sha256Of(content) != pin.wheel.sha256) {
    return Fail(fmt::format("{} has the wrong sha256\nexpected  {}\ngot       {}", pin.wheel.name,
                            pin.wheel.sha256, Sha256Of(content)));
  }
  return WriteFileAtomic(file, content);
}

Result<fs::path> PinnedProgram(const PinnedUv& pin, const PythonIndexes& indexes,
                               const Store& store, Terminal& terminal) {
  if (pin.wheel.name.empty()) {
    return Missing(fmt::format("uv is not installed, and none is pinned for {}", pin.machine),
                   "Install uv and put it on PATH.");
  }
  const fs::path program = store.cache / "tools" / pin.wheel.sha256 / "uv";
  std::error_code error;
  if (fs::exists(program, error)) return program;
  const fs::path wheel = store.DownloadPath(pin.wheel.sha256, pin.wheel.name);
  if (!fs::exists(wheel, error)) {
    if (indexes.main.empty()) {
      terminal.Step("fetch", fmt::format("{}   {}", pin.wheel.name, HumanBytes(pin.wheel.size)));
      ENVKIT_CHECK(FetchWithPip(pin, wheel, store));
    } else {
      ENVKIT_TRY(const IndexFile found, FindOnIndexes(indexes, pin.wheel.name, pin.wheel.sha256));
      ENVKIT_CHECK(FetchAll(
          {{{found.url}, wheel, pin.wheel.sha256, pin.wheel.size, pin.wheel.name}}, {}, terminal));
    }
  }
  ENVKIT_TRY(const ZipReader zip, ZipReader::Open(wheel));
  for (const ZipReader::Entry& entry : zip.entries()) {
    if (!entry.name.ends_with(".data/scripts/uv")) continue;
    ENVKIT_TRY(const std::string content, zip.ReadAll(entry));
    ENVKIT_CHECK(WriteFileAtomic(program, content, 0755));
    return program;
  }
  return Fail(fmt::format("{} holds no uv", wheel.string()));
}

// The upload time stands in uv's output beside the hash, as a TOML date, which our reader has no
// use for elsewhere.
std::int64_t UploadTime(std::string_view text, std::string_view sha256) {
  const std::size_t hash = text.find(sha256);
  if (hash == std::string_view::npos) return 0;
  const std::size_t begin = text.rfind("url = ", hash);
  constexpr std::string_view kKey = "upload-time = ";
  const std::size_t key = text.rfind(kKey, hash);
  if (key == std::string_view::npos || begin == std::string_view::npos || key < begin) return 0;
  const std::size_t at = key + kKey.size();
  return ParseUtc(text.substr(at, text.find_first_of(", }", at) - at));
}

std::string PreferencesAsPylock(const std::vector<LockedWheel>& wheels) {
  std::string text = "lock-version = \"1.0\"\ncreated-by = \"envkit\"\n";
  for (const LockedWheel& wheel : wheels) {
    text +=
        fmt::format("\n[[packages]]\nname = \"{}\"\nversion = \"{}\"\n", wheel.name, wheel.version);
  }
  return text;
}

// A uv.toml of the user's own stays in force; what lies in the project and means the host's Python
// does not.
void OnlyUserSettings(ProcessSpec& spec, const ProxyVariables& environment) {
  const auto get = [&environment](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? fs::path() : fs::path(found->second);
  };
  if (!get("UV_CONFIG_FILE").empty() || !get("UV_NO_CONFIG").empty()) return;
  fs::path directory = get("XDG_CONFIG_HOME");
  if (!directory.is_absolute()) directory = get("HOME") / ".config";
  std::error_code error;
  if (fs::exists(directory / "uv/uv.toml", error)) {
    spec.env["UV_CONFIG_FILE"] = (directory / "uv/uv.toml").string();
  } else {
    spec.env["UV_NO_CONFIG"] = "1";
  }
}

// `uv pip compile` of all that REQUEST asks for, as far as its answers' formats have it in common.
Result<ProcessSpec> Compile(const fs::path& uv, const PythonRequest& request,
                            const PythonIndexes& indexes, const fs::path& work) {
  ProcessSpec spec;
  spec.argv = {uv.string(), "pip", "compile"};
  for (const PythonSource& source : request.sources) {
    std::string text;
    for (const std::string& requirement : source.requirements) text += requirement + "\n";
    const fs::path file = work / (source.name + ".in");
    ENVKIT_CHECK(WriteFileAtomic(file, text));
    spec.argv.push_back(file.string());
  }
  for (const fs::path& file : request.files) spec.argv.push_back(file.string());
  spec.argv.insert(spec.argv.end(), {"--only-binary", ":all:",
                                     // The command line would be in the file otherwise.
                                     "--no-header", "--python-version", request.python,
                                     // "linux" would mean glibc 2.28, and lock stubs where only
                                     // newer builds are real.
                                     "--python-platform",
                                     fmt::format("{}-manylinux_2_{}", request.machine, kGlibcMinor),
                                     "--quiet", "--color", "never"});
  const ProxyVariables environment = CurrentEnvironment();
  spec.cwd = work;
  spec.env = indexes.ForUv();
  spec.env.merge(TrustForUv(environment));
  spec.env["UV_PYTHON_DOWNLOADS"] = "never";
  for (const char* name : {"UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_DEFAULT_INDEX"}) {
    if (!spec.env.contains(name)) spec.env_unset.emplace_back(name);
  }
  if (!request.files.empty()) {
    // Relative paths in them begin there, as pip has it.
    spec.cwd = request.root;
    OnlyUserSettings(spec, environment);
  }
  return spec;
}

// What uv says of our files under the names that people know.
std::string OwnNames(std::string words, const fs::path& work) {
  const std::string directory = work.string() + "/";
  for (std::size_t at = 0; (at = words.find(directory, at)) != std::string::npos;) {
    words.erase(at, directory.size());
  }
  static const std::regex kPosition("(\\.toml)\\.in`( at position \\d+)?");
  return std::regex_replace(words, kPosition, "$1`");
}

// Where a wheel lies that no index has: below the project as a path relative to it.
std::string Origin(const std::string& from, const fs::path& work, const fs::path& root) {
  if (from.starts_with("http://") || from.starts_with("https://")) {
    return from.substr(0, from.find('#'));
  }
  fs::path path = from.starts_with("file://")
                      ? fs::path(PercentDecode(std::string_view(from).substr(7)))
                      : fs::path(from);
  // uv says it relative to its output.
  if (path.is_relative()) path = (work / path).lexically_normal();
  const fs::path relative = path.lexically_relative(root);
  return (relative.empty() || *relative.begin() == ".." ? path : relative).generic_string();
}

// What stands in uv's output for a package that comes from elsewhere than an index.
Result<void> ReadArchive(TomlTable& package, const std::string& name, std::string_view python,
                         std::vector<LockedWheel>& wheels) {
  TomlTable archive = package.Table("archive");
  if (archive) {
    LockedWheel wheel;
    if (const auto url = archive.String("url")) wheel.from = url->value;
    if (const auto path = archive.String("path")) wheel.from = path->value;
    if (const auto sha256 = archive.Table("hashes").String("sha256")) wheel.sha256 = sha256->value;
    const std::string path = wheel.from.substr(0, wheel.from.find_first_of("?#"));
    wheel.file = PercentDecode(path.substr(path.rfind('/') + 1));
    if (wheel.file.ends_with(".whl")) {
      wheels.push_back(std::move(wheel));
      return {};
    }
  }
  if (!archive && !package.Has("directory") && !package.Has("vcs") && !package.Has("sdist")) {
    return {};
  }
  return Usage(fmt::format("{} comes as source, and a lock names wheels", name),
               PrebuildHint(std::string(python), name));
}

}  // namespace

Result<fs::path> EnsureUv(const PythonIndexes& indexes, const Store& store, Terminal& terminal) {
  ENVKIT_TRY(const PinnedUv pin, ReadPin());
  if (const auto installed = FindExecutable("uv")) {
    const std::string version = UvVersion(*installed);
    if (VersionOf(version) >= VersionOf(pin.least)) return *installed;
    terminal.Detail(fmt::format("{} is {}, older than {}: taking the pinned one",
                                installed->string(), version.empty() ? "not uv" : version,
                                pin.least));
  }
  auto program = PinnedProgram(pin, indexes, store, terminal);
  if (!program) return Wrap(program.error(), "fetching uv, which resolves Python packages");
  return program;
}

Result<PythonIndexes> CompleteIndexes(PythonIndexes indexes, const Store& store,
                                      Terminal& terminal) {
  if (!indexes.main.empty()) return indexes;
  indexes.origin = "uv's default";
  const fs::path remembered = store.cache / "default-index";
  if (const auto text = ReadFile(remembered); text && text->find("://") != std::string::npos) {
    indexes.main = text->substr(0, text->find('\n'));
    return indexes;
  }
  ENVKIT_TRY(const fs::path uv, EnsureUv(indexes, store, terminal));
  // Nothing to resolve, and no network: uv only says which index it would ask.
  ProcessSpec spec;
  spec.argv = {uv.string(), "pip",        "compile", "--emit-index-url", "--no-header", "--offline",
               "--quiet",   "--no-cache", "-"};
  spec.input = "";
  spec.env = {{"UV_PYTHON_DOWNLOADS", "never"}};
  spec.env_unset = {"UV_INDEX", "UV_EXTRA_INDEX_URL"};
  spec.cwd = store.cache;
  auto words = RunForOutput(spec);
  if (!words) return Wrap(words.error(), "asking uv for its default index");
  constexpr std::string_view kOption = "--index-url ";
  const std::size_t at = words->find(kOption);
  if (at == std::string::npos) {
    return Missing(fmt::format("uv names no default index\n{}", *words),
                   "Name your index: UV_DEFAULT_INDEX, uv.toml or pip.conf.");
  }
  const std::size_t begin = at + kOption.size();
  indexes.main = words->substr(begin, words->find_first_of(" \n", begin) - begin);
  ENVKIT_CHECK(WriteFileAtomic(remembered, indexes.main + "\n"));
  return indexes;
}

Result<PythonResolution> ResolvePython(const PythonRequest& request, const PythonIndexes& indexes,
                                       const Store& store, Terminal& terminal) {
  ENVKIT_TRY(const fs::path uv, EnsureUv(indexes, store, terminal));
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  const fs::path output = work.path() / "pylock.toml";
  if (!request.preferred.empty()) {
    ENVKIT_CHECK(WriteFileAtomic(output, PreferencesAsPylock(request.preferred)));
  }
  ENVKIT_TRY(ProcessSpec spec, Compile(uv, request, indexes, work.path()));
  for (const char* word : {"--generate-hashes", "--format", "pylock.toml", "-o"}) {
    spec.argv.emplace_back(word);
  }
  spec.argv.push_back(output.string());
  ENVKIT_TRY(const ProcessResult result, RunProcess(spec));
  if (result.exit_code != 0) {
    return Unexpected(UvError(OwnNames(result.err, work.path()), indexes));
  }
  ENVKIT_TRY(const std::string pylock, ReadFile(output));
  ENVKIT_TRY(PythonResolution resolution, ParsePylock(pylock, request.python, request.machine));
  for (LockedWheel& wheel : resolution.wheels) {
    if (!wheel.from.empty()) wheel.from = Origin(wheel.from, work.path(), request.root);
  }
  return resolution;
}

std::string AnnotatePython(const PythonRequest& request, const PythonIndexes& indexes,
                           const Store& store, Terminal& terminal) {
  const auto words = [&]() -> Result<std::string> {
    ENVKIT_TRY(const fs::path uv, EnsureUv(indexes, store, terminal));
    ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
    ENVKIT_TRY(ProcessSpec spec, Compile(uv, request, indexes, work.path()));
    spec.argv.insert(spec.argv.end(), {"--annotation-style", "line"});
    return RunForOutput(spec);
  }();
  return words ? *words : "";
}

Result<PythonResolution> ParsePylock(std::string_view text, std::string_view python,
                                     std::string_view machine) {
  TomlDocument document(text, "uv's pylock.toml");
  const std::vector<std::string> tags = CompatibleTags(python, machine, kGlibcMinor);
  PythonResolution resolution;
  for (TomlTable& package : document.Root().Tables("packages")) {
    const auto name = package.RequiredString("name");
    const auto version = package.String("version");
    std::vector<LockedWheel> wheels;
    std::vector<std::string> files;
    for (TomlTable& entry : package.Tables("wheels")) {
      LockedWheel wheel;
      if (const auto file = entry.String("name")) {
        wheel.file = file->value;
      } else if (const auto url = entry.String("url")) {
        const std::string path = url->value.substr(0, url->value.find_first_of("?#"));
        wheel.file = PercentDecode(path.substr(path.rfind('/') + 1));
        if (url->value.starts_with("file://")) wheel.from = url->value;  // of --find-links
      }
      if (const auto size = entry.Integer("size", 0)) {
        wheel.size = static_cast<std::uint64_t>(size->value);
      }
      if (const auto sha256 = entry.Table("hashes").String("sha256")) wheel.sha256 = sha256->value;
      files.push_back(wheel.file);
      wheels.push_back(std::move(wheel));
    }
    ENVKIT_CHECK(document.Check());
    if (wheels.empty()) ENVKIT_CHECK(ReadArchive(package, name->value, python, wheels));
    for (const LockedWheel& wheel : wheels) {
      if (files.size() < wheels.size()) files.push_back(wheel.file);
    }
    if (wheels.empty() || !version) {
      return Usage(
          fmt::format("{} cannot be locked: it does not come as a wheel from a Python index",
                      name->value),
          "A lock names files that any index can serve again. Ask for it by name and "
          "version in [environment] packages.");
    }
    const auto best = BestWheel(files, tags);
    if (!best) {
      return Usage(fmt::format("{} {} has no wheel for CPython {} on {}", name->value,
                               version->value, python, machine),
                   "Ask for another version of it in [environment] packages.");
    }
    LockedWheel wheel = std::move(wheels[*best]);
    if (!IsSha256(wheel.sha256)) {
      return Fail(fmt::format("the index names no sha256 for {}", wheel.file),
                  "Without it nothing can be verified: use an index that lists hashes.");
    }
    if (HasCredentials(wheel.from)) {
      return Usage(fmt::format("the URL of {} holds a user name or password", wheel.file),
                   "It would go into envkit.lock; write credentials into ~/.netrc.");
    }
    wheel.name = NormaliseName(name->value);
    wheel.version = version->value;
    if (wheel.name == "torch") resolution.torch_uploaded = UploadTime(text, wheel.sha256);
    resolution.wheels.push_back(std::move(wheel));
  }
  ENVKIT_CHECK(document.Check());
  std::sort(resolution.wheels.begin(), resolution.wheels.end(),
            [](const LockedWheel& a, const LockedWheel& b) {
              return std::tie(a.name, a.version) < std::tie(b.name, b.version);
            });
  return resolution;
}

ProxyVariables TrustForUv(const ProxyVariables& environment) {
  ProxyVariables trust;
  const auto set = [&environment](const char* name) {
    const auto found = environment.find(name);
    return found != environment.end() && !found->second.empty();
  };
  // uv brings certificates of its own, and would not know the company's.
  if (!set("UV_SYSTEM_CERTS") && !set("UV_NATIVE_TLS")) trust["UV_SYSTEM_CERTS"] = "true";
  if (!set("SSL_CERT_FILE")) {
    for (const char* name : {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT"}) {
      if (!set(name)) continue;
      trust["SSL_CERT_FILE"] = environment.at(name);
      break;
    }
  }
  return trust;
}

std::string PrebuildHint(const std::string& python, const std::string& wanted,
                         std::string_view machine) {
  return fmt::format(
      "Make a wheel of it once, for CPython {} on {}, and name that in [environment] "
      "packages:\n"
      "  pip wheel --no-deps {} -w wheels\n"
      "  packages = [\"./wheels/….whl\"]",
      python, machine, ShellQuote({wanted}));
}

std::optional<SourceOnly> FindSourceOnly(const std::string& words) {
  const std::string text = std::regex_replace(words, std::regex("\\s+"), " ");
  static const std::regex kHint(
      "Wheels are required for `([A-Za-z0-9][A-Za-z0-9._-]*)` because building from source is "
      "disabled");
  std::smatch match;
  if (!std::regex_search(text, match, kHint)) return std::nullopt;
  SourceOnly source{NormaliseName(match.str(1)), "", text};
  const std::regex bounds("(?:^| )" + match.str(1) + "([<>=][^ ]+) ha(?:s|ve) no usable wheels");
  if (std::regex_search(text, match, bounds)) source.bounds = match.str(1);
  return source;
}

std::optional<TorchConflict> FindTorchConflict(const std::string& words) {
  if (words.find("No solution found") == std::string::npos) return std::nullopt;
  // uv breaks its lines where it likes.
  const std::string text = std::regex_replace(words, std::regex("\\s+"), " ");
  static const std::regex kDepends(
      "([A-Za-z0-9][A-Za-z0-9._-]*)(?:\\[[^\\]]*\\])?(?:[<>=!~][^ ]*)? depends? on "
      "(torch(?:[<>=!~][^ ]*[^ ,.])?)(?= |,|\\.|$)");
  // Of a chain of reasons the last one sums up.
  std::optional<TorchConflict> conflict;
  for (std::sregex_iterator it(text.begin(), text.end(), kDepends), end; it != end; ++it) {
    conflict = TorchConflict{it->str(1), it->str(2)};
  }
  if (conflict) return conflict;
  static const std::regex kRequired(
      "you require torch[^ ]+ and (?:you require )?(torch[<>=!~][^ ]*[^ ,.])");
  std::smatch match;
  if (std::regex_search(text, match, kRequired)) return TorchConflict{"", match[1]};
  return std::nullopt;
}

Error UvError(const std::string& words, const PythonIndexes& indexes) {
  std::string said = indexes.Scrub(words);
  while (!said.empty() && (said.back() == '\n' || said.back() == ' ')) said.pop_back();
  const auto has = [&said](std::string_view text) { return said.find(text) != std::string::npos; };
  Error error;
  if (said.starts_with("error: ")) said.erase(0, 7);
  error.what = fmt::format("uv could not resolve the Python packages\n{}", said);
  if (has("401 Unauthorized") || has("403 Forbidden") || has("status code 401") ||
      has("status code 403")) {
    error.code = ExitCode::kMissing;
    error.next = fmt::format(
        "The indexes are {}.\nThe one that refuses wants credentials: a line in ~/.netrc (machine, "
        "login, password), or\nUV_INDEX_NAME_USERNAME and UV_INDEX_NAME_PASSWORD for the NAME that "
        "it has in [index].",
        indexes.Describe());
  } else if (has("error sending request") || has("Failed to fetch") || has("dns error") ||
             has("Connect") || has("timed out")) {
    error.code = ExitCode::kMissing;
    error.next =
        fmt::format("The index is {}.\nCheck the network and its proxy, then run it again.",
                    indexes.Describe());
  } else if (has("No solution found") || has("unsatisfiable") || has("Couldn't parse") ||
             has("Distribution not found") || has("does not match")) {
    error.code = ExitCode::kUsage;
    error.next =
        "Change torch, python, packages or requirements in [environment] of envkit.toml so that "
        "they "
        "fit together.";
  } else {
    error.next = fmt::format("The index is {}.", indexes.Describe());
  }
  return error;
}

std::int64_t ParseUtc(std::string_view text) {
  std::tm time{};
  const std::string copy(text);
  int used = 0;
  if (std::sscanf(copy.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d%n", &time.tm_year, &time.tm_mon,
                  &time.tm_mday, &time.tm_hour, &time.tm_min, &time.tm_sec, &used) != 6) {
    return 0;
  }
  const std::string_view zone = text.substr(std::min(text.find_first_of("Z+-", 19), text.size()));
  if (zone != "Z" && zone != "+00:00") return 0;
  time.tm_year -= 1900;
  time.tm_mon -= 1;
  return timegm(&time);
}

}  // namespace envkit

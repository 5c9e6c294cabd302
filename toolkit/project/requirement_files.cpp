#include "project/requirement_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/text.h"
#include "base/toml.h"
#include "project/checks.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kBlank = " \t\r\f\v";

std::string_view Trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

bool IsLocalPath(std::string_view text) {
  return text.starts_with("./") || text.starts_with("../") || text.starts_with('/');
}

// A list with commas, each part normalised; nullopt where one of them is no name.
std::optional<std::vector<std::string>> Names(std::string_view list) {
  std::vector<std::string> names;
  while (true) {
    const std::size_t end = std::min(list.find(','), list.size());
    const std::string_view name = Trim(list.substr(0, end));
    if (!IsPlainWord(name, "._-")) return std::nullopt;
    names.push_back(RequirementName(name));
    if (end == list.size()) return names;
    list.remove_prefix(end + 1);
  }
}

// The words after "name[extras]": what a requirement asks of it.
std::string_view AfterName(std::string_view requirement) {
  std::size_t at = 0;
  while (at < requirement.size() &&
         (IsAlnum(requirement[at]) ||
          std::string_view("._-").find(requirement[at]) != std::string_view::npos)) {
    ++at;
  }
  std::string_view rest = Trim(requirement.substr(at));
  if (rest.starts_with('[')) rest = Trim(rest.substr(std::min(rest.find(']') + 1, rest.size())));
  return rest;
}

constexpr char kWheelHint[] =
    "Make a wheel of it once (pip wheel --no-deps), and name that in [environment] packages:\n"
    "packages = [\"./wheels/NAME-….whl\"]";

// What no lock can name, whichever file asks for it.
Result<void> CheckRequirement(const std::string& path, const std::string& line) {
  const std::string_view rest = AfterName(line);
  const std::string_view source =
      rest.starts_with('@') ? Trim(rest.substr(1)) : std::string_view(line);
  const std::string_view place = source.substr(0, source.find_first_of(" \t;["));
  for (const char* scheme : {"git+", "hg+", "svn+", "bzr+"}) {
    if (source.starts_with(scheme)) {
      return Usage(fmt::format("{} asks for a repository: {}", path, line), kWheelHint);
    }
  }
  if ((IsLocalPath(place) || place == "." || place == "..") && !place.ends_with(".whl")) {
    return Usage(fmt::format("{} asks for what is no wheel: {}", path, line), kWheelHint);
  }
  if (HasCredentials(line)) {
    return Usage(fmt::format("{} has a user name or password in a requirement", path),
                 "Write credentials into ~/.netrc.");
  }
  return {};
}

// The value of "-r FILE", "-rFILE", "--requirement FILE" or "--requirement=FILE"; nullopt for other
// lines.
std::optional<std::string> OptionValue(std::string_view line, std::string_view brief,
                                       std::string_view full) {
  std::string_view rest;
  if (line.starts_with(full) && line.size() > full.size() &&
      (line[full.size()] == '=' || kBlank.find(line[full.size()]) != std::string_view::npos)) {
    rest = line.substr(full.size() + 1);
  } else if (!brief.empty() && line.starts_with(brief) && !line.starts_with("--")) {
    rest = line.substr(brief.size());
  } else {
    return std::nullopt;
  }
  rest = Trim(rest);
  if (rest.starts_with('=')) rest = Trim(rest.substr(1));
  if (rest.size() >= 2 && (rest[0] == '"' || rest[0] == '\'') && rest.back() == rest[0]) {
    rest = rest.substr(1, rest.size() - 2);
  }
  return std::string(rest);
}

class RequirementsReader {
 public:
  RequirementsReader(const fs::path& root, RequirementFile& file) : root_(root), file_(file) {}

  Result<void> Read(const std::string& path, bool constraint = false) {
    constexpr std::size_t kMostFiles = 200;
    const std::string place = fs::path(path).lexically_normal().generic_string();
    if (!seen_.insert(place).second) return {};
    if (seen_.size() > kMostFiles) return Usage(fmt::format("{} includes too many files", path));
    auto text = ReadFile(root_ / place);
    if (!text) return Usage(fmt::format("{}: {}", place, text.error().what));
    file_.inputs.push_back({seen_.size() == 1 ? path : place, Sha256Of(*text)});
    for (const std::string& line : LogicalLines(*text)) {
      ENVKIT_CHECK(ReadLine(place, line, constraint));
    }
    return {};
  }

 private:
  Result<void> ReadLine(const std::string& path, const std::string& line, bool constraint) {
    for (const auto& [brief, full, constrains] :
         {std::tuple{"-r", "--requirement", false}, {"-c", "--constraint", true}}) {
      const auto other = OptionValue(line, brief, full);
      if (!other) continue;
      if (other->find("://") != std::string::npos) {
        return Usage(fmt::format("{} includes a file from the network: {}", path, line),
                     "Keep a copy of it in the project, so that it stays what it was.");
      }
      return Read((fs::path(path).parent_path() / *other).generic_string(),
                  constraint || constrains);
    }
    if (const auto editable = OptionValue(line, "-e", "--editable")) {
      return Usage(fmt::format("{} asks for an editable install: {}", path, line),
                   "The project itself is mounted at /workspace in every run: leave the line out. "
                   "Of other\nsources make a wheel (pip wheel --no-deps), and name that in "
                   "[environment] packages.");
    }
    for (const auto& [brief, full] :
         {std::pair{"-i", "--index-url"}, {"", "--extra-index-url"}, {"", "--pypi-url"}}) {
      if (const auto url = OptionValue(line, brief, full)) {
        file_.indexes.push_back(ExpandVariables(*url));
        return {};
      }
    }
    if (line.starts_with('-')) return {};  // uv's to understand
    ENVKIT_CHECK(CheckRequirement(path, line));
    const auto local = ParseLocalWheel(line);
    const std::string name = local ? local->name : RequirementName(line);
    std::size_t at = 0;
    while ((at = line.find("--hash", at)) != std::string::npos) {
      at += 6;
      std::string_view hash = Trim(std::string_view(line).substr(at));
      if (hash.starts_with('=')) hash = Trim(hash.substr(1));
      hash = hash.substr(0, hash.find_first_of(kBlank));
      if (hash.starts_with("sha256:")) file_.hashes[name].emplace(hash.substr(7));
    }
    if (!constraint) {
      file_.asks.emplace(name, std::string(Trim(line.substr(0, line.find(" --hash")))));
    }
    return {};
  }

  const fs::path& root_;
  RequirementFile& file_;
  std::set<std::string> seen_;
};

// A document's own mistakes, as one text.
Result<void> Understood(const TomlDocument& document, const std::string& path) {
  auto checked = document.Check();
  if (checked) return {};
  std::string words = checked.error().what;
  while (words.ends_with('\n')) words.pop_back();
  return Usage(fmt::format("{} cannot be read", path), words);
}

void Ask(RequirementFile& file, const std::string& line) {
  if (std::find(file.lines.begin(), file.lines.end(), line) == file.lines.end()) {
    file.lines.push_back(line);
  }
  file.asks.emplace(RequirementName(line), line);
}

class PyprojectReader {
 public:
  PyprojectReader(std::string_view text, RequirementFile& file)
      : document_(text, file.path), root_(document_.Root()), file_(file) {}

  Result<void> Read(const std::vector<std::string>& extras) {
    ENVKIT_CHECK(Understood(document_, file_.path));
    TomlTable project = root_.Table("project");
    if (!project && extras.empty()) {
      return Usage(fmt::format("{} has no [project]", file_.path),
                   "Only what PEP 621 standardises is read. Let the tool that wrote it export "
                   "requirements.txt\nor pylock.toml, and name that.");
    }
    if (const auto name = project.String("name")) name_ = RequirementName(name->value);
    if (const auto dynamic = project.Strings("dynamic")) {
      for (const TomlString& what : dynamic->value) {
        if (what.value != "dependencies" && what.value != "optional-dependencies") continue;
        return Usage(
            fmt::format("{} computes its {} while it is built (dynamic)", file_.path, what.value),
            "Name the file that they come from, such as requirements.txt.");
      }
    }
    if (const auto dependencies = project.Strings("dependencies")) {
      ENVKIT_CHECK(AskAll(dependencies->value));
    }
    for (const std::string& extra : extras) ENVKIT_CHECK(ReadExtra(extra));
    ENVKIT_CHECK(Understood(document_, file_.path));
    return CheckSources();
  }

 private:
  Result<void> AskAll(const std::vector<TomlString>& requirements) {
    for (const TomlString& requirement : requirements) {
      const std::string& line = requirement.value;
      if (line.empty() || HasControlCharacter(line) || !IsAlnum(line[0])) {
        return Usage(fmt::format("{}:{}: this is no requirement: \"{}\"", file_.path,
                                 requirement.at.line, line));
      }
      if (!name_.empty() && RequirementName(line) == name_) {
        // "all = ["mine[dev,test]"]" stands for its own extras.
        const std::size_t open = line.find('['), close = line.find(']');
        if (open == std::string::npos || close == std::string::npos || close < open) continue;
        const auto extras = Names(std::string_view(line).substr(open + 1, close - open - 1));
        if (!extras) continue;
        for (const std::string& extra : *extras) ENVKIT_CHECK(ReadExtra(extra));
        continue;
      }
      ENVKIT_CHECK(CheckRequirement(file_.path, line));
      Ask(file_, line);
    }
    return {};
  }

  Result<void> ReadExtra(const std::string& extra) {
    if (!read_.insert(extra).second) return {};
    std::vector<std::string> known;
    TomlTable project = root_.Table("project");
    for (TomlTable table :
         {project.Table("optional-dependencies"), root_.Table("dependency-groups")}) {
      for (const TomlString& key : table.Keys()) {
        known.push_back(key.value);
        if (RequirementName(key.value) != extra) continue;
        const auto requirements = table.Strings(key.value);
        ENVKIT_CHECK(Understood(document_, file_.path));
        return requirements ? AskAll(requirements->value) : Result<void>();
      }
    }
    std::string hint = known.empty() ? "It has no extras and no dependency groups."
                                     : fmt::format("It has {}.", JoinOr(known, "and"));
    if (const auto near = ClosestMatch(extra, known)) {
      hint = fmt::format("did you mean \"{}\"?", *near);
    }
    return Usage(fmt::format("{} has no extra \"{}\"", file_.path, extra), hint);
  }

  // uv takes such packages from elsewhere than an index; by their name alone a stranger's could
  // come instead.
  Result<void> CheckSources() {
    TomlTable sources = root_.Table("tool").Table("uv").Table("sources");
    for (const TomlString& key : sources.Keys()) {
      const std::string name = RequirementName(key.value);
      if (!file_.asks.contains(name)) continue;
      TomlTable source = sources.Table(key.value);  // a list of them is left to the user
      for (const char* kind : {"path", "git", "url", "workspace"}) {
        if (!source || !source.Has(kind)) continue;
        return Usage(fmt::format("{} takes {} from a {} ([tool.uv.sources]), not from an index",
                                 file_.path, key.value, kind),
                     kWheelHint);
      }
    }
    return {};
  }

  TomlDocument document_;
  TomlTable root_;
  RequirementFile& file_;
  std::string name_;
  std::set<std::string> read_;
};

Result<void> ReadPylock(std::string_view text, const fs::path& root, RequirementFile& file) {
  TomlDocument document(text, file.path);
  const fs::path directory = (root / file.path).parent_path();
  for (TomlTable& package : document.Root().Tables("packages")) {
    const auto name = package.RequiredString("name");
    const auto version = package.String("version");
    const auto marker = package.String("marker");
    std::vector<std::string> places;  // of files that no index has
    std::set<std::string> hashes;
    const auto note = [&](TomlTable& entry) {
      if (const auto sha256 = entry.Table("hashes").String("sha256")) hashes.insert(sha256->value);
      if (const auto path = entry.String("path")) {
        places.push_back(FileUrl((directory / path->value).lexically_normal()));
      }
    };
    for (TomlTable& wheel : package.Tables("wheels")) note(wheel);
    if (TomlTable archive = package.Table("archive")) {
      note(archive);
      if (const auto url = archive.String("url")) places.push_back(url->value);
    }
    ENVKIT_CHECK(Understood(document, file.path));
    for (const char* kind : {"directory", "vcs"}) {
      if (package.Has(kind)) {
        return Usage(fmt::format("{} takes {} from a {}, not from an index", file.path, name->value,
                                 kind == std::string_view("vcs") ? "repository" : kind),
                     kWheelHint);
      }
    }
    if (marker && (marker->value.find("dependency_groups") != std::string::npos ||
                   marker->value.find(" in extras") != std::string::npos)) {
      return Usage(fmt::format("{} locks extras or groups that are chosen when it is installed "
                               "({})",
                               file.path, name->value),
                   "Export it anew for those that you want, without choices.");
    }
    std::string line = name->value;
    if (places.size() == 1) {
      line += " @ " + places[0];
    } else if (version) {
      line += "==" + version->value;
    }
    if (marker) line += " ; " + marker->value;
    if (HasControlCharacter(line) || line.empty() || !IsAlnum(line[0])) {
      return Usage(
          fmt::format("{} names a package that cannot be one: \"{}\"", file.path, name->value));
    }
    ENVKIT_CHECK(CheckRequirement(file.path, line));
    Ask(file, line);
    if (!hashes.empty()) file.hashes[RequirementName(name->value)].merge(hashes);
  }
  return Understood(document, file.path);
}

}  // namespace

std::string RequirementName(std::string_view text) {
  std::string name;
  if (text.empty() || !IsAlnum(text[0])) return name;  // an option, a path
  for (char c : text) {
    if (IsAlnum(c)) {
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (c == '-' || c == '_' || c == '.') {
      if (!name.ends_with('-')) name += '-';
    } else {
      break;
    }
  }
  return name;
}

std::optional<LocalWheel> ParseLocalWheel(std::string_view requirement) {
  LocalWheel wheel;
  std::string_view rest = Trim(requirement);
  if (!IsLocalPath(rest)) {
    wheel.name = RequirementName(rest);
    if (wheel.name.empty()) return std::nullopt;
    const std::size_t at = rest.find('@');
    if (at == std::string_view::npos || !IsLocalPath(Trim(rest.substr(at + 1)))) {
      return std::nullopt;
    }
    const std::string_view before = Trim(rest.substr(0, at));
    const std::size_t open = before.find('[');
    if (open != std::string_view::npos) {
      if (!before.ends_with(']')) return std::nullopt;
      wheel.extras = before.substr(open);
    } else if (!IsPlainWord(before, "._-")) {
      return std::nullopt;
    }
    rest = Trim(rest.substr(at + 1));
  }
  const std::size_t end = rest.find(".whl");
  if (end == std::string_view::npos) return std::nullopt;
  wheel.path = rest.substr(0, end + 4);
  rest = Trim(rest.substr(end + 4));
  if (rest.starts_with('[')) {
    const std::size_t close = rest.find(']');
    if (close == std::string_view::npos || !wheel.extras.empty()) return std::nullopt;
    wheel.extras = rest.substr(0, close + 1);
    rest = Trim(rest.substr(close + 1));
  }
  if (rest.starts_with(';')) {
    wheel.marker = Trim(rest.substr(1));
  } else if (!rest.empty() && !rest.starts_with("--hash")) {
    return std::nullopt;
  }
  const std::string file = fs::path(wheel.path).filename().string();
  const std::string own = RequirementName(file.substr(0, file.find('-')));
  if (wheel.name.empty()) wheel.name = own;
  if (wheel.name.empty() || HasControlCharacter(requirement)) return std::nullopt;
  return wheel;
}

std::vector<std::string> LogicalLines(std::string_view text) {
  std::vector<std::string> lines;
  std::string joined;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    // A comment ends the requirement, also where the line would go on.
    std::size_t comment = line.find('#');
    while (comment != std::string_view::npos && comment != 0 &&
           kBlank.find(line[comment - 1]) == std::string_view::npos) {
      comment = line.find('#', comment + 1);
    }
    const bool continued = comment == std::string_view::npos && line.ends_with('\\');
    line = line.substr(0, comment);
    if (continued) line.remove_suffix(1);
    joined += line;
    if (continued && at < text.size()) {
      joined += ' ';
      continue;
    }
    if (const std::string_view whole = Trim(joined); !whole.empty()) lines.emplace_back(whole);
    joined.clear();
  }
  return lines;
}

std::string ExpandVariables(std::string_view text) {
  std::string expanded;
  while (true) {
    const std::size_t begin = text.find("${");
    const std::size_t end = begin == std::string_view::npos ? begin : text.find('}', begin);
    if (end == std::string_view::npos) return expanded.append(text);
    const std::string name(text.substr(begin + 2, end - begin - 2));
    const bool capitals = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'A' && c <= 'Z') || IsDigit(c) || c == '_';
    });
    const char* value = capitals ? std::getenv(name.c_str()) : nullptr;
    expanded.append(text.substr(0, begin));
    expanded.append(value != nullptr ? std::string_view(value)
                                     : text.substr(begin, end - begin + 1));
    text.remove_prefix(end + 1);
  }
}

std::string FileUrl(const fs::path& path) {
  std::string url = "file://";
  for (const char letter : path.generic_string()) {
    if (IsAlnum(letter) || std::string_view("-._~/+").find(letter) != std::string_view::npos) {
      url += letter;
    } else {
      url += fmt::format("%{:02X}", static_cast<unsigned char>(letter));
    }
  }
  return url;
}

Result<RequirementEntry> ParseRequirementEntry(std::string_view text) {
  RequirementEntry entry;
  const std::string what =
      "requirements holds the names of requirements.txt, pyproject.toml or pylock.toml files";
  const auto refuse = [&what](std::string hint) { return Usage(what, std::move(hint)); };
  const std::string example = "such as \"requirements.txt\" or \"pyproject.toml[dev]\"";
  if (text.empty() || HasControlCharacter(text)) return refuse(example);
  std::string_view path = text;
  if (const std::size_t open = text.rfind('['); open != std::string_view::npos) {
    if (!text.ends_with(']')) return refuse(example);
    const auto extras = Names(text.substr(open + 1, text.size() - open - 2));
    if (!extras) return refuse(example);
    entry.extras = *extras;
    path = text.substr(0, open);
  }
  if (path.find("://") != std::string_view::npos) {
    return refuse("keep a copy of the file in the project, so that it stays what it was");
  }
  entry.path = path;
  const std::string file = fs::path(path).filename().string();
  if (file == "pyproject.toml") {
    entry.kind = RequirementEntry::Kind::kPyproject;
    return entry;
  }
  if (!entry.extras.empty()) return refuse("extras belong to pyproject.toml alone");
  if (file == "pylock.toml" || (file.starts_with("pylock.") && file.ends_with(".toml"))) {
    entry.kind = RequirementEntry::Kind::kPylock;
    return entry;
  }
  if (file.ends_with(".txt") || file.ends_with(".in")) return entry;
  const std::map<std::string, std::string> others = {
      {"uv.lock", "uv export --format pylock.toml -o pylock.toml, and name that"},
      {"poetry.lock", "poetry export -o requirements.txt, and name that"},
      {"pdm.lock", "pdm export --format pylock -o pylock.toml, and name that"},
      {"Pipfile", "pipenv requirements > requirements.txt, and name that"},
      {"Pipfile.lock", "pipenv requirements > requirements.txt, and name that"},
      {"environment.yml", "conda's packages are not Python's: list those of the pip section"},
      {"environment.yaml", "conda's packages are not Python's: list those of the pip section"},
      {"setup.py", "move its install_requires to pyproject.toml or requirements.txt"},
      {"setup.cfg", "move its install_requires to pyproject.toml or requirements.txt"}};
  if (const auto other = others.find(file); other != others.end()) return refuse(other->second);
  return refuse(IsAlnum(text[0]) && text.find('.') == std::string_view::npos
                    ? fmt::format("a package's name belongs into packages = [\"{}\"]", text)
                    : example);
}

Result<RequirementFile> ReadRequirementFile(const fs::path& root, const RequirementEntry& entry) {
  RequirementFile file;
  file.path = entry.path;
  const fs::path place = root / entry.path;
  std::error_code error;
  if (!fs::is_regular_file(place, error)) {
    std::vector<std::string> there;
    for (fs::directory_iterator it(place.parent_path(), error), end; !error && it != end;
         it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (name.ends_with(".txt") || name.ends_with(".in") || name == "pyproject.toml" ||
          (name.starts_with("pylock.") && name.ends_with(".toml"))) {
        there.push_back(name);
      }
    }
    std::sort(there.begin(), there.end());
    const auto near = ClosestMatch(place.filename().string(), there);
    return Usage(fmt::format("there is no file {}", entry.path),
                 near ? fmt::format("did you mean \"{}\"?",
                                    (fs::path(entry.path).parent_path() / *near).generic_string())
                      : "paths are relative to the project's root");
  }
  if (entry.kind == RequirementEntry::Kind::kRequirements) {
    file.read_by_uv = true;
    ENVKIT_CHECK(RequirementsReader(root, file).Read(entry.path));
    return file;
  }
  ENVKIT_TRY(const std::string text, ReadFile(place));
  file.inputs.push_back({entry.path, Sha256Of(text)});
  if (entry.kind == RequirementEntry::Kind::kPylock) {
    ENVKIT_CHECK(ReadPylock(text, root, file));
  } else {
    ENVKIT_CHECK(PyprojectReader(text, file).Read(entry.extras));
  }
  return file;
}

}  // namespace envkit

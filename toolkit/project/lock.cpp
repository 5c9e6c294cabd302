#include "project/lock.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "base/digest.h"
#include "base/toml.h"
#include "project/checks.h"

namespace envkit {
namespace {

constexpr std::int64_t kLargestFile = 1'000'000'000'000;  // more is damage, not a package

std::string Quote(std::string_view text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      quoted += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

// One element a line, so that a change is one line of a diff.
void AppendList(std::string& text, std::string_view key, const std::vector<std::string>& elements) {
  text += fmt::format("{} = [", key);
  for (const std::string& element : elements) text += "\n  " + element + ",";
  text += elements.empty() ? "]\n" : "\n]\n";
}

std::vector<std::string> Quoted(const std::vector<std::string>& texts) {
  std::vector<std::string> quoted;
  quoted.reserve(texts.size());
  for (const std::string& text : texts) quoted.push_back(Quote(text));
  return quoted;
}

std::vector<std::string> Sorted(std::vector<std::string> texts) {
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  return texts;
}

void Sort(Lock& lock) {
  std::sort(lock.wheels.begin(), lock.wheels.end(), [](const auto& a, const auto& b) {
    return std::tie(a.name, a.version, a.file) < std::tie(b.name, b.version, b.file);
  });
  std::sort(lock.build_wheels.begin(), lock.build_wheels.end(),
            [](const auto& a, const auto& b) { return a.file < b.file; });
  for (LockedSource& source : lock.sources) {
    source.requires_files = Sorted(std::move(source.requires_files));
  }
  std::sort(lock.sources.begin(), lock.sources.end(), [](const auto& a, const auto& b) {
    return std::tie(a.name, a.file) < std::tie(b.name, b.file);
  });
  for (LockedWheel& wheel : lock.wheels) wheel.roots = Sorted(std::move(wheel.roots));
  for (LockedDeb& deb : lock.debs) deb.roots = Sorted(std::move(deb.roots));
  std::sort(lock.debs.begin(), lock.debs.end(), [](const auto& a, const auto& b) {
    return std::tie(a.name, a.version, a.architecture, a.file) <
           std::tie(b.name, b.version, b.architecture, b.file);
  });
  std::sort(lock.built.begin(), lock.built.end(), [](const auto& a, const auto& b) {
    return std::tie(a.profile, a.variant, a.architecture) <
           std::tie(b.profile, b.variant, b.architecture);
  });
}

std::string Roots(const std::vector<std::string>& names) {
  std::string roots;
  for (const std::string& root : names) roots += (roots.empty() ? "" : ", ") + Quote(root);
  return fmt::format("roots = [{}], ", roots);
}

std::string WheelLine(const LockedWheel& wheel) {
  const std::string from = wheel.from.empty() ? "" : ", from = " + Quote(wheel.from);
  return fmt::format("{{ name = {}, version = {}, {}size = {}, sha256 = {}, file = {}{} }}",
                     Quote(wheel.name), Quote(wheel.version),
                     wheel.roots.empty() ? "" : Roots(wheel.roots), wheel.size, Quote(wheel.sha256),
                     Quote(wheel.file), from);
}

std::string SourceLine(const LockedSource& source) {
  std::string files;
  for (const std::string& file : source.requires_files) {
    files += (files.empty() ? "" : ", ") + Quote(file);
  }
  return fmt::format(
      "{{ name = {}, size = {}, sha256 = {}, file = {}, requires = [{}], wheel = {} }}",
      Quote(source.name), source.size, Quote(source.sha256), Quote(source.file), files,
      Quote(source.wheel));
}

std::string InputLine(const InputFile& file) {
  return fmt::format("{{ path = {}, sha256 = {} }}", Quote(file.path), Quote(file.sha256));
}

std::string DebLine(const LockedDeb& deb) {
  return fmt::format(
      "{{ name = {}, version = {}, architecture = {}, {}size = {}, sha256 = {}, "
      "suite = {}, file = {} }}",
      Quote(deb.name), Quote(deb.version), Quote(deb.architecture), Roots(deb.roots), deb.size,
      Quote(deb.sha256), Quote(deb.suite), Quote(deb.file));
}

bool IsVersion(std::string_view text) { return IsPlainWord(text, ".+!_-:~"); }
bool IsWord(std::string_view text) { return IsPlainWord(text, "-_"); }
bool IsWheelFile(std::string_view text) {
  return IsPlainWord(text, "._+!-") && text.ends_with(".whl");
}
bool IsOrigin(std::string_view text) {
  return !text.empty() && !HasControlCharacter(text) && !HasCredentials(text);
}
bool IsSdistFile(std::string_view text) {
  return IsPlainWord(text, "._+!-") && text.ends_with(".tar.gz");
}
// Debian's archives write the epoch's colon of a version as %3a in some file names.
bool IsDebPath(std::string_view text) {
  return text.size() <= 512 && text.ends_with(".deb") && HasOnlyNormalParts(text) &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return IsAlnum(c) || std::string_view("+-._~%:/").find(c) != std::string_view::npos;
         });
}

class LockReader {
 public:
  LockReader(std::string_view text, const std::filesystem::path& file)
      : document_(text, file.filename().string()) {}

  Result<Lock> Read() {
    TomlTable root = document_.Root();
    if (const auto schema = root.RequiredInteger("schema"); schema && schema->value != 1) {
      document_.Report(schema->at, fmt::format("schema {} is not known here", schema->value));
      return tl::unexpected(document_
                                .Check("It was written by a newer envkit: use that one, or "
                                       "write the lock anew: envkit lock")
                                .error());
    }
    lock_.torch = Text(root, "torch", IsVersion, "a version");
    lock_.cuda = Text(
        root, "cuda", [](std::string_view text) { return text.empty() || IsNumbers(text, 2); },
        "a version such as \"13.2\"");
    lock_.python = Text(
        root, "python", [](std::string_view text) { return IsNumbers(text, 2); },
        "a version such as \"3.13\"");
    if (const auto epoch = root.RequiredInteger("source_date_epoch", 0))
      lock_.source_date_epoch = epoch->value;
    ReadInputs(root.RequiredTable("inputs"));
    for (TomlTable& wheel : root.Tables("wheels")) ReadWheel(wheel);
    for (TomlTable& source : root.Tables("sources")) ReadSource(source);
    for (TomlTable& wheel : root.Tables("build_wheels")) ReadWheel(wheel, true);
    for (TomlTable& deb : root.Tables("debs")) ReadDeb(deb);
    for (TomlTable& built : root.Tables("built")) ReadBuilt(built);
    root.RejectUnknownKeys();
    ENVKIT_CHECK(document_.Check("The lock is damaged. Write it anew: envkit lock"));
    Sort(lock_);
    return std::move(lock_);
  }

 private:
  template <class Valid>
  std::string Text(TomlTable& table, const char* key, Valid valid, const char* expected) {
    const auto text = table.RequiredString(key);
    if (!text) return "";
    if (!valid(text->value)) document_.Report(text->at, fmt::format("{} is not {}", key, expected));
    return text->value;
  }

  std::vector<std::string> List(TomlTable& table, const char* key, bool (*valid)(std::string_view),
                                const char* expected) {
    std::vector<std::string> texts;
    if (!table.Has(key)) document_.Report(table.at(), fmt::format("\"{}\" is missing", key));
    if (const auto list = table.Strings(key)) {
      for (const TomlString& text : list->value) {
        if (!valid(text.value))
          document_.Report(text.at, fmt::format("{} holds what is not {}", key, expected));
        texts.push_back(text.value);
      }
    }
    return texts;
  }

  std::uint64_t Size(TomlTable& table, std::int64_t least = 1) {
    const auto size = table.RequiredInteger("size", least, kLargestFile);
    return size ? static_cast<std::uint64_t>(size->value) : 0;
  }

  void Once(std::set<std::string>& seen, const std::string& what, TomlSpan at) {
    if (!what.empty() && !seen.insert(what).second)
      document_.Report(at, fmt::format("{} is listed twice", Quote(what)));
  }

  void ReadInputs(TomlTable table) {
    constexpr auto kAny = [](std::string_view) { return true; };
    LockInputs& inputs = lock_.inputs;
    inputs.torch = Text(table, "torch", kAny, "");
    inputs.cuda = Text(table, "cuda", kAny, "");
    inputs.python = Text(table, "python", kAny, "");
    inputs.base = Text(table, "base", kAny, "");
    inputs.recipes = Text(table, "recipes", IsSha256, "64 hexadecimal digits");
    if (table.Has("architecture")) {
      inputs.architecture = Text(table, "architecture", IsWord, "an architecture");
    }
    if (table) {
      inputs.packages = Sorted(List(table, "packages", kAny, ""));
      inputs.system = Sorted(List(table, "system", kAny, ""));
    }
    if (table.Has("requirements")) {
      inputs.requirements = Sorted(List(table, "requirements", kAny, ""));
    }
    for (TomlTable& file : table.Tables("files")) {
      InputFile input;
      input.path = Text(file, "path", kAny, "");
      input.sha256 = Text(file, "sha256", IsSha256, "64 hexadecimal digits");
      file.RejectUnknownKeys();
      inputs.files.push_back(std::move(input));
    }
    table.RejectUnknownKeys();
  }

  void ReadSource(TomlTable& table) {
    LockedSource source;
    source.name = Text(table, "name", IsWord, "a package's name");
    source.size = Size(table);
    source.sha256 = Text(table, "sha256", IsSha256, "64 hexadecimal digits");
    source.file = Text(table, "file", IsSdistFile, "an sdist's file name");
    source.requires_files = Sorted(List(table, "requires", IsWheelFile, "a wheel's file name"));
    source.wheel = Text(table, "wheel", IsWheelFile, "a wheel's file name");
    table.RejectUnknownKeys();
    lock_.sources.push_back(std::move(source));
  }

  void ReadWheel(TomlTable& table, bool of_builds = false) {
    LockedWheel wheel;
    wheel.name = Text(table, "name", IsWord, "a package's name");
    wheel.version = Text(table, "version", IsVersion, "a version");
    wheel.size = Size(table, 0);  // some indexes tell none
    wheel.sha256 = Text(table, "sha256", IsSha256, "64 hexadecimal digits");
    wheel.file = Text(table, "file", IsWheelFile, "a wheel's file name");
    if (table.Has("from")) wheel.from = Text(table, "from", IsOrigin, "a path or a URL");
    if (table.Has("roots")) {
      wheel.roots = Sorted(List(table, "roots", IsWord, "a profile's name"));
    }
    Once(of_builds ? build_files_ : wheel_files_, wheel.file, table.at());
    table.RejectUnknownKeys();
    (of_builds ? lock_.build_wheels : lock_.wheels).push_back(std::move(wheel));
  }

  void ReadDeb(TomlTable& table) {
    LockedDeb deb;
    deb.name = Text(table, "name", IsDebianPackage, "a package's name");
    deb.version = Text(table, "version", IsVersion, "a version");
    deb.architecture = Text(table, "architecture", IsWord, "an architecture");
    deb.roots = Sorted(List(table, "roots", IsWord, "a root's name"));
    deb.size = Size(table);
    deb.sha256 = Text(table, "sha256", IsSha256, "64 hexadecimal digits");
    deb.suite = Text(table, "suite", IsWord, "a suite");
    deb.file = Text(table, "file", IsDebPath, "a .deb's path below its archive");
    Once(deb_files_, deb.file.empty() ? "" : deb.suite + ": " + deb.file, table.at());
    table.RejectUnknownKeys();
    lock_.debs.push_back(std::move(deb));
  }

  void ReadBuilt(TomlTable& table) {
    BuiltImage built;
    built.profile = Text(table, "profile", IsWord, "a profile");
    built.variant = Text(table, "variant", IsWord, "a variant");
    built.architecture = Text(table, "architecture", IsWord, "an architecture");
    built.config_digest = Text(table, "config_digest", IsSha256, "64 hexadecimal digits");
    built.diff_ids = List(table, "diff_ids", IsSha256, "64 hexadecimal digits");
    Once(built_, built.profile + " " + built.variant + " " + built.architecture, table.at());
    table.RejectUnknownKeys();
    lock_.built.push_back(std::move(built));
  }

  TomlDocument document_;
  Lock lock_;
  std::set<std::string> wheel_files_, build_files_, deb_files_, built_;
};

void CompareText(std::vector<std::string>& lines, std::string_view key, std::string_view before,
                 std::string_view after) {
  if (before != after)
    lines.push_back(fmt::format("environment.{}: {} → {}", key, Quote(before), Quote(after)));
}

void CompareList(std::vector<std::string>& lines, std::string_view key,
                 const std::vector<std::string>& before, const std::vector<std::string>& after) {
  const auto has = [](const std::vector<std::string>& texts, const std::string& text) {
    return std::find(texts.begin(), texts.end(), text) != texts.end();
  };
  for (const std::string& text : before)
    if (!has(after, text)) lines.push_back(fmt::format("environment.{}: - {}", key, Quote(text)));
  for (const std::string& text : after)
    if (!has(before, text)) lines.push_back(fmt::format("environment.{}: + {}", key, Quote(text)));
}

void CompareFiles(std::vector<std::string>& lines, const std::vector<InputFile>& before,
                  const std::vector<InputFile>& after) {
  const auto find = [](const std::vector<InputFile>& files, const std::string& path) {
    return std::find_if(files.begin(), files.end(),
                        [&](const InputFile& file) { return file.path == path; });
  };
  for (const InputFile& file : before) {
    const auto now = find(after, file.path);
    if (now == after.end()) {
      lines.push_back(fmt::format("{}: no longer asked for", file.path));
    } else if (now->sha256 != file.sha256) {
      lines.push_back(fmt::format("{}: its content changed", file.path));
    }
  }
  for (const InputFile& file : after) {
    if (find(before, file.path) == before.end())
      lines.push_back(fmt::format("{}: not yet locked", file.path));
  }
}

}  // namespace

std::string LockToToml(const Lock& given) {
  Lock lock = given;
  Sort(lock);
  std::string text =
      "# Written by `envkit lock`; not to be edited. One resolution for every profile and both\n"
      "# variants. Files are named by name, size and sha256, wherever they are fetched from.\n"
      "schema = 1\n";
  text +=
      fmt::format("torch = {}\ncuda = {}\npython = {}\nsource_date_epoch = {}\n\n",
                  Quote(lock.torch), Quote(lock.cuda), Quote(lock.python), lock.source_date_epoch);
  text += "# What it was made from.\n";
  text += fmt::format("inputs.torch = {}\ninputs.cuda = {}\ninputs.python = {}\ninputs.base = {}\n",
                      Quote(lock.inputs.torch), Quote(lock.inputs.cuda), Quote(lock.inputs.python),
                      Quote(lock.inputs.base));
  AppendList(text, "inputs.packages", Quoted(Sorted(lock.inputs.packages)));
  AppendList(text, "inputs.system", Quoted(Sorted(lock.inputs.system)));
  text += fmt::format("inputs.recipes = {}\n", Quote(lock.inputs.recipes));
  // Only where there are any, so that a lock without them is what it always was.
  if (lock.inputs.architecture != LockInputs().architecture) {
    text += fmt::format("inputs.architecture = {}\n", Quote(lock.inputs.architecture));
  }
  std::vector<std::string> lines;
  if (!lock.inputs.requirements.empty()) {
    AppendList(text, "inputs.requirements", Quoted(Sorted(lock.inputs.requirements)));
  }
  if (!lock.inputs.files.empty()) {
    for (const InputFile& file : lock.inputs.files) lines.push_back(InputLine(file));
    AppendList(text, "inputs.files", lines);
    lines.clear();
  }
  text += '\n';

  for (const LockedWheel& wheel : lock.wheels) lines.push_back(WheelLine(wheel));
  AppendList(text, "wheels", lines);
  text += '\n';
  lines.clear();
  if (!lock.sources.empty()) {
    for (const LockedSource& source : lock.sources) lines.push_back(SourceLine(source));
    AppendList(text, "sources", lines);
    lines.clear();
    for (const LockedWheel& wheel : lock.build_wheels) lines.push_back(WheelLine(wheel));
    AppendList(text, "build_wheels", lines);
    text += '\n';
    lines.clear();
  }
  for (const LockedDeb& deb : lock.debs) lines.push_back(DebLine(deb));
  AppendList(text, "debs", lines);
  for (const BuiltImage& built : lock.built) {
    text += fmt::format(
        "\n[[built]]\nprofile = {}\nvariant = {}\narchitecture = {}\nconfig_digest = {}\n",
        Quote(built.profile), Quote(built.variant), Quote(built.architecture),
        Quote(built.config_digest));
    AppendList(text, "diff_ids", Quoted(built.diff_ids));
  }
  return text;
}

std::string Lock::Digest() const {
  Lock inputs = *this;
  inputs.built.clear();
  return Sha256Of(LockToToml(inputs));
}

Result<Lock> ParseLock(std::string_view text, const std::filesystem::path& file) {
  return LockReader(text, file).Read();
}

LockInputs InputsOf(const Project& project, std::string recipes_digest) {
  const EnvironmentSettings& environment = project.environment;
  return {environment.torch,
          environment.cuda,
          environment.python,
          environment.base,
          Sorted(environment.packages),
          Sorted(environment.system),
          std::move(recipes_digest),
          Sorted(environment.requirements),
          project.inputs,
          project.architecture};
}

std::vector<std::string> LockDifferences(const Lock& lock, const LockInputs& inputs) {
  std::vector<std::string> lines;
  CompareText(lines, "torch", lock.inputs.torch, inputs.torch);
  CompareText(lines, "cuda", lock.inputs.cuda, inputs.cuda);
  CompareText(lines, "python", lock.inputs.python, inputs.python);
  CompareText(lines, "base", lock.inputs.base, inputs.base);
  if (lock.inputs.architecture != inputs.architecture)
    lines.push_back(
        fmt::format("it is for {}, not {}", lock.inputs.architecture, inputs.architecture));
  CompareList(lines, "packages", lock.inputs.packages, inputs.packages);
  CompareList(lines, "requirements", lock.inputs.requirements, inputs.requirements);
  CompareFiles(lines, lock.inputs.files, inputs.files);
  CompareList(lines, "system", lock.inputs.system, inputs.system);
  if (lock.inputs.recipes != inputs.recipes)
    lines.push_back("the image profiles of this envkit ask for other packages");
  return lines;
}

}  // namespace envkit

// The files that [environment] requirements names, and the wheels of the user's own: what they ask
// for, and what of them decides whether a lock is stale. requirements.txt is read by uv itself, and
// here only as far as that; pyproject.toml and pylock.toml become requirement strings.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

// A file whose content is an input of the lock. PATH is as envkit.toml has it, or relative to the
// project.
struct InputFile {
  std::string path, sha256;
  bool operator==(const InputFile&) const = default;
};

// "requirements.txt", "pyproject.toml[dev,test]", "pylock.toml"
struct RequirementEntry {
  enum class Kind { kRequirements, kPyproject, kPylock };
  Kind kind = Kind::kRequirements;
  std::string path;
  std::vector<std::string> extras;  // normalised; of pyproject.toml alone
};
// An error's hint says what to do instead.
Result<RequirementEntry> ParseRequirementEntry(std::string_view text);

struct RequirementFile {
  std::string path;
  bool read_by_uv = false;                              // else LINES are what it asks for
  std::vector<std::string> lines;                       // requirement strings
  std::map<std::string, std::string> asks;              // normalised name → the requirement
  std::map<std::string, std::set<std::string>> hashes;  // by name: the sha256 that it allows
  std::vector<std::string> indexes;                     // URLs, which may hold credentials
  std::vector<InputFile> inputs;                        // itself, and what it includes
};
// ROOT is the project's. Nothing that it says is executed.
Result<RequirementFile> ReadRequirementFile(const std::filesystem::path& root,
                                            const RequirementEntry& entry);

// "./wheels/mine-1.0-py3-none-any.whl[more]", "mine[more] @ ../mine-1.0-….whl ; marker"
struct LocalWheel {
  std::string name;    // normalised; the file's own where no other is given
  std::string extras;  // "[more]" or empty
  std::string path;
  std::string marker;  // without ";", or empty
};
std::optional<LocalWheel> ParseLocalWheel(std::string_view requirement);

// A distribution's name at the start of a requirement, normalised (PEP 503); empty: none is there.
std::string RequirementName(std::string_view text);

// One requirement a line of a requirements file, continued lines joined, comments gone.
std::vector<std::string> LogicalLines(std::string_view text);

// "${NAME}" replaced as pip does it, in capitals and only where NAME is set.
std::string ExpandVariables(std::string_view text);

// "file:///…", with what a URL cannot hold encoded.
std::string FileUrl(const std::filesystem::path& path);

}  // namespace envkit

// What is wrong, or soon will be, with packages that resolve well: each a sentence for the cause
// and what to do.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/store.h"
#include "project/lock.h"
#include "project/project.h"

namespace envkit {

struct LockFinding {
  enum class Severity { kWarning, kError };
  Severity severity = Severity::kWarning;
  std::string id;  // "cuda-generation", "one-path", …: stable, for machines
  std::string package;
  std::string cause, remedy;
};

// Names on public Python indexes that are not what people take them for. Asked for by envkit.toml
// itself or by its requirement files, before anything is resolved.
std::vector<LockFinding> JudgeRequirements(const Project& project);

// By package: what requires it. May be empty.
using RequiredBy = std::map<std::string, std::vector<std::string>>;
// uv's `pip compile --annotation-style line`: "six==1.17.0    # via dateutil, -r x.in".
RequiredBy ParseAnnotations(std::string_view text);

// Pure: of the wheels' names and versions alone.
std::vector<LockFinding> JudgeWheels(const Lock& lock, const RequiredBy& required_by);

// Of those wheels that are in the store: two with different files at one path. The others are
// compared when an image is built.
std::vector<LockFinding> JudgePaths(const Lock& lock, const Store& store);

// The errors among FINDINGS as one Error, at their place in envkit.toml where they have one there.
Result<void> RejectErrors(const Project& project, const std::vector<LockFinding>& findings);

// MESSAGE at that element of [environment] packages or requirements, or at that key, which has TEXT
// in it (an empty TEXT: the key's value); as a plain error where there is none.
Error UsageAt(const Project& project, const std::string& key, const std::string& text,
              std::string message, std::string hint);

}  // namespace envkit

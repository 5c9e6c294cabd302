// base = "oci:DIR@sha256:…" or "docker://NAME@sha256:…": an OCI image as the lowest layer, for
// hosts without apt and mmdebstrap, and for systems that are not Debian. Of an image that envkit
// built only its system is taken.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/terminal.h"
#include "project/project.h"

namespace envkit {

struct BaseImage {
  std::string place;   // a directory, relative to the project, or a registry's name for it
  std::string digest;  // of the manifest
  bool registry = false;
};
// nullopt: a Debian base. kUsage: a directory without a digest, with what is in it.
Result<std::optional<BaseImage>> ParseBase(const std::string& base,
                                           const std::filesystem::path& project_root);

// All layers of the artefact, one over the other, below TREE; every digest is checked. WORK is an
// empty directory for what lies between.
Result<void> MakeBaseTree(const std::string& base, const std::filesystem::path& project_root,
                          std::int64_t mtime, const std::filesystem::path& work,
                          const std::filesystem::path& tree, Terminal& terminal);

}  // namespace envkit

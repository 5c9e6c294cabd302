// Papers about the project's image: bills of materials and a statement of provenance, signed with
// cosign where a key is given.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/check.h"
#include "image/sbom.h"
#include "session/environment.h"

namespace envkit {

struct ProofRequest {
  std::string profile, variant;  // which of the project's images; empty: as `envkit verify`
  std::string format = "spdx";   // spdx | cyclonedx
  std::filesystem::path output;  // empty: stdout
  std::string key;               // what `cosign --key` takes; empty: unsigned
  std::string envkit_version;
};

Result<void> WriteSbom(const std::filesystem::path& directory, const ProofRequest& request,
                       Terminal& terminal);
// The signature goes beside it, as FILE.sig.
Result<void> WriteProvenance(const std::filesystem::path& directory, const ProofRequest& request,
                             Terminal& terminal);

// FILE against the image; KEY is the public one, empty: a signature is not looked at.
std::vector<Check> CheckProvenance(const std::filesystem::path& file, const std::string& key,
                                   const Bill& bill);

}  // namespace envkit

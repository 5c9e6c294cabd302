// `envkit doctor`: probes this machine, tries the engine, looks at the project, diagnoses, reports.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "base/terminal.h"

namespace envkit {

struct DoctorRequest {
  std::string root;  // a captured tree instead of this machine
  std::string from;  // a facts file instead of probing; "-" is stdin
  std::string save;  // writes the facts, scrubbed
  bool fix_script = false;
  bool json = false;
};

// 0, or 1 where something fails.
Result<int> CheckMachine(const std::filesystem::path& directory, const DoctorRequest& request,
                         Terminal& terminal);

}  // namespace envkit

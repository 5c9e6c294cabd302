// `envkit doctor`: probes this machine, tries the engine, looks at the project, diagnoses, reports.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "base/terminal.h"
#include "doctor/report.h"

namespace envkit {

struct DoctorRequest {
  std::string root;  // a captured tree instead of this machine
  std::string from;  // a facts file instead of probing; "-" is stdin
  std::string save;  // writes the facts, scrubbed; "-" answers with them and with nothing else
  bool fix_script = false;
  bool json = false;
};

// 0, or 1 where something fails.
Result<int> CheckMachine(const std::filesystem::path& directory, const DoctorRequest& request,
                         Terminal& terminal);

// The project that DIRECTORY belongs to, as facts; found is false where there is none.
doctor::ProjectFacts FindProject(const std::filesystem::path& directory);

// As this terminal shows a report.
doctor::ReportStyle StyleOf(const Terminal& terminal);

}  // namespace envkit

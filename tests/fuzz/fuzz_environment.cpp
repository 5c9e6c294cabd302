// What the readers under test are linked with and never call: programs and the environment.
#include "base/process.h"
#include "doctor/probes/probes.h"

namespace envkit {

Result<ProcessResult> RunProcess(const ProcessSpec&) { return Fail("not while fuzzing"); }
std::optional<std::filesystem::path> FindExecutable(std::string_view) { return std::nullopt; }
std::string ShellQuote(const std::vector<std::string>& argv) { return argv.front(); }

namespace doctor {
std::map<std::string, std::string> ProbeEnvironment(const Root&) { return {}; }
}  // namespace doctor

}  // namespace envkit

// `envkit ps`, `logs`, `stop`, `exec`: what runs of ours on this machine, over all engines.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "engine/running.h"

namespace envkit {

// Pure: the table, and {"schema": 1, "containers": […]}.
std::string ContainersText(const std::vector<RunningContainer>& containers);
nlohmann::json ContainersToJson(const std::vector<RunningContainer>& containers);

// The one that NAME means: a container's name, or a job's ("dev" is the session). Empty: the only
// one. In a project, ROOT, only its own are meant by a job; others by name. kUsage: none, or
// several.
Result<RunningContainer> ChooseContainer(const std::vector<RunningContainer>& containers,
                                         const std::string& name,
                                         const std::filesystem::path& root);

Result<int> ListContainers(bool json, Terminal& terminal);
Result<int> StopByName(const std::filesystem::path& directory, const std::string& name,
                       double patience, Terminal& terminal);
Result<int> ExecByName(const std::filesystem::path& directory, const std::string& name,
                       const std::vector<std::string>& argv);
// The newest run's output, or that of one job, run, or "dev". FOLLOW: until it ends.
Result<int> ShowLogs(const std::filesystem::path& directory, const std::string& name, bool follow,
                     Terminal& terminal);

}  // namespace envkit

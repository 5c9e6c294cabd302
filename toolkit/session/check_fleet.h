// `envkit doctor --hosts`: asks each host for its facts over ssh, diagnoses them here, and says
// what differs between them.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"

namespace envkit {

struct FleetRequest {
  std::string hosts;               // as ParseNodes reads them; "slurm": those of this allocation
  std::string ssh_config;          // ssh -F; empty: ssh's own
  std::chrono::seconds limit{15};  // of one host, from the first byte to the last
  bool send = false;               // send this envkit to hosts that have none
  bool json = false;
};

// How a host is asked. Never a password, never a question; nothing is written to ~/.ssh. OWN is
// this program: on a shared file system it is there too, and of the same version.
std::vector<std::string> SshCommand(const std::string& host, const FleetRequest& request,
                                    const std::string& own);

// 0, or 1 where a host fails or did not answer.
Result<int> CheckFleet(const std::filesystem::path& directory, const FleetRequest& request,
                       Terminal& terminal);

}  // namespace envkit

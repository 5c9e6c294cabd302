// `envkit dev … --on ssh://[USER@]HOST[:PORT][/DIRECTORY]`: the session is another machine's, whose
// own envkit builds and keeps it. Here stand the keys and the ssh entry with which one comes in,
// through that machine's sshd: the session's ports stay on its loopback.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "session/dev.h"

namespace envkit {

struct RemoteHost {
  std::string user;          // empty: ssh's own choice
  std::string host;          // a name of ~/.ssh/config or of the network
  int port = 0;              // 0: ssh's own choice
  std::string directory;     // of the project there: absolute, or "~/…"; empty: where it is here
  std::string Text() const;  // "ana@box:2222", as ProxyJump takes it too
};
Result<RemoteHost> ParseRemoteHost(const std::string& url);

// Where the project lies there, when the URL does not say: the same below the home directory.
std::string RemoteDirectory(const std::filesystem::path& root, const std::filesystem::path& home);

// The ssh command that runs `envkit ARGUMENTS` in DIRECTORY on HOST; OWN is this envkit's path,
// which is tried there first. The script's own exit codes: kNoRemoteDirectory, kNoRemoteEnvkit.
inline constexpr int kNoRemoteDirectory = 96, kNoRemoteEnvkit = 97;
std::vector<std::string> RemoteCommand(const RemoteHost& host, const std::string& directory,
                                       const std::string& own,
                                       const std::vector<std::string>& arguments);

// Like DevUp, DevDown and DevStatus, but there.
Result<int> DevUpOn(const std::filesystem::path& directory, const std::string& url,
                    const DevRequest& request, bool json, Terminal& terminal);
Result<int> DevDownOn(const std::filesystem::path& directory, const std::string& url);
Result<int> DevStatusOn(const std::filesystem::path& directory, const std::string& url, bool json,
                        Terminal& terminal);

}  // namespace envkit

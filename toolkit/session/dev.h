// `envkit dev`: a project's session, an sshd, JupyterLab and TensorBoard in the dev image, that
// goes on when the terminal is closed. A process of ours keeps it: no daemon. What it needs lies
// below its SessionPlace.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "base/terminal.h"
#include "session/place.h"
#include "session/plan_run.h"

namespace envkit {

struct DevRequest {
  RunRequest run;          // engine, variant, gpus, memory, shm
  bool port = true;        // false: ssh goes through the engine's exec, and sshd listens nowhere
  bool ssh_config = true;  // false: ~/.ssh/config is left alone
  bool show_keys = false;  // the JSON has the session's own key, for who asks from another machine
  bool vscode = false;     // write .vscode/extensions.json where there is none
  std::string listen = "127.0.0.1";  // an address of this machine, or 0.0.0.0 for all
};

// Starts it, or says what runs already. Returns once all answers.
Result<int> DevUp(const std::filesystem::path& directory, const DevRequest& request, bool json,
                  Terminal& terminal);
// Jupyter first, sshd last; what is in the home directory and the workspace stays.
Result<int> DevDown(const std::filesystem::path& directory, Terminal& terminal);
// 0 where it runs, 1 where not.
Result<int> DevStatus(const std::filesystem::path& directory, bool json, Terminal& terminal);
// Adds the Include line to ~/.ssh/config; PRINT: says what stands where, and changes nothing.
Result<int> DevSshConfig(const std::filesystem::path& directory, bool print, Terminal& terminal);

// Lets ~/.ssh/config include the entries below STATE. A file that must not be touched is warned of.
Result<void> IncludeEntries(const std::filesystem::path& state, Terminal& terminal);

// What is known of a session: session.json, and whether it runs.
struct SessionState {
  SessionPlace place;
  bool running = false;
  nlohmann::json facts;  // null: none was started
};
Result<SessionState> ReadSession(const SessionPlace& place);
// SIGTERM to its keeper, SIGKILL after PATIENCE seconds; then its tokens are removed.
Result<void> StopSession(const SessionState& session, double patience);

}  // namespace envkit

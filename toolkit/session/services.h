// What a session or a built-in job starts inside its container, as data: pure functions.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace envkit {

// Where a container sees its session's directory, and what is in it.
inline constexpr const char* kSessionInside = "/envkit/session";

struct Service {
  std::string name;  // ssh | jupyter | tensorboard
  std::vector<std::string> argv;
  int port = 0;
};

// Tokens are read from files in the session's directory: no argument and no variable has one.
Service JupyterService(int port, bool root);
Service TensorboardService(int port, const std::string& runs);
Service SshService(int port);

std::string JupyterUrl(int port, const std::string& token);
std::string TensorboardUrl(int port, const std::string& token);

// services.json, as supervise.py reads it.
nlohmann::json ServicesToJson(const std::vector<Service>& services);

// sshd_config for an sshd of that user's own: keys only, on loopback only. ENV is what its shells
// get. PORT 0: for `sshd -i`, which listens nowhere.
std::string SshdConfig(int port, const std::string& user,
                       const std::map<std::string, std::string>& env);

}  // namespace envkit

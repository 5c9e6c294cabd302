// What a session or a built-in job starts inside its container, as data: pure functions.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace envkit {

// Where a container sees its session's directory, and what is in it.
inline constexpr const char* kSessionInside = "/envkit/session";

struct Service {
  std::string name;  // ssh | jupyter | tensorboard
  std::vector<std::string> argv;
  int port = 0;
  std::string address = "127.0.0.1";
};

// Tokens are read from files in the session's directory: no argument and no variable has one.
// ADDRESS: where they listen.
inline constexpr const char* kLoopback = "127.0.0.1";
Service JupyterService(int port, bool root, const std::string& address = kLoopback);
Service TensorboardService(int port, const std::string& runs,
                           const std::string& address = kLoopback);
Service SshService(int port);

// For this machine: 0.0.0.0 is reached as 127.0.0.1.
std::string ReachableAt(const std::string& address);
std::string JupyterUrl(int port, const std::string& token, const std::string& host = kLoopback);
std::string TensorboardUrl(int port, const std::string& token, const std::string& host = kLoopback);

// services.json, as supervise.py reads it.
nlohmann::json ServicesToJson(const std::vector<Service>& services);

// sshd_config for an sshd of that user's own: keys only, on ADDRESS only. ENV is what its shells
// get. PORT 0: for `sshd -i`, which listens nowhere.
std::string SshdConfig(int port, const std::string& user,
                       const std::map<std::string, std::string>& env,
                       const std::string& address = kLoopback);

// Is ADDRESS an IPv4 address that more than this machine reaches? nullopt: it is no address.
std::optional<bool> IsOpenAddress(const std::string& address);
// What `dev up --listen` says where more than this machine reaches the session.
std::string ListenWarning(const std::string& address);

}  // namespace envkit

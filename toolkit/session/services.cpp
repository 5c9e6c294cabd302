#include "session/services.h"

#include <arpa/inet.h>
#include <fmt/format.h>

namespace envkit {
namespace {

std::string Inside(const char* name) { return fmt::format("{}/{}", kSessionInside, name); }

// As sshd reads words: in quotes, with quotes and backslashes escaped. A line break cannot be said.
std::string SshQuoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') quoted += '\\';
    quoted += letter;
  }
  return quoted + "\"";
}

}  // namespace

Service JupyterService(int port, bool root, const std::string& address) {
  // Its logs show no token that was given; WARN leaves a line per request out. Ctrl-C is meant.
  std::vector<std::string> argv{"env",
                                "JUPYTER_TOKEN_FILE=" + Inside("jupyter.token"),
                                "jupyter-lab",
                                "--no-browser",
                                "--ServerApp.ip=" + address,
                                fmt::format("--ServerApp.port={}", port),
                                "--ServerApp.port_retries=0",
                                "--ServerApp.answer_yes=True",
                                "--Application.log_level=WARN"};
  if (root) argv.emplace_back("--allow-root");
  return {"jupyter", std::move(argv), port, address};
}

Service TensorboardService(int port, const std::string& runs, const std::string& address) {
  return {"tensorboard",
          {"python3", "/opt/envkit/lib/session/tensorboard_server.py", std::to_string(port),
           Inside("tensorboard.token"), runs, address},
          port,
          address};
}

Service SshService(int port) {
  return {"ssh", {"/usr/sbin/sshd", "-D", "-e", "-f", Inside("sshd_config")}, port};
}

std::string ReachableAt(const std::string& address) {
  return address == "0.0.0.0" ? kLoopback : address;
}

std::string JupyterUrl(int port, const std::string& token, const std::string& host) {
  return fmt::format("http://{}:{}/lab?token={}", host, port, token);
}

std::string TensorboardUrl(int port, const std::string& token, const std::string& host) {
  return fmt::format("http://{}:{}/{}/", host, port, token);
}

nlohmann::json ServicesToJson(const std::vector<Service>& services) {
  nlohmann::json list = nlohmann::json::array();
  for (const Service& service : services) {
    nlohmann::json entry = {{"name", service.name}, {"argv", service.argv}};
    if (service.port > 0) entry["port"] = service.port;
    if (service.port > 0) entry["address"] = service.address;
    list.push_back(std::move(entry));
  }
  return {{"services", std::move(list)}};
}

std::string SshdConfig(int port, const std::string& user,
                       const std::map<std::string, std::string>& env, const std::string& address) {
  std::string text;
  if (port > 0) {
    text += fmt::format("Port {}\nAddressFamily inet\nListenAddress {}\n", port, address);
  }
  text += fmt::format("HostKey {}\n", Inside("ssh_host_ed25519_key"));
  text += fmt::format("AuthorizedKeysFile {}\n", Inside("authorized_keys"));
  // The directories above are the container's, whoever owns them there; on the host they are 0700.
  text +=
      "StrictModes no\n"
      "UsePAM no\n"
      "AuthenticationMethods publickey\n"
      "PasswordAuthentication no\n"
      "KbdInteractiveAuthentication no\n"
      "PermitEmptyPasswords no\n"
      "PermitRootLogin prohibit-password\n"
      // An agent offers its keys one after the other.
      "MaxAuthTries 30\n"
      "X11Forwarding no\n"
      "GatewayPorts no\n"
      "PermitUserEnvironment no\n"
      "PrintMotd no\n"
      "PrintLastLog no\n"
      "PidFile none\n"
      "ClientAliveInterval 60\n"
      "Subsystem sftp internal-sftp\n";
  text += "AllowUsers " + user + "\n";
  // Only the first SetEnv counts, so all of it stands on one line.
  std::string variables;
  for (const auto& [name, value] : env) {
    if (value.find_first_of("\r\n") == value.npos) variables += " " + SshQuoted(name + "=" + value);
  }
  if (!variables.empty()) text += "SetEnv" + variables + "\n";
  return text;
}

std::optional<bool> IsOpenAddress(const std::string& address) {
  in_addr parsed{};
  if (inet_pton(AF_INET, address.c_str(), &parsed) != 1) return std::nullopt;
  return (ntohl(parsed.s_addr) >> 24) != 127;
}

std::string ListenWarning(const std::string& address) {
  return fmt::format(
      "ssh, JupyterLab and TensorBoard listen on {}: other machines reach them\n"
      "  They let in by key or token alone, but HTTP carries the token unencrypted. On a network\n"
      "  that you do not trust, leave --listen out and use:  ssh -L",
      address);
}

}  // namespace envkit

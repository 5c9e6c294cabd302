#include "session/services.h"

#include <fmt/format.h>

namespace envkit {
namespace {

std::string Inside(const char* name) { return fmt::format("{}/{}", kSessionInside, name); }

// As sshd reads words: in quotes, with quotes and backslashes escaped. A line break cannot be said.
std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') quoted += '\\';
    quoted += letter;
  }
  return quoted + "\"";
}

}  // namespace

Service JupyterService(int port, bool root) {
  // Its logs show no token that was given; WARN leaves a line per request out. Ctrl-C is meant.
  std::vector<std::string> argv{"env",
                                "JUPYTER_TOKEN_FILE=" + Inside("jupyter.token"),
                                "jupyter-lab",
                                "--no-browser",
                                "--ServerApp.ip=127.0.0.1",
                                fmt::format("--ServerApp.port={}", port),
                                "--ServerApp.port_retries=0",
                                "--ServerApp.answer_yes=True",
                                "--Application.log_level=WARN"};
  if (root) argv.emplace_back("--allow-root");
  return {"jupyter", std::move(argv), port};
}

Service TensorboardService(int port, const std::string& runs) {
  return {"tensorboard",
          {"python3", "/opt/envkit/lib/session/tensorboard_server.py", std::to_string(port),
           Inside("tensorboard.token"), runs},
          port};
}

Service SshService(int port) {
  return {"ssh", {"/usr/sbin/sshd", "-D", "-e", "-f", Inside("sshd_config")}, port};
}

std::string JupyterUrl(int port, const std::string& token) {
  return fmt::format("http://127.0.0.1:{}/lab?token={}", port, token);
}

std::string TensorboardUrl(int port, const std::string& token) {
  return fmt::format("http://127.0.0.1:{}/{}/", port, token);
}

nlohmann::json ServicesToJson(const std::vector<Service>& services) {
  nlohmann::json list = nlohmann::json::array();
  for (const Service& service : services) {
    nlohmann::json entry = {{"name", service.name}, {"argv", service.argv}};
    if (service.port > 0) entry["port"] = service.port;
    list.push_back(std::move(entry));
  }
  return {{"services", std::move(list)}};
}

std::string SshdConfig(int port, const std::string& user,
                       const std::map<std::string, std::string>& env) {
  std::string text;
  if (port > 0) text += fmt::format("Port {}\nAddressFamily inet\nListenAddress 127.0.0.1\n", port);
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
    if (value.find_first_of("\r\n") == value.npos) variables += " " + Quoted(name + "=" + value);
  }
  if (!variables.empty()) text += "SetEnv" + variables + "\n";
  return text;
}

}  // namespace envkit

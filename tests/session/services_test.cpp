#include "session/services.h"

#include <doctest/doctest.h>

using namespace envkit;

TEST_CASE("services are named by their files, and no token is among the arguments") {
  CHECK(
      ServicesToJson(
          {SshService(0), JupyterService(20001, true), TensorboardService(20002, "/envkit/runs")})
          .dump() ==
      R"({"services":[{"argv":["/usr/sbin/sshd","-D","-e","-f","/envkit/session/sshd_config"],)"
      R"("name":"ssh"},{"address":"127.0.0.1","argv":["env","JUPYTER_TOKEN_FILE=/envkit/session/jupyter.token",)"
      R"("jupyter-lab","--no-browser","--ServerApp.ip=127.0.0.1","--ServerApp.port=20001",)"
      R"("--ServerApp.port_retries=0","--ServerApp.answer_yes=True",)"
      R"("--Application.log_level=WARN","--allow-root"],"name":"jupyter","port":20001},)"
      R"({"address":"127.0.0.1","argv":["python3","/opt/envkit/lib/session/tensorboard_server.py","20002",)"
      R"("/envkit/session/tensorboard.token","/envkit/runs","127.0.0.1"],"name":"tensorboard",)"
      R"("port":20002}]})");
  CHECK(JupyterUrl(20001, "abc") == "http://127.0.0.1:20001/lab?token=abc");
  CHECK(TensorboardUrl(20002, "abc") == "http://127.0.0.1:20002/abc/");
}

TEST_CASE("sshd takes keys only, on loopback only, and its shells get the environment") {
  const std::string text =
      SshdConfig(20000, "ana", {{"PATH", "/a:/b"}, {"WORDS", "two \"words\""}, {"X", "a\nb"}});
  CHECK(text.starts_with("Port 20000\nAddressFamily inet\nListenAddress 127.0.0.1\n"));
  for (const char* line :
       {"AuthenticationMethods publickey\n", "PasswordAuthentication no\n",
        "KbdInteractiveAuthentication no\n", "PermitEmptyPasswords no\n", "AllowUsers ana\n",
        "HostKey /envkit/session/ssh_host_ed25519_key\n", "GatewayPorts no\n"}) {
    CAPTURE(line);
    CHECK(text.find(line) != text.npos);
  }
  CHECK(text.ends_with("SetEnv \"PATH=/a:/b\" \"WORDS=two \\\"words\\\"\"\n"));
  CHECK(SshdConfig(0, "ana", {}).find("Listen") == std::string::npos);
}

TEST_CASE("another address than loopback is said to all three, and warned of") {
  CHECK(IsOpenAddress("127.0.0.1") == std::optional(false));
  CHECK(IsOpenAddress("127.8.9.1") == std::optional(false));
  CHECK(IsOpenAddress("0.0.0.0") == std::optional(true));
  CHECK(IsOpenAddress("10.0.0.1") == std::optional(true));
  for (const char* none : {"", "localhost", "::", "0", "1.2.3", "1.2.3.4 --x", "1.2.3.256"}) {
    CAPTURE(none);
    CHECK(IsOpenAddress(none) == std::nullopt);
  }
  CHECK(SshdConfig(20000, "ana", {}, "10.0.0.1").find("\nListenAddress 10.0.0.1\n") !=
        std::string::npos);
  CHECK(JupyterService(20001, false, "0.0.0.0").argv[4] == "--ServerApp.ip=0.0.0.0");
  CHECK(TensorboardService(20002, "/envkit/runs", "0.0.0.0").argv.back() == "0.0.0.0");
  CHECK(
      ListenWarning("0.0.0.0") ==
      "ssh, JupyterLab and TensorBoard listen on 0.0.0.0: other machines reach them\n"
      "  They let in by key or token alone, but HTTP carries the token unencrypted. On a network\n"
      "  that you do not trust, leave --listen out and use:  ssh -L");
}

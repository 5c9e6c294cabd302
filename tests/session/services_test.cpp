#include "session/services.h"

#include <doctest/doctest.h>

using namespace envkit;

TEST_CASE("services are named by their files, and no token is among the arguments") {
  CHECK(ServicesToJson(
            {SshService(0), JupyterService(20001, true), TensorboardService(20002, "/envkit/runs")})
            .dump() ==
        R"({"services":[{"argv":["/usr/sbin/sshd","-D","-e","-f","/envkit/session/sshd_config"],)"
        R"("name":"ssh"},{"argv":["env","JUPYTER_TOKEN_FILE=/envkit/session/jupyter.token",)"
        R"("jupyter-lab","--no-browser","--ServerApp.ip=127.0.0.1","--ServerApp.port=20001",)"
        R"("--ServerApp.port_retries=0","--ServerApp.answer_yes=True",)"
        R"("--Application.log_level=WARN","--allow-root"],"name":"jupyter","port":20001},)"
        R"({"argv":["python3","/opt/envkit/lib/session/tensorboard_server.py","20002",)"
        R"("/envkit/session/tensorboard.token","/envkit/runs"],"name":"tensorboard",)"
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

#include "session/dev_remote.h"

#include <doctest/doctest.h>

#include "base/process.h"

namespace envkit {

TEST_CASE("--on names a host, and what of it was said") {
  const auto all = ParseRemoteHost("ssh://ana@gpu-box:2222/srv/mnist/");
  REQUIRE(all);
  CHECK(all->Text() == "ana@gpu-box:2222");
  CHECK(all->directory == "/srv/mnist");
  const auto host = ParseRemoteHost("ssh://gpu-box");
  REQUIRE(host);
  CHECK(host->Text() == "gpu-box");
  CHECK(host->directory.empty());
  CHECK(ParseRemoteHost("ssh://gpu-box/~/src/a b")->directory == "~/src/a b");
}

TEST_CASE("--on takes nothing that ssh would read as something else") {
  const auto words = [](const std::string& url) { return ParseRemoteHost(url).error().Text(); };
  CHECK(words("gpu-box") ==
        "error: --on gpu-box: not an ssh:// address\n"
        "  Say it as: --on ssh://[USER@]HOST[:PORT][/DIRECTORY]\n");
  CHECK(words("ssh://ana:secret@box").find("its user is none (no password belongs here)") !=
        std::string::npos);
  CHECK(words("ssh://box:0").find("its port is none") != std::string::npos);
  CHECK(words("ssh://box:22x").find("its port is none") != std::string::npos);
  CHECK(words("ssh://-oProxyCommand=x").find("its host is none") != std::string::npos);
  CHECK(words("ssh://box name").find("its host is none") != std::string::npos);
  CHECK(words("ssh://").find("its host is none") != std::string::npos);
  CHECK(words("ssh://box/a\nb").find("its directory has a line break") != std::string::npos);
}

TEST_CASE("a project lies there where it lies here, as seen from the home directory") {
  CHECK(RemoteDirectory("/home/ana/src/mnist", "/home/ana") == "~/src/mnist");
  CHECK(RemoteDirectory("/home/ana", "/home/ana") == "~");
  CHECK(RemoteDirectory("/srv/mnist", "/home/ana") == "/srv/mnist");
  CHECK(RemoteDirectory("/srv/mnist", "") == "/srv/mnist");
}

TEST_CASE("the command that runs there, as one word of ssh") {
  const RemoteHost host{"ana", "box", 2222, ""};
  const auto command = RemoteCommand(host, "~/a b", "/opt/envkit/bin/envkit", {"dev", "down"});
  CHECK(std::vector(command.begin(), command.end() - 1) ==
        std::vector<std::string>{"ssh", "-p", "2222", "-l", "ana", "-o", "ClearAllForwardings=yes",
                                 "-o", "PermitLocalCommand=no", "-o", "ConnectTimeout=15", "-T",
                                 "--", "box"});
  CHECK(command.back() ==
        "exec sh -c " +
            ShellQuote({"cd \"$HOME\"/'a b' 2>/dev/null && [ -f envkit.toml ] || exit 96; "
                        "PATH=$PATH:$HOME/.local/bin; p=/opt/envkit/bin/envkit; [ -x \"$p\" ] || "
                        "p=$(command -v envkit) || exit 97; exec \"$p\" dev down"}));
}

}  // namespace envkit

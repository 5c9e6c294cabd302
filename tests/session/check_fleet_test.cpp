#include "session/check_fleet.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace envkit;

TEST_CASE("how a host is asked: without a password, a question or an option from its name") {
  FleetRequest request;
  using Argv = std::vector<std::string>;
  Argv argv = SshCommand("gpu1", request, "/opt/envkit");
  const std::string command = argv.back();
  argv.pop_back();
  CHECK(argv == Argv{"ssh",
                     "-o",
                     "BatchMode=yes",
                     "-o",
                     "PasswordAuthentication=no",
                     "-o",
                     "KbdInteractiveAuthentication=no",
                     "-o",
                     "UpdateHostKeys=no",
                     "-o",
                     "ControlMaster=no",
                     "-o",
                     "ClearAllForwardings=yes",
                     "-o",
                     "PermitLocalCommand=no",
                     "-o",
                     "LogLevel=ERROR",
                     "-o",
                     "ConnectTimeout=7",
                     "-a",
                     "-x",
                     "-T",
                     "--",
                     "gpu1"});
  CHECK(command ==
        R"(exec sh -c 'p=/opt/envkit; [ -x "$p" ] || p=$(command -v envkit) || exit 97; )"
        R"(exec "$p" doctor --save -')");
  request.ssh_config = "my config";
  request.limit = std::chrono::seconds(1);
  request.send = true;
  argv = SshCommand("gpu1", request, "/opt/envkit");
  CHECK(argv[1] == "-F");
  CHECK(argv[2] == "my config");
  CHECK(std::count(argv.begin(), argv.end(), "ConnectTimeout=1") == 1);
  CHECK(argv.back() ==
        R"(exec sh -c 'd=$(mktemp -d) || exit 1; trap "rm -rf $d" EXIT; cat >$d/envkit && )"
        R"(chmod 700 $d/envkit && $d/envkit doctor --save -')");
}

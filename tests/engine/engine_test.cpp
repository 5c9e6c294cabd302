#include "engine/engine.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include "base/process.h"
#include "base/scratch.h"
#include "engine/engines.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;

constexpr const char* kConfigDigest =
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

// An environment variable's value for a while; null takes it away.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = getenv(name)) before_ = before;
    value == nullptr ? unsetenv(name) : setenv(name, value, 1);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

// A directory that is all of PATH, with scripts of ours as programs.
struct Programs {
  void Add(const std::string& name, const std::string& script) {
    REQUIRE(WriteFileAtomic(directory / name, "#!/bin/sh\n" + script, 0755));
  }
  Scratch directory;
  Variable path{"PATH", directory.path().c_str()};
  Variable host{"DOCKER_HOST", ("unix://" + (directory / "none.sock").string()).c_str()};
  Variable context{"DOCKER_CONTEXT", nullptr};
  Variable home{"HOME", directory.path().c_str()};
};

// Somebody who listens where a daemon would.
class Listener {
 public:
  explicit Listener(const std::filesystem::path& socket) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    REQUIRE(socket.string().size() < sizeof address.sun_path);
    std::strcpy(address.sun_path, socket.c_str());
    REQUIRE(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(listen(fd_, 8) == 0);
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() { close(fd_); }

 private:
  int fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
};

std::string OpenError(std::string_view name, ExitCode code = ExitCode::kMissing) {
  const auto engine = OpenEngine(name);
  REQUIRE(!engine);
  CHECK(engine.error().code == code);
  return engine.error().Text();
}

bool Exists(const char* file) { return access(file, X_OK) == 0; }

// What a script of ours writes there in its own time.
std::string WaitForText(const std::filesystem::path& file, const std::string& text) {
  std::string content;
  for (int i = 0; i < 500 && content.find(text) == std::string::npos; ++i) {
    std::this_thread::sleep_for(10ms);
    content = ReadFile(file).value_or("");
  }
  return content;
}

RunPlan DockerPlan() {
  RunPlan plan;
  plan.job = "train";
  plan.engine = "docker";
  plan.image.config_digest = kConfigDigest;
  plan.argv = {"python", "train.py"};
  return plan;
}

// A client that has a daemon, and a `docker run` that is SCRIPT, with $cid the file to write.
void AddDocker(Programs& programs, const std::string& script) {
  programs.Add("docker",
               "if [ $1 = version ]; then echo 20.10.24; exit; fi\n"
               "echo \"$*\" >> " +
                   (programs.directory / "log").string() +
                   "\n[ $1 = run ] || exit 0\n"
                   "cid=$6\n" +
                   script);
}

}  // namespace

TEST_CASE("an engine that nobody knows") {
  CHECK(OpenError("dokcer", ExitCode::kUsage) ==
        "error: no engine is called \"dokcer\"\n"
        "  There are: auto, docker, podman, oci.\n");
  CHECK(OpenError("", ExitCode::kUsage).substr(0, 30) == "error: no engine is called \"\"\n");
}

TEST_CASE("docker without docker") {
  const Programs programs;
  if (Exists("/usr/sbin/docker") || Exists("/sbin/docker")) {
    MESSAGE("skipped: this host has docker among the administrator's programs");
    return;
  }
  CHECK(OpenError("docker") ==
        "error: docker is not installed\n"
        "  Install it:  sudo apt-get install docker.io\n"
        "  or use the engine that needs no daemon:  --engine oci\n");
  CHECK(!DockerMayAnswer());
}

TEST_CASE("docker without its daemon: the client's own words") {
  Programs programs;
  programs.Add("docker",
               "echo Client 20.10\n"
               "echo \"Cannot connect to the Docker daemon at $DOCKER_HOST.\" >&2; exit 1\n");
  CHECK(OpenError("docker") ==
        "error: docker: Cannot connect to the Docker daemon at unix://" +
            (programs.directory / "none.sock").string() +
            ".\n"
            "  Start it:  sudo systemctl start docker  (or set DOCKER_HOST)\n"
            "  or use the engine that needs no daemon:  --engine oci\n");
  programs.Add("docker", "echo all is lost; exit 1\n");  // nothing on stderr
  CHECK(OpenError("docker").substr(0, 32) == "error: docker: all is lost\n  Sta");
}

TEST_CASE("docker's daemon that this user may not ask") {
  Programs programs;
  programs.Add(
      "docker",
      "echo 'Got permission denied while trying to connect to the Docker daemon socket' >&2\n"
      "exit 1\n");
  CHECK(OpenError("docker") ==
        "error: docker: Got permission denied while trying to connect to the Docker daemon socket\n"
        "  Let this user ask the daemon:  sudo usermod -aG docker $USER  (then log in again)\n"
        "  or use the engine that needs no daemon:  --engine oci\n");
  programs.Add("docker",
               "echo 'WARNING: open config.json: permission denied' >&2; echo No daemon. >&2\n"
               "exit 1\n");
  CHECK(OpenError("docker").find("  Start it:  sudo systemctl start docker") != std::string::npos);
}

TEST_CASE("the real docker client, pointed nowhere") {
  const auto docker = FindExecutable("docker");
  if (!docker) {
    MESSAGE("skipped: docker is not installed");
    return;
  }
  const Variable host("DOCKER_HOST", "unix:///nonexistent/envkit.sock");
  CHECK(!DockerMayAnswer());
  const std::string text = OpenError("docker");
  CAPTURE(text);
  CHECK(text.substr(0, 15) == "error: docker: ");
  CHECK(text.find("unix:///nonexistent/envkit.sock") != std::string::npos);
  CHECK(text.find("\n  Start it:  sudo systemctl start docker  (or set DOCKER_HOST)\n"
                  "  or use the engine that needs no daemon:  --engine oci\n") !=
        std::string::npos);
}

TEST_CASE("docker with a daemon") {
  Programs programs;
  AddDocker(programs, "exit 0\n");
  const auto engine = OpenEngine("docker");
  REQUIRE(engine);
  CHECK((*engine)->Name() == "docker");
  CHECK((*engine)->Version() == "docker 20.10.24");
}

TEST_CASE("whether docker may answer is seen without asking its client") {
  Programs programs;
  programs.Add("docker", "exit 9\n");
  CHECK(!DockerMayAnswer());
  {
    const Variable tcp("DOCKER_HOST", "tcp://127.0.0.1:1");
    CHECK(DockerMayAnswer());
  }
  {
    const Variable host("DOCKER_HOST", nullptr);
    const Variable context("DOCKER_CONTEXT", "far");
    CHECK(DockerMayAnswer());
  }
  {
    const Variable host("DOCKER_HOST", nullptr);
    REQUIRE(WriteFileAtomic(programs.directory / ".docker/config.json",
                            R"({"currentContext": "far"})"));
    CHECK(DockerMayAnswer());
  }
  const Listener listener(programs.directory / "none.sock");
  CHECK(DockerMayAnswer());
}

TEST_CASE("auto is docker where its daemon answers, else oci") {
  Programs programs;
  AddDocker(programs, "exit 0\n");
  programs.Add("crun", "echo crun version 1.8.1\necho commit: f8a096be\n");
  const auto without = OpenEngine("auto");
  REQUIRE(without);
  CHECK((*without)->Name() == "oci");
  CHECK((*without)->Version() == "crun 1.8.1");

  const Listener listener(programs.directory / "none.sock");
  const auto with = OpenEngine("auto");
  REQUIRE(with);
  CHECK((*with)->Name() == "docker");
  programs.Add("docker", "echo broken >&2; exit 1\n");
  const auto broken = OpenEngine("auto");
  REQUIRE(broken);
  CHECK((*broken)->Name() == "oci");
}

TEST_CASE("oci without a runtime") {
  Programs programs;
  if (Exists("/usr/sbin/crun") || Exists("/sbin/crun")) {
    MESSAGE("skipped: this host has crun among the administrator's programs");
    return;
  }
  const uid_t before = geteuid();
  if (!Exists("/usr/sbin/runc") && !Exists("/sbin/runc")) {
    CHECK(OpenError("oci") ==
          "error: no OCI runtime is installed: crun or runc\n"
          "  Install one:  sudo apt-get install crun\n");
  }
  programs.Add("runc", "echo runc version 1.1.5\n");
  if (before == 0) {
    const auto root = OpenEngine("oci");
    REQUIRE(root);
    CHECK((*root)->Version() == "runc 1.1.5");
    REQUIRE(seteuid(65534) == 0);
  }
  const auto ordinary = OpenEngine("oci");
  REQUIRE(seteuid(before) == 0);
  REQUIRE(!ordinary);
  CHECK(ordinary.error().code == ExitCode::kMissing);
  CHECK(ordinary.error().Text() ==
        "error: ordinary users need crun; runc, which is installed, works for root only here\n"
        "  Install it:  sudo apt-get install crun\n");
}

TEST_CASE("docker runs the plan's command line under a name of its own") {
  Programs programs;
  AddDocker(programs, "echo id > $cid; exit 7\n");
  const auto engine = OpenEngine("docker");
  REQUIRE(engine);
  const Variable temp("TMPDIR", programs.directory.path().c_str());
  const auto code = (*engine)->Run(DockerPlan());
  REQUIRE(code);
  CHECK(*code == 7);
  const std::string log = ReadFile(programs.directory / "log").value();
  const std::string start = "run --rm --name envkit-train-";
  REQUIRE(log.substr(0, start.size()) == start);
  const std::string unique = log.substr(start.size(), log.find(' ', start.size()) - start.size());
  CHECK(unique.size() == 6);
  CHECK(log == start + unique + " --cidfile " + programs.directory.path().string() +
                   "/envkit-docker-" + unique +
                   "/cid -i --network=host --ipc=private --shm-size=0 --ulimit memlock=-1 "
                   "--security-opt no-new-privileges --user 0:0 --cap-drop=ALL --cap-add=CHOWN "
                   "--cap-add=DAC_OVERRIDE --cap-add=FOWNER --cap-add=FSETID --cap-add=KILL "
                   "--cap-add=SETGID --cap-add=SETUID --cap-add=NET_BIND_SERVICE "
                   "--cap-add=SYS_CHROOT --cap-add=AUDIT_WRITE -w /workspace --entrypoint  "
                   "sha256:" +
                   kConfigDigest + " python train.py\n");
  CHECK(!std::filesystem::exists(programs.directory / ("envkit-docker-" + unique)));
}

TEST_CASE("docker's 125: an error where it made no container, else the command's own") {
  Programs programs;
  AddDocker(programs, "exit 125\n");
  const auto engine = OpenEngine("docker");
  REQUIRE(engine);
  const auto failed = (*engine)->Run(DockerPlan());
  REQUIRE(!failed);
  CHECK(failed.error().code == ExitCode::kMissing);
  CHECK(failed.error().Text() ==
        "error: docker could not make the container; its own words are above\n"
        "  Try the engine that needs no daemon:  --engine oci\n");
  AddDocker(programs, "echo id > $cid; exit 125\n");
  CHECK((*engine)->Run(DockerPlan()).value() == 125);
  AddDocker(programs, "echo id > $cid; kill -9 $$\n");
  CHECK((*engine)->Run(DockerPlan()).value() == 137);
}

TEST_CASE("signals are passed on to docker's client") {
  Programs programs;
  AddDocker(programs,
            "trap 'exit 33' TERM\n"
            "echo id > $cid\n"
            "kill -TERM $PPID\n"
            "i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done; exit 1\n");
  const auto engine = OpenEngine("docker");
  REQUIRE(engine);
  CHECK((*engine)->Run(DockerPlan()).value() == 33);
}

TEST_CASE("when envkit is killed its container is removed, again where it came late") {
  Programs programs;
  AddDocker(programs, "i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done; exit 1\n");
  const auto engine = OpenEngine("docker");
  REQUIRE(engine);
  const Variable temp("TMPDIR", programs.directory.path().c_str());
  const pid_t envkit = fork();
  if (envkit == 0) {
    static_cast<void>((*engine)->Run(DockerPlan()));
    _exit(0);
  }
  const std::string log = WaitForText(programs.directory / "log", "\n");
  kill(envkit, SIGKILL);
  waitpid(envkit, nullptr, 0);
  const auto start = log.find("envkit-train-");
  REQUIRE(start != std::string::npos);
  const std::string removed =
      "container rm --force --volumes " + log.substr(start, log.find(' ', start) - start) + "\n";
  CHECK(WaitForText(programs.directory / "log", removed + removed) == log + removed + removed);
}

}  // namespace envkit

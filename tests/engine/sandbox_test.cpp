#include <doctest/doctest.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "base/process.h"
#include "base/scratch.h"
#include "engine/engine.h"
#include "engine/namespaces.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// The host's shell and a few programs with the libraries that they need, in a tree of their own.
class Tree {
 public:
  Tree() {
    umask(022);  // other users read it
    REQUIRE(chmod(scratch_.path().c_str(), 0755) == 0);
    for (const char* name : {"sh", "cat", "id", "ls", "sleep"}) {
      const auto program = FindExecutable(name);
      REQUIRE(program);
      Copy(*program, fs::path("/bin") / name);
      // "	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", " /lib64/ld-linux-x86-64.so.2
      // (0x…)"
      std::istringstream words(RunForOutput({.argv = {"ldd", program->string()}}).value());
      for (std::string word; words >> word;)
        if (word[0] == '/') Copy(word, word);
    }
    REQUIRE(WriteFileAtomic(path() / "etc/motd", "lower\n"));
    fs::create_directory(path() / "tmp");
  }
  fs::path path() const { return scratch_.path(); }

 private:
  void Copy(const fs::path& file, const fs::path& target) {
    const fs::path copy = path() / target.relative_path();
    fs::create_directories(copy.parent_path());
    fs::copy_file(fs::canonical(file), copy, fs::copy_options::skip_existing);
  }

  Scratch scratch_;
};

const Tree& SharedTree() {
  static const Tree tree;
  return tree;
}

SandboxSpec Script(const std::string& script) {
  SandboxSpec spec;
  spec.lower = {SharedTree().path()};
  spec.argv = {"sh", "-c", script};
  return spec;
}

SandboxResult Run(const SandboxSpec& spec) {
  auto result = RunInSandbox(spec);
  REQUIRE_MESSAGE(result.has_value(), result.error().Text());
  return *result;
}

// The same as an ordinary user where we are root: in a child that gives its rights away.
SandboxResult RunAs(unsigned id, const SandboxSpec& spec) {
  if (geteuid() == id) return Run(spec);
  const Scratch scratch;
  const pid_t pid = fork();
  if (pid == 0) {
    std::ofstream out(scratch / "result");
    if (setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0) _exit(1);
    prctl(PR_SET_DUMPABLE, 1);  // as after exec: /proc/self is this user's
    const auto result = RunInSandbox(spec);
    if (result) {
      out << result->exit_code << ' ' << result->output << std::flush;
    } else {
      out << "-1 " << result.error().Text() << std::flush;
    }
    _exit(0);
  }
  int status = 1;
  waitpid(pid, &status, 0);
  REQUIRE(status == 0);
  const std::string text = ReadFile(scratch / "result").value();
  return {std::stoi(text), text.substr(text.find(' ') + 1)};
}

unsigned OrdinaryUser() { return geteuid() == 0 ? 65534 : geteuid(); }

}  // namespace

TEST_CASE("a sandbox passes the exit code on and captures the output") {
  if (!NamespacesAllowed()) return;
  const auto result = Run(Script("echo out; echo err >&2; cat /etc/motd; exit 7"));
  CHECK(result.exit_code == 7);
  CHECK(result.output == "out\nerr\nlower\n");
  CHECK(Run(Script("kill -9 $$")).exit_code == 137);
}

TEST_CASE("what a sandbox's command says is heard while it runs") {
  if (!NamespacesAllowed()) return;
  const Scratch shared;
  REQUIRE(chmod(shared.path().c_str(), 0755) == 0);
  SandboxSpec spec = Script(
      "echo first; i=0; until test -e /shared/heard; do sleep 0.01; i=$((i+1)); "
      "test $i = 1000 && exit 3; done; echo second");
  spec.mounts = {{shared.path(), "/shared", true}};
  std::string heard;
  spec.heard = [&](std::string_view text) {
    heard += text;
    if (heard == "first\n") REQUIRE(WriteFileAtomic(shared / "heard", ""));
  };
  const auto result = Run(spec);
  CHECK(result.exit_code == 0);
  CHECK(result.output == "first\nsecond\n");
  CHECK(heard == result.output);
}

TEST_CASE("a sandbox's upper layer is thrown away") {
  if (!NamespacesAllowed()) return;
  const auto result = Run(Script("echo new > /new; echo upper > /etc/motd; cat /new /etc/motd"));
  CHECK(result.output == "new\nupper\n");
  CHECK(result.exit_code == 0);
  CHECK(!fs::exists(SharedTree().path() / "new"));
  CHECK(ReadFile(SharedTree().path() / "etc/motd").value() == "lower\n");
  const auto again = Run(Script("cat /etc/motd; test -e /new"));
  CHECK(again.output == "lower\n");
  CHECK(again.exit_code == 1);
}

TEST_CASE("higher layers of a sandbox hide lower ones") {
  if (!NamespacesAllowed()) return;
  const Scratch higher;
  REQUIRE(chmod(higher.path().c_str(), 0755) == 0);
  REQUIRE(WriteFileAtomic(higher / "etc/motd", "higher\n"));
  SandboxSpec spec = Script("cat /etc/motd");
  spec.lower.push_back(higher.path());
  CHECK(Run(spec).output == "higher\n");
}

TEST_CASE("a sandbox has its own environment, directory, input, host name and devices") {
  if (!NamespacesAllowed()) return;
  REQUIRE(setenv("ENVKIT_TEST_OURS", "1", 1) == 0);
  SandboxSpec spec = Script(
      "echo $ENVKIT_TEST_NEW-$ENVKIT_TEST_OURS; pwd; cat; umask; cat /proc/sys/kernel/hostname; "
      "echo x > /dev/null && echo $(ls /dev); id -u");
  spec.env = {{"ENVKIT_TEST_NEW", "new"}};
  spec.workdir = "/etc";
  CHECK(Run(spec).output ==
        "new-\n/etc\n0022\nsandbox\nfd full null random shm stderr stdin stdout urandom zero\n0\n");
  unsetenv("ENVKIT_TEST_OURS");
}

TEST_CASE("a sandbox's command is no more than a container's root") {
  if (!NamespacesAllowed()) return;
  const auto status = Run(Script("cat /proc/self/status")).output;
  CAPTURE(status);
  CHECK(status.find("CapBnd:\t00000000200404fb\n") != std::string::npos);
  CHECK(status.find("CapEff:\t00000000200404fb\n") != std::string::npos);
  CHECK(status.find("NoNewPrivs:\t1\n") != std::string::npos);
}

TEST_CASE("a sandbox has no network") {
  if (!NamespacesAllowed()) return;
  const auto network = Run(Script("ls -l /proc/self/ns/net")).output;
  CHECK(network.find("net:[") != std::string::npos);
  CHECK(network.find(fs::read_symlink("/proc/self/ns/net").string()) == std::string::npos);
  const auto routes = Run(Script("cat /proc/net/route")).output;  // a heading at most
  CHECK((routes.empty() || routes.find('\n') == routes.size() - 1));
}

TEST_CASE("what a sandbox writes into a mount belongs to the invoking user") {
  for (const unsigned user : {unsigned(geteuid()), OrdinaryUser()}) {
    CAPTURE(user);
    if (!NamespacesAllowed(user == 0)) continue;
    const Scratch scratch;
    REQUIRE(chmod(scratch.path().c_str(), 0755) == 0);
    REQUIRE(WriteFileAtomic(scratch / "in/file", "input\n"));
    fs::create_directory(scratch / "out");
    if (user != geteuid()) REQUIRE(chown((scratch / "out").c_str(), user, user) == 0);
    SandboxSpec spec = Script(
        "id -u; cat /made/deep/in/file /one; echo made > /out/file; echo more > /made/deep/in/x");
    spec.mounts = {{scratch / "in", "/made/deep/in", true},
                   {scratch / "in/file", "/one", false},
                   {scratch / "out", "/out", false}};
    const auto result = RunAs(user, spec);
    CAPTURE(result.output);
    CHECK(result.output.substr(0, 14) == "0\ninput\ninput\n");
    CHECK(result.output.find("Read-only file system") != std::string::npos);
    CHECK(result.exit_code == 2);
    CHECK(ReadFile(scratch / "out/file").value() == "made\n");
    struct stat info {};
    REQUIRE(stat((scratch / "out/file").c_str(), &info) == 0);
    CHECK(info.st_uid == user);
    CHECK((info.st_mode & 0777) == 0644);
    CHECK(!fs::exists(scratch / "in/x"));
    CHECK(!fs::exists(SharedTree().path() / "made"));
  }
}

TEST_CASE("a layer's symlink does not lead a mount out of the sandbox") {
  if (!NamespacesAllowed()) return;
  const Scratch outside, layer, input;
  for (const Scratch* scratch : {&outside, &layer, &input})
    REQUIRE(chmod(scratch->path().c_str(), 0755) == 0);
  fs::create_symlink(outside.path(), layer / "link");
  REQUIRE(WriteFileAtomic(input / "file", "input\n"));
  SandboxSpec spec = Script("cat " + outside.path().string() + "/inner/file");
  spec.lower.push_back(layer.path());
  fs::create_directories(layer.path() / outside.path().relative_path());
  spec.mounts = {{input.path(), "/link/inner", true}};
  CHECK(Run(spec).output == "input\n");
  CHECK(fs::is_empty(outside.path()));
}

TEST_CASE("errors of sandboxes") {
  if (!NamespacesAllowed()) return;
  const auto error = [](const SandboxSpec& spec) {
    const auto result = RunInSandbox(spec);
    REQUIRE(!result);
    return result.error().Text();
  };
  SandboxSpec spec = Script("true");
  spec.argv.clear();
  CHECK(error(spec) == "error: the sandbox was given no command\n");
  spec = Script("true");
  spec.mounts = {{"/nonexistent/host", "/x", false}};
  CHECK(error(spec) ==
        "error: running sh in a sandbox: /nonexistent/host: No such file or directory\n");
  spec.lower = {"/nonexistent/layer"};
  CHECK(error(spec) ==
        "error: running sh in a sandbox: the layer /nonexistent/layer: No such file or "
        "directory\n  Run: envkit build\n");
  spec = Script("true");
  spec.argv = {"envkit-no-such"};
  auto result = Run(spec);
  CHECK(result.exit_code == 127);
  CHECK(result.output == "envkit-no-such: No such file or directory\n");
  spec = Script("true");
  spec.workdir = "/no/such";
  result = Run(spec);
  CHECK(result.exit_code == 127);
  CHECK(result.output == "entering /no/such: No such file or directory\n");
}

}  // namespace envkit

#include "engine/running.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fstream>

#include "base/files.h"
#include "base/scratch.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

void Write(const fs::path& file, const std::string& text) { REQUIRE(WriteFileAtomic(file, text)); }

// A process of a captured /proc.
void AddProcess(const fs::path& proc, long pid, long parent, const std::string& mounts) {
  const fs::path process = proc / std::to_string(pid);
  Write(process / "status", "Name:\tx\nPPid:\t" + std::to_string(parent) + "\n");
  REQUIRE(MakeDirectories(process / "ns"));
  fs::create_symlink("mnt:[" + mounts + "]", process / "ns/mnt");
}

constexpr const char* kInspected = R"([{
  "Name": "/envkit-train-x1", "Image": "sha256:3f9a", "State": {"Pid": 0},
  "Config": {"Env": ["A=b", "ENVKIT_JOB=train"]},
  "Mounts": [{"Destination": "/workspace"}, {"Destination": "/data/mnist"}],
  "HostConfig": {"Tmpfs": {"/home/envkit": "exec,mode=0777"}}}])";

}  // namespace

TEST_CASE("what an upper directory changes; mounts and temporary files are no changes") {
  const Scratch scratch;
  const fs::path lower = scratch / "lower", upper = scratch / "upper";
  Write(lower / "usr/bin/tool", "tool");
  Write(lower / "usr/bin/other", "other");
  Write(upper / "usr/bin/tool", "evil");
  Write(upper / "usr/bin/new", "new");
  Write(upper / "tmp/file", "x");
  Write(upper / "run/file", "x");
  Write(upper / "home/envkit/.cache/x", "x");
  Write(upper / "tmpfile", "x");
  REQUIRE(MakeDirectories(upper / "opt/empty"));
  std::vector<std::string> expected = {"added /tmpfile", "added /usr/bin/new",
                                       "changed /usr/bin/tool"};
  if (geteuid() == 0) {  // else the kernel makes them another way
    REQUIRE(mknod((upper / "usr/bin/other").c_str(), S_IFCHR, makedev(0, 0)) == 0);
    expected.emplace_back("removed /usr/bin/other");
  }
  CHECK(UpperChanges(upper, {lower}, {"/home/envkit"}) == expected);
  CHECK(UpperChanges(scratch / "nothing", {lower}, {}).empty());
}

TEST_CASE("containers of the oci engine are found by the scratch directory of their namespaces") {
  const Scratch scratch;
  const fs::path proc = scratch / "proc";
  AddProcess(proc, 1, 0, "1");
  AddProcess(proc, 100, 1, "1");    // envkit
  AddProcess(proc, 101, 100, "2");  // its keeper and init
  AddProcess(proc, 102, 101, "2");
  AddProcess(proc, 103, 102, "2");  // the runtime
  AddProcess(proc, 104, 103, "3");  // the container
  AddProcess(proc, 105, 104, "3");
  AddProcess(proc, 200, 1, "4");  // somebody else's
  for (const char* pid : {"101", "102", "103"}) {
    const fs::path place = proc / pid / "root/sys/fs/cgroup";
    Write(place / "config.json",
          R"({"ociVersion": "1.0.2", "process": {"env": ["ENVKIT_JOB=train"]},
              "mounts": [{"destination": "/workspace"}]})");
    Write(place / "upper/usr/bin/new", "x");
    Write(place / "upper/workspace/file", "x");
    fs::create_symlink("/store/layers/a/fs", place / "0");
    fs::create_symlink("/store/layers/b/fs", place / "1");
  }
  const auto found = FindOciContainers(proc);
  REQUIRE(found.size() == 1);
  CHECK(found[0].name == "train-104");
  CHECK(found[0].pids == std::vector<long>{104, 105});
  CHECK(found[0].layer_trees == std::vector<fs::path>{"/store/layers/a/fs", "/store/layers/b/fs"});
  CHECK(found[0].changes == std::vector<std::string>{"added /usr/bin/new"});
}

TEST_CASE("docker's diff without mounts, their parents and temporary files") {
  const auto clean = DockerContainer(
      kInspected,
      "A /workspace\nC /data\nA /data/mnist\nC /home\nC /etc\nC /tmp\nA /tmp/x\nC /run\n");
  REQUIRE(clean);
  // A changed directory alone is one of docker's own traces only where something in it is listed.
  CHECK(clean->changes == std::vector<std::string>{});
  CHECK(clean->name == "envkit-train-x1");
  CHECK(clean->job == "train");
  CHECK(clean->config_digest == "3f9a");
  const auto changed = DockerContainer(
      kInspected, "C /usr\nC /usr/lib\nC /usr/lib/x.so\nA /usr/lib/new\nD /usr/bin/awk\n");
  CHECK(changed->changes == std::vector<std::string>{"added /usr/lib/new", "changed /usr/lib/x.so",
                                                     "removed /usr/bin/awk"});
  CHECK(DockerContainer("nonsense", "").error().Text() ==
        "error: docker inspect: unreadable words\n");
}

TEST_CASE("executable mappings, each once, and those whose file is gone") {
  const Scratch scratch;
  const fs::path process = scratch / "7";
  Write(process / "maps",
        "55d0-55d1 r--p 00000000 fe:00 1 /usr/bin/x\n"
        "55d1-55d2 r-xp 00000000 fe:00 1                          /usr/bin/x\n"
        "55d2-55d3 r-xp 00001000 fe:00 1                          /usr/bin/x\n"
        "7f00-7f01 r-xp 00000000 fe:00 2                          /usr/lib/a b.so (deleted)\n"
        "7f01-7f02 r-xp 00000000 00:00 0                          [vdso]\n"
        "7f02-7f03 r--p 00000000 fe:00 3                          /data\n");
  const auto files = MappedFiles(7, scratch.path());
  REQUIRE(files.size() == 2);
  CHECK(files[0].path == "/usr/bin/x");
  CHECK(files[0].file == process / "root/usr/bin/x");
  CHECK(files[1].path == "/usr/lib/a b.so");
  CHECK(files[1].deleted);
}

}  // namespace envkit

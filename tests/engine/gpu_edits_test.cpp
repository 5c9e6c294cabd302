#include "engine/gpu_edits.h"

#include <doctest/doctest.h>

#include "base/scratch.h"

namespace envkit {
namespace {

constexpr const char* kFile = "/etc/cdi/nvidia.json";

constexpr const char* kSpecification = R"({
  "cdiVersion": "0.5.0",
  "kind": "nvidia.com/gpu",
  "devices": [
    {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
    {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia1"},
                                                     {"path": "/dev/nvidia-caps/nvidia-cap1"}],
                                     "env": ["ONE=1"]}},
    {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia1"},
                                                       {"path": "/dev/nvidia0"}]}}
  ],
  "containerEdits": {
    "env": ["NVIDIA_VISIBLE_DEVICES=void", "EQUAL=a=b", "NOTHING"],
    "deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/nvidia-uvm"}],
    "mounts": [{"hostPath": "/usr/lib/libcuda.so.550", "containerPath": "/usr/lib/libcuda.so.550",
                "options": ["ro", "nosuid", "nodev", "bind"]}],
    "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook",
               "args": ["nvidia-cdi-hook", "update-ldcache"]},
              {"hookName": "prestart", "path": "/bin/x", "env": ["A=1"]}]
  }
})";

constexpr const char* kLdconfig =
    "4 libs found in cache `/etc/ld.so.cache'\n"
    "\tlibnvidia-ml.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1\n"
    "\tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1\n"
    "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1\n"
    "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/second/libcuda.so.1\n"
    "\tlibnvidia-gpucomp.so.550.1 (libc6,x86-64) => /usr/lib/libnvidia-gpucomp.so.550.1\n"
    "\tlibGLX_nvidia.so.0 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libGLX_nvidia.so.0\n"
    "\tlibc.so.6 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libc.so.6";

std::vector<std::string> Mounts(const GpuEdits& edits) {
  std::vector<std::string> texts;
  for (const Mount& mount : edits.mounts)
    texts.push_back(mount.host.string() + " " + mount.container +
                    (mount.read_only ? " ro" : " rw"));
  return texts;
}

// A machine's files, empty ones.
struct Machine {
  explicit Machine(const std::vector<std::string>& files) {
    for (const std::string& file : files) REQUIRE(WriteFileAtomic(root / file, ""));
  }
  Scratch root;
};

std::vector<std::string> OneGpu() {
  return {"dev/nvidia0",        "dev/nvidiactl", "dev/nvidia-uvm",      "dev/nvidia-uvm-tools",
          "dev/nvidia-modeset", "dev/null",      "dev/nvidia-nvswitch0"};
}

}  // namespace

TEST_CASE("a CDI specification's device, with the edits for all devices") {
  const auto edits = CdiEdits(kSpecification, kFile, {"1"});
  REQUIRE(edits);
  CHECK(edits->source == kFile);
  CHECK(edits->devices == std::vector<std::string>{"/dev/nvidia-caps/nvidia-cap1",
                                                   "/dev/nvidia-uvm", "/dev/nvidia1",
                                                   "/dev/nvidiactl"});
  CHECK(edits->env == std::map<std::string, std::string>{
                          {"EQUAL", "a=b"}, {"NVIDIA_VISIBLE_DEVICES", "void"}, {"ONE", "1"}});
  CHECK(Mounts(*edits) ==
        std::vector<std::string>{"/usr/lib/libcuda.so.550 /usr/lib/libcuda.so.550 ro"});
  REQUIRE(edits->hooks.size() == 2);
  CHECK(edits->hooks[0].name == "createContainer");
  CHECK(edits->hooks[0].path == "/usr/bin/nvidia-cdi-hook");
  CHECK(edits->hooks[0].args == std::vector<std::string>{"nvidia-cdi-hook", "update-ldcache"});
  CHECK(edits->hooks[0].env.empty());
  CHECK(edits->hooks[1].name == "prestart");
  CHECK(edits->hooks[1].args.empty());
  CHECK(edits->hooks[1].env == std::vector<std::string>{"A=1"});
}

TEST_CASE("no CDI device named means the device called all; several are joined, nodes once") {
  const std::vector<std::string> both{"/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1",
                                      "/dev/nvidiactl"};
  CHECK(CdiEdits(kSpecification, kFile, {}).value().devices == both);
  CHECK(CdiEdits(kSpecification, kFile, {"nvidia.com/gpu=0"}).value().devices ==
        CdiEdits(kSpecification, kFile, {"0"}).value().devices);
  const auto twice = CdiEdits(kSpecification, kFile, {"0", "all"}).value();
  CHECK(twice.devices == both);
  CHECK(twice.mounts.size() == 1);
}

TEST_CASE("errors of CDI specifications") {
  const auto error = [](std::string_view text, const std::vector<std::string>& devices) {
    const auto edits = CdiEdits(text, kFile, devices);
    REQUIRE(!edits);
    CHECK(edits.error().code == ExitCode::kMissing);
    return edits.error().Text();
  };
  const std::string again =
      "  Make it anew: sudo nvidia-ctk cdi generate --format=json "
      "--output=/etc/cdi/nvidia.json\n";
  CHECK(error(kSpecification, {"0", "7"}) ==
        "error: /etc/cdi/nvidia.json has no device \"7\" (it has 0, 1, all)\n" + again);
  CHECK(error(R"({"kind": "amd.com/gpu", "devices": []})", {}) ==
        "error: /etc/cdi/nvidia.json is not for NVIDIA GPUs\n");
  const std::string invalid =
      "error: /etc/cdi/nvidia.json is not a valid CDI specification: [json.exception.";
  CHECK(error("{\"kind\": \"nvidia.com/gpu\",", {}) ==
        invalid +
            "parse_error.101] parse error at line 1, column 27: syntax error while parsing object "
            "key - unexpected end of input; expected string literal\n" +
            again);
  CHECK(error(R"({"kind": "nvidia.com/gpu"})", {}) ==
        invalid + "out_of_range.403] key 'devices' not found\n" + again);
  CHECK(error(R"({"kind": "nvidia.com/gpu", "devices": [{"name": "all",
                  "containerEdits": {"deviceNodes": [{}]}}]})",
              {}) == invalid + "out_of_range.403] key 'path' not found\n" + again);
  CHECK(error("[]", {}).substr(0, invalid.size()) == invalid);
}

TEST_CASE("the host's CDI specification is used where it is JSON for NVIDIA GPUs") {
  Machine machine(OneGpu());
  REQUIRE(WriteFileAtomic(machine.root / "etc/cdi/a.json", R"({"kind": "amd.com/gpu"})"));
  REQUIRE(WriteFileAtomic(machine.root / "etc/cdi/b.yaml", "kind: \"nvidia.com/gpu\"\n"));
  REQUIRE(WriteFileAtomic(machine.root / "var/run/cdi/nvidia.json", kSpecification));
  auto edits = FindGpuEdits(machine.root.path(), {"1"}, kLdconfig);
  REQUIRE(edits);
  CHECK(edits->source == "/var/run/cdi/nvidia.json");
  CHECK(edits->devices.size() == 4);
  // The administrator's before what a service made.
  REQUIRE(WriteFileAtomic(machine.root / "etc/cdi/z.json", kSpecification));
  edits = FindGpuEdits(machine.root.path(), {"1"}, kLdconfig);
  REQUIRE(edits);
  CHECK(edits->source == "/etc/cdi/z.json");
  CHECK(FindGpuEdits(machine.root.path(), {"3"}, kLdconfig).error().what ==
        "/etc/cdi/z.json has no device \"3\" (it has 0, 1, all)");
}

TEST_CASE("without CDI the driver's nodes and 64-bit libraries are found") {
  auto files = OneGpu();
  files.insert(files.end(), {"usr/bin/nvidia-smi", "dev/nvidia-caps/nvidia-cap2", "dev/nvidia3"});
  const Machine machine(files);
  const auto edits = FindGpuEdits(machine.root.path(), {}, kLdconfig);
  REQUIRE(edits);
  CHECK(edits->source == "driver files of this host");
  CHECK(edits->devices == std::vector<std::string>{"/dev/nvidia-caps/nvidia-cap2",
                                                   "/dev/nvidia-modeset", "/dev/nvidia-uvm",
                                                   "/dev/nvidia-uvm-tools", "/dev/nvidia0",
                                                   "/dev/nvidia3", "/dev/nvidiactl"});
  CHECK(Mounts(*edits) ==
        std::vector<std::string>{
            "/usr/lib/x86_64-linux-gnu/libcuda.so.1 /opt/envkit/driver/libcuda.so.1 ro",
            "/usr/lib/libnvidia-gpucomp.so.550.1 /opt/envkit/driver/libnvidia-gpucomp.so.550.1 ro",
            "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1 /opt/envkit/driver/libnvidia-ml.so.1 ro",
            "/usr/bin/nvidia-smi /usr/bin/nvidia-smi ro"});
  CHECK(edits->env ==
        std::map<std::string, std::string>{{"LD_LIBRARY_PATH", "/opt/envkit/driver"}});
  CHECK(edits->hooks.empty());

  CHECK(FindGpuEdits(machine.root.path(), {"nvidia.com/gpu=0"}, kLdconfig).value().devices.size() ==
        6);
  const auto one = FindGpuEdits(machine.root.path(), {"3"}, kLdconfig);
  REQUIRE(one);
  CHECK(one->devices == std::vector<std::string>{"/dev/nvidia-caps/nvidia-cap2",
                                                 "/dev/nvidia-modeset", "/dev/nvidia-uvm",
                                                 "/dev/nvidia-uvm-tools", "/dev/nvidia3",
                                                 "/dev/nvidiactl"});
}

TEST_CASE("a driver that the linker's cache does not name: WSL") {
  const Machine machine({"dev/dxg", "usr/lib/wsl/lib/libcuda.so.1", "usr/lib/wsl/lib/libd3d12.so"});
  const auto edits = FindGpuEdits(machine.root.path(), {"0"}, "");
  REQUIRE(edits);
  CHECK(edits->devices == std::vector<std::string>{"/dev/dxg"});
  CHECK(Mounts(*edits) == std::vector<std::string>{
                              "/usr/lib/wsl/lib/libcuda.so.1 /opt/envkit/driver/libcuda.so.1 ro"});
}

TEST_CASE("errors of finding a GPU") {
  const std::string no_node =
      "error: no GPU's device node is in /dev\n"
      "  See: envkit doctor\n";
  const auto error = [](const Machine& machine, const std::vector<std::string>& devices,
                        std::string_view ldconfig) {
    const auto edits = FindGpuEdits(machine.root.path(), devices, ldconfig);
    REQUIRE(!edits);
    CHECK(edits.error().code == ExitCode::kMissing);
    return edits.error().Text();
  };
  CHECK(error(Machine({"dev/null"}), {}, kLdconfig) == no_node);
  CHECK(error(Machine({"dev/nvidiactl", "dev/nvidia-uvm"}), {}, kLdconfig) == no_node);
  CHECK(error(Machine(OneGpu()), {"0", "4"}, kLdconfig) ==
        "error: the GPU \"4\" has no device node /dev/nvidia4\n"
        "  Without a CDI specification GPUs go by their number; see: envkit doctor\n");
  CHECK(error(Machine(OneGpu()), {"GPU-8f3a"}, kLdconfig).substr(0, 27) ==
        "error: the GPU \"GPU-8f3a\" h");
  CHECK(error(Machine({"dev/nvidiactl"}), {"0"}, kLdconfig) == no_node);
  // A 32-bit driver only is none.
  CHECK(error(Machine(OneGpu()), {}, "\tlibcuda.so.1 (libc6) => /usr/lib/i386/libcuda.so.1\n") ==
        "error: the NVIDIA driver's libcuda.so.1 was not found on this host\n"
        "  Install the driver's user-space libraries (Debian: sudo apt-get install libcuda1 "
        "nvidia-smi), or see: envkit doctor\n");
}

}  // namespace envkit

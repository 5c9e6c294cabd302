#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdint>

#include "doctor/probes/probes.h"
#include "doctor/tree.h"
#include "doctor/versions.h"

using namespace envkit::doctor;

TEST_CASE("Xids of dmesg's and of kmsg's form; nothing else is one") {
  const auto events = ParseKernelLog(
      "[  812.5] NVRM: Xid (PCI:0000:65:00): 79, pid=1, GPU has fallen off the bus.\n"
      "6,339,5140900,-;NVRM: Xid (PCI:0000:17:00): 31, pid=4121, name=python3\n"
      "NVRM: Xid (PCI:0000:17:00): , no number\n"
      "NVRM: Xid (PCI:0000:17:00\n"
      "NVRM: Xid (PCI:): 99999999999, too large\n"
      "NVRM: API mismatch: the client has the version 580.95.05\n"
      "Out of memory: Killed process 77 (python3)\x01\n");
  REQUIRE(events.size() == 4);
  CHECK(events[0].code == 79);
  CHECK(events[0].gpu == "0000:65:00");
  CHECK(events[1].code == 31);
  CHECK(events[1].text == "NVRM: Xid (PCI:0000:17:00): 31, pid=4121, name=python3");
  CHECK(events[2].kind == "mismatch");
  CHECK(events[3].kind == "oom");
  CHECK(events[3].text.find('\x01') == std::string::npos);
}

TEST_CASE("CDI as JSON and as YAML, with the files that it names") {
  const std::string yaml =
      "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n"
      "    deviceNodes:\n    - path: /dev/nvidia0\n    mounts:\n    - hostPath: /lib/a\n"
      "      containerPath: /lib/a\n    hooks:\n    - hookName: createContainer\n      path: "
      "/usr/bin/x\n";
  const CdiSpec spec = ParseCdi(yaml, "/etc/cdi/nvidia.yaml");
  CHECK(spec.error == "");
  CHECK(spec.version == "0.5.0");
  CHECK(spec.devices == std::vector<std::string>{"0"});
  CHECK(CdiHostPaths(yaml, "n.yaml") ==
        std::vector<std::string>{"/dev/nvidia0", "/lib/a", "/usr/bin/x"});
  CHECK(ParseCdi(R"({"cdiVersion": "0.6.0", "kind": "a/b", "devices": 3})", "x.json").error == "");
  CHECK(ParseCdi("{", "x.json").error == "it is no valid JSON (at line 1, column 2)");
  CHECK(ParseCdi("a: [b", "x.yaml").error != "");
  CHECK(ParseCdi("", "x.yaml").error == "it names no kind");
}

TEST_CASE("YAML that wants to be too large or too deep is refused, not followed") {
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'j'; ++c)
    bomb += std::string(1, c) + ": &" + c + " [" + [&] {
      std::string list;
      for (int i = 0; i < 9; ++i)
        list += std::string(i > 0 ? "," : "") + "*" + static_cast<char>(c - 1);
      return list;
    }() + "]\n";
  CHECK(ParseCdi(bomb, "x.yaml").error != "");
  CHECK(ParseCdi(std::string(100000, '['), "x.yaml").error ==
        "too many brackets for a specification");
  std::string deep;
  for (int i = 0; i < 2000; ++i) deep += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  CHECK(ParseCdi(deep, "x.yaml").error != "");
}

TEST_CASE("docker's own words") {
  Docker docker;
  ParseDockerInfo(R"({"ServerVersion": "29.0.1", "Runtimes": {"runc": {}}, "DiscoveredDevices":
                      [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}, 7]})",
                  docker);
  CHECK(*docker.server == "29.0.1");
  CHECK(docker.runtimes == std::vector<std::string>{"runc"});
  CHECK(docker.cdi_devices == std::vector<std::string>{"nvidia.com/gpu=0"});
  Docker broken;
  ParseDockerInfo("{\"message\": \"not today\"}", broken);
  CHECK(broken.server.unknown == "not today");
  ParseDockerConfig("{\"features\": {\"cdi\": \"yes\"}}", broken);
  CHECK_FALSE(broken.cdi_enabled);
  ParseDockerConfig("{,", broken);
  CHECK(broken.config_error == "/etc/docker/daemon.json is no JSON object");
}

TEST_CASE("the linker's cache, whole and cut anywhere") {
  std::string cache = "glibc-ld.so.cache1.1";
  const auto word = [&](std::uint32_t value) { cache.append(reinterpret_cast<char*>(&value), 4); };
  word(1);
  word(0);
  cache.resize(48);
  const std::string names("libcuda.so.1\0/usr/lib/libcuda.so.1\0", 35);
  word(0x0303);
  word(72);
  word(72 + 13);
  word(0);
  word(0);
  word(0);
  cache += names;
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  CHECK(ParseLinkerCache(cache) == Pairs{{"libcuda.so.1", "/usr/lib/libcuda.so.1"}});
  for (std::size_t size = 0; size < cache.size(); ++size)
    CHECK(ParseLinkerCache(cache.substr(0, size)).size() <= 1);
}

TEST_CASE("versions by their numbers") {
  CHECK(CompareNumbers("570.86.15", "570.124") < 0);
  CHECK(CompareNumbers("580.95", "580.95.0") == 0);
  CHECK(CompareNumbers("2.10.0", "2.9.1") > 0);
  CHECK(Leading("2.11.0+cu130", 2) == "2.11");
  CHECK(FirstVersion("runc version 1.1.5+ds1") == "1.1.5");
  CHECK(FirstVersion("x86_64 v2.3, then") == "2.3");
  CHECK(FirstVersion("nothing 12 here") == "");
}

TEST_CASE("what a GPU is, by its PCI id alone") {
  const envkit::Matrix& matrix = *envkit::OwnMatrix();
  CHECK(GenerationOfPciId(matrix, "0x2342")->name == "Grace Hopper");
  CHECK(GenerationOfPciId(matrix, "0x2342")->kernel_module == "open");
  CHECK(GenerationOfPciId(matrix, "0x2330")->name == "Hopper");
  CHECK(GenerationOfPciId(matrix, "0x2330")->kernel_module == "either");
  CHECK(GenerationOfPciId(matrix, "0x102d")->last_branch == 470);
  CHECK_FALSE(GenerationOfPciId(matrix, "0x0001"));
  CHECK_FALSE(GenerationOfPciId(matrix, "odd"));
  // Each range names a generation of the matrix.
  for (unsigned id = 0x0fc0; id < 0x3300; ++id)
    if (const auto one = GenerationOfPciId(matrix, fmt::format("{:#x}", id)))
      CHECK(!one->name.empty());
}

#include <doctest/doctest.h>

#include "base/process.h"
#include "engine/engine.h"

namespace envkit {
namespace {

constexpr const char* kDigest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

RunPlan Plan() {
  RunPlan plan;
  plan.job = "train";
  plan.engine = "docker";
  plan.image = {"mnist:train-cpu", kDigest, {"/store/a", "/store/b"}};
  plan.argv = {"envkit-launch", "--nproc", "2", "python", "-m", "train", "two words"};
  plan.env = {{"HOME", "/home/user"}, {"OMP_NUM_THREADS", "2"}};
  plan.mounts = {{"/data/sets", "/data", true}, {"/home/ann/project", "/workspace", false}};
  plan.scratch = {"/home/user"};
  plan.uid = 1000;
  plan.gid = 100;
  plan.hostname = "mnist";
  plan.shm_bytes = 8ull << 30;
  return plan;
}

// The options between "docker run --rm -i" and the network.
std::string GpuOptions(const RunPlan& plan) {
  const std::string line = ShellQuote(DockerArgv(plan));
  const std::string start = "docker run --rm -i ";
  REQUIRE(line.substr(0, start.size()) == start);
  const auto end = line.find("--network=host");
  REQUIRE(end != std::string::npos);
  return line.substr(start.size(), end - start.size());
}

bool Contains(const RunPlan& plan, const std::string& words) {
  return (ShellQuote(DockerArgv(plan)) + " ").find(" " + words + " ") != std::string::npos;
}

}  // namespace

TEST_CASE("docker's command line of a plan without a GPU") {
  CHECK(ShellQuote(DockerArgv(Plan())) ==
        "docker run --rm -i --network=host --hostname mnist --add-host mnist:127.0.1.1 "
        "--ipc=private --shm-size=8g --ulimit memlock=-1 --security-opt no-new-privileges "
        "--user 1000:100 --cap-drop=ALL -v /data/sets:/data:ro -v /home/ann/project:/workspace "
        "--tmpfs /home/user:exec,mode=0777 -w /workspace -e HOME=/home/user -e OMP_NUM_THREADS=2 "
        "--entrypoint '' sha256:" +
            std::string(kDigest) + " envkit-launch --nproc 2 python -m train 'two words'");
}

TEST_CASE("docker's command line of an almost empty plan") {
  RunPlan plan;
  plan.image.config_digest = kDigest;
  plan.argv = {"true"};
  plan.network = "private";
  CHECK(ShellQuote(DockerArgv(plan)) ==
        "docker run --rm -i --ipc=private --shm-size=0 --ulimit memlock=-1 "
        "--security-opt no-new-privileges --user 0:0 --cap-drop=ALL --cap-add=CHOWN "
        "--cap-add=DAC_OVERRIDE --cap-add=FOWNER --cap-add=FSETID --cap-add=KILL --cap-add=SETGID "
        "--cap-add=SETUID --cap-add=NET_BIND_SERVICE --cap-add=SYS_CHROOT --cap-add=AUDIT_WRITE "
        "-w /workspace --entrypoint '' sha256:" +
            std::string(kDigest) + " true");
}

TEST_CASE("docker's GPU options") {
  RunPlan plan = Plan();
  CHECK(GpuOptions(plan).empty());
  plan.gpu_devices = {"0"};  // without gpus: nothing
  CHECK(GpuOptions(plan).empty());
  plan.gpus = true;
  CHECK(DockerArgv(plan)[5] == "\"device=0\"");
  plan.gpu_devices = {"0", "2", "GPU-8f3a"};
  CHECK(GpuOptions(plan) == "--gpus '\"device=0,2,GPU-8f3a\"' ");
  plan.gpu_devices = {"nvidia.com/gpu=0", "nvidia.com/gpu=1"};
  CHECK(GpuOptions(plan) == "--device nvidia.com/gpu=0 --device nvidia.com/gpu=1 ");
  plan.gpu_devices.clear();
  CHECK(GpuOptions(plan) == "--gpus all ");
}

TEST_CASE("docker's sizes have the largest unit that is exact") {
  RunPlan plan = Plan();
  CHECK(!Contains(plan, "--memory"));
  for (const auto& [bytes, text] : {std::pair<std::uint64_t, std::string>{3ull << 30, "3g"},
                                    {(3ull << 30) + (512ull << 20), "3584m"},
                                    {(1ull << 20) + 1024, "1025k"},
                                    {(1ull << 20) + 1, "1048577"}}) {
    CAPTURE(text);
    plan.memory_bytes = bytes;
    plan.shm_bytes = bytes;
    CHECK(Contains(plan, "--memory " + text));
    CHECK(Contains(plan, "--shm-size=" + text));
  }
}

TEST_CASE("podman gets docker's words, and says what docker does unasked") {
  RunPlan plan = Plan();
  plan.engine = "podman";
  plan.unlimited_memlock = true;  // beyond what an ordinary user may ask for
  plan.gpus = true;
  const std::string same = "--pull=never --http-proxy=false --security-opt label=disable ";
  CHECK(ShellQuote(DockerArgv(plan))
            .starts_with("podman run --rm -i " + same +
                         "--userns=keep-id --device nvidia.com/gpu=all "));
  CHECK(!Contains(plan, "memlock=-1"));
  plan.gpu_devices = {"0", "nvidia.com/gpu=2"};
  CHECK(Contains(plan, "--device nvidia.com/gpu=0 --device nvidia.com/gpu=2"));
  plan.uid = plan.gid = 0;
  CHECK(ShellQuote(DockerArgv(plan)).starts_with("podman run --rm -i " + same + "--device "));
  CHECK(Contains(plan, "--ulimit memlock=-1"));
}

TEST_CASE("docker gets a terminal only where there is one") {
  RunPlan plan = Plan();
  CHECK(DockerArgv(plan)[3] == "-i");
  plan.terminal = true;
  CHECK(DockerArgv(plan)[3] == "-it");
}

TEST_CASE("docker's network and mounts") {
  RunPlan plan = Plan();
  CHECK(Contains(plan, "--network=host"));
  plan.network = "private";
  CHECK(!Contains(plan, "--network=host"));
  plan.mounts = {{"/a b", "/x", true}, {"/c", "/y", false}};
  CHECK(Contains(plan, "-v '/a b:/x:ro' -v /c:/y"));
  plan.hostname.clear();
  CHECK(!Contains(plan, "--add-host"));
  CHECK(!Contains(plan, "--hostname"));
}

}  // namespace envkit

#include "session/plan_run.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/files.h"
#include "base/scratch.h"
#include "session/show_plan.h"

using namespace envkit;

namespace {

// A project whose directory exists, since mounts are looked at.
struct World {
  Scratch scratch;
  Project project;
  RunSetting setting;
  HostFacts facts;

  explicit World(const std::string& more = "") {
    const std::string text =
        "schema = 1\n"
        "[project]\n"
        "name = \"mnist\"\n"
        "[jobs.train]\n"
        "command = [\"envkit-train\", \"--config\", \"train.toml\"]\n" +
        more;
    auto parsed = ParseProject(text, scratch.path() / "envkit.toml");
    REQUIRE_MESSAGE(parsed.has_value(), (parsed ? "" : parsed.error().Text()));
    project = *parsed;
    setting.engine = "oci";
    setting.variant = "cpu";
    setting.variant_why = "no GPU found";
    setting.image = {"mnist:train-cpu", std::string(64, 'a'), {"/store/layers/1/fs"}};
    setting.record = scratch.path() / ".envkit/runs/20261125T120000Z-train";
    setting.uid = setting.gid = 1000;
    setting.user = "ana";
    facts.cpus = 8;
    facts.hostname = "box";
    facts.memory_bytes = 64ull << 30;
  }
  void AddGpus(int count) {
    for (int i = 0; i < count; ++i) facts.device_nodes.push_back(i);
    setting.variant = "cuda";
  }
  Result<RunPlan> Plan(RunRequest request) { return PlanRun(project, request, setting, facts); }
};

RunRequest Train() {
  RunRequest request;
  request.job = "train";
  return request;
}

std::string Why(const RunPlan& plan, const std::string& setting) {
  for (const Reason& reason : plan.reasons)
    if (reason.setting == setting) return reason.why;
  return "no such reason";
}

}  // namespace

TEST_CASE("a job on a CPU: two ranks, the record seen from inside") {
  World world;
  const auto plan = world.Plan(Train());
  REQUIRE(plan);
  CHECK(plan->argv == std::vector<std::string>{"/opt/envkit/bin/envkit-launch", "--quiet",
                                               "--processes", "2", "--", "envkit-train", "--config",
                                               "train.toml"});
  CHECK(WorldSize(*plan) == 2);
  CHECK_FALSE(plan->gpus);
  CHECK(plan->workdir == "/workspace");
  CHECK(plan->env.at("ENVKIT_RUN_DIR") == "/workspace/.envkit/runs/20261125T120000Z-train");
  CHECK(plan->env.at("ENVKIT_JOB") == "train");
  CHECK(plan->env.at("USER") == "ana");
  CHECK(plan->uid == 1000);
  CHECK(plan->shm_bytes == 8ull << 30);
  CHECK(Why(*plan, "--shm-size 8 GiB") == "auto: 2 ranks × 4 GiB ([run] shm, default)");
  REQUIRE(plan->mounts.size() == 1);
  CHECK(plan->mounts[0].host == world.scratch.path());
  CHECK(plan->mounts[0].container == "/workspace");
}

TEST_CASE("one rank per GPU, or of those that were named") {
  World world;
  world.AddGpus(4);
  auto plan = world.Plan(Train());
  REQUIRE(plan);
  CHECK(plan->gpus);
  CHECK(plan->gpu_devices.empty());
  CHECK(WorldSize(*plan) == 4);
  CHECK(Why(*plan, "--processes 4") == "auto: one per GPU");

  RunRequest request = Train();
  request.gpus = "0,2";
  plan = world.Plan(request);
  REQUIRE(plan);
  CHECK(plan->gpu_devices == std::vector<std::string>{"0", "2"});
  CHECK(WorldSize(*plan) == 2);

  request.gpus = "1,7";
  plan = world.Plan(request);
  REQUIRE_FALSE(plan);
  CHECK(plan.error().code == ExitCode::kMissing);
  CHECK(plan.error().Text() ==
        "error: --gpus 1,7: this machine has no GPU 7\n  It has: 0, 1, 2, 3\n");
}

TEST_CASE("GPUs that are named are not left out silently") {
  World world;
  RunRequest request = Train();
  const auto said = [&](const std::string& gpus, const std::string& variant,
                        const std::vector<int>& there) {
    request.gpus = gpus;
    world.setting.variant = variant;
    world.setting.variant_why = "the lock has no other";
    world.facts.device_nodes = there;
    const auto checked = CheckNamedGpus(request, world.setting, world.facts);
    return checked ? "" : checked.error().Text();
  };
  for (const char* general : {"", "all", "none"}) CHECK(said(general, "cpu", {}).empty());
  CHECK(said("0,2", "cuda", {0, 1, 2}).empty());
  CHECK(said("GPU-1234", "cuda", {0}).empty());  // the driver knows
  for (const char* variant : {"cpu", "cuda"}) {
    CHECK(said("GPU-1234", variant, {}) ==
          "error: --gpus GPU-1234: this machine has no GPU\n"
          "  Leave --gpus out, or say --gpus none.\n");
  }
  CHECK(said("2", "cuda", {0, 1}) ==
        "error: --gpus 2: this machine has no GPU 2\n  It has: 0, 1\n");
  CHECK(said("0,,1", "cuda", {0, 1}) == "error: --gpus 0,,1: an empty entry\n");
  CHECK(said("0", "cpu", {0}) ==
        "error: --gpus 0: the cpu image has no CUDA (the lock has no other)\n"
        "  Leave --gpus out, or say --variant cuda.\n");
}

TEST_CASE("the image for GPUs on a machine that has none runs on the CPU") {
  World world;
  world.setting.variant = "cuda";
  const auto plan = world.Plan(Train());
  REQUIRE(plan);
  CHECK_FALSE(plan->gpus);
  CHECK(WorldSize(*plan) == 2);
}

TEST_CASE("the image's own variables are there, unless the project says otherwise") {
  World world("[run.env]\nOURS = \"project\"\n");
  world.setting.image.env = {
      {"CUDA_HOME", "/usr/local/cuda"}, {"OURS", "image"}, {"HOME", "/root"}};
  const auto plan = world.Plan(Train());
  REQUIRE(plan);
  CHECK(plan->env.at("CUDA_HOME") == "/usr/local/cuda");
  CHECK(plan->env.at("OURS") == "project");
  CHECK(plan->env.at("HOME") == "/home/envkit");
}

TEST_CASE("flags win over envkit.toml, which wins over defaults") {
  World world(
      "processes = 3\n[run]\nshm = \"2g\"\n[run.env]\nA = \"run\"\nB = \"run\"\n"
      "[jobs.train.env]\nB = \"job\"\n");
  auto plan = world.Plan(Train());
  REQUIRE(plan);
  CHECK(WorldSize(*plan) == 3);
  CHECK(plan->shm_bytes == 2ull << 30);
  CHECK(Why(*plan, "--shm-size 2g") == "envkit.toml:8");
  CHECK(plan->env.at("A") == "run");
  CHECK(plan->env.at("B") == "job");
  RunRequest request = Train();
  request.processes = "1";
  request.shm = "512m";
  request.memory = "1.5g";
  plan = world.Plan(request);
  REQUIRE(plan);
  CHECK(WorldSize(*plan) == 1);
  CHECK(Why(*plan, "--processes 1") == "--processes");
  CHECK(plan->shm_bytes == 512ull << 20);
  CHECK(plan->memory_bytes == 1536ull << 20);
}

TEST_CASE("shared memory is at most half of the machine's") {
  World world;
  world.facts.memory_bytes = 6ull << 30;
  const auto plan = world.Plan(Train());
  REQUIRE(plan);
  CHECK(plan->shm_bytes == 3ull << 30);
  CHECK(Why(*plan, "--shm-size 3 GiB") ==
        "auto: 2 ranks × 4 GiB, at most half of the memory (6 GiB) ([run] shm, default)");
}

TEST_CASE("a command has an init, no ranks, and the terminal where both ends are one") {
  World world;
  world.setting.record.clear();
  RunRequest request;
  request.arguments = {"nproc", "--all"};
  auto plan = world.Plan(request);
  REQUIRE(plan);
  CHECK(plan->argv == std::vector<std::string>{"/opt/envkit/bin/envkit-launch", "--init", "--",
                                               "nproc", "--all"});
  CHECK(WorldSize(*plan) == 1);
  CHECK_FALSE(plan->terminal);
  CHECK_FALSE(plan->env.contains("ENVKIT_RUN_DIR"));
  world.setting.input_tty = world.setting.output_tty = true;
  plan = world.Plan(request);
  REQUIRE(plan);
  CHECK(plan->terminal);
  CHECK(plan->env.contains("TERM"));
}

TEST_CASE("a program's own --processes does not count as ours") {
  World world;
  RunRequest request;
  request.arguments = {"program", "--processes", "9"};
  const auto plan = world.Plan(request);
  REQUIRE(plan);
  CHECK(WorldSize(*plan) == 1);
}

TEST_CASE("the record is mounted where the project's directory is not") {
  World world("[run]\nmounts = [\"data:/data\"]\n");
  REQUIRE(MakeDirectories(world.scratch.path() / "data"));
  const auto plan = world.Plan(Train());
  REQUIRE(plan);
  CHECK(plan->workdir == "/");
  CHECK(plan->env.at("ENVKIT_RUN_DIR") == "/envkit/runs/20261125T120000Z-train");
  CHECK(std::any_of(plan->mounts.begin(), plan->mounts.end(), [&](const Mount& mount) {
    return mount.container == "/envkit/runs" &&
           mount.host == world.scratch.path() / ".envkit/runs" && !mount.read_only;
  }));
}

TEST_CASE("locked memory is not raised where nobody may raise a limit") {
  World world;
  auto plan = world.Plan(Train());
  REQUIRE(plan);
  CHECK(PlanText(*plan).find("--ulimit memlock=-1") != std::string::npos);
  world.facts.may_raise_limits = false;
  plan = world.Plan(Train());
  REQUIRE(plan);
  const std::string text = PlanText(*plan);
  CHECK(text.find("  no --ulimit memlock=-1") != std::string::npos);
  CHECK(text.find("--ulimit memlock=-1") == text.rfind("--ulimit memlock=-1"));
}

TEST_CASE("a job leases its GPUs where all containers of the machine do") {
  World world;
  world.setting.locks = "/run/lock";
  CHECK(world.Plan(Train())->mounts.size() == 1);  // no GPU, no lease
  world.AddGpus(2);
  RunRequest request = Train();
  request.share = true;
  const auto plan = world.Plan(request);
  REQUIRE(plan);
  CHECK(plan->mounts.back().host == "/run/lock");
  CHECK(plan->mounts.back().container == "/run/envkit-locks");
  CHECK_FALSE(plan->mounts.back().read_only);
  CHECK(plan->env.at("ENVKIT_LOCK_DIR") == "/run/envkit-locks");
  CHECK(plan->argv[4] == "--share");
  CHECK(WorldSize(*plan) == 2);
}

TEST_CASE("data is mounted read-only") {
  World world("[data.mnist]\npath = \".\"\nmount = \"/data/mnist\"\n");
  world.setting.data["mnist"] = "/store/data/1";
  const auto plan = world.Plan(Train());
  REQUIRE(plan);
  REQUIRE(plan->mounts.size() == 2);
  CHECK(plan->mounts[1].host == "/store/data/1");
  CHECK(plan->mounts[1].container == "/data/mnist");
  CHECK(plan->mounts[1].read_only);
}

TEST_CASE("what makes no sense is said") {
  World world;
  const auto error = [&](auto&& change) {
    RunRequest request = Train();
    change(request);
    const auto plan = world.Plan(request);
    REQUIRE_FALSE(plan);
    CHECK(plan.error().code == ExitCode::kUsage);
    return plan.error().Text();
  };
  CHECK(error([](RunRequest& r) { r.job = "trian"; }) ==
        "error: envkit.toml has no job \"trian\"\n  did you mean train?\n"
        "  Jobs: train; in every project: jupyter, tensorboard, shell; any command: envkit run -- "
        "CMD…\n");
  CHECK(error([](RunRequest& r) { r.processes = "two"; }) ==
        "error: --processes: 'two' is neither a number of ranks nor auto\n");
  CHECK(error([](RunRequest& r) { r.processes = "0"; }) ==
        "error: --processes: '0' is neither a number of ranks nor auto\n");
  CHECK(error([](RunRequest& r) { r.shm = "much"; }) ==
        "error: --shm: 'much' is not a size\n  Say it as: --shm 16g\n");
  CHECK(error([](RunRequest& r) { r.memory = "0"; }) ==
        "error: --memory: '0' is not a size\n  Say it as: --memory 16g\n");

  World missing("[run]\nmounts = [\"nowhere:/data\"]\n");
  const auto plan = missing.Plan(Train());
  REQUIRE_FALSE(plan);
  CHECK(plan.error().Text() ==
        "error: [run] mounts: " + (missing.scratch.path() / "nowhere").string() +
            " does not exist\n  Make it, or correct envkit.toml:7\n");
}

TEST_CASE("sizes") {
  CHECK(ParseSize("16g") == 16ull << 30);
  CHECK(ParseSize("512M") == 512ull << 20);
  CHECK(ParseSize("1.5GiB") == 1536ull << 20);
  CHECK(ParseSize("2gb") == 2ull << 30);
  CHECK(ParseSize("65536") == 65536u);
  CHECK(ParseSize("7b") == 7u);
  for (const char* bad : {"", "g", "-1g", "1x", "1gg", "nan", "inf", "1e30", "1 g"})
    CHECK_FALSE(ParseSize(bad).has_value());
}

TEST_CASE("a dry run is the equal docker command, options beside their values") {
  World world;
  auto plan = world.Plan(Train());
  REQUIRE(plan);
  const std::string text = PlanText(*plan);
  CHECK(text.starts_with("docker run --rm"));
  CHECK(text.find("--user 1000:1000") != std::string::npos);
  CHECK(text.find("-v \\\n") == std::string::npos);
  CHECK(text.find("-e \\\n") == std::string::npos);
  CHECK(text.find("  --processes 2") != std::string::npos);
  const auto json = PlanToJson(*plan);
  CHECK(json["argv"] == plan->argv);
  CHECK(json["docker_argv"][0] == "docker");
  CHECK(json["memory_bytes"].is_null());
  const std::string explained = ExplainText(world.project, *plan);
  CHECK(explained.find("jobs.train.command") != std::string::npos);
  CHECK(explained.find("envkit.toml:5") != std::string::npos);
}

TEST_CASE("a built-in job sees its own directory, the user's name and the runs, and no token") {
  World world;
  world.setting.record.clear();
  RunRequest request;
  request.builtin = "jupyter";
  request.arguments = {"jupyter-lab"};
  request.session = "/state/job";
  auto plan = world.Plan(request);
  REQUIRE(plan.has_value());
  CHECK(plan->job == "jupyter");
  CHECK(plan->argv ==
        std::vector<std::string>{"/opt/envkit/bin/envkit-launch", "--init", "--", "jupyter-lab"});
  std::vector<std::string> mounts;
  for (const Mount& mount : plan->mounts) {
    mounts.push_back(mount.host.string() + ":" + mount.container + (mount.read_only ? ":ro" : ""));
  }
  const std::string root = world.project.root.string();
  CHECK(mounts == std::vector<std::string>{root + ":/workspace", "/state/job:/envkit/session",
                                           "/state/job/passwd:/etc/passwd:ro",
                                           "/state/job/group:/etc/group:ro",
                                           root + "/.envkit/runs:/envkit/runs:ro"});
  CHECK(plan->env["ENVKIT_JOB"] == "jupyter");
  CHECK(plan->scratch == std::vector<std::string>{"/home/envkit"});
  // A server has no use for the terminal; a shell has.
  world.setting.input_tty = world.setting.output_tty = true;
  CHECK_FALSE(world.Plan(request)->terminal);
  request.builtin = "shell";
  CHECK(world.Plan(request)->terminal);
  // A session keeps its home.
  request.builtin = "dev";
  request.home = "/state/home";
  plan = world.Plan(request);
  REQUIRE(plan.has_value());
  CHECK(plan->scratch.empty());
  CHECK(plan->mounts.back().host == "/state/home");
  CHECK(plan->mounts.back().container == "/home/envkit");
}
